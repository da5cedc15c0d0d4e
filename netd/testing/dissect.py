"""Frames as scapy sees them, and what a template says about them.

A template is a scapy packet of which only the fields that were set count: `IP(dst=a) / TCP(dport=80)`
means every packet to port 80 of `a`. Its layers must appear in this order; others may lie between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import NoPayload, Packet, Padding, Raw

from netd.capture.ring import Frame

Changes = Mapping[str, Any]


@lru_cache(maxsize=65536)
def dissected(frame: Frame) -> Packet:
    """The frame from Ethernet on."""
    return Ether(frame.data)


def inner(packet: Packet) -> Packet:
    """What a VXLAN packet carries, or the packet itself."""
    return packet[VXLAN].payload if VXLAN in packet else packet


def layers(packet: Packet) -> Iterator[Packet]:
    """The layers of a packet, outermost first, without padding."""
    while not isinstance(packet, NoPayload):
        if not isinstance(packet, Padding):
            yield packet
        packet = packet.payload


def given(layer: Packet) -> dict[str, Any]:
    """The fields that were set. scapy itself sets those whose default is a list (`IP.options`)."""
    return {
        name: value
        for name, value in layer.fields.items()
        if not (isinstance(value, list) and value == layer.default_fields.get(name))
    }


def described(template: Packet) -> str:
    """A template as one would write it."""
    return " / ".join(
        f"{type(layer).__name__}({', '.join(f'{name}={value!r}' for name, value in given(layer).items())})"
        for layer in layers(template)
    )


def payload(layer: Packet) -> bytes:
    """What a layer carries, without what Ethernet padded."""
    data = bytes(layer.payload)
    padding = layer.getlayer(Padding)
    return data[: len(data) - len(bytes(padding))] if padding else data


def changed(template: Packet, changes: Changes) -> Packet:
    """The template with other values: `{"ttl": -1}` one less than there, `{"IP.dst": "10.0.0.2"}`.

    Raises ValueError for a field that no layer of the template has.
    """
    wanted = template.copy()
    for key, value in changes.items():
        name, dot, field = key.rpartition(".")
        found = [
            each
            for each in layers(wanted)
            if any(known.name == field for known in each.fields_desc)
            and (not dot or name in (type(each).__name__, each.name))
        ]
        if not found:
            raise ValueError(f"no layer of {described(template)} has a field {key!r}")
        layer = next((each for each in found if field in given(each)), found[0])
        relative = field in ("ttl", "hlim") and isinstance(value, int) and value < 0
        setattr(layer, field, layer.getfieldval(field) + value if relative else value)
    return wanted


def differences(template: Packet, packet: Packet) -> list[str]:
    """What of `packet` is not as the template says; empty if it matches."""
    wrong = []
    rest: Packet | None = packet
    before: Packet | None = None
    for layer in layers(template):
        if type(layer) is Raw:
            carried = payload(before) if before is not None else bytes(packet)
            if carried != layer.load:
                wrong.append(f"payload: wanted {layer.load!r}, saw {carried!r}")
            continue
        found = rest.getlayer(type(layer)) if rest is not None else None
        if found is None:
            wrong.append(f"{type(layer).__name__}: wanted, not there")
            continue
        for name, wanted in given(layer).items():
            seen = found.getfieldval(name)
            if not _same(layer, name, wanted, seen):
                wrong.append(
                    f"{type(layer).__name__}.{name}: wanted {_shown(layer, name, wanted)}, "
                    f"saw {_shown(layer, name, seen)}"
                )
        before, rest = found, found.payload
    return wrong


def _same(layer: Packet, name: str, wanted: Any, seen: Any) -> bool:
    field = layer.get_field(name)
    return bool(field.any2i(layer, wanted) == field.any2i(layer, seen)) or str(wanted) == str(seen)


def _shown(layer: Packet, name: str, value: Any) -> str:
    return str(layer.get_field(name).i2repr(layer, layer.get_field(name).any2i(layer, value)))


def addresses(packet: Packet) -> tuple[str, str]:
    """Source and destination of the outermost IP header; empty without one."""
    for kind in (IP, IPv6):
        if kind in packet:
            return packet[kind].src, packet[kind].dst
    return "", ""


def key(packet: Packet) -> tuple[Any, ...]:
    """What of a packet survives address translation, routing and a tunnel, so that it is known again.

    The IPv4 identification tells a repetition from the first; IPv6 has nothing of the kind, and there
    two packets of the same content are the same.
    """
    packet = inner(packet)
    identity = packet[IP].id if IP in packet else None
    if TCP in packet:
        segment = packet[TCP]
        return ("tcp", identity, segment.seq, segment.ack, int(segment.flags), payload(segment))
    if UDP in packet:
        return ("udp", identity, payload(packet[UDP]))
    for kind in (IP, IPv6):
        if kind in packet:
            upper = payload(packet[kind])
            # Behind type, code and checksum of ICMP, which translation adjusts together with its id.
            return (kind.__name__, identity, upper[:2], upper[6:])
    return ("frame", bytes(packet))
