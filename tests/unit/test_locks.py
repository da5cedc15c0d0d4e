"""Turns are taken in order, other keys never wait, and being alone means being alone."""

from __future__ import annotations

import asyncio

import pytest

from netd.locks import Gate, Locks


def test_one_key_is_held_by_one_in_the_order_of_asking() -> None:
    async def story() -> None:
        locks, order = Locks(), []

        async def use(number: int) -> None:
            async with locks.hold("x"):
                order.append(number)
                await asyncio.sleep(0)
                order.append(number)

        await asyncio.gather(*(use(number) for number in range(5)))
        assert order == [number for number in range(5) for _ in range(2)]
        assert len(locks) == 0

    asyncio.run(story())


def test_different_keys_do_not_meet() -> None:
    async def story() -> None:
        locks = Locks()
        async with locks.hold("x"), asyncio.timeout(1), locks.hold("y"):
            assert len(locks) == 2
        assert len(locks) == 0

    asyncio.run(story())


def test_one_who_gives_up_waiting_leaves_no_trace() -> None:
    async def story() -> None:
        locks = Locks()

        async def wait() -> None:
            async with locks.hold("x"):
                raise AssertionError("never reached")

        async with locks.hold("x"):
            waiting = asyncio.get_running_loop().create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert len(locks) == 1
        assert len(locks) == 0

    asyncio.run(story())


def test_alone_waits_for_those_inside_and_keeps_out_those_who_come() -> None:
    async def story() -> None:
        gate, order, leave = Gate(), [], asyncio.Event()

        async def inside(name: str) -> None:
            async with gate.shared():
                order.append(f"{name} in")
                await leave.wait()
                order.append(f"{name} out")

        async def alone() -> None:
            async with gate.alone():
                order.append("alone in")
                await asyncio.sleep(0)
                order.append("alone out")

        async with asyncio.TaskGroup() as group:
            group.create_task(inside("a"))
            group.create_task(inside("b"))
            await asyncio.sleep(0)
            group.create_task(alone())
            await asyncio.sleep(0)
            group.create_task(inside("late"))
            await asyncio.sleep(0)
            assert order == ["a in", "b in"]
            assert not gate.quiet_for(0)
            leave.set()
        assert order == ["a in", "b in", "a out", "b out", "alone in", "alone out", "late in", "late out"]
        assert gate.quiet_for(0)
        assert not gate.quiet_for(60)

    asyncio.run(story())
