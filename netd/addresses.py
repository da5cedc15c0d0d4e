"""Who has which address and MAC in which network, as of this moment.

The pure rules of giving are `netd.ipam`; here their values are kept, one pool a subnet, and the
history of freed addresses is turned into records, so that a restart goes on where this process
stops. An address is held from the moment it is promised, long before the attachment is committed:
two requests that run side by side never get the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from netd import ipam, names
from netd.cluster.ports import Holdings
from netd.errors import Unavailable
from netd.model import Endpoint, IPAddress, IPInterface, IPNetwork, Network, Want
from netd.store.base import Attached, Delete, Freed, Put, Table, Write


class Addresses:
    """The addresses of all networks, by network id."""

    def __init__(self) -> None:
        self._pools: dict[str, tuple[ipam.Pool, ...]] = {}
        self._macs: dict[str, dict[str, str]] = {}
        self._sequence = 0

    def add(
        self, network: Network, endpoints: Iterable[tuple[str, Endpoint]] = (), freed: Iterable[Freed] = ()
    ) -> None:
        """Begin with a network, its endpoints, each with whose it is, and what was given back before."""
        history = sorted(freed, key=lambda each: each.sequence)
        self._sequence = max([self._sequence, *(each.sequence for each in history)])
        used: dict[IPAddress, str] = {}
        macs: dict[str, str] = {}
        for name, endpoint in endpoints:
            macs[endpoint.mac] = holder_of(name)
            used.update((interface.ip, holder_of(name)) for interface in endpoint.addresses)
        self._macs[network.id] = macs
        self._pools[network.id] = tuple(
            ipam.Pool.of(network.name, subnet, used, [each.address for each in history])
            for subnet in network.subnets
        )

    def drop(self, network: Network) -> list[Write]:
        """Forget a network; returns the writes that make the store forget its history."""
        pools = self._pools.pop(network.id, ())
        self._macs.pop(network.id, None)
        return [Delete(Table.FREED, _key(network.id, address)) for pool in pools for address in pool.freed]

    def capacity(self, network: Network) -> list[tuple[int, int]]:
        """(handed out, can be handed out) of each subnet, in the network's order."""
        return [(len(pool.used), pool.capacity) for pool in self._pools[network.id]]

    def exhausted(self, network: Network) -> dict[int, int]:
        """The families of which no address is left to give, and how many can be given at all."""
        pools = self._pools[network.id]
        found = {}
        for family in network.families:
            own = [pool for pool in pools if pool.subnet.family == family]
            if all(pool.full for pool in own):
                found[family] = sum(pool.capacity for pool in own)
        return found

    def lacking(
        self, network: Network, want: Want, holdings: Holdings
    ) -> tuple[int, IPAddress | None] | None:
        """What of `want` cannot be given out of `holdings`: a family, and the address if one is wanted.

        Raises what `take` would raise for an address that cannot be had anyway.
        """
        pools = self._pools[network.id]
        for family, wanted in _wanted(network, want):
            if wanted is None:
                if ipam.next_within(pools, family, *_within(holdings, want)) is None:
                    return family, None
                continue
            ipam.take(pools, family, "", wanted)
            if not _may_give(holdings, wanted):
                return family, wanted
        return None

    def take(
        self, network: Network, want: Want, endpoint_id: str, holder: str, holdings: Holdings | None = None
    ) -> tuple[tuple[IPInterface, ...], str, list[Write]]:
        """Promise `holder` addresses and a MAC as wanted.

        Returns them, and the writes that take the addresses out of the history; raises what `ipam`
        raises, and then has promised nothing. In a network of a cluster they come out of `holdings`, and
        the MAC follows from the address: a container that moves to another host under its address is
        found there by neighbours that resolved it before.
        """
        macs = self._macs[network.id]
        mac = want.mac or ("" if holdings else names.mac_of(endpoint_id))
        mac = mac and ipam.check_mac(network, mac, macs)
        pools = self._pools[network.id]
        given: list[IPInterface] = []
        for family, wanted in _wanted(network, want):
            if holdings:
                wanted = self._own(network, family, wanted, want, holdings)
            pools, interface = ipam.take(pools, family, holder, wanted, want.avoid)
            given.append(interface)
        mac = mac or ipam.check_mac(network, names.mac_of(f"{network.id}/{given[0].ip}"), macs)
        writes: list[Write] = [
            Delete(Table.FREED, _key(network.id, interface.ip))
            for interface in given
            if any(interface.ip in pool.freed for pool in self._pools[network.id])
        ]
        self._pools[network.id] = pools
        macs[mac] = holder
        return tuple(given), mac, writes

    def _own(
        self, network: Network, family: int, wanted: IPAddress | None, want: Want, holdings: Holdings
    ) -> IPAddress:
        """`wanted`, or the next address of this host's own. Never one of another's."""
        if wanted is not None and not _may_give(holdings, wanted):
            raise Unavailable(
                f"address {wanted} of network {network.name!r} is not this node's to give; try again"
            )
        own = wanted or ipam.next_within(self._pools[network.id], family, *_within(holdings, want))
        if own is None:
            raise Unavailable(
                f"this node has no IPv{family} address of network {network.name!r} left; try again"
            )
        return own

    def rename(self, attached: Attached) -> None:
        """Speak of the holder of these addresses by its name of today."""
        holder = holder_of(attached.sandbox.name)
        for endpoint in attached.endpoints:
            pools = self._pools[endpoint.network]
            for interface in endpoint.addresses:
                pools = ipam.held_by(pools, interface.ip, holder)
            self._pools[endpoint.network] = pools
            self._macs[endpoint.network][endpoint.mac] = holder

    def give_back(self, endpoint: Endpoint) -> list[Write]:
        """Take everything back from an endpoint; returns the writes that keep the history."""
        before = self._pools.get(endpoint.network)
        if before is None:
            return []
        after = before
        writes: list[Write] = []
        for interface in endpoint.addresses:
            after = ipam.give_back(after, interface.ip)
            self._sequence += 1
            freed = Freed(endpoint.network, interface.ip, self._sequence)
            writes.append(Put(Table.FREED, _key(endpoint.network, interface.ip), freed))
        for old, new in zip(before, after, strict=True):
            forgotten = old.freed.keys() - new.freed.keys()
            writes += [Delete(Table.FREED, _key(endpoint.network, address)) for address in forgotten]
        self._pools[endpoint.network] = after
        self._macs[endpoint.network].pop(endpoint.mac, None)
        return writes


def _wanted(network: Network, want: Want) -> Iterator[tuple[int, IPAddress | None]]:
    """The families in which a want needs an address, and which one if it says so."""
    for family, wanted in ((4, want.ip), (6, want.ip6)):
        if wanted is not None or family in network.families:
            yield family, wanted


def _within(holdings: Holdings, want: Want) -> tuple[Sequence[IPNetwork], Collection[IPAddress]]:
    return holdings.blocks, frozenset((*holdings.barred, *want.avoid)) if want.avoid else holdings.barred


def _may_give(holdings: Holdings, address: IPAddress) -> bool:
    if address in holdings.singles:
        return True
    return address not in holdings.barred and any(address in block for block in holdings.blocks)


def holder_of(name: str) -> str:
    """How a sandbox is spoken of as the holder of an address."""
    return f"container {name!r}"


def _key(network_id: str, address: IPAddress) -> str:
    return f"{network_id}/{address}"
