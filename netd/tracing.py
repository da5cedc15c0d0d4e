"""Follows one packet through the host: sends it, listens to nftables, and says what was decided where.

The packet really travels, from the container's own stack or the host's, since nothing else passes the same
rules in the same order as the packets that it stands for. One that comes in from elsewhere cannot be sent
from here, so it is waited for.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from netd import names
from netd.engine import Engine
from netd.errors import Invalid, KernelError, Unavailable
from netd.kernel.ports import Flow, Kernel, PacketKind, TraceStep
from netd.packets import Packets

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
LIMIT = 65535
"""Bytes of a packet."""


ARRIVAL = 20.0
"""Seconds in which a packet that somebody else sends must come in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What became of a packet. `verdict` is empty where it met no rule of the host."""

    verdict: str
    decision: TraceStep | None
    route: tuple[str, ...]
    steps: tuple[TraceStep, ...]


def flow_of(packet: bytes) -> Flow:
    """The flow that a packet belongs to. Raises `Invalid` for what does not begin with an IP header."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and 20 <= len(packet) <= LIMIT:
        proto, source, destination = packet[9], packet[12:16], packet[16:20]
        upper = packet[(packet[0] & 15) * 4 :]
    elif version == 6 and 40 <= len(packet) <= LIMIT:
        proto, source, destination = packet[6], packet[8:24], packet[24:40]
        upper = packet[40:]
    else:
        raise Invalid("a packet to trace must begin with a whole IPv4 or IPv6 header")
    ports = (0, 0)
    if proto in (TCP, UDP):
        if len(upper) < 4:
            raise Invalid("a TCP or UDP packet to trace must have its ports")
        ports = struct.unpack_from("!HH", upper)
    return Flow(
        source=ip_address(source),
        destination=ip_address(destination),
        proto=proto,
        source_port=ports[0],
        destination_port=ports[1],
    )


def judged(steps: Sequence[TraceStep]) -> tuple[str, TraceStep | None]:
    """The verdict of the host, and the step that it comes from: the first drop, else the last acceptance."""
    for step in steps:
        if step.verdict == "drop":
            return "drop", step
    accepting = [step for step in steps if step.verdict == "accept"]
    ruled = [step for step in accepting if step.kind == "rule"]
    decisive = ruled or accepting
    return ("accept" if steps else ""), decisive[-1] if decisive else None


class Tracer:
    """Carries out the API's Trace call."""

    def __init__(self, kernel: Kernel, engine: Engine, packets: Packets) -> None:
        self._kernel = kernel
        self._engine = engine
        self._packets = packets

    async def trace(self, source: str, packet: bytes) -> Traced:
        """Send `packet` from `source` and tell what the host did to it.

        From "host:eth0" nothing is sent: it is the first packet of the same flow that comes in there, for
        which a source port of 0 stands for any. Raises `Invalid` or `NotFound` for either, `KernelError` for
        what cannot be sent, `Unavailable` for what does not come.
        """
        flow = flow_of(packet)
        owner, _, ifname = source.partition(":")
        steps = (
            await self._awaited(flow, ifname)
            if owner == "host" and ifname
            else await self._sent(flow, source, packet)
        )
        verdict, decision = judged(steps)
        return Traced(
            verdict=verdict,
            decision=decision,
            route=tuple(self._route(source, steps, verdict)),
            steps=tuple(steps),
        )

    async def _awaited(self, flow: Flow, ifname: str) -> list[TraceStep]:
        async def wait() -> None:
            """Somebody else sends."""

        steps = await self._kernel.trace(flow, wait, ARRIVAL)
        first = next((step.packet for step in steps if step.iif == ifname), None)
        if first is None:
            raise Unavailable(
                f"no packet from {flow.source} to {flow.destination} came in at {ifname} within {ARRIVAL:g} s"
            )
        return [self._named(step) for step in steps if step.packet == first]

    async def _sent(self, flow: Flow, source: str, packet: bytes) -> list[TraceStep]:
        kind = PacketKind.IPV4 if flow.source.version == 4 else PacketKind.IPV6
        ((_, netns, _),) = self._packets.points(source, kind)
        with await self._kernel.packet_socket(netns, kind) as mouth:

            async def send() -> None:
                try:
                    mouth.sendto(packet, (str(flow.destination), 0))
                except OSError as error:
                    raise KernelError(
                        error.errno or 0, f"send from {source} to {flow.destination}"
                    ) from error

            return [self._named(step) for step in await self._kernel.trace(flow, send)]

    def _named(self, step: TraceStep) -> TraceStep:
        """The step with interfaces called as netd calls them."""
        known = self._interfaces()
        return replace(step, iif=known.get(step.iif, step.iif), oif=known.get(step.oif, step.oif))

    def _interfaces(self) -> dict[str, str]:
        view = self._engine.view
        known = {
            names.bridge_name(network): f"network:{network.name}"
            for network in view.networks.values()
            if network.bridged
        }
        for endpoint in view.endpoints.values():
            owner = view.sandboxes[endpoint.sandbox].name
            known[names.host_ifname(endpoint)] = f"{owner}:{endpoint.ifname}"
        return known

    def _route(self, source: str, steps: Sequence[TraceStep], verdict: str) -> list[str]:
        """The interfaces in their order, and where it ended, if in a container of netd's."""
        route = [source] if source == "host" else []
        for step in steps:
            for name in (step.iif, step.oif):
                if name and name not in route:
                    route.append(name)
        if verdict == "accept" and steps:
            end = self._holder(_address(steps[-1].destination))
            if end and end not in route:
                route.append(end)
        return route

    def _holder(self, address: str) -> str:
        view = self._engine.view
        for endpoint in view.endpoints.values():
            if any(str(each.ip) == address for each in endpoint.addresses):
                return f"{view.sandboxes[endpoint.sandbox].name}:{endpoint.ifname}"
        return ""


def _address(end: str) -> str:
    """ "10.89.0.2:80", "[fd00::2]:80" or either without a port, without it."""
    if end.startswith("["):
        return end[1:].partition("]")[0]
    return end.partition(":")[0] if end.count(":") == 1 else end
