"""Proxy entries: addresses for which a link answers though another host has them.

The kernel answers ARP and neighbour discovery for them by itself where it forwards and its route to the
address leads elsewhere (arp_process in net/ipv4/arp.c, ndisc_recv_ns in net/ipv6/ndisc.c). Whoever asked
before has another answer in its cache: an endpoint that moved away was next door a moment ago. So a new
entry is announced on the link, as the owner of an address would (RFC 5227, 3; RFC 4861, 7.2.6); an
announcement changes caches that have the address and fills none.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

from netd.kernel import fastnl, vxlan
from netd.kernel.dumps import Link
from netd.kernel.fastnl import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, attribute
from netd.model import IPAddress
from netd.names import ROUTE_PROTOCOL
from netd.objects import Proxy

NTF_PROXY = 0x08
ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
ALL_NODES = IPv6Address("ff02::1")


def _message(kind: int, flags: int, index: int, address: IPAddress, *attributes: bytes) -> bytes:
    # Permanent, or a bridge would lose it with its last port, when its carrier goes (pneigh_ifdown).
    state = vxlan.NUD_PERMANENT if kind == vxlan.RTM_NEWNEIGH else 0
    body = vxlan.NDMSG.pack(vxlan.family(address), index, state, NTF_PROXY, 0)
    body += attribute(vxlan.NDA_DST, address.packed)
    return fastnl.message(kind, flags, body + b"".join(attributes))


def delete(index: int, address: IPAddress) -> bytes:
    """Remove an entry, whoever made it: look first."""
    return _message(vxlan.RTM_DELNEIGH, NLM_F_ACK, index, address)


def dump() -> bytes:
    """All proxy entries of the namespace."""
    return fastnl.message(vxlan.RTM_GETNEIGH, NLM_F_DUMP, vxlan.NDMSG.pack(0, 0, 0, NTF_PROXY, 0))


def observed(netlink: fastnl.Socket, links: dict[int, Link]) -> Iterator[Proxy]:
    """Those that carry netd's protocol number."""
    for each in map(vxlan.entry, netlink.dump(dump())):
        if each.protocol == ROUTE_PROTOCOL and each.to is not None and each.index in links:
            yield Proxy(links[each.index].name, each.to)


class Proxies:
    """Writes proxy entries in the calling thread's namespace.

    `send` sends a request; `drop` sends one that removes, for which gone already is success.
    """

    def __init__(
        self, netlink: fastnl.Socket, send: Callable[[bytes], None], drop: Callable[[bytes], None]
    ) -> None:
        self._netlink = netlink
        self._send = send
        self._drop = drop

    def add(self, wanted: Proxy, link: Link) -> None:
        """Answer for the address from now on, and say so to those who knew it elsewhere."""
        own = attribute(vxlan.NDA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
        flags = NLM_F_ACK | NLM_F_CREATE | vxlan.NLM_F_REPLACE
        self._send(_message(vxlan.RTM_NEWNEIGH, flags, link.index, wanted.address, own))
        announce(link, wanted.address)

    def remove(self, unwanted: Proxy, index: int) -> None:
        """Answer no more, unless the entry is somebody else's by now; index 0 is a link that is gone."""
        if not index:
            return
        body = self._netlink.get(_message(vxlan.RTM_GETNEIGH, 0, index, unwanted.address))
        if body is not None and vxlan.entry(body).protocol == ROUTE_PROTOCOL:
            self._drop(delete(index, unwanted.address))


def announce(link: Link, address: IPAddress) -> None:
    """Tell everybody on a link that its own MAC is the way to `address`."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out, contextlib.suppress(OSError):
        out.sendto(announcement(link.mac, address), (link.name, 0))  # one that is down has nobody to tell


def announcement(mac: str, address: IPAddress) -> bytes:
    """The frame that says so."""
    packed = fastnl.packed_mac(mac)
    return _arp(packed, address) if isinstance(address, IPv4Address) else _advertisement(packed, address)


def _arp(mac: bytes, address: IPAddress) -> bytes:
    """A gratuitous ARP request (RFC 5227, 3)."""
    head = b"\xff" * 6 + mac + struct.pack("!H", ETH_P_ARP)
    return head + struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed


def _advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """An unsolicited neighbour advertisement, of a router, that overrides (RFC 4861, 4.4)."""
    router, override = 0x80, 0x20
    body = struct.pack("!BBHI", 136, 0, 0, (router | override) << 24) + address.packed + b"\x02\x01" + mac
    pseudo = address.packed + ALL_NODES.packed + struct.pack("!II", len(body), socket.IPPROTO_ICMPV6)
    body = body[:2] + _checksum(pseudo + body) + body[4:]
    head = b"\x33\x33\x00\x00\x00\x01" + mac + struct.pack("!H", ETH_P_IPV6)
    ipv6 = struct.pack("!IHBB", 6 << 28, len(body), socket.IPPROTO_ICMPV6, 255)
    return head + ipv6 + address.packed + ALL_NODES.packed + body


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
