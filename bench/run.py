"""The data plane beside real peers, in one run, through the same gateway with the same certificates.

    bench/run.py PROGRAMS [--rounds N] [--seconds S] [--markdown FILE] [--svg FILE] [--short]

Chain: load generator → proxy under test → TLS gateway (HAProxy, client certificate required) → origin; the proxy on core 0, all else
on core 1. Candidates are interleaved round by round; figures are medians. CPU is user + system time of the proxy alone.

    plain TCP in, a TLS connection per flow     haproxy (tcp), nginx (stream), nginx with 256 KiB buffers, stunnel
    CONNECT in, shared HTTP/2 out               haproxy, nghttpx
    plain TCP in, CONNECT out                   wayleave h1 (a resumed TLS connection per flow), wayleave h2 (shared)
"""

from __future__ import annotations

import argparse
import os
import plistlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "lab")]

import lab  # noqa: E402

TLS_PORT, CONNECT_PORT, PLAIN, CONNECTED = 7443, 7444, 9100, 9101
GB = 1e9


class Candidate:
    def __init__(self, name: str, port: int, start, via_connect: bool = False, shared: bool = False):
        self.name, self.port, self.start, self.via_connect, self.shared = name, port, start, via_connect, shared


class Rig:
    def __init__(self, machine: lab.Lab, load: Path):
        self.machine, self.load, self.work = machine, load, machine.work
        self.candidates: list[Candidate] = []
        self.missing: list[str] = []

    def process(self, name: str, core: int, *command, **options):
        return self.machine.start(name, "device", "taskset", "-c", core, *command, **options)

    # --- the same ends for everybody ---

    def ends(self) -> None:
        w = self.work
        content = plistlib.loads((lab.ROOT / "examples/pkcs12.mobileconfig").read_bytes())
        p12 = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.security.pkcs12")
        (w / "device.p12").write_bytes(p12["PayloadContent"])
        lab.run("openssl", "pkcs12", "-in", w / "device.p12", "-passin", f"pass:{p12['Password']}", "-nodes", "-clcerts", "-out", w / "device.pem")
        (w / "gateway.pem").write_text((lab.PKI / "server.crt").read_text() + (lab.PKI / "server.key").read_text())
        (w / "gateway.cfg").write_text(f"""
global
    nbthread 1
    maxconn 9900
    tune.h2.max-concurrent-streams 100
    tune.h2.initial-window-size 4194304
    tune.bufsize 65536
defaults
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout tunnel 1h
frontend tls
    mode tcp
    bind 127.0.0.1:{TLS_PORT} ssl crt {w}/gateway.pem ca-file {lab.PKI}/device-ca.crt verify required ssl-min-ver TLSv1.3
    default_backend plain
backend plain
    mode tcp
    server o 127.0.0.1:{PLAIN}
frontend connect
    mode http
    bind 127.0.0.1:{CONNECT_PORT} ssl crt {w}/gateway.pem ca-file {lab.PKI}/device-ca.crt verify required alpn h2,http/1.1 ssl-min-ver TLSv1.3
    default_backend connected
backend connected
    mode http
    server o 127.0.0.1:{CONNECTED}
""")
        self.process("origin", 1, self.load, "origin", "--plain", PLAIN, "--connect", CONNECTED)
        self.process("gateway-haproxy", 1, "haproxy", "-db", "-f", w / "gateway.cfg")
        for name, port in (("origin", PLAIN), ("gateway-haproxy", CONNECT_PORT)):
            self.machine.listening(name, "device", port)

    # --- the candidates ---

    def haproxy(self, name: str, port: int, body: str) -> None:
        (self.work / f"{name}.cfg").write_text(f"""
global
    nbthread 1
    maxconn 9900
    tune.h2.max-concurrent-streams 1000
    tune.h2.initial-window-size 4194304
defaults
    timeout connect 5s
    timeout client 300s
    timeout server 300s
    timeout tunnel 1h
{body}
""")
        self.process(name, 0, "haproxy", "-db", "-f", self.work / f"{name}.cfg")

    def server_line(self) -> str:
        return f"ssl crt {self.work}/device.pem ca-file {lab.PKI}/server-ca.crt verify required verifyhost gateway.lab sni str(gateway.lab)"

    def nginx(self, name: str, port: int, buffers: str) -> None:
        folder = self.work / name
        folder.mkdir()
        (folder / "nginx.conf").write_text(f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 20000;
events {{ worker_connections 16000; }}
stream {{
  server {{
    listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{TLS_PORT}; proxy_ssl on; {buffers} tcp_nodelay on;
    proxy_ssl_certificate {self.work}/device.pem; proxy_ssl_certificate_key {self.work}/device.pem;
    proxy_ssl_trusted_certificate {lab.PKI}/server-ca.crt; proxy_ssl_verify on; proxy_ssl_name gateway.lab; proxy_ssl_server_name on;
    proxy_ssl_protocols TLSv1.3;
  }}
}}
""")
        self.process(name, 0, "nginx", "-e", folder / "error.log", "-c", folder / "nginx.conf")

    def stunnel(self, name: str, port: int) -> None:
        (self.work / "stunnel.conf").write_text(f"""
foreground = yes
pid =
[t]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{TLS_PORT}
cert = {self.work}/device.pem
CAfile = {lab.PKI}/server-ca.crt
verifyChain = yes
checkHost = gateway.lab
sni = gateway.lab
sslVersionMin = TLSv1.3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
""")
        self.process(name, 0, "stunnel4", self.work / "stunnel.conf")

    def nghttpx(self, name: str, port: int) -> None:
        (self.work / "nghttpx.conf").write_text(f"""
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
errorlog-file={self.work}/nghttpx-error.log
""")
        self.process(name, 0, "nghttpx", f"--conf={self.work}/nghttpx.conf")

    def wayleave(self, protocol: str, name: str, port: int) -> None:
        content = plistlib.loads((lab.ROOT / "examples/pkcs12.mobileconfig").read_bytes())
        vpn = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.vpn.managed")
        vpn["VendorConfig"].update({"GatewayURL": f"https://gateway.lab:{CONNECT_PORT}", "GatewayProtocol": protocol,
                                    "GatewayAddresses": ["127.0.0.1"]})
        folder = self.work / name
        folder.mkdir()
        (folder / "profile.mobileconfig").write_bytes(plistlib.dumps(content))
        runtime = folder / "run"
        command = ["taskset", "-c", "0", lab.BIN / "wayleave", "run", "--runtime-dir", runtime, "--state-dir", folder / "state", "--log-level", "error"]
        for argument in ("--no-capture", f"--listen=127.0.0.1:{port}", "--target=10.88.0.10:9", "--workers=1"):
            command.append(f"--proxy-arg={argument}")
        if lab.real_root():
            for user, number in lab.USERS.items():
                command += [f"--{user}-user", f"{number}:{number}"]
        self.machine.start(name, "device", *command)
        lab.wait_until(lambda: self.machine.alive(name) or all(lab.answers(runtime / f"{s}.sock") for s in ("identity", "management", "proxy")), 20, name)
        installed = self.machine.inside("device", lab.BIN / "wayleave", "--runtime-dir", runtime, "profile", "install", folder / "profile.mobileconfig", check=False)
        if installed.returncode != 0:
            raise lab.LabError(installed.stdout)
        lab.wait_until(lambda: "configurations in force count=1" in "x" or self.machine.inside(
            "device", lab.BIN / "wayleave", "--runtime-dir", runtime, "status", "--json", check=False).stdout.count('"includedRules"') > 0, 10, "the configuration")

    def start_all(self) -> None:
        def connect_mux(name, port):
            self.haproxy(name, port, f"frontend f\n mode http\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n mode http\n http-reuse always\n"
                                     f" server g 127.0.0.1:{CONNECT_PORT} {self.server_line()} alpn h2 pool-max-conn 1000 max-reuse -1\n")

        def plain_tcp(name, port):
            self.haproxy(name, port, f"listen t\n mode tcp\n bind 127.0.0.1:{port}\n server g 127.0.0.1:{TLS_PORT} {self.server_line()}\n")
        wanted = [Candidate("haproxy", 8001, plain_tcp), Candidate("nginx", 8002, lambda n, p: self.nginx(n, p, "")),
                  Candidate("nginx 256k", 8003, lambda n, p: self.nginx("nginx256", p, "proxy_buffer_size 256k;")),
                  Candidate("stunnel", 8004, self.stunnel), Candidate("haproxy h2", 8005, connect_mux, True, True),
                  Candidate("nghttpx h2", 8006, self.nghttpx, True, True),
                  Candidate("wayleave h1", 8007, lambda n, p: self.wayleave("h1", "wayleave-h1", p)),
                  Candidate("wayleave h2", 8008, lambda n, p: self.wayleave("h2", "wayleave-h2", p), shared=True)]
        for candidate in wanted:
            before = set(self.machine.processes)
            try:
                candidate.start(candidate.name.replace(" ", "-"), candidate.port)
                new = next(n for n in self.machine.processes if n not in before)
                self.machine.listening(new, "device", candidate.port)
                candidate.process = new
                self.candidates.append(candidate)
            except (lab.LabError, FileNotFoundError, StopIteration) as reason:
                self.missing.append(f"{candidate.name}: {str(reason).splitlines()[0]}")

    # --- measuring ---

    def pids(self, candidate: Candidate) -> list[int]:
        """The proxy's processes: for wayleave proxyd alone, for others the whole tree below what was started."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                except OSError:
                    pass
        tree, todo = set(), [self.machine.processes[candidate.process].pid]
        while todo:
            pid = todo.pop()
            tree.add(pid)
            todo += [child for child, parent in parents.items() if parent == pid and child not in tree]
        if candidate.name.startswith("wayleave"):
            tree = {p for p in tree if b"wayleave-proxyd" in Path(f"/proc/{p}/cmdline").read_bytes()}
        return sorted(tree)

    def cpu(self, candidate: Candidate) -> float:
        ticks = 0
        for pid in self.pids(candidate):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss(self, candidate: Candidate) -> int:
        return sum(int(line.split()[1]) for pid in self.pids(candidate) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                   if line.startswith("VmRSS"))

    def command(self, candidate: Candidate, mode: str, flows: int, seconds: float) -> list[str]:
        command = ["ip", "netns", "exec", "device", "taskset", "-c", "1", self.load, "run", "--target", f"127.0.0.1:{candidate.port}", "--mode", mode,
                   "--flows", flows, "--seconds", seconds]
        return [str(part) for part in command + (["--via-connect"] if candidate.via_connect else [])]

    def once(self, candidate: Candidate, mode: str, flows: int, seconds: float) -> dict:
        before = self.cpu(candidate)
        result = subprocess.run(self.command(candidate, mode, flows, seconds), capture_output=True, text=True, check=True)
        spent = self.cpu(candidate) - before
        numbers = [float(n) for n in result.stdout.split()]
        whole = (min(1.0, seconds / 4) + seconds) / seconds  # CPU was spent during the warm-up too
        if mode in ("down", "up"):
            moved = numbers[0]
            return {"MB/s": moved / numbers[1] / 1e6, "cpu": spent / whole / (moved / GB) if moved else float("inf"), "failures": numbers[2]}
        return {"per second": numbers[0] / numbers[1], "p50": numbers[2], "p99": numbers[3], "cpu": spent / whole / max(1, numbers[0]) * 1000, "failures": numbers[4]}

    def idle(self, candidate: Candidate, flows: int) -> float:
        before = self.rss(candidate)
        process = subprocess.Popen(self.command(candidate, "idle", flows, 60), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        opened = int(process.stdout.readline().split()[0])
        grown = self.rss(candidate) - before
        process.communicate("\n")
        return grown / max(1, opened) if opened >= flows * 0.99 else float("nan")


COLUMNS = [("down 1", "down", 1), ("down 16", "down", 16), ("up 1", "up", 1), ("up 16", "up", 16), ("new flows", "rate", 16), ("ping 1", "ping", 1),
           ("ping 32", "ping", 32)]


def show(column: str, value: dict) -> str:
    if column.startswith(("down", "up")):
        return f"{value['MB/s']:.0f} MB/s, {value['cpu']:.2f} s/GB"
    if column == "new flows":
        return f"{value['per second']:.0f}/s, {value['cpu']:.2f} ms"
    return f"{value['p50']:.0f} / {value['p99']:.0f} µs"


def medians(runs: list[dict]) -> dict:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def draw(results: dict, order: list[str]) -> str:
    """CPU seconds per GB and new flows per second as bars; plain SVG."""
    parts, y = [], 24
    def text(x, at, words, size=12, anchor="start", weight="normal"):
        parts.append(f'<text x="{x}" y="{at}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>')
    for title, column, key, better in (("CPU seconds per GB, one flow down (less is better)", "down 1", "cpu", min),
                                       ("CPU seconds per GB, one flow up (less is better)", "up 1", "cpu", min),
                                       ("new flows per second (more is better)", "new flows", "per second", max)):
        values = {name: results[name][column][key] for name in order if column in results[name]}
        top = max(v for v in values.values() if v != float("inf"))
        text(10, y, title, 14, weight="bold")
        for name, value in values.items():
            y += 20
            width = 420 * min(value, top) / top
            colour = "#2a6f97" if name.startswith("wayleave") else "#b0b7bd"
            text(110, y + 11, name, anchor="end")
            parts.append(f'<rect x="118" y="{y}" width="{width:.1f}" height="14" fill="{colour}"/>')
            text(124 + width, y + 11, f"{value:.2f}" if value < 100 else f"{value:.0f}")
        y += 44
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
            + "".join(parts) + "</svg>\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("load", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--idle-flows", type=int, default=1000)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    options.load = options.load.resolve()
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    machine = lab.Lab(work)
    try:
        machine.up()
        work.chmod(0o755)
        rig = Rig(machine, options.load)
        rig.ends()
        rig.start_all()
        results: dict[str, dict] = {c.name: {} for c in rig.candidates}
        for column, mode, flows in COLUMNS:
            runs: dict[str, list[dict]] = {c.name: [] for c in rig.candidates}
            for number in range(options.rounds):
                for candidate in rig.candidates:
                    print(f"\r{column}, round {number + 1} of {options.rounds}: {candidate.name:<14}", end="", file=sys.stderr, flush=True)
                    runs[candidate.name].append(rig.once(candidate, mode, flows, options.seconds))
            for name, measured in runs.items():
                results[name][column] = medians(measured)
        for candidate in rig.candidates:
            print(f"\ridle: {candidate.name:<40}", end="", file=sys.stderr, flush=True)
            results[candidate.name]["idle"] = rig.idle(candidate, options.idle_flows)
        print(file=sys.stderr)
        order = [c.name for c in rig.candidates]
        lines = ["| proxy | " + " | ".join(c for c, _, _ in COLUMNS) + f" | RSS per idle flow ({options.idle_flows}) |", "| --- |" * 1 + " --- |" * (len(COLUMNS) + 1)]
        for name in order:
            lines.append(f"| {name} | " + " | ".join(show(c, results[name][c]) for c, _, _ in COLUMNS) + f" | {results[name]['idle']:.1f} KiB |")
        table = "\n".join(lines) + "\n"
        for reason in rig.missing:
            table += f"\nNot measured: {reason}"
        failures = {n: sum(int(v.get("failures", 0)) for v in r.values() if isinstance(v, dict)) for n, r in results.items()}
        table += "\nFailed flows: " + ", ".join(f"{n} {f}" for n, f in failures.items()) + "\n"
        print(table)
        if options.markdown:
            options.markdown.write_text(table)
        if options.svg:
            options.svg.write_text(draw(results, order))
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
