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


def test_a_golden_capture(runs: Runs) -> None:
    text = """
        @pytest.mark.parametrize("port", [7])
        def test_it(lab, port):
            lab["web"].exec("ping", "-qc", "1", lab.ip("api", "front"))
            with lab.sniff("web:eth0", "api:eth0", filter="udp port 7 or udp port 8") as cap:
                lab["web"].send(IP(dst=lab.ip("api", "front")) / UDP(sport=40000, dport=port))
            cap.golden("datagram.txt")
        """
    assert "there is no" in runs.fails(text)
    runs.passes(text, "--update-golden")
    assert (runs.directory / "golden" / "datagram.txt").read_text() == (
        "web:eth0 out mac1>mac2 ip ip1>ip2 ttl=64 udp port1>7 0 bytes\n"
        "api:eth0 in mac1>mac2 ip ip1>ip2 ttl=64 udp port1>7 0 bytes\n"
    )
    runs.passes(text)
    assert "udp port1>8 0 bytes" in runs.fails(text.replace("[7]", "[8]"))


def test_one_packet_is_followed_through_address_translation(runs: Runs) -> None:
    runs.passes("""
        def test_by_a_published_port(lab):
            with lab.publish("api", "0.0.0.0::9/udp") as port, lab.sniff() as cap:
                question = IP(dst="203.0.113.2", id=77) / UDP(sport=7, dport=port) / b"through"
                lab["web"].send(question)
            assert cap.path(question) == ["web:eth0", "api:eth0"]
            cap.assert_seen(question, at="api:eth0", changed={"dst": lab.ip("api", "front"), "dport": 9})
            cap.assert_none(question, at="api:eth0")
        """)


def test_nobody_speaks_for_another(runs: Runs) -> None:
    """What tests/e2e/test_spoofing.py does with many frames, as a user of the plugin would say it."""
    runs.passes("""
        @pytest.mark.parametrize("forged", ["src", "mac", "arp"])
        def test_forged_frames_end_at_the_port(lab, forged):
            frame = Ether(src=lab.mac("web"), dst=lab.mac("api", "front"))
            packet = IP(src=lab.ip("web"), dst=lab.ip("api", "front")) / UDP(dport=9) / forged.encode()
            match forged:
                case "src":
                    packet.src = lab.gateway("front")
                case "mac":
                    frame.src = "02:00:00:00:00:99"
                case "arp":
                    frame.dst = "ff:ff:ff:ff:ff:ff"
                    packet = ARP(op=2, hwsrc=lab.mac("web"), psrc=lab.gateway("front"))
            with lab.sniff("web:eth0", "api:eth0", "network:front") as cap:
                lab["web"].send(frame / packet)
            cap.assert_seen(frame / packet, at="web:eth0")
            cap.assert_none(frame / packet, at="api:eth0")
            cap.assert_none(frame / packet, at="network:front")

        def test_an_honest_one_does_not(lab):
            frame = Ether(dst=lab.mac("api", "front")) / IP(dst=lab.ip("api", "front")) / UDP(dport=9)
            with lab.sniff("api:eth0") as cap:
                lab["web"].send(frame)
            cap.assert_seen(frame, at="api:eth0", count=1)
        """)
