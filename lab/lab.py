"""One machine as a device and a network: the lab that `make demo` and the integration tests share.

Everything happens inside namespaces of the lab's own (mount, network, process ids; a user namespace too when the caller is
not root), so that nothing can leak: when the first process of the lab ends, the kernel ends the rest.

    device namespace                         network namespace
    10.77.0.2, fd77::2  ─────veth─────►  10.77.0.1, fd77::1   gateway.lab:3129  (Squid, demands a client certificate)
    wayleave, curl                       10.88.0.10, fd88::10  origin.lab:443    (nginx; packets from the device refused)
                                         10.99.0.10, fd99::10  outside.lab       (nginx; reachable directly)
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import plistlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PKI = ROOT / "lab" / "pki"
BIN = Path(os.environ.get("WAYLEAVE_BIN", ROOT / "build" / "bin")).resolve()

# The three daemons' users in the lab. As root they are plain numbers that need no entry in /etc/passwd; without root there is
# just one user, and each daemon still drops every capability it does not need.
USERS = {"identity": 64101, "management": 64102, "proxy": 64103}


class LabError(RuntimeError):
    """Something the lab needs did not work; the message says what and where its log is."""


def enter_namespaces() -> None:
    """Re-executes this program inside fresh namespaces, once."""
    if os.environ.get("WAYLEAVE_LAB") == "1":
        return
    # The whole chain must be able to kill what it started, or an interrupted demo leaves daemons behind.
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        command[1:1] = ["--user", "--map-root-user"]
    environment = dict(os.environ, WAYLEAVE_LAB="1", WAYLEAVE_LAB_ROOT="1" if os.geteuid() == 0 else "0")
    os.execvpe("unshare", command + [sys.executable, *sys.argv], environment)


def real_root() -> bool:
    return os.environ.get("WAYLEAVE_LAB_ROOT") == "1"


def run(*command: str, check: bool = True, quiet: bool = True, **options) -> subprocess.CompletedProcess:
    result = subprocess.run([str(part) for part in command], text=True,
                            stdout=subprocess.PIPE if quiet else None, stderr=subprocess.STDOUT if quiet else None, **options)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout or ''}")
    return result


def wait_until(condition, seconds: float, what: str, step: float = 0.02):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError(f"timed out after {seconds:g} s: {what}")
        time.sleep(step)


def answers(path: Path) -> bool:
    """Somebody listens on this unix socket (a killed daemon leaves its file behind)."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def reference_hex(identity: dict) -> str:
    return base64.b64decode(identity["reference"]).hex()


