"""Profiles that go by themselves: RemovalDate and DurationUntilRemoval."""

from __future__ import annotations

import datetime
import os
import plistlib
import signal

from mdm import ENROLMENT, MdmServer
from scenarios_mdm import enrolment, gone
from world import IDENTIFIER, eventually


def soon(seconds: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None, microsecond=0) + datetime.timedelta(seconds=seconds)


def test_a_profile_goes_at_its_date_with_its_identity_and_over_a_restart(world):
    world.start()
    world.install(world.profile(lambda content, _: content.update(RemovalDate=soon(12))))
    world.expect_origin()
    shown = world.lab.wayleave_json("profile", "list")["profiles"][0]
    assert shown["removedAt"].endswith("Z"), shown
    screen = world.lab.wayleave("status").stdout
    assert "removed in" in screen, screen
    os.kill(world.pid("wayleave-managementd"), signal.SIGKILL)
    eventually(lambda: world.lab.wayleave("profile", "list").returncode == 0, 15, "managementd to be back")
    eventually(lambda: world.inventory() == ([], []), 60, "the profile to go")
    eventually(lambda: not world.lab.capture_active(), 10, "proxyd to drop its rules")


def test_a_profile_goes_after_its_duration(world):
    world.start()
    world.install(world.profile(lambda content, _: content.update(DurationUntilRemoval=3)), wait=False)
    assert world.inventory()[0] == [IDENTIFIER]
    eventually(lambda: world.inventory() == ([], []), 40, "the profile to go")


def test_a_profile_whose_date_has_passed_is_refused(world):
    world.start()
    world.refused(world.profile(lambda content, _: content.update(RemovalDate=soon(-60))), "RemovalDate", "has passed")


def test_an_enrolment_ends_with_its_profile_and_tells_its_server(world):
    server = MdmServer(world)
    server.start()
    world.start()
    path = server.profile()
    content = plistlib.loads(path.read_bytes())
    content["DurationUntilRemoval"] = 4
    path.write_bytes(plistlib.dumps(content))
    result = world.lab.wayleave("enroll", path)
    assert result.returncode == 0, result.stdout
    assert world.inventory()[0] == [ENROLMENT]
    eventually(lambda: enrolment(world)["state"] == "none", 60, "the enrolment to end")
    assert server.kinds()[-1] == "CheckOut", server.kinds()
    eventually(lambda: gone(world), 20, "the enrolment to be gone")
