"""What a person reads: one line for a frame, and a packet's way through the rules of the host."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv6Address
from typing import Protocol

from netd.capture.ring import Frame

PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
FLAGS = "FSRPAUEC"


def line(frame: Frame) -> str:
    """ "12:30:01.123456 web:eth0 > 10.89.0.2:40000 10.89.0.3:80 tcp S 60 bytes"; > is out, < is in."""
    seconds, nanoseconds = divmod(frame.time, 1_000_000_000)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    way = ">" if frame.outgoing else "<"
    length = frame.length or len(frame.data)
    return f"{clock}.{nanoseconds // 1000:06} {frame.point} {way} {_what(frame.data)} {length} bytes"


class Step(Protocol):
    """A step of a trace, as the API tells of it."""

    packet: str
    family: str
    table: str
    chain: str
    kind: str
    verdict: str
    rule: str
    iif: str
    oif: str
    source: str
    destination: str


def trace_lines(steps: Sequence[Step], verdict: str, route: Sequence[str]) -> list[str]:
    """Where a packet went, each rule that matched it beneath its chain, and the verdict."""
    found = [f"route    {' -> '.join(route) or 'nowhere'}"]
    before: tuple[str, ...] = ()
    for step in steps:
        where = (step.packet, step.family, step.table, step.chain)
        if where != before:
            ends = f"{step.source} > {step.destination}"
            found.append(
                f"{step.family} {step.table} {step.chain}: {ends} ({step.iif or '-'} -> {step.oif or '-'})"
            )
            before = where
        found.append(f"    {step.rule or f'{step.kind} {step.verdict}'}")
    found.append(f"verdict  {verdict or 'none: it met no rule of the host'}")
    return found


def _what(data: bytes) -> str:
    kind, payload = int.from_bytes(data[12:14], "big"), data[14:]
    try:
        if kind == 0x8100:
            tag = int.from_bytes(payload[:2], "big") & 0xFFF
            return f"vlan {tag} {_what(data[:12] + payload[2:])}"
        match kind:
            case 0x0800:
                header = (payload[0] & 15) * 4
                ends = [socket.inet_ntoa(payload[at : at + 4]) for at in (12, 16)]
                fragment = int.from_bytes(payload[6:8], "big") & 0x1FFF
                return _transport(payload[9], ends, b"" if fragment else payload[header:])
            case 0x86DD:
                ends = [str(IPv6Address(payload[at : at + 16])) for at in (8, 24)]
                return _transport(payload[6], ends, payload[40:])
            case 0x0806:
                asked = socket.inet_ntoa(payload[24:28])
                if payload[7] == 1:
                    return f"arp who has {asked}? tell {socket.inet_ntoa(payload[14:18])}"
                return f"arp {socket.inet_ntoa(payload[14:18])} is at {payload[8:14].hex(':')}"
    except (IndexError, ValueError, OSError, struct.error):
        return "cut off"
    return f"{data[6:12].hex(':')} {data[:6].hex(':')} ethertype {kind:#06x}"


def _transport(number: int, ends: list[str], data: bytes) -> str:
    name = PROTOCOLS.get(number, f"protocol {number}")
    if number in (6, 17, 132) and len(data) >= 4:
        ends = [
            f"[{end}]:{port}" if ":" in end else f"{end}:{port}"
            for end, port in zip(ends, struct.unpack("!HH", data[:4]), strict=True)
        ]
    if number == 6 and len(data) > 13:
        name += " " + "".join(flag for bit, flag in enumerate(FLAGS) if data[13] >> bit & 1)
    if number in (1, 58) and len(data) >= 2:
        name += f" type {data[0]} code {data[1]}"
    return f"{ends[0]} {ends[1]} {name}"
