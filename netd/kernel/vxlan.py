"""What overlays need of rtnetlink: the VXLAN device, and the three tables that lead to a remote endpoint.

Beside `netd.kernel.fastnl`, which has what every network needs; the messages here are packed the same
way. A remote endpoint stands in three places that know nothing of each other: the neighbours of the
bridge (IPv4 and IPv6), the bridge's forwarding table, and the VXLAN device's. They are written in the
order in which a frame would meet them last to first, so that nothing is ever promised that does not
work, and read back into one object that is whole only if all three say the same.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netd.errors import Invalid
from netd.kernel import fastnl
from netd.kernel.dumps import Link, own_altname
from netd.kernel.fastnl import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, attribute, attributes, u32
from netd.model import IPAddress
from netd.names import ROUTE_PROTOCOL
from netd.objects import Flood, Remote, Vxlan

# include/uapi/linux/neighbour.h, if_link.h, rtnetlink.h
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NLM_F_REPLACE, NLM_F_APPEND = 0x100, 0x800
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_SELF, NTF_MASTER = 0x02, 0x04
NDA_DST, NDA_LLADDR, NDA_IFINDEX, NDA_PROTOCOL = 1, 2, 8, 12
AF_BRIDGE = 7
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 1, 4, 7, 15, 17
BRPORT_LEARNING, BRPORT_FLOOD, BRPORT_MCAST_FLOOD = 8, 9, 27
BRPORT_BCAST_FLOOD, BRPORT_NEIGH_SUPPRESS = 30, 32

NDMSG = struct.Struct("=BxxxiHBB")
EVERYONE = "00:00:00:00:00:00"
"""The VXLAN device's entry for frames that go to many."""
PORT_FLAGS: Mapping[int, int] = {
    BRPORT_LEARNING: 0,
    BRPORT_FLOOD: 0,
    BRPORT_BCAST_FLOOD: 0,
    BRPORT_NEIGH_SUPPRESS: 1,
}
"""What makes a port sealed (see `netd.objects.Vxlan`)."""


# Messages -----------------------------------------------------------------------------------------


