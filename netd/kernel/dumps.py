"""What rtnetlink tells, as values: links, addresses and routes out of raw messages.

A thousand endpoints are a thousand links of about 1.5 KB each; only the attributes that netd
compares are decoded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from netd.kernel import fastnl
from netd.kernel.fastnl import attributes
from netd.model import IPAddress, IPInterface, IPNetwork, Netns
from netd.names import ALIAS_PREFIX, LINK_GROUPS, ROUTE_PROTOCOL
from netd.objects import Bridge, BridgePort, Veth

BIRTH_GROUP = 0x6E657464
""" "netd": the link group that a link of netd's is created in. The kernel takes no alias at creation, so
this is how a link is recognised whose maker was killed before it could tag it; the message that sets
the alias moves the link to group 0."""

LINK_GROUPS_MASK = 0xFF000000

ALIAS_SIZE = 255
"""IFALIASZ less the NUL (include/uapi/linux/if_link.h)."""

IFF_RUNNING = 0x40
_NOTE = re.compile(
    r"(?P<alias>.*) peer (?P<peer>\S+) (?P<mac>\S+) ns (?P<dev>\d+):(?P<ino>\d+) (?P<label>.*)"
)
_OWN_ALTNAME = re.compile(r".*[.-][0-9a-f]{6}")


@dataclass(frozen=True, slots=True)
class Link:
    """One interface as the kernel describes it; `alias` whole, `master` an index or 0.

    `data` are the attributes of its kind (IFLA_INFO_DATA), `port` those of a bridge's port.
    """

    index: int
    name: str
    flags: int
    mac: str
    mtu: int
    alias: str
    altnames: tuple[str, ...]
    kind: str
    master: int
    group: int
    isolated: bool
    hairpin: bool
    data: bytes = b""
    port: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def half_made(self) -> bool:
        """Created by netd, which died before the link was tagged."""
        return self.group == BIRTH_GROUP and not self.alias

    @property
    def ours(self) -> bool:
        return self.alias.startswith(ALIAS_PREFIX) or self.half_made

    @property
    def up(self) -> bool:
        return bool(self.flags & fastnl.IFF_UP)

    @property
    def running(self) -> bool:
        """Up, and the other end too."""
        return bool(self.flags & IFF_RUNNING)


def link(body: bytes) -> Link:
    """Decode the body of an RTM_NEWLINK or RTM_DELLINK."""
    _, _, index, flags, _ = fastnl.IFINFO.unpack_from(body)
    found = dict(attributes(body, fastnl.IFINFO.size))
    info = dict(attributes(found.get(fastnl.IFLA_LINKINFO, b"")))
    port = (
        dict(attributes(info.get(fastnl.IFLA_INFO_SLAVE_DATA, b"")))
        if info.get(fastnl.IFLA_INFO_SLAVE_KIND) == b"bridge\0"
        else {}
    )
    altnames = tuple(
        _text(payload)
        for kind, payload in attributes(found.get(fastnl.IFLA_PROP_LIST, b""))
        if kind == fastnl.IFLA_ALT_IFNAME
    )
    return Link(
        index=index,
        name=_text(found.get(fastnl.IFLA_IFNAME, b"")),
        flags=flags,
        mac=found.get(fastnl.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(fastnl.IFLA_MTU)),
        alias=_text(found.get(fastnl.IFLA_IFALIAS, b"")),
        altnames=altnames,
        kind=_text(info.get(fastnl.IFLA_INFO_KIND, b"")),
        master=_number(found.get(fastnl.IFLA_MASTER)),
        group=_number(found.get(fastnl.IFLA_GROUP)),
        isolated=port.get(fastnl.IFLA_BRPORT_ISOLATED, b"\0") != b"\0",
        hairpin=port.get(fastnl.IFLA_BRPORT_MODE, b"\0") != b"\0",
        data=info.get(fastnl.IFLA_INFO_DATA, b""),
        port=port,
    )


def index_and_name(body: bytes) -> tuple[int, str]:
    """The two things that a link message begins with (rtnl_fill_ifinfo), without decoding the rest."""
    _, _, index, _, _ = fastnl.IFINFO.unpack_from(body)
    for kind, payload in attributes(body, fastnl.IFINFO.size):
        if kind == fastnl.IFLA_IFNAME:
            return index, _text(payload)
    return index, ""


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload, sys.byteorder) if payload else 0


# What the alias of a veth remembers of its peer ---------------------------------------------------


def veth_alias(veth: Veth) -> str:
    """The alias that a veth gets: its tag, and what cannot be seen from the host.

    The host sees only the peer's index; its name, its MAC and the identity of its namespace are
    noted here, so that observing a thousand endpoints enters none of their namespaces. The label
    comes last and gives way when the whole would be too long for the kernel.
    """
    note = (
        f"{veth.alias} peer {veth.peer} {veth.peer_mac} ns {veth.netns.device}:{veth.netns.inode} "
        f"{veth.netns.label}"
    )
    return note.encode()[:ALIAS_SIZE].decode(errors="ignore")


def bridge_of(link: Link) -> Bridge:
    """The bridge as it was asked for, as far as it still is."""
    return Bridge(link.name, link.alias, own_altname(link), link.mac, link.mtu, up=link.up)


def in_a_network(link: Link) -> bool:
    """Whether this is the host's side of an endpoint of a network without a bridge."""
    return link.group & LINK_GROUPS_MASK == LINK_GROUPS


