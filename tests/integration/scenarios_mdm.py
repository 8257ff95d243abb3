"""The enrolment with an MDM server: the lab's, which verifies client certificates and Mdm-Signature for real."""

from __future__ import annotations

import json
import os
import plistlib
import signal
import sqlite3
import subprocess

import scenarios_scep
from mdm import ENROLMENT, TOPIC, MdmServer
from world import EXAMPLE, IDENTIFIER, eventually, lab


def enrolled(world, signatures: bool = False, **mdm) -> MdmServer:
    server = MdmServer(world, signatures)
    server.start()
    world.start()
    enroll(world, server, **mdm)
    return server


def enroll(world, server, **mdm) -> None:
    result = world.lab.wayleave("enroll", server.profile(**mdm))
    assert result.returncode == 0, f"enroll: exit {result.returncode}\n{result.stdout}"


def enrolment(world) -> dict:
    answer = world.lab.device("curl", "-sS", "--unix-socket", world.lab.runtime / "management.sock", "http://x/v1/status")
    return json.loads(answer.stdout)["enrolment"]


def gone(world) -> bool:
    """Nothing of an enrolment is left: state, identities, configurations, profiles, files."""
    if enrolment(world)["state"] != "none" or world.inventory() != ([], []):
        return False
    folder = world.lab.state / "management"
    left = [p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith(("management.db", "declarations.db"))]
    assert not left, f"files are left: {left}"
    with sqlite3.connect(folder / "management.db") as database:
        tables = [row[0] for row in database.execute("select name from sqlite_master where type='table' and name != 'meta'")]
        for table in tables:
            assert "enrolment" not in str(database.execute(f"select * from {table}").fetchall()), f"{table} remembers the enrolment"
    assert not world.lab.capture_active(), "proxyd still captures"
    return True


def test_enrols_carries_out_commands_and_leaves_without_a_trace(world):
    server = enrolled(world)
    assert server.kinds()[:2] == ["Authenticate", "TokenUpdate"], server.kinds()
    first = server.log()[0]
    assert first["peer"] == "mdm-device" and first["message"]["Topic"] == TOPIC, first
    assert len(first["message"]["UDID"]) == 36 and first["message"]["SerialNumber"], first
    now = enrolment(world)
    assert now["state"] == "enrolled" and now["lastContact"] and now["nextPoll"], now

    installed = server.command("InstallProfile", Payload=EXAMPLE.read_bytes())
    assert installed["Status"] == "Acknowledged", installed
    eventually(world.lab.capture_active, 10, "proxyd to load its rules")
    world.expect_origin()

    profiles = server.command("ProfileList")["ProfileList"]
    assert sorted(p["PayloadIdentifier"] for p in profiles) == sorted([IDENTIFIER, ENROLMENT]), profiles
    assert all(p["PayloadContent"] for p in profiles), profiles
    certificates = server.command("CertificateList")["CertificateList"]
    assert {"mdm-device", "lab-device-1"} <= {c["CommonName"] for c in certificates if c["IsIdentity"]}, certificates
    information = server.command("DeviceInformation", Queries=["UDID", "OSVersion", "WiFiMAC", "SerialNumber"])["QueryResponses"]
    assert set(information) == {"UDID", "OSVersion", "SerialNumber"}, information
    unknown = server.command("EraseDevice")
    assert unknown["Status"] == "Error" and unknown["ErrorChain"][0]["ErrorCode"] == 12021, unknown
    broken = server.command("InstallProfile", Payload=b"foobarbaz")
    assert broken["Status"] == "Error" and len(broken["ErrorChain"]) == 2, broken

    # The server's profile is the server's: not to be removed at the machine, nor by installing over it.
    refused = world.lab.wayleave("profile", "remove", IDENTIFIER)
    assert refused.returncode != 0 and "unenroll" in refused.stdout, refused.stdout
    refused = world.lab.wayleave("profile", "install", EXAMPLE)
    assert refused.returncode != 0, refused.stdout

    removed = server.command("RemoveProfile", Identifier=IDENTIFIER)
    assert removed["Status"] == "Acknowledged", removed
    eventually(lambda: not world.lab.capture_active(), 10, "proxyd to drop its rules")
    server.command("InstallProfile", Payload=EXAMPLE.read_bytes())
    result = world.lab.wayleave("unenroll")
    assert result.returncode == 0, result.stdout
    assert server.kinds()[-1] == "CheckOut", server.kinds()
    eventually(lambda: gone(world), 10, "the enrolment to be gone")


