"""What nftables decided about one packet: its own trace events, read from netlink.

A rule that sets `meta nftrace` makes the kernel tell of every rule that matches the packet from there
on (net/netfilter/nf_tables_trace.c). That rule is in tables made for one trace, never in netd's constant
rule set, and matches one flow only. The tables have the flag `owner` (Linux 5.12): they belong to the
netlink socket of the libnftables context that made them, so the kernel removes them with it, also when
the daemon is killed.

The flag on the packet is cleared wherever it leaves a namespace (skb_scrub_packet), so what is told is
what this host decided, on the bridge and in its own stack.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from netd.errors import KernelError, Unavailable
from netd.kernel import fastnl
from netd.kernel.libnft import Context, errno_of, one_line
from netd.kernel.ports import Flow, TraceStep

GROUP = 9  # NFNLGRP_NFTRACE, linux/netfilter/nfnetlink.h
NFT_MSG_TRACE = 0x0A11  # NFNL_SUBSYS_NFTABLES << 8 | 17
NETLINK_ADD_MEMBERSHIP = 1
BUFFER = 4 << 20
SO_RCVBUFFORCE = 33

FIRST = 0.5
"""Seconds until a packet reaches the first rule at the latest."""

QUIET = 0.1
"""Seconds of silence after which a packet has arrived, or waits for somebody who does not answer."""

LONGEST = 1.0
"""Seconds after the first event when no more are listened to: others may go on sending in the same flow."""

# enum nft_trace_attributes and nft_trace_types, linux/netfilter/nf_tables.h
TABLE, CHAIN, HANDLE, TYPE, VERDICT, ID = 1, 2, 3, 4, 5, 6
NETWORK_HEADER, TRANSPORT_HEADER, IIF, OIF, POLICY = 8, 9, 10, 12, 16
VERDICT_CODE, VERDICT_CHAIN = 1, 2
KINDS = {1: "policy", 2: "return", 3: "rule"}
VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", 4: "repeat"}
VERDICTS |= {-1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}


@dataclass(slots=True)
class _Headers:
    """What was told of a packet when it was first met in a chain; later events leave it out."""

    source: str = ""
    destination: str = ""
    iif: int = 0
    oif: int = 0


def table_name(id: str) -> str:
    """The tables of one trace."""
    return f"netd_trace_{id}"


def tables(id: str, flow: Flow) -> str:
    """The commands that make the tables of one trace; what removes them is the end of the context."""
    condition = match(flow)
    name = table_name(id)
    text = []
    for family, hooks in (("bridge", {"prerouting": -400}), ("inet", {"prerouting": -400, "output": -400})):
        text.append(f"add table {family} {name} {{ flags owner; }}")
        for hook, priority in hooks.items():
            hooked = f"type filter hook {hook} priority {priority};"
            text.append(f"add chain {family} {name} {hook} {{ {hooked} }}")
            text.append(f"add rule {family} {name} {hook} {condition} meta nftrace set 1")
    return "\n".join(text)


def match(flow: Flow) -> str:
    """The condition for exactly the packets of a flow."""
    family = "ip" if flow.source.version == 4 else "ip6"
    words = [f"{family} saddr {flow.source} {family} daddr {flow.destination} meta l4proto {flow.proto:d}"]
    if flow.source_port:
        words.append(f"th sport {flow.source_port:d}")
    if flow.destination_port:
        words.append(f"th dport {flow.destination_port:d}")
    return " ".join(words)


def decode(body: bytes, names: Mapping[int, str], known: dict[tuple[int, str], _Headers]) -> TraceStep:
    """One event, without the rule's text. `known` are headers told earlier, by packet and table family."""
    family = FAMILIES.get(body[0], str(body[0]))
    found = dict(fastnl.attributes(body, 4))
    id = int.from_bytes(found.get(ID, b""), "big")
    headers = known.setdefault((id, family), _Headers())
    if (ends := _addresses(found.get(NETWORK_HEADER, b""))) is not None:
        headers.source, headers.destination = _ported(ends, found.get(TRANSPORT_HEADER, b""))
    headers.iif = int.from_bytes(found[IIF], "big") if IIF in found else headers.iif
    headers.oif = int.from_bytes(found[OIF], "big") if OIF in found else headers.oif
    verdict, chain = "", ""
    if VERDICT in found:
        inside = dict(fastnl.attributes(found[VERDICT]))
        code = int.from_bytes(inside.get(VERDICT_CODE, b""), "big", signed=True)
        verdict = VERDICTS.get(code, str(code))
        chain = _text(inside.get(VERDICT_CHAIN, b""))
    elif POLICY in found:
        verdict = VERDICTS.get(int.from_bytes(found[POLICY], "big"), "")
    return TraceStep(
        packet=f"{id:08x}",
        family=family,
        table=_text(found.get(TABLE, b"")),
        chain=_text(found.get(CHAIN, b"")),
        kind=KINDS.get(int.from_bytes(found.get(TYPE, b""), "big"), ""),
        handle=int.from_bytes(found.get(HANDLE, b""), "big"),
        verdict=f"{verdict} {chain}".strip(),
        iif=_name(headers.iif, names),
        oif=_name(headers.oif, names),
        source=headers.source,
        destination=headers.destination,
    )


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _name(index: int, names: Mapping[int, str]) -> str:
    return names.get(index, str(index)) if index else ""


