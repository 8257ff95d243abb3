"""The data plane beside real peers, through the same gateway with the same certificates (see rig.py for the chain).

    bench/run.py PROGRAMS [--gateway own|haproxy] [--columns C,…] [--candidates N,…] [--rounds N] [--seconds S] [--store FILE]
    bench/run.py PROGRAMS --transparent | --soak [--soak-flows N]

Candidates are interleaved round by round, because the speed of a shared machine drifts; a figure is the median of its rounds. What
is measured goes into FILE (JSON, default build/bench/data-plane.json) column by column, so that a long measurement can be made in
pieces; report.py makes the tables and the drawing of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from rig import Candidate, Rig, build_ghostunnel, lab  # noqa: E402

# name, mode of the load generator, flows at once
TIMED = {"down 1": ("down", 1), "down 16": ("down", 16), "up 1": ("up", 1), "up 16": ("up", 16), "new flows": ("rate", 16),
         "exchange 1": ("ping", 1), "exchange 32": ("ping", 32)}
IDLE = {"idle 1000": 1000, "idle 10000": 10000}
RELEASE_SECONDS = 16  # docs/operations.md, "Relay": 15 at most
TRANSPARENT = ["down 1", "up 1", "new flows", "exchange 1", "exchange 32", "idle 1000"]
PACKAGES = ("haproxy", "nginx-light", "stunnel4", "nghttp2-proxy", "redsocks", "openssl", "libnghttp2-14")


def say(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{words:<70}", end="", file=sys.stderr, flush=True)


def refined(mode: str, raw: dict) -> dict:
    """What the table shows of one run: rates, and CPU for each gigabyte or each flow or exchange."""
    if mode in ("down", "up"):
        gigabytes = raw["bytes"] / 1e9
        return {"MB/s": raw["bytes"] / raw["seconds"] / 1e6, "cpu": raw["cpu"] / gigabytes if gigabytes else float("inf"), "failures": raw["failures"]}
    return {"per second": raw["count"] / raw["seconds"], "p50": raw["p50"], "p99": raw["p99"], "failures": raw["failures"],
            "cpu": raw["cpu"] / max(1, raw["count"]) * 1e6}


def medians(runs: list[dict]) -> dict:
    return {key: sum(run[key] for run in runs) if key == "failures" else statistics.median(run[key] for run in runs) for key in runs[0]}


def timed(rig: Rig, candidates: list[Candidate], columns: list[str], rounds: int, seconds: float) -> dict:
    results: dict[str, dict] = {c.name: {} for c in candidates}
    for column in columns:
        mode, flows = TIMED[column]
        taking = [c for c in candidates if not c.only or column in c.only]
        runs: dict[str, list[dict]] = {c.name: [] for c in taking}
        for number in range(rounds):
            for candidate in taking:
                say(f"{column}, round {number + 1} of {rounds}: {candidate.name}")
                runs[candidate.name].append(refined(mode, rig.run(candidate, mode, flows, seconds=seconds)))
        for name, measured in runs.items():
            results[name][column] = medians(measured) | {"rounds": measured}
    return results


def idle(rig: Rig, candidates: list[Candidate], columns: list[str]) -> dict[str, dict]:
    """Growth of the resident memory of fresh processes by flows that have had one exchange, and what is left when they are gone: at once, and
    after the time that Wayleave takes to give back everything (docs/operations.md). All have the same time."""
    results: dict[str, dict] = {c.name: {} for c in candidates}
    fresh = {c.name: (rig.rss(c), rig.rss(c, "Rss")) for c in candidates}
    for column in columns:
        for candidate in candidates:
            flows = min(IDLE[column], candidate.most_flows)
            say(f"{column}: {candidate.name}")
            before, before_rss = fresh[candidate.name]
            process, opened = rig.hold(candidate, flows)
            grown, grown_rss = rig.rss(candidate) - before, rig.rss(candidate, "Rss") - before_rss
            threads = rig.threads(candidate)
            rig.release(process)
            time.sleep(1.5)
            results[candidate.name][column] = {
                "flows": opened["open"], "KiB per flow": grown / max(1, opened["open"]), "RSS KiB per flow": grown_rss / max(1, opened["open"]),
                "KiB grown": grown, "KiB left": rig.rss(candidate) - before, "KiB before": before, "threads": threads, "failures": opened["failures"]}
        say(f"{column}: what is kept")
        time.sleep(RELEASE_SECONDS)
        for candidate in candidates:
            results[candidate.name][column]["KiB kept"] = rig.rss(candidate) - fresh[candidate.name][0]
    return results


def soak(rig: Rig, candidate: Candidate, flows: int) -> dict:
    """Very many short flows through one process, then as many at once as the descriptors allow."""
    def descriptors():
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in rig.pids(candidate))
    rig.run(candidate, "rate", 64, "--count", max(1000, flows // 20))  # buffers and tunnels that stay are there
    samples = [{"flows": 0, "RSS KiB": rig.rss(candidate), "descriptors": descriptors()}]
    parts, failures, begun = 10, 0, time.monotonic()
    for part in range(parts):
        say(f"soak: {candidate.name}, {part * flows // parts} of {flows} flows")
        failures += rig.run(candidate, "rate", 64, "--count", flows // parts)["failures"]
        time.sleep(0.3)
        samples.append({"flows": (part + 1) * flows // parts, "RSS KiB": rig.rss(candidate), "descriptors": descriptors()})
    took = time.monotonic() - begun
    say(f"soak: {candidate.name}, {candidate.most_flows} at once")
    before = rig.rss(candidate)
    process, opened = rig.hold(candidate, candidate.most_flows)
    held = {"flows": opened["open"], "failures": opened["failures"], "KiB per flow": (rig.rss(candidate) - before) / max(1, opened["open"]),
            "descriptors": descriptors()}
    rig.release(process)
    time.sleep(RELEASE_SECONDS)
    return {"flows": flows, "failures": failures, "seconds": took, "samples": samples, "at once": held | {"KiB left": rig.rss(candidate) - before}}


def machine_facts() -> dict:
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "unknown")
    versions = {}
    for package in PACKAGES:
        found = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True, text=True).stdout
        versions[package] = found or "absent"
    return {"processor": model, "cores": os.cpu_count(), "kernel": os.uname().release, "date": datetime.date.today().isoformat(), "versions": versions}


def store(path: Path, fill) -> None:
    """Adds to what earlier pieces measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads(path.read_text()) if path.exists() else {}
    content["machine"] = machine_facts()
    fill(content)
    path.write_text(json.dumps(content, indent=1) + "\n")


