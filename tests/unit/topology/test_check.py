from __future__ import annotations

from typing import Any, cast

import pytest

from netd.api import netd_pb2 as pb
from netd.api.client import Client
from netd.errors import Invalid
from netd.topology.check import Outcome, Reachability, questions
from netd.topology.project import Project
from tests.unit.topology.paper import project

TEXT = """\
name: p
services:
  web: {networks: [front], ports: ["8080:80"], expose: [9000/udp]}
  db: {networks: [back]}
networks: {front: , back: }
x-netd: {checks: [%s]}
"""


class Daemon:
    """Answers what `Reachability` asks of a client; containers share the caller's namespace."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def containers(self, *, all: bool) -> list[pb.Container]:
        assert not all, "those that have ended reach nobody"
        return [
            pb.Container(
                id=name,
                name=name,
                endpoints=[pb.Endpoint(network=f"p_{network}", addresses=["127.0.0.1/8"])],
            )
            for name, network in zip(self._names, ("front", "back"), strict=False)
        ]

    def dns_lookup(self, container: str, name: str, types: Any) -> pb.DnsLookupReply:
        return pb.DnsLookupReply(why=f"{name} is nobody's")


def file(*checks: str) -> Project:
    return project(TEXT % ", ".join(checks))


def outcome(check: str, *names: str) -> Outcome:
    whole = file(check)
    [found] = Reachability(cast(Client, Daemon(*names)), whole).check(questions(whole))
    return found


def test_assertions_are_read() -> None:
    first, second, third = questions(
        file(
            "{from: web, to: 'db:5432', expect: blocked, within: 100ms, family: 6}",
            "{from: host, to: '[fd00::1]:53/udp', via: [web, 'network:back']}",
            "{from: web, to: db, ping: {size: 1372, df: true}}",
        )
    )
    assert (first.proto, first.port, first.expect, first.within, first.family) == (
        "tcp",
        5432,
        "blocked",
        0.1,
        6,
    )
    assert (second.name, second.proto, second.via) == ("[fd00::1]", "udp", ("web", "network:back"))
    assert (third.proto, third.ping.size, third.ping.df, str(third)) == ("icmp", 1372, True, "db/icmp")


@pytest.mark.parametrize(
    ("check", "complaint"),
    [
        ("{from: web, to: db}", "x-netd.checks[0].to: 'db' must be"),
        ("{from: web, to: 'db:0'}", "'db:0' has no possible port"),
        ("{from: web, to: 'db:80/icmp'}", "'db:80/icmp'"),
        ("{from: web, to: 'db:80', ping: true}", "'db:80'"),
        ("{from: nobody, to: 'db:80'}", "x-netd.checks[0].from: 'nobody'"),
        ("{from: web, to: 'db:80', via: [nobody]}", "x-netd.checks[0].via: 'nobody'"),
        ("{from: web, to: 'db:80', via: ['network:lan']}", "x-netd.checks[0].via: network 'lan'"),
        ("{from: web, to: 'db:80', within: soon}", "x-netd.checks[0].within: 'soon'"),
    ],
)
def test_what_cannot_be_read_is_named(check: str, complaint: str) -> None:
    with pytest.raises(Invalid) as raised:
        questions(file(check))
    assert complaint in str(raised.value)


def test_a_container_that_does_not_run_fails_whatever_was_expected() -> None:
    for expect in ("open", "blocked"):
        found = outcome(f"{{from: web, to: 'db:1', within: 10ms, expect: {expect}}}", "p-web-1")
        assert not found.ok
        assert "'p-db-1' does not run" in found.detail


def test_a_name_that_does_not_resolve_fails_whatever_was_expected() -> None:
    for expect in ("open", "blocked"):
        found = outcome(f"{{from: web, to: 'other:1', within: 10ms, expect: {expect}}}", "p-web-1", "p-db-1")
        assert "cannot resolve 'other': other is nobody's" in found.detail


def test_the_matrix_has_every_port_that_the_file_knows() -> None:
    whole = file("{from: db, to: 'web:22'}")
    sources, targets, answers = Reachability(cast(Client, Daemon("p-web-1")), whole).matrix()
    assert sources == ["web"]
    assert (targets, answers) == ([], {})
    _, targets, answers = Reachability(cast(Client, Daemon("p-web-1", "p-db-1")), whole).matrix()
    assert targets == ["db/icmp", "web/icmp", "web:22/tcp", "web:80/tcp", "web:9000/udp"]
    assert answers["db", "web:22/tcp"] == "refused"
