"""What the scenarios of the data plane share: many flows from the device's side, gateways that speak HTTP/2, what proxyd counts."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import select
import selectors
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

from world import changed_vendor, lab

HERE = Path(__file__).resolve().parent
ORIGIN = "10.88.0.10"
ECHO, DISCARD, FLOOD, SILENT, HOLD, RELEASE, RESET, REFUSE, NEVER_READ = 7, 9, 19, 6, 5, 8, 4, 3, 11
CHUNK = 64 * 1024
CLONE_NEWNET = 0x40000000


# --- the device's programs, in this process ---------------------------------------------------------------------------


def in_namespace(name: str, action):
    """Runs `action` in a thread of its own inside the network namespace: sockets stay where they were made."""
    result = []

    def enter():
        with open(f"/run/netns/{name}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                result.append(OSError(ctypes.get_errno(), "setns"))
                return
        try:
            result.append(action())
        except OSError as error:
            result.append(error)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def many_descriptors() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect(port: int, count: int = 1, host: str = ORIGIN, timeout: float = 20) -> list[socket.socket]:
    """Connections of the device's; the proxy accepts before the gateway does."""
    many_descriptors()

    def action():
        made = []
        for _ in range(count):
            one = socket.socket()
            one.settimeout(timeout)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                one.connect((host, port))
            except ConnectionResetError:
                pass  # the proxy's refusal overtook the call's return: an ended flow, as recv() will say
            made.append(one)
        return made
    return in_namespace("device", action)


def close(sockets) -> None:
    for each in sockets:
        each.close()


def reset(sockets) -> None:
    """As a program that is killed in mid-sentence."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        each.close()


def receive(one: socket.socket, count: int) -> bytes:
    got = bytearray()
    while len(got) < count:
        part = one.recv(count - len(got))
        if not part:
            raise ConnectionError(f"ended after {len(got)} of {count} bytes")
        got += part
    return bytes(got)


def exchange(one: socket.socket, message: bytes = b"ping") -> float:
    """Sends, waits for the echo, returns the seconds it took."""
    started = time.monotonic()
    one.sendall(message)
    got = receive(one, len(message))
    assert got == message, f"the echo of {message[:40]!r} is {got[:40]!r}"
    return time.monotonic() - started


def exchange_all(sockets, message: bytes = b"ping") -> None:
    for each in sockets:
        each.sendall(message)
    for each in sockets:
        assert receive(each, len(message)) == message


def wait_ended(sockets, seconds: float) -> list[float]:
    """Waits until every connection has ended or was reset; returns when each did, in seconds from now."""
    started, times = time.monotonic(), []
    with selectors.DefaultSelector() as selector:
        for each in sockets:
            selector.register(each, selectors.EVENT_READ)
        while selector.get_map():
            left = started + seconds - time.monotonic()
            ready = selector.select(left) if left > 0 else []
            assert ready, f"{len(selector.get_map())} of {len(sockets)} flows did not end within {seconds:g} s"
            for key, _ in ready:
                try:
                    ended = not key.fileobj.recv(65536)
                except OSError:
                    ended = True
                if ended:
                    selector.unregister(key.fileobj)
                    times.append(time.monotonic() - started)
    return times


def push(one: socket.socket, seconds: float, most: int = 1 << 30) -> int:
    """Sends as much as the way takes; stops after `seconds` without progress. Returns the bytes."""
    one.setblocking(False)
    sent, block = 0, b"u" * (1 << 20)
    while sent < most:
        if not select.select([], [one], [], seconds)[1]:
            break
        sent += one.send(block[:most - sent])
    one.settimeout(20)
    return sent


def pattern(block: int) -> bytes:
    """Of h2_gateway.py's downloads."""
    return bytes((block * 7 + i) & 0xFF for i in range(256)) * (CHUNK // 256)


class Download:
    """N blocks of 64 KiB from the scriptable gateway, in the background; every byte is compared."""

    def __init__(self, blocks: int, rate: float | None = None):
        self.blocks, self.rate = blocks, rate
        self.received, self.error = 0, ""
        self.socket = connect(20000 + blocks)[0]
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            for block in range(self.blocks):
                data = receive(self.socket, CHUNK)
                if data != pattern(block):
                    self.error = f"block {block} differs"
                    return
                self.received += 1
                if self.rate:
                    time.sleep(CHUNK / self.rate)
            if self.socket.recv(1):
                self.error = "there is more than the end"
        except OSError as error:
            self.error = f"after {self.received} of {self.blocks} blocks: {error}"
        finally:
            self.socket.close()

    def finish(self, seconds: float = 30) -> None:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), f"{self.received} of {self.blocks} blocks after {seconds:g} s"
        assert not self.error, self.error


# --- gateways --------------------------------------------------------------------------------------------------------------


