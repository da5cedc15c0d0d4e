"""The one language for kernel state: values that say what must exist.

Drivers and the firewall yield these; `netd.plan` compares what is desired with what was observed
and orders the difference; `netd.kernel` makes it true. Nothing here does I/O.

Every object has a `key`, its identity: two objects with the same key are the same thing, perhaps
with another content. `str()` of an object is one line of text, the form in which golden tests,
events, drift reports and error messages speak of it.

`netns` None is the host, i.e. the namespace that the daemon itself lives in.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from netd.model import IPAddress, IPInterface, IPNetwork, Netns

Atom = str | int | IPv4Address | IPv6Address | IPv4Network | IPv6Network
"""One component of an nft key or value. A `str` is an interface name, a MAC or a protocol name; an
int a port or a link group. Each is checked against the type of the set that it goes to
(`netd.firewall.SETS`) before it becomes text."""


def _where(netns: Netns | None) -> str:
    return f" [netns {netns.label}]" if netns else ""


def _ns(netns: Netns | None) -> tuple[int, int] | None:
    return (netns.device, netns.inode) if netns else None


@dataclass(frozen=True, slots=True)
class Bridge:
    """A Linux bridge on the host, up, with its MAC pinned; `alias` tags it as netd's.

    `up` is False only in what was observed, where somebody set the link down.
    """

    name: str
    alias: str
    altname: str
    mac: str
    mtu: int
    up: bool = True

    @property
    def key(self) -> Hashable:
        return ("link", None, self.name)

    def __str__(self) -> str:
        return (
            f"link   {self.name} bridge alias {self.alias} altname {self.altname} "
            f"mac {self.mac} mtu {self.mtu} {'up' if self.up else 'down'}"
        )


@dataclass(frozen=True, slots=True)
class Veth:
    """A veth pair: `name` on the host and up, `peer` made directly inside `netns` and still down.

    `group` is the link group of the host's side, 0 where it does not matter. `up` is False only in what
    was observed, where somebody set the host's side down.
    """

    name: str
    alias: str
    altname: str
    mtu: int
    peer: str
    peer_mac: str
    netns: Netns
    group: int = 0
    up: bool = True

    @property
    def key(self) -> Hashable:
        return ("link", None, self.name)

    def __str__(self) -> str:
        group = f" group {self.group:#x}" if self.group else ""
        return (
            f"link   {self.name} veth alias {self.alias} altname {self.altname} mtu {self.mtu}{group} "
            f"{'up' if self.up else 'down'} "
            f"peer {self.peer} mac {self.peer_mac}{_where(self.netns)}"
        )


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A link's membership in a bridge. `isolated` ports cannot reach each other (no icc)."""

    name: str
    bridge: str
    isolated: bool
    hairpin: bool

    @property
    def key(self) -> Hashable:
        return ("port", self.name)

    def __str__(self) -> str:
        flags = "".join([" isolated" if self.isolated else "", " hairpin" if self.hairpin else ""])
        return f"port   {self.name} master {self.bridge}{flags}"


@dataclass(frozen=True, slots=True)
class Vxlan:
    """A VXLAN device (RFC 7348), up, as a port of a bridge. What it carries is told it entry by entry.

    `local` and `port` are this end of the tunnels: an address of the host, a UDP port. It is sealed: it
    learns no address, floods nothing unknown and no broadcast, and lets the bridge answer ARP and ND for
    what is behind it; with `multicast` it takes multicast frames, and sends them where `Flood` says.
    `up` and `sealed` are False, and `bridge` is empty, only in what was observed.
    """

    name: str
    alias: str
    altname: str
    vni: int
    local: IPAddress
    port: int
    mac: str
    mtu: int
    bridge: str
    isolated: bool = False
    multicast: bool = False
    sealed: bool = True
    up: bool = True

    @property
    def key(self) -> Hashable:
        return ("link", None, self.name)

    def __str__(self) -> str:
        flags = "".join(
            f" {flag}"
            for flag, on in (
                ("isolated", self.isolated),
                ("multicast", self.multicast),
                ("open", not self.sealed),
            )
            if on
        )
        return (
            f"link   {self.name} vxlan alias {self.alias} altname {self.altname} vni {self.vni} "
            f"local {self.local} port {self.port} mac {self.mac} mtu {self.mtu} "
            f"{'up' if self.up else 'down'} master {self.bridge}{flags}"
        )


