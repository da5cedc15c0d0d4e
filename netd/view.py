"""What is true right now, as one immutable value.

The engine swaps its `view` whole with each commit, so a reader (a listing, the metrics, the DNS)
takes the reference once and reads at leisure, without a lock and without ever seeing half of a
change (architecture, law 8). A new view shares with the old one whatever did not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

from netd.errors import Invalid, NotFound
from netd.model import Endpoint, Network, Sandbox, default_route_of
from netd.store.base import Attached, Quarantined

V = TypeVar("V")
EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Networks, sandboxes and endpoints by id, and what follows from them.

    `degraded` says of a network, by id, what could not be repaired; `quarantined` are records of
    the store that made no sense.
    """

    networks: Mapping[str, Network] = field(default_factory=lambda: EMPTY)
    sandboxes: Mapping[str, Sandbox] = field(default_factory=lambda: EMPTY)
    endpoints: Mapping[str, Endpoint] = field(default_factory=lambda: EMPTY)
    degraded: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    quarantined: tuple[Quarantined, ...] = ()
    _in_network: Mapping[str, Mapping[str, Endpoint]] = field(default_factory=lambda: EMPTY)
    _of_sandbox: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=lambda: EMPTY)
    _network_ids: Mapping[str, str] = field(default_factory=lambda: EMPTY)

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
            networks=by_id,
            sandboxes={each.sandbox.id: each.sandbox for each in attached},
            endpoints={endpoint.id: endpoint for each in attached for endpoint in each.endpoints},
            quarantined=quarantined,
            _in_network=in_network,
            _of_sandbox={each.sandbox.id: each.endpoints for each in attached},
            _network_ids={network.name: network.id for network in by_id.values()},
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
        return tuple(self._in_network.get(network_id, EMPTY).values())

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
            networks=_with(self.networks, network.id, network),
            _network_ids=_with(self._network_ids, network.name, network.id),
        )

    def without_network(self, network_id: str) -> View:
        """This view less one network."""
        network = self.networks[network_id]
        return replace(
            self,
            networks=_without(self.networks, network_id),
            degraded=_without(self.degraded, network_id),
            _network_ids=_without(self._network_ids, network.name),
            _in_network=_without(self._in_network, network_id),
        )

    def with_sandbox(self, sandbox_id: str, new: Attached | None) -> View:
        """This view with exactly `new` for one sandbox; None takes it out with its endpoints."""
        old = self.endpoints_of(sandbox_id)
        endpoints, in_network = dict(self.endpoints), dict(self._in_network)
        for endpoint in old:
            del endpoints[endpoint.id]
            in_network[endpoint.network] = _without(in_network[endpoint.network], endpoint.id)
        if new is None:
            return replace(
                self,
                sandboxes=_without(self.sandboxes, sandbox_id),
                endpoints=endpoints,
                _in_network=in_network,
                _of_sandbox=_without(self._of_sandbox, sandbox_id),
            )
        for endpoint in new.endpoints:
            endpoints[endpoint.id] = endpoint
            in_network[endpoint.network] = _with(
                in_network.get(endpoint.network, EMPTY), endpoint.id, endpoint
            )
        return replace(
            self,
            sandboxes=_with(self.sandboxes, sandbox_id, new.sandbox),
            endpoints=endpoints,
            _in_network=in_network,
            _of_sandbox=_with(self._of_sandbox, sandbox_id, new.endpoints),
        )

    def with_degraded(self, degraded: Mapping[str, str]) -> View:
        """This view, with exactly these complaints about networks."""
        return replace(self, degraded=degraded)


def _with(mapping: Mapping[str, V], key: str, value: V) -> Mapping[str, V]:
    return {**mapping, key: value}


def _without(mapping: Mapping[str, V], key: str) -> Mapping[str, V]:
    rest = dict(mapping)
    rest.pop(key, None)
    return rest
