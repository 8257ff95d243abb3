"""The identity that could not be used: ACME with a key in the TPM, attested, resolving in daemons with nobody logged in."""

import os
import shutil
import signal
import subprocess

import world as w
from world import eventually, lab

ACME = lab.ROOT / "examples" / "acme.mobileconfig"
IDENTIFIER = "com.wayleave.example.acme"


def start_with_tpm(world, *issuer_arguments, tpm="device"):
    """TPM, issuer, a gateway that trusts the issuer's devices, and Wayleave with that TPM."""
    tcti = world.lab.start_tpm(tpm)
    world.lab.start_issuer(*issuer_arguments, tpm=tpm)
    world.lab.stop("gateway")
    world.lab.start_gateway()
    world.gateway_mark = world._gateway_size()
    world.start("--identity-arg", f"--tcti={tcti}")
    return tcti


def acme_profile(world, **values):
    def change(_, payloads):
        payloads["com.apple.security.acme"].update(values)
    return world.profile(change, name="acme", example=ACME)


def only_identity(world) -> dict:
    identities = world.lab.wayleave_json("identity", "list")["identities"]
    assert len(identities) == 1, identities
    return identities[0]


def test_an_attested_tpm_identity_is_enrolled_and_carries_traffic(world):
    start_with_tpm(world)
    world.install(ACME)
    identity = only_identity(world)
    assert identity["keyKind"] == "tpm" and identity["keyType"] == "EC P-384" and identity["attested"], identity
    reference = lab.reference_hex(identity)
    assert reference.startswith("63657274") and len(reference) == 40, reference
    world.expect_origin()
    line = eventually(lambda: next((l for l in world.gateway_lines() if "CN=lab-device-2" in l), None), 5, "the gateway to name lab-device-2")
    assert "200" in line, line


def test_the_certificate_is_p384_and_the_signature_by_reference_verifies(world):
    start_with_tpm(world)
    world.install(ACME)
    identity = world.lab.wayleave_json("identity", "show", only_identity(world)["id"])
    import base64
    leaf = world.folder / "leaf.der"
    leaf.write_bytes(base64.b64decode(identity["chain"][0]))
    text = subprocess.run(["openssl", "x509", "-inform", "DER", "-in", leaf, "-noout", "-text"], capture_output=True, text=True, check=True).stdout
    assert "P-384" in text and "TLS Web Client Authentication" in text, text
    message, signature, key = world.folder / "m", world.folder / "s", world.folder / "k.pem"
    message.write_bytes(os.urandom(1000))
    result = world.lab.wayleave("sign", message, "--identity", identity["reference"], "--out", signature)
    assert result.returncode == 0, result.stdout
    key.write_text(subprocess.run(["openssl", "x509", "-inform", "DER", "-in", leaf, "-noout", "-pubkey"], capture_output=True, text=True, check=True).stdout)
    verified = world.lab.device("openssl", "dgst", "-sha384", "-verify", key, "-signature", signature, message)
    assert verified.returncode == 0, verified.stdout


def test_both_identities_live_side_by_side(world):
    start_with_tpm(world)
    world.install(ACME)
    world.lab.wayleave("profile", "install", w.EXAMPLE)
    kinds = sorted((i["source"], i["keyKind"]) for i in world.lab.wayleave_json("identity", "list")["identities"])
    assert kinds == [("acme", "tpm"), ("pkcs12", "software")], kinds


def test_without_a_tpm_a_hardware_bound_payload_is_refused_never_softened(world):
    world.lab.start_tpm()
    world.lab.start_issuer()
    world.start()  # no TCTI
    world.refused(ACME, "TPM")


def test_an_unknown_endorsement_key_is_refused_with_the_cas_words(world):
    start_with_tpm(world)
    (world.lab.work / "issuer" / "ek-allow.json").write_text("{}")
    world.lab.stop("issuer")
    world.lab.start("issuer", "network", "/usr/bin/python3", "-m", "issuer", "--state", world.lab.work / "issuer", "--listen", "10.77.0.1:9443",
                    "--certificate", lab.PKI / "server.crt", "--key", lab.PKI / "server.key", "--ek-allow", world.lab.work / "issuer/ek-allow.json",
                    "--ek-roots", world.lab.work / "issuer/ek-roots.pem", env={"PYTHONPATH": str(lab.ROOT / "lab"), "PYTHONDONTWRITEBYTECODE": "1"})
    world.lab.listening("issuer", "network", 9443)
    world.refused(ACME, "allow-list")


