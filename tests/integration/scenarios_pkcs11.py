"""Programs that know nothing of Wayleave use a managed identity through PKCS#11, each against a real nginx, sshd or verifier.

The first word of a scenario's name is the program (tests/interop/pkcs11.sh prints these scenarios as the interop run's lines).
"""

import base64
import os
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import scenarios_acme
from world import EXAMPLE, Skipped, lab

MODULE = lab.BIN.parent / "lib" / "libwayleave-pkcs11.so"
ENGINE = next(Path("/usr/lib").glob("*/engines-3/pkcs11.so"), None)
TOKENS = {"file": "Wayleave file keychain", "data-protection": "Wayleave data protection"}
SITE = "https://gateway.lab:8443/"
# Where Debian keeps them: a caller is its executable, and a path must lead there without a symbolic link.
PROGRAMS = ["curl", "openssl", "gnutls-cli", "p11tool", "pkcs11-tool", "ssh", "ssh-keygen", "ssh-add", "modutil", "certutil", "tstclnt"]
CLIENT_VERIFY = b" " * 64 + b"TLS 1.3, client CertificateVerify\0" + b"h" * 48
SERVER_VERIFY = CLIENT_VERIFY.replace(b"client", b"server")


def rsa_profile(world) -> Path:
    """The example profile with an RSA identity of an authority of its own."""
    folder = world.folder
    extensions = folder / "client.ext"
    extensions.write_text("extendedKeyUsage=clientAuth\n")
    for command in (
            ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "rsa-ca.key", "-out", folder / "rsa-ca.crt", "-days", "2", "-subj",
             "/CN=RSA Device CA", "-addext", "basicConstraints=critical,CA:true"],
            ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "rsa.key", "-out", folder / "rsa.csr", "-subj", "/CN=rsa-device"],
            ["x509", "-req", "-in", folder / "rsa.csr", "-CA", folder / "rsa-ca.crt", "-CAkey", folder / "rsa-ca.key", "-CAcreateserial", "-days", "2",
             "-out", folder / "rsa.crt", "-extfile", extensions],
            ["pkcs12", "-export", "-inkey", folder / "rsa.key", "-in", folder / "rsa.crt", "-certfile", folder / "rsa-ca.crt", "-out",
             folder / "rsa.p12", "-passout", "pass:wayleave-lab"]):
        lab.run("openssl", *command)

    def change(_, payloads):
        payloads["com.apple.security.pkcs12"]["PayloadContent"] = (folder / "rsa.p12").read_bytes()
    return world.profile(change, name="rsa")


def prepare(world, program: str, usages=("list", "digest"), tpm: bool = False, rsa: bool = False) -> dict:
    """Wayleave with one identity, and a grant for the programs as an administrator would write it; returns the identity."""
    if world.sanitized:
        raise Skipped("a module with sanitizers cannot be loaded into programs without")
    if not MODULE.exists():
        raise Skipped(f"{MODULE.name} is not built")
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not installed")
    grants = world.folder / "grants.d"
    shutil.copytree(lab.ROOT / "packaging" / "grants.d", grants)
    executables = [f"/usr/bin/{name}" for name in PROGRAMS]
    (grants / "50-pkcs11.toml").write_text(f"""
[[grant]]
name = "PKCS#11 programs"
executable = {executables}
access-groups = "*"
usages = {list(usages)}
""")
    grants.chmod(0o755)
    for path in grants.iterdir():
        path.chmod(0o644)
    if tpm:
        tcti = world.lab.start_tpm()
        world.lab.start_issuer()
        world.start("--grants-dir", grants, "--identity-arg", f"--tcti={tcti}")
        world.install(scenarios_acme.ACME)
    else:
        world.start("--grants-dir", grants)
        world.install(rsa_profile(world) if rsa else EXAMPLE)
    identities = world.lab.wayleave_json("identity", "list")["identities"]
    assert len(identities) == 1, identities
    identity = world.lab.wayleave_json("identity", "show", identities[0]["id"])
    leaf = world.folder / "leaf.pem"
    der = world.folder / "leaf.der"
    der.write_bytes(base64.b64decode(identity["chain"][0]))
    leaf.write_text(world.lab.device("openssl", "x509", "-inform", "DER", "-in", der).stdout)
    (world.folder / "public.pem").write_text(world.lab.device("openssl", "x509", "-in", leaf, "-noout", "-pubkey").stdout)
    return identity


def uri(identity: dict, kind: str) -> str:
    """RFC 7512."""
    return f"pkcs11:token={quote(TOKENS[identity['keychain']])};object={quote(identity['label'])};type={kind}"


