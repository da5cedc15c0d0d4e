"""What is kept of a test that failed."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.utils import PcapNgReader, rdpcap

from tests.e2e.testing.runs import Runs


def test_captures_and_the_packet_that_fails(runs: Runs) -> None:
    text = """
        from hypothesis import HealthCheck, given, settings
        from netd.testing.strategies import packets

        @given(packet=packets(IP() / UDP(), dst="10.0.0.3"))
        @settings(max_examples=200)
        def test_drawn(packet):
            assert packet.ttl != 5

        def test_recorded(lab):
            with lab.sniff("web:eth0", "api:eth0") as cap:
                lab["web"].send(IP(dst=lab.ip("api", "front")) / UDP(dport=9))
            cap.assert_none(UDP(dport=9))

        def test_good(lab):
            with lab.sniff("web:eth0"):
                pass
        """
    kept = runs.directory / "netd-pcap"
    runs.fails(text.replace("!= 5", "> 5"))
    assert not kept.exists()
    wrote = runs.fails(text.replace("!= 5", "> 5"), "--netd-pcap=on-failure")
    assert sorted(path.name for path in kept.iterdir()) == [
        "test_it.py-test_drawn-packet.pcap",
        "test_it.py-test_recorded-1.pcapng",
    ]
    (packet,) = rdpcap(str(kept / "test_it.py-test_drawn-packet.pcap"))
    assert packet[IP].ttl == 0, "shrunk"
    with PcapNgReader(str(kept / "test_it.py-test_recorded-1.pcapng")) as reader:
        assert {each.sniffed_on for each in reader if UDP in each} == {"web:eth0", "api:eth0"}
    assert "netd capture 1" in wrote
    assert "api:eth0         in  Ether / IP / UDP" in wrote
