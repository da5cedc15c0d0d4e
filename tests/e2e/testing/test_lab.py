"""Commands, addresses and packets of a topology that a test brought up."""

from __future__ import annotations

from tests.e2e.testing.runs import Runs


def test_addresses(runs: Runs) -> None:
    runs.passes("""
        def test_addresses(lab):
            assert lab.ip("api", "front") != lab.ip("api", "back")
            assert ":" in lab.ip("web", version=6)
            addresses = lab["api"].exec("ip", "-o", "link").stdout
            assert lab.mac("api", "front") in addresses
            assert lab.interface("api", "back") == "eth1"
            with pytest.raises(KeyError, match="no IPv6 address in back"):
                lab.ip("db", "back", version=6)
            with pytest.raises(KeyError, match="there are: web, api, db"):
                lab["dbb"]
        """)


def test_send_sniff_and_answer(runs: Runs) -> None:
    runs.passes("""
        def test_a_packet_is_seen_where_it_passes_and_nowhere_else(lab):
            packet = IP(dst=lab.ip("api", "front")) / UDP(sport=7, dport=9) / b"marked"
            with lab.sniff("web:eth0", "api:*", "network:front", "db") as cap:
                lab["web"].send(packet)
            assert cap.points == ["web:eth0", "api:eth0", "api:eth1", "network:front", "db:eth0"]
            seen = cap.assert_seen(packet, at="api:eth0", within="1s", count=1)
            assert seen[IP].src == lab.ip("web")
            assert cap.path(packet) == ["web:eth0", "network:front", "api:eth0"]
            cap.assert_none(packet, at="db:*")
            cap.assert_none(packet, at="api:eth1")

        def test_a_question_is_answered(lab):
            answer = lab["web"].sr1(IP(dst=lab.ip("api", "front")) / ICMP(id=7, seq=3) / b"hello")
            assert (answer[ICMP].type, answer[ICMP].seq) == (0, 3)
            answer = lab["web"].sr1(IPv6(dst=lab.ip("api", "front", version=6)) / ICMPv6EchoRequest(seq=4))
            assert answer[ICMPv6EchoReply].seq == 4
            answer = lab["web"].sr1(IP(dst=lab.ip("api", "front")) / TCP(dport=81, flags="S"))
            assert "R" in answer[TCP].flags
            assert lab["web"].sr1(IP(dst=lab.ip("db")) / ICMP(), timeout=0.3) is None
            question = Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(
                psrc=lab.ip("web"), hwsrc=lab.mac("web"), pdst=lab.ip("api", "front"))
            assert lab["web"].sr1(question)[ARP].hwsrc == lab.mac("api", "front")

        def test_a_filter_keeps_the_rest_out(lab):
            with lab.sniff("api", filter="udp port 9") as cap:
                for port in (8, 9):
                    lab["web"].send(IP(dst=lab.ip("api", "front")) / UDP(dport=port))
            assert [packet[UDP].dport for packet in cap.packets("api:eth0") if UDP in packet] == [9]
            with pytest.raises(Exception, match="filter 'nonsense': .*syntax error"):
                lab.sniff("api", filter="nonsense")
        """)


def test_links_that_lose_packets(runs: Runs) -> None:
    runs.passes_on_the_host("""
        def test_cut_and_mended(lab):
            question = IP(dst=lab.ip("api", "front")) / ICMP()
            with lab.link_down("api", "front"):
                assert lab["web"].sr1(question, timeout=0.3) is None
                assert lab["db"].sr1(IP(dst=lab.ip("api", "back")) / ICMP()) is not None
            assert lab["web"].sr1(question) is not None

        def test_some_are_lost(lab):
            packet = IP(dst=lab.ip("api", "front")) / UDP(dport=9)
            with lab.netem("api", "front", loss="50%"):
                with lab.sniff("api:eth0", "web:eth0") as cap:
                    lab["web"].send(packet, count=100)
                    lab["web"].exec("ping", "-c", "30", "-i", "0.01", lab.ip("api", "front"), check=False)
            assert 0 < len(cap.matching(ICMP(type=0), "web:eth0")) < 30
            with pytest.raises(Exception, match="delay, jitter, duplicate and seed need the kernel's netem"):
                with lab.netem("api", delay="10ms"):
                    pass
        """)