def start_nginx(world) -> None:
    """A server that demands a device certificate and answers with whose it got."""
    user = 33
    root = world.lab.folder(world.folder / "nginx", user)
    for name in ("server.crt", "server.key"):
        shutil.copy(lab.PKI / name, root)
        if lab.real_root():
            os.chown(root / name, user, user)
    authorities = [Path(ca) for ca in world.lab.device_cas] + list(world.folder.glob("rsa-ca.crt"))
    (root / "device-ca.crt").write_text("".join(ca.read_text() for ca in authorities))
    conf = root / "nginx.conf"
    conf.write_text(f"""
daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fcgi; uwsgi_temp_path {root}/uwsgi;
  scgi_temp_path {root}/scgi;
  server {{
    listen 10.77.0.1:8443 ssl;
    ssl_certificate {root}/server.crt; ssl_certificate_key {root}/server.key; ssl_protocols TLSv1.2 TLSv1.3;
    ssl_client_certificate {root}/device-ca.crt; ssl_verify_client on;
    location / {{ return 200 "$ssl_client_verify $ssl_client_s_dn $ssl_protocol\\n"; }}
  }}
}}
""")
    world.lab.start("nginx", "network", "nginx", "-e", root / "error.log", "-c", conf, user=user)
    world.lab.listening("nginx", "network", 8443)


def device(world, *command, env=None, **options):
    variables = [f"{key}={value}" for key, value in {"PKCS11_MODULE_PATH": MODULE, "WAYLEAVE_PKCS11_DEBUG": "1", **(env or {})}.items()]
    return world.lab.device("env", *variables, "timeout", "60", *command, **options)


def expect_device(result, identity: dict, protocol: str = "") -> None:
    name = re.search(r"CN=[\w.-]+", identity["subject"]).group(0)
    assert "SUCCESS" in result.stdout and name in result.stdout and protocol in result.stdout, f"exit {result.returncode}\n{result.stdout[-3000:]}"


def curl(world, identity: dict, *options):
    if ENGINE is None:
        raise Skipped("libengine-pkcs11-openssl is not installed")
    return device(world, "curl", "-sS", "--max-time", "30", "--engine", "pkcs11", "--key-type", "ENG", "--key", uri(identity, "private"),
                  "--cert-type", "ENG", "--cert", uri(identity, "cert"), "--cacert", lab.PKI / "server-ca.crt", *options, SITE)


def s_client(world, identity: dict, *options):
    if ENGINE is None:
        raise Skipped("libengine-pkcs11-openssl is not installed")
    return device(world, "openssl", "s_client", "-connect", "10.77.0.1:8443", "-servername", "gateway.lab", "-engine", "pkcs11", "-keyform",
                  "engine", "-key", uri(identity, "private"), "-cert", world.folder / "leaf.pem", "-CAfile", lab.PKI / "server-ca.crt",
                  "-ign_eof", *options, input="GET / HTTP/1.0\r\nHost: gateway.lab\r\n\r\n")


def test_curl_authenticates_to_nginx_by_tls_1_3_and_1_2(world):
    identity = prepare(world, "curl")
    start_nginx(world)
    expect_device(curl(world, identity, "--tlsv1.3"), identity, "TLSv1.3")
    expect_device(curl(world, identity, "--tls-max", "1.2"), identity, "TLSv1.2")


def test_curl_authenticates_to_nginx_with_an_rsa_key(world):
    identity = prepare(world, "curl", rsa=True)
    start_nginx(world)
    expect_device(curl(world, identity, "--tlsv1.3"), identity, "TLSv1.3")
    expect_device(curl(world, identity, "--tls-max", "1.2"), identity, "TLSv1.2")


def test_curl_authenticates_to_nginx_with_a_tpm_key(world):
    identity = prepare(world, "curl", tpm=True)
    assert identity["keyKind"] == "tpm", identity
    start_nginx(world)
    expect_device(curl(world, identity), identity, "TLSv1.3")


def test_curl_without_the_usage_digest_is_refused_and_told_why(world):
    identity = prepare(world, "curl", usages=("list", "tls-client"))
    start_nginx(world)
    result = curl(world, identity)
    assert result.returncode != 0 and "NOT_ENTITLED" in result.stdout and "digest" in result.stdout, result.stdout
    audit = world.lab.wayleave("audit", "show").stdout
    assert "NOT_ENTITLED" in audit and "curl" in audit, audit


def test_openssl_authenticates_to_nginx_by_tls_1_3_and_1_2(world):
    identity = prepare(world, "openssl")
    start_nginx(world)
    for option, protocol in (("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")):
        expect_device(s_client(world, identity, option), identity, protocol)


def test_openssl_authenticates_to_nginx_with_an_rsa_key(world):
    identity = prepare(world, "openssl", rsa=True)
    start_nginx(world)
    expect_device(s_client(world, identity, "-tls1_3"), identity, "TLSv1.3")
    expect_device(s_client(world, identity, "-tls1_2"), identity, "TLSv1.2")


