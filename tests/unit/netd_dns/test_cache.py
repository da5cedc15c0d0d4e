"""The cache of upstream answers, with a clock made of numbers."""

from __future__ import annotations

from netd_dns.cache import NEGATIVE_MOST, STALE_MOST, Cache
from netd_dns.wire import Reply


def reply(ttl: int, *, negative: bool = False, size: int = 100) -> Reply:
    return Reply(bytes(size), 0, False, negative, ttl, ())


def test_kept_as_long_as_it_says_then_stale_then_gone() -> None:
    cache = Cache()
    cache.put(("a",), reply(10), 100.0)
    entry = cache.get(("a",), 109.9)
    assert entry is not None
    assert entry.until == 110.0
    assert cache.get(("a",), 110.0 + STALE_MOST - 0.1) is not None
    assert cache.get(("a",), 110.0 + STALE_MOST) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_a_no_is_kept_30_s_at_most() -> None:
    cache = Cache()
    cache.put(("a",), reply(3600, negative=True), 0.0)
    entry = cache.get(("a",), 1.0)
    assert entry is not None
    assert entry.until == NEGATIVE_MOST == 30


def test_what_must_not_be_kept() -> None:
    cache = Cache()
    cache.put(("zero",), reply(0), 0.0)
    cache.put(("huge",), reply(10, size=20_000), 0.0)
    assert len(cache) == 0


def test_bounded_in_bytes_and_the_least_used_goes_first() -> None:
    cache = Cache(most=10 * 700)
    for number in range(10):
        cache.put((number,), reply(100), 0.0)
    assert cache.get((0,), 1.0) is not None  # used, so it stays
    for number in range(10, 15):
        cache.put((number,), reply(100), 0.0)
    assert cache.bytes <= 7000
    assert [n for n in range(15) if cache.get((n,), 1.0)] == [0, *range(6, 15)]
    cache.put((14,), reply(100, size=200), 1.0)
    assert cache.bytes <= 7000
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)
