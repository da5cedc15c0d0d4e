from __future__ import annotations

import asyncio

from netd.events import Events, Watcher


async def read(watcher: Watcher) -> list[tuple[str, str]]:
    return [(event.type, event.action) async for event in watcher]


def test_a_watcher_sees_what_happens_from_its_subscription_on() -> None:
    async def story() -> None:
        events = Events()
        events.emit("network", "create", "1", "before")
        with events.subscribe() as watcher:
            events.emit("network", "create", "2", "front", driver="bridge")
            event = await anext(watcher)
        assert (event.type, event.action, event.id, event.name) == ("network", "create", "2", "front")
        assert event.attributes == {"driver": "bridge"}

    asyncio.run(story())


def test_a_waiting_watcher_is_woken() -> None:
    async def story() -> None:
        events = Events()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            with events.subscribe() as watcher:
                reading = group.create_task(read(watcher))
                await asyncio.sleep(0)
                events.emit("port", "publish", "1", "web")
                events.close()
                assert await reading == [("port", "publish"), ("daemon", "stop")]

    asyncio.run(story())


def test_a_slow_watcher_is_told_and_dropped_while_others_go_on() -> None:
    async def story() -> None:
        events = Events(capacity=2)
        slow, fast = events.subscribe(), events.subscribe()
        for _ in range(3):
            events.emit("network", "create", "1", "front")
            assert (await anext(fast)).action == "create"
        assert await read(slow) == [("network", "create"), ("network", "create"), ("daemon", "lagging")]
        events.emit("network", "remove", "1", "front")
        assert (await anext(fast)).action == "remove"

    asyncio.run(story())


def test_leaving_the_context_ends_the_subscription() -> None:
    async def story() -> None:
        events = Events(capacity=1)
        with events.subscribe() as watcher:
            pass
        events.emit("network", "create", "1", "front")
        assert await read(watcher) == []

    asyncio.run(story())


def test_after_close_a_new_watcher_ends_at_once() -> None:
    async def story() -> None:
        events = Events()
        events.close()
        assert await read(events.subscribe()) == []

    asyncio.run(story())