def test_openssl_authenticates_to_nginx_with_a_tpm_key(world):
    identity = prepare(world, "openssl", tpm=True)
    start_nginx(world)
    expect_device(s_client(world, identity), identity)


def gnutls(world, identity: dict, *options):
    return device(world, "gnutls-cli", "--provider", MODULE, "--x509cafile", lab.PKI / "server-ca.crt", "--x509certfile", uri(identity, "cert"),
                  "--x509keyfile", uri(identity, "private"), "-p", "8443", *options, "gateway.lab", input="GET / HTTP/1.0\r\nHost: gateway.lab\r\n\r\n")


def test_gnutls_authenticates_to_nginx_by_tls_1_3_and_1_2(world):
    identity = prepare(world, "gnutls-cli")
    start_nginx(world)
    for priority, protocol in (("NORMAL", "TLSv1.3"), ("NORMAL:-VERS-TLS1.3", "TLSv1.2")):
        expect_device(gnutls(world, identity, "--priority", priority), identity, protocol)


def test_gnutls_authenticates_to_nginx_with_an_rsa_key(world):
    identity = prepare(world, "gnutls-cli", rsa=True)
    start_nginx(world)
    expect_device(gnutls(world, identity, "--priority", "NORMAL"), identity, "TLSv1.3")
    expect_device(gnutls(world, identity, "--priority", "NORMAL:-VERS-TLS1.3"), identity, "TLSv1.2")


def test_gnutls_authenticates_to_nginx_with_a_tpm_key(world):
    identity = prepare(world, "gnutls-cli", tpm=True)
    start_nginx(world)
    expect_device(gnutls(world, identity), identity)


def test_p11tool_lists_the_objects_and_signs(world):
    identity = prepare(world, "p11tool")
    token = f"pkcs11:token={quote(TOKENS[identity['keychain']])}"
    listed = device(world, "p11tool", "--provider", MODULE, "--batch", "--list-all", token)
    for kind in ("Private key", "Public key", "X.509 Certificate"):
        assert kind in listed.stdout, listed.stdout
    assert identity["label"] in listed.stdout, listed.stdout
    exported = device(world, "p11tool", "--provider", MODULE, "--batch", "--export", uri(identity, "cert"))
    assert base64.b64encode(base64.b64decode(identity["chain"][0]))[:64].decode() in exported.stdout.replace("\n", "")[:2000], exported.stdout
    signed = device(world, "p11tool", "--provider", MODULE, "--batch", "--test-sign", uri(identity, "private"))
    assert signed.returncode == 0 and "ok" in signed.stdout, signed.stdout


def test_p11tool_without_a_grant_sees_an_empty_token(world):
    identity = prepare(world, "p11tool")
    token = f"pkcs11:token={quote(TOKENS[identity['keychain']])}"
    own = world.folder / "p11tool"
    shutil.copy("/usr/bin/p11tool", own)
    listed = world.lab.device("env", "WAYLEAVE_PKCS11_DEBUG=1", own, "--provider", MODULE, "--batch", "--list-all", token)
    assert "Object 0" not in listed.stdout and identity["label"] not in listed.stdout, listed.stdout
    assert "NOT_ENTITLED" in listed.stdout or "CALLER_UNVERIFIED" in listed.stdout, listed.stdout
    tokens = world.lab.device(own, "--provider", MODULE, "--list-tokens")
    assert TOKENS["file"].replace(" ", "%20") in tokens.stdout, tokens.stdout


def slot(identity: dict) -> str:
    return str(list(TOKENS).index(identity["keychain"]))


def pkcs11_tool(world, identity: dict, *options):
    return device(world, "pkcs11-tool", "--module", MODULE, "--slot", slot(identity), *options)


def test_pkcs11_tool_passes_its_own_test(world):
    identity = prepare(world, "pkcs11-tool")
    result = pkcs11_tool(world, identity, "--login", "--pin", "0000", "--test")
    assert result.returncode == 0 and "No errors" in result.stdout, result.stdout


def test_pkcs11_tool_passes_its_own_test_with_an_rsa_key(world):
    identity = prepare(world, "pkcs11-tool", rsa=True)
    result = pkcs11_tool(world, identity, "--login", "--pin", "0000", "--test")
    assert result.returncode == 0 and "No errors" in result.stdout, result.stdout


