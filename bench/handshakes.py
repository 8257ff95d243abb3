"""Signatures and mutual TLS handshakes per second with a software TPM's key, alone and with 5, 80, 200 and 600 ms added to each
signature, with and without session tickets; beside the same handshakes by `openssl s_time` with a file key.

    bench/handshakes.py PROGRAM [--seconds S]     prints a Markdown table
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "lab")]

import lab  # noqa: E402

PORT = 7443
THREADS = 4
DELAYS = (0, 5, 80, 200, 600)


def main() -> int:
    program = Path(sys.argv[1]).resolve()
    seconds = float(sys.argv[sys.argv.index("--seconds") + 1]) if "--seconds" in sys.argv else 3.0
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    machine = lab.Lab(work)
    try:
        machine.up()
        tcti = machine.start_tpm()
        lab.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-nodes", "-keyout", work / "ca.key", "-out",
                work / "ca.crt", "-subj", "/CN=Bench CA", "-days", "2", "-addext", "basicConstraints=critical,CA:true")
        keys = {}
        for kind in ("tpm", "software"):
            keys[kind] = ["--kind", kind, "--tcti", tcti, "--key", str(work / f"{kind}.key")]
            machine.inside("device", program, "make-key", *keys[kind], "--csr", work / f"{kind}.csr")
            lab.run("openssl", "x509", "-req", "-inform", "DER", "-in", work / f"{kind}.csr", "-CA", work / "ca.crt", "-CAkey", work / "ca.key",
                    "-CAcreateserial", "-sha384", "-days", "2", "-out", work / f"{kind}.crt")
        lab.run("openssl", "pkey", "-inform", "DER", "-in", work / "software.key", "-out", work / "software.pem")
        for sub in ("tmp", "logs"):
            (work / sub).mkdir()
            work.joinpath(sub).chmod(0o777)
        (work / "index.html").write_text("x" * 100)
        (work / "server.key").write_bytes((lab.PKI / "server.key").read_bytes())
        (work / "server.key").chmod(0o644)
        (work / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid {work}/tmp/nginx.pid; error_log {work}/logs/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {work}/tmp/a; proxy_temp_path {work}/tmp/b; fastcgi_temp_path {work}/tmp/c; uwsgi_temp_path {work}/tmp/d;
  scgi_temp_path {work}/tmp/e;
  server {{
    listen 127.0.0.1:{PORT} ssl; ssl_certificate {lab.PKI}/server.crt; ssl_certificate_key {work}/server.key; ssl_protocols TLSv1.3;
    ssl_client_certificate {work}/ca.crt; ssl_verify_client on; ssl_session_cache shared:x:10m; root {work};
  }}
}}
""")
        machine.start("nginx", "device", "nginx", "-e", work / "logs/error.log", "-c", work / "nginx.conf", user=33)
        machine.listening("nginx", "device", PORT)

        def ours(action: str, kind: str, delay: int, *more: str) -> tuple[float, float, float]:
            result = machine.inside("device", program, action, *keys[kind], "--certificate", work / f"{kind}.crt", "--trust", lab.PKI / "server-ca.crt",
                                    "--port", PORT, "--delay", delay, "--threads", THREADS, "--seconds", max(seconds, delay / 1000 * 5), *more)
            count, took, p50, p99, failures = result.stdout.split()[-5:]
            assert int(failures) == 0, result.stdout
            return int(count) / float(took), float(p50), float(p99)

        def openssl(resume: bool) -> float:
            result = machine.inside("device", "openssl", "s_time", "-connect", f"127.0.0.1:{PORT}", "-cert", work / "software.crt", "-key", work / "software.pem",
                                    "-CAfile", lab.PKI / "server-ca.crt", "-www", "/", "-reuse" if resume else "-new", "-time", max(2, int(seconds)), check=False)
            found = re.findall(r"(\d+) connections in (\d+) real seconds", result.stdout)
            return int(found[-1][0]) / max(1, int(found[-1][1])) if found else 0.0

        def cell(value: tuple[float, float, float]) -> str:
            return f"{value[0]:.1f}/s, p50 {value[1]:.1f} ms, p99 {value[2]:.1f} ms"

        print(f"{THREADS} callers at once, P-384, TLS 1.3, server and client on the same two cores.\n")
        print("| key | signatures | handshakes, full | handshakes, resumed |\n| --- | --- | --- | --- |")
        print(f"| file key, ours | {cell(ours('sign', 'software', 0))} | {cell(ours('run', 'software', 0))} | {cell(ours('run', 'software', 0, '--resume'))} |", flush=True)
        print(f"| file key, `openssl s_time` (one at a time) | | {openssl(False):.0f}/s | {openssl(True):.0f}/s |", flush=True)
        for delay in DELAYS:
            name = "software TPM" + (f" + {delay} ms" if delay else "")
            print(f"| {name} | {cell(ours('sign', 'tpm', delay))} | {cell(ours('run', 'tpm', delay))} | {cell(ours('run', 'tpm', delay, '--resume'))} |", flush=True)
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
