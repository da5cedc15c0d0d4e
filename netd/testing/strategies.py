"""Packets for hypothesis, drawn from scapy's own description of their fields.

`packets(IP / UDP, dst="10.89.0.3")` draws packets in which every field is left to scapy's default or takes
any value that fits its width. Lengths and checksums are left to scapy, so that the packets are whole;
name one of them to vary it. hypothesis shrinks towards defaults: what a failing packet still sets is what
makes it fail. hypothesis itself prints that packet and the seed; the plugin keeps it as a pcap.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from scapy.fields import (
    BitField,
    ByteField,
    FlagsField,
    IntField,
    IP6Field,
    IPField,
    LongField,
    MACField,
    ShortField,
    XByteField,
    XIntField,
    XShortField,
)
from scapy.packet import Packet, Raw

COMPUTED = frozenset({"len", "plen", "chksum", "cksum", "ihl", "dataofs", "version", "proto", "nh", "type"})
"""Fields that follow from the rest of the packet, or say what its next layer is."""

PAYLOAD = 64
"""Bytes behind the last layer at most."""

Layers = type[Packet] | Packet


def packets(layers: Layers, *, payload: int = PAYLOAD, **fixed: Any) -> SearchStrategy[Packet]:
    """Packets of these layers (`IP / UDP`), with `fixed` fields as given, "UDP__dport" or "dport".

    A value of `fixed` may itself be a strategy. Raises ValueError for a field that no layer has.
    """
    kinds = _kinds(layers)
    known = {field.name for kind in kinds for field in kind.fields_desc}
    for name in fixed:
        if name.rpartition("__")[2] not in known:
            raise ValueError(
                f"no layer of {' / '.join(kind.__name__ for kind in kinds)} has a field {name!r}"
            )
    parts = [_layer(kind, fixed) for kind in kinds]
    return st.tuples(st.tuples(*parts), st.binary(max_size=payload)).map(_joined)


def _kinds(layers: Layers) -> list[type[Packet]]:
    if isinstance(layers, type):
        return [layers]
    kinds = []
    layer = layers
    while layer.name != "NoPayload":
        kinds.append(type(layer))
        layer = layer.payload
    return kinds


def _layer(kind: type[Packet], fixed: dict[str, Any]) -> SearchStrategy[Packet]:
    drawn: dict[str, SearchStrategy[Any]] = {}
    for field in kind.fields_desc:
        given = fixed.get(f"{kind.__name__}__{field.name}", fixed.get(field.name))
        if given is not None:
            drawn[field.name] = given if isinstance(given, SearchStrategy) else st.just(given)
        elif field.name not in COMPUTED and (values := _values(field)) is not None:
            # Each left to its default by itself: out of `optional` of fixed_dictionaries, hypothesis does
            # not always get a field that does not matter.
            drawn[field.name] = st.none() | values
    return st.fixed_dictionaries(drawn).map(
        lambda fields: kind(**{name: value for name, value in fields.items() if value is not None})
    )


def _values(field: Any) -> SearchStrategy[Any] | None:
    """What a field can hold; None where only scapy knows."""
    while hasattr(field, "fld"):  # one that is there under a condition only, or printed with emphasis
        field = field.fld
    match field:
        case IPField():
            return st.ip_addresses(v=4).map(str)
        case IP6Field():
            return st.ip_addresses(v=6).map(str)
        case MACField():
            return st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
        case FlagsField() | BitField():
            return st.integers(0, 2 ** abs(int(field.size)) - 1)
        case ByteField() | XByteField():
            return st.integers(0, 2**8 - 1)
        case ShortField() | XShortField():
            return st.integers(0, 2**16 - 1)
        case IntField() | XIntField():
            return st.integers(0, 2**32 - 1)
        case LongField():
            return st.integers(0, 2**64 - 1)
    return None


last: list[Packet] = []
"""The packet drawn last: after a failure that is the one which hypothesis shrank to."""


def _joined(drawn: tuple[tuple[Packet, ...], bytes]) -> Packet:
    layers, data = drawn
    packet = layers[0]
    for layer in layers[1:]:
        packet = packet / layer
    packet = packet / Raw(data) if data else packet
    last[:] = [packet]
    return packet
