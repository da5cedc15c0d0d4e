"""A lab over two hosts: packets are followed through the tunnel between them."""

from __future__ import annotations

from tests.e2e.host import ROOT, Host, eventually_equal
from tests.e2e.testing.runs import Runs


def test_one_packet_is_followed_from_host_to_host(host: Host, runs: Runs) -> None:
    before = host.census()
    runs.passes_on_the_host(
        f"""
        pytestmark = pytest.mark.topology({str(ROOT / "topologies" / "overlay.yaml")!r}, reuse="module")

        @pytest.mark.parametrize("version", [4, 6])
        def test_path(lab, version):
            packet = (IP if version == 4 else IPv6)(dst=lab.ip("db", "fabric", version=version))
            with lab.sniff("web:eth0", "network:fabric", "host:eth0", "db:eth0") as cap:
                sent = lab["web"].send(packet / UDP(sport=7, dport=9) / b"from host to host")
            assert cap.path(sent) == [
                "web:eth0", "network:fabric@a", "host:eth0@a", "host:eth0@b", "network:fabric@b", "db:eth0",
            ]
            cap.assert_seen(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=4789), at="host:eth0@b")

        def test_what_stays_on_a_host_is_not_in_the_tunnel(lab):
            with lab.sniff("host:eth0", "backup:eth0") as cap:
                sent = lab["db"].send(IP(dst=lab.ip("backup")) / UDP(sport=7, dport=9) / b"from next door")
            assert cap.path(sent) == ["backup:eth0"]

        def test_questions_are_answered_and_rules_traced_on_the_senders_host(lab):
            for ref, other in (("web", "db"), ("db", "web")):
                assert lab[ref].sr1(IP(dst=lab.ip(other, "fabric")) / ICMP()) is not None
                assert lab[ref].exec("echo", ref).stdout == ref + "\\n"
                trace = lab.trace(IP(dst=lab.ip(other, "fabric")) / UDP(dport=9), src=ref)
                assert trace.verdict == "accept"
                assert trace.route[0] == ref + ":eth0"
            assert {{line.rpartition("@")[2] for line in lab.elements()}} == {{"a", "b"}}

        def test_a_link_is_cut_on_either_host(lab):
            for ref, other in (("web", "db"), ("db", "web")):
                with lab.link_down(ref, "fabric"):
                    assert lab[other].sr1(IP(dst=lab.ip(ref, "fabric")) / ICMP(), timeout=0.2) is None
                assert lab[other].sr1(IP(dst=lab.ip(ref, "fabric")) / ICMP()) is not None
        """
    )
    assert eventually_equal(before, host.census) == before
    assert not host.sh("ls /run | grep topology || true")