def _addresses(header: bytes) -> tuple[str, str, int] | None:
    """Source, destination and transport protocol."""
    if len(header) >= 20 and header[0] >> 4 == 4:
        return str(ip_address(header[12:16])), str(ip_address(header[16:20])), header[9]
    if len(header) >= 40 and header[0] >> 4 == 6:
        return str(ip_address(header[8:24])), str(ip_address(header[24:40])), header[6]
    return None


def _ported(ends: tuple[str, str, int], transport: bytes) -> tuple[str, str]:
    source, destination, proto = ends
    if proto not in (6, 17) or len(transport) < 4:
        return source, destination
    sport, dport = struct.unpack_from("!HH", transport)
    return _joined(source, sport), _joined(destination, dport)


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


_RULE = re.compile(r"^\s*(.*?) # handle (\d+)$", re.MULTILINE)


async def trace(
    flow: Flow, send: Callable[[], Awaitable[None]], within: float | None = None
) -> list[TraceStep]:
    """See `Kernel.trace`. It is over when nothing has been told for `QUIET` seconds, or after `LONGEST`."""
    running = Trace(secrets.token_hex(3))
    try:
        await running.begin(flow)
        await send()
        steps: list[TraceStep] = []
        patience, until = within or FIRST, math.inf
        while patience > 0 and await running.readable(patience):
            steps += running.told()
            if steps:
                now = time.monotonic()
                until = min(until, now + LONGEST)
                patience = min(QUIET, until - now)
        return await running.explained(steps)
    finally:
        await running.end()


class Trace:
    """One trace: from `begin` to `end`, packets of the flow are told of."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._context = Context(f"trace-{id}"[:15])
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 12
        )
        self._known: dict[tuple[int, str], _Headers] = {}
        self._texts: dict[tuple[str, str], dict[int, str]] = {}

    async def readable(self, seconds: float) -> bool:
        """Whether something is told within so many seconds."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._socket, told.set)
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._socket)
        return True

    async def begin(self, flow: Flow) -> None:
        """Listen, then make the tables. Raises `KernelError`."""
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        self._socket.bind((0, 0))
        self._socket.setsockopt(fastnl.SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, GROUP)
        code, _, problem = await self._context.run(self._context.text, tables(self._id, flow))
        if code:
            raise KernelError(errno_of(problem), "make the tables of a trace", one_line(problem))

    async def end(self) -> None:
        """The tables go with the context."""
        self._socket.close()
        await self._context.close()

    def told(self) -> Iterator[TraceStep]:
        """Everything that was told and not read yet, but what the trace's own tables did."""
        names = dict(socket.if_nameindex())
        while True:
            try:
                data = self._socket.recv(1 << 17)
            except BlockingIOError:
                return
            except OSError as error:
                raise Unavailable(f"events of the trace were lost ({error.strerror}); trace again") from error
            for kind, body in _messages(data):
                if kind == NFT_MSG_TRACE:
                    step = decode(body, names, self._known)
                    # Nor does the mere end of a chain decide anything.
                    ended = not step.handle and step.verdict == "continue"
                    if not ended and not step.table.startswith("netd_trace_"):
                        yield step

    async def explained(self, steps: Iterable[TraceStep]) -> list[TraceStep]:
        """The steps with the text of their rules, as the kernel lists them."""
        found = []
        for step in steps:
            if step.handle:
                texts = await self._context.run(self._rules, step.family, step.table)
                step = replace(step, rule=texts.get(step.handle, f"handle {step.handle}"))
            found.append(step)
        return found

    def _rules(self, family: str, table: str) -> Mapping[int, str]:
        if (family, table) not in self._texts:
            listed = self._context.listing(family, table)
            self._texts[family, table] = {int(handle): rule for rule, handle in _RULE.findall(listed)}
        return self._texts[family, table]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + fastnl.HEADER.size <= len(data):
        length, kind, _, _, _ = fastnl.HEADER.unpack_from(data, offset)
        if length < fastnl.HEADER.size:
            return
        yield kind, data[offset + fastnl.HEADER.size : offset + length]
        offset += (length + 3) & ~3
