"""The embedded store: batches that happen whole, deaths that lose nothing, boots that forget."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from netd.errors import Corrupt, Unavailable
from netd.store.base import Delete, Put, Table, Write
from netd.store.sqlite import SqliteStore
from tests.unit.store.test_codec import ENDPOINT, FREED, INTENT, NETWORK, SANDBOX

ALL: list[Write] = [
    Put(Table.SANDBOX, SANDBOX.id, SANDBOX),
    Put(Table.ENDPOINT, ENDPOINT.id, ENDPOINT),
    Put(Table.INTENT, "i", INTENT),
    Put(Table.FREED, "f", FREED),
    Put(Table.FACT, "forwarding", "0"),
    Put(Table.CONTAINER, "c", b"\x00opaque"),
]


@asynccontextmanager
async def opened(directory: Path, boot_id: str = "boot") -> AsyncIterator[SqliteStore]:
    store = SqliteStore(directory / "state", directory / "run", boot_id=boot_id)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def test_remembers_everything_over_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            await store.define(Put(Table.NETWORK, NETWORK.id, NETWORK), Put(Table.SETTING, "k", "v"))
            await store.live(*ALL)
        async with opened(tmp_path) as store:
            loaded = await store.load()
            assert loaded.networks == {NETWORK.id: NETWORK}
            assert loaded.settings == {"k": "v"}
            assert loaded.sandboxes == {SANDBOX.id: SANDBOX}
            assert loaded.endpoints == {ENDPOINT.id: ENDPOINT}
            assert loaded.intents == {"i": INTENT}
            assert loaded.freed == {"f": FREED}
            assert loaded.facts == {"forwarding": "0"}
            assert loaded.quarantined == ()
            assert await store.containers() == {"c": b"\x00opaque"}
            await store.live(Delete(Table.INTENT, "i"), Delete(Table.INTENT, "never was"))
            assert (await store.load()).intents == {}

    asyncio.run(story())


def test_another_boot_forgets_live_state_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path, "first") as store:
            await store.define(Put(Table.NETWORK, NETWORK.id, NETWORK))
            await store.live(*ALL)
        (tmp_path / "run" / "live-first.db").write_bytes(b"whatever the power cut left")
        async with opened(tmp_path, "second") as store:
            loaded = await store.load()
            assert loaded.networks == {NETWORK.id: NETWORK}
            assert not loaded.sandboxes
            assert not await store.containers()
        assert [path.name for path in (tmp_path / "run").glob("*first*")] == []

    asyncio.run(story())


def test_a_batch_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(Unavailable):  # an int beyond 64 bits makes SQLite refuse the second write
                await store.live(Put(Table.FACT, "a", "1"), Put(Table.FACT, "b", object()))
            assert (await store.load()).facts == {}

    asyncio.run(story())


def test_a_bad_request_does_not_fail_those_it_was_batched_with(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            requests = [store.live(Put(Table.FACT, str(n), object() if n == 7 else "v")) for n in range(20)]
            results = await asyncio.gather(*requests, return_exceptions=True)
            assert [n for n, result in enumerate(results) if result is not None] == [7]
            assert (await store.load()).facts.keys() == {str(n) for n in range(20)} - {"7"}

    asyncio.run(story())


def test_a_record_that_makes_no_sense_is_set_aside(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            await store.define(Put(Table.NETWORK, NETWORK.id, NETWORK))
        with sqlite3.connect(tmp_path / "state" / "netd.db") as connection:
            connection.execute("INSERT INTO record VALUES ('network', 'bad', '{\"id\": 7}')")
            connection.execute("INSERT INTO record VALUES ('song', 'x', '')")
        connection.close()
        async with opened(tmp_path) as store:
            loaded = await store.load()
            assert loaded.networks == {NETWORK.id: NETWORK}
            assert {(q.table, q.key) for q in loaded.quarantined} == {("network", "bad"), ("song", "x")}

    asyncio.run(story())


def test_definitions_and_live_state_are_not_confused(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            with pytest.raises(ValueError, match="network records do not belong to live"):
                await store.live(Put(Table.NETWORK, NETWORK.id, NETWORK))

    asyncio.run(story())


def test_a_damaged_file_keeps_the_store_shut(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path):
            pass
        (tmp_path / "run" / "live-boot.db").write_bytes(b"x" * 4096)
        store = SqliteStore(tmp_path / "state", tmp_path / "run", boot_id="boot")
        with pytest.raises(Corrupt, match=r"live-boot\.db"):
            await store.open()
        with pytest.raises(Unavailable, match="closed"):
            await store.load()

    asyncio.run(story())


def test_what_waits_is_committed_before_closing(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            writes = [asyncio.ensure_future(store.live(Put(Table.FACT, str(n), "v"))) for n in range(50)]  # noqa: TID251
            await asyncio.sleep(0)
            await store.close()
            await asyncio.gather(*writes)
        async with opened(tmp_path) as store:
            assert len((await store.load()).facts) == 50

    asyncio.run(story())


WRITER = """
import asyncio, sys
from pathlib import Path
from netd.store.base import Put, Table
from netd.store.sqlite import SqliteStore
from tests.unit.store.test_codec import NETWORK

async def main():
    store = SqliteStore(Path(sys.argv[1]) / "state", Path(sys.argv[1]) / "run", boot_id="boot")
    await store.open()
    await store.define(Put(Table.NETWORK, NETWORK.id, NETWORK))
    number = 0
    while True:
        await store.live(Put(Table.FACT, f"a{number}", "v"), Put(Table.FACT, f"b{number}", "v"))
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, env=os.environ
    )
    assert writer.stdout
    with writer.stdout:
        while int(writer.stdout.readline()) < 100:
            pass
        writer.send_signal(signal.SIGKILL)
        answered = [int(line) for line in writer.stdout.read().split(b"\n") if line]
    writer.wait()
    last = max([100, *answered])

    async def story() -> None:
        async with opened(tmp_path) as store:
            loaded = await store.load()
            assert loaded.networks == {NETWORK.id: NETWORK}
            assert {f"{side}{n}" for n in range(last + 1) for side in "ab"} <= loaded.facts.keys()
            assert len(loaded.facts) % 2 == 0  # each batch whole

    asyncio.run(story())


def test_a_record_is_replaced_by_its_next_version(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            await store.live(Put(Table.SANDBOX, SANDBOX.id, SANDBOX))
            renamed = replace(SANDBOX, name="www")
            await store.live(Put(Table.SANDBOX, SANDBOX.id, renamed))
            assert (await store.load()).sandboxes == {SANDBOX.id: renamed}

    asyncio.run(story())
