"""The chain that is measured: load generator → proxy under test → TLS gateway with origin, in a network namespace of its own.

The gateway is our own cheapest one (gateway.cc), so that the proxy is the limit and not what stands behind it; or, to see what is left of
that in real company, HAProxy with an origin behind. The proxy runs on core 0, everything else on core 1. All candidates stand between the same ends, with the same certificates (P-384,
the gateway demands one of the device) and TLS 1.3. A candidate is told apart by what goes in and what comes out of it:

    plain TCP in, a TLS connection per flow out     haproxy, nginx (stream), nginx with 256 KiB buffers, stunnel, ghostunnel
    CONNECT in, a TLS connection per flow out       haproxy h1
    CONNECT in, shared HTTP/2 out                   haproxy h2, nghttpx h2
    plain TCP in, CONNECT out                       wayleave h1 (a connection per flow), wayleave h2 (shared)
    captured flows in, CONNECT out                  redsocks with haproxy h2 behind it; wayleave h2 with its own capture
"""

from __future__ import annotations

import contextlib
import json
import os
import plistlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "lab")]

import lab  # noqa: E402

TLS_PORT, CONNECT_PORT, PLAIN, CONNECTED = 7443, 7444, 9100, 9101
PROXY_CORE, ENDS_CORE = 0, 1
# Two descriptors a flow under a limit of 20,000.
MAX_CONNECTIONS = 9900
GHOSTUNNEL = Path(os.environ.get("WAYLEAVE_CACHE") or Path.home() / ".cache" / "wayleave") / "go" / "ghostunnel-v1.8.4"


def build_ghostunnel() -> None:
    """Once, outside the source tree, as bench/ghostunnel pins it: Debian has none. Raises with the reason when it cannot be had."""
    if GHOSTUNNEL.exists():
        return
    if not os.environ.get("BENCH_PEERS"):
        raise lab.LabError("not built yet: BENCH_PEERS=1 builds it, once, in some two minutes")
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise lab.LabError("no Go toolchain (1.25 or later, newer than Debian's)")
    GHOSTUNNEL.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        built = Path(work) / "ghostunnel"
        result = subprocess.run([go, "build", "-o", built, "github.com/ghostunnel/ghostunnel"], cwd=Path(__file__).resolve().parent / "ghostunnel",
                                capture_output=True, text=True, timeout=240)
        if result.returncode != 0:
            raise lab.LabError((result.stderr.strip().splitlines() or ["go build failed"])[-1])
        shutil.copy(built, GHOSTUNNEL)


@dataclass
class Candidate:
    name: str
    target: str                         # where the load generator connects
    start: Callable[[str], list[str]]   # given a name for its files; returns the names of the processes it started
    via_connect: bool = False           # the load generator asks for the tunnel
    kind: str = "per flow"              # or "full", "tuned", "shared", "transparent": what it is compared with
    only: tuple[str, ...] = ()          # columns it is measured in; all when empty
    ours: bool = False
    most_flows: int = 9500
    processes: list[str] = field(default_factory=list)


