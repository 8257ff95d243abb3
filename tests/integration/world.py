"""What a scenario works with: a fresh Wayleave in the shared lab, profiles made from the example, and checks."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import plistlib
import re
import shutil
import signal
import time
from pathlib import Path

import lab

EXAMPLE = lab.ROOT / "examples" / "pkcs12.mobileconfig"
IDENTIFIER = "com.wayleave.example.pkcs12"
_numbers = itertools.count()


class Skipped(Exception):
    """The scenario needs something this run does not have; the text says what."""


class World:
    def __init__(self, machine: lab.Lab, sanitized: bool):
        self.lab, self.sanitized = machine, sanitized
        self.folder = machine.work / f"scenario-{next(_numbers)}"
        self.folder.mkdir()
        self.gateway_mark = self._gateway_size()
        for folder in (machine.runtime, machine.state):
            shutil.rmtree(folder, ignore_errors=True)
        (machine.work / "wayleave.log").unlink(missing_ok=True)

    # --- Wayleave ---

    def start(self, *arguments, **more) -> None:
        self.lab.start_wayleave(*arguments, **more)

    def stop(self) -> int:
        # A drain waits for open flows at most a few seconds.
        return self.lab.stop("wayleave", signal.SIGTERM, 30)

    def close(self) -> None:
        for name in [n for n in self.lab.processes if n not in ("origin", "gateway")]:
            if name == "wayleave":
                status = self.stop()
                assert status == 0, f"wayleave run ended with status {status}"
            else:
                self.lab.stop(name)
        if "gateway" not in self.lab.processes:
            self.lab.start_gateway()
        log = self.log()
        report = re.search(r"(ERROR: \w+Sanitizer|runtime error:|WARNING: ThreadSanitizer).*", log)
        assert not report, f"a sanitizer reported: {report.group(0)}"
        self.expect_no_trace()

    def log(self) -> str:
        path = self.lab.work / "wayleave.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def expect_no_trace(self) -> None:
        """Nothing of ours may be left in the device: table, rule, route, process."""
        device = self.lab.inside
        assert "wayleave" not in device("device", "nft", "list", "tables").stdout, "an nftables table is left"
        for family in ("-4", "-6"):
            rules = device("device", "ip", family, "rule", "show").stdout
            assert "0x58" not in rules, f"a routing rule is left:\n{rules}"
        # By the program: the lab's own servers have "wayleave-test.…" in their arguments.
        left = [p for p in self.processes() if Path(p.split(" ")[0]).name.startswith("wayleave-")]
        assert not left, f"processes are left: {left}"

    @staticmethod
    def processes() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found

    @staticmethod
    def pids(program: str) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    command = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
                    if command.endswith(program):
                        found.append(int(entry.name))
        return sorted(found)

    def pid(self, program: str) -> int:
        found = self.pids(program)
        assert found, f"{program} is not running"
        return found[0]

    def kill_daemons(self) -> None:
        """A power cut for whatever runs now, and the wait until it is gone."""
        def gone() -> bool:
            pids = [pid for name in ("wayleave-identityd", "wayleave-managementd", "wayleave-proxyd") for pid in self.pids(name)]
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids
        lab.wait_until(gone, 10, "the killed daemons to be gone")

    # --- profiles ---

    def profile(self, change=None, name: str = "profile", example: Path = EXAMPLE) -> Path:
        """An example profile, changed by `change(dictionary, payloads by type)`."""
        content = plistlib.loads(example.read_bytes())
        payloads = {p["PayloadType"]: p for p in content["PayloadContent"]}
        if change:
            change(content, payloads)
        path = self.folder / f"{name}.mobileconfig"
        path.write_bytes(plistlib.dumps(content))
        return path

    def install(self, path: Path = EXAMPLE, wait: bool = True) -> None:
        result = self.lab.wayleave("profile", "install", path)
        assert result.returncode == 0, f"install: exit {result.returncode}\n{result.stdout}"
        if wait:
            lab.wait_until(self.lab.capture_active, 10, "proxyd to load its rules")

    def remove(self, identifier: str = IDENTIFIER) -> None:
        result = self.lab.wayleave("profile", "remove", identifier)
        assert result.returncode == 0, f"remove: exit {result.returncode}\n{result.stdout}"

    def refused(self, path: Path, *words: str) -> str:
        """Installing must fail, say why, and leave nothing behind."""
        before = self.inventory()
        result = self.lab.wayleave("profile", "install", path)
        assert result.returncode not in (0, None), f"was accepted:\n{result.stdout}"
        for word in words:
            assert word.lower() in result.stdout.lower(), f"the error does not mention {word!r}:\n{result.stdout}"
        assert self.inventory() == before, "something was half-installed"
        return result.stdout

    def inventory(self) -> tuple:
        profiles = self.lab.wayleave_json("profile", "list")["profiles"]
        identities = self.lab.wayleave_json("identity", "list")["identities"]
        return (sorted(p["identifier"] for p in profiles), sorted((i["id"], i["serial"]) for i in identities))

    # --- traffic ---

    def curl(self, url: str = "https://origin.lab/", *options) -> tuple[bool, str]:
        result = self.lab.device("curl", "-sS", "--max-time", "20", *options, url)
        return result.returncode == 0, result.stdout.strip()

    def expect_origin(self, url: str = "https://origin.lab/") -> None:
        ok, text = self.curl(url)
        assert ok and text == "Hello from the origin.", f"{url}: {text}"

    def flows(self) -> list[dict]:
        return self.lab.wayleave_json("flows", "--limit", "1000")["flows"]

    def expect_flow(self, outcome: str, seconds: float = 10) -> dict:
        return lab.wait_until(lambda: next((f for f in self.flows() if f["outcome"] == outcome), None), seconds,
                              f"a flow with outcome {outcome}; there are {[f['outcome'] for f in self.flows()]}")

    def _gateway_size(self) -> int:
        log = self.lab.gateway_log
        return log.stat().st_size if log.exists() else 0

    def gateway_lines(self) -> list[str]:
        """What the gateway logged since this scenario began."""
        with open(self.lab.gateway_log, "rb") as log:
            log.seek(self.gateway_mark)
            return log.read().decode(errors="replace").splitlines()


def changed_vendor(**values):
    """For World.profile: sets (or, with None, removes) keys of VendorConfig."""
    def change(_, payloads):
        vendor = payloads["com.apple.vpn.managed"]["VendorConfig"]
        for key, value in values.items():
            if value is None:
                vendor.pop(key, None)
            else:
                vendor[key] = copy.deepcopy(value)
    return change


def eventually(condition, seconds: float = 10, what: str = "the condition"):
    return lab.wait_until(condition, seconds, what)


__all__ = ["World", "Skipped", "changed_vendor", "eventually", "EXAMPLE", "IDENTIFIER", "lab", "time"]