def test_every_message_is_signed_where_the_profile_says_so(world):
    server = enrolled(world, signatures=True)
    assert server.command("DeviceInformation")["Status"] == "Acknowledged"
    assert all(m["signed"] for m in server.log()) and len(server.log()) >= 4, server.log()
    world.lab.wayleave("unenroll")
    assert server.kinds()[-1] == "CheckOut"


def test_profiles_of_people_are_not_the_servers(world):
    server = MdmServer(world)
    server.start()
    world.start()
    world.install()
    enroll(world, server)
    refused = server.command("RemoveProfile", Identifier=IDENTIFIER)
    assert refused["Status"] == "Error" and "not managed" in refused["ErrorChain"][0]["LocalizedDescription"], refused
    refused = server.command("InstallProfile", Payload=EXAMPLE.read_bytes())
    assert refused["Status"] == "Error", refused
    world.lab.wayleave("unenroll")
    assert world.inventory()[0] == [IDENTIFIER], world.inventory()
    world.expect_origin()


def test_access_rights_hold(world):
    server = enrolled(world, AccessRights=16)
    assert server.command("DeviceInformation")["Status"] == "Acknowledged"
    for request, parameters in (("ProfileList", {}), ("InstallProfile", {"Payload": EXAMPLE.read_bytes()})):
        answer = server.command(request, **parameters)
        assert answer["Status"] == "Error" and answer["ErrorChain"][0]["ErrorCode"] == 12007, answer


def test_the_server_ends_the_enrolment(world):
    server = enrolled(world)
    unrecognized = {"status": 403, "type": "application/json", "body": '{"code": "com.apple.unrecognized.device"}'}
    # A 403 without that body is a mistake of somebody's gateway.
    server.behave(status=403, body="forbidden")
    world.lab.wayleave("wake")
    eventually(lambda: "lastError" in enrolment(world), 10, "the failure to be noted")
    assert enrolment(world)["state"] == "enrolled"
    server.behave()
    for ending in (unrecognized, {"status": 401}):
        if enrolment(world)["state"] == "none":
            enroll(world, server)
        server.command("InstallProfile", Payload=EXAMPLE.read_bytes())
        server.behave(**ending)
        world.lab.wayleave("wake")
        eventually(lambda: gone(world), 20, "the enrolment to be gone")
        assert "CheckOut" not in server.kinds(), "a server that threw us out needs no CheckOut"
        server.behave()
    enroll(world, server)
    server.command("RemoveProfile", Identifier=ENROLMENT)
    eventually(lambda: gone(world), 20, "the enrolment to be gone")


def test_a_refused_enrolment_leaves_nothing(world):
    server = MdmServer(world)
    server.start()
    world.start()
    for behaviour in ({"status": 500}, {"status": 401}, {"status": 302}, {"status": 500, "only": "TokenUpdate"}):
        server.behave(**behaviour)
        result = world.lab.wayleave("enroll", server.profile())
        assert result.returncode != 0, result.stdout
        assert str(behaviour["status"]) in result.stdout, result.stdout
        eventually(lambda: gone(world), 10, "the enrolment to be taken back")
    world.lab.stop("mdm")
    result = world.lab.wayleave("enroll", server.profile())
    assert result.returncode != 0 and "9445" in result.stdout, result.stdout
    eventually(lambda: gone(world), 10, "the enrolment to be taken back")


def test_a_server_of_another_authority_is_not_talked_to(world):
    server = MdmServer(world)
    server.start()
    world.start()
    # Pinned to a certificate that is not the server's authority's.
    path = server.profile(ServerURLPinningCertificateUUIDs=["11111111-0000-4000-8000-000000000009"],
                          CheckInURLPinningCertificateUUIDs=["11111111-0000-4000-8000-000000000009"])
    content = plistlib.loads(path.read_bytes())
    content["PayloadContent"].append({"PayloadType": "com.apple.security.root", "PayloadIdentifier": "pin", "PayloadVersion": 1,
                                      "PayloadUUID": "11111111-0000-4000-8000-000000000009",
                                      "PayloadContent": subprocess.run(["openssl", "x509", "-in", server.folder / "ca.crt", "-outform", "DER"],
                                                                           capture_output=True, check=True).stdout})
    path.write_bytes(plistlib.dumps(content))
    result = world.lab.wayleave("enroll", path)
    assert result.returncode != 0 and "certificate" in result.stdout, result.stdout
    assert not server.log(), "something was sent to it"
    eventually(lambda: gone(world), 10, "the enrolment to be taken back")


