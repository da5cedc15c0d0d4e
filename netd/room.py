"""Addresses that a host gets from its cluster before it promises them.

What a node hands out by itself is in `netd.addresses`; which part of a network that may be is the
cluster's to say. In between is this: before an attachment takes its addresses, see that they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from netd.addresses import Addresses
from netd.cluster.ports import Cluster, Holdings
from netd.errors import Unavailable
from netd.model import IPAddress, Network, Scope, Want
from netd.tunnels import Tunnels
from netd.view import View


class Room:
    """What is left in networks of the cluster, and how to get more. `view` is the engine's."""

    def __init__(
        self, view: Callable[[], View], addresses: Addresses, cluster: Cluster | None, tunnels: Tunnels | None
    ) -> None:
        self._view = view
        self._addresses = addresses
        self._cluster = cluster
        self._tunnels = tunnels

    async def make(self, wants: Sequence[Want]) -> None:
        """Get from the cluster what `wants` need of its addresses and this host has not.

        An address that is asked for by name is claimed even where it lies in this host's own block: only
        what is claimed can be taken over by another host, when the container moves there. Take before the
        next await. Raises as `Cluster.grow`, and `Unavailable` while this node is drained.
        """
        if self._cluster is not None and self._cluster.node.draining:
            name = self._cluster.node.name
            raise Unavailable(
                f"node {name!r} is being drained and takes no container; use another node, or end it with "
                f"`netd node drain --undo {name}`"
            )
        for want in wants:
            if self._tunnels and (problem := self._tunnels.problem(self._view().network(want.network).id)):
                raise Unavailable(f"{problem}; use another node, or a network with encap=auto")
        lacking = self._lacking(wants)  # refuses what nobody could give, before anything is claimed
        for network, address in self._named_addresses(wants):
            if self._cluster is not None and address not in self._cluster.holdings(network.id).singles:
                await self._cluster.grow(network, address.version, address)
                lacking = self._lacking(wants)
        while lacking:
            lacking_network, family, wanted = lacking
            if self._cluster is None:
                raise outside(lacking_network)
            await self._cluster.grow(lacking_network, family, wanted)
            lacking = self._lacking(wants)

    def _named_addresses(self, wants: Sequence[Want]) -> list[tuple[Network, IPAddress]]:
        """The addresses in networks of the cluster that are asked for in particular."""
        return [
            (network, address)
            for want in wants
            if (network := self._view().network(want.network)).scope is Scope.CLUSTER
            for address in (want.ip, want.ip6)
            if address is not None
        ]

    def _lacking(self, wants: Sequence[Want]) -> tuple[Network, int, IPAddress | None] | None:
        for want in wants:
            network = self._view().network(want.network)
            if network.scope is not Scope.CLUSTER:
                continue
            holdings = self._cluster.holdings(network.id) if self._cluster else Holdings()
            if lacking := self._addresses.lacking(network, want, holdings):
                return network, *lacking
        return None


def outside(network: Network) -> Unavailable:
    """What to raise for a network of a cluster on a host that is in none."""
    return Unavailable(
        f"network {network.name!r} belongs to a cluster, and this daemon is in none; start it with --cluster"
    )
