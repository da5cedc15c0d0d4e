from __future__ import annotations

import json

import pytest

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon, container
from tests.unit.cli.conftest import Cli


@pytest.fixture
def web(daemon: FakeDaemon) -> FakeDaemon:
    ports = [
        pb.PublishedPort(host_port=8080, container_port=80, proto="tcp"),
        pb.PublishedPort(host_ip="::1", host_port=53, container_port=53, proto="udp"),
    ]
    daemon.containers = {"web": container("web", 1, ports=ports), "add": container("add", 2)}
    return daemon


def test_ports_in_dockers_form(cli: Cli, web: FakeDaemon) -> None:
    shown = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n53/udp -> [::1]:53\n"
    assert cli("port", "web").out == shown
    assert cli("port", "ls", "web").out == shown


@pytest.mark.parametrize("line", [["web", "--json"], ["--json", "web"], ["ls", "web", "--json"]])
def test_ports_as_json(cli: Cli, web: FakeDaemon, line: list[str]) -> None:
    found = json.loads(cli("port", *line).out)
    assert found[0] == {"host_ip": "", "host_port": 8080, "container_port": 80, "proto": "tcp"}


def test_a_container_with_a_commands_name(cli: Cli, web: FakeDaemon) -> None:
    answer = cli("port", "ls", "add")
    assert (answer.code, answer.out) == (0, "")


def test_add_and_rm(cli: Cli, web: FakeDaemon) -> None:
    assert cli("port", "add", "web", "8080:80").out == "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
    assert web.last() == pb.PortRequest(container="web", spec="8080:80")
    answer = cli("port", "rm", "web", "8080:80/tcp", "--json")
    assert (answer.code, json.loads(answer.out)) == (0, [])
    assert web.last() == pb.PortRequest(container="web", spec="8080:80/tcp")


def test_unknown_container(cli: Cli) -> None:
    answer = cli("port", "nope")
    assert answer.code == 1
    assert "'nope'" in answer.err