def test_the_enrolment_survives_a_server_that_is_away_and_restarts(world):
    server = enrolled(world)
    world.lab.stop("mdm")
    world.lab.wayleave("wake")
    eventually(lambda: "lastError" in enrolment(world), 10, "the failure to be noted")
    os.kill(world.pid("wayleave-managementd"), signal.SIGKILL)
    eventually(lambda: world.lab.wayleave("profile", "list").returncode == 0, 15, "managementd to be back")
    assert enrolment(world)["state"] == "enrolled"
    server.start()
    assert server.command("InstallProfile", Payload=EXAMPLE.read_bytes())["Status"] == "Acknowledged"
    eventually(world.lab.capture_active, 10, "proxyd to load its rules")
    world.expect_origin()


def files(world) -> set:
    """Every file in the state directories of the daemons; a database's log comes and goes."""
    return {str(p.relative_to(world.lab.state)) for p in world.lab.state.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))}


def other_identity(world, payload: dict, issuer, signatures: bool, *arguments) -> None:
    server = MdmServer(world, signatures)
    server.trust(issuer)
    server.start()
    world.start(*arguments)
    before = files(world)
    result = world.lab.wayleave("enroll", server.profile(payload))
    assert result.returncode == 0, result.stdout + world.log()[-3000:]
    assert server.command("DeviceInformation")["Status"] == "Acknowledged"
    assert server.command("InstallProfile", Payload=EXAMPLE.read_bytes())["Status"] == "Acknowledged"
    eventually(world.lab.capture_active, 10, "proxyd to load its rules")
    world.expect_origin()
    assert world.lab.wayleave("unenroll").returncode == 0
    eventually(lambda: enrolment(world)["state"] == "none" and world.inventory() == ([], []), 20, "the enrolment to be gone")
    eventually(lambda: gone(world), 20, "every file of the enrolment to be gone")
    # What stays is the machine's: its own attestation key, and the log of what was signed.
    left = {name for name in files(world) - before if not name.startswith(("identity/attestation", "identity/ak", "identity/audit"))}
    assert not left, f"files are left: {left}"


def test_enrols_with_an_attested_tpm_identity_behind_mutual_tls(world):
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    payload = payload_of("acme", "com.apple.security.acme")
    other_identity(world, payload, world.lab.device_cas[-1], False, "--identity-arg", f"--tcti={tcti}")


def test_enrols_with_an_attested_tpm_identity_and_mdm_signature(world):
    tcti = world.lab.start_tpm()
    world.lab.start_issuer()
    other_identity(world, payload_of("acme", "com.apple.security.acme"), world.lab.device_cas[-1], True, "--identity-arg", f"--tcti={tcti}")


def test_enrols_with_a_scep_identity(world):
    profile = plistlib.loads(scenarios_scep.serve(world).read_bytes())
    payload = next(p for p in profile["PayloadContent"] if p["PayloadType"] == "com.apple.security.scep")
    for signatures in (False, True):
        folder = world.folder / "mdm"
        if folder.exists():
            world.lab.stop("mdm")
            world.stop()
            folder.rename(world.folder / "first-mdm")
        other_identity(world, payload, world.lab.device_cas[-1], signatures)


def payload_of(example: str, kind: str) -> dict:
    profile = plistlib.loads((lab.ROOT / "examples" / f"{example}.mobileconfig").read_bytes())
    return next(p for p in profile["PayloadContent"] if p["PayloadType"] == kind)


