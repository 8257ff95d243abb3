"""Declarations without a server: a profile with a com.apple.declarations payload. With one: tests/interop/kmfddm.py."""

import json
import os
import plistlib
import shutil
import signal
import subprocess

from scenarios_acme import start_with_tpm
from world import eventually, lab

PKCS12 = "com.wayleave.example.pkcs12"
ACME = "com.wayleave.example.acme"


def declarations(world) -> dict:
    answer = world.lab.device(lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime, "declarations", "--json")
    return {d["identifier"]: d for d in json.loads(answer.stdout)["declarations"]}


def changed(world, kind: str, name: str, change) -> object:
    """The example's profile with one of its declarations changed."""
    path = world.lab.declarations_profile(kind)
    profile = plistlib.loads(path.read_bytes())
    texts = profile["PayloadContent"][0]["Declarations"]
    for i, text in enumerate(texts):
        declaration = json.loads(text)
        if declaration["Identifier"] == name:
            change(declaration)
            texts[i] = json.dumps(declaration).encode()
    path.write_bytes(plistlib.dumps(profile))
    return path


def test_a_pkcs12_identity_and_a_proxy_by_declaration(world):
    world.start()
    world.install(world.lab.declarations_profile("pkcs12"))
    world.expect_origin()
    assert all(d["active"] and d["valid"] == "valid" for d in declarations(world).values()), declarations(world)
    stored = b"".join(path.read_bytes() for path in world.lab.state.rglob("*") if path.is_file() and "management" in str(path))
    assert b"wayleave-lab" not in stored, "the password of the identity is on managementd's disk"
    world.remove(f"{PKCS12}.declared")
    assert declarations(world) == {} and world.inventory() == ([], [])


def test_the_same_revision_again_changes_nothing_and_a_new_one_replaces_the_identity(world):
    world.start()
    world.install(world.lab.declarations_profile("pkcs12"))
    first = world.lab.wayleave_json("identity", "list")["identities"][0]
    world.install(world.lab.declarations_profile("pkcs12"))
    assert world.lab.wayleave_json("identity", "list")["identities"][0]["id"] == first["id"]
    world.install(changed(world, "pkcs12", f"{PKCS12}.identity", lambda d: d.update(ServerToken="2")))
    second = world.lab.wayleave_json("identity", "list")["identities"]
    assert len(second) == 1 and second[0]["id"] != first["id"], second
    eventually(lambda: world.curl()[0], 10, "traffic with the new identity")


def test_a_broken_revision_keeps_what_is_in_force_and_says_why(world):
    world.start()
    world.install(world.lab.declarations_profile("pkcs12"))
    world.install(changed(world, "pkcs12", f"{PKCS12}.proxy", lambda d: (d.update(ServerToken="2"), d["Payload"].update(Unheard=1))))
    reasons = declarations(world)[f"{PKCS12}.proxy"]["reasons"]
    assert [r["code"] for r in reasons] == ["Error.UnknownPayloadKeys"], reasons
    result = world.lab.wayleave("declarations")
    assert result.returncode == 1 and "Payload.Unheard" in result.stdout, result.stdout
    world.expect_origin()


def test_a_false_predicate_brings_nothing(world):
    world.start()
    world.install(changed(world, "pkcs12", f"{PKCS12}.activation",
                          lambda d: d["Payload"].update(Predicate="@status(device.model.family) == 'AppleTV'")), wait=False)
    assert declarations(world)[f"{PKCS12}.activation"]["reasons"][0]["code"] == "Info.Predicate"
    assert world.inventory()[1] == []


def test_what_a_declaration_brought_cannot_be_removed_as_a_profile(world):
    world.start()
    world.install(world.lab.declarations_profile("pkcs12"))
    result = world.lab.wayleave("profile", "remove", f"declared:{PKCS12}.declared:{PKCS12}.proxy")
    assert result.returncode == 4 and "declaration" in result.stdout, result.stdout
    world.expect_origin()