def test_a_wrong_permanent_identifier_is_refused_before_or_by_the_ca(world):
    start_with_tpm(world)
    world.refused(acme_profile(world, ClientIdentifier="somebody-else", Subject=[[["CN", "somebody-else"]]]), "identifier")


def test_the_ca_down_then_up(world):
    start_with_tpm(world)
    world.lab.stop("issuer")
    world.refused(ACME, "issuer.lab")
    world.lab.start_issuer()
    world.install(ACME)
    world.expect_origin()


def test_server_faults_end_in_a_stated_outcome(world):
    start_with_tpm(world)
    for fault, words in (({"wrong-key": True}, ["another key"]), ({"broken-chain": True}, ["signed"]),
                         ({"fail-next": {"/acme/new-order": [[400, '{"type":"urn:ietf:params:acme:error:malformed","detail":"no"}']]}}, ["no"]),
                         ({"fail-next": {"/acme/directory": [[200, "{not json"]]}}, ["directory"])):
        world.lab.issuer("/lab/faults", fault)
        world.refused(ACME, *words)
    world.lab.issuer("/lab/faults", {"fail-next": {"/acme/new-order": [[500, "<html>"], [503, ""]]}, "bad-nonce-percent": 30, "rate-limit-seconds": 1,
                                     "processing-polls": 2})
    world.install(ACME)
    world.expect_origin()


def test_a_copied_state_directory_cannot_sign_on_another_tpm(world):
    start_with_tpm(world)
    world.install(ACME)
    reference = only_identity(world)["reference"]
    assert world.stop() == 0
    other = world.lab.start_tpm("other")
    world.start("--identity-arg", f"--tcti={other}")
    message = world.folder / "m"
    message.write_text("x")
    result = world.lab.wayleave("sign", message, "--identity", reference, "--out", world.folder / "s")
    assert result.returncode != 0 and "lost" in result.stdout.lower(), result.stdout
    assert not (world.folder / "s").exists()


def test_a_cleared_tpm_is_noticed_and_enrolled_anew(world):
    tcti = start_with_tpm(world)
    world.install(ACME)
    before = only_identity(world)
    assert world.stop() == 0
    subprocess.run(["tpm2_clear", "-T", tcti, "-c", "p"], check=True, capture_output=True)
    world.start("--identity-arg", f"--tcti={tcti}", "--management-arg=--renewal-interval=1")
    def fresh():
        identities = world.lab.wayleave_json("identity", "list")["identities"]
        return len(identities) == 1 and identities[0]["state"] == "active" and identities[0]["serial"] != before["serial"]
    eventually(fresh, 30, "a new identity in place of the lost one")
    eventually(lambda: world.curl()[0], 10, "traffic with the new identity")


def test_the_daemon_serves_other_identities_whatever_the_tpm_does(world):
    start_with_tpm(world)
    world.install(ACME)
    assert world.lab.wayleave("profile", "install", w.EXAMPLE).returncode == 0
    software = next(i for i in world.lab.wayleave_json("identity", "list")["identities"] if i["source"] == "pkcs12")
    hardware = next(i for i in world.lab.wayleave_json("identity", "list")["identities"] if i["source"] == "acme")
    world.lab.stop("tpm-device", signal.SIGKILL)
    message = world.folder / "m"
    message.write_text("x")
    result = world.lab.wayleave("sign", message, "--identity", software["reference"], "--out", world.folder / "s1")
    assert result.returncode == 0, result.stdout
    result = world.lab.wayleave("sign", message, "--identity", hardware["reference"], "--out", world.folder / "s2")
    assert result.returncode != 0 and "tpm" in result.stdout.lower(), result.stdout
    world.lab.start_tpm()
    eventually(lambda: world.lab.wayleave("sign", message, "--identity", hardware["reference"], "--out", world.folder / "s3").returncode == 0, 20,
               "the TPM to be used again")


