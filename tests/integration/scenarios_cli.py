"""The command line as people meet it: lint, profile new, the status screen, completion, manual pages. Mostly without daemons."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import threading
import time
import socketserver
from datetime import datetime, timedelta, timezone
from pathlib import Path

from world import EXAMPLE, Skipped, lab

PROGRAM = lab.BIN / "wayleave"
GATEWAY = ("--identifier", "com.example.wayleave", "--gateway", "https://gateway.example:8443", "--include", "corp.example",
           "--include", "tcp:10.0.0.0/8:443", "--include", "udp:[fd00::]/8", "--exclude", "mdm.corp.example",
           "--trust-anchor", lab.PKI / "gateway-ca.crt")


def wayleave(*arguments, status: int | None = 0, **options) -> str:
    result = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, **options)
    assert status is None or result.returncode == status, f"{arguments}: exit {result.returncode}, not {status}\n{result.stdout}"
    return result.stdout


def trust_anchor() -> tuple:
    found = sorted(lab.PKI.glob("*ca*.crt"))
    return ("--trust-anchor", found[0]) if found else ()


def base() -> tuple:
    return GATEWAY[:-2] + trust_anchor()


def pkcs12_of_the_example(world) -> tuple[Path, Path]:
    import plistlib
    payload = next(p for p in plistlib.loads(EXAMPLE.read_bytes())["PayloadContent"] if p["PayloadType"] == "com.apple.security.pkcs12")
    file, password = world.folder / "identity.p12", world.folder / "password"
    file.write_bytes(payload["PayloadContent"])
    password.write_text(payload["Password"] + "\n")
    return file, password


def kinds(world) -> dict[str, tuple]:
    """Every kind of identity that `profile new` writes, with the options for it."""
    file, password = pkcs12_of_the_example(world)
    challenge = world.folder / "challenge"
    challenge.write_text("swordfish & <sons>\n")
    acme = ("--identity", "acme", "--acme-directory", "https://ca.example/directory", "--client-identifier", "device-1, <one> & only")
    return {
        "pkcs12": ("--identity", "pkcs12", "--pkcs12", file, "--password-file", password),
        "scep": ("--identity", "scep", "--scep-url", "https://ca.example/scep", "--subject", "CN=device-1,O=Example\\, Inc."),
        "scep over http": ("--identity", "scep", "--scep-url", "http://ca.example/scep", "--subject", "CN=device-1", "--ca-fingerprint", "ab:" * 31 + "ab",
                           "--challenge-file", challenge),
        "acme": acme,
        "acme rsa": (*acme, "--key-type", "RSA", "--key-size", "3072"),
        "acme in the TPM": (*acme, "--hardware-bound"),
        "acme attested": (*acme, "--attest", "--attestation-url", "https://attest.example", "--key-size", "384"),
    }


def test_every_new_profile_passes_lint_strictly(world):
    for name, options in kinds(world).items():
        file = world.folder / f"{name.replace(' ', '-')}.mobileconfig"
        wayleave("profile", "new", file, *base(), *options)
        out = wayleave("lint", "--strict", file)
        assert "0 errors, 0 warnings" in out, f"{name}:\n{out}"
        secret = "pkcs12" in name or "http" in name
        assert file.stat().st_mode & 0o777 == (0o600 if secret else 0o644), f"{name}: mode {file.stat().st_mode:o}"
    import plistlib
    parsed = plistlib.loads((world.folder / "scep-over-http.mobileconfig").read_bytes())
    content = next(p for p in parsed["PayloadContent"] if p["PayloadType"].endswith(".scep"))["PayloadContent"]
    assert content["Challenge"] == "swordfish & <sons>" and len(content["CAFingerprint"]) == 32, content
    uuids = re.findall(r"PayloadUUID</key>\s*<string>([^<]*)", "".join(f.read_text() for f in world.folder.glob("*.mobileconfig")))
    assert len(uuids) == len(set(uuids)) > 14, "UUIDs are not fresh"


def test_every_new_set_of_declarations_passes_lint_strictly(world):
    for name, options in kinds(world).items():
        for served in ((), ("--document-url", "https://mdm.example/documents")):
            folder = world.folder / f"{name.replace(' ', '-')}-{len(served)}"
            out = wayleave("profile", "new", "--declarations", folder, *base(), *options, *served)
            assert "wayleave lint" in out, out
            files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
            assert {"activation.json", "proxy.json", "identity.json"} <= set(files), files
            assert ("documents/identity.json" in files) == bool(served), files
            out = wayleave("lint", "--strict", folder)
            assert " 0 errors, 0 warnings" in out and out.splitlines()[-1].startswith(f"{sum(f.endswith('.json') for f in files)} files"), f"{name}:\n{out}"
            secret = folder / ("documents/identity.json" if served else "identity.json")
            wanted = 0o600 if "pkcs12" in name or "http" in name else 0o644
            assert secret.stat().st_mode & 0o777 == wanted, f"{name}: {secret.name} has mode {secret.stat().st_mode:o}"
            again = wayleave("profile", "new", "--declarations", folder, *base(), *options, *served, status=1)
            assert "already" in again, again
    folder = world.folder / "acme-2"
    tokens = [json.loads((folder / "proxy.json").read_text())["ServerToken"]]
    for more in ((), ("--failure-policy", "direct")):
        wayleave("profile", "new", "--declarations", folder, *base(), *kinds(world)["acme"], "--document-url", "https://mdm.example/documents", "--force", *more)
        tokens.append(json.loads((folder / "proxy.json").read_text())["ServerToken"])
    assert tokens[0] == tokens[1] != tokens[2], "a ServerToken must change with its content, and only then"
    assert "name a folder" in wayleave("profile", "new", "--declarations", *base(), *kinds(world)["acme"], status=2)
    long = tuple("com." + "x" * 60 if argument == "com.example.wayleave" else argument for argument in base())
    assert "octets" in wayleave("profile", "new", "--declarations", world.folder / "long", *long, *kinds(world)["acme"], status=2)


def test_new_declarations_are_applied_and_carry_traffic(world):
    import plistlib
    file, password = pkcs12_of_the_example(world)
    example = plistlib.loads(EXAMPLE.read_bytes())["PayloadContent"]
    vendor = next(p for p in example if p["PayloadType"] == "com.apple.vpn.managed")["VendorConfig"]
    anchor = world.folder / "anchor.crt"
    anchor.write_bytes(next(p for p in example if p["PayloadType"] == "com.apple.security.root")["PayloadContent"])
    folder = world.folder / "declarations"
    wayleave("profile", "new", "--declarations", folder, "--identifier", "com.example.made", "--gateway", vendor["GatewayURL"], "--trust-anchor", anchor,
             "--include", "tcp:10.88.0.0/16", "--identity", "pkcs12", "--pkcs12", file, "--password-file", password)
    payload = {"PayloadType": "com.apple.declarations", "PayloadVersion": 1, "PayloadIdentifier": "com.example.made.payload",
               "PayloadUUID": "AAAAAAAA-0000-4000-8000-000000000001", "Declarations": [f.read_bytes() for f in sorted(folder.glob("*.json"))]}
    profile = world.folder / "declared.mobileconfig"
    profile.write_bytes(plistlib.dumps({"PayloadType": "Configuration", "PayloadVersion": 1, "PayloadIdentifier": "com.example.made",
                                        "PayloadUUID": "AAAAAAAA-0000-4000-8000-000000000002", "PayloadContent": [payload]}))
    wayleave("lint", profile)
    world.start()
    world.install(profile)
    world.expect_origin()


def test_lint_and_explain_give_one_verdict_to_every_kind_of_file(world):
    """Each kind of file of management, right and wrong: both commands know it, and agree."""
    head = '<?xml version="1.0"?><plist version="1.0"><dict>'
    cases = {
        "report.json": ('{"StatusItems": {}, "Errors": []}', "is a status report", 0),
        "tokens.json": ('{"SyncTokens": {}}', "DeclarationsToken: is missing", 1),
        "items.json": ('{"DeclarationsToken": "t", "Declarations": {"Activations": [], "Assets": [], "Configurations": [], "Management": []}}', "declaration-items", 0),
        "document.json": ('{"UserName": "u", "Password": "p"}', "com.apple.credential.usernameandpassword", 0),
        "test.json": ('{"Type": "com.apple.configuration.management.test", "Identifier": "a", "ServerToken": "1", "Payload": {"Echo": "x", "Extra": 1}}', "Payload.Extra", 1),
        "other.json": ('{"Type": "com.apple.configuration.passcode.settings", "Identifier": "a", "ServerToken": "1", "Payload": {}}', "not a type that Wayleave carries out", 0),
        "checkout.plist": (head + "<key>MessageType</key><string>CheckOut</string><key>UDID</key><string>u</string></dict></plist>", "Topic: is missing", 1),
        "idle.plist": (head + "<key>Status</key><string>Idle</string><key>UDID</key><string>u</string></dict></plist>", "a device's answer to an MDM server: Idle", 0),
        "nothing.plist": (head + "<key>a</key><string>b</string></dict></plist>", "not a configuration profile", 1),
    }
    for name, (text, words, status) in cases.items():
        file = world.folder / name
        file.write_text(text)
        assert words in wayleave("lint", file, status=status), wayleave("lint", file, status=None)
        explained = wayleave("explain", file, status=6 if status else 0)
        assert words in explained, explained


def test_a_new_profile_is_installed_and_carries_traffic(world):
    file, password = pkcs12_of_the_example(world)
    profile = world.folder / "new.mobileconfig"
    import plistlib
    example = plistlib.loads(EXAMPLE.read_bytes())
    vendor = next(p for p in example["PayloadContent"] if p["PayloadType"] == "com.apple.vpn.managed")["VendorConfig"]
    anchors = []
    for number, payload in enumerate(p for p in example["PayloadContent"] if p["PayloadType"] == "com.apple.security.root"):
        anchor = world.folder / f"anchor{number}.crt"
        anchor.write_bytes(payload["PayloadContent"])
        anchors += ["--trust-anchor", anchor]
    wayleave("profile", "new", profile, "--identifier", "com.example.made", "--gateway", vendor["GatewayURL"], *anchors, "--include", "tcp:10.88.0.0/16",
             "--identity", "pkcs12", "--pkcs12", file, "--password-file", password)
    world.start()
    world.install(profile)
    world.expect_origin()
    screen = world.lab.wayleave("status").stdout
    for word in ("3 of 3 daemons running", "com.example.made", "not enrolled", "does not renew itself", "capture is on"):
        assert word in screen, f"no {word!r} in\n{screen}"
    assert max(len(line) for line in screen.splitlines()) <= 80, screen
    status = world.lab.wayleave_json("status")
    assert status["problems"] == [] and len(status["identities"]) == 1, status
    for words, wanted in ((("profile", "remove", ""), "com.example.made"), (("identity", "show", ""), status["identities"][0]["id"])):
        offered = world.lab.wayleave("__complete", *words).stdout
        assert wanted in offered, f"completion of {words} offers\n{offered}"


def test_profile_new_says_what_is_missing_and_overwrites_nothing(world):
    out = wayleave("profile", "new", "--identity", "acme", "--gateway", "gateway.example", status=2, stdin=subprocess.DEVNULL)
    for word in ("--identifier", "--include", "--acme-directory", "--client-identifier", "is no https URL"):
        assert word in out, f"no {word!r} in\n{out}"
    file = world.folder / "a.mobileconfig"
    file.write_text("precious")
    acme = kinds(world)["acme"]
    out = wayleave("profile", "new", file, *base(), *acme, status=1)
    assert "--force" in out and file.read_text() == "precious", out
    wayleave("profile", "new", file, "--force", *base(), *acme)
    assert file.read_text() != "precious"
    refused = world.folder / "b.mobileconfig"
    out = wayleave("profile", "new", refused, *base(), *acme, "--key-size", "512", status=6)
    assert "P-521" in out and not refused.exists(), out
    p12, _ = pkcs12_of_the_example(world)
    wrong = world.folder / "wrong"
    wrong.write_text("not the password\n")
    out = wayleave("profile", "new", refused, *base(), "--identity", "pkcs12", "--pkcs12", p12, "--password-file", wrong, status=6)
    assert "password" in out.lower() and not refused.exists(), out
    assert "<?xml" in wayleave("profile", "new", *base(), *acme, stdin=subprocess.DEVNULL), "without FILE it prints"


class Terminal:
    """A program on a terminal of its own, typed at and read from."""

    def __init__(self, *command, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", **environment)
            os.execvp(str(command[0]), [str(part) for part in command])
        self.text = ""

    def read_until(self, word: str, seconds: float = 15) -> str:
        end = time.monotonic() + seconds
        while word not in self.text:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {word!r} within {seconds} s in\n{self.text}"
            try:
                more = os.read(self.fd, 65536)
            except OSError:
                more = b""
            assert more, f"ended without {word!r}:\n{self.text}"
            self.text += more.decode(errors="replace")
        before, self.text = self.text.split(word, 1)
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> int:
        while True:  # whatever is left; the end is an error of the terminal
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status

    def kill(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


def test_profile_new_asks_at_a_terminal(world):
    file = world.folder / "asked.mobileconfig"
    terminal = Terminal(PROGRAM, "profile", "new", NO_COLOR="1")
    for question, answer in (("Gateway", "http://plain.example"), ("no https URL", None), ("Gateway", "https://gateway.example"),
                             ("Identifier", "com.example.asked"), ("Name", ""), ("Certificate file", ""), ("What goes", "corp.example"),
                             ("another", ""), ("does not", ""), ("Identity of the device", "scep"), ("URL of the SCEP", "https://ca.example"),
                             ("Name of the CA", ""), ("fingerprint", ""), ("not shown", "swordfish"), ("Subject", "CN=device-1"), ("Where to", str(file))):
        terminal.read_until(question)
        if answer is not None:
            if question != "no https URL":
                terminal.read_until(":")
            terminal.type(answer + "\n")
    terminal.read_until("Written to")
    assert terminal.close() == 0
    assert "swordfish" in file.read_text() and file.stat().st_mode & 0o077 == 0
    assert "0 errors, 0 warnings" in wayleave("lint", "--strict", file)


def test_lint_reports_like_a_compiler_and_in_exit_statuses(world):
    good = world.folder / "good.mobileconfig"
    wayleave("profile", "new", good, *base(), *kinds(world)["acme"])
    bad = world.folder / "bad.mobileconfig"
    bad.write_text(good.read_text().replace("<string>app-proxy</string>", "<string>packet-tunnel</string>")
                   .replace("com.example.wayleave", "com.example.other").replace("<integer>256</integer>", "<integer>512</integer>"))
    line = next(n for n, text in enumerate(bad.read_text().splitlines(), 1) if ">512<" in text)
    out = wayleave("lint", bad, status=1)
    assert re.search(rf"^{re.escape(str(bad))}:{line}: error: .*KeySize", out, re.M), out
    assert "warning: " in out and "packet-tunnel" in out, out
    warned = world.folder / "warned.mobileconfig"
    warned.write_text(good.read_text().replace("<string>app-proxy</string>", "<string>packet-tunnel</string>"))
    wayleave("lint", warned)
    wayleave("lint", "--strict", warned, status=1)
    wayleave("lint", world.folder / "nothing", status=2)
    wayleave("lint", status=2)
    assert "same-identifier" in wayleave("lint", good, warned)
    piped = subprocess.run([PROGRAM, "lint", "-"], stdin=open(bad), capture_output=True, text=True)
    assert piped.returncode == 1 and f"<stdin>:{line}: error" in piped.stdout, piped
    result = json.loads(wayleave("lint", "--json", world.folder, status=1))
    assert result["files"] == 3 and result["errors"] >= 1 and all(f["rule"] and f["file"] for f in result["findings"]), result
    sarif = json.loads(wayleave("lint", "--sarif", bad, status=1))
    assert sarif["version"] == "2.1.0" and sarif["runs"][0]["results"], sarif
    assert "\033[" not in out, "colours in a pipe"
    terminal = Terminal(PROGRAM, "lint", bad, NO_COLOR="")
    terminal.read_until("\033[1;31merror:")
    assert terminal.close() == 1


class FakeDaemons:
    """The three sockets, with answers of our choosing."""

    def __init__(self, folder: Path, answers: dict[str, dict[str, dict]]):
        self.servers = []
        for daemon, paths in answers.items():
            class Handler(socketserver.StreamRequestHandler):
                known = paths

                def handle(self):
                    request = self.rfile.readline().decode().split(" ")
                    while self.rfile.readline().strip():
                        pass
                    body = json.dumps(self.known.get(request[1], {})).encode()
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            server = socketserver.ThreadingUnixStreamServer(str(folder / f"{daemon}.sock"), Handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.servers.append(server)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def at(**difference) -> str:
    return (datetime.now(timezone.utc) + timedelta(**difference)).strftime("%Y-%m-%dT%H:%M:%SZ")


def troubled_answers() -> dict:
    identity = {"subject": "CN=device-1", "keyType": "EC P-256", "keyKind": "tpm", "attested": True, "state": "active", "source": "acme",
                "profileIdentifier": "com.example.a", "id": "i1"}
    return {
        "identity": {
            "/v1/status": {"version": "0.1.0", "tpm": {"state": "ready"}, "grants": {"problems": ["20-broken.toml:3: no such key"]}},
            "/v1/identities": {"identities": [
                identity | {"notAfter": at(days=40), "renewAfter": at(days=20, hours=1)},
                identity | {"subject": "CN=device-2", "source": "pkcs12", "keyKind": "software", "attested": False, "notAfter": at(days=3, hours=1), "renewAfter": ""},
                identity | {"subject": "CN=device-3", "notAfter": at(days=-3, hours=-1), "renewAfter": at(days=-10), "state": "expired"}]}},
        "management": {"/v1/status": {
            "version": "0.1.0", "configurations": [{"name": "G"}], "unfinished": [],
            "profiles": [{"identifier": "com.example.a", "displayName": "A", "installedAt": at(hours=-5, minutes=-1)}],
            "enrolment": {"state": "enrolled", "server": "https://mdm.example/mdm", "lastContact": at(minutes=-3, seconds=-2), "nextPoll": at(minutes=12, seconds=5), "lastError": ""},
            "declarations": [
                {"identifier": "com.example.activation", "type": "com.apple.activation.simple", "active": True, "valid": "valid", "reasons": []},
                {"identifier": "com.example.vpn", "type": "com.apple.configuration.network.vpn.vpn-plugin", "active": False, "valid": "invalid",
                 "reasons": [{"code": "Error.MissingAssets", "description": "com.example.identity is not there"}]},
                {"identifier": "com.example.spare", "type": "com.apple.asset.data", "active": False, "valid": "valid", "reasons": [{"code": "Info.NotReferencedByConfiguration"}]}]}},
        "proxy": {"/v1/status": {
            "version": "0.1.0", "management": "reachable", "capture": {"mode": "nftables", "installed": True, "error": ""}, "flows": {"active": 2, "total": 117},
            "configurations": [{"name": "G", "gateway": "gateway.example:443", "failurePolicy": "block", "includedRules": 3, "excludedRules": 1,
                                "identity": {"state": "unavailable", "subject": "", "error": "IDENTITY_UNAVAILABLE: expired"}}]}}}


def test_status_tells_problems_first_and_what_to_do(world):
    runtime = world.folder / "runtime"
    runtime.mkdir()
    with FakeDaemons(runtime, troubled_answers()):
        out = wayleave("--runtime-dir", runtime, "status")
        # Joined again where the screen wrapped them.
        flat = re.sub(r"\s+", " ", out)
        for word in ("enrolled with https://mdm.example/mdm", "last contact 3 min ago", "next poll in 12 min", "Error.MissingAssets: com.example.identity is not there",
                     "CN=device-2 expires in 3 days and cannot renew itself", "CN=device-3 expired 3 days ago", "renewal due in 20 days", "20-broken.toml",
                     "\"G\" has no usable identity", "Info.NotReferencedByConfiguration", "installed 5 h ago", "2 now, 117 since the start", "→"):
            assert word in flat, f"no {word!r} in\n{out}"
        assert out.index("Problems") < out.index("Enrolment"), out
        assert max(map(len, out.splitlines())) <= 80, out
        status = json.loads(wayleave("--runtime-dir", runtime, "status", "--json"))
        assert [p["severity"] for p in status["problems"]] == ["error"] * 3 + ["warning"] * 2, status["problems"]
        assert len(status["identities"]) == 3 and status["management"]["enrolment"]["state"] == "enrolled"
        watching = Terminal(PROGRAM, "--runtime-dir", runtime, "status", "--watch", "--interval", "1", NO_COLOR="1")
        watching.read_until("Ctrl-C")
        watching.read_until("Ctrl-C")
        os.kill(watching.pid, 2)
        assert watching.close() == 0, "interrupted is not failed"
    out = wayleave("--runtime-dir", world.folder, "status", status=5)
    assert "none of the three daemons answers" in out and "wayleave run" in re.sub(r"\s+", " ", out), out


def needs(program: str) -> None:
    if shutil.which(program) is None:
        raise Skipped(f"{program} is not installed (scripts/dependencies.sh lab)")


def shell_environment(world) -> dict:
    # The shells look the program up by its name.
    return dict(os.environ, PATH=f"{lab.BIN}:{os.environ['PATH']}", HOME=str(world.folder), TERM="dumb")


def test_bash_completes(world):
    needs("bash")
    script = r"""
