from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from netd.tasks import spawn


def test_a_task_is_held_until_it_ends() -> None:
    async def story() -> None:
        done = asyncio.Event()

        async def work() -> None:
            await asyncio.sleep(0)
            done.set()

        held = weakref.ref(spawn(work(), name="work"))
        gc.collect()
        assert held() is not None
        await asyncio.wait_for(done.wait(), 5)
        await asyncio.sleep(0)
        gc.collect()
        assert held() is None

    asyncio.run(story())


def test_a_failure_is_logged_with_the_name_of_the_task(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async def work() -> None:
            raise ValueError("broken")

        task = spawn(work(), name="relay")
        await asyncio.wait([task])
        await asyncio.sleep(0)

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    assert "task relay failed" in caplog.text
    assert "ValueError: broken" in caplog.text


def test_cancelling_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        task = spawn(asyncio.sleep(60), name="sleeper")
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(story())
    assert not caplog.records
