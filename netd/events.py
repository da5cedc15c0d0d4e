"""What happened, told to whoever watches; nobody who watches can hold anybody up.

`Events.emit` only appends to the queues of those who watch now. A queue is bounded: a watcher that
does not keep up is told so in its last event (type "daemon", action "lagging") and dropped, because
the other two choices are worse. Waiting for it would let one stopped terminal stop every operation,
and skipping events silently would leave it with a picture that is wrong without its knowing. It
watches again and lists what there is.

Everything here belongs to the event loop; it is not safe to call from a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

CAPACITY = 4096
"""Events that one watcher may leave unread; about 1 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. `time` is seconds since the epoch; `type` is "network", "container",
    "endpoint", "port", "repair" or "daemon"; `id` and `name` are those of the thing, which may be
    gone by now."""

    time: float
    type: str
    action: str
    id: str
    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


class Watcher:
    """One subscription: an async iterator of events, and a context manager that ends it."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._unread: deque[Event] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def offer(self, event: Event, capacity: int) -> bool:
        """Queue `event`; False when this watcher had to be dropped instead."""
        if len(self._unread) >= capacity:
            self.end(
                _now("daemon", "lagging", "", "", {"detail": f"dropped: {capacity} events were left unread"})
            )
            return False
        self._unread.append(event)
        self._news.set()
        return True

    def end(self, last: Event | None = None) -> None:
        """Let the iteration finish after what is queued, and after `last`."""
        if last is not None and not self._ended:
            self._unread.append(last)
        self._ended = True
        self._news.set()

    def __aiter__(self) -> Watcher:
        return self

    async def __anext__(self) -> Event:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._events.forget(self)


class Events:
    """The hub: everyone emits into it, `Watch` and the tests read from it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._watchers: set[Watcher] = set()
        self._closed = False

    def emit(self, type: str, action: str, id: str, name: str, **attributes: str) -> None:
        """Tell every watcher. Never waits and never raises."""
        if not self._watchers:
            return
        event = _now(type, action, id, name, attributes)
        self._watchers = {watcher for watcher in self._watchers if watcher.offer(event, self._capacity)}

    def subscribe(self) -> Watcher:
        """Watch from this moment on; use it as a context manager."""
        watcher = Watcher(self)
        if self._closed:
            watcher.end()
        else:
            self._watchers.add(watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """Drop a watcher that has gone. Unknown is fine."""
        self._watchers.discard(watcher)

    def close(self) -> None:
        """The daemon stops: every watcher gets one last event and ends."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end(_now("daemon", "stop", "", "", {}))
        self._watchers.clear()


def _now(type: str, action: str, id: str, name: str, attributes: Mapping[str, str]) -> Event:
    return Event(time=time.time(), type=type, action=action, id=id, name=name, attributes=attributes)
