"""The client against a real etcd: one at a time, whole lists, watches that say when they end."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netd.cluster import etcd as client
from netd.cluster.etcd import Compacted, Etcd, Target, parse
from netd.errors import Invalid, Unavailable
from tests.kernel.etcdlab import Server, cut_off, etcd, eventually, needs_etcd

pytestmark = needs_etcd


async def write(connection: Etcd, key: str, value: str) -> int:
    answer = await connection.transact([], [client.put(key.encode(), value.encode())])
    return int(answer.header.revision)


def test_urls() -> None:
    assert parse("etcd://h1:1,h2,[fd00::1]:3,10.0.0.1/") == (
        "h1:1",
        "h2:2379",
        "[fd00::1]:3",
        "10.0.0.1:2379",
    )
    with pytest.raises(Invalid):
        parse("h1:2379")


async def test_lists_are_whole_and_of_one_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAGE", 3)
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        for n in range(10):
            await write(connection, f"/a/{n}", str(n))
        revision = await write(connection, "/b/1", "x")
        listing = await connection.list(b"/a/")
        assert [kv.value for kv in listing.kvs] == [str(n).encode() for n in range(10)]
        assert listing.revision == revision
        found = await connection.get(b"/a/3")
        assert found is not None
        assert found.value == b"3"
        assert await connection.get(b"/a/x") is None
        await connection.close()


async def test_conditions_decide_for_all_writes(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        revision = await write(connection, "/a/1", "x")
        holds = [
            client.unchanged(b"/a/1", revision),
            client.born(b"/a/1", revision),
            client.exists(b"/a/1"),
            client.absent(b"/a/2"),
            client.unchanged(b"/a/2", 0),
            client.none_below(b"/b/"),
            client.none_newer(b"/a/", revision),
            client.none_newer(b"/b/", 1),
        ]
        fails = [
            client.unchanged(b"/a/1", revision - 1),
            client.born(b"/a/1", revision - 1),
            client.exists(b"/a/2"),
            client.absent(b"/a/1"),
            client.none_below(b"/a/"),
            client.none_newer(b"/a/", revision - 1),
        ]
        for condition in fails:
            answer = await connection.transact([*holds, condition], [client.put(b"/c", b"x")])
            assert not answer.succeeded, condition
        assert await connection.get(b"/c") is None
        answer = await connection.transact(holds, [client.put(b"/c", b"x"), client.delete_below(b"/a/")])
        assert answer.succeeded
        assert (await connection.list(b"/a/")).kvs == []
        await connection.close()


async def test_leases_live_and_end(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        lease = await connection.grant(60)
        await connection.transact([], [client.put(b"/a", b"x", lease)])
        assert await connection.keep_alive(lease) == 60
        await connection.revoke(lease)
        await connection.revoke(lease)
        assert await connection.keep_alive(lease) == 0
        assert await connection.get(b"/a") is None
        await connection.close()


async def test_a_watch_tells_everything_in_order_from_where_it_is_asked(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        first = await write(connection, "/a/1", "x")
        async with contextlib.aclosing(connection.watch(b"/a/", first)) as watch:
            await anext(watch)
            await write(connection, "/b/1", "elsewhere")
            await connection.transact([], [client.delete(b"/a/1")])
            told: list[tuple[bytes, int]] = []
            while len(told) < 2:
                batch = await anext(watch)
                told += [(event.kv.key, event.type) for event in batch.events]
                # What is still to come is not said to have been told: somebody waits for just that.
                assert batch.revision == (first if len(told) == 1 else first + 2)
        assert told == [(b"/a/1", 0), (b"/a/1", 1)]
        await connection.close()


async def test_a_watch_of_what_was_compacted_says_so(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        for n in range(5):
            revision = await write(connection, "/a/1", str(n))
        server.ctl("compact", str(revision))
        with pytest.raises(Compacted):
            async for _ in connection.watch(b"/a/", 1):
                pass
        await connection.close()


async def _to_the_end(watch: AsyncIterator[object]) -> None:
    async for _ in watch:
        pass


async def test_a_member_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    async with etcd(tmp_path, members=3) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        await write(connection, "/a", "1")
        async with contextlib.aclosing(connection.watch(b"/a", 1)) as watch:
            await anext(watch)
            server.kill(1)
            with pytest.raises(Unavailable):
                await _to_the_end(watch)
        await write(connection, "/a", "2")
        assert connection.endpoint != server.endpoints[0]
        await connection.close()


async def test_a_silent_member_is_passed_over_within_the_deadline(tmp_path: Path) -> None:
    """Packets that vanish break no connection: only the deadline of a call notices."""
    async with etcd(tmp_path, members=3) as server:
        connection = Etcd(Target(endpoints=server.endpoints), deadline=0.5)
        await write(connection, "/a", "1")
        async with contextlib.aclosing(connection.watch(b"/a", 1)) as watch:
            await anext(watch)
            await anext(watch)
            with cut_off("127.0.1.1"):
                await write(connection, "/a", "2")
                with pytest.raises(Unavailable):
                    await anext(watch)
        await connection.close()


async def test_nobody_there(tmp_path: Path) -> None:
    connection = Etcd(Target(endpoints=("127.0.0.1:1",)))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await connection.get(b"/")
    await connection.close()


async def test_a_caller_that_is_cancelled_is(tmp_path: Path) -> None:
    async with etcd(tmp_path) as server:
        connection = Etcd(Target(endpoints=server.endpoints))
        standing = asyncio.Event()

        async def follow() -> None:
            async for _ in connection.watch(b"/a", 0):
                standing.set()

        async with asyncio.TaskGroup() as group:
            task = group.create_task(follow())
            await standing.wait()
            task.cancel()
        assert task.cancelled()
        await connection.close()


def certificates(directory: Path) -> None:
    """A CA, and certificates by it for etcd and for a client; and one for a client by itself."""
    directory.mkdir()
    script = """
    new() { openssl ecparam -name prime256v1 -genkey -noout -out $1.key; }
    new ca; openssl req -x509 -key ca.key -subj /CN=ca -days 2 -out ca.pem
    for name in etcd client; do
        new $name; openssl req -new -key $name.key -subj /CN=$name -out $name.csr
        printf 'subjectAltName=IP:127.0.1.1\nextendedKeyUsage=serverAuth,clientAuth' > ext
        openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext \\
            -out $name.pem
    done
    new stranger; openssl req -x509 -key stranger.key -subj /CN=stranger -days 2 -out stranger.pem
    """
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True, capture_output=True)


async def test_tls_both_ways(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    certificates(pem)
    flags = (f"--cert-file={pem}/etcd.pem", f"--key-file={pem}/etcd.key", "--client-cert-auth=true")
    server = Server(tmp_path, tls=(*flags, f"--trusted-ca-file={pem}/ca.pem"))
    server.start(1)

    def target(name: str, ca: str = "ca") -> Target:
        return Target(
            endpoints=server.endpoints,
            ca=pem / f"{ca}.pem",
            cert=pem / f"{name}.pem",
            key=pem / f"{name}.key",
        )

    async def answers(target: Target) -> bool:
        connection = Etcd(target)
        try:
            await connection.get(b"/")
        except Unavailable:
            return False
        finally:
            await connection.close()
        return True

    try:
        await eventually("etcd answers", lambda: answers(target("client")))
        assert not await answers(target("stranger")), "etcd let in a stranger"
        assert not await answers(target("client", ca="stranger")), "we trusted a stranger"
        assert not await answers(Target(endpoints=server.endpoints)), "plain text was spoken"
    finally:
        server.stop()
