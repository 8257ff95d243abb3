"""Compares what a peer read from a keychain with what our reader says, or with what our writer meant."""

import base64
import hashlib
import json
import os
import subprocess
import sys

CERTIFICATES = "80001000"
TABLES = {"80001000": "certificates", "00000010": "private keys", "00000011": "symmetric keys",
          "80000000": "generic passwords", "80000001": "internet passwords"}


def explain(wayleave, *arguments):
    run = subprocess.run([wayleave, "explain", "--json", *arguments], capture_output=True, text=True, timeout=60)
    return run.returncode, json.loads(run.stdout) if run.stdout else {}


def values(section):
    return {one["name"]: one["value"] for one in section["values"]}


class Scenarios:
    def __init__(self, peer):
        self.peer, self.failed = peer, False

    def expect(self, scenario, truth, detail=""):
        print(f"ok {self.peer}: {scenario}" if truth else f"FAILED {self.peer}: {scenario}: {detail}")
        self.failed |= not truth


def der_of(record):
    """The certificate in a keychainbreaker record, whichever encoding this version uses."""
    for key, value in record.items():
        if isinstance(value, str) and key.endswith("hex") and value.startswith("30"):
            return bytes.fromhex(value)
        if isinstance(value, str) and (key.endswith("base64") or key == "data"):
            decoded = base64.b64decode(value, validate=False)
            if decoded[:1] == b"\x30":
                return decoded
    return b""


def breaker(peer, folder, name):
    s = Scenarios(peer)
    with open(f"{folder}/manifest.json") as file:
        meant = json.load(file)
    try:
        with open(f"{folder}/{name}.json") as file:
            dump = json.load(file)
    except OSError as error:
        s.expect(f"opens our {name}", False, str(error))
        return s
    password = dump["generic_passwords"][0] if dump["generic_passwords"] else {}
    s.expect(f"decrypts the password in our {name}",
             (password.get("account"), password.get("service"), password.get("password")) ==
             (meant["account"], meant["service"], meant["secret"]), str(password))
    keys = [hashlib.sha256(bytes.fromhex(key["data_hex"])).hexdigest() for key in dump["private_keys"]]
    s.expect(f"decrypts the private key in our {name}", keys == [meant["privateKeySha256"]], str(keys))
    certificates = [hashlib.sha256(der_of(one)).hexdigest() for one in dump["certificates"]]
    s.expect(f"finds the certificate in our {name}", meant["certificateSha256"] in certificates, str(certificates))
    return s


def breaker_sample(peer, wayleave, sample, work):
    s = Scenarios(peer)
    with open(f"{work}/sample.json") as file:
        dump = json.load(file)
    status, ours = explain(wayleave, sample, "--password-file", f"{work}/password")
    item = values(ours["items"][0])
    s.expect("agrees with our reader on the certificate of its own sample",
             [hashlib.sha256(der_of(one)).hexdigest() for one in dump["certificates"]] == [item["SHA-256"]], str(item))
    s.expect("agrees with our reader that the private key of its own sample decrypts",
             status == 0 and len(dump["private_keys"]) == 1 and item["private key"].startswith("present, decrypts"), str(item))
    return s


def plaso(peer, wayleave, path, result):
    s = Scenarios(peer)
    name = path.rsplit("/", 1)[1]
    try:
        with open(result) as file:
            tables = json.load(file)
    except ValueError as error:
        s.expect(f"parses {name}", False, str(error))
        return s
    _, ours = explain(wayleave, path)
    summary = values(ours["summary"])
    theirs = {label: str(len(tables.get(number, []))) for number, label in TABLES.items() if tables.get(number)}
    s.expect(f"counts the same items in {name}", theirs == {k: v for k, v in summary.items() if k in theirs}, f"{theirs} {summary}")
    certificates = sorted((one["SerialNumber"], one["PublicKeyHash"]) for one in tables.get(CERTIFICATES, []))
    ours_certificates = sorted((values(one)["serial"], values(one)["public key hash"]) for one in ours["items"])
    if certificates or ours_certificates:
        s.expect(f"reads the same certificates in {name}", certificates == ours_certificates, f"{certificates} {ours_certificates}")
    return s


def sqlite(peer, wayleave, folder):
    s = Scenarios(peer)
    path = f"{folder}/keychain-2.db"
    with open(f"{folder}/manifest.json") as file:
        reference = json.load(file)["references"]["keychain-2.db"]

    def shell(sql):
        run = subprocess.run(["sqlite3", "-readonly", path, sql], capture_output=True, text=True, timeout=60)
        return run.stdout.strip() if run.returncode == 0 else run.stderr.strip()

    s.expect("finds our keychain-2.db whole", shell("PRAGMA integrity_check") == "ok", shell("PRAGMA integrity_check"))
    pair = ("SELECT c.rowid, c.agrp, k.rowid, k.tkid FROM cert c JOIN keys k ON c.pkhh = k.klbl AND k.priv = 1 "
            f"WHERE c.persistref = x'{reference[8:]}'")
    row = shell(pair)
    s.expect("pairs certificate and key by Apple's join", row == "42|com.apple.identities|7|com.apple.setoken", row)
    status, ours = explain(wayleave, reference, "--keychain", path)
    item = values(ours["resolved"]) if "resolved" in ours else {}
    s.expect("agrees with our reader on the row behind the reference",
             status == 0 and [item.get("row id"), item.get("access group"), item.get("key: row id"), item.get("key: token")] == row.split("|"),
             str(ours))
    status, _ = explain(wayleave, reference[:-2] + "00", "--keychain", path)
    s.expect("agrees with our reader that another UUID is not there",
             status == 3 and shell(f"SELECT count(*) FROM cert WHERE persistref = x'{reference[8:-2]}00'") == "0", str(status))
    return s


def openssl(peer, wayleave, folder):
    s = Scenarios(peer)
    with open(f"{folder}/manifest.json") as file:
        meant = json.load(file)
    with open(f"{folder}/export-password", "w") as file:
        file.write("outside\n")
    out = f"{folder}/exported.p12"
    arguments = [meant["references"]["System.keychain"], "--keychain", f"{folder}/System.keychain",
                 "--system-key", f"{folder}/System.keychain.SystemKey", "--export-p12", out]
    status, _ = explain(wayleave, *arguments)
    s.expect("gets no identity without a password for it", status == 2 and not os.path.exists(out), str(status))
    status, ours = explain(wayleave, *arguments, "--export-password-file", f"{folder}/export-password")
    mode = os.stat(out).st_mode & 0o777 if os.path.exists(out) else None
    s.expect("gets an exported identity of mode 0600", status == 0 and mode == 0o600, f"{status} {mode} {ours}")
    run = subprocess.run(["openssl", "pkcs12", "-in", out, "-passin", f"file:{folder}/export-password", "-nodes"],
                         capture_output=True, timeout=60)
    key = subprocess.run(["openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"], input=run.stdout, capture_output=True, timeout=60)
    s.expect("reads the exported key and its chain",
             hashlib.sha256(key.stdout).hexdigest() == meant["privateKeySha256"] and run.stdout.count(b"BEGIN CERTIFICATE") == 2,
             run.stderr.decode(errors="replace"))
    return s


MODES = {"openssl": openssl, "breaker": breaker, "breaker-sample": breaker_sample, "plaso": plaso, "sqlite": sqlite}
sys.exit(1 if MODES[sys.argv[1]](*sys.argv[2:]).failed else 0)
