"""What is true right now, as one immutable value.

The engine swaps its `view` whole with each commit, so a reader (a listing, the metrics, the DNS)
takes the reference once and reads at leisure, without a lock and without ever seeing half of a
change (architecture, law 8). A new view shares with the old one whatever did not change
(`netd.shared`), so that the ten-thousandth endpoint costs what the tenth cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from netd.errors import Invalid, NotFound
from netd.model import Endpoint, Network, Sandbox, default_route_of
from netd.shared import Shared
from netd.store.base import Attached, Quarantined

EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Networks, sandboxes and endpoints by id, and what follows from them.

    `degraded` says of a network, by id, what could not be repaired; `quarantined` are records of
    the store that made no sense.
    """

    networks: Shared[str, Network] = field(default_factory=Shared)
    sandboxes: Shared[str, Sandbox] = field(default_factory=Shared)
    endpoints: Shared[str, Endpoint] = field(default_factory=Shared)
    degraded: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    quarantined: tuple[Quarantined, ...] = ()
    _in_network: Shared[str, Shared[str, Endpoint]] = field(default_factory=Shared)
    _of_sandbox: Shared[str, tuple[Endpoint, ...]] = field(default_factory=Shared)
    _network_ids: Shared[str, str] = field(default_factory=Shared)

    @classmethod
    def of(
        cls,
        networks: Iterable[Network],
        attached: Iterable[Attached],
        quarantined: tuple[Quarantined, ...] = (),
    ) -> View:
        """A view of exactly these."""
        attached = list(attached)
        in_network: dict[str, dict[str, Endpoint]] = {}
        for endpoint in (endpoint for each in attached for endpoint in each.endpoints):
            in_network.setdefault(endpoint.network, {})[endpoint.id] = endpoint
        by_id = {network.id: network for network in networks}
        return cls(
            networks=Shared(by_id),
            sandboxes=Shared({each.sandbox.id: each.sandbox for each in attached}),
            endpoints=Shared({endpoint.id: endpoint for each in attached for endpoint in each.endpoints}),
            quarantined=quarantined,
            _in_network=Shared({id: Shared(endpoints) for id, endpoints in in_network.items()}),
            _of_sandbox=Shared({each.sandbox.id: each.endpoints for each in attached}),
            _network_ids=Shared({network.name: network.id for network in by_id.values()}),
        )

    def network(self, ref: str) -> Network:
        """The network called `ref`: by exact name, exact id, or unique prefix of the id.

        Raises `NotFound`, or `Invalid` where several ids begin so.
        """
        exact = self.networks.get(self._network_ids.get(ref, ref))
        if exact is not None:
            return exact
        found = [n for id, n in self.networks.items() if id.startswith(ref)] if ref else []
        if len(found) > 1:
            names = ", ".join(sorted(network.name for network in found))
            raise Invalid(f"network {ref!r} is ambiguous: it begins the ids of {names}")
        if not found:
            raise NotFound(f"network {ref!r} does not exist; `netd network ls` lists those that do")
        return found[0]

    def endpoints_in(self, network_id: str) -> tuple[Endpoint, ...]:
        """The endpoints of one network, oldest first."""
        return tuple(self._in_network.get(network_id, Shared[str, Endpoint]()).values())

    def population(self, network_id: str) -> int:
        """How many endpoints a network has; counted already."""
        return len(self._in_network.get(network_id, ()))

    def endpoints_of(self, sandbox_id: str) -> tuple[Endpoint, ...]:
        """The endpoints of one sandbox, in the order its owner asked for them."""
        return self._of_sandbox.get(sandbox_id, ())

    def attached(self, sandbox_id: str) -> Attached | None:
        """A sandbox with its endpoints, or None where there is no such sandbox."""
        sandbox = self.sandboxes.get(sandbox_id)
        return Attached(sandbox, self.endpoints_of(sandbox_id)) if sandbox else None

    def default_routes(self, endpoint: Endpoint) -> tuple[int, ...]:
        """The families (4, 6) whose default route `endpoint` carries in its sandbox."""
        siblings = self.endpoints_of(endpoint.sandbox)
        return tuple(f for f in (4, 6) if default_route_of(siblings, self.networks, f) == endpoint)

    def with_network(self, network: Network) -> View:
        """This view and `network`."""
        return replace(
            self,
            networks=self.networks.but(network.id, network),
            _network_ids=self._network_ids.but(network.name, network.id),
        )

    def without_network(self, network_id: str) -> View:
        """This view less one network."""
        network = self.networks[network_id]
        return replace(
            self,
            networks=self.networks.without(network_id),
            degraded={id: reason for id, reason in self.degraded.items() if id != network_id},
            _network_ids=self._network_ids.without(network.name),
            _in_network=self._in_network.without(network_id),
        )

    def with_sandbox(self, sandbox_id: str, new: Attached | None) -> View:
        """This view with exactly `new` for one sandbox; None takes it out with its endpoints."""
        after = new.endpoints if new else ()
        kept = {endpoint.id for endpoint in after}
        endpoints, in_network = self.endpoints, self._in_network
        for old in self.endpoints_of(sandbox_id):
            if old.id not in kept:
                endpoints = endpoints.without(old.id)
                in_network = in_network.but(old.network, in_network[old.network].without(old.id))
        for endpoint in after:
            endpoints = endpoints.but(endpoint.id, endpoint)
            others: Shared[str, Endpoint] = in_network.get(endpoint.network) or Shared()
            in_network = in_network.but(endpoint.network, others.but(endpoint.id, endpoint))
        if new is None:
            sandboxes, of_sandbox = self.sandboxes.without(sandbox_id), self._of_sandbox.without(sandbox_id)
        else:
            sandboxes = self.sandboxes.but(sandbox_id, new.sandbox)
            of_sandbox = self._of_sandbox.but(sandbox_id, new.endpoints)
        return replace(
            self,
            sandboxes=sandboxes,
            endpoints=endpoints,
            _in_network=in_network,
            _of_sandbox=of_sandbox,
        )

    def with_degraded(self, degraded: Mapping[str, str]) -> View:
        """This view, with exactly these complaints about networks."""
        return replace(self, degraded=degraded)