def create(wanted: Vxlan, group: int) -> bytes:
    """Make the device, down: it must not carry a frame before it is a sealed port of its bridge."""
    local = IFLA_VXLAN_LOCAL if wanted.local.version == 4 else IFLA_VXLAN_LOCAL6
    data = (
        u32(IFLA_VXLAN_ID, wanted.vni)
        + attribute(local, wanted.local.packed)
        + attribute(IFLA_VXLAN_LEARNING, b"\0")
        + attribute(IFLA_VXLAN_PORT, wanted.port.to_bytes(2, "big"))
    )
    info = fastnl.text(fastnl.IFLA_INFO_KIND, "vxlan") + attribute(fastnl.IFLA_INFO_DATA, data)
    body = (
        fastnl.IFINFO.pack(fastnl.AF_UNSPEC, 0, 0, 0, 0)
        + fastnl.text(fastnl.IFLA_IFNAME, wanted.name)
        + attribute(fastnl.IFLA_ADDRESS, fastnl.packed_mac(wanted.mac))
        + u32(fastnl.IFLA_MTU, wanted.mtu)
        + u32(fastnl.IFLA_GROUP, group)
        + attribute(fastnl.IFLA_LINKINFO, info)
    )
    return fastnl.message(fastnl.RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def seal(index: int, wanted: Vxlan) -> bytes:
    """Give the device, a port already, the flags of one, and take it up, in one request."""
    flags = {
        **PORT_FLAGS,
        BRPORT_MCAST_FLOOD: wanted.multicast,
        fastnl.IFLA_BRPORT_ISOLATED: wanted.isolated,
    }
    port = b"".join(attribute(kind, bytes([value])) for kind, value in flags.items())
    slave = fastnl.text(fastnl.IFLA_INFO_SLAVE_KIND, "bridge") + attribute(fastnl.IFLA_INFO_SLAVE_DATA, port)
    body = fastnl.IFINFO.pack(fastnl.AF_UNSPEC, 0, index, fastnl.IFF_UP, fastnl.IFF_UP)
    return fastnl.message(fastnl.RTM_NEWLINK, NLM_F_ACK, body + attribute(fastnl.IFLA_LINKINFO, slave))


def neighbour_add(index: int, address: IPAddress, mac: str) -> bytes:
    """A permanent neighbour, marked with netd's protocol; whatever was known of the address gives way."""
    body = NDMSG.pack(family(address), index, NUD_PERMANENT, 0, 0) + attribute(NDA_DST, address.packed)
    body += attribute(NDA_LLADDR, fastnl.packed_mac(mac)) + attribute(NDA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    return fastnl.message(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, body)


def neighbour_get(index: int, address: IPAddress) -> bytes:
    """What is known of one address."""
    body = NDMSG.pack(family(address), index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    return fastnl.message(RTM_GETNEIGH, 0, body)


def neighbour_delete(index: int, address: IPAddress) -> bytes:
    """Forget one address, whoever has it: look first."""
    body = NDMSG.pack(family(address), index, 0, 0, 0) + attribute(NDA_DST, address.packed)
    return fastnl.message(RTM_DELNEIGH, NLM_F_ACK, body)


def tunnel_add(index: int, mac: str, vtep: IPAddress, *, append: bool = False) -> bytes:
    """In the VXLAN device's table: frames for `mac` go to `vtep`; with `append` there too."""
    flags = NLM_F_APPEND if append else NLM_F_REPLACE
    return fastnl.message(RTM_NEWNEIGH, NLM_F_ACK | NLM_F_CREATE | flags, _tunnel(index, mac, vtep))


def tunnel_delete(index: int, mac: str, vtep: IPAddress | None) -> bytes:
    """Not to `vtep` any more; None forgets the MAC wherever it leads."""
    return fastnl.message(RTM_DELNEIGH, NLM_F_ACK, _tunnel(index, mac, vtep))


def _tunnel(index: int, mac: str, vtep: IPAddress | None) -> bytes:
    body = NDMSG.pack(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
    body += attribute(NDA_LLADDR, fastnl.packed_mac(mac))
    return body + attribute(NDA_DST, vtep.packed) if vtep else body


def behind(kind: int, index: int, mac: str) -> bytes:
    """In the bridge's table: `mac` is (RTM_NEWNEIGH) or is no longer (RTM_DELNEIGH) behind port `index`."""
    flags = NLM_F_CREATE | NLM_F_REPLACE if kind == RTM_NEWNEIGH else 0
    body = NDMSG.pack(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, 0)
    return fastnl.message(kind, NLM_F_ACK | flags, body + attribute(NDA_LLADDR, fastnl.packed_mac(mac)))


def neighbour_dump(index: int) -> bytes:
    """The neighbours of one link, both families (filtered in the kernel)."""
    return fastnl.message(RTM_GETNEIGH, NLM_F_DUMP, NDMSG.pack(0, 0, 0, 0, 0) + u32(NDA_IFINDEX, index))


def table_dump(index: int) -> bytes:
    """A port's entries in its bridge's table, and those of the device's own."""
    return fastnl.message(RTM_GETNEIGH, NLM_F_DUMP, NDMSG.pack(AF_BRIDGE, index, 0, 0, 0))


def family(address: IPAddress) -> int:
    """The address family of a neighbour's address."""
    return fastnl.AF_INET if address.version == 4 else fastnl.AF_INET6


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a neighbour or forwarding table."""

    family: int
    index: int
    state: int
    flags: int
    mac: str
    to: IPAddress | None
    protocol: int


def entry(body: bytes) -> Entry:
    """Decode the body of an RTM_NEWNEIGH or RTM_DELNEIGH."""
    family, index, state, flags, _ = NDMSG.unpack_from(body)
    found = dict(attributes(body, NDMSG.size))
    return Entry(
        family=family,
        index=index,
        state=state,
        flags=flags,
        mac=found.get(NDA_LLADDR, b"").hex(":"),
        to=_address(found.get(NDA_DST, b"")),
        protocol=found.get(NDA_PROTOCOL, b"\0")[0],
    )


def _address(packed: bytes) -> IPAddress | None:
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed) if len(packed) == 16 else None


def vxlan_of(link: Link, bridge: str) -> Vxlan:
    """The device as it was asked for, as far as it still is; `bridge` is its master's name or empty."""
    data = dict(attributes(link.data))
    local = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6, bytes(4))
    flags = {kind: int(link.port.get(kind, b"\0") != b"\0") for kind in PORT_FLAGS}
    learns = data.get(IFLA_VXLAN_LEARNING, b"\1") != b"\0"
    return Vxlan(
        link.name,
        link.alias,
        own_altname(link),
        vni=int.from_bytes(data.get(IFLA_VXLAN_ID, b""), sys.byteorder),
        local=_address(local) or IPv4Address(0),
        port=int.from_bytes(data.get(IFLA_VXLAN_PORT, b""), "big"),
        mac=link.mac,
        mtu=link.mtu,
        bridge=bridge,
        isolated=link.isolated,
        multicast=link.port.get(BRPORT_MCAST_FLOOD, b"\0") != b"\0",
        sealed=flags == PORT_FLAGS and not learns,
        up=link.up,
    )


def remotes(
    bridge: str, vxlan: str, neighbours: Iterable[Entry], table: Iterable[Entry]
) -> Iterator[Remote | Flood]:
    """The remote endpoints of one network: `neighbours` of its bridge, and the `table` of its device.

    What is known of a MAC in some places only comes as a `Remote` without `vtep`.
    """
    addresses: dict[str, list[IPAddress]] = {}
    for each in neighbours:
        if each.protocol == ROUTE_PROTOCOL and each.to is not None:
            # Somebody made it a guess again: then it is not what it was asked to be.
            addresses.setdefault(each.mac, []).extend([each.to] if each.state & NUD_PERMANENT else [])
    vteps: dict[str, IPAddress | None] = {}
    ports: set[str] = set()
    for each in table:
        if each.flags & NTF_SELF:
            if each.mac == EVERYONE:
                if each.to is not None:
                    yield Flood(vxlan, each.to)
            elif not int(each.mac[:2], 16) & 1:
                vteps[each.mac] = each.to
        elif each.state == NUD_NOARP:
            ports.add(each.mac)
    for mac in addresses.keys() | vteps.keys() | ports:
        yield Remote(
            bridge,
            vxlan,
            mac,
            tuple(sorted(addresses.get(mac, []), key=lambda ip: (ip.version, int(ip)))),
            vteps.get(mac) if mac in ports else None,
        )


# Writing ------------------------------------------------------------------------------------------


class Entries:
    """Writes remote endpoints and flood entries in the calling thread's namespace.

    `send` sends a request; `drop` sends one that removes, for which gone already is success.
    """

    def __init__(
        self, socket: fastnl.Socket, send: Callable[[bytes], None], drop: Callable[[bytes], None]
    ) -> None:
        self._socket = socket
        self._send = send
        self._drop = drop

    def add(self, wanted: Remote | Flood, bridge: int, vxlan: int) -> None:
        """Add, or make complete and correct, by the indexes of the two links."""
        if isinstance(wanted, Flood):
            self._send(tunnel_add(vxlan, EVERYONE, wanted.vtep, append=True))
            return
        if wanted.vtep is None:
            raise Invalid(f"{wanted}: it is on no node")
        self._send(tunnel_add(vxlan, wanted.mac, wanted.vtep))
        self._send(behind(RTM_NEWNEIGH, vxlan, wanted.mac))
        for address in wanted.addresses:
            self._send(neighbour_add(bridge, address, wanted.mac))

    def change(self, old: Remote, new: Remote, bridge: int, vxlan: int) -> None:
        """Lead the same MAC elsewhere, or by other addresses."""
        for address in old.addresses:
            if address not in new.addresses:
                self._forget(bridge, address, old.mac)
        self.add(new, bridge, vxlan)

    def remove(self, unwanted: Remote | Flood, bridge: int, vxlan: int) -> None:
        """Remove what of it is still the same; an index of 0 is a link that is gone with its entries."""
        if isinstance(unwanted, Flood):
            if vxlan:
                self._drop(tunnel_delete(vxlan, EVERYONE, unwanted.vtep))
            return
        if bridge:
            for address in unwanted.addresses:
                self._forget(bridge, address, unwanted.mac)
        if vxlan:
            self._drop(behind(RTM_DELNEIGH, vxlan, unwanted.mac))
            self._drop(tunnel_delete(vxlan, unwanted.mac, unwanted.vtep))

    def _forget(self, bridge: int, address: IPAddress, mac: str) -> None:
        """Forget an address unless it is somebody else's by now: another endpoint's, or another tool's."""
        body = self._socket.get(neighbour_get(bridge, address))
        if body is not None:
            found = entry(body)
            if (found.mac, found.protocol) == (mac, ROUTE_PROTOCOL):
                self._drop(neighbour_delete(bridge, address))
