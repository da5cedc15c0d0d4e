"""Flows of packets, verdicts of steps, and names of interfaces, without a kernel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from netd import names
from netd.errors import Invalid, KernelError, Unavailable
from netd.kernel.ports import Flow, PacketKind, TraceStep
from netd.model import NetworkRequest, Owner, Sandbox, Want
from netd.packets import Packets
from netd.tracing import Traced, Tracer, flow_of, judged
from tests.unit.paper import PaperEngine
from tests.unit.test_packets import WEB, Containers


def step(verdict: str, kind: str = "rule", **fields: str) -> TraceStep:
    bare = TraceStep(packet="1", family="inet", table="netd", chain="forward", kind=kind, verdict=verdict)
    return replace(bare, **fields)  # type: ignore[arg-type]  # none of them is the number


def test_the_flow_of_a_packet() -> None:
    packet = IP(src="10.0.0.2", dst="10.0.0.3", options=[]) / TCP(sport=4, dport=80)
    wanted = Flow(
        source=ip_address("10.0.0.2"),
        destination=ip_address("10.0.0.3"),
        proto=6,
        source_port=4,
        destination_port=80,
    )
    assert flow_of(bytes(packet)) == wanted
    found = flow_of(bytes(IPv6(src="fd00::2", dst="fd00::3") / UDP(sport=5, dport=53)))
    assert (found.proto, found.source_port, found.destination_port) == (17, 5, 53)
    assert flow_of(bytes(IP(dst="10.0.0.3") / ICMP())).destination_port == 0


@pytest.mark.parametrize(
    "packet", [b"", b"\x45", bytes(40), b"\x60" + bytes(20), b"\x45" + bytes(8) + b"\x06" + bytes(12)]
)
def test_what_is_no_packet(packet: bytes) -> None:
    with pytest.raises(Invalid, match=r"packet to trace must"):
        flow_of(packet)


def test_the_first_drop_decides_else_the_last_rule_that_accepts() -> None:
    assert judged([]) == ("", None)
    drop = step("drop")
    assert judged([step("accept"), drop, step("accept")]) == ("drop", drop)
    rule = step("accept", rule="ct state established accept")
    assert judged([rule, step("accept", "policy")]) == ("accept", rule)
    assert judged([step("accept", "policy"), step("jump x")])[0] == "accept"


class Mouth:
    """A socket on which everything can be sent but a broadcast."""

    def __enter__(self) -> Mouth:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendto(self, packet: bytes, where: tuple[str, int]) -> None:
        if where[0] == "255.255.255.255":
            raise PermissionError(13, "Permission denied")


class Kernel:
    """Tells what it was told to tell, once the packet has been sent."""

    def __init__(self, steps: list[TraceStep]) -> None:
        self.steps = steps
        self.flow: Flow | None = None
        self.within: float | None = None

    async def packet_socket(self, netns: object, kind: PacketKind, ifname: str = "") -> Mouth:
        return Mouth()

    async def trace(
        self, flow: Flow, send: Callable[[], Awaitable[None]], within: float | None = None
    ) -> list[TraceStep]:
        self.flow, self.within = flow, within
        await send()
        return self.steps


def traced(
    make: Callable[[dict[str, str]], list[TraceStep]], destination: str = "127.0.0.1", source: str = "web"
) -> Traced:
    """`make` gets the interfaces of the host by the names that netd should give them."""

    async def run() -> Traced:
        engine = PaperEngine()
        network = await engine.create_network(NetworkRequest(name="front"))
        sandbox = Sandbox(id="web-id", name="web", owner=Owner.CONTAINER, netns=WEB)
        _, (endpoint,) = await engine.attach(sandbox, [Want(network="front")])
        interfaces = {
            "web:eth0": names.host_ifname(endpoint),
            "network:front": names.bridge_name(network),
            "web": str(endpoint.addresses[0].ip),
        }
        kernel = Kernel(make(interfaces))
        packets = Packets(kernel, engine, Containers())  # type: ignore[arg-type]
        tracer = Tracer(kernel, engine, packets)  # type: ignore[arg-type]
        return await tracer.trace(source, bytes(IP(src="127.0.0.1", dst=destination) / UDP(dport=9)))

    return asyncio.run(run())


def test_the_route_by_netds_names() -> None:
    found = traced(
        lambda known: [
            step("continue", iif=known["web:eth0"]),
            step("accept", iif=known["network:front"], oif="eth7", destination=f"{known['web']}:80"),
        ]
    )
    assert found.route == ("web:eth0", "network:front", "eth7")
    assert [(each.iif, each.oif) for each in found.steps] == [("web:eth0", ""), ("network:front", "eth7")]
    found = traced(lambda known: [step("accept", iif="eth7", destination=f"{known['web']}:80")])
    assert found.route == ("eth7", "web:eth0"), "it ended there"
    found = traced(lambda known: [step("drop", iif="eth7", destination=f"{known['web']}:80")])
    assert found.route == ("eth7",), "it did not"


def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(KernelError, match=r"send from web to 255\.255\.255\.255"):
        traced(lambda known: [], "255.255.255.255")


def test_a_packet_from_elsewhere_is_the_first_that_comes_in_there() -> None:
    """Nothing is sent, not even to where nothing can be."""

    def make(known: dict[str, str]) -> list[TraceStep]:
        return [
            step("drop", iif="eth1", packet="0"),
            step("continue", iif="eth0"),
            step("drop", iif="eth0", packet="2"),
            step("accept", iif="eth0", oif=known["network:front"], destination=f"{known['web']}:80"),
        ]

    found = traced(make, "255.255.255.255", "host:eth0")
    assert found.verdict == "accept"
    assert found.route == ("eth0", "network:front", "web:eth0")
    assert {each.packet for each in found.steps} == {"1"}


def test_a_packet_that_does_not_come_is_told() -> None:
    with pytest.raises(
        Unavailable, match=r"no packet from 127.0.0.1 to 10.0.0.9 came in at eth7 within 20 s"
    ):
        traced(lambda known: [step("accept", iif="eth0")], "10.0.0.9", "host:eth7")
