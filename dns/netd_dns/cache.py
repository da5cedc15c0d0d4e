"""What upstream servers said, for as long as they said (RFC 2308 for "no", RFC 8767 for stale).

Bounded in bytes, because that is what a flood of made-up names would take; the least recently used
goes first. A "no" is kept 30 seconds at most, since a person who has just made a name waits for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from netd_dns.wire import Reply

BYTES_MOST = 8 * 1024 * 1024
ENTRY_MOST = 16 * 1024
"""Longer answers are not kept."""
TTL_MOST = 3600
NEGATIVE_MOST = 30
STALE_MOST = 60
"""Seconds after its end during which an answer may stand in for a server that is away."""
_OVERHEAD = 600
"""What an entry costs beside its bytes: objects, the key, its place in the table."""

Key = tuple[object, ...]


class Entry(NamedTuple):
    """An answer, when it came, and until when it is fresh."""

    reply: Reply
    stored: float
    until: float


class Cache:
    """Answers by key. Times are seconds of a monotonic clock, given by the caller."""

    def __init__(self, most: int = BYTES_MOST) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._most = most
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Entry | None:
        """An answer that is fresh, or at least not too stale; the caller compares `until` with `now`."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.until + STALE_MOST:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: Key, reply: Reply, now: float) -> None:
        ttl = min(reply.ttl, NEGATIVE_MOST if reply.negative else TTL_MOST)
        if ttl <= 0 or len(reply.data) > ENTRY_MOST:
            return
        entries = self._entries
        if key in entries:
            self._remove(key)
        entries[key] = Entry(reply, now, now + ttl)
        self.bytes += len(reply.data) + _OVERHEAD
        while self.bytes > self._most:
            _, oldest = entries.popitem(last=False)
            self.bytes -= len(oldest.reply.data) + _OVERHEAD

    def clear(self) -> None:
        self._entries.clear()
        self.bytes = 0

    def _remove(self, key: Key) -> None:
        self.bytes -= len(self._entries.pop(key).reply.data) + _OVERHEAD
