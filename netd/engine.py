"""The use cases: create a network, attach a sandbox, publish a port, and the ways back.

Every method is one story: validate everything, write the intent, compile, apply, commit, tell the
readers. It ends with the whole of what was asked, or with a typed error and nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from netd.dns_feed import NameFeed
from netd.kernel.ports import Kernel
from netd.model import Endpoint, Network, NetworkRequest, PortMapping, Sandbox, Want
from netd.settings import Settings
from netd.store.base import Store
from netd.view import View


class Events(Protocol):
    """Where the engine says what it did (`netd.events.Events`)."""

    def emit(self, type: str, action: str, id: str, name: str, **attributes: str) -> None:
        """Tell everyone who watches; never blocks, never raises."""


class Engine:
    """The owner of all networks and attachments of this host.

    `view` may be read at any time by anybody in the event loop. Cancelling a caller never leaves
    half a change: what has begun is carried through.
    """

    view: View

    def __init__(
        self, *, kernel: Kernel, store: Store, feed: NameFeed, settings: Settings, events: Events
    ) -> None:
        self.view = View()

    async def start(self) -> None:
        """Open the store and the kernel port, recover, reconcile the host, start the feed.

        Ready when it returns. Raises what the store and the kernel raise on opening.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Finish what is under way, refuse what is new, close feed, kernel port and store.

        The data path stays as it is.
        """
        raise NotImplementedError

    async def create_network(self, request: NetworkRequest) -> Network:
        """Make a network. Raises `Invalid`, `AlreadyExists`, `InUse` (overlap), `Exhausted`."""
        raise NotImplementedError

    async def remove_network(self, ref: str) -> Network:
        """Remove a network. Raises `NotFound`, or `InUse` naming whose endpoints it still has."""
        raise NotImplementedError

    async def prune_networks(self) -> list[Network]:
        """Remove every network without endpoints; return those removed."""
        raise NotImplementedError

    def network(self, ref: str) -> Network:
        """See `View.network`."""
        return self.view.network(ref)

    async def attach(self, sandbox: Sandbox, wants: Sequence[Want]) -> tuple[Sandbox, tuple[Endpoint, ...]]:
        """Put a new sandbox into all the networks it wants, and publish its ports: whole or nothing.

        Returns the sandbox with the host ports that were chosen, and its endpoints in order.
        """
        raise NotImplementedError

    async def detach(self, sandbox_id: str) -> None:
        """Take a sandbox out of everything. Idempotent; its namespace may be gone."""
        raise NotImplementedError

    async def connect(self, sandbox_id: str, want: Want) -> Endpoint:
        """Put an attached sandbox into one more network."""
        raise NotImplementedError

    async def disconnect(self, sandbox_id: str, network_ref: str) -> None:
        """Take a sandbox out of one network. Raises `NotFound` where it is not in it."""
        raise NotImplementedError

    async def publish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        """Publish further ports; returns the sandbox with the host ports chosen."""
        raise NotImplementedError

    async def unpublish(self, sandbox_id: str, ports: Sequence[PortMapping]) -> Sandbox:
        """Withdraw published ports. Raises `NotFound` for one that is not published."""
        raise NotImplementedError
