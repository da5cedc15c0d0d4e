"""Several nodes and a real etcd: who hears what, and what happens when one of them is away."""

from __future__ import annotations

import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from netd.errors import AlreadyExists, InUse, NotFound, Unavailable
from netd.model import Network
from tests.kernel.etcdlab import TTL, Host, cut_off, etcd, eventually, hosts, needs_etcd
from tests.unit.cluster.sample import NETWORK, endpoint

pytestmark = needs_etcd


async def network(*members: Host) -> Network:
    made = await members[0].cluster.create_network(NETWORK)
    for member in members:
        await eventually("all have it", lambda m=member: NETWORK.id in m.member.view.networks)  # type: ignore[misc]
    return made


async def test_what_one_does_the_others_hear(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        await eventually("b knows a", lambda: "a" in b.member.nodes)
        made = await network(a, b)
        assert b.member.view.networks[NETWORK.id].vni == made.vni
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        e = endpoint("e1" * 16, f"{block[5]}/16")
        await a.publish(e)
        await eventually("b has the endpoint", lambda: e.id in b.member.remotes)
        assert b.member.remotes[e.id].name == "web"
        with pytest.raises(InUse, match="'web' on node 'a'"):
            await b.cluster.remove_network(made)
        await a.withdraw(e)
        await eventually("b has it no more", lambda: not b.member.remotes)
        await b.cluster.remove_network(made)
        await b.cluster.remove_network(made)
        await eventually("the network is gone", lambda: not a.member.view.networks)
        assert "/blocks/" not in server.ctl("get", "--prefix", "/netd/v1/", "--keys-only")
        assert a.member.nodes.keys() == {"b"}


async def test_a_daemon_that_restarts_is_not_noticed(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        e = endpoint("e1" * 16, f"{a.cluster.holdings(NETWORK.id).blocks[0][5]}/16")
        await a.publish(e)
        await eventually("b has the endpoint", lambda: e.id in b.member.remotes)
        b.member.told.clear()
        await a.stop()
        await a.start()
        await a.connected()
        after = endpoint("e2" * 16, f"{a.cluster.holdings(NETWORK.id).blocks[0][6]}/16")
        await a.publish(after, "db")
        await eventually("b hears what comes after", lambda: after.id in b.member.remotes)
        assert b.member.told == ["remote db a"]


async def test_what_ended_while_etcd_was_away_is_taken_back_by_the_next_daemon(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        e, other = endpoint("e1" * 16, f"{block[5]}/16"), endpoint("e2" * 16, f"{block[6]}/16")
        await a.publish(e)
        await eventually("b has the endpoint", lambda: e.id in b.member.remotes)
        server.kill(1)
        await eventually("a notices", lambda: not a.cluster.status().connected)
        began = time.monotonic()
        await a.withdraw(e)
        await a.publish(other, "db")
        assert time.monotonic() - began < 0.5, "nobody waits for an etcd that is away"
        await a.stop()
        await a.start()
        assert a.cluster.holdings(NETWORK.id).blocks == (block,), "what was known is known"
        server.start(1)
        await eventually("b hears of both", lambda: set(b.member.remotes) == {other.id})


async def test_without_etcd_only_what_needs_an_agreement_is_refused(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a") as (a,):
        made = await network(a)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        server.kill(1)
        await eventually("a notices", lambda: not a.cluster.status().connected)
        assert a.cluster.status().problem
        with pytest.raises(Unavailable, match="cannot be asked"):
            await a.cluster.grow(made, 4, None)
        with pytest.raises(Unavailable):
            await a.cluster.create_network(NETWORK)
        with pytest.raises(Unavailable, match="cannot give"):
            await a.cluster.grow(made, 4, ip_address("10.1.250.250"))
        await a.cluster.grow(made, 4, block[9])


async def test_a_dead_node_goes_with_its_endpoints_and_comes_back_with_them(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        e = endpoint("e1" * 16, f"{a.cluster.holdings(NETWORK.id).blocks[0][5]}/16")
        await a.publish(e)
        await eventually("b has the endpoint", lambda: e.id in b.member.remotes)
        await a.stop()
        await eventually("b hears that a is dead", lambda: not b.member.nodes, TTL + 5)
        assert not b.member.remotes
        (down,) = [status for status in b.cluster.nodes() if status.name == "a"]
        assert down.state == "down"
        assert down.blocks["fabric"] == a.cluster.holdings(NETWORK.id).blocks
        a.address = ip_address("192.0.2.77")
        await a.start()
        await eventually("b has it back", lambda: e.id in b.member.remotes, 2.0)
        assert b.member.nodes["a"].address == a.address


async def test_a_compaction_while_the_watch_is_cut_loses_nothing(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        gone, kept = endpoint("e1" * 16, f"{block[5]}/16"), endpoint("e2" * 16, f"{block[6]}/16")
        await a.publish(gone, "gone")
        await eventually("b has the endpoint", lambda: gone.id in b.member.remotes)
        await b.stop()
        await a.withdraw(gone)
        await a.publish(kept, "kept")
        server.ctl("compact", str(a.cluster.status().revision))
        await b.start()
        assert set(b.member.remotes) == {gone.id}, "what was known last, until etcd is heard"
        await eventually("b has the truth", lambda: set(b.member.remotes) == {kept.id})


async def test_a_node_that_is_cut_off_goes_on_with_another_member(tmp_path: Path) -> None:
    async with etcd(tmp_path, members=3) as server, hosts(tmp_path, server, "a") as (a,):
        leader = server.leader()
        server.kill(leader)
        await eventually("a goes on", lambda: _creates(a), 10)


async def _creates(host: Host) -> bool:
    try:
        await host.cluster.create_network(NETWORK)
    except Unavailable:
        return False
    return True


async def test_a_paused_node_writes_nothing_of_what_it_believed(tmp_path: Path) -> None:
    """It wakes when its lease is over, its block is somebody else's, and its address, too."""
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b", grace=0.0) as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        e = endpoint("e1" * 16, f"{block[5]}/16")
        await a.publish(e)
        await a.stop()
        await eventually("b hears that a is dead", lambda: not b.member.nodes, TTL + 5)
        await b.cluster.grow(made, 4, block[5])
        mine = endpoint("e2" * 16, f"{block[5]}/16")
        await b.publish(mine, "newer")
        await a.start()
        await a.connected()
        await eventually("a has b's", lambda: mine.id in a.member.remotes)
        await eventually("a says so", lambda: "start its container again" in a.cluster.status().problem)
        assert not b.member.remotes
        assert block[5] in a.cluster.holdings(NETWORK.id).barred


async def test_addresses_of_a_dead_node_are_kept_for_it(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b", grace=100.0) as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, ip_address("10.1.7.7"))
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        await a.stop()
        await eventually("b hears that a is dead", lambda: not b.member.nodes, TTL + 5)
        for address in (block[5], ip_address("10.1.7.7")):
            with pytest.raises(AlreadyExists, match="node 'a'"):
                await b.cluster.grow(made, 4, address)
        now = time.monotonic() + 101
        b.clock = lambda: now
        for address in (block[5], ip_address("10.1.7.7")):
            await b.cluster.grow(made, 4, address)
            assert address in b.cluster.holdings(NETWORK.id).singles


async def test_draining(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        await eventually("b knows a", lambda: "a" in b.member.nodes)
        await b.cluster.drain("a", True)
        await eventually("a knows", lambda: a.cluster.node.draining)
        assert [(status.name, status.state) for status in b.cluster.nodes()] == [
            ("a", "draining"),
            ("b", "ready"),
        ]
        await b.cluster.drain("a", False)
        await b.cluster.drain("a", False)
        await eventually("a knows", lambda: not a.cluster.node.draining)
        for draining in (True, False):
            with pytest.raises(NotFound, match="'c'"):
                await a.cluster.drain("c", draining)


async def test_a_network_that_cannot_be_adopted_is_tried_again(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        b.member.refuses["fabric"] = AlreadyExists("its subnet is taken here")
        await network(a)
        await eventually("b says so", lambda: "is taken here" in b.cluster.status().problem)
        b.member.refuses.clear()
        await eventually("b has it", lambda: NETWORK.id in b.member.view.networks)
        await eventually("b is content", lambda: not b.cluster.status().problem)


async def test_so_is_one_that_was_there_before_the_node(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        await b.stop()
        b.member.refuses["fabric"] = AlreadyExists("its subnet is taken here")
        await network(a)
        await b.start()
        await eventually("b says so", lambda: "is taken here" in b.cluster.status().problem)
        b.member.refuses.clear()
        await eventually("b has it", lambda: NETWORK.id in b.member.view.networks)
        await eventually("b is content", lambda: not b.cluster.status().problem)


async def test_garbage_in_etcd_is_set_aside_and_said(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        server.ctl("put", f"/netd/v1/networks/{'f' * 32}", "{}")
        server.ctl("put", "/netd/v1/nodes/evil", '{"instance": "x", "address": "127.0.0.1"}')
        await network(a, b)
        assert set(b.cluster.status().quarantined) == {f"/netd/v1/networks/{'f' * 32}", "/netd/v1/nodes/evil"}
        assert b.member.nodes.keys() == {"a"}


async def test_a_node_whose_record_is_taken_away_takes_it_back(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await network(a, b)
        await a.cluster.grow(made, 4, None)
        e = endpoint("e1" * 16, f"{a.cluster.holdings(NETWORK.id).blocks[0][5]}/16")
        await a.publish(e)
        await eventually("b has the endpoint", lambda: e.id in b.member.remotes)
        server.ctl("del", "/netd/v1/nodes/a")
        await eventually("b hears", lambda: "no node a" in b.member.told)
        await eventually("b has it back", lambda: e.id in b.member.remotes)


async def test_a_partition_heals_within_seconds(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a") as (a,):
        made = await network(a)
        with cut_off(*(endpoint.partition(":")[0] for endpoint in server.endpoints)):
            await eventually("a notices", lambda: not a.cluster.status().connected, 2 * TTL + 5)
        began = time.monotonic()
        await eventually("a is back", lambda: a.cluster.status().connected, 5.0)
        assert time.monotonic() - began < 5.0
        await a.cluster.grow(made, 4, None)
