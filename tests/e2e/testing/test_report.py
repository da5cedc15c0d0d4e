"""What is kept of a test that failed."""

from __future__ import annotations

import re
from pathlib import Path

from scapy.layers.inet import IP, UDP
from scapy.utils import PcapNgReader, rdpcap

from tests.e2e.testing.runs import Runs


def seen_at(path: Path, port: int) -> set[str]:
    """Where the datagrams to a port were seen."""
    with PcapNgReader(str(path)) as reader:
        return {str(each.sniffed_on) for each in reader if UDP in each and each[UDP].dport == port}


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
            lab.trace(IP(dst=lab.ip("db")) / UDP(sport=7, dport=7), src="web")
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
        "test_it.py-test_recorded.pcapng",
    ]
    (packet,) = rdpcap(str(kept / "test_it.py-test_drawn-packet.pcap"))
    assert packet[IP].ttl == 0, "shrunk"
    assert seen_at(kept / "test_it.py-test_recorded-1.pcapng", 9) == {"web:eth0", "api:eth0"}
    everywhere = kept / "test_it.py-test_recorded.pcapng"
    assert seen_at(everywhere, 9) == {"web:eth0", "network:front", "api:eth0"}
    assert seen_at(everywhere, 7) == {"web:eth0", "network:front"}, "the trace's own, without a sniff"

    _, *parts = re.split(r"^-+ netd ([a-z0-9 ]+) -+\n", wrote, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    _, way = re.split(r"(?=  \+0\.000 ms +web:eth0 +out \S+ \S+:9 udp)", sections["hops"])
    assert re.findall(r" ms +(\S+)", way)[:3] == ["web:eth0", "network:front", "api:eth0"]
    assert "oifname @internal drop" in sections["trace 1"]
    assert re.search(r"bridge netd bind4 \{ \S+ \. \S+ \. [0-9.]+ \}  # web:eth0", sections["elements"])
    assert re.search(r"inet netd internal \{ \S+ \}  # network:back", sections["elements"])
