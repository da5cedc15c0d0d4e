"""What an attachment needs and must not share, from the moment it is asked for: addresses, MACs, networks.

Promised in one go, without an `await` in between, so that of two requests that run side by side never
both get the same; and taken back if the request fails.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from netd import requests
from netd.addresses import Addresses, holder_of
from netd.cluster.ports import Holdings
from netd.errors import InUse, Unavailable
from netd.model import LINK, LINK_ENDS, Endpoint, Network, Sandbox, Want
from netd.store.base import Attached, Write
from netd.view import View


class Subject(Protocol):
    """Whose networks they are: the engine."""

    view: View

    @property
    def leaving(self) -> Collection[str]:
        """Ids of networks and sandboxes that are being removed."""


class Promises:
    """What has been promised and is not in the view yet, beside what is."""

    def __init__(
        self, subject: Subject, addresses: Addresses, holdings: Callable[[Network], Holdings | None]
    ) -> None:
        self._subject = subject
        self._addresses = addresses
        self._holdings = holdings
        self._under_way: dict[str, Attached] = {}

    def users(self, network: Network) -> set[str]:
        """The names of those that are about to be in `network`."""
        return {
            each.sandbox.name
            for each in self._under_way.values()
            if any(e.network == network.id for e in each.endpoints)
        }

    @contextmanager
    def made(
        self, sandbox: Sandbox, wants: Sequence[Want], siblings: tuple[Endpoint, ...]
    ) -> Iterator[tuple[tuple[Endpoint, ...], list[Write]]]:
        """Endpoints for `wants`, their addresses and networks reserved while the block runs and, if it
        ends well, for good. Also the writes that belong into the commit. Entered without an await."""
        networks = [self._subject.view.network(want.network) for want in wants]
        for network in networks:
            if network.id in self._subject.leaving:
                raise Unavailable(f"network {network.name!r} is being removed; try again, or use another")
        requests.check_wants(sandbox.name, wants, networks, siblings)
        for network in networks:
            self._check_ends(network)
        made: tuple[Endpoint, ...] = ()
        writes: list[Write] = []
        try:
            for want, network in zip(wants, networks, strict=True):
                id = secrets.token_hex(16)
                holdings = self._holdings(network)
                addresses, mac, more = self._addresses.take(
                    network, want, id, holder_of(sandbox.name), holdings
                )
                endpoint = requests.endpoint(
                    want,
                    network,
                    sandbox,
                    id=id,
                    siblings=(*siblings, *made),
                    named=[other.ifname for other in wants if other.ifname],
                    addresses=addresses,
                    mac=mac,
                    # Nobody can remember who had an address that nobody had. In a cluster another node
                    # may have given it.
                    announced=bool(more) or holdings is not None,
                )
                made, writes = (*made, endpoint), [*writes, *more]
            self._under_way[sandbox.id] = Attached(sandbox, made)
            yield made, writes
        except BaseException:
            for endpoint in made:
                self._addresses.give_back(endpoint)
            raise
        finally:
            self._under_way.pop(sandbox.id, None)

    def _check_ends(self, network: Network) -> None:
        if network.driver != LINK:
            return
        view = self._subject.view
        ends = {view.sandboxes[e.sandbox].name for e in view.endpoints_in(network.id)} | self.users(network)
        if len(ends) >= LINK_ENDS:
            raise InUse(
                f"link {network.name!r} has both its ends already, at {' and '.join(sorted(ends))}; "
                "disconnect one, or make another link"
            )
