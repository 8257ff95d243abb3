"""`make demo`, or with DELIVERY=declaration: a managed profile (or declarations) in, an unmodified curl out over mutual TLS, and the proof, on one screen.

Every line that claims something is checked; the exit status is 0 only if all of it held.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import lab

COLOUR = sys.stdout.isatty()
DECLARED = os.environ.get("DELIVERY", "profile") == "declaration"


def style(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


class Screen:
    def __init__(self):
        self.failures = 0

    def step(self, text: str) -> None:
        print(style("1", text), flush=True)

    def line(self, label: str, text: str) -> None:
        print(f"  {style('36', f'{label:<11}')} {text}", flush=True)

    def check(self, label: str, held: bool, text: str) -> None:
        self.failures += 0 if held else 1
        mark = style("32", "✓") if held else style("31", "✗ NOT AS PROMISED:")
        print(f"  {style('36', f'{label:<11}')} {mark} {text}", flush=True)


def curl(machine: lab.Lab, url: str) -> tuple[bool, str]:
    result = machine.device("curl", "-sS", "--max-time", "10", url)
    return result.returncode == 0, result.stdout.strip()


def last_gateway_line(machine: lab.Lab) -> str:
    lines = machine.gateway_log.read_text().splitlines() if machine.gateway_log.exists() else []
    return lines[-1] if lines else "(no line)"


def show_reference(screen: Screen, machine: lab.Lab, identity: dict) -> None:
    """The identity's persistent reference, and what its bytes say."""
    explained = machine.explain(identity["reference"])
    raw = lab.reference_hex(identity)
    screen.line("reference", f"{raw[:60]}… ({len(raw) // 2} bytes: {explained['form'].split(' (')[0]})")
    wanted = ("dbnm", "keychain", "issuer", "serial", "class", "UUID")
    values = [f"{v['name']}: {v['value']}" for v in explained["values"] if any(w.lower() in v["name"].lower() for w in wanted)]
    screen.line("decoded", "; ".join(values)[:150])


# Profile file, its PayloadIdentifier, the common name the gateway must see, and where the key is.
DEMO_PROFILES = (("pkcs12.mobileconfig", "com.wayleave.example.pkcs12", "lab-device-1", "software"),
                 ("acme.mobileconfig", "com.wayleave.example.acme", "lab-device-2", "tpm"))


def deliver(screen: Screen, machine: lab.Lab, file: str, identifier: str) -> str:
    """Brings a profile, or the same as declarations; returns the identifier of what to remove."""
    if not DECLARED:
        screen.step(f"The profile an administrator deploys: examples/{file}")
        result = machine.wayleave("profile", "install", lab.ROOT / "examples" / file)
        screen.check("install", result.returncode == 0, result.stdout.strip().splitlines()[-1] if result.stdout.strip() else "")
        return identifier
    example = file.removesuffix(".mobileconfig")
    screen.step(f"The declarations an administrator deploys: examples/declarations/{example}, in a com.apple.declarations profile")
    result = machine.wayleave("profile", "install", machine.declarations_profile(example))
    screen.check("install", result.returncode == 0, result.stdout.strip().splitlines()[-1] if result.stdout.strip() else "")
    declarations = machine.wayleave_json("declarations")["declarations"]
    for declaration in declarations:
        reasons = "; ".join(reason["description"] for reason in declaration["reasons"])
        screen.check("declared", declaration["active"] and declaration["valid"] == "valid",
                     f"{declaration['identifier']} ({declaration['type'].removeprefix('com.apple.')}): active, {declaration['valid']} {reasons}")
    return f"{identifier}.declared"


def show_profile(screen: Screen, machine: lab.Lab, file: str, identifier: str, name: str, kind: str) -> None:
    """Delivers, lets the unmodified curl use it, shows who saw what, and removes it again."""
    identifier = deliver(screen, machine, file, identifier)
    identities = machine.wayleave_json("identity", "list")["identities"]
    attested = ", attested to the CA" if identities and identities[0]["attested"] else ""
    screen.check("identity", len(identities) == 1 and identities[0]["keyKind"] == kind and bool(attested) == (kind == "tpm"),
                 f"{identities[0]['subject']} ({identities[0]['keyType']}, {identities[0]['keyKind']} key{attested})")
    show_reference(screen, machine, identities[0])
    lab.wait_until(machine.capture_active, 10, "proxyd to load its rules")
    ok, text = curl(machine, "https://origin.lab/")
    screen.check("curl", ok and text == "Hello from the origin.", f"https://origin.lab/ says: {text}")
    line = lab.wait_until(lambda: (s := last_gateway_line(machine)) and f"CN={name}" in s and s, 5, f"the gateway to name {name}")
    screen.check("gateway", " 200 " in line, line)
    flow = lab.wait_until(lambda: (f := machine.wayleave_json("flows")["flows"]) and f[0]["outcome"] != "-" and f[0], 5, "the flow's record")
    screen.check("flow log", flow["outcome"] == "COMPLETED",
                 f"{flow['destination']} {flow['decision']} {flow['outcome']} up={flow['bytesUp']} down={flow['bytesDown']}")
    removed = machine.wayleave("profile", "remove", identifier)
    lab.wait_until(lambda: not machine.capture_active(), 10, "proxyd to remove its rules")
    ok, text = curl(machine, "https://origin.lab/")
    screen.check("removed", removed.returncode == 0 and not ok, f"the same curl: {text}")


def main() -> int:
    lab.enter_namespaces()
    started = time.monotonic()
    screen = Screen()
    work = Path(tempfile.mkdtemp(prefix="wayleave-demo."))
    machine = lab.Lab(work)
    try:
        screen.step("A device with a TPM and a network, in namespaces of their own; Squid as gateway, nginx as origin behind it")
        machine.up()
        tcti = machine.start_tpm()
        machine.start_issuer()
        machine.start_origin()
        machine.start_gateway()
        machine.start_wayleave("--identity-arg", f"--tcti={tcti}")
        ok, text = curl(machine, "https://origin.lab/")
        screen.check("curl", not ok, f"https://origin.lab/ before any profile: {text}")
        for example in DEMO_PROFILES:
            show_profile(screen, machine, *example)
        status = machine.stop("wayleave")
        screen.check("stopped", status == 0, f"all three daemons ended in order, status {status}")
    except (lab.LabError, KeyError, IndexError) as error:
        screen.failures += 1
        print(style("31", f"the demo could not go on: {type(error).__name__}: {error}"))
        print(machine.tail("wayleave"))
    finally:
        machine.close()
        if screen.failures and os.environ.get("WAYLEAVE_KEEP"):
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    verdict = "everything above was checked" if not screen.failures else f"{screen.failures} of the checks above did not hold"
    print(style("1", f"{verdict}; {time.monotonic() - started:.1f} s"))
    return 1 if screen.failures else 0


if __name__ == "__main__":
    sys.exit(main())
