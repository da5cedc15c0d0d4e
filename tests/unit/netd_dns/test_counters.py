"""Counters that are shared by everything in the server."""

from __future__ import annotations

from netd_dns.counters import BUCKETS, Counters


def test_counts_by_code_reason_and_server() -> None:
    counters = Counters()
    counters.answered(0)
    counters.answered(0)
    counters.answered(3)
    counters.drop("quota")
    counters.upstream_answer("192.0.2.1", 0.003)
    counters.upstream_answer("192.0.2.1", 5.0)
    counters.upstream_failure("192.0.2.1")
    assert counters.answers == {0: 2, 3: 1}
    assert counters.dropped == {"quota": 1}
    assert counters.upstream == {"192.0.2.1": [2, 1, 0, 1, *[0] * (len(BUCKETS) - 2), 1]}