class Rig:
    def __init__(self, machine: lab.Lab, programs: Path, gateway: str = "own"):
        self.machine, self.work, self.gateway = machine, machine.work, gateway
        self.load, self.own_gateway = programs / "wayleave-bench-load", programs / "wayleave-bench-gateway"
        self.tls_port = CONNECT_PORT if gateway == "own" else TLS_PORT
        self.missing: dict[str, str] = {}

    def process(self, name: str, core: int, *command, **options):
        return self.machine.start(name, "device", "taskset", "-c", core, *command, **options)

    # --- the same ends for everybody ---

    def ends(self) -> None:
        w = self.work
        content = plistlib.loads((lab.ROOT / "examples/pkcs12.mobileconfig").read_bytes())
        p12 = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.security.pkcs12")
        (w / "device.p12").write_bytes(p12["PayloadContent"])
        lab.run("openssl", "pkcs12", "-in", w / "device.p12", "-passin", f"pass:{p12['Password']}", "-nodes", "-clcerts", "-out", w / "device.pem")
        if self.gateway == "own":
            self.process("gateway", ENDS_CORE, self.own_gateway, "--port", CONNECT_PORT, "--certificate", lab.PKI / "server.crt", "--key",
                         lab.PKI / "server.key", "--client-ca", lab.PKI / "device-ca.crt")
            return self.machine.listening("gateway", "device", CONNECT_PORT)
        (w / "gateway.pem").write_text((lab.PKI / "server.crt").read_text() + (lab.PKI / "server.key").read_text())
        bind = f"ssl crt {w}/gateway.pem ca-file {lab.PKI}/device-ca.crt verify required ssl-min-ver TLSv1.3"
        # Several addresses of the origin: thousands of flows a second would use up the ports towards one.
        def servers(port):
            return "\n".join(f"    server o{n} 127.0.1.{n}:{port}" for n in range(1, 9))
        (w / "gateway.cfg").write_text(f"""
global
    nbthread 1
    maxconn {MAX_CONNECTIONS}
    tune.h2.max-concurrent-streams 100
    tune.h2.initial-window-size 4194304
    tune.bufsize 65536
defaults
    timeout connect 30s
    timeout client 300s
    timeout server 300s
    timeout tunnel 1h
frontend tls
    mode tcp
    bind 127.0.0.1:{TLS_PORT} {bind}
    default_backend plain
backend plain
    mode tcp
{servers(PLAIN)}
frontend connect
    mode http
    bind 127.0.0.1:{CONNECT_PORT} {bind} alpn h2,http/1.1
    default_backend connected
backend connected
    mode http
{servers(CONNECTED)}
""")
        self.process("origin", ENDS_CORE, self.load, "origin", "--plain", PLAIN, "--connect", CONNECTED)
        self.process("gateway", ENDS_CORE, "haproxy", "-db", "-f", w / "gateway.cfg")
        for name, port in (("origin", PLAIN), ("gateway", CONNECT_PORT)):
            self.machine.listening(name, "device", port)

    # --- peers ---

    def server_line(self, port: int) -> str:
        return (f"server g 127.0.0.1:{port} ssl crt {self.work}/device.pem ca-file {lab.PKI}/server-ca.crt verify required verifyhost gateway.lab "
                "sni str(gateway.lab)")

    def haproxy(self, name: str, body: str) -> list[str]:
        (self.work / f"{name}.cfg").write_text(f"""
global
    nbthread 1
    maxconn {MAX_CONNECTIONS}
    tune.h2.max-concurrent-streams 1000
    tune.h2.initial-window-size 4194304
defaults
    timeout connect 30s
    timeout client 300s
    timeout server 300s
    timeout tunnel 1h
{body}
""")
        self.process(name, PROXY_CORE, "haproxy", "-db", "-f", self.work / f"{name}.cfg")
        return [name]

    def haproxy_tcp(self, name: str, port: int, more: str = "") -> list[str]:
        return self.haproxy(name, f"listen t\n mode tcp\n bind 127.0.0.1:{port}\n {self.server_line(self.tls_port)} {more}\n")

    def haproxy_connect(self, name: str, port: int, shared: bool) -> list[str]:
        reuse, more = (" http-reuse always\n", "alpn h2 pool-max-conn 1000 max-reuse -1") if shared else ("", "alpn http/1.1")
        return self.haproxy(name, f"frontend f\n mode http\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n mode http\n{reuse}"
                                  f" {self.server_line(CONNECT_PORT)} {more}\n")

    def nginx(self, name: str, port: int, buffers: str) -> list[str]:
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        (folder / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 19900; }}
stream {{
  server {{
    listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{self.tls_port}; proxy_ssl on; {buffers} tcp_nodelay on;
    proxy_ssl_certificate {self.work}/device.pem; proxy_ssl_certificate_key {self.work}/device.pem;
    proxy_ssl_trusted_certificate {lab.PKI}/server-ca.crt; proxy_ssl_verify on; proxy_ssl_name gateway.lab; proxy_ssl_server_name on;
    proxy_ssl_protocols TLSv1.3;
  }}
}}
""")
        self.process(name, PROXY_CORE, "nginx", "-e", folder / "error.log", "-c", folder / "nginx.conf")
        return [name]

    def stunnel(self, name: str, port: int) -> list[str]:
        (self.work / f"{name}.conf").write_text(f"""
foreground = yes
debug = warning
pid =
[t]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{self.tls_port}
cert = {self.work}/device.pem
CAfile = {lab.PKI}/server-ca.crt
verifyChain = yes
checkHost = gateway.lab
sni = gateway.lab
sslVersionMin = TLSv1.3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
""")
        self.process(name, PROXY_CORE, "stunnel4", self.work / f"{name}.conf")
        return [name]

    def ghostunnel(self, name: str, port: int) -> list[str]:
        if reason := os.environ.get("WAYLEAVE_GHOSTUNNEL"):
            raise lab.LabError(reason)
        # As the others: one core, no log line per flow.
        self.process(name, PROXY_CORE, GHOSTUNNEL, "client", "--listen", f"127.0.0.1:{port}", "--target", f"127.0.0.1:{self.tls_port}",
                     "--override-server-name", "gateway.lab", "--cert", self.work / "device.pem", "--key", self.work / "device.pem", "--cacert",
                     lab.PKI / "server-ca.crt", "--quiet", "all", env={"GOMAXPROCS": "1"})
        return [name]

    def nghttpx(self, name: str, port: int) -> list[str]:
        (self.work / f"{name}.conf").write_text(f"""
