"""What a topology asks of the daemon: one, or several as one (`netd.topology.fleet`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from netd.api import netd_pb2 as pb
from netd.api.client import Client


class Daemon(Protocol):
    """The part of `netd.api.client.Client` that a topology needs; see there."""

    def at(self, ref: str) -> Client:
        """The one daemon that has a container. Raises `NotFound`."""

    def seeing(self, target: str) -> list[tuple[Client, str]]:
        """The daemons that see the packets of a target ("web:eth0", "network:front", "host:eth0"), each with
        what tells its points from those that another calls the same. Raises `NotFound`."""

    def create_network(self, request: pb.CreateNetworkRequest) -> pb.Network:
        """Make a network."""

    def networks(self) -> list[pb.Network]:
        """All networks."""

    def network(self, ref: str) -> pb.Network:
        """One network with its endpoints."""

    def remove_network(self, ref: str) -> str:
        """Remove a network; answer its name."""

    def attach_network(self, container: str, attachment: pb.Attachment) -> pb.Endpoint:
        """Connect a container to one more network."""

    def detach_network(self, container: str, network: str, *, force: bool) -> None:
        """Disconnect a container from a network."""

    def update_endpoint(self, container: str, network: str, options: Mapping[str, str]) -> pb.Endpoint:
        """Change options of an attachment in place."""

    def run(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """Create and start a container; the first input is the request."""

    def exec(self, inputs: Iterable[pb.StreamInput]) -> Iterator[pb.StreamOutput]:
        """Run a further process in a container; the first input is the request."""

    def containers(self, *, all: bool) -> list[pb.Container]:
        """Running containers, or `all`."""

    def container(self, ref: str) -> pb.Container:
        """One container."""

    def stop_container(self, ref: str, grace: float | None) -> pb.Container:
        """SIGTERM, then SIGKILL."""

    def remove_container(self, ref: str, *, force: bool) -> str:
        """Remove a container."""

    def wait_container(self, ref: str) -> pb.Exit:
        """Answer when the container has ended."""

    def logs(self, ref: str, *, follow: bool, tail: int, timestamps: bool) -> Iterator[pb.LogLine]:
        """Logged lines."""

    def add_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """Publish a port of a running container."""

    def remove_port(self, ref: str, spec: str) -> list[pb.PublishedPort]:
        """Take a published port back."""

    def trace(self, source: str, packet: bytes) -> pb.TraceReply:
        """Send a packet, and tell what the host's rules did to it."""

    def dns_lookup(self, container: str, name: str, types: Iterable[str]) -> pb.DnsLookupReply:
        """What a container would be told about a name."""
