"""Netlink by hand: the few messages that netd sends often, and the dumps that it reads whole.

Most of what one netlink request costs from Python is the general encoder and decoder of a library;
these messages have one shape each, so `struct` packs them in a few microseconds. The unit tests
compare every one with pyroute2's encoder, byte for byte. What is asked seldom goes through pyroute2
(`netd.kernel.facts.underlay`).

A `Socket` is blocking on purpose: the kernel works through an rtnetlink request inside the caller's
send(), whatever the flags of the socket, so a request made on the event loop's thread would stop
the loop for as long as it takes (tens of milliseconds for a deletion, which waits for RCU). Threads
own these sockets.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface

from netd.errors import Unavailable
from netd.model import IPAddress, IPInterface, IPNetwork

# include/uapi/linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, if_bridge.h, veth.h
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x01, 0x04, 0x300, 0x10
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLMSGERR_ATTR_MSG = 1

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWLINKPROP, RTM_DELLINKPROP = 108, 109

IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP = 18, 20, 26, 27
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_PROP_LIST, IFLA_ALT_IFNAME = 28, 29, 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 5, 23
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
RTEXT_FILTER_SKIP_STATS = 8

IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH = 1, 4, 5, 6, 9
RTA_TABLE, RTA_VIA = 15, 18
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF

HEADER = struct.Struct("=IHHII")
IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
RTNEXTHOP = struct.Struct("=HBBi")
_ATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")

DUMP_TRIES = 5
"""As often as CNI's netlinksafe and netavark ask again for a dump that a change interrupted."""


class Refused(OSError):
    """The kernel's negative answer: `errno` (positive), and in `hint` its own words if it gave some."""

    def __init__(self, errno: int, hint: str = "") -> None:
        super().__init__(errno, os.strerror(errno))
        self.hint = hint


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = len(payload) + 4
    return _ATTR.pack(length, kind) + payload + bytes(-length % 4)


def text(kind: int, value: str) -> bytes:
    """A NUL-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute of 32 bits in the machine's byte order."""
    return attribute(kind, _U32.pack(value))


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of every attribute from `offset` on; flags of the type are masked out."""
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def message(kind: int, flags: int, body: bytes) -> bytes:
    """A request with sequence number and port 0; `Socket` numbers it."""
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body


def numbered(request: bytes, sequence: int) -> bytes:
    """`request` with its sequence number."""
    return request[:8] + _U32.pack(sequence) + request[12:]


def packed_mac(mac: str) -> bytes:
    """The six bytes of a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def _family(address: IPAddress | IPInterface | IPNetwork) -> int:
    return AF_INET if address.version == 4 else AF_INET6


# Links --------------------------------------------------------------------------------------------


