"""What docs/*.openapi.yaml say is served, and nothing else is."""

import json
import re

from world import lab


def documented(name: str) -> set[tuple[str, str]]:
    """(method, path); names of parameters do not matter."""
    found, path = set(), ""
    for line in (lab.ROOT / "docs" / f"{name}-api.openapi.yaml").read_text().splitlines():
        if match := re.match(r"  (/[^:]*):", line):
            path = re.sub(r"{[^}]*}", "{}", match[1])
        elif path and (match := re.match(r"    (get|post|put|delete):", line)):
            found.add((match[1].upper(), path))
        elif re.match(r"\S", line):
            path = ""
    return found


def ask(world, daemon: str, method: str, path: str) -> tuple[int, str]:
    result = world.lab.device("curl", "-sS", "--max-time", "2", "--unix-socket", world.lab.runtime / f"{daemon}.sock", "-X", method,
                              "-w", "\\n%{http_code}", f"http://localhost{path.replace('{}', 'nothing-of-that-name')}")
    body, _, status = result.stdout.rpartition("\n")
    return int(re.match(r"\d+", status)[0]) if re.match(r"\d+", status) else 0, body


def test_the_brokers_routes_are_the_documented_ones(world):
    source = (lab.ROOT / "src/broker/identity_service.cc").read_text()
    routes = set()
    for method, before, after in re.findall(r'\{"(GET|POST|PUT|DELETE)", "([^"]+)", (kWhole|kRest|"[^"]*"), "', source):
        routes.add((method, before if after == "kWhole" else before + "{}" + after.strip('"').replace("kRest", "")))
    assert len(routes) > 20, routes
    assert routes == documented("identity"), routes ^ documented("identity")


def test_what_is_documented_of_managementd_and_proxyd_is_served(world):
    world.start()
    for daemon in ("management", "proxy"):
        calls = documented(daemon)
        assert len(calls) > 3, calls
        for method, path in sorted(calls):
            if path.endswith("/watch"):
                continue  # has no end
            status, body = ask(world, daemon, method, path)
            assert status not in (0, 405) and "there is no call" not in body and "no such resource" not in body, (daemon, method, path, status, body)
    # proxyd names what it has when it is asked for something else.
    _, body = ask(world, "proxy", "GET", "/v1/nothing")
    served = {("GET", path) for path in re.findall(r"/[a-z0-9/]+", json.loads(body)["error"]["hint"])}
    assert served == documented("proxy"), served ^ documented("proxy")