def veth_of(link: Link) -> Veth:
    """The veth as it was asked for; a half-made one has neither alias nor peer."""
    note = _NOTE.fullmatch(link.alias)
    if note is None:
        netns = Netns(label="", path="", device=0, inode=0)
        return Veth(link.name, link.alias, own_altname(link), link.mtu, "", "", netns, up=link.up)
    netns = Netns(label=note["label"], path="", device=int(note["dev"]), inode=int(note["ino"]))
    return Veth(
        link.name,
        note["alias"],
        own_altname(link),
        link.mtu,
        note["peer"],
        note["mac"],
        netns,
        # An administrator's own groups are none of netd's business.
        group=link.group if in_a_network(link) else 0,
        up=link.up,
    )


def own_altname(link: Link) -> str:
    """Of several altnames (udev may add its own) the one that ends like the drivers' do, else the first."""
    mine = [name for name in link.altnames if _OWN_ALTNAME.fullmatch(name)]
    return (mine or [*link.altnames, ""])[0]


def port_of(link: Link, bridge: str) -> BridgePort:
    """The link's membership in the bridge of that name."""
    return BridgePort(link.name, bridge, link.isolated, link.hairpin)


# Addresses and routes -----------------------------------------------------------------------------


def address(body: bytes) -> tuple[int, IPInterface, bool, int]:
    """Of an RTM_NEWADDR or RTM_DELADDR: link index, address, whether its prefix is on-link, IFA_PROTO."""
    family, prefix, _, _, index = fastnl.IFADDR.unpack_from(body)
    found = dict(attributes(body, fastnl.IFADDR.size))
    packed = found.get(fastnl.IFA_LOCAL) or found.get(fastnl.IFA_ADDRESS, b"")
    protocol = found.get(fastnl.IFA_PROTO, b"\0")[0]
    flags = int.from_bytes(found.get(fastnl.IFA_FLAGS, b""), sys.byteorder)
    onlink = not flags & fastnl.IFA_F_NOPREFIXROUTE
    if family == fastnl.AF_INET:
        return index, IPv4Interface((packed, prefix)), onlink, protocol
    return index, IPv6Interface((packed, prefix)), onlink, protocol


@dataclass(frozen=True, slots=True)
class KernelRoute:
    """A route; `index` of its device, 0 for multipath and special routes, and `first` that of a
    multipath route's first hop, else 0."""

    destination: IPNetwork
    index: int
    via: IPAddress | None
    protocol: int
    kind: int
    metric: int = 0
    first: int = 0

    @property
    def device(self) -> int:
        """The index of an interface that it uses; 0 where it uses none."""
        return self.index or self.first


def route(body: bytes) -> KernelRoute:
    """Decode the body of an RTM_NEWROUTE or RTM_DELROUTE."""
    family, prefix, _, _, _, protocol, _, kind, _ = fastnl.RTMSG.unpack_from(body)
    found = dict(attributes(body, fastnl.RTMSG.size))
    # RTA_VIA, where the gateway is of the other family: that family in two bytes, and the address.
    gateway = found.get(fastnl.RTA_GATEWAY) or found.get(fastnl.RTA_VIA, b"")[2:]
    via: IPAddress | None = None
    if gateway:
        via = IPv4Address(gateway) if len(gateway) == 4 else IPv6Address(gateway)
    destination: IPNetwork
    if family == fastnl.AF_INET:
        destination = IPv4Network((found.get(fastnl.RTA_DST, bytes(4)), prefix))
    else:
        destination = IPv6Network((found.get(fastnl.RTA_DST, bytes(16)), prefix))
    hops = found.get(fastnl.RTA_MULTIPATH, b"")
    return KernelRoute(
        destination,
        _number(found.get(fastnl.RTA_OIF)),
        via,
        protocol,
        kind,
        metric=_number(found.get(fastnl.RTA_PRIORITY)),
        first=fastnl.RTNEXTHOP.unpack_from(hops)[3] if hops else 0,
    )


def own_addresses(socket: fastnl.Socket, index: int = 0) -> list[tuple[int, IPInterface, bool]]:
    """Addresses marked with netd's protocol number, of all links or of one, as `address` returns them."""
    found = map(address, socket.dump(fastnl.address_dump(index)))
    return [(at, value, onlink) for at, value, onlink, protocol in found if protocol == ROUTE_PROTOCOL]


def own_routes(socket: fastnl.Socket, index: int = 0) -> list[KernelRoute]:
    """Routes marked with netd's protocol number, both families, by all links or by one."""
    return [
        route(body)
        for family in (fastnl.AF_INET, fastnl.AF_INET6)
        for body in socket.dump(fastnl.route_dump(family, ROUTE_PROTOCOL, index=index))
    ]
