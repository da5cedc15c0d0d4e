"""How subnets are cut, and who gets which part."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netd.cluster import blocks
from netd.errors import AlreadyExists, Exhausted
from netd.model import IPNetwork, Network, Subnet
from tests.unit.cluster.sample import BLOCK, BLOCK6, NETWORK


def of(cidr: str, gateway: str, within: str = "") -> Network:
    subnet = Subnet(
        cidr=ip_network(cidr), gateway=ip_address(gateway), range=ip_network(within) if within else None
    )
    return replace(NETWORK, subnets=(subnet,))


@pytest.mark.parametrize(
    ("cidr", "length"),
    [
        ("10.0.0.0/8", 26),
        ("10.1.0.0/16", 26),
        ("10.1.0.0/22", 26),
        ("10.1.0.0/24", 28),
        ("10.1.0.0/28", 32),
        ("10.1.0.0/30", 32),
        ("fd00::/48", 64),
        ("fd00::/64", 80),
        ("fd00::/120", 128),
    ],
)
def test_the_size_follows_from_the_subnet(cidr: str, length: int) -> None:
    assert blocks.block_length(ip_network(cidr)) == length


def test_an_address_lies_in_one_block() -> None:
    assert blocks.block_of(NETWORK, ip_address("10.1.0.70")) == BLOCK
    assert blocks.block_of(NETWORK, ip_address("fd01::70")) == BLOCK6
    assert blocks.block_of(NETWORK, ip_address("10.2.0.1")) is None


def test_nodes_take_different_blocks_until_none_is_left() -> None:
    network = of("10.1.0.0/24", "10.1.0.1")
    owners: dict[IPNetwork, str] = {}
    for turn in range(16):
        node = f"n{turn % 3}"
        owners[blocks.choose(network, 4, node, owners, ())] = node
    assert sorted(owners) == sorted(ip_network("10.1.0.0/24").subnets(new_prefix=28))
    with pytest.raises(Exhausted, match="n1, n2"):
        blocks.choose(network, 4, "n0", owners, ())


def test_a_dead_nodes_block_is_taken_only_when_none_is_free() -> None:
    network = of("10.1.0.0/30", "10.1.0.1")
    dead = {ip_network("10.1.0.2/32"): "dead"}
    with pytest.raises(Exhausted):
        blocks.choose(network, 4, "a", dead, ())
    assert blocks.choose(network, 4, "a", dead, {"dead"}) == ip_network("10.1.0.2/32")
    wide = {ip_network("10.1.0.0/28"): "dead"}
    assert blocks.choose(of("10.1.0.0/24", "10.1.0.1"), 4, "a", wide, {"dead"}) not in wide


def test_blocks_come_out_of_the_range_alone() -> None:
    network = of("10.1.0.0/16", "10.1.0.1", "10.1.4.0/25")
    owners: dict[IPNetwork, str] = {}
    for _ in range(2):
        owners[blocks.choose(network, 4, "a", owners, ())] = "a"
    assert sorted(owners) == [ip_network("10.1.4.0/26"), ip_network("10.1.4.64/26")]
    narrow = of("10.1.0.0/16", "10.1.0.1", "10.1.4.32/27")
    assert blocks.choose(narrow, 4, "a", {}, ()) == ip_network("10.1.4.0/26")


def test_a_block_that_is_only_the_gateway_is_of_no_use() -> None:
    network = of("10.1.0.0/30", "10.1.0.1")
    assert blocks.choose(network, 4, "a", {}, ()) == ip_network("10.1.0.2/32")


def test_ipv6_blocks_are_found_without_looking_at_all() -> None:
    assert blocks.choose(NETWORK, 6, "a", {}, ()).prefixlen == 80


@pytest.mark.parametrize(
    ("owner", "claimant"),
    [(None, None), ("a", None), ("b", "a"), ("b", ""), ("dead", None), ("b", "dead"), (None, "")],
)
def test_an_address_that_may_be_claimed(owner: str | None, claimant: str | None) -> None:
    blocks.check_single(NETWORK, ip_address("10.1.0.70"), "a", owner, claimant, {"dead"})


@pytest.mark.parametrize(("owner", "claimant"), [("b", None), (None, "b"), ("a", "b"), ("dead", "b")])
def test_an_address_that_somebody_may_be_handing_out(owner: str | None, claimant: str | None) -> None:
    with pytest.raises(AlreadyExists, match="node 'b'"):
        blocks.check_single(NETWORK, ip_address("10.1.0.70"), "a", owner, claimant, {"dead"})
