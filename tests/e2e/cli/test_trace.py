"""`netd trace` as a person types it."""

from __future__ import annotations

import re

import pytest

from tests.e2e.host import Host


@pytest.fixture
def walled(host: Host) -> Host:
    """`web` on `front`, and `db` behind the wall of an internal network."""
    host.netd("network", "create", "front")
    host.netd("network", "create", "back", "--internal")
    for name, network in (("web", "front"), ("db", "back")):
        host.netd("run", "-d", "--name", name, "--network", network, "--", "sleep", "1000")
    return host


def test_each_rule_in_its_place(walled: Host) -> None:
    web, db = walled.address("web"), walled.address("db")
    lines = walled.netd("trace", "web", "tcp", db, "5432").splitlines()
    assert lines[0] == "route    web:eth0 -> network:front -> network:back"
    ends = re.escape(f"{web}:40000 > {db}:5432")
    chain = rf"inet netd to_container: {ends} \(network:front -> network:back\)"
    assert any(re.fullmatch(chain, line) for line in lines)
    assert lines[-2:] == ["    oifname @internal drop", "verdict  drop"]


def test_json(walled: Host) -> None:
    found = walled.json("trace", "web", "icmp", walled.address("db"))
    assert (found["verdict"], found["decision"]["chain"]) == ("drop", "to_container")
    assert found["steps"][0]["iif"] == "web:eth0"
    found = walled.json("trace", "host", "udp", walled.address("db"), "53", "--from", "203.0.113.2")
    assert (found["verdict"], found["route"][-1]) == ("accept", "db:eth0")


def test_wrong_requests(walled: Host) -> None:
    assert "needs a PORT" in walled.refused("trace", "web", "tcp", "10.0.0.1", status=2)
    assert "has no ports" in walled.refused("trace", "web", "icmp", "10.0.0.1", "7", status=2)
    assert "give an address" in walled.refused("trace", "web", "udp", "db", "7", status=2)
    assert "--from" in walled.refused("trace", "host", "udp", "10.0.0.1", "7", status=2)
    assert "'nobody' does not exist" in walled.refused("trace", "nobody", "udp", "10.0.0.1", "7")
    assert "no IPv6 address" in walled.refused("trace", "web", "udp", "fd00::1", "7")


def test_a_daemon_that_is_killed_leaves_no_tables(walled: Host) -> None:
    """They go with the socket that made them."""
    process = walled.spawn("nft", "monitor", "new", "tables")
    assert process.stdout is not None
    trace = walled.spawn("netd", "trace", "web", "udp", "203.0.113.10", "9")
    while "netd_trace_" not in process.stdout.readline():
        pass
    walled.kill()
    trace.wait(30)
    assert "netd_trace" not in walled.sh("nft list ruleset")
