"""What a failing assertion says, and when it says nothing."""

from __future__ import annotations

import re

from tests.e2e.testing.runs import Runs


def test_what_a_failure_says(runs: Runs) -> None:
    wrote = runs.fails("""
        def test_it(lab):
            with lab.sniff("web:eth0", "api:eth0") as cap:
                lab["web"].send(IP(dst=lab.ip("api", "front"), ttl=9) / UDP(sport=7, dport=9))
            cap.assert_seen(IP(ttl=8) / UDP(dport=9), at="api:eth0")
        """)
    assert "not seen at api:eth0: IP(ttl=8) / UDP(dport=9)" in wrote
    assert re.search(r"nearest of \d+: .* api:eth0 +in  Ether / IP / UDP", wrote)
    assert "IP.ttl: wanted 8, saw 9" in wrote
    assert "UDP.dport: wanted" not in wrote, "what is right is not told"

    wrote = runs.fails("""
        def test_it(lab):
            packet = IP(dst=lab.ip("api", "front")) / UDP(dport=9)
            with lab.sniff("api:eth0") as cap:
                lab["web"].send(packet, count=2)
            cap.assert_none(packet)
        """)
    assert "seen 2 times at *, not never" in wrote


def test_a_lossy_capture_proves_nothing(runs: Runs) -> None:
    """More than the ring holds, while nobody may read it."""
    wrote = runs.fails("""
        import threading

        def test_it(lab):
            with lab.sniff("web:eth0") as cap:
                reading = threading.Event()
                cap._recorder._sink = lambda frame: (reading.wait(), cap._take(frame))
                lab["web"].send(IP(dst=lab.ip("api", "front")) / UDP(dport=9) / bytes(1400), count=9000)
                reading.set()
            assert cap.lost["web:eth0"] > 1000
            cap.assert_seen(UDP(dport=9))
            cap.assert_none(UDP(dport=10))
        """)
    assert re.search(r"Inconclusive: frames were lost \(\d+ at web:eth0\)", wrote)
