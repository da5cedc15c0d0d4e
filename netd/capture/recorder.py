"""Several points recorded at once, from the moment of construction until they are drained.

Draining is what makes "nothing was seen" a statement. Packets that were sent before it begins may
still lie in a queue of some processor, on their way from one end of a veth pair to the other. So marker
frames are sent at every point from every processor in turn, several times over: each queues up behind
what was sent there before. When all markers have come back, whatever was under way has passed. There is
no waiting for a time that is hoped to be long enough.
"""

from __future__ import annotations

import os
import secrets
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from netd.capture.points import Point
from netd.capture.ring import BLOCKS, ETH_P_MARKER, Frame, Ring
from netd.errors import Unavailable

HOPS = 4
"""Rounds of markers: as many queues in a row a packet can stand in and still be waited for. Two
containers of one host are at most two apart, with a router between them four."""

MARKED_WITHIN = 10.0
"""Seconds in which all markers must be back."""

AGAIN = 0.5
"""Seconds after which new ones are sent: a full ring loses markers, too."""

Sink = Callable[[Frame], None]


class Recorder:
    """Hands every frame of every point to `sink`, on a thread of its own."""

    def __init__(
        self, points: Iterable[Point], sink: Sink, filter: str = "", *, blocks: int = BLOCKS
    ) -> None:
        """`blocks` of 256 kB are what each point can hold unread."""
        self._sink = sink
        self._mark = secrets.token_bytes(16)
        self._wake = threading.Condition()
        self._awaited: dict[Ring, set[bytes]] = {}
        self._trouble: BaseException | None = None
        self._number = 0
        self._last = False
        self._stopped, self._stop = os.pipe()
        self.rings: list[Ring] = []
        waiting = list(points)
        try:
            while waiting:
                self.rings.append(Ring(waiting[0], filter, blocks))
                waiting.pop(0)
        except BaseException:
            for point in waiting:
                point.close()
            self._release()
            raise
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as ready:
                ready.register(self._stopped, selectors.EVENT_READ, None)
                for ring in self.rings:
                    ready.register(ring, selectors.EVENT_READ, ring)
                while not self._last:
                    for key, _ in ready.select():
                        if key.data is None:
                            self._last = True
                    for ring in self.rings:
                        self._take(ring)
        except BaseException as error:
            with self._wake:
                self._trouble = error
                self._wake.notify_all()

    def _take(self, ring: Ring) -> None:
        for frame, kind in ring.read():
            if kind == ETH_P_MARKER:
                if frame.data[14:30] == self._mark and frame.outgoing:
                    with self._wake:
                        self._awaited.get(ring, set()).discard(frame.data[30:34])
            else:
                self._sink(frame)
        with self._wake:
            self._wake.notify_all()

    def drain(self) -> None:
        """Return when all that was sent before has been seen. Raises `Unavailable` if markers get lost."""
        deadline = time.monotonic() + MARKED_WITHIN
        for ring in self.rings:
            if not ring.point.speaker:
                ring.deafen()
                ring.count()
        while time.monotonic() < deadline:
            self._mark_all()
            with self._wake:
                self._wake.wait_for(lambda: self._trouble or not self._late(), AGAIN)
                if self._trouble:
                    raise self._trouble
                if not self._late():
                    return
        late = ", ".join(self._late())
        raise Unavailable(f"the capture cannot be drained: markers do not come back at {late}")

    def _mark_all(self) -> None:
        """Forget the markers that were sent before, and send new ones."""
        processors = os.sched_getaffinity(0)
        with self._wake:
            self._awaited = {ring: set() for ring in self.rings if ring.point.speaker}
        try:
            for processor in [*sorted(processors)] * HOPS:
                os.sched_setaffinity(0, {processor})  # of this thread alone
                self._number += 1
                for ring in self._awaited:
                    self._send(ring, self._number.to_bytes(4, "big"))
        finally:
            os.sched_setaffinity(0, processors)

    def _late(self) -> list[str]:
        """The points where something that was heard has not been taken yet."""
        return [ring.point.name for ring in self.rings if self._awaited.get(ring) or ring.taken < ring.heard]

    def _send(self, ring: Ring, number: bytes) -> None:
        with self._wake:
            self._awaited[ring].add(number)
        try:
            ring.mark(self._mark + number)
        except OSError:  # the interface is down or gone, and nothing more will pass there
            with self._wake:
                self._awaited[ring].discard(number)

    def drops(self) -> dict[str, int]:
        """Frames that were lost for want of space, by point, where any were."""
        for ring in self.rings:
            ring.count()
        return {ring.point.name: ring.dropped for ring in self.rings if ring.dropped}

    def counts(self) -> dict[str, int]:
        """Frames that were recorded so far, by point."""
        return {ring.point.name: ring.seen for ring in self.rings}

    def close(self) -> dict[str, int]:
        """Stop listening, whether drained or not, and answer what was lost; see `drops`."""
        os.write(self._stop, b".")
        self._thread.join()
        lost = self.drops()
        self._release()
        return lost

    def _release(self) -> None:
        if self.rings:
            # Closing waits for RCU inside the kernel, which several can do together.
            with ThreadPoolExecutor(len(self.rings)) as pool:
                list(pool.map(Ring.close, self.rings))
        os.close(self._stop)
        os.close(self._stopped)
