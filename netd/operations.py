"""Carries operations through, whether or not the one who asked stays to hear of it.

A client may vanish in the middle of a request, and its handler is cancelled. What has begun must not
stop half-way for that: it runs as a task of its own, and the caller only waits for the answer. A
refusal that nobody hears any more is dropped; an unexpected error is logged with its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from netd import tasks
from netd.errors import NetdError, Unavailable
from netd.locks import Gate

T = TypeVar("T")


class Operations:
    """What is under way, all of it inside `gate` together.

    `afterwards` is awaited outside of it when an operation has ended well, before the caller is answered.
    """

    def __init__(self, gate: Gate, afterwards: Callable[[], Awaitable[None]] | None = None) -> None:
        self._gate = gate
        self._afterwards = afterwards
        self._running: set[asyncio.Task[None]] = set()
        self._finishing = False

    async def through(self, operation: Coroutine[Any, Any, T], name: str) -> T:
        """Run `operation` to its end and return or raise what it does. `Unavailable` when stopping."""
        if self._finishing:
            operation.close()
            raise Unavailable("the daemon is stopping; try again when it is back")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = tasks.spawn(self._run(operation, answer), name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await answer

    async def _run(self, operation: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
        try:
            async with self._gate.shared():
                result = await operation
            if self._afterwards:
                await self._afterwards()
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            elif not isinstance(error, NetdError):
                raise
        except BaseException:
            answer.cancel()
            raise
        else:
            if not answer.done():
                answer.set_result(result)

    async def finish(self) -> None:
        """Let what runs end; refuse what comes from now on."""
        self._finishing = True
        if self._running:
            await asyncio.wait(self._running)
