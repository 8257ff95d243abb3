"""Each daemon can do what it must and no more; no crash leaves traffic captured."""

import os
import signal
import subprocess
import time
from pathlib import Path

from world import Skipped, eventually, lab

NET_ADMIN, NET_BIND_SERVICE, SYS_PTRACE = 12, 10, 19


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def capabilities(pid: int, which: str = "CapEff") -> set[int]:
    mask = int(status(pid)[which], 16)
    return {n for n in range(64) if mask >> n & 1}


def test_proxyd_holds_only_its_two_capabilities(world):
    world.start()
    pid = world.pid("wayleave-proxyd")
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert capabilities(pid, which) <= {NET_ADMIN, NET_BIND_SERVICE}, f"{which}: {capabilities(pid, which)}"
    assert status(pid)["NoNewPrivs"].strip() == "1"


def test_the_daemons_run_as_three_users_none_of_them_root(world):
    if not lab.real_root():
        raise Skipped("needs real root: an ordinary user has just one user")
    world.start()
    users = {name: int(status(world.pid(f"wayleave-{name}d"))["Uid"].split()[1]) for name in ("identity", "management")}
    users["proxy"] = int(status(world.pid("wayleave-proxyd"))["Uid"].split()[1])
    assert users == lab.USERS, users


def test_proxyd_cannot_open_a_state_directory(world):
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
    eventually(world.lab.capture_active, 10, "the rules to come back")
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
