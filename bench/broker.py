"""What the broker costs: resolve and sign round trips through wayleave-identityd, beside the same key in process, p11-kit's remoting
of SoftHSM, and SoftHSM in process; with 1, 16 and 256 clients.

    bench/broker.py PROGRAM IDENTITYD [--seconds S] [--json FILE]     prints a Markdown table
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLIENTS = (1, 16, 256)
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
P11_CLIENT = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")
PIN = "1234"
ECP = "v0.3.25"
CACHE = Path(os.environ.get("WAYLEAVE_CACHE") or Path.home() / ".cache" / "wayleave") / "go"


def run(*command, **more) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout


def waiting(path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{path} did not appear")
        time.sleep(0.02)


class Bench:
    def __init__(self, program: Path, seconds: float):
        self.program, self.seconds = program, seconds
        self.rows: list[dict] = []

    def measure(self, name: str, clients: int, *words, environment: dict | None = None) -> None:
        out = run(self.program, *words, "--clients", clients, "--seconds", self.seconds, env={**os.environ, **(environment or {})})
        count, took, p50, p99, failures = out.split()
        if int(failures):
            raise RuntimeError(f"{name}: {failures} operations failed")
        self.rows.append({"what": name, "clients": clients, "perSecond": int(count) / float(took), "p50us": float(p50), "p99us": float(p99)})


def build_ecp() -> tuple[Path, Path]:
    """Google's signer and our client of it, built once outside the source tree. Raises with the reason when they cannot be had."""
    signer, client = CACHE / f"ecp-signer-{ECP}", CACHE / f"ecp-client-{ECP}"
    if signer.exists() and client.exists():
        return signer, client
    if not os.environ.get("BENCH_PEERS"):
        raise RuntimeError("not built yet: BENCH_PEERS=1 builds it, once")
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if not go:
        raise RuntimeError("no Go toolchain (1.25 or later, newer than Debian's)")
    CACHE.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "1"}
    with tempfile.TemporaryDirectory() as target:
        run(go, "install", f"github.com/googleapis/enterprise-certificate-proxy/internal/signer/linux@{ECP}", env={**environment, "GOBIN": target})
        shutil.copy(Path(target) / "linux", signer)
    run(go, "build", "-o", client, ".", cwd=Path(__file__).parent / "ecp", env=environment)
    return signer, client


def measure_ecp(bench: Bench, work: Path, softhsm: dict) -> None:
    signer, client = build_ecp()
    run("openssl", "x509", "-in", work / "certificate.pem", "-outform", "DER", "-out", work / "certificate.der")
    run("pkcs11-tool", "--module", SOFTHSM, "--token-label", "bench", "--login", "--pin", PIN, "--write-object", work / "certificate.der",
        "--type", "cert", "--label", "bench", "--id", "01", env={**os.environ, **softhsm})
    slot = re.search(r"Slot (\d+)\s", run("softhsm2-util", "--show-slots", env={**os.environ, **softhsm})).group(1)
    config = work / "ecp.json"
    config.write_text(json.dumps({"cert_configs": {"pkcs11": {"label": "bench", "slot": hex(int(slot)), "user_pin": PIN, "module": str(SOFTHSM)}},
                                  "libs": {"ecp": str(signer)}}))
    for clients in CLIENTS:
        count, took, p50, p99, failures = run(client, config, clients, bench.seconds, env={**os.environ, **softhsm}).split()
        if int(failures):
            raise RuntimeError(f"{failures} signatures failed")
        bench.rows.append({"what": "Google ECP + SoftHSM", "clients": clients, "perSecond": int(count) / float(took), "p50us": float(p50),
                           "p99us": float(p99)})


