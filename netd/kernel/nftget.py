"""What is asked of nf_tables by hand: single elements, and whether anybody has written rules.

libnftables reads whole sets, also for `get element` and for a listing without elements; the kernel finds one
element in a hash, and counts its transactions. So who wants to know of a dozen elements among many, or
nothing but that all is as it was, asks here. Nothing is written this way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from netd import firewall
from netd.kernel import fastnl
from netd.kernel.fastnl import NLA_F_NESTED, Socket, attribute, attributes, packed_mac
from netd.objects import Atom, Element

# include/uapi/linux/netfilter.h, netfilter/nfnetlink.h, netfilter/nf_tables.h
FAMILIES: Mapping[str, int] = {"inet": 1, "arp": 3, "bridge": 7}
NFT = 10 << 8  # NFNL_SUBSYS_NFTABLES
GET_ELEMENT, GET_GENERATION = NFT | 13, NFT | 16  # NFT_MSG_GETSETELEM, NFT_MSG_GETGEN
GENERATION = 1  # NFTA_GEN_ID
TABLE, SET, ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
LIST_ELEMENT, KEY, DATA, VALUE = 1, 1, 2, 1  # NFTA_LIST_ELEM, NFTA_SET_ELEM_KEY, ..._DATA, NFTA_DATA_VALUE
EXPRESSION, EXPRESSION_DATA, LIMIT = 7, 2, 1  # NFTA_SET_ELEM_EXPR, NFTA_EXPR_DATA, NFTA_CONNLIMIT_COUNT

_NUMBERS: Mapping[Atom, int] = {"tcp": 6, "udp": 17, "ipv4": 2, "ipv6": 10}  # IPPROTO_*, NFPROTO_*


def _address(atom: Any) -> bytes:
    packed: bytes = atom.packed
    return packed


_PACKED: Mapping[str, Callable[[Any], bytes]] = {
    "ifname": lambda name: struct.pack("16s", name.encode()),
    "mac": packed_mac,
    "ipv4": _address,
    "ipv6": _address,
    "target6": _address,
    "proto": lambda name: bytes([_NUMBERS[name]]),
    "port": lambda port: struct.pack("!H", port),
    "group": lambda group: struct.pack("=I", group),
    "count": lambda count: struct.pack("!I", count),
    "family": lambda name: bytes([_NUMBERS[name]]),
}
"""How the kernel keeps an atom, by its type in `netd.firewall.SETS`."""


def packed(kinds: tuple[str, ...], atoms: tuple[Atom, ...]) -> bytes:
    """A key or a value as the kernel keeps it, each part of a concatenation padded to four bytes."""
    parts = [_PACKED[kind](atom) for kind, atom in zip(kinds, atoms, strict=True)]
    return parts[0] if len(parts) == 1 else b"".join(part + bytes(-len(part) % 4) for part in parts)


def present(wanted: Iterable[Element]) -> Iterator[Element]:
    """Those of `wanted` that are there with their values, in the calling thread's namespace."""
    with Socket(fastnl.NETLINK_NETFILTER) as socket:
        for element in wanted:
            kind = firewall.SETS[element.family, element.set]
            answer = socket.get(_question(element, packed(kind.key, element.item)))
            if answer is not None and _value(answer) == packed(kind.value, element.value):
                yield element


def generation(socket: Socket) -> int:
    """The number of the last transaction of anybody's in the namespace of `socket`, which is to be one of
    NETLINK_NETFILTER and to stay open: closing such a one waits until what transactions have deleted is
    freed, tens of milliseconds (nft_rcv_nl_event, net/netfilter/nf_tables_api.c). Raises `Refused`."""
    answer = socket.get(fastnl.message(GET_GENERATION, 0, bytes(4))) or b""
    return int.from_bytes(dict(attributes(answer, 4))[GENERATION], "big")


def _nested(kind: int, payload: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, payload)


def _question(element: Element, key: bytes) -> bytes:
    asked = _nested(LIST_ELEMENT, _nested(KEY, attribute(VALUE, key)))
    body = struct.pack("=BBH", FAMILIES[element.family], 0, 0)
    body += fastnl.text(TABLE, "netd") + fastnl.text(SET, element.set) + _nested(ELEMENTS, asked)
    return fastnl.message(GET_ELEMENT, 0, body)


def _value(answer: bytes) -> bytes:
    """The value of the element in an answer, or what it counts to; empty for a set's."""
    found = dict(attributes(answer, 4))
    element = dict(attributes(dict(attributes(found[ELEMENTS]))[LIST_ELEMENT]))
    if counting := element.get(EXPRESSION):
        return dict(attributes(dict(attributes(counting))[EXPRESSION_DATA]))[LIMIT]
    return dict(attributes(element.get(DATA, b""))).get(VALUE, b"")