def test_renewal_keeps_key_and_reference_and_the_gateway_sees_the_new_certificate(world):
    start_with_tpm(world, "--lifetime", "20s")
    world.lab.stop("wayleave")
    world.start("--identity-arg", f"--tcti=swtpm:path={world.lab.tpm_folder('device')}/tpm.sock", "--management-arg=--renewal-interval=1")
    world.install(ACME)
    first = only_identity(world)
    key = world.lab.wayleave_json("identity", "show", first["id"])["publicKey"]
    renewed = eventually(lambda: (i := only_identity(world))["serial"] != first["serial"] and i, 40, "a renewed certificate")
    assert renewed["reference"] == first["reference"] and renewed["id"] == first["id"], (first, renewed)
    assert world.lab.wayleave_json("identity", "show", first["id"])["publicKey"] == key
    world.expect_origin()


def test_power_cut_at_every_step_of_an_enrolment_loses_nothing(world):
    """Kills managementd, then identityd, at the moment each kind of request reaches the issuer or the broker."""
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    steps = 0
    for delay_ms in range(0, 1200, 150):
        shutil.rmtree(world.lab.state, ignore_errors=True)
        shutil.rmtree(world.lab.runtime, ignore_errors=True)
        orders_before = world.lab.issuer("/lab/state")["orders"]
        world.start("--identity-arg", f"--tcti={tcti}")
        install = subprocess.Popen(["ip", "netns", "exec", "device", lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime, "profile", "install", ACME],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            install.wait(delay_ms / 1000)
        except subprocess.TimeoutExpired:
            pass
        victim = "wayleave-managementd" if steps % 2 == 0 else "wayleave-identityd"
        os.kill(world.pid(victim), signal.SIGKILL)
        install.wait(60)
        world.lab.stop("wayleave", signal.SIGKILL)
        world.kill_daemons()
        world.start("--identity-arg", f"--tcti={tcti}")
        def settled():
            profiles, identities = world.inventory()
            return (len(profiles), len(identities)) in ((0, 0), (1, 1)) and not world.lab.wayleave_json("profile", "list")["unfinished"]
        eventually(settled, 60, f"an end state after a cut at {delay_ms} ms")
        if world.inventory()[0] == []:
            world.install(ACME, wait=False)
        assert len(world.inventory()[1]) == 1
        orders = world.lab.issuer("/lab/state")["orders"] - orders_before
        assert orders <= 2, f"{orders} orders for one identity after a cut at {delay_ms} ms"
        steps += 1
        world.stop()
    assert steps == 8



def test_probe_shows_that_a_daemon_without_a_session_can_use_both_identities(world):
    start_with_tpm(world)
    world.install(ACME)
    assert world.lab.wayleave("profile", "install", w.EXAMPLE).returncode == 0
    cells = world.lab.wayleave_json("probe")["cells"]
    root = [c for c in cells if c["caller"] == "root daemon, no session"]
    assert sorted(c["source"] for c in root) == ["acme", "pkcs12"], root
    for cell in root:
        assert all(cell[question]["outcome"] == "OK" for question in ("resolve", "tls", "sign")), cell
    unknown = [c for c in cells if c["caller"] == "unknown program"]
    for cell in unknown:
        assert all(cell[question]["outcome"] != "OK" and cell[question]["message"] for question in ("resolve", "tls", "sign")), cell


def test_the_doctor_knows_the_tpm_and_says_when_there_is_none(world):
    start_with_tpm(world)
    tpm = world.lab.wayleave_json("doctor")
    assert tpm["usable"] and tpm["p384"] and not tpm["inLockout"] and len(tpm["endorsementKeySha256"]) == 64, tpm
    assert world.stop() == 0
    world.start()
    result = world.lab.wayleave("doctor")
    assert result.returncode != 0 and "TPM" in result.stdout, result.stdout


def test_an_rsa_attestation_key_for_cas_that_read_nothing_else(world):
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    world.start("--identity-arg", f"--tcti={tcti}", "--identity-arg=--attestation-key=rsa2048")
    world.install(ACME)
    identity = only_identity(world)
    assert identity["keyType"] == "EC P-384" and identity["attested"], identity
