"""An operation that has begun is carried through; its caller hears of it or not."""

from __future__ import annotations

import asyncio
import logging

import pytest

from netd.errors import NotFound, Unavailable
from netd.locks import Gate
from netd.operations import Operations


def test_the_caller_gets_the_answer_or_the_refusal() -> None:
    async def seven() -> int:
        return 7

    async def refuse() -> int:
        raise NotFound("no")

    async def story() -> None:
        operations = Operations(Gate())
        assert await operations.through(seven(), "seven") == 7
        with pytest.raises(NotFound, match="no"):
            await operations.through(refuse(), "refuse")

    asyncio.run(story())


def test_a_caller_that_goes_does_not_stop_it(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def work(name: str, go: asyncio.Event, error: Exception | None = None) -> None:
        await go.wait()
        ended.append(name)
        if error:
            raise error

    async def story() -> None:
        go = asyncio.Event()
        operations = Operations(Gate())
        outcomes = {"well": None, "refused": NotFound("nobody hears this"), "broken": RuntimeError("a bug")}
        calls = [
            asyncio.get_running_loop().create_task(operations.through(work(name, go, error), name))
            for name, error in outcomes.items()
        ]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        assert ended == []
        go.set()
        await operations.finish()
        assert ended == list(outcomes)

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    assert [record.getMessage() for record in caplog.records] == ["task broken failed"]


def test_what_runs_is_finished_and_what_comes_is_refused() -> None:
    async def story() -> None:
        gate, go = Gate(), asyncio.Event()
        operations = Operations(gate)
        call = asyncio.get_running_loop().create_task(operations.through(go.wait(), "wait"))
        await asyncio.sleep(0)
        finishing = asyncio.get_running_loop().create_task(operations.finish())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="stopping"):
            await operations.through(go.wait(), "late")
        assert not finishing.done()
        go.set()
        await finishing
        assert await call

    asyncio.run(story())


def test_all_of_it_happens_inside_the_gate() -> None:
    async def story() -> None:
        gate, order = Gate(), []

        async def work() -> None:
            order.append("work")

        async with gate.alone():
            call = asyncio.get_running_loop().create_task(Operations(gate).through(work(), "work"))
            for _ in range(5):
                await asyncio.sleep(0)
            order.append("alone")
        await call
        assert order == ["alone", "work"]

    asyncio.run(story())


def test_what_comes_afterwards_is_outside_of_the_gate_and_before_the_answer() -> None:
    gate, told = Gate(), []

    async def announce() -> None:
        async with asyncio.timeout(1), gate.alone():
            told.append("announced")

    async def refuse() -> None:
        raise NotFound("no")

    async def story() -> None:
        operations = Operations(gate, announce)
        await operations.through(asyncio.sleep(0), "nothing")
        assert told == ["announced"]
        with pytest.raises(NotFound):
            await operations.through(refuse(), "refuse")
        assert told == ["announced"]

    asyncio.run(story())
