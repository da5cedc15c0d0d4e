"""What the server counts. Plain integers that only grow, read out as a whole over the control socket."""

from __future__ import annotations

from dataclasses import dataclass, field

BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.3, 1.0, 2.0)
"""Upper bounds, in seconds, of the upstream latency histogram."""


@dataclass(slots=True)
class Counters:
    """`answers` by response code; `dropped` by reason; `upstream` by server.

    A row of `upstream` is: answers, failures, then answers within each of `BUCKETS`.
    """

    udp: int = 0
    tcp: int = 0
    ready: int = 0
    """Questions that a finished answer served; they are part of `udp` and of `answers`."""
    answers: dict[int, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    forwarded: int = 0
    coalesced: int = 0
    cache_hits: int = 0
    cache_stale: int = 0
    cache_misses: int = 0
    upstream: dict[str, list[int]] = field(default_factory=dict)

    def answered(self, rcode: int) -> None:
        self.answers[rcode] = self.answers.get(rcode, 0) + 1

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def upstream_answer(self, server: str, seconds: float) -> None:
        row = self.upstream.setdefault(server, [0, 0, *([0] * len(BUCKETS))])
        row[0] += 1
        for place, bound in enumerate(BUCKETS, start=2):
            if seconds <= bound:
                row[place] += 1

    def upstream_failure(self, server: str) -> None:
        self.upstream.setdefault(server, [0, 0, *([0] * len(BUCKETS))])[1] += 1
