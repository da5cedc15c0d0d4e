"""What the server counts. Plain integers that only grow, read out as a whole over the control socket."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.3, 1.0, 2.0)
"""Upper bounds, in seconds, of the upstream latency histogram."""


class Counters:
    """`answers` by response code; `dropped` by reason; `upstream` by server.

    `ready` questions were served by a finished answer; they are part of `udp` and of `answers`. A row
    of `upstream` is: answers, failures, then answers by latency: up to the first of `BUCKETS`, from there
    to the second, and so on, and above the last.
    """

    def __init__(self) -> None:
        self.udp = 0
        self.tcp = 0
        self.ready = 0
        self.answers: dict[int, int] = {}
        self.dropped: dict[str, int] = {}
        self.forwarded = 0
        self.coalesced = 0
        self.cache_hits = 0
        self.cache_stale = 0
        self.cache_misses = 0
        self.upstream: dict[str, list[int]] = {}

    def values(self) -> dict[str, Any]:
        """All of them, by name."""
        return dict(vars(self))

    def answered(self, rcode: int) -> None:
        self.answers[rcode] = self.answers.get(rcode, 0) + 1

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def upstream_answer(self, server: str, seconds: float) -> None:
        row = self.upstream.get(server) or self._row(server)
        row[0] += 1
        row[2 + bisect_left(BUCKETS, seconds)] += 1

    def upstream_failure(self, server: str) -> None:
        (self.upstream.get(server) or self._row(server))[1] += 1

    def _row(self, server: str) -> list[int]:
        return self.upstream.setdefault(server, [0] * (2 + len(BUCKETS) + 1))
