"""Which address an endpoint gets.

Everything here is a pure function of values. A `Pool` is one subnet of one network with what is
used in it; taking an address returns another pool. Nothing of it has to be stored: who uses what
follows from the endpoints, and the only thing beside is the short list of addresses given back,
oldest first (`Pool.freed`).

Order of giving: an address that was never used comes first, in ascending order, then the one
that was given back the longest ago. A connection tracking entry, a neighbour cache or a DNS answer
that still speaks of the last owner has then had the most time to die. The list of freed addresses
is bounded; forgetting its oldest entries changes nothing about the order, because an address that
nobody remembers counts as never used.

Nothing is enumerated. An IPv6 /64 costs what an IPv4 /24 costs: a cursor stands at the lowest address
that was never given, and only when it has reached the end are the addresses below it looked at.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_interface
from itertools import chain

from netd import names
from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.model import IPAddress, IPInterface, IPNetwork, Network, Subnet
from netd.shared import Shared

HISTORY = 1024
"""How many freed addresses a pool remembers."""

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


@dataclass(frozen=True, slots=True)
class Pool:
    """One subnet of the network called `network`, and what is used in it.

    `used` maps each address to who holds it, in words fit for a message ("container 'web'").
    `freed` are the addresses given back, oldest first (a mapping for its order and its look-up).
    Every address below the number `cursor` was given before or never will be; `Pool.of` works it out.
    """

    network: str
    subnet: Subnet
    used: Shared[IPAddress, str] = field(default_factory=Shared)
    freed: Mapping[IPAddress, None] = field(default_factory=dict)
    cursor: int = 0

    @classmethod
    def of(
        cls, network: str, subnet: Subnet, used: Mapping[IPAddress, str], freed: Iterable[IPAddress] = ()
    ) -> Pool:
        """A pool from what is known of endpoints and history; addresses outside `subnet` are left out."""
        own = Shared({address: holder for address, holder in used.items() if address in subnet.cidr})
        history = {a: None for a in list(freed)[-HISTORY:] if a in subnet.cidr and a not in own}
        pool = cls(network, subnet, own, history, spans(subnet)[0][0])
        return replace(pool, cursor=_never_given(pool))

    @property
    def capacity(self) -> int:
        """How many addresses can be handed out dynamically, used ones included."""
        withheld = {self.subnet.gateway, *self.subnet.reserved.values()}
        return sum(
            last - first + 1 - sum(first <= int(address) <= last for address in withheld if address)
            for first, last in spans(self.subnet)
        )

    @property
    def full(self) -> bool:
        """Whether there is no address left to give."""
        return _next(self) is None


def take(
    pools: Sequence[Pool],
    family: int,
    holder: str,
    wanted: IPAddress | None = None,
    avoid: Collection[IPAddress] = (),
) -> tuple[tuple[Pool, ...], IPInterface]:
    """Give `holder` an address of `family`: the one wanted, or the next that is not to be avoided.

    Returns all the pools, one of them changed, and the address with its subnet's prefix length.
    Raises `Invalid` (an address that cannot be an endpoint's), `AlreadyExists` (held by another) or
    `Exhausted`.
    """
    if wanted is not None:
        index = _index_of(pools, family, wanted)
        _check_wanted(pools[index], wanted)
        return _given(pools, index, wanted, holder)
    for index, pool in enumerate(pools):
        if pool.subnet.family == family and (address := _next(pool, avoid)) is not None:
            return _given(pools, index, address, holder)
    own = [pool for pool in pools if pool.subnet.family == family]
    if not own:
        raise Invalid(f"network {pools[0].network!r} has no IPv{family} subnet; make one that has")
    kept = sum(each in pool.subnet.cidr and each not in pool.used for pool in own for each in avoid)
    use = f"in use, or kept for others ({kept})" if kept else "in use"
    ranges = ", ".join(show_range(pool.subnet) or str(pool.subnet.cidr) for pool in own)
    raise Exhausted(
        f"network {own[0].network!r} has no free IPv{family} address left: all "
        f"{sum(pool.capacity for pool in own)} of {ranges} are {use}; remove a container, or use a network "
        "with a larger subnet"
    )


def next_within(
    pools: Sequence[Pool], family: int, blocks: Sequence[IPNetwork], barred: Collection[IPAddress]
) -> IPAddress | None:
    """The address of `family` that `take` should be asked for when only `blocks` may be given from, less
    what is `barred`: one never given, else the one that was free the longest; None where all are in use."""
    for pool in pools:
        if pool.subnet.family == family:
            free = (a for a in _numbered(pool, blocks) if a not in pool.used and a not in barred)
            usual = (a for a in free if a not in pool.freed and not _is_withheld(pool, a))
            again = (a for a in pool.freed if a not in barred and _lies_in(pool, a, blocks))
            if (address := next(chain(usual, again), None)) is not None:
                return address
    return None


def _numbered(pool: Pool, blocks: Sequence[IPNetwork]) -> Iterator[IPAddress]:
    """The addresses of a pool that lie in `blocks`, block by block."""
    for block in blocks:
        if block.version == pool.subnet.family:
            low, high = int(block.network_address), int(block.broadcast_address)
            for first, last in spans(pool.subnet):
                yield from (_address(pool.subnet, n) for n in range(max(first, low), min(last, high) + 1))


def _lies_in(pool: Pool, address: IPAddress, blocks: Sequence[IPNetwork]) -> bool:
    return _is_dynamic(pool.subnet, address) and any(address in block for block in blocks)


def give_back(pools: Sequence[Pool], address: IPAddress) -> tuple[Pool, ...]:
    """Return an address. One that nobody holds is left as it is."""
    return tuple(_returned(pool, address) if address in pool.used else pool for pool in pools)


def held_by(pools: Sequence[Pool], address: IPAddress, holder: str) -> tuple[Pool, ...]:
    """Say of a held address that it is `holder`'s. One that nobody holds is left as it is."""
    return tuple(
        replace(pool, used=pool.used.but(address, holder)) if address in pool.used else pool for pool in pools
    )


def _returned(pool: Pool, address: IPAddress) -> Pool:
    freed = dict(pool.freed)
    freed[address] = None
    if len(freed) > HISTORY:
        forgotten = next(iter(freed))
        del freed[forgotten]
    return replace(pool, used=pool.used.without(address), freed=freed)


def _given(
    pools: Sequence[Pool], index: int, address: IPAddress, holder: str
) -> tuple[tuple[Pool, ...], IPInterface]:
    pool = pools[index]
    freed = pool.freed
    if address in freed:
        freed = {other: None for other in freed if other != address}
    changed = replace(pool, used=pool.used.but(address, holder), freed=freed)
    if int(address) >= pool.cursor:
        changed = replace(changed, cursor=_never_given(changed))
    interface = ip_interface(f"{address}/{pool.subnet.cidr.prefixlen}")
    return (*pools[:index], changed, *pools[index + 1 :]), interface


def _next(pool: Pool, avoid: Collection[IPAddress] = ()) -> IPAddress | None:
    """The address that was free the longest, of those that are not to be avoided."""
    return next((address for address in _free(pool) if address not in avoid), None)


def _free(pool: Pool) -> Iterator[IPAddress]:
    """The addresses that can be given, in the order of giving."""
    runs = spans(pool.subnet)
    lowest = pool.cursor
    if lowest > runs[-1][1] and len(pool.freed) >= HISTORY:
        lowest = runs[0][0]  # only then may a freed address have been forgotten
    for first, last in runs:
        yield from (
            _address(pool.subnet, number)
            for number in range(max(first, lowest), last + 1)
            if _is_fresh(pool, number)
        )
    for address in pool.freed:
        if _is_dynamic(pool.subnet, address) and not _is_withheld(pool, address):
            yield address


def _never_given(pool: Pool) -> int:
    """Where the cursor belongs, from where it stands: the next number never given nor withheld."""
    number = pool.cursor
    for first, last in spans(pool.subnet):
        number = max(number, first)
        while number <= last:
            if _is_fresh(pool, number):
                return number
            number += 1
    return number


def _is_fresh(pool: Pool, number: int) -> bool:
    address = _address(pool.subnet, number)
    return address not in pool.used and address not in pool.freed and not _is_withheld(pool, address)


def _is_dynamic(subnet: Subnet, address: IPAddress) -> bool:
    return any(first <= int(address) <= last for first, last in spans(subnet))


def _is_withheld(pool: Pool, address: IPAddress) -> bool:
    return address == pool.subnet.gateway or address in pool.subnet.reserved.values()


def _address(subnet: Subnet, number: int) -> IPAddress:
    return IPv4Address(number) if subnet.family == 4 else IPv6Address(number)


def usable(cidr: IPNetwork) -> tuple[int, int]:
    """First and last address of a subnet that an interface can have.

    IPv4 keeps its first for the network and its last for broadcast, but not in a /31 (RFC 3021). IPv6
    has no broadcast, and its first is the routers' anycast address (RFC 4291, 2.6.1), but not in a
    /127 (RFC 6164).
    """
    first, last = int(cidr.network_address), int(cidr.broadcast_address)
    if last - first <= 1:
        return first, last
    return (first + 1, last - 1) if cidr.version == 4 else (first + 1, last)


def spans(subnet: Subnet) -> tuple[tuple[int, int], ...]:
    """The runs of numbers, ascending, that are handed out dynamically: first and last of each."""
    first, last = usable(subnet.cidr)
    if subnet.spans:
        return tuple((max(first, int(low)), min(last, int(high))) for low, high in subnet.spans)
    if subnet.range is None:
        return ((first, last),)
    low, high = int(subnet.range.network_address), int(subnet.range.broadcast_address)
    return ((max(first, low), min(last, high)),)


def show_range(subnet: Subnet) -> str:
    """What narrows a subnet, as it is asked for: prefixes or FIRST-LAST, with commas; "" for nothing."""
    if subnet.spans:
        return ", ".join(f"{first}-{last}" for first, last in subnet.spans)
    return str(subnet.range) if subnet.range else ""


def _index_of(pools: Sequence[Pool], family: int, wanted: IPAddress) -> int:
    for index, pool in enumerate(pools):
        if wanted in pool.subnet.cidr and wanted.version == family:
            return index
    subnets = ", ".join(str(pool.subnet.cidr) for pool in pools if pool.subnet.family == family)
    raise Invalid(
        f"address {wanted} lies in no IPv{family} subnet of network {pools[0].network!r} "
        f"({subnets or 'it has none'}); choose one of these or leave the address out"
    )


def _check_wanted(pool: Pool, wanted: IPAddress) -> None:
    subnet, where = pool.subnet, f"address {wanted} of network {pool.network!r}"
    first, last = usable(subnet.cidr)
    if not first <= int(wanted) <= last:
        raise Invalid(
            f"{where} is the network or broadcast address of {subnet.cidr}; choose one from "
            f"{_address(subnet, first)} to {_address(subnet, last)}"
        )
    if wanted == subnet.gateway:
        raise Invalid(f"{where} is its gateway; choose another")
    for label, address in subnet.reserved.items():
        if address == wanted:
            raise Invalid(f"{where} is reserved as {label!r}; choose another")
    if wanted in pool.used:
        raise AlreadyExists(f"{where} is held by {pool.used[wanted]}; choose another or remove that first")


def check_mac(network: Network, wanted: str, used: Mapping[str, str]) -> str:
    """Return `wanted` in the form that netd keeps, if an endpoint of `network` may have it.

    `used` maps the MACs in this network to who holds them. Raises `Invalid` or `AlreadyExists`.
    """
    mac = wanted.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise Invalid(
            f"MAC address {wanted!r} is not valid: write six pairs of hex digits, 02:42:0a:59:00:02"
        )
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise Invalid(
            f"MAC address {mac} is not a unicast address; the first byte must be even, and not all zero"
        )
    holder = "the network's bridge" if mac == names.mac_of(network.id) else used.get(mac)
    if holder is not None:
        raise AlreadyExists(
            f"MAC address {mac} of network {network.name!r} is held by {holder}; choose another"
        )
    return mac