source <(wayleave completion bash)
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _wayleave; printf '%s|' "${COMPREPLY[@]}"; echo; }
try wayleave prof
try wayleave profile ""
try wayleave profile new --identity ""
try wayleave profile new --failure-policy = d
try wayleave lint --str
try wayleave lint a
try wayleave --runtime-dir /nowhere identity ""
"""
    (world.folder / "a file.mobileconfig").write_text("")
    out = subprocess.run(["bash", "--norc", "-c", script], env=shell_environment(world), cwd=world.folder, capture_output=True, text=True, timeout=30)
    lines = out.stdout.splitlines()
    assert lines == ["profile|", "new|install|remove|list|show|", "pkcs12|scep|acme|", "direct|", "--strict|", "a file.mobileconfig|", "list|show|"], out
    # And once with a real key press.
    terminal = Terminal("env", f"PATH={lab.BIN}:{os.environ['PATH']}", "PS1=ready> ", "bash", "--norc", "--noprofile", "-i")
    try:
        terminal.read_until("> ")
        terminal.type("source <(wayleave completion bash)\n")
        terminal.read_until("> ")
        terminal.type("wayleave compl\t")
        terminal.read_until("wayleave completion ")
    finally:
        terminal.kill()


def test_zsh_completes(world):
    needs("zsh")
    (world.folder / "only.mobileconfig").write_text("")
    setup = "autoload -Uz compinit && compinit -u -D && source <(wayleave completion zsh) && unsetopt menu_complete auto_menu && cd " + str(world.folder) + " && PS1='rea''dy> '"
    terminal = Terminal("env", f"PATH={lab.BIN}:{os.environ['PATH']}", f"HOME={world.folder}", "zsh", "-f", "-i")
    try:
        terminal.type(setup + "\n")
        terminal.read_until("ready> ", 30)
        for typed, wanted in (("wayleave compl", "completion "), ("wayleave profile ins", "install "), ("wayleave profile new --identity ac", "acme "),
                              ("wayleave lint --str", "--strict "), ("wayleave lint on", "only.mobileconfig ")):
            terminal.type(typed)
            terminal.read_until(typed.split()[-1])
            terminal.type("\t")
            terminal.read_until(wanted[len(typed.split()[-1]):], 30)
            terminal.type("\x15")  # the line away again
        terminal.type("wayleave profile \t")
        terminal.read_until("write a profile to start from", 30)
    finally:
        terminal.kill()


def test_fish_completes(world):
    needs("fish")
    (world.folder / "only.mobileconfig").write_text("")
    def offered(line: str) -> dict[str, str]:
        out = subprocess.run(["fish", "--no-config", "-c", f"wayleave completion fish | source; complete -C '{line}'"], env=shell_environment(world),
                             cwd=world.folder, capture_output=True, text=True, timeout=60)
        assert out.returncode == 0 and not out.stderr, out
        return dict((text.split("\t", 1) + [""])[:2] for text in out.stdout.splitlines())
    assert list(offered("wayleave compl")) == ["completion"]
    assert set(offered("wayleave profile ")) == {"new", "install", "remove", "list", "show"}
    assert "start from" in offered("wayleave profile n")["new"]
    assert set(offered("wayleave profile new --identity ")) == {"pkcs12", "scep", "acme"}
    assert list(offered("wayleave lint --str")) == ["--strict"]
    assert "only.mobileconfig" in offered("wayleave lint o")


def commands() -> list[list[str]]:
    """Every command, from the completion that people use."""
    def below(words: list[str]) -> list[list[str]]:
        names = [line.split("\t")[0] for line in wayleave("__complete", *words, "").splitlines() if line and not line.startswith(":") and "\t" in line]
        found = [] if words and not any(n for n in names) else [words + [n] for n in names]
        return [c for one in found for c in (below(one) or [one])]
    return below([])


def test_every_command_explains_itself(world):
    for words in commands():
        out = wayleave(*words, "--help")
        assert "Usage: wayleave " + " ".join(words) in out and "Exit status" in out, f"{words}:\n{out}"
        assert "Examples:" in out, f"{words} shows no example:\n{out}"
        wayleave(*words, "--no-such-option", status=2)


def test_the_manual_pages_are_sound_and_complete(world):
    needs("mandoc")
    page = world.folder / "wayleave.1"
    page.write_text(wayleave("__manual", env=dict(os.environ, SOURCE_DATE_EPOCH="1700000000")))
    pages = [page, *sorted((lab.ROOT / "packaging" / "man").glob("*.8"))]
    assert len(pages) == 4, pages
    for one in pages:
        checked = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", one], capture_output=True, text=True)
        assert checked.returncode == 0 and not checked.stdout, checked.stdout
        shown = subprocess.run(["mandoc", "-T", "ascii", one], capture_output=True, text=True).stdout
        shown = re.sub(".\b", "", shown)
        program = one.stem
        helps = [wayleave("--help")] + [wayleave(*c, "--help") for c in commands()] if program == "wayleave" else \
            [subprocess.run([lab.BIN / program, "--help"], capture_output=True, text=True).stdout]
        options = {o for text in helps for o in re.findall(r"^  (?:-\w,)?(--[a-z-]+)", text, re.M)} - {"--help"}
        missing = [o for o in options if o not in shown]
        assert not missing, f"{one.name} does not tell {missing}"
    assert "November 14, 2023" in page.read_text()
