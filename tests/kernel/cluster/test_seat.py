"""A node's place: kept over a restart, never two in one, and nothing written without it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from netd.cluster.etcd import Etcd, Target, put
from netd.cluster.memory import Memory
from netd.cluster.seat import Lost, Seat
from netd.errors import Unavailable
from netd.model import Node
from netd.store.sqlite import SqliteStore
from tests.kernel.etcdlab import Server, etcd, needs_etcd

pytestmark = needs_etcd


@asynccontextmanager
async def seat(directory: Path, server: Server, name: str, boot: str = "boot") -> AsyncIterator[Seat]:
    """The seat that a daemon would take that has this directory."""
    for part in ("state", "run"):
        (directory / part).mkdir(parents=True, exist_ok=True)
    store = SqliteStore(directory / "state", directory / "run", boot_id=boot)
    await store.open()
    connection = Etcd(Target(endpoints=server.endpoints))
    memory = Memory(store)
    await memory.recall()
    try:
        yield Seat(Node(name=name, address=ip_address("192.0.2.1")), connection, memory, 30)
    finally:
        await connection.close()
        await store.close()


async def found(server: Server, seat: Seat) -> tuple[bytes, int, int]:
    connection = Etcd(Target(endpoints=server.endpoints))
    kv = await connection.get(seat.key)
    await connection.close()
    assert kv is not None
    return kv.value, kv.create_revision, kv.lease


async def test_a_restart_goes_on_with_the_same_seat(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        async with seat(tmp_path / "h", server, "a") as first:
            await first.take()
            before = await found(server, first)
        async with seat(tmp_path / "h", server, "a") as second:
            await second.take()
            assert await found(server, second) == before
            await second.become(replace(second.node, address=ip_address("192.0.2.7")))
            value, created, _ = await found(server, second)
            assert b"192.0.2.7" in value
            assert created == before[1]
            await second.become(replace(second.node, wireguard_key="a2V5"))
            value, created, _ = await found(server, second)
            assert b'"wireguard_key":"a2V5"' in value
            assert created == before[1]


async def test_a_reboot_takes_what_hung_on_the_old_lease_away(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        async with seat(tmp_path / "h", server, "a") as first:
            await first.take()
            connection = Etcd(Target(endpoints=server.endpoints))
            await connection.transact([first.fence()], [put(b"/of-the-first-boot", b"x", first.lease)])
        async with seat(tmp_path / "h", server, "a", boot="another") as second:
            await second.take()
            assert await connection.get(b"/of-the-first-boot") is None
            assert (await found(server, second))[2] == second.lease
        await connection.close()


async def test_two_hosts_cannot_have_one_name(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server, seat(tmp_path / "h", server, "a") as first:
        await first.take()
        async with seat(tmp_path / "i", server, "a") as second:
            with pytest.raises(Unavailable, match="--node-name"):
                await second.take()
            with pytest.raises(Unavailable, match="not registered"):
                second.fence()
        await first.keep()


async def test_nothing_is_written_without_the_seat(tmp_path: Path) -> None:
    """Also not after it was taken anew by somebody who believes to have the old one."""
    async with etcd(tmp_path) as server, seat(tmp_path / "h", server, "a") as paused:
        await paused.take()
        stale = paused.fence()
        connection = Etcd(Target(endpoints=server.endpoints))
        await connection.revoke(paused.lease)
        assert not (await connection.transact([stale], [put(b"/x", b"stale")])).succeeded
        with pytest.raises(Lost):
            await paused.keep()
        with pytest.raises(Unavailable):
            paused.fence()
        await paused.take()
        assert not (await connection.transact([stale], [put(b"/x", b"stale")])).succeeded
        assert (await connection.transact([paused.fence()], [put(b"/x", b"fresh")])).succeeded
        await paused.check()
        await connection.close()
