"""What netd knows: networks, sandboxes, endpoints, published ports.

These are values. They are frozen, compare by content, do no I/O and know nothing of the kernel;
`netd.drivers` and `netd.firewall` turn them into kernel objects, `netd.store` keeps them,
`netd.api` carries them. Whatever can be computed from them (interface names, which endpoint has
the default route, which endpoint a port is published through) is computed, never stored.

    Network    a layer-2 segment with its subnets and its policy
    Sandbox    one network namespace and its owner: a container of netd's runtime, a CNI pod
    Endpoint   one interface of one sandbox in one network
    Node       a host of a cluster
    RemoteEndpoint  what is known here of an endpoint that lives on another node
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

ROUTER = "router"
"""Option of an endpoint: "yes" where its container may send packets of others, because it routes."""

WIREGUARD_PORT = 51820
"""Where WireGuard is usually spoken (UDP)."""

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network


class GatewayMode(StrEnum):
    """How traffic of a network leaves the host: behind the host's address, or with its own."""

    NAT = "nat"
    ROUTED = "routed"


class Proto(StrEnum):
    """The transport protocols that can be published."""

    TCP = "tcp"
    UDP = "udp"


class Owner(StrEnum):
    """Who made a sandbox, and so who answers for its life."""

    CONTAINER = "container"
    CNI = "cni"


PTP = "ptp"
"""The driver whose endpoints each have an interface of the host to themselves, between which it routes."""
LINK = "link"
"""The driver whose networks are wires between two containers."""
LINK_ENDS = 2
"""How many endpoints a link has at most."""


