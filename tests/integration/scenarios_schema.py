"""Every declaration that Wayleave reads, against a description of Apple's schema: what conforms has no error, and each of its
keys missing, of another type, outside its list or unknown is one. Skipped where the description is absent."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

from scenarios_cli import wayleave
from world import Skipped, lab

SCHEMA = Path(os.environ.get("WAYLEAVE_SCHEMA", lab.ROOT / ".." / "shared" / "facts" / "schema"))
VALUES = {"DataURL": "https://a.example/x", "ProfileURL": "https://a.example/p", "Hash-SHA-256": "ab" * 32, "AppComposedIdentifier": "com.example.app (TEAM)",
          "ComposedIdentifier": "com.example.app", "ContentType": "application/json", "Predicate": "TRUEPREDICATE"}
PLAIN = {"string": "x", "boolean": True, "any": "x", "data": "AAAA", "real": 1.5}
WRONG = {"string": 5, "integer": "5", "real": "x", "boolean": "true", "array": {}, "dictionary": []}
ONE_OF = (("AppStoreID", "BundleID", "ManifestURL", "AppComposedIdentifier"), ("ProfileURL", "ProfileAssetReference"))


def value(node: dict, whole: bool):
    kind = node["type"]
    if node.get("key") in VALUES:
        return VALUES[node["key"]]
    if "allowed" in node:
        return node["allowed"][-1]
    if kind == "integer":
        return max(node.get("min", 1), 1)
    if kind == "array":
        return [value(node["items"], whole)]
    return dictionary(node.get("keys", []), whole) if kind == "dictionary" else PLAIN[kind]


def dictionary(nodes: list, whole: bool) -> dict:
    named = {n["key"]: value(n, whole) for n in nodes if n["key"] != "*" and (whole or n.get("required"))}
    return named | {"com.example.any": value(n, whole) for n in nodes if n["key"] == "*" and whole}


def conforming(kind: str, nodes: list, whole: bool) -> dict:
    payload = dictionary(nodes, whole)
    for choices in ONE_OF:
        if any(n["key"] in choices for n in nodes):
            for key in choices:
                payload.pop(key, None)
            payload[choices[-1] if choices[0] == "AppStoreID" else choices[0]] = VALUES[choices[-1] if choices[0] == "AppStoreID" else choices[0]]
    if "vpn-plugin" in kind:
        payload["Authentication"].update(CredentialsAssetReference="c", IdentityAssetReference="i")
    return payload


def broken(base: dict, nodes: list, path: list):
    """Copies of `base` with one mistake each, and what the mistake is."""
    def changed(change):
        copied = copy.deepcopy(base)
        inner = copied
        for step in path:
            inner = inner[step]
        change(inner)
        return copied
    here = base
    for step in path:
        here = here[step]
    for node in nodes:
        key, kind = node["key"], node["type"]
        if key not in here:
            continue
        name = ".".join(map(str, [*path, key]))
        if node.get("required"):
            yield f"{name} missing", changed(lambda d: d.pop(key))
        if kind in WRONG:
            yield f"{name} of another type", changed(lambda d: d.update({key: WRONG[kind]}))
        if "allowed" in node and kind == "string":
            yield f"{name} outside its list", changed(lambda d: d.update({key: "Nonsense"}))
        if "max" in node:
            yield f"{name} too large", changed(lambda d: d.update({key: node["max"] + 1}))
        items = node.get("items", {})
        inner = node.get("keys") or items.get("keys") or []
        if kind == "array" and items.get("type") in WRONG:
            yield f"{name} with an element of another type", changed(lambda d: d.update({key: [WRONG[items["type"]]]}))
        if not inner:
            continue
        steps = [*path, key] if kind == "dictionary" else [*path, key, 0]
        if all(n["key"] != "*" for n in inner):
            yield f"{name} with an unknown key", changed(lambda d: (d[key] if kind == "dictionary" else d[key][0]).update(Unknwn=1))
        yield from broken(base, inner, steps)


def test_every_declaration_is_judged_as_the_schema_says(world):
    if not SCHEMA.exists():
        raise Skipped(f"no description of the schema at {SCHEMA}")
    cases = []
    for file in sorted(SCHEMA.glob("com.apple.*.json")):
        schema = json.loads(file.read_text())
        if schema["kind"] != "declaration":
            continue
        kind, nodes = schema["name"], schema["keys"]
        whole = conforming(kind, nodes, True)
        wrong = list(broken(whole, nodes, []))
        if all(n["key"] != "*" for n in nodes):
            wrong.append(("an unknown key", whole | {"Unknwn": 1}))
        for what, payload, right in [("minimal", conforming(kind, nodes, False), True), ("whole", whole, True), *[(w, p, False) for w, p in wrong]]:
            path = world.folder / f"{len(cases):04}.json"
            path.write_text(json.dumps({"Type": kind, "Identifier": path.stem, "ServerToken": "1", "Payload": payload}))
            cases.append((str(path), f"{kind}: {what}", right))
    assert len(cases) > 300, len(cases)
    findings = json.loads(wayleave("lint", "--json", *[path for path, _, _ in cases], status=1))["findings"]
    by_file = {}
    for finding in findings:
        if finding["rule"] == "declaration":
            by_file.setdefault(finding["file"], []).append(finding)
    mistakes = []
    for path, what, right in cases:
        told = by_file.get(path, [])
        if any("not a type that Wayleave carries out" in f["message"] for f in told):
            continue  # of others: its payload is not read
        errors = [f"{f['where']} {f['message']}" for f in told if f["severity"] == "error"]
        if bool(errors) == right:
            mistakes.append(f"{what}: {errors or 'no error'}")
    assert not mistakes, "\n".join(mistakes)