def start_identityd(identityd: Path, program: Path, work: Path) -> tuple[subprocess.Popen, Path]:
    for folder in ("grants", "state", "run"):
        (work / folder).mkdir()
    (work / "state").chmod(0o700)
    (work / "grants" / "10-bench.toml").write_text(
        f'[[grant]]\nname = "bench"\nexecutable = "{program}"\naccept = ["path", "mapped-code", "loader-variables"]\naccess-groups = "*"\n'
        'usages = ["manage", "list", "tls-client"]\nsignatures-per-minute = 1000000\nsignature-burst = 1000000\n')
    (work / "grants" / "10-bench.toml").chmod(0o644)
    log = (work / "identityd.log").open("wb")
    process = subprocess.Popen([identityd, "--state-dir", work / "state", "--socket", work / "run" / "identity.sock", "--grants-dir", work / "grants",
                                "--connections-per-user", "512"], stdout=log, stderr=log)
    waiting(work / "run" / "identity.sock", process)
    return process, work / "run" / "identity.sock"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=Path)
    parser.add_argument("identityd", type=Path)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    program, identityd = options.program.resolve(), options.identityd.resolve()
    bench = Bench(program, options.seconds)
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    work.chmod(0o755)
    processes: list[subprocess.Popen] = []
    skipped: list[str] = []
    try:
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-keyout", work / "key.pem", "-out",
            work / "certificate.pem", "-subj", "/CN=bench", "-days", "2")
        run("openssl", "pkcs12", "-export", "-inkey", work / "key.pem", "-in", work / "certificate.pem", "-out", work / "bench.p12", "-passout", "pass:")
        daemon, socket = start_identityd(identityd, program, work)
        processes.append(daemon)
        reference = run(program, "install", socket, work / "bench.p12").strip()
        for clients in CLIENTS:
            bench.measure("sign in process", clients, "process")
            bench.measure("broker: resolve", clients, "broker", socket, reference, "resolve")
            bench.measure("broker: sign", clients, "broker", socket, reference, "sign")

        if SOFTHSM.exists() and shutil.which("softhsm2-util"):
            (work / "tokens").mkdir()
            (work / "softhsm.conf").write_text(f"directories.tokendir = {work}/tokens\nlog.level = ERROR\n")
            softhsm = {"SOFTHSM2_CONF": str(work / "softhsm.conf")}
            run("softhsm2-util", "--init-token", "--free", "--label", "bench", "--pin", PIN, "--so-pin", PIN, env={**os.environ, **softhsm})
            run("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", work / "key.pem", "-out", work / "key.p8")
            run("softhsm2-util", "--import", work / "key.p8", "--token", "bench", "--label", "bench", "--id", "01", "--pin", PIN,
                env={**os.environ, **softhsm})
            for clients in CLIENTS:
                bench.measure("SoftHSM in process", clients, "pkcs11", SOFTHSM, PIN, "bench", environment=softhsm)
            if P11_CLIENT.exists() and shutil.which("p11-kit"):
                address = work / "p11.sock"
                # Signing needs the PIN in the server too: p11-kit serves the calls of the client, login among them.
                server = subprocess.Popen(["p11-kit", "server", "--foreground", "--provider", SOFTHSM, "--name", address, "pkcs11:token=bench"],
                                          env={**os.environ, **softhsm, "XDG_RUNTIME_DIR": str(work)}, stdout=subprocess.DEVNULL,
                                          stderr=(work / "p11.log").open("wb"))
                processes.append(server)
                waiting(address, server)
                for clients in CLIENTS:
                    bench.measure("p11-kit server + SoftHSM", clients, "pkcs11", P11_CLIENT, PIN, "bench",
                                  environment={"P11_KIT_SERVER_ADDRESS": f"unix:path={address}"})
            else:
                skipped.append("p11-kit remoting: p11-kit is not installed")
            try:
                measure_ecp(bench, work, softhsm)
            except (RuntimeError, OSError, AttributeError, subprocess.TimeoutExpired) as reason:
                skipped.append(f"Google's enterprise-certificate-proxy: {reason}")
        else:
            skipped.append("SoftHSM: softhsm2 is not installed")
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)
        log = (work / "identityd.log").read_text(errors="replace") if (work / "identityd.log").exists() else ""
        if not bench.rows:
            print(re.sub(r"\n+", "\n", log)[-2000:], file=sys.stderr)
        shutil.rmtree(work, ignore_errors=True)

    rate = {(row["what"], row["clients"]): row["perSecond"] for row in bench.rows}
    print("P-384; callers and server on the same two cores.\n")
    print("| what | clients | per second | p50 | p99 | broker: sign, as a multiple of it |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in sorted(bench.rows, key=lambda row: (row["what"], row["clients"])):
        ratio = rate.get(("broker: sign", row["clients"]), 0) / row["perSecond"] if "resolve" not in row["what"] else None
        row["brokerSignRatio"] = ratio
        print(f"| {row['what']} | {row['clients']} | {row['perSecond']:.0f} | {row['p50us'] / 1000:.2f} ms | {row['p99us'] / 1000:.2f} ms | "
              f"{'' if ratio is None else f'{ratio:.2f}'} |")
    for line in skipped:
        print(f"\nskipped: {line}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"rows": bench.rows, "skipped": skipped}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
