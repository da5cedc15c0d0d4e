"""The one loop that everything runs in: readiness by epoll, and timers.

Not asyncio: importing it costs a third of the time in which a dead server has to be back, and a
callback an event is all that DNS needs. A callback must never wait, and must bound what it does in
one turn, since every client waits for it.
"""

from __future__ import annotations

import logging
import select
import time
from collections import OrderedDict, deque
from collections.abc import Callable

log = logging.getLogger(__name__)

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
EVENTS_MOST = 32
PATIENCE = 0.001


class Timer:
    """A call that is due at `when` (seconds of the monotonic clock) unless it is cancelled before."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Calls back when descriptors are ready and when timers are due. `now` is fresh in every turn.

    A descriptor can be watched as `patient`: then it is served after all others, in the order in which
    such descriptors became ready, and only `PATIENCE` seconds of a turn are spent on them together. So
    however many there are and whatever they bring, the others wait that long and no longer.
    """

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.failures = 0
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[Callable[[], None], int, bool]] = {}  # callback, events, patient
        self._queue: OrderedDict[int, None] = OrderedDict()  # patient ones that are ready
        self._timers: dict[float, deque[Timer]] = {}
        self._running = False

    def watch(
        self, descriptor: int, callback: Callable[[], None], events: int = READ, *, patient: bool = False
    ) -> None:
        """Call `callback` whenever `descriptor` is ready for `events`; a second call changes all that.

        A callback can come without reason, when another descriptor had the same number a moment ago.
        """
        before = self._watched.get(descriptor)
        if before is None:
            self._epoll.register(descriptor, events)
        elif before[1] != events:
            self._epoll.modify(descriptor, events)
        self._watched[descriptor] = (callback, events, patient)

    def forget(self, descriptor: int, *, closing: bool = False) -> None:
        """Stop watching; call it before the descriptor is closed.

        `closing` leaves the rest to close(2), which takes a descriptor out of an epoll set by itself
        where no copy of it exists.
        """
        if self._watched.pop(descriptor, None) is not None:
            self._queue.pop(descriptor, None)
            if not closing:
                self._epoll.unregister(descriptor)

    def after(self, seconds: float, callback: Callable[[], None], now: float = 0.0) -> Timer:
        """Call `callback` once, `seconds` from now, which a caller who knows the time may give.

        Timers of one length are due in the order in which they were made, so each length has a queue
        and none needs sorting. Lengths are constants of their callers; there are a dozen.
        """
        timer = Timer((now or time.monotonic()) + seconds, callback)
        queue = self._timers.get(seconds)
        if queue is None:
            queue = self._timers[seconds] = deque()
        queue.append(timer)
        return timer

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._running:
            self.turn(self._timeout())

    def stop(self) -> None:
        """Let `run` return after this turn."""
        self._running = False

    def turn(self, timeout: float) -> None:
        """Wait at most `timeout` seconds (-1: for ever), then serve what is ready and due."""
        watched = self._watched
        for descriptor, _ in self._epoll.poll(0 if self._queue else timeout, EVENTS_MOST):
            entry = watched.get(descriptor)
            if entry is None:
                continue  # an earlier callback of this turn closed it
            callback, _, patient = entry
            if patient:
                self._queue[descriptor] = None
            else:
                self._call(callback)
        if self._queue:
            self._serve_patient()
        self.now = now = time.monotonic()
        for queue in list(self._timers.values()):
            while queue and (queue[0].callback is None or queue[0].when <= now):
                due = queue.popleft().callback
                if due is not None:
                    self._call(due)

    def _serve_patient(self) -> None:
        until = time.monotonic() + PATIENCE
        while self._queue:
            descriptor, _ = self._queue.popitem(last=False)
            self._call(self._watched[descriptor][0])
            if time.monotonic() >= until:
                return

    def _call(self, callback: Callable[[], None]) -> None:
        # The last fence. Nothing is known to get here, but a defect must cost one question, not all.
        try:
            callback()
        except Exception:
            self.failures += 1
            if self.failures < 100:
                log.exception("a callback failed")

    def _timeout(self) -> float:
        first = float("inf")
        for queue in self._timers.values():
            while queue and queue[0].callback is None:
                queue.popleft()
            if queue:
                first = min(first, queue[0].when)
        return -1 if first == float("inf") else max(first - time.monotonic(), 0.0)

    def close(self) -> None:
        self._epoll.close()