def veth_create(
    name: str,
    mtu: int,
    group: int,
    peer: str,
    peer_mac: str,
    peer_ns: int,
    *,
    indexes: tuple[int, int] = (0, 0),
) -> bytes:
    """Make a pair whose peer appears in the namespace of descriptor `peer_ns` under its final name.

    `indexes` are those of the two ends; 0 leaves them to the kernel, which listens to the second only with
    the first (veth_newlink, drivers/net/veth.c).
    The host side comes up at once. The peer stays down: the kernel refuses IFF_UP for it here
    (ENOTCONN). Alias and altname are not looked at during creation and need further messages.
    """
    own_index, peer_index = indexes
    end = (
        IFINFO.pack(AF_UNSPEC, 0, peer_index, 0, 0)
        + text(IFLA_IFNAME, peer)
        + attribute(IFLA_ADDRESS, packed_mac(peer_mac))
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_NET_NS_FD, peer_ns)
    )
    info = text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, end))
    body = IFINFO.pack(AF_UNSPEC, 0, own_index, IFF_UP, IFF_UP) + text(IFLA_IFNAME, name)
    body += u32(IFLA_MTU, mtu) + u32(IFLA_GROUP, group) + attribute(IFLA_LINKINFO, info)
    return message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def bridge_create(name: str, mac: str, mtu: int, group: int) -> bytes:
    """Make a bridge, up, without STP and without multicast snooping (the rule set drops what it would listen
    to). A MAC given at creation is never changed by ports that join."""
    data = u32(IFLA_BR_STP_STATE, 0) + attribute(IFLA_BR_MCAST_SNOOPING, b"\0")
    info = text(IFLA_INFO_KIND, "bridge") + attribute(IFLA_INFO_DATA, data)
    body = (
        IFINFO.pack(AF_UNSPEC, 0, 0, IFF_UP, IFF_UP)
        + text(IFLA_IFNAME, name)
        + attribute(IFLA_ADDRESS, packed_mac(mac))
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_GROUP, group)
        + attribute(IFLA_LINKINFO, info)
    )
    return message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def link_change(
    index: int,
    *,
    up: bool | None = None,
    mac: str = "",
    mtu: int = 0,
    master: int | None = None,
    alias: str | None = None,
    group: int | None = None,
    port: tuple[bool, bool] | None = None,
    own_ipv6: bool = True,
) -> bytes:
    """Change what is given of one link. `port` is (isolated, hairpin); it needs a bridge as master.
    `own_ipv6` False keeps the kernel from giving it a link-local address.

    The attributes of a bridge port ride in RTM_NEWLINK because RTM_SETLINK ignores them; without
    NLM_F_CREATE the two are the same request otherwise (rtnl_newlink, net/core/rtnetlink.c).
    """
    flags, mask = (IFF_UP if up else 0), (IFF_UP if up is not None else 0)
    body = IFINFO.pack(AF_UNSPEC, 0, index, flags, mask)
    if mac:
        body += attribute(IFLA_ADDRESS, packed_mac(mac))
    if mtu:
        body += u32(IFLA_MTU, mtu)
    if master is not None:
        body += u32(IFLA_MASTER, master)
    if alias is not None:
        body += text(IFLA_IFALIAS, alias)
    if group is not None:
        body += u32(IFLA_GROUP, group)
    if port is not None:
        isolated, hairpin = port
        flags_of_port = attribute(IFLA_BRPORT_MODE, bytes([hairpin])) + attribute(
            IFLA_BRPORT_ISOLATED, bytes([isolated])
        )
        slave = text(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(IFLA_INFO_SLAVE_DATA, flags_of_port)
        body += attribute(IFLA_LINKINFO, slave)
    if not own_ipv6:
        none = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
        body += attribute(IFLA_AF_SPEC, attribute(AF_INET6, none))
    return message(RTM_NEWLINK, NLM_F_ACK, body)


def altname(kind: int, index: int, name: str) -> bytes:
    """Add (RTM_NEWLINKPROP) or remove (RTM_DELLINKPROP) an alternative name."""
    flags = NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWLINKPROP else 0
    # Newer than the other link messages, this one is parsed strictly and wants the flag.
    properties = attribute(IFLA_PROP_LIST | NLA_F_NESTED, text(IFLA_ALT_IFNAME, name))
    return message(kind, NLM_F_ACK | flags, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + properties)


def link_delete(index: int) -> bytes:
    """Delete one link."""
    return message(RTM_DELLINK, NLM_F_ACK, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0))


def group_delete(group: int) -> bytes:
    """Delete all links of a group in one go, so that the wait for RCU is paid once."""
    return message(RTM_DELLINK, NLM_F_ACK, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_GROUP, group))