class Lab:
    def __init__(self, work: Path):
        self.work = work
        self.processes: dict[str, subprocess.Popen] = {}
        self.runtime = work / "run"
        self.state = work / "state"
        self.curl_ca = work / "web-ca.crt"
        self.device_cas = [PKI / "device-ca.crt"]
        self.gateway_log = work / "gateway-access.log"

    # --- the machine -------------------------------------------------------------------------------------------------

    def up(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        os.chmod(self.work, 0o755)
        run("mount", "--make-rprivate", "/")
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        hosts = self.work / "hosts"
        hosts.write_text("127.0.0.1 localhost\n::1 localhost\n"
                         "10.77.0.1 gateway.lab issuer.lab\n"
                         "10.88.0.10 origin.lab\nfd88::10 origin.lab\nfd88::10 origin6.lab\n"
                         "10.99.0.10 outside.lab\nfd99::10 outside.lab\n")
        run("mount", "--bind", hosts, "/etc/hosts")
        run("ip", "link", "set", "lo", "up")
        for name in ("device", "network"):
            run("ip", "netns", "add", name)
            self.inside(name, "ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "wl-device", "netns", "device", "type", "veth", "peer", "name", "wl-network", "netns", "network")
        for name, link, v4, v6 in (("device", "wl-device", "10.77.0.2/24", "fd77::2/64"),
                                   ("network", "wl-network", "10.77.0.1/24", "fd77::1/64")):
            self.inside(name, "ip", "addr", "add", v4, "dev", link)
            self.inside(name, "ip", "-6", "addr", "add", v6, "dev", link, "nodad")
            self.inside(name, "ip", "link", "set", link, "up")
        for address in ("10.88.0.10/32", "10.99.0.10/32"):
            self.inside("network", "ip", "addr", "add", address, "dev", "lo")
        for address in ("fd88::10/128", "fd99::10/128"):
            self.inside("network", "ip", "-6", "addr", "add", address, "dev", "lo", "nodad")
        self.inside("device", "ip", "route", "add", "default", "via", "10.77.0.1")
        self.inside("device", "ip", "-6", "route", "add", "default", "via", "fd77::1")
        # The origin can be had through the gateway only.
        rules = self.work / "network.nft"
        rules.write_text("""
table inet lab {
  chain input {
    type filter hook input priority filter; policy accept;
    iifname "wl-network" ip daddr 10.88.0.0/16 reject
    iifname "wl-network" ip6 daddr fd88::/16 reject
  }
}
""")
        self.inside("network", "nft", "-f", rules)
        # Many short flows must not run out of ports or backlog.
        for name in ("device", "network"):
            for key, value in (("net.ipv4.ip_local_port_range", "10000 65000"), ("net.core.somaxconn", "4096"),
                               ("net.ipv4.tcp_max_syn_backlog", "4096"), ("net.ipv4.tcp_tw_reuse", "1")):
                self.inside(name, "sysctl", "-q", "-w", f"{key}={value}")

    @staticmethod
    def inside(name: str, *command, **options) -> subprocess.CompletedProcess:
        return run("ip", "netns", "exec", name, *command, **options)

    def start(self, name: str, namespace: str, *command, user: int | None = None, env: dict | None = None,
              log: Path | None = None) -> subprocess.Popen:
        """Starts a long-lived process; its output goes to WORK/NAME.log."""
        prefix = ["ip", "netns", "exec", namespace]
        if user is not None:
            # Servers of others refuse to run as root or want a user of their own; a second user namespace gives them one
            # where there is only root.
            prefix += (["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if real_root() else
                       ["unshare", "--user", f"--map-user={user}", f"--map-group={user}"])
        output = open(log or self.work / f"{name}.log", "ab")
        process = subprocess.Popen([str(part) for part in (*prefix, *command)], stdout=output, stderr=subprocess.STDOUT,
                                   stdin=subprocess.DEVNULL, env=dict(os.environ, **(env or {})))
        self.processes[name] = process
        return process

    def stop(self, name: str, how: int = signal.SIGTERM, seconds: float = 15) -> int:
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired as timeout:
                process.kill()
                process.wait()
                raise LabError(f"{name} did not stop within {seconds:g} s of signal {how}") from timeout
        return process.returncode

    def alive(self, name: str) -> None:
        process = self.processes[name]
        if process.poll() is not None:
            raise LabError(f"{name} ended with status {process.returncode}\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 25) -> str:
        path = self.work / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def listening(self, name: str, namespace: str, port: int, seconds: float = 20) -> None:
        def ready():
            self.alive(name)
            return f":{port} " in self.inside(namespace, "ss", "-Hltn").stdout
        wait_until(ready, seconds, f"{name} to listen on port {port}; its log: {self.work / (name + '.log')}")

    def folder(self, path: Path, user: int) -> Path:
        path.mkdir(parents=True, exist_ok=True)
        if real_root():
            os.chown(path, user, user)
        return path

    # --- the network's side ------------------------------------------------------------------------------------------

    def make_web_certificates(self) -> None:
        """A web CA that the device's programs trust, and origin.lab's certificate."""
        w = self.work
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", w / "web-ca.key",
            "-out", self.curl_ca, "-days", "2", "-subj", "/CN=Lab Web CA", "-addext", "basicConstraints=critical,CA:true")
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", w / "origin.key",
            "-out", w / "origin.csr", "-subj", "/CN=origin.lab")
        extensions = w / "origin.ext"
        extensions.write_text("subjectAltName=DNS:origin.lab,DNS:origin6.lab,DNS:outside.lab,IP:10.88.0.10,IP:10.99.0.10\n")
        run("openssl", "x509", "-req", "-in", w / "origin.csr", "-CA", self.curl_ca, "-CAkey", w / "web-ca.key", "-CAcreateserial",
            "-days", "2", "-out", w / "origin.crt", "-extfile", extensions)

    def start_origin(self) -> None:
        self.make_web_certificates()
        user = 33
        root = self.folder(self.work / "origin", user)
        (root / "index.html").write_text("Hello from the origin.\n")
        for name in ("origin.key", "origin.crt"):
            shutil.copy(self.work / name, root)
            if real_root():
                os.chown(root / name, user, user)
        for sub in ("tmp", "logs"):
            self.folder(root / sub, user)
        conf = root / "nginx.conf"
        conf.write_text(f"""
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/logs/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  client_max_body_size 0; client_body_temp_path {root}/tmp/body; proxy_temp_path {root}/tmp/proxy;
  fastcgi_temp_path {root}/tmp/fcgi; uwsgi_temp_path {root}/tmp/uwsgi; scgi_temp_path {root}/tmp/scgi;
  server {{
    listen 10.88.0.10:443 ssl; listen [fd88::10]:443 ssl; listen 10.99.0.10:443 ssl; listen [fd99::10]:443 ssl;
    listen 10.88.0.10:80; listen [fd88::10]:80; listen 10.99.0.10:80; listen [fd99::10]:80;
    ssl_certificate {root}/origin.crt; ssl_certificate_key {root}/origin.key;
    root {root};
  }}
}}
""")
        # nginx is not root here: let ordinary users listen on 80 and 443 in this namespace.
        self.inside("network", "sysctl", "-q", "-w", "net.ipv4.ip_unprivileged_port_start=80")
        self.start("origin", "network", "nginx", "-e", root / "logs/error.log", "-c", conf, user=user)
        self.listening("origin", "network", 443)

    def start_gateway(self) -> None:
        """A real Squid that demands a client certificate of one of `device_cas` and logs its subject."""
        user = 13
        folder = self.folder(self.work / "gateway", user)
        cas = folder / "client-ca.crt"
        cas.write_text("".join(Path(ca).read_text() for ca in self.device_cas))
        for name in ("server.crt", "server.key"):
            shutil.copy(PKI / name, folder)
            if real_root():
                os.chown(folder / name, user, user)
        self.gateway_log = folder / "access.log"
        conf = folder / "squid.conf"
        conf.write_text(f"""
https_port [::]:3129 tls-cert={folder}/server.crt tls-key={folder}/server.key clientca={cas} tls-min-version=1.2 sslcontext=wayleave-lab
acl CONNECT method CONNECT
acl origin dst 10.88.0.0/16 fd88::/16 10.99.0.0/16 fd99::/16
acl blocked dst 10.88.0.66/32
http_access deny blocked
http_access allow CONNECT origin
http_access deny all
logformat lab %ts.%03tu %>a:%>p "%rm %ru" %>Hs %<st cert="%ssl::>cert_subject" tls=%ssl::>negotiated_version
access_log stdio:{self.gateway_log} lab
cache_log {folder}/cache.log
pid_filename {folder}/squid.pid
coredump_dir {folder}
cache deny all
cache_mem 8 MB
max_filedescriptors 16384
shutdown_lifetime 0 seconds
visible_hostname gateway.lab
logfile_rotate 0
buffered_logs off
pinger_enable off
netdb_filename none
""")
        self.start("gateway", "network", "squid", "-N", "-n", f"lab{os.getpid()}", "-f", conf, user=user)
        self.listening("gateway", "network", 3129)

    # --- the device's TPM and the issuer ---------------------------------------------------------------------------------

    def tpm_folder(self, name: str) -> Path:
        return self.work / f"tpm-{name}"

    def make_tpm(self, name: str) -> None:
        """A software TPM as a manufacturer would ship it: endorsement keys with certificates of the lab's own TPM CA."""
        folder = self.tpm_folder(name)
        user = USERS["identity"]
        for sub in ("ca", "state"):
            (folder / sub).mkdir(parents=True)
        (folder / "localca.conf").write_text("".join(f"{key}={folder}/ca/{file}\n" for key, file in (
            ("statedir", ""), ("signingkey", "signkey.pem"), ("issuercert", "issuercert.pem"), ("certserial", "certserial"))))
        (folder / "localca.options").write_text("--platform-manufacturer Lab\n--platform-version 1.0\n--platform-model Lab\n")
        (folder / "setup.conf").write_text(f"create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config={folder}/localca.conf\n"
                                           f"create_certs_tool_options={folder}/localca.options\nactive_pcr_banks=sha256\n")
        run("swtpm_setup", "--tpm2", "--tpmstate", folder / "state", "--create-ek-cert", "--create-spk", "--lock-nvram", "--config",
            folder / "setup.conf", "--overwrite", "--write-ek-cert-files", folder)
        if real_root():
            run("chown", "-R", f"{user}:{user}", folder / "state")
            os.chown(folder, user, user)

    def start_tpm(self, name: str = "device") -> str:
        """Runs it on a unix socket, so that identityd needs no internet socket; returns the TCTI."""
        folder = self.tpm_folder(name)
        if not folder.exists():
            self.make_tpm(name)
        path_of_socket = folder / "tpm.sock"
        for path in (path_of_socket, Path(f"{path_of_socket}.ctrl")):
            path.unlink(missing_ok=True)
        self.start(f"tpm-{name}", "device", "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}/state", "--server",
                   f"type=unixio,path={path_of_socket}", "--ctrl", f"type=unixio,path={path_of_socket}.ctrl", "--flags", "not-need-init,startup-clear",
                   user=USERS["identity"] if real_root() else None)
        wait_until(lambda: self.alive(f"tpm-{name}") or Path(f"{path_of_socket}.ctrl").exists() and path_of_socket.exists(), 10, "swtpm's sockets")
        return f"swtpm:path={path_of_socket}"

    def start_issuer(self, *arguments, identifier: str = "lab-device-2", tpm: str = "device") -> None:
        """The lab's ACME server and attestation CA; its allow-list names the TPM's endorsement keys and their device."""
        folder = self.tpm_folder(tpm)
        state = self.work / "issuer"
        state.mkdir(exist_ok=True)
        allow = {}
        for certificate in folder.glob("ek-*.crt"):
            spki = subprocess.run(["openssl", "x509", "-inform", "DER", "-in", certificate, "-noout", "-pubkey"], capture_output=True).stdout
            if not spki:
                spki = subprocess.run(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"], capture_output=True, check=True).stdout
            der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=spki, capture_output=True, check=True).stdout
            allow[hashlib.sha256(der).hexdigest()] = identifier
        (state / "ek-allow.json").write_text(json.dumps(allow))
        roots = state / "ek-roots.pem"
        roots.write_text((folder / "ca/swtpm-localca-rootca-cert.pem").read_text() + (folder / "ca/issuercert.pem").read_text())
        self.start("issuer", "network", "/usr/bin/python3", "-m", "issuer", "--state", state, "--listen", "10.77.0.1:9443", "--certificate",
                   PKI / "server.crt", "--key", PKI / "server.key", "--ek-roots", roots, "--ek-allow", state / "ek-allow.json", *arguments,
                   env={"PYTHONPATH": str(ROOT / "lab"), "PYTHONDONTWRITEBYTECODE": "1"})
        self.listening("issuer", "network", 9443)
        acme_ca = state / "acme-device-ca.crt"
        if acme_ca not in self.device_cas:
            self.device_cas.append(acme_ca)

    def issuer(self, path: str, body: dict | None = None) -> dict:
        """Asks the issuer's lab interface: /lab/state, or /lab/faults with a body."""
        command = ["curl", "-sS", "--cacert", PKI / "server-ca.crt", f"https://issuer.lab:9443{path}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        return json.loads(self.inside("network", *command).stdout)

    # --- the device's side -------------------------------------------------------------------------------------------

    def device(self, *command, **options) -> subprocess.CompletedProcess:
        """Runs a program in the device's namespace as the person at the device would."""
        environment = dict(os.environ, CURL_CA_BUNDLE=str(self.curl_ca), WAYLEAVE_RUNTIME_DIR=str(self.runtime),
                           PATH=f"{BIN}:{os.environ['PATH']}")
        return self.inside("device", *command, env=environment, check=options.pop("check", False), **options)

    def wayleave(self, *arguments, **options) -> subprocess.CompletedProcess:
        return self.device("wayleave", *arguments, **options)

    def wayleave_json(self, *arguments):
        result = self.wayleave(*arguments, "--json")
        if result.returncode != 0:
            raise LabError(f"wayleave {' '.join(map(str, arguments))} --json: exit {result.returncode}\n{result.stdout}")
        return json.loads(result.stdout)

    def explain(self, reference: str) -> dict:
        """`wayleave explain --json`: its exit status says what it found, so that is not looked at here."""
        return json.loads(self.wayleave("explain", reference, "--json").stdout)

    def start_wayleave(self, *arguments, descriptors: int | None = None) -> None:
        """All three daemons by `wayleave run`, each with its own user and no more rights than designed. `descriptors`: at most
        so many for each of them."""
        limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        command = [*limit, BIN / "wayleave", "run", "--runtime-dir", self.runtime, "--state-dir", self.state]
        if real_root():
            for name, number in USERS.items():
                command += [f"--{name}-user", f"{number}:{number}"]
        self.start("wayleave", "device", *command, *arguments, env={"WAYLEAVE_RUNTIME_DIR": str(self.runtime)})
        sockets = [self.runtime / f"{name}.sock" for name in ("identity", "management", "proxy")]
        def ready():
            self.alive("wayleave")
            return all(answers(path) for path in sockets)
        wait_until(ready, 20, f"the daemons' sockets; log: {self.work / 'wayleave.log'}")

    def declarations_profile(self, kind: str) -> Path:
        """examples/declarations/KIND as the offline form: a profile with a com.apple.declarations payload."""
        declarations = [file.read_bytes() for file in sorted((ROOT / "examples" / "declarations" / kind).glob("*.json"))]
        payload = {"PayloadType": "com.apple.declarations", "PayloadVersion": 1, "PayloadIdentifier": f"com.wayleave.example.{kind}.declared.payload",
                   "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{kind}.payload.example")).upper(), "Declarations": declarations}
        profile = {"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": f"com.wayleave.example.{kind}.declared",
                   "PayloadUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{kind}.example")).upper(), "PayloadDisplayName": f"Declarations ({kind})",
                   "PayloadContent": [payload]}
        path = self.work / f"{kind}-declared.mobileconfig"
        path.write_bytes(plistlib.dumps(profile))
        return path

    def capture_active(self) -> bool:
        # The rules, not the table alone: it is claimed first, before the routes that the rules need.
        return "tproxy" in self.inside("device", "nft", "list", "ruleset").stdout

    def carrying(self) -> bool:
        """Capture is on and every identity at hand. In between a flow is refused, since it may not pass without its gateway."""
        answer = self.inside("device", "curl", "-s", "--unix-socket", self.runtime / "proxy.sock", "http://proxy/v1/status", check=False).stdout
        return self.capture_active() and all(c["identity"]["state"] == "ready" for c in json.loads(answer)["configurations"])

    def close(self) -> None:
        for name in reversed(list(self.processes)):
            with contextlib.suppress(LabError):
                self.stop(name)