class Scope(StrEnum):
    """Whether a network is this host's own, or one and the same on every node of a cluster."""

    LOCAL = "local"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """One address range of a network.

    `gateway` is the address of the bridge, on which the DNS also listens; None on a link between two
    containers, where the host has no part. `range` narrows what
    is handed out dynamically (Docker's --ip-range), or instead of it `spans`, runs of addresses from first
    to last that need not be a prefix (host-local's ranges). `reserved` maps a label to an address that is
    never handed out (Docker's --aux-address).
    """

    cidr: IPNetwork
    gateway: IPAddress | None
    range: IPNetwork | None = None
    spans: tuple[tuple[IPAddress, IPAddress], ...] = ()
    reserved: Mapping[str, IPAddress] = field(default_factory=dict)

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.cidr.version


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network as its creator defined it, with every default already resolved.

    `mtu` is in bytes. `dns` are upstream servers that replace the host's for this network's
    containers. `created` is seconds since the epoch. `options` are driver options (--opt). `vni` is
    the VXLAN network identifier (RFC 7348, 24 bits) of a network of the cluster, else 0. There `mtu` is
    that of this host's part, which follows the underlay's, and `mtu_limit` what its creator asked for
    at most, 0 for no limit.
    """

    id: str
    name: str
    driver: str
    subnets: tuple[Subnet, ...]
    mtu: int
    internal: bool = False
    icc: bool = True
    gateway_mode: GatewayMode = GatewayMode.NAT
    dns: tuple[IPAddress, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    scope: Scope = Scope.LOCAL
    vni: int = 0
    mtu_limit: int = 0

    @property
    def families(self) -> tuple[int, ...]:
        """The address families that this network has, in the order 4, 6."""
        return tuple(sorted({subnet.family for subnet in self.subnets}))

    @property
    def bridged(self) -> bool:
        """Whether its endpoints are ports of one bridge."""
        return self.driver not in (PTP, LINK)

    def gateways(self, family: int) -> tuple[IPAddress, ...]:
        """The gateway addresses of one family, first subnet first."""
        return tuple(subnet.gateway for subnet in self.subnets if subnet.family == family and subnet.gateway)


@dataclass(frozen=True, slots=True, kw_only=True)
class Netns:
    """A network namespace, by identity.

    `path` is where it can be opened (a bind mount of nsfs, or /proc/PID/ns/net). A path or a pid
    can come to mean another namespace later, so whoever opens it compares (`device`, `inode`) of
    what was opened with these and refuses a difference. `label` is what a person reads. Two values
    with the same device and inode are equal: they are the same namespace.

    That holds as long as both live. The kernel gives the lowest inode that is free, so the next namespace
    may well have that of one that just ended; `cookie` is never given twice in a boot (0: not known).
    """

    label: str = field(compare=False)
    path: str = field(compare=False)
    device: int
    inode: int
    cookie: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortMapping:
    """One published port: host side to container side.

    `host_ip` None publishes on every address of the host, in both families. `host_port` 0 in a
    request means "choose one", and `host_port_end` "the first free one up to here"; in what is
    stored, `host_port` is always the port that was chosen and `host_port_end` is 0.
    """

    proto: Proto
    host_ip: IPAddress | None
    host_port: int
    container_port: int
    host_port_end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """A route inside the sandbox beside the default one; `via` None is on-link."""

    destination: IPNetwork
    via: IPAddress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A network namespace that endpoints are put into.

    `id` is the container's id; for CNI it is `CONTAINERID/IFNAME`, because each CNI attachment
    lives and dies by itself. `ports` is what its owner asked to publish. `hosts` are extra names
    (--add-host), `dns` servers that win over the network's and the host's. `sysctls` are what its
    owner asked of its interfaces, by path ("net/ipv6/conf/eth0/accept_ra"); they win over the driver's.
    """

    id: str
    name: str
    owner: Owner
    netns: Netns
    hostname: str = ""
    ports: tuple[PortMapping, ...] = ()
    exposed: tuple[tuple[Proto, int], ...] = ()
    hosts: tuple[tuple[str, IPAddress], ...] = ()
    dns: tuple[IPAddress, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One interface of a sandbox in a network.

    `ifname` is the name inside the sandbox; the host side's name is derived (`netd.names`).
    `order` is the position in which the owner asked for it (0 first): it numbers ethN and breaks
    ties of `gateway_priority`, of which the highest wins the default route. `gateway_priority`
    None never takes it. `aliases` are extra names inside this network. `announced` says whether neighbours
    are told of it unasked: one of its addresses was another's before, and they may remember whose.
    """

    id: str
    network: str
    sandbox: str
    ifname: str
    mac: str
    addresses: tuple[IPInterface, ...]
    order: int = 0
    gateway_priority: int | None = 0
    aliases: tuple[str, ...] = ()
    routes: tuple[StaticRoute, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    announced: bool = True

    def of_family(self, family: int) -> tuple[IPInterface, ...]:
        """This endpoint's addresses of one family."""
        return tuple(address for address in self.addresses if address.version == family)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host of a cluster, as its record says.

    `address` is where its tunnels end: an address of the underlay, IPv4 or IPv6. `segment` is the subnet
    of that address and `mac` that of the interface; without them, plain routes cannot lead there.
    `wireguard_key` is its public key, base64, empty without WireGuard, and `wireguard_port` the UDP port
    where it speaks that. A node that is `draining` takes no new endpoints.
    """

    name: str
    address: IPAddress
    labels: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    segment: IPNetwork | None = None
    mac: str = ""
    wireguard_key: str = ""
    wireguard_port: int = WIREGUARD_PORT
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteEndpoint:
    """An endpoint of a cluster network that lives on another node: how to reach it, and its names.

    `name` is the container's, `sandbox` its id, `services` what it publishes or exposes (for SRV).
    """

    id: str
    network: str
    node: str
    sandbox: str
    name: str
    mac: str
    addresses: tuple[IPInterface, ...]
    hostname: str = ""
    aliases: tuple[str, ...] = ()
    services: tuple[tuple[Proto, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRequest:
    """A network as it is asked for; the engine resolves what is left out into a `Network`.

    Texts are as the caller typed them: the engine parses and refuses them with a message that names
    the value. `mtu` 0 takes the uplink's. `ip_ranges` are prefixes, or
    FIRST-LAST. `ipv6` asks for a ULA /64 where no IPv6 subnet is named;
    without `ipv4` there is no IPv4 at all.
    """

    name: str
    driver: str = "bridge"
    subnets: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    ip_ranges: tuple[str, ...] = ()
    aux_addresses: Mapping[str, str] = field(default_factory=dict)
    ipv6: bool = False
    ipv4: bool = True
    internal: bool = False
    icc: bool = True
    gateway_mode: str = "nat"
    mtu: int = 0
    dns: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What a sandbox asks of one network. Empty and None stand for "choose".

    `network` is a name, an id or a unique prefix of an id. `gateway_priority` None never takes the
    default route. At most one address of each family can be asked for; where none is, one of `avoid`,
    which others are going to ask for, is not given.
    """

    network: str
    ip: IPv4Address | None = None
    ip6: IPv6Address | None = None
    avoid: frozenset[IPAddress] = frozenset()
    mac: str = ""
    aliases: tuple[str, ...] = ()
    ifname: str = ""
    gateway_priority: int | None = 0
    routes: tuple[StaticRoute, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


def default_route_of(
    endpoints: tuple[Endpoint, ...], networks: Mapping[str, Network], family: int
) -> Endpoint | None:
    """Which endpoint of one sandbox carries the default route of `family`, and publishes its ports.

    Highest `gateway_priority` first, then the order asked for. Internal networks, links and endpoints
    without an address of the family never qualify: they have no way out.
    """
    candidates = [
        endpoint
        for endpoint in endpoints
        if endpoint.gateway_priority is not None
        and endpoint.of_family(family)
        and not networks[endpoint.network].internal
        and networks[endpoint.network].driver != LINK
    ]
    return min(candidates, key=lambda e: (-(e.gateway_priority or 0), e.order), default=None)