frontend=127.0.0.1,{port};no-tls
backend=127.0.0.1,{CONNECT_PORT};;tls;proto=h2;sni=gateway.lab
http2-proxy=yes
workers=1
client-private-key-file={self.work}/device.pem
client-cert-file={self.work}/device.pem
cacert={lab.PKI}/server-ca.crt
backend-connections-per-host=1
backend-http2-window-size=4194304
backend-http2-connection-window-size=16777216
accesslog-file=/dev/null
errorlog-file={self.work}/{name}-error.log
""")
        self.process(name, PROXY_CORE, "nghttpx", f"--conf={self.work}/{name}.conf")
        return [name]

    def redsocks(self, name: str, port: int) -> list[str]:
        behind = self.haproxy_connect(f"{name}-haproxy", port + 50, True)
        (self.work / f"{name}.conf").write_text(f"""
base {{ log_debug = off; log_info = off; daemon = off; redirector = iptables; redsocks_conn_max = 9900; rlimit_nofile = 20000; }}
redsocks {{ local_ip = 127.0.0.1; local_port = {port}; listenq = 4096; ip = 127.0.0.1; port = {port + 50}; type = http-connect; }}
""")
        (self.work / f"{name}.nft").write_text(
            f"table ip redsocks {{\n chain out {{\n  type nat hook output priority -100;\n  ip daddr 10.88.0.20 tcp dport 9 redirect to :{port}\n }}\n}}\n")
        self.machine.inside("device", "nft", "-f", self.work / f"{name}.nft")
        self.process(name, PROXY_CORE, "redsocks", "-c", self.work / f"{name}.conf")
        return [name, *behind]

    # --- ours ---

    def profile(self, protocol: str) -> bytes:
        content = plistlib.loads((lab.ROOT / "examples/pkcs12.mobileconfig").read_bytes())
        vpn = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.vpn.managed")
        vpn["VendorConfig"].update({"GatewayURL": f"https://gateway.lab:{CONNECT_PORT}", "GatewayProtocol": protocol,
                                    "GatewayAddresses": ["127.0.0.1"]})
        return plistlib.dumps(content)

    def wayleave(self, name: str, profile: bytes, port: int | None, *arguments: str) -> list[str]:
        """The three daemons; without a port, with capture. Only proxyd counts as the proxy: see pids()."""
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        (folder / "profile.mobileconfig").write_bytes(profile)
        runtime = folder / "run"
        command = ["taskset", "-c", PROXY_CORE, lab.BIN / "wayleave", "run", "--runtime-dir", runtime, "--state-dir", folder / "state",
                   "--log-level", "error", "--proxy-arg=--workers=1", *arguments]
        if "--grants-dir" not in arguments:
            command += ["--grants-dir", lab.ROOT / "packaging/grants.d"]
        if port is not None:
            command += ["--proxy-arg=--no-capture", f"--proxy-arg=--listen=127.0.0.1:{port}", "--proxy-arg=--target=10.88.0.10:9"]
        if lab.real_root():
            for user, number in lab.USERS.items():
                command += [f"--{user}-user", f"{number}:{number}"]
        self.machine.start(name, "device", *command)
        lab.wait_until(lambda: self.machine.alive(name) or all(lab.answers(runtime / f"{s}.sock") for s in ("identity", "management", "proxy")), 20, name)
        self.control(name, "profile", "install", folder / "profile.mobileconfig")
        # Before proxyd has heard of it, a flow that only --listen brings goes its own way and fails.
        lab.wait_until(lambda: self.carries(name), 20, f"{name} to have its configuration")
        return [name]

    def carries(self, name: str) -> bool:
        known = json.loads(self.control(name, "status", "--json"))["proxy"].get("configurations", [])
        return bool(known) and all(c["identity"]["state"] == "ready" for c in known)

    def control(self, name: str, *arguments) -> str:
        result = self.machine.inside("device", lab.BIN / "wayleave", "--runtime-dir", self.work / name / "run", *arguments, check=False)
        if result.returncode != 0:
            raise lab.LabError(f"{name}: wayleave {' '.join(map(str, arguments))}: {result.stdout}")
        return result.stdout

    # --- all of them ---

    def catalogue(self) -> list[Candidate]:
        def here(port):
            return f"127.0.0.1:{port}"
        return [
            Candidate("haproxy", here(8001), lambda n: self.haproxy_tcp(n, 8001)),
            Candidate("haproxy, no tickets", here(8011), lambda n: self.haproxy_tcp(n, 8011, "no-ssl-reuse"), kind="full", only=("new flows",)),
            Candidate("nginx", here(8002), lambda n: self.nginx(n, 8002, "")),
            Candidate("nginx 256k", here(8003), lambda n: self.nginx(n, 8003, "proxy_buffer_size 256k;"), kind="tuned"),
            Candidate("stunnel", here(8004), lambda n: self.stunnel(n, 8004)),
            Candidate("ghostunnel", here(8012), lambda n: self.ghostunnel(n, 8012), most_flows=1000),  # no tickets: ten thousand would take a minute
            Candidate("haproxy h1", here(8005), lambda n: self.haproxy_connect(n, 8005, False), via_connect=True),
            Candidate("haproxy h2", here(8006), lambda n: self.haproxy_connect(n, 8006, True), via_connect=True, kind="shared"),
            Candidate("nghttpx h2", here(8007), lambda n: self.nghttpx(n, 8007), via_connect=True, kind="shared"),
            Candidate("wayleave h1", here(8008), lambda n: self.wayleave(n, self.profile("h1"), 8008), ours=True),
            Candidate("wayleave h2", here(8009), lambda n: self.wayleave(n, self.profile("h2"), 8009), ours=True, kind="shared", most_flows=19000),
            Candidate("redsocks+haproxy h2", "10.88.0.20:9", lambda n: self.redsocks(n, 8010), kind="transparent", most_flows=1000),
            Candidate("wayleave h2 captured", "10.88.0.30:9", lambda n: self.wayleave(n, self.profile("h2"), None), ours=True, kind="transparent"),
        ]

    def start(self, candidate: Candidate) -> bool:
        """Ready when a flow has gone through it."""
        try:
            candidate.processes = candidate.start(candidate.name.replace(" ", "-").replace("+", "-").replace(",", ""))
            def ready():
                for name in candidate.processes:
                    self.machine.alive(name)
                return self.run(candidate, "rate", 1, seconds=0.1)["count"] > 0
            lab.wait_until(ready, 15, f"{candidate.name} to carry a flow", step=0.1)
            return True
        except (lab.LabError, FileNotFoundError, KeyError) as reason:
            self.missing[candidate.name] = str(reason).splitlines()[0]
            return False

    def stop(self, candidate: Candidate) -> None:
        for name in candidate.processes:
            with contextlib.suppress(lab.LabError, KeyError):
                self.machine.stop(name)
        if candidate.name.startswith("redsocks"):
            self.machine.inside("device", "nft", "delete", "table", "ip", "redsocks", check=False)

    # --- measuring ---

    def pids(self, candidate: Candidate) -> list[int]:
        """The processes that carry bytes: of ours proxyd alone, of others the whole tree below what was started."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        tree, todo = set(), [self.machine.processes[name].pid for name in candidate.processes]
        while todo:
            pid = todo.pop()
            tree.add(pid)
            todo += [child for child, parent in parents.items() if parent == pid and child not in tree]
        if candidate.ours:
            tree = {p for p in tree if b"wayleave-proxyd" in Path(f"/proc/{p}/cmdline").read_bytes()}
        return sorted(tree)

    def rss(self, candidate: Candidate, what: str = "Pss") -> float:
        """KiB: what is resident, proportionally where pages are shared ("Pss"), or all of it ("Rss"). Peers of several processes share much."""
        return sum(int(line.split()[1]) for pid in self.pids(candidate) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                   if line.startswith(f"{what}:"))

    def threads(self, candidate: Candidate) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in self.pids(candidate))

    def command(self, candidate: Candidate, mode: str, flows: int, *more) -> list[str]:
        command = ["ip", "netns", "exec", "device", "taskset", "-c", ENDS_CORE, self.load, "run", "--target", candidate.target, "--mode", mode,
                   "--flows", flows, *more]
        return [str(part) for part in command + (["--via-connect"] if candidate.via_connect else [])]

    def run(self, candidate: Candidate, mode: str, flows: int, *more, seconds: float = 2) -> dict:
        watch = ",".join(map(str, self.pids(candidate)))
        result = subprocess.run(self.command(candidate, mode, flows, "--seconds", seconds, "--watch", watch, *more), capture_output=True, text=True)
        if result.returncode != 0:
            raise lab.LabError(f"{candidate.name}: {result.stderr}")
        return json.loads(result.stdout)

    def hold(self, candidate: Candidate, flows: int):
        """Opens flows that then do nothing; close them with release()."""
        process = subprocess.Popen(self.command(candidate, "idle", flows), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, json.loads(process.stdout.readline() or '{"open": 0, "failures": 0}')

    @staticmethod
    def release(process) -> None:
        process.communicate("\n")
