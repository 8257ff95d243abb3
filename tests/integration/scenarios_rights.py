"""Each daemon can do what it must and no more; no crash leaves traffic captured."""

import os
import signal
import subprocess
import time
from pathlib import Path

from world import Skipped, eventually, lab

DAC_READ_SEARCH, NET_BIND_SERVICE, NET_ADMIN, SYS_PTRACE = 2, 10, 12, 19


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def capabilities(pid: int, which: str = "CapEff") -> set[int]:
    mask = int(status(pid)[which], 16)
    return {n for n in range(64) if mask >> n & 1}


# docs/threat-model.md, "What runs with which rights".
RIGHTS = {"wayleave-identityd": set(), "wayleave-managementd": set(), "wayleave-proxyd": {NET_ADMIN, NET_BIND_SERVICE},
          "wayleave-witness": {SYS_PTRACE, DAC_READ_SEARCH}, "wayleave-witness-keeper": {SYS_PTRACE, DAC_READ_SEARCH}}
# identityd has no right to empty this set, which no_new_privs leaves without effect.
BOUND = {"wayleave-identityd": RIGHTS["wayleave-witness"]}


def test_every_process_is_confined_as_the_threat_model_says(world):
    """Review of issue 5, number 8: of managementd and proxyd nothing of it was looked at."""
    world.start()
    world.install()
    world.expect_origin()
    for program, rights in RIGHTS.items():
        pids = world.pids(program)
        assert pids, f"{program} is not running"
        for pid in pids:
            of = status(pid)
            who = f"{program} ({pid})"
            assert of["Seccomp"].strip() == "2", f"{who} has no seccomp filter"
            assert of["NoNewPrivs"].strip() == "1", f"{who} could gain privileges"
            for which in ("CapEff", "CapPrm"):
                assert capabilities(pid, which) == rights, f"{who} {which}: {capabilities(pid, which)}"
            assert capabilities(pid, "CapInh") == capabilities(pid, "CapAmb") == set(), f"{who} would hand capabilities on"
            # The kernel gives the files of an undumpable process to root. (With one user, all are root's anyway.)
            if lab.real_root():
                assert capabilities(pid, "CapBnd") <= BOUND.get(program, rights), f"{who} CapBnd: {capabilities(pid, 'CapBnd')}"
                assert of["Uid"].split()[0] != "0" and os.stat(f"/proc/{pid}/environ").st_uid == 0, f"{who} is dumpable"


def test_a_witness_that_is_killed_ends_identityd_and_the_supervisor_starts_it_again(world):
    world.start()
    world.install()
    world.expect_origin()
    old = world.pid("wayleave-identityd")
    os.kill(world.pid("wayleave-witness"), signal.SIGKILL)
    eventually(lambda: world.pids("wayleave-identityd") not in ([], [old]), 15, "another identityd")
    eventually(lambda: world.curl()[0], 15, "traffic to flow again")


def test_the_daemons_run_as_three_users_none_of_them_root(world):
    if not lab.real_root():
        raise Skipped("needs real root: an ordinary user has just one user")
    world.start()
    users = {name: int(status(world.pid(f"wayleave-{name}d"))["Uid"].split()[1]) for name in ("identity", "management")}
    users["proxy"] = int(status(world.pid("wayleave-proxyd"))["Uid"].split()[1])
    assert users == lab.USERS, users


def test_file_modes_keep_proxyds_user_out_of_the_state_directories(world):
    if not lab.real_root():
        raise Skipped("needs real root: with one user, file modes separate nobody")
    world.start()
    world.install()
    for folder in ("identity", "management"):
        path = world.lab.state / folder
        assert path.is_dir(), f"{path} is where {folder}d keeps its state"
        attempt = subprocess.run(["setpriv", f"--reuid={lab.USERS['proxy']}", f"--regid={lab.USERS['proxy']}", "--clear-groups",
                                  "--inh-caps=-all", "--bounding-set=-all", "ls", path], capture_output=True, text=True)
        assert attempt.returncode != 0 and "ermission denied" in attempt.stderr, attempt


