"""What is made known: exactly what there is, in as few transactions as it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netd.cluster.etcd import Etcd
from tests.kernel.etcdlab import etcd, eventually, hosts, needs_etcd
from tests.unit.cluster.sample import NETWORK, endpoint

pytestmark = needs_etcd


async def test_one_more_endpoint_costs_one_request_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await a.cluster.create_network(NETWORK)
        await eventually("a has it", lambda: NETWORK.id in a.member.view.networks)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        requests = []
        genuine = Etcd._unary

        async def counted(self: Etcd, method: str, *arguments: object) -> object:
            requests.append(method)
            return await genuine(self, method, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Etcd, "_unary", counted)
        for n in range(1, 41):
            e = endpoint(f"{n:032x}", f"{block[n + 5]}/16", mac=f"02:00:00:00:02:{n:02x}")
            requests.clear()
            await a.publish(e, f"c{n}")
            assert requests == ["KV/Txn"]
        await eventually("b has all", lambda: len(b.member.remotes) == 40)
        assert [line for line in b.member.told if line.startswith("remote")] == [
            f"remote c{n} a" for n in range(1, 41)
        ], "b heard of each once"


async def test_many_are_told_together(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await a.cluster.create_network(NETWORK)
        await eventually("a has it", lambda: NETWORK.id in a.member.view.networks)
        for _ in range(4):
            await a.cluster.grow(made, 4, None)
        free = [address for block in a.cluster.holdings(NETWORK.id).blocks for address in list(block)[2:]]
        before = a.cluster.status().revision
        for n, address in enumerate(free):
            a.member.attach(endpoint(f"{n:032x}", f"{address}/16", mac=f"02:00:00:00:02:{n:02x}"), f"c{n}")
        await a.cluster.withdraw(list(a.member.view.endpoints.values()))
        assert a.cluster.status().revision <= before + 3 + 1
        await eventually("b has all", lambda: len(b.member.remotes) == len(free))


async def test_what_changes_is_told_anew(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await a.cluster.create_network(NETWORK)
        await eventually("a has it", lambda: NETWORK.id in a.member.view.networks)
        await a.cluster.grow(made, 4, None)
        e = endpoint("e1" * 16, f"{a.cluster.holdings(NETWORK.id).blocks[0][5]}/16")
        await a.publish(e)
        await a.publish(replace(e, aliases=("api",)))
        await eventually("b has it", lambda: [r.aliases for r in b.member.remotes.values()] == [("api",)])


async def test_an_endpoint_of_a_network_that_is_gone_keeps_no_other(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, hosts(tmp_path, server, "a", "b") as (a, b):
        made = await a.cluster.create_network(NETWORK)
        await eventually("a has it", lambda: NETWORK.id in a.member.view.networks)
        await a.cluster.grow(made, 4, None)
        block = a.cluster.holdings(NETWORK.id).blocks[0]
        other = replace(NETWORK, id="0c" * 16, name="other")
        a.member.view = a.member.view.with_network(other)
        stray = endpoint("e2" * 16, f"{block[6]}/16", network=other)
        a.member.attach(stray, "stray")
        await a.publish(endpoint("e1" * 16, f"{block[5]}/16"))
        await a.cluster.withdraw([stray])
        await eventually("b has the good one", lambda: set(b.member.remotes) == {"e1" * 16})
