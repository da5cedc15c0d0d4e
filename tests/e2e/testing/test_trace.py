"""Which rule decides, asked from a test."""

from __future__ import annotations

import subprocess

from tests.e2e.host import NETD, Host, eventually
from tests.e2e.testing.runs import Runs


def test_verdicts_rules_and_routes(runs: Runs, host: Host) -> None:
    runs.passes("""
        def test_within_a_network(lab):
            trace = lab.trace(IP(dst=lab.ip("api", "front")) / TCP(dport=22, flags="S"), src="web")
            assert trace.verdict == "accept"
            assert trace.route[0] == "web:eth0"
            assert trace.route[-1] == "api:eth0"
            assert trace.chains()[0] == "bridge netd prerouting"

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


def test_a_packet_of_the_lan_is_waited_for(runs: Runs, host: Host) -> None:
    runs.passes_on_the_host("""
        import subprocess

        def calls(port):
            where = f"/dev/udp/203.0.113.2/{port}"
            return lambda: subprocess.run(["ip", "netns", "exec", "client", "bash", "-c", f"echo > {where}"])

        def test_to_a_published_port_and_to_no_port(lab):
            client = IP(src="203.0.113.10", dst="203.0.113.2")
            with lab.publish("web", "9/udp") as port:
                trace = lab.trace(client / UDP(sport=0, dport=port), src="host:eth0", send=calls(port))
            assert trace.verdict == "accept"
            assert trace.route == ["eth0", "network:front", "web:eth0"]
            assert trace.steps[-1].destination == lab.ip("web") + ":9"
            trace = lab.trace(client / UDP(sport=0, dport=port), src="host:eth0", send=calls(port))
            assert trace.route == ["eth0"], "it is not published any more"
        """)
    assert "netd_trace" not in host.sh("nft list ruleset")


def test_the_commands_trace_from_the_host_and_from_outside(host: Host) -> None:
    file = host.lab.directory / "shop.yaml"
    file.write_text("name: shop\nservices: {web: {ports: ['8080:80']}}")
    host.netd("topology", "up", file)
    ((network,),) = [[each["network"] for each in host.inspect("shop-web-1")["endpoints"]]]
    gateway = host.network(network)["subnets"][0]["gateway"]
    wrote = host.netd("topology", "trace", file, "host", "tcp", "web", "80", "--from", gateway)
    assert wrote.splitlines()[0] == "route    host -> network:default -> web:eth0"
    assert "say which of its addresses" in host.refused(
        "topology", "trace", file, "host", "tcp", "web", "80", status=2
    )
    assert "the address that the packet comes" in host.refused(
        "trace", "host:eth0", "icmp", "10.0.0.1", status=2
    )

    for command in (["topology", "trace", file], ["trace"]):
        flow = ["host:eth0", "tcp", "203.0.113.2", "8080", "--from", "203.0.113.10"]
        tracing = host.spawn(NETD, *command, *flow, stderr=subprocess.PIPE)
        assert tracing.stderr is not None
        assert tracing.stderr.readline() == (
            "waiting for tcp from 203.0.113.10 to 203.0.113.2 port 8080: let it be sent now\n"
        )
        eventually("it has come", lambda: _called(host) and tracing.poll() is not None)  # noqa: B023
        lines, _ = tracing.communicate(timeout=15)
        assert "dnat" in lines
        assert "verdict  accept" in lines
    host.netd("topology", "down", file)


def _called(host: Host) -> bool:
    host.lab.client.ask("tcp,203.0.113.2,8080", seconds=0.2)
    return True