def test_identityd_has_a_seccomp_filter_and_no_internet_socket(world):
    world.start()
    world.install()
    world.expect_origin()
    pid = world.pid("wayleave-identityd")
    assert status(pid)["Seccomp"].strip() == "2"
    inodes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            assert f"socket:[{line.split()[9]}]" not in inodes, f"identityd owns a {table} socket"


def test_the_state_holds_no_key_in_the_clear_and_only_private_files(world):
    world.start()
    world.install()
    for path in (world.lab.state / "identity").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"{path} is readable by others"
            content = path.read_bytes()
            assert b"PRIVATE KEY-----" not in content and b"wayleave-lab" not in content, f"{path} holds a secret in the clear"
    for path in (world.lab.state / "management").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"{path} is readable by others"


def test_proxyd_killed_leaves_no_rule_and_comes_back(world):
    world.start()
    world.install()
    world.expect_origin()
    pid = world.pid("wayleave-proxyd")
    os.kill(pid, signal.SIGKILL)
    # The supervisor cleans up and starts another; between the two, nothing of the first may be left.
    eventually(lambda: pid not in world.pids("wayleave-proxyd"), 5, "the killed proxyd to be gone")
    eventually(lambda: world.pids("wayleave-proxyd") and world.lab.capture_active(), 15, "the supervisor to start proxyd again")
    eventually(lambda: world.curl()[0], 10, "traffic to flow again")


def test_everything_killed_leaves_no_table_and_the_next_start_cleans_up(world):
    world.start()
    world.install()
    supervisor = world.lab.processes["wayleave"]
    children = [world.pid(n) for n in ("wayleave-proxyd", "wayleave-identityd", "wayleave-managementd")]
    supervisor.kill()
    supervisor.wait()
    world.lab.processes.pop("wayleave")
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    eventually(lambda: not world.lab.capture_active(), 5, "the kernel to remove the table with its owner")
    world.start()
    eventually(world.lab.carrying, 10, "rules and identity to come back")
    world.expect_origin()


def test_stopping_lets_a_running_download_finish(world):
    content = os.urandom(3_000_000)
    (world.lab.work / "origin" / "slow").write_bytes(content)
    world.start()
    world.install()
    target = world.folder / "slow"
    environment = dict(os.environ, CURL_CA_BUNDLE=str(world.lab.curl_ca))
    download = subprocess.Popen(["ip", "netns", "exec", "device", "curl", "-sS", "--limit-rate", "1500k", "-o", target, "https://origin.lab/slow"],
                                env=environment)
    eventually(lambda: target.exists() and target.stat().st_size > 0, 10, "the download to begin")
    assert world.stop() == 0
    assert download.wait(20) == 0 and target.read_bytes() == content, "the download was cut"


def test_start_does_not_wait_for_the_gateway(world):
    world.lab.stop("gateway", signal.SIGKILL)
    started = time.monotonic()
    world.start()
    world.install()
    assert time.monotonic() - started < 10
    world.lab.start_gateway()
    eventually(lambda: world.curl()[0], 15, "traffic")


def test_the_units_expose_little_by_systemds_own_measure(_):
    """0 is nothing, 10 everything. The bounds are what the units have, rounded up: they may only fall."""
    for name, most in (("identityd", 2.2), ("managementd", 1.6), ("proxyd", 2.2)):
        unit = lab.ROOT / "packaging" / "systemd" / f"wayleave-{name}.service"
        try:
            result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True)
        except FileNotFoundError:
            raise Skipped("systemd-analyze is not installed (Debian package systemd)") from None
        exposure = float(result.stdout.rsplit(":", 1)[1].split()[0])
        assert exposure <= most, f"{unit.name}: {exposure}"