def test_pkcs11_tool_signs_what_openssl_verifies(world):
    identity = prepare(world, "pkcs11-tool", usages=("list", "sign"))
    data, signature = world.folder / "data", world.folder / "signature"
    data.write_bytes(os.urandom(100_000))
    shown = pkcs11_tool(world, identity, "--list-objects", "--type", "privkey").stdout
    number = re.search(r"ID:\s+([0-9a-f]{40})", shown).group(1)
    made = pkcs11_tool(world, identity, "--sign", "--id", number, "--mechanism", "ECDSA-SHA384", "--signature-format", "openssl",
                       "--input-file", data, "--output-file", signature)
    assert made.returncode == 0, made.stdout
    verified = world.lab.device("openssl", "dgst", "-sha384", "-verify", world.folder / "public.pem", "-signature", signature, data)
    assert verified.returncode == 0, verified.stdout


def test_pkcs11_tool_with_tls_client_alone_signs_a_client_handshake_and_nothing_else(world):
    identity = prepare(world, "pkcs11-tool", usages=("list", "tls-client"))
    signature = world.folder / "signature"
    for name, content, allowed in (("client", CLIENT_VERIFY, True), ("server", SERVER_VERIFY, False), ("text", b"a message", False)):
        data = world.folder / name
        data.write_bytes(content)
        made = pkcs11_tool(world, identity, "--sign", "--label", identity["label"], "--mechanism", "ECDSA-SHA384", "--signature-format", "openssl",
                           "--input-file", data, "--output-file", signature)
        assert (made.returncode == 0) == allowed, f"{name}: exit {made.returncode}\n{made.stdout}"
        if allowed:
            verified = world.lab.device("openssl", "dgst", "-sha384", "-verify", world.folder / "public.pem", "-signature", signature, data)
            assert verified.returncode == 0, verified.stdout
        else:
            assert "NOT_ENTITLED" in made.stdout, made.stdout
    assert world.lab.wayleave_json("audit", "verify")["intact"], "the audit log does not verify"


def test_ssh_logs_in_to_sshd(world):
    identity = prepare(world, "ssh")
    if shutil.which("sshd") is None:
        raise Skipped("openssh-server is not installed")
    if not lab.real_root():
        raise Skipped("sshd needs real root to become its user")
    keys = device(world, "ssh-keygen", "-D", MODULE)
    # ssh-keygen lists the keys of the chain's certificates, too.
    public = [line for line in keys.stdout.splitlines() if line.startswith("ecdsa-") and line.endswith(identity["label"])]
    assert len(public) == 1, keys.stdout
    folder = world.folder
    (folder / "authorized_keys").write_text(public[0] + "\n")
    host_key = folder / "host_key"
    world.lab.device("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key)
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    config = folder / "sshd_config"
    config.write_text(f"Port 2222\nListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\n"
                      f"PermitRootLogin yes\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile {folder}/sshd.pid\n")
    world.lab.start("sshd", "device", "/usr/sbin/sshd", "-D", "-e", "-f", config)
    world.lab.listening("sshd", "device", 2222)
    result = device(world, "ssh", "-I", MODULE, "-p", "2222", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
                    f"UserKnownHostsFile={folder}/known", "-o", "IdentitiesOnly=no", "-F", "none", "root@127.0.0.1", "echo", "logged-in-by-key")
    assert result.returncode == 0 and "logged-in-by-key" in result.stdout, f"{result.stdout}\n{world.lab.tail('sshd')}"


def test_nss_loads_the_module_and_authenticates_to_nginx(world):
    nss(world, prepare(world, "tstclnt"))


def test_nss_authenticates_to_nginx_with_an_rsa_key(world):
    nss(world, prepare(world, "tstclnt", rsa=True))


def test_nss_authenticates_to_nginx_with_a_tpm_key(world):
    nss(world, prepare(world, "tstclnt", tpm=True))


def nss(world, identity: dict) -> None:
    start_nginx(world)
    database = world.folder / "nss"
    database.mkdir()
    where = f"sql:{database}"
    device(world, "certutil", "-N", "-d", where, "--empty-password", check=True)
    added = device(world, "modutil", "-dbdir", where, "-force", "-add", "wayleave", "-libfile", MODULE)
    assert added.returncode == 0, added.stdout
    device(world, "certutil", "-A", "-d", where, "-n", "gateway CA", "-t", "C,,", "-i", lab.PKI / "server-ca.crt", check=True)
    token = TOKENS[identity["keychain"]]
    listed = device(world, "certutil", "-L", "-d", where, "-h", token)
    assert f"{token}:{identity['label']}" in listed.stdout, listed.stdout
    for versions, protocol in (("tls1.3:tls1.3", "TLSv1.3"), ("tls1.2:tls1.2", "TLSv1.2")):
        result = device(world, "tstclnt", "-h", "gateway.lab", "-p", "8443", "-d", where, "-V", versions, "-n", f"{token}:{identity['label']}",
                        "-A", request(world))
        expect_device(result, identity, protocol)


def request(world) -> Path:
    path = world.folder / "request"
    path.write_bytes(b"GET / HTTP/1.0\r\nHost: gateway.lab\r\n\r\n")
    return path
