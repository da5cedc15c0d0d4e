"""Every shipped topology comes up, keeps its promises, and leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.host import NETD, PYTHON, ROOT, Host, eventually

FILES = sorted((ROOT / "topologies").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_a_shipped_topology_keeps_what_its_checks_promise(host: Host, file: Path) -> None:
    before = host.census()
    host.netd("topology", "up", file)
    done = host.run(NETD, "topology", "check", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert host.netd("topology", "up", file, "--dry-run") == "", "a second time there is nothing to do"
    host.netd("topology", "down", file, "--volumes")
    assert host.census() == before


def test_a_check_that_does_not_hold_fails(host: Host) -> None:
    file = host.lab.directory / "liar.yaml"
    text = (ROOT / "topologies" / "tenants.yaml").read_text()
    lies = text.replace("expect: open", "expect: LIE").replace(
        "expect: blocked", "expect: open, within: 100ms"
    )
    file.write_text(lies.replace("expect: LIE", "expect: blocked"))
    host.netd("topology", "up", file)
    done = host.run(NETD, "topology", "check", file, "--json")
    outcomes = json.loads(done.stdout)
    assert done.returncode == 1
    assert len(outcomes) == 5
    assert not any(outcome["ok"] for outcome in outcomes)
    assert {outcome["found"] for outcome in outcomes} == {"open", "blocked"}


def test_where_nobody_listens_is_neither_open_nor_blocked(host: Host) -> None:
    file = host.lab.directory / "t.yaml"
    check = "{from: a, to: 'b:81', within: 100ms, expect: %s}"
    checks = ", ".join(check % expect for expect in ("open", "blocked"))
    file.write_text(f"services: {{a: {{}}, b: {{}}}}\nx-netd: {{checks: [{checks}]}}")
    host.netd("topology", "up", file)
    done = host.run(NETD, "topology", "check", file, "--json")
    assert [(each["found"], each["ok"]) for each in json.loads(done.stdout)] == [("refused", False)] * 2


def test_the_whole_matrix(host: Host) -> None:
    file = ROOT / "topologies" / "jump-host.yaml"
    host.netd("topology", "up", file)
    listed = json.loads(host.netd("topology", "check", file, "--all", "--json"))
    found = {(each["from"], each["to"]): each["found"] for each in listed}
    assert found["office", "jump:22/tcp"] == "open"
    assert found["office", "db:5432/tcp"] == "blocked"
    assert found["jump", "db/icmp"] == "open"
    lines = host.netd("topology", "check", file, "--all").splitlines()
    assert lines[0].split()[0] == "FROM"
    assert [line.split()[0] for line in lines[1:]] == ["db", "jump", "office"]


def test_a_compose_file_of_a_tutorial_runs_unchanged(host: Host) -> None:
    file = ROOT / "tests" / "e2e" / "tutorial" / "compose.yaml"
    host.netd("topology", "up", file, "--image", "*=host")
    page = eventually(
        "the web application serves",
        lambda: host.lab.client.run("curl", "-s", "http://203.0.113.2:8000/").stdout,
    )
    assert page == "hello, cache ok, db ok\n"
    assert host.netd("topology", "exec", "tutorial", "web", "--", "getent", "hosts", "database")
    passed = host.netd("topology", "exec", "tutorial", "db", "--", "printenv", "POSTGRES_PASSWORD")
    assert passed == "not a secret\n"
    assert host.inspect("tutorial-cache-1")["labels"]["com.example.team"] == "web"
    assert "services.web.image: 'python:3.12-alpine'" in host.refused("topology", "up", file)
    host.netd("topology", "down", file, "--image", "*=host", "--volumes")


CALLER = """
import socket, sys, time
failures = calls = 0
print("ready", flush=True)
while not sys.stdin.closed:
    try:
        with socket.create_connection(("www", 80), timeout=5) as s:
            s.sendall(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
            calls += bool(s.recv(100))
    except OSError as error:
        failures += 1
        print(error, file=sys.stderr)
    import select
    if select.select([sys.stdin], [], [], 0.02)[0]:
        break
print(calls, failures, flush=True)
"""


def test_a_rolling_replacement_leaves_no_call_unanswered(host: Host) -> None:
    file = ROOT / "topologies" / "rolling.yaml"
    host.netd("topology", "up", file)
    before = {each["name"]: each["id"] for each in host.json("ps")}
    caller = host.spawn(NETD, "topology", "exec", file, "client", "--", PYTHON, "-ISc", CALLER)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "ready\n"
    host.output("env", "VERSION=2", NETD, "topology", "up", file)
    output, _ = caller.communicate(timeout=30)
    calls, failures = map(int, output.split())
    after = {each["name"]: each["id"] for each in host.json("ps")}
    changed = {name for name, id in after.items() if before[name] != id}
    assert changed == {f"rolling-web-{n}" for n in (1, 2, 3)}
    assert calls > 10
    assert failures == 0
