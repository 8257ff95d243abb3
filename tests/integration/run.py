"""Integration tests: the real programs, a real kernel, a real Squid, real curl, in namespaces of their own.

    run.py [--sanitized] [--list] [NAME…]

Each scenario is a function of scenarios_*.py whose name starts with `test_`; it gets a fresh Wayleave in a lab that all share.
Prints a line per scenario and `N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "lab")]

import lab  # noqa: E402
from world import Skipped, World  # noqa: E402

MODULES = sorted(path.stem for path in HERE.glob("scenarios_*.py"))


def scenarios(wanted: list[str]):
    for module in MODULES:
        loaded = importlib.import_module(module)
        for name in [n for n in vars(loaded) if n.startswith("test_")]:
            if not wanted or any(w in f"{module}.{name}" for w in wanted):
                yield f"{module.removeprefix('scenarios_')}: {name.removeprefix('test_').replace('_', ' ')}", getattr(loaded, name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sanitized", action="store_true", help="the programs are built with sanitizers: smaller loads, any report fails")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if options.list:
        for name, _ in scenarios(options.names):
            print(name)
        return 0
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-test."))
    machine = lab.Lab(work)
    counts = {"ok": 0, "FAILED": 0, "skipped": 0}
    try:
        machine.up()
        machine.start_origin()
        machine.start_gateway()
        for name, scenario in scenarios(options.names):
            started = time.monotonic()
            world = World(machine, options.sanitized)
            verdict, detail = "ok", ""
            try:
                scenario(world)
            except Skipped as skipped:
                verdict, detail = "skipped", f": {skipped}"
            except Exception as error:  # a scenario may fail in any way; the others still run
                verdict, detail = "FAILED", f": {type(error).__name__}: {error}\n{traceback.format_exc()}\n{machine.tail('wayleave', 60)}"
            try:
                world.close()
            except Exception as error:
                if verdict == "ok":
                    verdict, detail = "FAILED", f" at clean-up: {error}\n{machine.tail('wayleave', 60)}"
            counts[verdict] += 1
            print(f"{verdict:<9} {name} ({time.monotonic() - started:.1f} s){detail}", flush=True)
    finally:
        machine.close()
        if counts["FAILED"] and os.environ.get("WAYLEAVE_KEEP"):
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{counts['ok']} passed, {counts['FAILED']} failed, {counts['skipped']} skipped")
    return 1 if counts["FAILED"] or not counts["ok"] else 0


if __name__ == "__main__":
    sys.exit(main())
