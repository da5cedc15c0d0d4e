"""The daemons of several hosts, asked as if they were one.

A container is made on the host that its label names and found wherever it is. A network of the driver
`overlay` is made once, by one host, and is there when every host has it; any other is made on each host
that has a service in it, and such networks of one name have nothing to do with each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import TypeVar

from netd.api import netd_pb2 as pb
from netd.api.client import Client
from netd.errors import Invalid, NotFound, Unavailable

HOST_LABEL = "netd.topology.host"
"""Of a container: the host of the file that it is placed on."""

OVERLAY = "overlay"
PATIENCE = 30.0
"""Seconds until what one host did must have reached the others."""
PAUSE = 0.05

T = TypeVar("T")


class Fleet:
    """Implements `netd.topology.daemon.Daemon`.

    `clients` are by host; `placed` says on which hosts each network is needed (one that it does not know:
    wherever it is).
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        placed: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.clients = clients
        self._placed = placed or {}

    def close(self) -> None:
        """End all connections."""
        for client in self.clients.values():
            client.close()

    def home(self, ref: str) -> tuple[str, Client]:
        """The host that has a container, and its daemon. Raises `NotFound`."""
        for name, client in self.clients.items():
            try:
                client.container(ref)
            except NotFound:
                continue
            return name, client
        raise NotFound(f"no host has a container {ref!r}; `netd topology ps` lists those that there are")

    def at(self, ref: str) -> Client:
        """The daemon that has a container. Raises `NotFound`."""
        return self.home(ref)[1]

    def seeing(self, target: str) -> list[tuple[Client, str]]:
        """The daemons that see a target's packets, and "@HOST" where several do."""
        owner, _, rest = target.partition(":")
        if owner == "host":
            return [(client, f"@{name}") for name, client in self.clients.items()]
        if owner == "network":
            return [(client, f"@{name}") for name, client in self.clients.items() if _has(client, rest)]
        return [(self.at(owner), "")]

    # --- networks ---------------------------------------------------------------------------------

    def networks(self) -> list[pb.Network]:
        """All networks, each once, with the endpoints of all hosts; one that a host still lacks is none."""
        found: dict[str, list[tuple[str, pb.Network]]] = {}
        for name, client in self.clients.items():
            for network in client.networks():
                found.setdefault(network.name, []).append((name, network))
        return [
            _merged([network for _, network in there])
            for name, there in found.items()
            if self._needed(name, there[0][1].driver) <= {host for host, _ in there}
        ]

    def _needed(self, name: str, driver: str) -> set[str]:
        return set(self.clients) if driver == OVERLAY else set(self._placed.get(name, ()))

    def network(self, ref: str) -> pb.Network:
        """One network with the endpoints of all hosts."""
        there = []
        for client in self.clients.values():
            try:
                there.append(client.network(ref))
            except NotFound:
                continue
        if not there:
            raise NotFound(f"no host has a network {ref!r}")
        return _merged(there)

    def create_network(self, request: pb.CreateNetworkRequest) -> pb.Network:
        """Make a network wherever it is needed and not there yet."""
        if request.driver == OVERLAY:
            first = next(iter(self.clients.values()))
            first.create_network(request)
            try:
                self._until(
                    f"network {request.name!r} is on every host",
                    lambda: all(_has(client, request.name) for client in self.clients.values()),
                )
            except Unavailable:
                first.remove_network(request.name)
                raise
        else:
            for name in self._placed.get(request.name) or self.clients:
                if not _has(self.clients[name], request.name):
                    self.clients[name].create_network(request)
        return self.network(request.name)

    def remove_network(self, ref: str) -> str:
        """Remove a network from every host that has it."""
        found = self.network(ref)
        for client in self.clients.values():
            try:
                client.remove_network(ref)
            except NotFound:
                continue
            if found.driver == OVERLAY:
                break
        self._until(
            f"network {ref!r} is gone from every host",
            lambda: not any(_has(client, ref) for client in self.clients.values()),
        )
        return found.name

    def _until(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise Unavailable(f"{what}: not within {PATIENCE:g} s; see the hosts' logs")
            time.sleep(PAUSE)

    # --- containers -------------------------------------------------------------------------------

    def run(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """Make a container on the host that its label names."""
        first, rest = _peeked(inputs)
        host = first.run.labels[HOST_LABEL]
        if host not in self.clients:
            raise Invalid(f"there is no host {host!r}; there are: {', '.join(self.clients)}")
        return self.clients[host].run(rest)

    def exec(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """See `Client.exec`."""
        first, rest = _peeked(inputs)
        return self.at(first.exec.container).exec(rest)

    def containers(self, *, all: bool) -> list[pb.Container]:
        """The containers of all hosts."""
        return [each for client in self.clients.values() for each in client.containers(all=all)]

    def container(self, ref: str) -> pb.Container:
        """One container, wherever it is."""
        return self.at(ref).container(ref)

    def stop_container(self, ref: str, grace: float | None) -> pb.Container:
        """See `Client.stop_container`."""
        return self.at(ref).stop_container(ref, grace)

    def remove_container(self, ref: str, *, force: bool) -> str:
        """See `Client.remove_container`."""
        return self.at(ref).remove_container(ref, force=force)

    def wait_container(self, ref: str) -> pb.Exit:
        """See `Client.wait_container`."""
        return self.at(ref).wait_container(ref)

    def logs(self, ref: str, *, follow: bool, tail: int, timestamps: bool) -> Iterator[pb.LogLine]:
        """See `Client.logs`."""
        return self.at(ref).logs(ref, follow=follow, tail=tail, timestamps=timestamps)

    def attach_network(self, container: str, attachment: pb.Attachment) -> pb.Endpoint:
        """See `Client.attach_network`."""
        return self.at(container).attach_network(container, attachment)

    def detach_network(self, container: str, network: str, *, force: bool) -> None:
        """See `Client.detach_network`."""
        self.at(container).detach_network(container, network, force=force)

    def update_endpoint(self, container: str, network: str, options: Mapping[str, str]) -> pb.Endpoint:
        """See `Client.update_endpoint`."""
        return self.at(container).update_endpoint(container, network, options)

    def add_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """See `Client.add_port`."""
        return self.at(ref).add_port(ref, spec)

    def remove_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """See `Client.remove_port`."""
        return self.at(ref).remove_port(ref, spec)

    def trace(self, source: str, packet: bytes) -> pb.TraceReply:
        """See `Client.trace`; "host@a" and "host:eth0@a" say whose."""
        place, _, host = source.partition("@")
        if place.partition(":")[0] != "host":
            return self.at(source).trace(source, packet)
        if host not in self.clients:
            raise Invalid(f"{source!r} must say of which host, like {place}@{next(iter(self.clients))}")
        return self.clients[host].trace(place, packet)

    def dns_lookup(self, container: str, name: str, types: Iterable[str]) -> pb.DnsLookupReply:
        """See `Client.dns_lookup`."""
        return self.at(container).dns_lookup(container, name, types)


def _has(client: Client, network: str) -> bool:
    try:
        client.network(network)
    except NotFound:
        return False
    return True


def _merged(there: list[pb.Network]) -> pb.Network:
    whole = pb.Network()
    whole.CopyFrom(there[0])
    known = {each.id for each in whole.endpoints}
    whole.endpoints.extend(e for network in there[1:] for e in network.endpoints if e.id not in known)
    return whole


def _peeked(inputs: Iterable[pb.StreamInput]) -> tuple[pb.StreamInput, Iterator[pb.StreamInput]]:
    stream = iter(inputs)
    first = next(stream)
    return first, chain([first], stream)