def killed_at(world, step: str) -> None:
    """Kills managementd when the server gets `step` and answers 503; from there it goes on to the same end."""
    server = MdmServer(world)
    server.start()
    world.start()
    server.behave(status=503, only=step)
    command = [lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime]
    client = world.lab.start("enrolling", "device", *command, "enroll", server.profile())
    if step not in ("Authenticate", "TokenUpdate"):
        eventually(lambda: enrolment(world)["state"] == "enrolled", 20, "the enrolment")
        client.wait(30)
    if step == "Status Acknowledged":
        server.command("InstallProfile", wait=False, Payload=EXAMPLE.read_bytes())
        world.lab.wayleave("wake")
    elif step == "CheckOut":
        client = world.lab.start("leaving", "device", *command, "unenroll")
    eventually(lambda: step in server.kinds(), 20, f"{step} to come")
    os.kill(world.pid("wayleave-managementd"), signal.SIGKILL)
    client.wait(30)
    for name in ("enrolling", "leaving"):
        world.lab.processes.pop(name, None)
    server.behave()
    eventually(lambda: world.lab.wayleave("profile", "list").returncode == 0, 15, "managementd to be back")
    if step != "CheckOut":
        world.lab.wayleave("wake")
        # The state file is written before each message, so every one of these goes on by itself.
        eventually(lambda: enrolment(world)["state"] == "enrolled", 20, f"the end after a kill at {step}")
        if step == "Status Acknowledged":
            eventually(lambda: IDENTIFIER in world.inventory()[0], 20, "the profile")
            eventually(lambda: server.kinds().count("Status Acknowledged") > 1, 20, "the answer to come again")
        assert server.command("DeviceInformation")["Status"] == "Acknowledged", step
        assert world.lab.wayleave("unenroll").returncode == 0
    eventually(lambda: gone(world), 20, f"the enrolment to be gone after a kill at {step}")


def test_killed_at_authenticate_it_enrols(world):
    killed_at(world, "Authenticate")


def test_killed_at_token_update_it_enrols(world):
    killed_at(world, "TokenUpdate")


def test_killed_while_asking_it_goes_on(world):
    killed_at(world, "Status Idle")


def test_killed_with_an_answer_unsent_it_sends_it(world):
    killed_at(world, "Status Acknowledged")


def test_killed_at_check_out_it_leaves(world):
    killed_at(world, "CheckOut")


def test_identityd_killed_at_any_moment_of_an_enrolment_and_a_command(world):
    server = MdmServer(world)
    server.start()
    command = [lab.BIN / "wayleave", "--runtime-dir", world.lab.runtime]
    for step, delay_ms in enumerate(range(0, 480, 60)):
        world.start()  # anew: `wayleave run` gives up on a daemon that dies five times in a row
        client = world.lab.start("enrolling", "device", *command, "enroll", server.profile())
        try:
            client.wait(delay_ms / 1000)
        except subprocess.TimeoutExpired:
            pass
        os.kill(world.pid("wayleave-identityd"), signal.SIGKILL)
        client.wait(30)
        world.lab.processes.pop("enrolling", None)
        eventually(lambda: world.lab.wayleave("identity", "list").returncode == 0, 15, "identityd to be back")

        def settled() -> bool:
            return enrolment(world)["state"] in ("none", "enrolled") and not world.lab.wayleave_json("profile", "list")["unfinished"]
        eventually(settled, 30, f"an end state after a kill at {delay_ms} ms: {enrolment(world)}")
        if enrolment(world)["state"] == "none":
            enroll(world, server)
        installing = server.command("InstallProfile", wait=False, Payload=EXAMPLE.read_bytes())
        world.lab.wayleave("wake")
        if step % 2 == 0:
            os.kill(world.pid("wayleave-identityd"), signal.SIGKILL)
            eventually(lambda: world.lab.wayleave("identity", "list").returncode == 0, 15, "identityd to be back")
        world.lab.wayleave("wake")

        def answered() -> bool:
            world.lab.wayleave("wake")
            return server.answer(installing["CommandUUID"]) is not None
        eventually(answered, 30, "an answer to InstallProfile")
        assert world.lab.wayleave("unenroll").returncode == 0

        def finished() -> bool:
            try:
                return gone(world)
            except AssertionError:
                return False  # a removal that waits for identityd is finished a moment later
        eventually(finished, 30, f"the enrolment to be gone after a kill at {delay_ms} ms")
        world.stop()
