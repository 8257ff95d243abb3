"""Tables and a drawing of what run.py, slow_key.py and handshakes.py measured.

    bench/report.py DATA.json [--markdown FILE | --publish PAGE] [--svg FILE] [--handshakes FILE] [--broker FILE]

Without --markdown the tables go to standard output. A ratio is ours to the best peer's: for CPU, memory and time less is better, for
rates more.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

BULK = ("down 1", "down 16", "up 1", "up 16")
INFINITE = float("inf")


class Data:
    def __init__(self, content: dict, key: str = "results"):
        self.results = content.get(key, {})

    def value(self, name: str, column: str, what: str) -> float | None:
        found = self.results.get(name, {}).get("columns", {}).get(column, {}).get(what)
        return None if found is None or (isinstance(found, float) and not math.isfinite(found)) else found

    def names(self, *kinds: str, ours: bool = False) -> list[str]:
        return [n for n, entry in self.results.items() if entry["kind"] in kinds and entry["ours"] == ours]

    def best(self, names: list[str], column: str, what: str, more: bool) -> tuple[str, float] | None:
        values = [(n, v) for n in names if (v := self.value(n, column, what))]
        return (max if more else min)(values, key=lambda pair: pair[1]) if values else None

    def ratio(self, ours: str, names: list[str], column: str, what: str, more: bool = False) -> tuple[float, str] | None:
        best, mine = self.best(names, column, what, more), self.value(ours, column, what)
        return (mine / best[1], best[0]) if best and mine is not None else None


def number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def row(*cells) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*cells) -> list[str]:
    return [row(*cells), row(*(["---"] * len(cells)))]


def bulk_table(data: Data, kinds: tuple[str, ...]) -> list[str]:
    lines = head("proxy", *(f"{c}: MB/s, CPU s/GB" for c in BULK))
    for name in data.names(*kinds) + data.names(*kinds, ours=True):
        if any(data.value(name, c, "cpu") for c in BULK):
            lines.append(row(name, *(f"{number(data.value(name, c, 'MB/s'), '.0f')}, {number(data.value(name, c, 'cpu'), '.2f')}" for c in BULK)))
    return lines


def small_table(data: Data, kinds: tuple[str, ...]) -> list[str]:
    lines = head("proxy", "new flows/s", "CPU ms per flow", "exchange, 1 at once: p50 / p99 µs", "32 at once: p50 / p99 µs", "exchanges/s (32)",
                 "KiB per idle flow, 1,000", "10,000", "KiB kept of 1,000 / 10,000: after 1.5 s", "after 16 s")
    for name in data.names(*kinds) + data.names(*kinds, ours=True):
        cpu = data.value(name, "new flows", "cpu")
        flows = data.value(name, "idle 10000", "flows")
        lines.append(row(name, number(data.value(name, "new flows", "per second"), ".0f"), number(cpu / 1000 if cpu else None, ".3f"),
                         *(f"{number(data.value(name, c, 'p50'), '.0f')} / {number(data.value(name, c, 'p99'), '.0f')}" for c in ("exchange 1", "exchange 32")),
                         number(data.value(name, "exchange 32", "per second"), ".0f"), number(data.value(name, "idle 1000", "KiB per flow"), ".1f"),
                         number(data.value(name, "idle 10000", "KiB per flow"), ".1f") + (f" ({flows:,})" if flows and flows != 10000 else ""),
                         *(f"{number(data.value(name, 'idle 1000', what), '.0f')} / {number(data.value(name, 'idle 10000', what), '.0f')}"
                           for what in ("KiB left", "KiB kept"))))
    return lines


def targets(content: dict, data: Data) -> list[str]:
    lines = head("target", "measured", "against", "met")

    def add(what: str, limit: float, found: tuple[float, str] | None, more: bool = False) -> None:
        if found:
            met = found[0] >= limit if more else found[0] <= limit
            lines.append(row(f"{what}: {'at least' if more else 'at most'} {limit:g} ×", f"{found[0]:.2f} ×", found[1], "yes" if met else "**no**"))
    per_flow, tuned, shared = data.names("per flow"), data.names("tuned"), data.names("shared")
    add("new flows/s, best multiplexing peer", 1.5, data.ratio("wayleave h2", shared, "new flows", "per second", True), True)
    add("new flows/s, best peer with a full handshake per flow", 20, data.ratio("wayleave h2", data.names("full"), "new flows", "per second", True), True)
    # The same key's peers as they are packaged resume by ticket: fewer handshakes in full than flows.
    add("new flows/s, best peer with a connection per flow as packaged (resumed by ticket)", 20,
        data.ratio("wayleave h2", per_flow, "new flows", "per second", True), True)
    if slow := content.get("slow key"):
        title, peer = f"new flows/s, key that signs in {slow['delay']} ms", slow["stunnel"]
        if "per second" in peer:
            add(title, 500, (slow["wayleave h2"]["per second"] / peer["per second"], "stunnel, same key"), True)
        else:
            lines.append(row(f"{title}: at least 500 ×", "–", "stunnel, same key", f"not shown: {peer['missing'].strip()}"))
    for column in BULK:
        add(f"CPU per GB, h1, {column}, as packaged", 0.65, data.ratio("wayleave h1", per_flow, column, "cpu"))
        add(f"CPU per GB, h1, {column}, tuned", 0.9, data.ratio("wayleave h1", tuned, column, "cpu"))
        add(f"CPU per GB, h2, {column}", 0.65, data.ratio("wayleave h2", shared, column, "cpu"))
    for column in ("exchange 1", "exchange 32"):
        for what in ("p50", "p99"):
            add(f"{what}, {column}, h1", 0.9, data.ratio("wayleave h1", per_flow + tuned, column, what))
            add(f"{what}, {column}, h2", 0.9, data.ratio("wayleave h2", shared, column, what))
    for column in ("idle 1000", "idle 10000"):
        mine = data.value("wayleave h2", column, "KiB per flow")
        if mine is not None:
            resident = data.value("wayleave h2", column, "RSS KiB per flow")
            worst = mine if resident is None else max(mine, resident)
            lines.append(row(f"memory per idle flow, h2, {int(column[5:]):,} flows: at most 2 KiB of RSS",
                             f"RSS {number(resident, '.2f')} KiB, PSS {mine:.2f} KiB", "", "yes" if worst <= 2 else "**no**"))
        kept, grown = data.value("wayleave h2", column, "KiB kept"), data.value("wayleave h2", column, "KiB grown")
        if kept is not None and grown:
            # Of what is kept the newest records are the most: at most a MiB, however many flows there were.
            lines.append(row(f"given back when {int(column[5:]):,} flows have closed, after 16 s: all but the journal's MiB",
                             f"{kept:.0f} KiB kept of {grown:.0f}", "", "yes" if kept <= 1024 else "**no**"))
    held = content.get("soak", {})
    if held:
        good = held["at once"]["failures"] == 0 and held["at once"]["flows"] >= 19000
        lines.append(row("19,000 flows at once in one process", f"{held['at once']['flows']:,}, {held['at once']['failures']} failures", "", "yes" if good else "**no**"))
        grown = held["samples"][-1]["RSS KiB"] - held["samples"][0]["RSS KiB"]
        good = held["failures"] == 0 and grown < 1024
        lines.append(row("soak of 1,000,000 flows: no error, no growth", f"{held['flows']:,} flows, {held['failures']} failures, {grown:+.0f} KiB", "",
                         "**no**" if not good else "yes" if held["flows"] >= 1_000_000 else "not shown: shortened"))
    return lines


def tables(content: dict, handshakes: str) -> str:
    data = Data(content)
    parts: list[str] = []

    def section(title: str, lines: list[str]) -> None:
        if len(lines) > 2:
            parts.extend([f"### {title}", "", *lines, ""])
    section("Targets", targets(content, data))
    section("Bulk: a TLS connection per flow", bulk_table(data, ("per flow", "tuned")))
    section("Bulk: shared HTTP/2", bulk_table(data, ("shared",)))
    section("Flows, latency, memory", small_table(data, ("per flow", "tuned", "full", "shared")))
    section("Captured flows", small_table(data, ("transparent",)))
    real = Data(content, "results behind haproxy")
    section("Behind HAProxy as the gateway: bulk", bulk_table(real, ("per flow", "tuned", "shared")))
    section("Behind HAProxy as the gateway: flows and latency", small_table(real, ("per flow", "tuned", "shared")))
    slow = content.get("slow key")
    if slow:
        lines = head("proxy", "new flows/s", "flow with its first KiB, p50 / p99 ms", "failures")
        for name in ("wayleave h2", "stunnel"):
            if "per second" in slow.get(name, {}):
                v = slow[name]
                lines.append(row(name, f"{v['per second']:.1f}", f"{v['p50'] / 1000:.1f} / {v['p99'] / 1000:.1f}", v["failures"]))
        section(f"A key that signs in {slow['delay']} ms, a gateway without tickets", lines)
    if handshakes:
        parts.extend(["### Handshakes by key", "", handshakes.strip(), ""])
    if "soak" in content:
        lines = head("flows so far", "memory KiB", "descriptors")
        lines += [row(f"{s['flows']:,}", f"{s['RSS KiB']:.0f}", s["descriptors"]) for s in content["soak"]["samples"]]
        section(f"Soak: {content['soak']['flows']:,} flows in {content['soak']['seconds']:.0f} s", lines)
        at = content["soak"]["at once"]
        parts.extend([f"Then {at['flows']:,} at once: {at['failures']} failures, {at['KiB per flow']:.2f} KiB each, {at['descriptors']:,} descriptors; "
                      f"{at['KiB left']:.0f} KiB kept when they had closed.", ""])
    for name, entry in data.results.items():
        if "missing" in entry:
            parts.append(f"Not measured: {name}: {entry['missing']}")
        failed = sum(int(v.get("failures", 0)) for v in entry.get("columns", {}).values())
        if failed:
            parts.append(f"Failed flows: {name}: {failed}")
    machine = content.get("machine")
    if machine:
        versions = ", ".join(f"{n} {v}" for n, v in machine["versions"].items())
        parts.append(f"\nMeasured {machine['date']} on {machine['cores']} cores of {machine['processor']}, kernel {machine['kernel']}; {versions}.")
    return "\n".join(parts) + "\n"


def broker_table(rows: list[dict]) -> str:
    """As bench/broker.py prints it."""
    lines = [row("what", "clients", "per second", "p50", "p99", "broker: sign, as a multiple of it"), "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for each in sorted(rows, key=lambda r: (r["what"], r["clients"])):
        ratio = each.get("brokerSignRatio")
        lines.append(row(each["what"], each["clients"], f"{each['perSecond']:.0f}", f"{each['p50us'] / 1000:.2f} ms", f"{each['p99us'] / 1000:.2f} ms",
                         "" if ratio is None else f"{ratio:.2f}"))
    return "\n".join(lines) + "\n"


def draw(data: Data) -> str:
    """Bars, one group for each question."""
    parts, y = [], 24

    def text(x, at, words, size=12, anchor="start", weight="normal"):
        parts.append(f'<text x="{x}" y="{at}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>')
    order = [n for kinds in (("per flow",), ("tuned",), ("shared",)) for ours in (False, True) for n in data.names(*kinds, ours=ours)]
    for title, column, what, form in (("CPU seconds per GB, 16 flows down (less is better)", "down 16", "cpu", ".2f"),
                                      ("CPU seconds per GB, 16 flows up (less is better)", "up 16", "cpu", ".2f"),
                                      ("New flows per second (more is better)", "new flows", "per second", ".0f"),
                                      ("1 KiB exchange, 32 at once, p99 in µs (less is better)", "exchange 32", "p99", ".0f"),
                                      ("KiB of memory per idle flow, 1,000 flows (less is better)", "idle 1000", "KiB per flow", ".1f")):
        values = {name: v for name in order if (v := data.value(name, column, what))}
        if not values:
            continue
        text(10, y, title, 14, weight="bold")
        for name, value in values.items():
            y += 20
            width = 420 * value / max(values.values())
            text(110, y + 11, name, anchor="end")
            parts.append(f'<rect x="118" y="{y}" width="{width:.1f}" height="14" fill="{"#2a6f97" if name.startswith("wayleave") else "#b0b7bd"}"/>')
            text(124 + width, y + 11, format(value, form))
        y += 44
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="640" height="{y}" viewBox="0 0 640 {y}" font-family="sans-serif">'
            '<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n")


def publish(page: Path, what: str, text: str) -> None:
    """Replaces what stands between the two marks."""
    begin, end = f"<!-- {what}: begin -->", f"<!-- {what}: end -->"
    before, opened, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"{page}: no place for '{what}'")
    page.write_text(f"{before}{begin}\n\n{text}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--publish", type=Path, help="a page with marks, between which the tables go")
    parser.add_argument("--handshakes", type=Path)
    parser.add_argument("--broker", type=Path, help="what bench/broker.py wrote: a table of its own")
    options = parser.parse_args()
    content = json.loads(options.data.read_text())
    handshakes = options.handshakes.read_text() if options.handshakes and options.handshakes.exists() else ""
    text = tables(content, handshakes)
    if options.markdown:
        options.markdown.write_text(text)
    if options.publish:
        publish(options.publish, "measured", text)
        if options.broker:
            publish(options.publish, "broker", broker_table(json.loads(options.broker.read_text())["rows"]))
    if not options.markdown and not options.publish:
        print(text)
    if options.svg:
        options.svg.parent.mkdir(parents=True, exist_ok=True)
        options.svg.write_text(draw(Data(content)))


if __name__ == "__main__":
    main()