@dataclass(frozen=True, slots=True)
class Remote:
    """How to reach an endpoint on another node: one object, so that no part is ever without the others.

    Permanent neighbours on the bridge (address to MAC), from which it answers ARP and ND by itself; the
    bridge's entry that the MAC is behind the VXLAN device; and that device's entry that it is at `vtep`.
    Addresses are sorted. `vtep` is None only in what was observed, where a part is missing or wrong.
    """

    bridge: str
    vxlan: str
    mac: str
    addresses: tuple[IPAddress, ...]
    vtep: IPAddress | None

    @property
    def key(self) -> Hashable:
        return ("remote", self.bridge, self.mac)

    def __str__(self) -> str:
        addresses = " ".join(map(str, self.addresses))
        return f"remote {self.mac} {addresses} dev {self.bridge} via {self.vtep} dev {self.vxlan}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An address for which the host answers ARP or neighbour discovery on a link: it has a route there."""

    dev: str
    address: IPAddress

    @property
    def key(self) -> Hashable:
        return ("proxy", self.dev, self.address)

    def __str__(self) -> str:
        return f"proxy  {self.address} dev {self.dev}"


@dataclass(frozen=True, slots=True)
class Flood:
    """A node that gets a copy of each multicast frame that a VXLAN device takes (head-end replication)."""

    vxlan: str
    vtep: IPAddress

    @property
    def key(self) -> Hashable:
        return ("flood", self.vxlan, self.vtep)

    def __str__(self) -> str:
        return f"flood  dev {self.vxlan} via {self.vtep}"


@dataclass(frozen=True, slots=True)
class WireGuard:
    """The WireGuard device of the host, up: by it encrypted networks reach other nodes, and by it only.

    `port` is where it is spoken on the underlay. Of its key only the public half is said; the private one
    is in a file (`netd.keys`). `up` is False and `public_key` is empty only in what was observed.
    """

    name: str
    alias: str
    altname: str
    mtu: int
    port: int
    public_key: str
    up: bool = True

    @property
    def key(self) -> Hashable:
        return ("link", None, self.name)

    def __str__(self) -> str:
        return (
            f"link   {self.name} wireguard alias {self.alias} altname {self.altname} mtu {self.mtu} "
            f"port {self.port} key {self.public_key} {'up' if self.up else 'down'}"
        )


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """Another node, to a WireGuard device: its public key, its `address` inside, and where it is outside.

    Nothing but that address may it send from, and only what is for it goes there. `address` is None only
    in what was observed, where somebody else has put a peer; `endpoint` where it has none.
    """

    dev: str
    public_key: str
    address: IPAddress | None
    endpoint: IPAddress | None
    port: int

    @property
    def key(self) -> Hashable:
        return ("wireguard", self.dev, self.address or self.public_key)

    def __str__(self) -> str:
        return (
            f"peer   {self.address} dev {self.dev} key {self.public_key} via {self.endpoint} port {self.port}"
        )


@dataclass(frozen=True, slots=True)
class Ifb:
    """A device that sends on to where it was going what is redirected to it; up.

    `up` is False only in what was observed, where somebody set the link down.
    """

    name: str
    alias: str
    altname: str
    mtu: int
    up: bool = True

    @property
    def key(self) -> Hashable:
        return ("link", None, self.name)

    def __str__(self) -> str:
        return (
            f"link   {self.name} ifb alias {self.alias} altname {self.altname} mtu {self.mtu} "
            f"{'up' if self.up else 'down'}"
        )


@dataclass(frozen=True, slots=True)
class Shaper:
    """What a host link sends goes through a token bucket: bytes a second, and bytes at once."""

    dev: str
    rate: int
    burst: int

    @property
    def key(self) -> Hashable:
        return ("shaper", self.dev)

    def __str__(self) -> str:
        return f"queue  dev {self.dev} rate {self.rate} burst {self.burst}"