def lacking(results: dict[str, dict], columns: list[str]) -> list[str]:
    """What ran without a figure to show for it: a candidate that did not start, a column in which nothing was carried."""
    return [f"{name}: {column}" for name, values in results.items() for column in columns
            if not values.get(column) or not (values[column].get("MB/s") or values[column].get("per second") or values[column].get("flows"))]


def measure(options, rig: Rig) -> int:
    kinds = ("transparent",) if options.transparent else ("per flow", "full", "tuned", "shared")
    columns = options.columns or (TRANSPARENT if options.transparent else [*TIMED, *IDLE])
    wanted = [c for c in rig.catalogue() if c.kind in kinds and (not options.candidates or c.name in options.candidates) and
              (not c.only or set(c.only) & set(columns))]
    results: dict[str, dict] = {c.name: {} for c in wanted}
    idle_columns = [c for c in columns if c in IDLE]
    timed_columns = [c for c in columns if c in TIMED]
    running = []
    for candidate in wanted:
        say(f"starting {candidate.name}")
        if not rig.start(candidate):
            continue
        running.append(candidate)
    # At once, while they are fresh: what bulk leaves behind would hide what flows cost.
    if idle_columns:
        for name, more in idle(rig, [c for c in running if not c.only], idle_columns).items():
            results[name] |= more
    for name, more in timed(rig, running, timed_columns, options.rounds, options.seconds).items():
        results[name] |= more
    say("")

    def fill(content: dict) -> None:
        content.setdefault("settings", {}).update({column: {"rounds": options.rounds, "seconds": options.seconds} for column in timed_columns})
        kept = content.setdefault("results" if options.gateway == "own" else "results behind haproxy", {})
        for candidate in wanted:
            entry = kept.setdefault(candidate.name, {})
            entry.update({"kind": candidate.kind, "ours": candidate.ours})
            entry.pop("missing", None)
            if candidate.name in rig.missing:
                entry["missing"] = rig.missing[candidate.name]
            entry.setdefault("columns", {}).update(results[candidate.name])
    store(options.store, fill)
    for name, reason in rig.missing.items():
        print(f"not measured: {name}: {reason}", file=sys.stderr)
    for name, values in results.items():
        for column, value in values.items():
            print(f"{name:22} {column:12} " + "  ".join(f"{k} {v:.1f}" if isinstance(v, float) and k != "cpu" else f"{k} {v:.3f}" if k == "cpu" else f"{k} {v}"
                                                        for k, v in value.items() if k != "rounds"))
    if options.complete and (missing := [*set(options.candidates or ()) - results.keys(), *lacking(results, columns)]):
        print(f"without a figure: {', '.join(missing)}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    def names(text: str) -> list[str]:
        return [part.strip() for part in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="where wayleave-bench-load and wayleave-bench-gateway are")
    parser.add_argument("--gateway", choices=("own", "haproxy"), default="own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--columns", type=names, help=", ".join([*TIMED, *IDLE]))
    parser.add_argument("--candidates", type=names)
    parser.add_argument("--transparent", action="store_true", help="flows captured by the kernel instead of plain TCP")
    parser.add_argument("--complete", action="store_true", help="fail when a candidate is without a figure in one of the columns")
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--soak-flows", type=int, default=1_000_000, help="how many, one after the other, before as many as there can be at once")
    parser.add_argument("--store", type=Path, default=lab.ROOT / "build/bench/data-plane.json")
    options = parser.parse_args()
    options.programs, options.store = options.programs.resolve(), options.store.resolve()
    if os.environ.get("WAYLEAVE_LAB") != "1" and not options.soak and not options.transparent and "ghostunnel" in (options.candidates or ["ghostunnel"]):
        try:
            build_ghostunnel()  # while there is a network
        except (lab.LabError, OSError, subprocess.TimeoutExpired) as reason:
            os.environ["WAYLEAVE_GHOSTUNNEL"] = str(reason)
    lab.enter_namespaces()
    work = Path(tempfile.mkdtemp(prefix="wayleave-bench."))
    machine = lab.Lab(work)
    try:
        machine.up()
        work.chmod(0o755)
        rig = Rig(machine, options.programs, options.gateway)
        rig.ends()
        if options.soak:
            candidate = next(c for c in rig.catalogue() if c.name == "wayleave h2")
            if not rig.start(candidate):
                raise lab.LabError(rig.missing[candidate.name])
            result = soak(rig, candidate, options.soak_flows)
            print("\n" + json.dumps(result, indent=1))
            store(options.store, lambda content: content.update({"soak": result}))
            return 1 if result["failures"] or result["at once"]["failures"] else 0
        return measure(options, rig)
    finally:
        machine.close()
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
