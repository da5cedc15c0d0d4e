"""Several daemons as one, against doubles that only remember."""

from __future__ import annotations

from typing import Any, cast

import pytest

from netd.api import netd_pb2 as pb
from netd.api.client import Client
from netd.errors import InUse, Invalid, NotFound, Unavailable
from netd.topology import fleet
from netd.topology.fleet import HOST_LABEL, Fleet


class Daemon:
    """Knows networks and containers by name; an overlay reaches its `others` as well."""

    def __init__(self, name: str) -> None:
        self.path = f"/{name}/netd.sock"
        self.known: dict[str, pb.Network] = {}
        self.held: dict[str, pb.Container] = {}
        self.others: list[Daemon] = []

    def networks(self) -> list[pb.Network]:
        return list(self.known.values())

    def network(self, ref: str) -> pb.Network:
        if ref not in self.known:
            raise NotFound(ref)
        return self.known[ref]

    def create_network(self, request: pb.CreateNetworkRequest) -> None:
        if request.name in self.known:
            raise InUse(request.name)
        for each in (self, *(self.others if request.driver == "overlay" else ())):
            endpoint = pb.Endpoint(id=f"{each.path}-{request.name}")
            each.known[request.name] = pb.Network(
                name=request.name, driver=request.driver, endpoints=[endpoint]
            )

    def remove_network(self, ref: str) -> None:
        found = self.network(ref)
        for each in (self, *(self.others if found.driver == "overlay" else ())):
            del each.known[ref]

    def containers(self, *, all: bool) -> list[pb.Container]:
        return list(self.held.values())

    def container(self, ref: str) -> pb.Container:
        if ref not in self.held:
            raise NotFound(ref)
        return self.held[ref]

    def trace(self, source: str, packet: bytes) -> str:
        return f"{self.path} {source}"

    def run(self, inputs: Any) -> list[pb.StreamOutput]:
        (given,) = inputs
        self.held[given.run.name] = pb.Container(name=given.run.name)
        return [pb.StreamOutput(started=self.held[given.run.name])]


def pair(**placed: set[str]) -> tuple[Fleet, Daemon, Daemon]:
    a, b = Daemon("a"), Daemon("b")
    a.others, b.others = [b], [a]
    clients = {"a": cast(Client, a), "b": cast(Client, b)}
    return Fleet(clients, {key: frozenset(hosts) for key, hosts in placed.items()}), a, b


def test_an_overlay_is_made_once_and_is_on_every_host() -> None:
    both, a, b = pair()
    made = both.create_network(pb.CreateNetworkRequest(name="n", driver="overlay"))
    assert [each.id for each in made.endpoints] == ["/a/netd.sock-n", "/b/netd.sock-n"], "of both hosts"
    assert [each.name for each in both.networks()] == ["n"]
    assert both.remove_network("n") == "n"
    assert not a.known
    assert not b.known


def test_any_other_network_is_made_where_a_service_needs_it() -> None:
    both, a, b = pair(n={"b"})
    both.create_network(pb.CreateNetworkRequest(name="n", driver="bridge"))
    assert not a.known
    assert list(b.known) == ["n"]
    assert [each.name for each in both.networks()] == ["n"]
    both.remove_network("n")
    assert not b.known


def test_a_network_that_a_host_still_lacks_does_not_count_and_is_completed() -> None:
    both, a, b = pair(n={"a", "b"})
    a.create_network(pb.CreateNetworkRequest(name="n", driver="bridge"))
    assert both.networks() == []
    both.create_network(pb.CreateNetworkRequest(name="n", driver="bridge"))
    assert list(b.known) == ["n"]
    assert [each.name for each in both.networks()] == ["n"]


def test_an_overlay_that_does_not_get_to_the_others_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "PATIENCE", 0.0)
    both, a, _ = pair()
    a.others = []
    with pytest.raises(Unavailable, match="network 'n' is on every host: not within 0 s"):
        both.create_network(pb.CreateNetworkRequest(name="n", driver="overlay"))
    assert not a.known


def started(host: str) -> list[pb.StreamInput]:
    return [pb.StreamInput(run=pb.RunRequest(name="web", labels={HOST_LABEL: host}))]


def test_a_container_is_made_on_its_host_and_found_there() -> None:
    both, a, b = pair()
    both.run(started("b"))
    assert not a.held
    assert both.at("web") is cast(Client, b)
    assert [each.name for each in both.containers(all=True)] == ["web"]
    with pytest.raises(NotFound, match="no host has a container 'db'"):
        both.container("db")
    with pytest.raises(Invalid, match="no host 'c'; there are: a, b"):
        both.run(started("c"))


def test_packets_are_seen_by_whoever_has_the_target() -> None:
    both, _, b = pair()
    both.run(started("b"))
    b.create_network(pb.CreateNetworkRequest(name="n", driver="bridge"))
    assert paths(both, "web:eth0") == ["/b/netd.sock"]
    assert paths(both, "network:n") == ["/b/netd.sock@b"]
    assert paths(both, "host:eth0") == ["/a/netd.sock@a", "/b/netd.sock@b"]


def paths(both: Fleet, target: str) -> list[str]:
    return [client.path + at for client, at in both.seeing(target)]


def test_a_trace_begins_on_the_host_that_is_named() -> None:
    both, _, _ = pair()
    both.run(started("b"))
    said = [cast(str, both.trace(source, b"")) for source in ("web", "host@b", "host:eth0@a")]
    assert said == ["/b/netd.sock web", "/b/netd.sock host", "/a/netd.sock host:eth0"]
    with pytest.raises(Invalid, match="'host:eth0' must say of which host, like host:eth0@a"):
        both.trace("host:eth0", b"")
