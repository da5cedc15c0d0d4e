"""What is remembered over the end of a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from netd.cluster.directory import Raw
from netd.cluster.memory import Memory
from netd.store.sqlite import SqliteStore
from tests.unit.cluster.sample import A, a_node


@asynccontextmanager
async def remembering(tmp_path: Path, boot: str = "boot") -> AsyncIterator[Memory]:
    for part in ("state", "run"):
        (tmp_path / part).mkdir(exist_ok=True)
    store = SqliteStore(tmp_path / "state", tmp_path / "run", boot_id=boot)
    await store.open()
    try:
        yield Memory(store)
    finally:
        await store.close()


def test_a_restart_knows_all_and_a_reboot_only_who_we_are(tmp_path: Path) -> None:
    key, value = a_node(A)

    async def story() -> None:
        async with remembering(tmp_path) as memory:
            assert await memory.recall() == {}
            instance = memory.instance
            await memory.keep_lease(1 << 62)
            await memory.note([(key, Raw(value, 3, 7)), (b"/netd/v1/nodes/b", Raw(b"{}", 1, 1))])
            await memory.note([(b"/netd/v1/nodes/b", None)])
        async with remembering(tmp_path) as memory:
            assert await memory.recall() == {key: Raw(value, 3, 7)}
            assert (memory.instance, memory.lease) == (instance, 1 << 62)
        async with remembering(tmp_path, "another") as memory:
            assert await memory.recall() == {}
            assert (memory.instance, memory.lease) == (instance, 0)

    asyncio.run(story())


def test_what_is_no_text_is_not_remembered(tmp_path: Path) -> None:
    async def story() -> None:
        async with remembering(tmp_path) as memory:
            await memory.recall()
            odd = [(b"/netd/v1/nodes/\xff", Raw(b"{}", 1, 1)), (b"/netd/v1/nodes/c", Raw(b"\xff", 1, 1))]
            await memory.note([*odd, (b"lease", Raw(b"7", 1, 1))])
            assert await memory.recall() == {}
            assert memory.lease == 0

    asyncio.run(story())
