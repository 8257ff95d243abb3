"""Where proxyd's time goes: perf record during bulk, exchanges and new flows; prints the symbols that cost most.

    bench/profile.py PROGRAMS [--store FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from rig import Rig, lab  # noqa: E402
from run import TIMED  # noqa: E402

LOADS = [("wayleave h1", "down 1"), ("wayleave h1", "up 1"), ("wayleave h2", "down 1"), ("wayleave h2", "up 1"), ("wayleave h2", "new flows"),
         ("wayleave h2", "exchange 1"), ("wayleave h2", "exchange 32")]


def top(work: Path, lines: int = 14) -> list[tuple[float, str]]:
    report = subprocess.run(["perf", "report", "-i", work / "perf.data", "--stdio", "--no-children", "-g", "none", "--percent-limit", "0.8", "--sort", "dso,symbol"],
                            capture_output=True, text=True).stdout
    found = re.findall(r"^\s*([\d.]+)%\s+(\S+)\s+\[.\]\s+(.*?)\s*$", report, re.MULTILINE)
    return [(float(share), f"{dso}: {symbol[:90]}") for share, dso, symbol in found[:lines]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--store", type=Path, default=lab.ROOT / "build/bench/data-plane.json")
    options = parser.parse_args()
    options.programs, options.store = options.programs.resolve(), options.store.resolve()
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    machine = lab.Lab(work)
    spots: dict[str, list] = {}
    try:
        machine.up()
        work.chmod(0o755)
        rig = Rig(machine, options.programs)
        rig.ends()
        candidates = {c.name: c for c in rig.catalogue() if c.name in {name for name, _ in LOADS}}
        for candidate in candidates.values():
            if not rig.start(candidate):
                raise lab.LabError(rig.missing[candidate.name])
        for name, column in LOADS:
            mode, flows = TIMED[column]
            pid = ",".join(map(str, rig.pids(candidates[name])))
            perf = subprocess.Popen(["perf", "record", "-q", "-F", "997", "-p", pid, "-o", work / "perf.data"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            rig.run(candidates[name], mode, flows, seconds=options.seconds)
            perf.send_signal(2)
            perf.wait()
            spots[f"{name}, {column}"] = top(work)
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)
    for title, lines in spots.items():
        print(f"== {title}")
        for share, where in lines:
            print(f"{share:6.2f} % {where}")
    content = json.loads(options.store.read_text()) if options.store.exists() else {}
    content["hot spots"] = spots
    options.store.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
