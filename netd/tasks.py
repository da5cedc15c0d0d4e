"""Background tasks that are held, named and never silent.

`asyncio.create_task` keeps only a weak reference: a task that nobody holds may be collected while
it runs, and its exception is reported at best when it is. `spawn` holds each task until it ends
and logs what it raised. Where a scope can own its tasks, use an `asyncio.TaskGroup` instead.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

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