def link_get(name: str) -> bytes:
    """One link by its name; the kernel also finds it by an altname."""
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_IFNAME, name)
    return message(RTM_GETLINK, 0, body + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def link_get_by_altname(name: str) -> bytes:
    """One link by any of its names, longer than an interface name can be."""
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + text(IFLA_ALT_IFNAME, name)
    return message(RTM_GETLINK, 0, body + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def link_dump() -> bytes:
    """All links; statistics are left out, they are a third of the bytes."""
    body = IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return message(RTM_GETLINK, NLM_F_DUMP, body)


# Addresses and routes -----------------------------------------------------------------------------


def address_add(index: int, address: IPInterface, protocol: int, *, onlink: bool = True) -> bytes:
    """Add an address marked with `protocol` (IFA_PROTO, Linux 5.18), IPv6 without duplicate detection; unless
    `onlink`, without a route to its prefix."""
    packed = address.ip.packed
    flags = 0 if address.version == 4 else IFA_F_NODAD
    body = IFADDR.pack(_family(address), address.network.prefixlen, flags, 0, index)
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    if isinstance(address, IPv4Interface) and address.network.prefixlen < 31:
        body += attribute(IFA_BROADCAST, address.network.broadcast_address.packed)
    body += attribute(IFA_PROTO, bytes([protocol]))
    if not onlink:  # in full: the header has room for eight flags
        body += attribute(IFA_FLAGS, struct.pack("=I", flags | IFA_F_NOPREFIXROUTE))
    return message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def address_delete(index: int, address: IPInterface) -> bytes:
    """Delete an address, whoever set it: look at its protocol first."""
    packed = address.ip.packed
    body = IFADDR.pack(_family(address), address.network.prefixlen, 0, 0, index)
    return message(
        RTM_DELADDR, NLM_F_ACK, body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    )


def address_dump(index: int = 0) -> bytes:
    """All addresses, or those of one link (filtered in the kernel, which strict checking makes sure of)."""
    return message(RTM_GETADDR, NLM_F_DUMP, IFADDR.pack(AF_UNSPEC, 0, 0, 0, index))


def _route(destination: IPNetwork, index: int, via: IPAddress | None, protocol: int) -> bytes:
    scope = RT_SCOPE_LINK if via is None and destination.version == 4 else RT_SCOPE_UNIVERSE
    body = RTMSG.pack(
        _family(destination), destination.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, 0
    )
    if destination.prefixlen:
        body += attribute(RTA_DST, destination.network_address.packed)
    if via is not None and via.version == destination.version:
        body += attribute(RTA_GATEWAY, via.packed)
    elif via is not None:
        body += attribute(RTA_VIA, struct.pack("=H", _family(via)) + via.packed)
    return body + u32(RTA_OIF, index)


def route_add(destination: IPNetwork, index: int, via: IPAddress | None, protocol: int) -> bytes:
    """Add a unicast route to the main table. Never NLM_F_REPLACE: it would replace anybody's."""
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return message(RTM_NEWROUTE, flags, _route(destination, index, via, protocol))


def route_delete(destination: IPNetwork, index: int, via: IPAddress | None, protocol: int) -> bytes:
    """Delete a route; the kernel compares the protocol too, so nobody else's is hit."""
    return message(RTM_DELROUTE, NLM_F_ACK, _route(destination, index, via, protocol))


def route_dump(
    family: int, protocol: int = 0, *, table: int = RT_TABLE_MAIN, kind: int = 0, index: int = 0
) -> bytes:
    """Routes of one table, 0 for all tables; with `protocol`, `kind` and `index` only those of that protocol
    number and type, and by that link (filtered in the kernel)."""
    body = RTMSG.pack(family, 0, 0, 0, table, protocol, 0, kind, 0)
    body += u32(RTA_TABLE, table) if table else b""
    return message(RTM_GETROUTE, NLM_F_DUMP, body + (u32(RTA_OIF, index) if index else b""))


# The socket ---------------------------------------------------------------------------------------


class Socket:
    """A blocking netlink socket of the calling thread's network namespace, for one thread at a time."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> int:
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def _send(self, request: bytes) -> int:
        sequence = self._next()
        self._socket.send(numbered(request, sequence))
        return sequence

    def _answers(self, sequence: int) -> Iterator[tuple[int, int, bytes]]:
        """(type, flags, body) of each message that answers `sequence`; older leftovers are skipped."""
        while True:
            data = self._socket.recv(1 << 17)
            offset = 0
            while offset + HEADER.size <= len(data):
                length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
                if number == sequence:
                    yield kind, flags, data[offset + HEADER.size : offset + length]
                offset += (length + 3) & ~3

    def request(self, message: bytes) -> None:
        """Send one request and wait for its acknowledgement. Raises `Refused`."""
        self._acknowledged(self._send(message))

    def batch(self, make: Callable[[int], bytes | None]) -> bool:
        """Send the messages that `make` gives for a sequence number, the last of which asks for an
        acknowledgement, and wait for that. False where it gives none. Raises `Refused`."""
        sequence = self._next()
        messages = make(sequence)
        if messages is None:
            return False
        self._socket.send(messages)
        self._acknowledged(sequence)
        return True

    def _acknowledged(self, sequence: int) -> None:
        for kind, flags, body in self._answers(sequence):
            if kind == NLMSG_ERROR:
                _raise_for(flags, body)
                return

    def get(self, message: bytes) -> bytes | None:
        """Ask for one object; None where the kernel answers that there is none (ENODEV, ENOENT)."""
        for kind, flags, body in self._answers(self._send(message)):
            if kind != NLMSG_ERROR:
                return body
            try:
                _raise_for(flags, body)
            except Refused as error:
                if error.errno in (19, 2):
                    return None
                raise
        return None  # pragma: no cover - _answers never ends by itself

    def dump(self, message: bytes) -> list[bytes]:
        """The bodies of a whole dump. A dump that a change interrupted is asked for again; raises
        `Unavailable` when that happens `DUMP_TRIES` times, because part of the truth is worse than none."""
        for _ in range(DUMP_TRIES):
            bodies, interrupted = self._dump(message)
            if not interrupted:
                return bodies
        raise Unavailable(
            f"the kernel's tables changed during each of {DUMP_TRIES} attempts to read them; try again"
        )

    def _dump(self, message: bytes) -> tuple[list[bytes], bool]:
        bodies: list[bytes] = []
        interrupted = False
        for kind, flags, body in self._answers(self._send(message)):
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind in (NLMSG_DONE, NLMSG_ERROR):
                _raise_for(flags, body)
                break
            bodies.append(body)
        return bodies, interrupted


def _raise_for(flags: int, body: bytes) -> None:
    """Raise what an NLMSG_ERROR (or the trailer of a dump) says, if it is an error."""
    (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
    if code == 0:
        return
    hint = ""
    if flags & NLM_F_ACK_TLVS:
        # With NLM_F_CAPPED only the header of the request is echoed, else all of it.
        echoed = HEADER.size if flags & NLM_F_CAPPED else _U32.unpack_from(body, 4)[0]
        for kind, payload in attributes(body, 4 + ((echoed + 3) & ~3)):
            if kind == NLMSGERR_ATTR_MSG:
                hint = payload.rstrip(b"\0").decode(errors="replace")
    raise Refused(-code, hint)
