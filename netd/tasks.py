"""Background tasks that are held, named and never silent.

`asyncio.create_task` keeps only a weak reference: a task that nobody holds may be collected while
it runs, and its exception is reported at best when it is. `spawn` holds each task until it ends
and logs what it raised. Where a scope can own its tasks, use an `asyncio.TaskGroup` instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar, cast

from netd.errors import NetdError

T = TypeVar("T")
log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
    """Run `coroutine` in the background under `name`; return its task, which is held until it ends."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task %s failed", task.get_name(), exc_info=error)


async def first_to_end(*coroutines: Coroutine[Any, Any, Any]) -> None:
    """Run all of them until the first ends; cancel the others, wait for them, and raise what it raised.

    Not a `TaskGroup`, which tells its own task by cancelling it that a child failed, and in Python 3.11
    leaves the mark of that behind (`Task.cancelling`): whoever asks afterwards whether the task is to end
    is told so for ever.
    """
    loop = asyncio.get_running_loop()
    running = [loop.create_task(coroutine) for coroutine in coroutines]
    try:
        ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
    for task in running:
        if task in ended:
            task.result()


async def each(steps: Iterable[Awaitable[object]], what: str) -> bool:
    """All of `steps`, at once; one that fails is logged and does not keep the others. Whether none did."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, NetdError):
            log.error("%s: %s", what, outcome)
        elif isinstance(outcome, Exception):
            log.error("%s failed", what, exc_info=outcome)
    return not any(isinstance(outcome, BaseException) for outcome in outcomes)


async def carry_through(coroutine: Coroutine[Any, Any, T], *, name: str) -> T:
    """Await `coroutine` to its end even if the caller is cancelled meanwhile; only then raise that.

    For work that must not stop half-way: a caller that goes away is answered by undoing the whole
    afterwards, in order, never by an exception in the middle of it.
    """

    async def settled() -> tuple[T | None, Exception | None]:
        try:
            return await coroutine, None
        except Exception as error:
            return None, error

    task = spawn(settled(), name=name)
    try:
        value, error = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
    if error is not None:
        raise error
    return cast(T, value)
