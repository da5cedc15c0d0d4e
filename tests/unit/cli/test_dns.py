from __future__ import annotations

import json

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon, container
from tests.unit.cli.conftest import Cli


def test_lookup_prints_records_and_the_reason(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.containers = {"web": container("web", 1)}
    record = pb.DnsRecord(name="db", ttl=5, type="A", data="10.89.0.3")
    daemon.lookup = pb.DnsLookupReply(
        answers=[
            pb.DnsAnswer(type="A", rcode="NOERROR", records=[record]),
            pb.DnsAnswer(type="AAAA", rcode="NOERROR"),
            pb.DnsAnswer(type="MX", rcode="NXDOMAIN"),
        ],
        why="db is a container: db on network front",
        networks=["front", "back"],
    )
    answer = cli("dns", "lookup", "db", "--from", "web", "--type", "A", "--type", "AAAA")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        "db 5 A 10.89.0.3\nAAAA: no such record\nMX: NXDOMAIN\n"
        "db is a container: db on network front; sees front, back\n"
    )
    assert daemon.last() == pb.DnsLookupRequest(container="web", name="db", types=["A", "AAAA"])
    found = json.loads(cli("dns", "lookup", "db", "--from", "web", "--json").out)
    assert found["answers"][0]["records"] == [{"name": "db", "ttl": 5, "type": "A", "data": "10.89.0.3"}]


def test_lookup_needs_somebody_who_asks(cli: Cli) -> None:
    assert cli("dns", "lookup", "db").code == 2
    assert "'nope'" in cli("dns", "lookup", "db", "--from", "nope").err


def test_what_upstream_servers_say_cannot_move_the_cursor(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.containers = {"web": container("web", 1)}
    record = pb.DnsRecord(name="evil", ttl=5, type="TXT", data="\x1b[2J")
    daemon.lookup = pb.DnsLookupReply(answers=[pb.DnsAnswer(type="TXT", rcode="NOERROR", records=[record])])
    assert "\x1b" not in cli("dns", "lookup", "evil", "--from", "web").out


def test_dump(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.names = [
        pb.DnsName(
            network="front", name="*.app", address="10.89.0.2", container="web", container_id="01" * 32
        ),
        pb.DnsName(network="front", name="pod", address="10.89.0.3", container_id="02" * 32),
    ]
    lines = cli("dns", "dump").out.splitlines()
    assert [line.split() for line in lines] == [
        ["NETWORK", "NAME", "ADDRESS", "CONTAINER"],
        ["front", "*.app", "10.89.0.2", "web"],
        ["front", "pod", "10.89.0.3", "020202020202"],
    ]
    assert [name["name"] for name in json.loads(cli("dns", "dump", "--json").out)] == ["*.app", "pod"]


def test_metrics_in_the_text_format(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.metrics = [
        pb.Metric(name="a_total", labels={"rcode": 'NO"ERROR'}, value=2, help="Answers.", type="counter"),
        pb.Metric(name="a_total", labels={"rcode": "NXDOMAIN"}, value=1, help="Answers.", type="counter"),
        pb.Metric(name="b", value=1.5, help="Bytes.", type="gauge"),
    ]
    assert cli("dns", "metrics").out.splitlines() == [
        "# HELP a_total Answers.",
        "# TYPE a_total counter",
        'a_total{rcode="NO\\"ERROR"} 2',
        'a_total{rcode="NXDOMAIN"} 1',
        "# HELP b Bytes.",
        "# TYPE b gauge",
        "b 1.5",
    ]
    assert json.loads(cli("dns", "metrics", "--json").out)[2]["value"] == 1.5
