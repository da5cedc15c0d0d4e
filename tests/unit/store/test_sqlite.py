"""The embedded store: batches that happen whole, deaths that lose nothing, boots that forget."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from netd.errors import Corrupt, Exhausted, Unavailable
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
    Put(Table.CLUSTER, "/netd/v1/nodes/a", "1 2 {}"),
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
            assert await store.texts(Table.CLUSTER) == {"/netd/v1/nodes/a": "1 2 {}"}
            assert await store.texts(Table.SETTING) == {"k": "v"}
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


TORN = (0, 1, 2000, 4119, 4120, 5000)
"""Bytes of what was being written that reached the disk: a frame of the log has 4,120."""


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param(TORN, id="144 cuts"),
        pytest.param(sorted({*TORN, *range(7, 6000, 160)}), id="1,000 cuts", marks=pytest.mark.slow),
    ],
)
def test_a_power_cut_loses_nothing_that_was_answered(tmp_path: Path, pieces: Sequence[int]) -> None:
    """At the moment of each answer, what is on the disk holds all that was answered, whatever follows.

    A cut leaves the log up to the last sync and, behind it, nothing, a piece or rubbish of what was
    being written.
    """
    rubbish = random.Random(7).randbytes(6000)

    async def written() -> tuple[bytes, bytes, list[int]]:
        async with opened(tmp_path / "whole") as store:
            path, sizes = store.paths["definitions"], []
            log = path.with_name(path.name + "-wal")
            for number in range(12):
                await store.define(Put(Table.NETWORK, str(number), replace(NETWORK, id=str(number))))
                sizes.append(log.stat().st_size)
            return path.read_bytes(), log.read_bytes(), sizes

    database, log, sizes = asyncio.run(written())
    assert sizes == sorted(set(sizes)), "each answer waits for something to be written"

    async def after_the_cut(case: str, content: bytes, answered: int) -> None:
        place = tmp_path / case
        (place / "state").mkdir(parents=True, mode=0o700)
        place.joinpath("state/netd.db").write_bytes(database)
        place.joinpath("state/netd.db-wal").write_bytes(content)
        async with opened(place) as store:
            loaded = await store.load()
            assert loaded.quarantined == ()
            definitions = store._connections["definitions"]
            checked = await store._ask(lambda: definitions.execute("PRAGMA integrity_check").fetchall())
            assert checked == [("ok",)], case
            assert {str(number) for number in range(answered)} <= loaded.networks.keys(), case
            await store.define(Put(Table.NETWORK, "next", replace(NETWORK, id="next")))

    for answered, size in enumerate(sizes, start=1):
        for torn in pieces:
            asyncio.run(after_the_cut(f"{answered}-piece-{torn}", log[: size + torn], answered))
            asyncio.run(after_the_cut(f"{answered}-rubbish-{torn}", log[:size] + rubbish[:torn], answered))


def test_a_full_disk_refuses_what_is_new_and_lets_go_of_what_is_old(tmp_path: Path) -> None:
    async def story() -> None:
        async with opened(tmp_path) as store:
            await store.live(*(Put(Table.CONTAINER, str(number), bytes(1000)) for number in range(20)))
            live = store._connections["live"]
            [[pages]] = await store._ask(lambda: live.execute("PRAGMA page_count").fetchall())
            await store._ask(lambda: live.execute(f"PRAGMA max_page_count = {pages}").fetchall())
            with pytest.raises(Exhausted, match=r"no space left for .*live-boot\.db"):
                await store.live(Put(Table.CONTAINER, "new", bytes(50_000)))
            await store.live(*(Delete(Table.CONTAINER, str(number)) for number in range(15)))
            await store.live(Put(Table.CONTAINER, "new", bytes(5_000)))
            assert len(await store.containers()) == 6

    asyncio.run(story())