@dataclass(frozen=True, slots=True)
class Redirect:
    """All that a host link receives goes to an `Ifb` first. `to` is empty only in what was observed, where
    that is gone; what arrives is dropped then."""

    dev: str
    to: str

    @property
    def key(self) -> Hashable:
        return ("redirect", self.dev)

    def __str__(self) -> str:
        return f"queue  dev {self.dev} redirect to {self.to}"


@dataclass(frozen=True, slots=True)
class Latch:
    """A bridge takes from the host's own stack only packets that netd's rules have let through.

    Not a rule, so it outlives the rules: where those are gone, nothing is routed to the bridge's ports.
    """

    dev: str

    @property
    def key(self) -> Hashable:
        return ("latch", self.dev)

    def __str__(self) -> str:
        return f"latch  dev {self.dev}"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One sysctl, by path below /proc/sys; `path` components are validated, never joined from input."""

    path: tuple[str, ...]
    value: str
    netns: Netns | None = None

    @property
    def key(self) -> Hashable:
        return ("sysctl", _ns(self.netns), self.path)

    def __str__(self) -> str:
        return f"sysctl {'/'.join(self.path)} = {self.value}{_where(self.netns)}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a link; IPv6 ones are set without duplicate address detection (IFA_F_NODAD).

    Without `onlink` the rest of its prefix is not next to it, and has no route (IFA_F_NOPREFIXROUTE).
    """

    dev: str
    address: IPInterface
    netns: Netns | None = None
    onlink: bool = True

    @property
    def key(self) -> Hashable:
        return ("addr", _ns(self.netns), self.dev, self.address)

    def __str__(self) -> str:
        alone = "" if self.onlink else " noprefixroute"
        return f"addr   {self.address} dev {self.dev}{alone}{_where(self.netns)}"


@dataclass(frozen=True, slots=True)
class Up:
    """A link that the kernel made down and that must be up (a veth peer, `lo` of a fresh namespace)."""

    dev: str
    netns: Netns | None = None

    @property
    def key(self) -> Hashable:
        return ("up", _ns(self.netns), self.dev)

    def __str__(self) -> str:
        return f"up     {self.dev}{_where(self.netns)}"


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route in the main table with netd's route protocol number; `via` None is on-link.

    An IPv4 route may lead by an IPv6 address (RFC 5549), not the other way. On the host `dev` may be a link
    that is not netd's: the route is.
    """

    destination: IPNetwork
    dev: str
    via: IPAddress | None = None
    netns: Netns | None = None

    @property
    def key(self) -> Hashable:
        return ("route", _ns(self.netns), self.destination, self.dev)

    def __str__(self) -> str:
        to = "default" if self.destination.prefixlen == 0 else str(self.destination)
        via = f" via {self.via}" if self.via else ""
        return f"route  {to}{via} dev {self.dev}{_where(self.netns)}"


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set (`value` empty) or a map of netd's own nft table of `family`: inet, bridge, arp."""

    family: str
    set: str
    item: tuple[Atom, ...]
    value: tuple[Atom, ...] = ()

    @property
    def key(self) -> Hashable:
        return ("nft", self.family, self.set, self.item)

    def __str__(self) -> str:
        value = f" : {' . '.join(map(str, self.value))}" if self.value else ""
        return f"nft    element {self.family} netd {self.set} {{ {' . '.join(map(str, self.item))}{value} }}"


HostLink = Bridge | Veth | Vxlan | Ifb | WireGuard
"""What makes an interface exist on the host. Each has `name`, `alias`, `altname`, `mtu` and `up`."""

KernelObject = (
    HostLink
    | BridgePort
    | Remote
    | Proxy
    | Flood
    | WireGuardPeer
    | Shaper
    | Redirect
    | Latch
    | Sysctl
    | Address
    | Up
    | Route
    | Element
)


@dataclass(frozen=True, slots=True)
class Add:
    """Make an object that does not exist. Finding it there already with the same content is success."""

    object: KernelObject

    def __str__(self) -> str:
        return f"add    {self.object}"


@dataclass(frozen=True, slots=True)
class Change:
    """Turn `old` into `new`; both have the same key."""

    old: KernelObject
    new: KernelObject

    def __str__(self) -> str:
        return f"change {self.old} -> {self.new}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove an object. Finding it gone already is success."""

    object: KernelObject

    def __str__(self) -> str:
        return f"remove {self.object}"


Op = Add | Change | Remove
