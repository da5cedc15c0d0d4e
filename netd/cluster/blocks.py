"""How a subnet is cut into blocks, and which one a node gets next. Pure.

A subnet is cut into blocks of one size, which follows from the subnet alone, so every node cuts it the
same way: /26 in IPv4, but at least 16 blocks, so that a /24 is cut into /28; 65,536 blocks in IPv6, so
that a /64 is cut into /80. A block belongs to the node that a transaction gave it to. Within its
blocks a node hands out addresses alone.

A single address is an exception to its block. A node that is asked for one address in particular
claims it by a transaction of its own, whoever has the block, and that claim is what counts from then
on: the block's owner never hands the address out as long as the claim is there. When the container
is gone the claim stays, held by nobody, so that any node can take it up: that is how a container
moves to another host under its address. The block's owner takes such claims back when it runs out.
Only in a block of its own does a node claim an address that has no claim yet, or where the block is
nobody's: an address that the owner of the block may just now be handing out is refused to others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_network

from netd import names
from netd.errors import AlreadyExists, Exhausted
from netd.model import IPAddress, IPNetwork, Network, Subnet

IPV4_BLOCK = 26
AT_LEAST = 4
"""Bits: at least 16 blocks in an IPv4 subnet."""
IPV6_BITS = 16


def block_length(cidr: IPNetwork) -> int:
    """The prefix length of the blocks of a subnet."""
    if cidr.version == 4:
        return min(32, max(IPV4_BLOCK, cidr.prefixlen + AT_LEAST))
    return min(128, cidr.prefixlen + IPV6_BITS)


def block_of(network: Network, address: IPAddress) -> IPNetwork | None:
    """The block that an address lies in, None where it is in no subnet of the network."""
    for subnet in network.subnets:
        if address in subnet.cidr:
            return ip_network(f"{address}/{block_length(subnet.cidr)}", strict=False)
    return None


def candidates(subnet: Subnet, node: str) -> Iterator[IPNetwork]:
    """All blocks out of which addresses are handed out, beginning somewhere that depends on the node, so
    that nodes that begin at the same time do not all ask for the same one."""
    within = subnet.range or subnet.cidr
    length = block_length(subnet.cidr)
    bits = subnet.cidr.max_prefixlen
    size = 1 << (bits - length)
    first = int(within.network_address) // size
    count = max(1, within.num_addresses // size)
    start = int(names.digest(node, 8), 16) % count
    for turn in range(count):
        number = (first + (start + turn) % count) * size
        kind = type(subnet.cidr.network_address)
        yield ip_network(f"{kind(number)}/{length}")


def choose(
    network: Network,
    family: int,
    node: str,
    owners: Mapping[IPNetwork, str],
    reclaimable: Collection[str],
) -> IPNetwork:
    """The block that `node` takes next: one that is nobody's, else one of a node in `reclaimable`.

    Raises `Exhausted`.
    """
    abandoned = None
    for subnet in network.subnets:
        if subnet.family != family:
            continue
        for block in candidates(subnet, node):
            owner = owners.get(block)
            if owner is None and _has_room(subnet, block):
                return block
            if owner in reclaimable and abandoned is None:
                abandoned = block
    if abandoned is not None:
        return abandoned
    holders = sorted({owner for block, owner in owners.items() if block.version == family} - {node})[:8]
    rest = f": the rest belongs to {', '.join(holders)}" if holders else ""
    raise Exhausted(
        f"network {network.name!r} has no free block of IPv{family} addresses left for node {node!r}"
        f"{rest}; remove a container here, or "
        "use a network with a larger subnet"
    )


def _has_room(subnet: Subnet, block: IPNetwork) -> bool:
    """Whether a block has an address that can be given; one of a single address may be the gateway's."""
    withheld = {subnet.gateway, *subnet.reserved.values(), subnet.cidr.network_address}
    if subnet.family == 4:
        withheld.add(subnet.cidr.broadcast_address)
    return block.num_addresses > sum(address in block for address in withheld if address)


def check_single(
    network: Network,
    address: IPAddress,
    node: str,
    owner: str | None,
    claimant: str | None,
    reclaimable: Collection[str],
) -> None:
    """Raise `AlreadyExists` unless `node` may claim one address.

    `owner` has its block, `claimant` the address itself; None where there is no record, "" where the
    claim is up for whoever wants it.
    """
    holder = claimant if claimant is not None else owner
    if holder is None or holder in ("", node) or holder in reclaimable:
        return
    what = "is held by" if claimant else "lies in a block of addresses of"
    raise AlreadyExists(
        f"address {address} of network {network.name!r} {what} node {holder!r}; start the container there, "
        "choose another address or leave it out"
    )