class ScriptedGateway:
    """tests/integration/h2_gateway.py in the gateway's place."""

    def __init__(self, world, *options):
        self.world = world
        if "gateway" in world.lab.processes:
            world.lab.stop("gateway", signal.SIGKILL)
        self.control = world.folder / "gateway.control"
        cas = world.folder / "client-ca.crt"
        cas.write_text("".join(Path(ca).read_text() for ca in world.lab.device_cas))
        world.lab.start("h2-gateway", "network", "/usr/bin/python3", HERE / "h2_gateway.py", self.control, lab.PKI / "server.crt",
                        lab.PKI / "server.key", cas, *options, env={"PYTHONDONTWRITEBYTECODE": "1"})
        world.lab.listening("h2-gateway", "network", int(options[options.index("--port") + 1]) if "--port" in options else 3129)

    def do(self, what: str, **more) -> list[dict]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(self.control))
            control.sendall(json.dumps({"do": what, **more}).encode() + b"\n")
            answer = b""
            while part := control.recv(65536):
                answer += part
        return json.loads(answer)["connections"]

    def connections(self) -> list[dict]:
        return self.do("stats")

    def open_connections(self) -> list[dict]:
        return [c for c in self.connections() if c["open"]]


class Nghttpx:
    """Debian's nghttpx as the gateway, Squid behind it for the CONNECTs."""

    def __init__(self, world, *options):
        self.world, self.options = world, options
        if "gateway" in world.lab.processes:
            world.lab.stop("gateway", signal.SIGKILL)
        user = 13
        folder = self.folder = world.lab.folder(world.folder / "nghttpx", user)
        os.chmod(world.folder, 0o755)
        (folder / "client-ca.crt").write_text("".join(Path(ca).read_text() for ca in world.lab.device_cas))
        for name in ("server.crt", "server.key"):
            shutil.copy(lab.PKI / name, folder)
            if lab.real_root():
                os.chown(folder / name, user, user)
        (folder / "squid.conf").write_text(
            "http_port 127.0.0.1:3128\nhttp_access allow all\naccess_log none\ncache_log /dev/null\npid_filename none\ncache deny all\n"
            f"coredump_dir {folder}\ncache_mem 8 MB\nmax_filedescriptors 16384\nshutdown_lifetime 0 seconds\nvisible_hostname gateway.lab\n"
            "pinger_enable off\nnetdb_filename none\n")
        world.lab.start("squid-behind", "network", "squid", "-N", "-n", f"behind{os.getpid()}", "-f", folder / "squid.conf", user=user)
        world.lab.listening("squid-behind", "network", 3128)
        self.log = folder / "access.log"
        (folder / "nghttpx.conf").write_text(
            "frontend=*,3129\nbackend=127.0.0.1,3128;;proto=http/1.1\nhttp2-proxy=yes\n"
            f"private-key-file={folder}/server.key\ncertificate-file={folder}/server.crt\n"
            f"verify-client=yes\nverify-client-cacert={folder}/client-ca.crt\nno-ocsp=yes\nworkers=1\nsingle-process=yes\n"
            "backend-connections-per-host=5000\nrlimit-nofile=16000\nstream-read-timeout=1h\nstream-write-timeout=1h\nfrontend-read-timeout=1h\n"
            "backend-read-timeout=1h\nbackend-write-timeout=1h\n"
            f"accesslog-file={self.log}\nerrorlog-file={folder}/error.log\n"
            "accesslog-format=$remote_addr:$remote_port $alpn $tls_client_subject_name $tls_client_serial $tls_session_reused \"$request\" $status\n")
        self.start()

    def start(self) -> None:
        self.world.lab.start("nghttpx", "network", "nghttpx", f"--conf={self.folder}/nghttpx.conf", *self.options, user=13)
        self.world.lab.listening("nghttpx", "network", 3129)

    def kill(self) -> None:
        self.world.lab.stop("nghttpx", signal.SIGKILL)

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def start_echo_origin(world) -> None:
    world.lab.start("echo-origin", "network", "/usr/bin/python3", HERE / "echo_origin.py", ORIGIN)
    world.lab.listening("echo-origin", "network", NEVER_READ)


def h2_profile(world, **vendor):
    return world.profile(changed_vendor(GatewayProtocol="h2", **vendor))


# --- what Wayleave says of itself -------------------------------------------------------------------------------------------


def metric(world, name: str, **labels) -> float:
    """The sum of the samples with these labels."""
    text = world.lab.device("curl", "-sS", "--unix-socket", world.lab.runtime / "proxy.sock", "http://localhost/metrics").stdout
    total = 0.0
    for line in text.splitlines():
        match = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
        if match and match[1] == name and all(f'{k}="{v}"' in (match[2] or "") for k, v in labels.items()):
            total += float(match[3])
    return total


def rss_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def wanted_cpu(pid: int) -> dict[int, float]:
    """By thread: the seconds that it ran or could have run, had others not had the CPU. A thread that never sleeps wants it all the time."""
    return {int(task.name): sum(map(int, (task / "schedstat").read_text().split()[:2])) / 1e9 for task in Path(f"/proc/{pid}/task").iterdir()}


def signatures(world) -> int:
    """TLS signatures that identityd made, by its audit log."""
    lines = world.lab.wayleave_json("audit", "show", "--limit", "1000")["lines"]
    return sum(1 for line in lines if line.get("event") == "sign" and line.get("usage") == "tls-client")


@contextlib.contextmanager
def within(seconds: float, what: str):
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took <= seconds, f"{what} took {took:.2f} s, more than {seconds:g} s"
