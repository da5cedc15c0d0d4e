"""Which rule decides, asked from a test."""

from __future__ import annotations

from tests.e2e.host import Host
from tests.e2e.testing.runs import Runs


def test_verdicts_rules_and_routes(runs: Runs, host: Host) -> None:
    runs.passes("""
        def test_within_a_network(lab):
            trace = lab.trace(IP(dst=lab.ip("api", "front")) / TCP(dport=22, flags="S"), src="web")
            assert trace.verdict == "accept"
            assert trace.route[0] == "web:eth0"
            assert trace.route[-1] == "api:eth0"
            assert "bridge netd guard4" in trace.chains()

        def test_an_internal_network_is_closed(lab):
            for packet in (IP(dst=lab.ip("db")) / TCP(dport=22, flags="S"), IP(dst=lab.ip("db")) / ICMP()):
                trace = lab.trace(packet, src="web")
                assert (trace.verdict, trace.chain) == ("drop", "to_container"), str(trace)
                assert trace.rule == "oifname @internal drop"
                assert trace.route == ["web:eth0", "network:front", "network:back"]

        def test_a_forged_source_gets_no_further_than_the_port(lab):
            trace = lab.trace(IP(src=lab.ip("api", "front"), dst=lab.ip("db")) / UDP(dport=9), src="web")
            assert (trace.verdict, trace.chain, trace.route) == ("drop", "guard4", ["web:eth0"])

        def test_translation_shows(lab):
            with lab.publish("api", "0.0.0.0::80/tcp") as port:
                trace = lab.trace(IP(dst=lab.gateway("front")) / TCP(dport=port, flags="S"), src="web")
            assert trace.verdict == "accept"
            assert "dnat" in str(trace)
            assert f"{lab.ip('api', 'front')}:80" in {step.destination for step in trace.steps}

        def test_ipv6_and_the_host(lab):
            there = lab.ip("web", version=6)
            trace = lab.trace(IPv6(src=lab.gateway("front", version=6), dst=there) / UDP(dport=9), src="host")
            assert trace.route == ["host", "network:front", "web:eth0"]
            assert trace.steps[0].destination == f"[{there}]:9"
        """)
    assert "netd_trace" not in host.sh("nft list ruleset")
