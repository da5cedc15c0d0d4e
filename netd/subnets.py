"""Which subnets a network gets: what its creator named, checked, and what was left out, chosen.

Pure: the existing networks and what the host reaches already come in as values. A subnet that
overlaps either would take addresses away from somebody, so it is refused when named and skipped when
chosen. Blocks are chosen in the order of the pools; the search jumps over what is taken instead of
trying block by block, so that the thousandth network costs what the tenth cost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeVar

from netd import names
from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.ipam import Pool, show_range, usable
from netd.model import LINK, IPAddress, IPNetwork, Network, NetworkRequest, Subnet
from netd.settings import Pool as Source

HostNetwork = tuple[str, IPAddress, int]
"""What the host reaches already: (interface, network address, prefix length)."""

Taken = Sequence[tuple[IPNetwork, str]]
"""Address ranges that are in use, and by whom, in words fit for a message."""

WIDEST = {4: 8, 6: 16}
"""The shortest prefix that a subnet may have."""

UNFIT: tuple[IPNetwork, ...] = (
    *map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")),
    *map(IPv6Network, ("::/16", "fe80::/10", "ff00::/8")),
)
"""This host, loopback, link-local, multicast and reserved (RFC 6890)."""

Value = TypeVar("Value", IPAddress, IPNetwork)


def resolve(
    request: NetworkRequest,
    network_id: str,
    *,
    pools: Sequence[Source],
    networks: Collection[Network],
    host: Collection[HostNetwork],
) -> tuple[Subnet, ...]:
    """The subnets of the network that `request` asks for.

    Where no IPv4 subnet is named one comes from `pools`; with `ipv6`, where no IPv6 one is named, a
    ULA /64 made from `network_id`. `networks` are those that exist, `host` what the host reaches (netd's
    own bridges left out). Raises `Invalid`, `AlreadyExists` (an overlap; names who has it) or `Exhausted`.
    """
    taken = [*_of_networks(networks), *_of_host(host)]
    cidrs: list[IPNetwork] = []
    for text in request.subnets:
        cidr = _parse_subnet(text)
        _refuse_overlap(cidr, [*((other, "another --subnet of this request") for other in cidrs), *taken])
        cidrs.append(cidr)
    if not request.ipv4:
        _check_ipv6_only(request, cidrs)
    elif not any(cidr.version == 4 for cidr in cidrs):
        cidrs.insert(0, _from_pools(pools, taken))
    if request.ipv6 and not any(cidr.version == 6 for cidr in cidrs):
        cidrs.append(_ula(network_id, taken))
    gateways = _one_each("gateway", cidrs, [_parse_address("gateway", text) for text in request.gateways])
    prefixes = [_parse_range(text) for text in request.ip_ranges if "-" not in text]
    ranges = _one_each("ip-range", cidrs, prefixes)
    runs = _runs(cidrs, [_parse_run(text) for text in request.ip_ranges if "-" in text])
    for cidr in ranges.keys() & runs.keys():
        raise Invalid(
            f"subnet {cidr} has --ip-range {ranges[cidr]} and one written FIRST-LAST; leave one out"
        )
    reserved = _reserved(cidrs, request.aux_addresses)
    if request.driver == LINK and gateways:
        raise Invalid(
            f"gateway {request.gateways[0]} cannot be had: the host has no part in a link; leave it out"
        )

    def gateway_of(cidr: IPNetwork) -> IPAddress | None:
        if request.driver == LINK:
            return None
        return gateways.get(cidr) or _first_usable(cidr, reserved[cidr])

    return tuple(
        _subnet(
            Subnet(
                cidr=cidr,
                gateway=gateway_of(cidr),
                range=ranges.get(cidr),
                spans=runs.get(cidr, ()),
                reserved=reserved[cidr],
            )
        )
        for cidr in cidrs
    )


def _check_ipv6_only(request: NetworkRequest, cidrs: Sequence[IPNetwork]) -> None:
    for cidr in cidrs:
        if cidr.version == 4:
            raise Invalid(
                f"subnet {cidr} is IPv4, which this network is to do without; leave one of them out"
            )
    if not cidrs and not request.ipv6:
        raise Invalid("a network without IPv4 needs an IPv6 subnet: name one, or ask for --ipv6")


def check_free(network: Network, networks: Collection[Network], host: Collection[HostNetwork]) -> None:
    """Raise `AlreadyExists` if a subnet of `network` overlaps one of `networks` or what the host reaches."""
    taken = [*_of_networks(networks), *_of_host(host)]
    for subnet in network.subnets:
        _refuse_overlap(subnet.cidr, taken)


def _subnet(subnet: Subnet) -> Subnet:
    """`subnet` itself, if it makes sense."""
    cidr, gateway = subnet.cidr, subnet.gateway
    if gateway:
        _check_usable("gateway", cidr, gateway)
    for label, address in subnet.reserved.items():
        if address == gateway:
            raise Invalid(f"aux-address {label}={address} is the gateway of {cidr}; choose another")
    if Pool("", subnet).capacity < 1:
        raise Invalid(
            f"subnet {show_range(subnet) or cidr} has no address left for a container beside the gateway "
            f"{gateway}{' and what is reserved' if subnet.reserved else ''}; choose a larger one"
        )
    return subnet


def _first_usable(cidr: IPNetwork, reserved: Mapping[str, IPAddress]) -> IPAddress:
    first, last = usable(cidr)
    held = {int(address) for address in reserved.values()}
    number = next((number for number in range(first, last + 1) if number not in held), first)
    return IPv4Address(number) if cidr.version == 4 else IPv6Address(number)


def _check_usable(what: str, cidr: IPNetwork, address: IPAddress) -> None:
    first, last = usable(cidr)
    if not first <= int(address) <= last:
        raise Invalid(f"{what} {address} is the network or broadcast address of {cidr}; choose another")


# --- reading what was typed ---------------------------------------------------------------------------


def _parse_subnet(text: str) -> IPNetwork:
    address, slash, _ = text.partition("/")
    try:
        cidr = ip_network(text, strict=False)
        host = ip_address(address)
    except ValueError:
        raise Invalid(f"subnet {text!r} is not valid: write it like 10.89.0.0/24 or fd00:89::/64") from None
    if not slash:
        raise Invalid(f"subnet {text!r} has no prefix length: write {text}/{24 if cidr.version == 4 else 64}")
    if host != cidr.network_address:
        raise Invalid(f"subnet {text!r} has host bits set; did you mean {cidr}?")
    if cidr.prefixlen < WIDEST[cidr.version]:
        raise Invalid(
            f"subnet {cidr} is too large: the largest in IPv{cidr.version} is /{WIDEST[cidr.version]}"
        )
    for unfit in UNFIT:
        if _overlap(cidr, unfit):
            raise Invalid(f"subnet {cidr} lies in {unfit}, which is reserved (RFC 6890); choose another")
    return cidr


def _parse_address(what: str, text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise Invalid(f"{what} {text!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise Invalid(f"{what} {text!r} names an interface; leave the part after '%' out")
    return address


def _parse_range(text: str) -> IPNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise Invalid(f"ip-range {text!r} is not valid: {error}; write it like 10.89.0.128/25") from None


def _parse_run(text: str) -> tuple[IPAddress, IPAddress]:
    first, last = (_parse_address("ip-range", part.strip()) for part in text.split("-", 1))
    if first.version != last.version or int(first) > int(last):
        raise Invalid(f"ip-range {text!r} is no run of addresses: write it FIRST-LAST, 10.89.0.20-10.89.0.99")
    return first, last


def _runs(
    cidrs: Collection[IPNetwork], runs: Iterable[tuple[IPAddress, IPAddress]]
) -> dict[IPNetwork, tuple[tuple[IPAddress, IPAddress], ...]]:
    """The runs of each subnet, ascending. Raises `Invalid` where two overlap or one lies in no subnet."""
    found: dict[IPNetwork, tuple[tuple[IPAddress, IPAddress], ...]] = {}
    for first, last in sorted(runs, key=lambda run: (run[0].version, int(run[0]))):
        cidr = _home("ip-range", cidrs, first)
        _check_usable("ip-range", cidr, first)
        if last not in cidr:
            raise Invalid(f"ip-range {first}-{last} ends outside of {cidr}; shorten it")
        before = found.get(cidr, ())
        if before and int(before[-1][1]) >= int(first):
            raise Invalid(f"ip-range {first}-{last} overlaps {before[-1][0]}-{before[-1][1]}; join them")
        found[cidr] = (*before, (first, last))
    return found


def _one_each(what: str, cidrs: Iterable[IPNetwork], values: Iterable[Value]) -> dict[IPNetwork, Value]:
    """Assign each value to the subnet that contains it, at most one to each."""
    assigned: dict[IPNetwork, Value] = {}
    for value in values:
        cidr = _home(what, cidrs, value)
        if cidr in assigned:
            raise Invalid(f"subnet {cidr} has two of --{what}: {assigned[cidr]} and {value}; leave one out")
        assigned[cidr] = value
    return assigned


def _reserved(
    cidrs: Collection[IPNetwork], aux_addresses: Mapping[str, str]
) -> dict[IPNetwork, dict[str, IPAddress]]:
    reserved: dict[IPNetwork, dict[str, IPAddress]] = {cidr: {} for cidr in cidrs}
    for label, text in aux_addresses.items():
        address = _parse_address(f"aux-address {label}=", text)
        cidr = _home("aux-address", cidrs, address)
        _check_usable(f"aux-address {label}", cidr, address)
        reserved[cidr][label] = address
    return reserved


def _home(what: str, cidrs: Iterable[IPNetwork], value: IPAddress | IPNetwork) -> IPNetwork:
    whole = ip_network(value)
    for cidr in cidrs:
        if whole.network_address in cidr and whole.broadcast_address in cidr:
            return cidr
    named = ", ".join(str(cidr) for cidr in cidrs)
    raise Invalid(f"{what} {value} lies in no subnet of this network ({named}); name its --subnet too")


# --- what is taken, and what is free ------------------------------------------------------------------


def _of_networks(networks: Collection[Network]) -> Iterable[tuple[IPNetwork, str]]:
    for net in networks:
        for subnet in net.subnets:
            yield subnet.cidr, f"network {net.name!r}"


def _of_host(host: Collection[HostNetwork]) -> Iterable[tuple[IPNetwork, str]]:
    for ifname, address, prefixlen in host:
        yield ip_network(f"{address}/{prefixlen}", strict=False), f"the host, by {ifname}"


def _refuse_overlap(cidr: IPNetwork, taken: Taken) -> None:
    for other, holder in taken:
        if _overlap(cidr, other):
            raise AlreadyExists(f"subnet {cidr} overlaps {other}, which is used by {holder}; choose another")


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return (
        one.version == other.version
        and int(one.network_address) <= int(other.broadcast_address)
        and int(other.network_address) <= int(one.broadcast_address)
    )


def _from_pools(pools: Sequence[Source], taken: Taken) -> IPv4Network:
    """The first block of the pools that overlaps nothing."""
    spans = sorted(
        (int(cidr.network_address), int(cidr.broadcast_address)) for cidr, _ in taken if cidr.version == 4
    )
    for pool in pools:
        base, size = IPv4Network(pool.base), 1 << (32 - pool.size)
        start, end = int(base.network_address), int(base.broadcast_address)
        for low, high in spans:
            if high < start:
                continue
            if low >= start + size:
                break
            start += (high - start) // size * size + size  # the first block behind what is in the way
        if start + size - 1 <= end:
            return IPv4Network((start, pool.size))
    blocks = ", ".join(f"{pool.base} in /{pool.size}" for pool in pools) or "none configured"
    raise Exhausted(
        f"no free subnet is left in the default pools ({blocks}): networks or the host's own routes "
        "use it all; name one with --subnet, remove networks, or add a pool to the configuration"
    )


def _ula(network_id: str, taken: Taken) -> IPv6Network:
    """The network's own ULA /64; 56 random bits collide practically never, and then the next is tried."""
    attempt = 0
    while True:
        cidr = names.ula_subnet(f"{network_id}/{attempt}" if attempt else network_id)
        if not any(_overlap(cidr, other) for other, _ in taken):
            return cidr
        attempt += 1
