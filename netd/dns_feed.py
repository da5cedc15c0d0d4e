"""Keeps the DNS process supplied with names. The contract; see `DnsFeed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from netd.model import Endpoint, Network, Sandbox


class NameFeed(Protocol):
    """What the engine tells the DNS. Each call returns when the DNS answers accordingly (or, while
    the DNS process is being restarted, when the change is sure to be in its first snapshot)."""

    async def start(
        self, networks: Sequence[Network], sandboxes: Sequence[tuple[Sandbox, Sequence[Endpoint]]]
    ) -> None:
        """Adopt the server that is running, or start one, and give it the whole truth."""

    async def network_added(self, network: Network) -> None:
        """Listen on the gateways of a network whose bridge exists now."""

    async def network_removed(self, network: Network) -> None:
        """Stop listening there and forget the network."""

    async def sandbox_changed(self, sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
        """The whole truth of one sandbox; no endpoints means that its names are gone."""

    async def close(self) -> None:
        """Let go of the server, which goes on answering with what it knows."""
