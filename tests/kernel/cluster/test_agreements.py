"""What several nodes want at once, only one of them gets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from netd.cluster.agreements import choose_vni
from netd.errors import AlreadyExists, Exhausted, Invalid, NetdError
from netd.model import Network, Subnet
from tests.kernel.etcdlab import Host, etcd, eventually, hosts, needs_etcd
from tests.unit.cluster.sample import NETWORK, endpoint

pytestmark = needs_etcd
NAMES = ("a", "b", "c", "d")


def small(cidr: str, number: int = 1, name: str = "fabric") -> Network:
    net = ip_network(cidr)
    return replace(NETWORK, id=f"{number:032x}", name=name, subnets=(Subnet(cidr=net, gateway=net[1]),))


async def everywhere(network: Network, members: list[Host]) -> Network:
    made = await members[0].cluster.create_network(network)
    for member in members:
        await eventually("all have it", lambda m=member: made.id in m.member.view.networks)  # type: ignore[misc]
    return made


def test_vnis() -> None:
    first = choose_vni("0a0b0c" + "0" * 26, ())
    assert first == 0x0A0B0C + 1
    assert choose_vni("0a0b0c" + "0" * 26, {first}) == first + 1
    assert choose_vni("ffffff" + "0" * 26, ()) == 1
    assert choose_vni("fffffe" + "0" * 26, ()) == (1 << 24) - 1 or 1


async def test_networks_made_at_once_do_not_collide(tmp_path: Path) -> None:
    """Whatever each wants: one name, one subnet, one VNI."""
    async with etcd(tmp_path) as server, hosts(tmp_path, server, *NAMES) as members:

        async def attempt(host: Host, network: Network) -> Network | NetdError:
            try:
                return await host.cluster.create_network(network)
            except AlreadyExists as error:
                return error

        named = [small(f"10.{n}.0.0/16", n + 1) for n in range(4)]
        answers = await asyncio.gather(*map(attempt, members, named))
        assert sum(isinstance(answer, Network) for answer in answers) == 1
        overlapping = [small("10.200.0.0/16", n + 10, f"n{n}") for n in range(4)]
        answers = await asyncio.gather(*map(attempt, members, overlapping))
        assert sum(isinstance(answer, Network) for answer in answers) == 1
        near = [small(f"10.{n + 100}.0.0/16", n + 20, f"near{n}") for n in range(4)]
        made = [a for a in await asyncio.gather(*map(attempt, members, near)) if isinstance(a, Network)]
        assert len({network.vni for network in made}) == 4, "ids that are neighbours want one VNI"


async def test_a_request_that_is_repeated_finds_what_it_did(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a") as (a,):
        made = await a.cluster.create_network(NETWORK)
        again = await a.cluster.create_network(NETWORK)
        assert (again.id, again.vni) == (made.id, made.vni)


async def test_blocks_taken_at_once_are_different(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, *NAMES) as members:
        made = await everywhere(small("10.1.0.0/24"), members)
        for _ in range(4):
            await asyncio.gather(*(host.cluster.grow(made, 4, None) for host in members))
        held = [block for host in members for block in host.cluster.holdings(made.id).blocks]
        assert len(held) == len(set(held)) == 16
        with pytest.raises(Exhausted, match="b, c, d"):
            await members[0].cluster.grow(made, 4, None)


async def test_requests_that_wait_together_take_one_block(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a") as (a,):
        made = await everywhere(NETWORK, [a])
        await asyncio.gather(*(a.cluster.grow(made, 4, None) for _ in range(8)))
        assert len(a.cluster.holdings(made.id).blocks) == 1


async def test_one_address_is_one_nodes(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, *NAMES) as members:
        made = await everywhere(NETWORK, members)
        address = ip_address("10.1.77.7")

        async def claim(host: Host) -> bool:
            try:
                await host.cluster.grow(made, 4, address)
            except AlreadyExists:
                return False
            return True

        assert sum(await asyncio.gather(*map(claim, members))) == 1
        (winner,) = [host for host in members if address in host.cluster.holdings(made.id).singles]
        others = [host for host in members if host is not winner]
        e = endpoint("e1" * 16, f"{address}/16", network=made)
        await winner.publish(e)
        await eventually("the others know", lambda: all(e.id in host.member.remotes for host in others))
        await winner.withdraw(e)
        await eventually("it is up for whoever wants it", lambda: claim(others[0]))
        assert address in others[0].cluster.holdings(made.id).singles
        assert not await claim(winner)


async def test_a_claim_in_a_block_goes_back_to_its_owner_when_that_runs_out(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await everywhere(small("10.1.0.0/24"), [a, b])
        await a.cluster.grow(made, 4, None)
        (block,) = a.cluster.holdings(made.id).blocks
        await a.cluster.grow(made, 4, block[3])
        assert a.cluster.holdings(made.id).barred == {block[3]}
        with pytest.raises(AlreadyExists, match="held by node 'a'"):
            await b.cluster.grow(made, 4, block[3])
        with pytest.raises(AlreadyExists, match="block"):
            await b.cluster.grow(made, 4, block[4])
        e = endpoint("e1" * 16, f"{block[3]}/24", network=made)
        await a.publish(e)
        await a.withdraw(e)
        await eventually("given up", lambda: not a.cluster.holdings(made.id).singles)
        await a.cluster.grow(made, 4, None)
        holdings = a.cluster.holdings(made.id)
        assert (holdings.blocks, holdings.barred) == ((block,), frozenset())


async def test_an_address_that_cannot_be_given_is_not_claimed(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a") as (a,):
        made = await everywhere(NETWORK, [a])
        await a.cluster.grow(made, 4, None)
        address = a.cluster.holdings(made.id).blocks[0][5]
        await a.publish(endpoint("e1" * 16, f"{address}/16"))
        with pytest.raises(AlreadyExists, match="container 'web'"):
            await a.cluster.grow(made, 4, address)
        with pytest.raises(Invalid, match="gateway"):
            await a.cluster.grow(made, 4, ip_address("10.1.0.1"))
        with pytest.raises(Invalid, match=r"10\.1\.0\.0/16"):
            await a.cluster.grow(made, 4, ip_address("10.99.0.1"))
        assert not a.cluster.holdings(made.id).singles
