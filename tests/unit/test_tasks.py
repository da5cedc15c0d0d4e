from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from netd.tasks import carry_through, first_to_end, spawn


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


def test_what_is_carried_through_gives_its_result_or_its_error(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        assert await carry_through(asyncio.sleep(0, "done"), name="good") == "done"

        async def bad() -> None:
            raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            await carry_through(bad(), name="bad")

    asyncio.run(story())
    assert not caplog.records


def test_what_is_carried_through_ends_before_the_cancellation_is_felt() -> None:
    async def story() -> None:
        go, done = asyncio.Event(), False

        async def work() -> None:
            nonlocal done
            await go.wait()
            done = True

        async with asyncio.TaskGroup() as group:
            caller = group.create_task(carry_through(work(), name="work"))
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.sleep(0)
            assert not caller.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await caller
        assert done

    asyncio.run(story())


def test_the_first_to_end_ends_the_others_and_marks_nobody_as_cancelled() -> None:
    async def story() -> None:
        ended: list[str] = []

        async def fail() -> None:
            await asyncio.sleep(0.01)
            raise ValueError("broken")

        async def last() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                ended.append("other")

        with pytest.raises(ValueError, match="broken"):
            await first_to_end(last(), fail())
        assert ended == ["other"]
        me = asyncio.current_task()
        assert me is not None
        assert me.cancelling() == 0

    asyncio.run(story())


def test_to_cancel_who_waits_for_the_first_to_end_cancels_all() -> None:
    async def story() -> None:
        ended: list[str] = []

        async def last(name: str) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(name)

        waiting = spawn(first_to_end(last("a"), last("b")), name="waiting")
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert sorted(ended) == ["a", "b"]

    asyncio.run(story())
