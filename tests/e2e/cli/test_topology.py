"""`netd topology ...` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.host import NETD, Host, eventually

PAIR = """\
services:
  web: {command: [sh, -c, 'echo hello; echo trouble >&2; exec sleep 100'], scale: 2, ports: ["80"]}
  db: {}
"""


@pytest.fixture
def pair(host: Host) -> Path:
    path = host.lab.directory / "pair.yaml"
    path.write_text(PAIR)
    return path


def test_the_steps_and_the_end_are_shown(host: Host, pair: Path) -> None:
    done = host.run(NETD, "topology", "up", pair)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "created network pair_default"
    assert sorted(lines[1:4]) == [f"started container pair-{each}-1" for each in ("db", "web")] + [
        "started container pair-web-2"
    ]
    assert lines[4].startswith("pair is up in ")
    assert host.run(NETD, "topology", "up", pair, "-q").stderr == ""
    assert "removed network pair_default" in host.run(NETD, "topology", "down", "pair").stderr


def test_ps(host: Host, pair: Path) -> None:
    assert host.netd("topology", "ps") == "PROJECT   CONTAINERS   NETWORKS\n"
    host.netd("topology", "up", pair)
    assert host.netd("topology", "ps").splitlines()[1].split() == ["pair", "3", "1"]
    listed = host.netd("topology", "ps", pair).splitlines()
    assert [line.split()[0] for line in listed[1:]] == ["pair-db-1", "pair-web-1", "pair-web-2"]
    assert host.address("pair-web-1") in listed[2]
    assert "->80/tcp" in listed[2]
    assert len(json.loads(host.netd("topology", "ps", "pair", "--json"))) == 3


def test_exec_and_logs(host: Host, pair: Path) -> None:
    host.netd("topology", "up", pair)
    assert host.netd("topology", "exec", pair, "web-2", "hostname") == host.netd(
        "exec", "pair-web-2", "hostname"
    )
    assert host.run(NETD, "topology", "exec", "pair", "db", "--", "sh", "-c", "exit 5").returncode == 5
    assert "no service 'nobody'; there are: db, web" in host.refused(
        "topology", "exec", "pair", "nobody", "ls"
    )

    def written(*arguments: str) -> tuple[list[str], list[str]]:
        done = host.run(NETD, "topology", "logs", "pair", *arguments)
        return sorted(done.stdout.splitlines()), sorted(done.stderr.splitlines())

    everything = ["web-1 | hello", "web-2 | hello"], ["web-1 | trouble", "web-2 | trouble"]
    eventually("all have written", lambda: written() == everything)
    assert written("web-2") == (["web-2 | hello"], ["web-2 | trouble"])
    assert sum(map(len, written("web", "-n", "1"))) == 1


def test_what_is_wrong_is_one_line(host: Host, pair: Path) -> None:
    pair.write_text("services: {a: {image: nginx}}")
    assert "services.a.image: 'nginx'" in host.refused("topology", "up", pair)
    pair.write_text("services: {a: {privileged: true}}")
    assert "services.a.privileged" in host.refused("topology", "up", pair)
    assert "'nothing' is up" in host.refused("topology", "ps", "nothing")
    assert "needs the file" in host.refused("topology", "down", "pair", "-v", status=2)


def test_lenient_warns_and_an_image_is_mapped(host: Host, pair: Path) -> None:
    pair.write_text("services: {a: {privileged: true, image: 'nginx:1', command: sleep 100}}")
    done = host.run(NETD, "topology", "up", pair, "--lenient", "--image", "nginx:1=host")
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert host.inspect("pair-a-1")["rootfs"] == "host"


def test_graph_shows_what_runs_and_offline_what_is_written(host: Host, pair: Path) -> None:
    host.netd("topology", "up", pair)
    address = host.address("pair-db-1")
    assert address in host.netd("topology", "graph", pair)
    assert address not in host.netd("topology", "graph", "--offline", pair)
    page = host.lab.directory / "pair.html"
    host.netd("topology", "graph", pair, "-o", page)
    assert page.read_text().startswith("<!doctype html>")
    assert address in page.read_text()
    assert host.netd("topology", "graph", pair, "-f", "dot").startswith('graph "pair" {')


def test_the_schema_needs_no_daemon(host: Host) -> None:
    host.stop()
    assert json.loads(host.netd("topology", "schema"))["title"] == "netd topology"
