"""Bad profiles: a clear error, nothing half-installed, the daemons alive."""

import plistlib
import subprocess

from world import EXAMPLE, eventually


def pkcs12(payloads):
    return payloads["com.apple.security.pkcs12"]


def test_a_wrong_password_is_named(world):
    world.start()
    world.refused(world.profile(lambda _, p: pkcs12(p).update(Password="wrong")), "password", "com.wayleave.example.pkcs12.identity")


def test_a_dangling_certificate_reference_is_named(world):
    def change(_, payloads):
        payloads["com.apple.vpn.managed"]["TransparentProxy"]["PayloadCertificateUUID"] = "00000000-0000-4000-8000-000000000000"
    world.start()
    world.refused(world.profile(change), "PayloadCertificateUUID")


def test_a_reference_in_another_letter_case_works_with_a_warning(world):
    def change(_, payloads):
        proxy = payloads["com.apple.vpn.managed"]["TransparentProxy"]
        proxy["PayloadCertificateUUID"] = proxy["PayloadCertificateUUID"].lower()
    world.start()
    result = world.lab.wayleave("profile", "install", world.profile(change))
    assert result.returncode == 0 and "case" in result.stdout.lower(), result.stdout


def test_an_expired_identity_is_refused(world):
    w = world.folder
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", w / "k", "-out", w / "c",
                    "-subj", "/CN=old", "-days", "1"], check=True, capture_output=True)
    # `openssl x509 -days -1` makes a certificate that ended yesterday.
    subprocess.run(["openssl", "req", "-new", "-key", w / "k", "-subj", "/CN=old", "-out", w / "r"], check=True, capture_output=True)
    subprocess.run(["openssl", "x509", "-req", "-in", w / "r", "-signkey", w / "k", "-days", "-1", "-out", w / "c"], check=True, capture_output=True)
    subprocess.run(["openssl", "pkcs12", "-export", "-inkey", w / "k", "-in", w / "c", "-passout", "pass:x", "-out", w / "p12"], check=True)
    world.start()
    world.refused(world.profile(lambda _, p: pkcs12(p).update(PayloadContent=(w / "p12").read_bytes(), Password="x")), "expired")


def test_truncated_and_hostile_files_are_refused_and_the_daemon_lives(world):
    world.start()
    whole = EXAMPLE.read_bytes()
    bomb = b'<?xml version="1.0"?><!DOCTYPE p [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><plist version="1.0"><dict><key>&b;</key><string/></dict></plist>'
    deep = b'<?xml version="1.0"?><plist version="1.0">' + b"<array>" * 100000
    binary = plistlib.dumps(plistlib.loads(whole), fmt=plistlib.FMT_BINARY)
    for name, content in (("truncated", whole[:len(whole) // 2]), ("empty", b""), ("bomb", bomb), ("deep", deep),
                          ("binary-truncated", binary[:-20]), ("text", b"hello"), ("large", b"<plist>" + b" " * 20_000_000)):
        path = world.folder / f"{name}.mobileconfig"
        path.write_bytes(content)
        world.refused(path)
    path = world.folder / "binary.mobileconfig"
    path.write_bytes(binary)
    world.install(path)
    world.expect_origin()


def test_a_signed_profile_installs_and_a_broken_signature_is_refused(world):
    w = world.folder
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", w / "k", "-out", w / "c",
                    "-subj", "/CN=Profile Signer", "-days", "2"], check=True, capture_output=True)
    for name, extra in (("der", []), ("ber", ["-stream"])):
        subprocess.run(["openssl", "cms", "-sign", "-nodetach", "-binary", "-outform", "DER", "-signer", w / "c", "-inkey", w / "k",
                        "-in", EXAMPLE, "-out", w / f"{name}.mobileconfig", *extra], check=True, capture_output=True)
    world.start()
    broken = bytearray((w / "der.mobileconfig").read_bytes())
    at = broken.find(b"Lab gateway")
    assert at > 0
    broken[at:at + 3] = b"Bad"
    (w / "broken.mobileconfig").write_bytes(broken)
    world.refused(w / "broken.mobileconfig", "signature")
    for name in ("der", "ber"):
        result = world.lab.wayleave("profile", "install", w / f"{name}.mobileconfig")
        assert result.returncode == 0 and "Profile Signer" in result.stdout, result.stdout
    eventually(world.lab.capture_active, 10, "capture")
    world.expect_origin()


def test_all_errors_of_a_file_are_reported_at_once(world):
    def change(content, payloads):
        content.pop("PayloadUUID")
        payloads["com.apple.vpn.managed"]["VendorConfig"]["FailurePolicy"] = "maybe"
        payloads["com.apple.security.root"]["PayloadContent"] = "a string"
    world.start()
    world.refused(world.profile(change), "PayloadUUID", "FailurePolicy", "PayloadContent")


def test_unknown_payload_types_and_keys_are_reported_not_fatal(world):
    def change(content, payloads):
        content["PayloadContent"].append({"PayloadType": "com.example.unknown", "PayloadVersion": 1, "PayloadIdentifier": "x.y",
                                          "PayloadUUID": "22222222-0C57-4D2E-9E0B-6A1D5B7C2E10"})
        payloads["com.apple.vpn.managed"]["NoSuchKey"] = 1
    world.start()
    result = world.lab.wayleave("profile", "install", world.profile(change))
    assert result.returncode == 0, result.stdout
    assert "com.example.unknown" in result.stdout and "NoSuchKey" in result.stdout, result.stdout