def test_an_attested_tpm_identity_by_declaration(world):
    start_with_tpm(world)
    world.install(world.lab.declarations_profile("acme"))
    identity = world.lab.wayleave_json("identity", "list")["identities"][0]
    assert identity["keyKind"] == "tpm" and identity["attested"], identity
    world.expect_origin()


def test_kills_at_every_step_converge(world):
    """managementd or identityd is killed at growing delays while an attested identity is being declared."""
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    profile = world.lab.declarations_profile("acme")
    for step, delay_ms in enumerate(range(0, 1000, 125)):
        shutil.rmtree(world.lab.state, ignore_errors=True)
        shutil.rmtree(world.lab.runtime, ignore_errors=True)
        world.start("--identity-arg", f"--tcti={tcti}")
        install = subprocess.Popen(["ip", "netns", "exec", "device", lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime, "profile", "install", profile],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            install.wait(delay_ms / 1000)
        except subprocess.TimeoutExpired:
            pass
        os.kill(world.pid("wayleave-managementd" if step % 2 == 0 else "wayleave-identityd"), signal.SIGKILL)
        install.wait(60)
        world.lab.stop("wayleave", signal.SIGKILL)
        world.kill_daemons()
        world.start("--identity-arg", f"--tcti={tcti}")

        def settled():
            profiles, identities = world.inventory()
            # The profile with the declarations, and the one that its proxy became; or nothing at all.
            return (len(profiles), len(identities)) in ((0, 0), (2, 1)) and not world.lab.wayleave_json("profile", "list")["unfinished"]
        eventually(settled, 60, f"an end state after a kill at {delay_ms} ms: {world.inventory()}")
        if world.inventory()[0] == []:
            world.install(profile, wait=False)
        assert all(d["active"] and d["valid"] == "valid" for d in declarations(world).values()), declarations(world)
        assert len(world.inventory()[1]) == 1
        world.stop()


def test_app_managed_gives_an_identity_by_name_to_the_described_program_alone(world):
    """The program is a copy of the command line, described by an [[application]] entry; the original gets nothing."""
    program = world.folder / "agent"
    shutil.copy(lab.BIN / "wayleave", program)
    program.chmod(0o755)
    grants = world.folder / "grants.d"
    shutil.copytree(lab.ROOT / "packaging" / "grants.d", grants)
    (grants / "50-agent.toml").write_text('[[application]]\nidentifier = "com.example.agent (TEAM123456)"\n'
                                          f'executable = "{program}"\naccept = ["path"]\n')
    for path in (grants, *grants.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    world.start("--grants-dir", grants)

    def add_app(declaration):
        declaration["Payload"]["StandardConfigurations"] = [f"{PKCS12}.app"]
    path = changed(world, "pkcs12", f"{PKCS12}.activation", add_app)
    profile = plistlib.loads(path.read_bytes())
    app = {"Type": "com.apple.configuration.app.managed", "Identifier": f"{PKCS12}.app", "ServerToken": "1",
           "Payload": {"BundleID": "com.example.shell",
                       "ExtensionConfigs": {"com.example.agent (TEAM123456)": {
                           "Identities": [{"Identifier": "device", "AssetReference": f"{PKCS12}.identity"}]}}}}
    profile["PayloadContent"][0]["Declarations"].append(json.dumps(app).encode())
    path.write_bytes(plistlib.dumps(profile))
    world.install(path, wait=False)

    def show(which, name):
        return world.lab.device(which, "--runtime-dir", world.lab.runtime, "application", "show", name, "--json")
    answer = show(program, "device")
    assert answer.returncode == 0 and "CN=lab-device-1" in answer.stdout, answer.stdout
    assert show(program, "other").returncode == 3, "a name that was not declared"
    refused = show(lab.BIN / "wayleave", "device")
    assert refused.returncode == 4 and "lab-device-1" not in refused.stdout, refused.stdout
    world.remove(f"{PKCS12}.declared")
    assert show(program, "device").returncode == 3
