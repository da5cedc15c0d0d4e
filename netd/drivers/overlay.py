"""The overlay driver: one network on many hosts, its frames carried between them by VXLAN (RFC 7348).

On each host an overlay is a bridge network, made by the bridge driver. The bridge has the same gateway
addresses and the same MAC everywhere (an anycast gateway; the MAC follows from the network's id), so
the way out, published ports and the DNS are always those of the container's own host, and a container
that moves finds its gateway unchanged.

What makes it one network is a VXLAN device as a further port of the bridge, and for each endpoint that
lives elsewhere a `Remote`: from it the bridge answers ARP and neighbour discovery itself, and the
frames go straight to the one node that has the endpoint. Nothing is learned and nothing is flooded, so
neither a lie nor a broadcast ever travels between hosts, and a host without entries is silent. Two
things follow that a reader might miss. A host has no address of its own in an overlay, so its own
programs cannot speak to remote endpoints: the answer would find the gateway next to the endpoint. And
without icc an overlay only leads out: the device is isolated as every other port is.

With --opt multicast=on multicast frames are copied to every node that has an endpoint in the network.

With --opt encap=auto or encap=never there are plain routes to endpoints of nodes on one's own segment, the
same subnet of the underlay on both sides. The host then answers ARP and neighbour discovery for such an
endpoint (a proxy entry) with the gateway's MAC, and routes. To the rest of the nodes `auto` keeps tunnels,
and so the tunnels' MTU for all; `never` has no VXLAN device at all, and reaches nobody else. An IPv6
endpoint cannot be routed to by way of an IPv4 underlay address: the kernel has no such routes.

With --opt encrypted=wireguard the tunnels end at addresses that exist within WireGuard only. There is one
WireGuard device on a host, whatever the number of networks, and to it one peer for each node. VXLAN
for these networks has a port of its own, by which the rule set keeps it off every other interface.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_interface, ip_network

from netd import firewall, names
from netd.drivers import bridge, connlimit
from netd.errors import Invalid, Unsupported
from netd.model import Endpoint, IPAddress, Network, Node, RemoteEndpoint, Sandbox, Scope
from netd.objects import (
    Address,
    Flood,
    KernelObject,
    Proxy,
    Remote,
    Route,
    Sysctl,
    Vxlan,
    WireGuard,
    WireGuardPeer,
)

OVERHEAD: Mapping[int, int] = {4: 50, 6: 70}
"""Bytes that a tunnel adds, by the family of the underlay: inner Ethernet 14, VXLAN 8, UDP 8, and the
outer IP header of 20 or 40."""

SEAL: Mapping[int, int] = {4: 60, 6: 80}
"""Bytes that WireGuard adds, by the family of the underlay: header and tag 32, UDP 8, the IP header."""

LEAST: Mapping[int, int] = {4: 576, 6: 1280}
"""The MTU below which a family does not work: RFC 791, 3.2 (what every host must accept); RFC 8200, 5."""

MULTICAST, ENCAP, ENCRYPTED = "multicast", "encap", "encrypted"
_CHOICES: Mapping[str, tuple[str, ...]] = {
    MULTICAST: ("on", "off"),
    ENCAP: ("auto", "always", "never"),
    ENCRYPTED: ("wireguard",),
}


def check(net: Network) -> None:
    """Raise `Invalid` for an option or value there is not, `Unsupported` for one that cannot be had."""
    if net.scope is not Scope.CLUSTER:
        raise Invalid(
            f"network {net.name!r}: driver 'overlay' needs a cluster, and this daemon is in none; start it "
            "with --cluster, or choose driver 'bridge'"
        )
    connlimit.check(net.options)
    for option, value in net.options.items():
        if option == connlimit.OPTION:
            continue
        choices = _CHOICES.get(option)
        if choices is None:
            known = ", ".join(sorted((*_CHOICES, connlimit.OPTION)))
            raise Invalid(f"network {net.name!r}: the overlay driver has no option {option!r}, only {known}")
        if value not in choices:
            raise Invalid(
                f"network {net.name!r}: option {option}={value!r} does not exist; choose one of: "
                f"{', '.join(choices)}"
            )
    if is_encrypted(net) and encap(net) != "always":
        raise Invalid(
            f"network {net.name!r}: {ENCRYPTED}={net.options[ENCRYPTED]} needs tunnels, and with "
            f"{ENCAP}={encap(net)} packets would travel in clear; use encap=always"
        )
    if encap(net) != "always" and (net.internal or not net.icc):
        why = "an internal network is not routed" if net.internal else "without icc there is nowhere to go"
        raise Invalid(f"network {net.name!r}: {ENCAP}={encap(net)} makes routes, and {why}; use encap=always")
    if encap(net) == "never" and has_multicast(net):
        raise Invalid(
            f"network {net.name!r}: {MULTICAST}=on needs tunnels, and {ENCAP}=never has none; use encap=auto"
        )


def check_underlay(net: Network, node: Node) -> None:
    """Raise `Unsupported` where the network's endpoints on other nodes could never be reached from `node`."""
    if encap(net) == "never" and node.address.version == 4 and 6 in net.families:
        raise Unsupported(
            f"network {net.name!r}: {ENCAP}=never cannot route IPv6 by way of {node.address}: the kernel has "
            "no IPv6 routes by IPv4 addresses; use encap=auto, leave IPv6 out, or have the nodes --advertise "
            "IPv6 addresses"
        )


def encap(net: Network) -> str:
    """When the network's packets travel in tunnels: "always", "auto" or "never"."""
    return net.options.get(ENCAP, "always")


def network(net: Network) -> Iterator[KernelObject]:
    """What every host of the cluster needs for the network, whoever else there is."""
    yield from bridge.network(net)
    if encap(net) != "always":
        # A proxy would let askers wait for most of a second, in case that somebody else answers.
        name = names.bridge_name(net)
        for family in net.families:
            yield Sysctl(("net", f"ipv{family}", "neigh", name, "proxy_delay"), "0")
        if 6 in net.families:
            yield Sysctl(("net", "ipv6", "conf", name, "proxy_ndp"), "1")


def endpoint(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
) -> Iterator[KernelObject]:
    """What an endpoint needs on its own host: the same as in a bridge network."""
    yield from bridge.endpoint(net, sandbox, endpoint, default_families)


def tunnel(net: Network, node: Node, port: int) -> Vxlan:
    """This `node`'s end of all tunnels of the network."""
    return Vxlan(
        names.vxlan_name(net),
        alias=f"{names.ALIAS_PREFIX}vxlan@{net.name}",
        altname=f"netd-vxlan-{net.name}-{names.digest(net.id, 6)}",
        vni=net.vni,
        local=vtep(net, node),
        port=sealed_port(port) if is_encrypted(net) else port,
        mac=names.vtep_mac(node.name, net),
        mtu=net.mtu,
        bridge=names.bridge_name(net),
        isolated=not net.icc,
        multicast=has_multicast(net),
    )


def remote(
    net: Network, endpoint: RemoteEndpoint, node: Node, here: Node, device: str
) -> Iterator[KernelObject]:
    """How to reach `endpoint`, which is on `node`, from `here`, which is on the underlay by `device`; nothing
    if not at all."""
    addresses = sorted(
        (interface.ip for interface in endpoint.addresses), key=lambda ip: (ip.version, int(ip))
    )
    routed = [ip for ip in addresses if is_routed(net, ip, node, here)]
    tunnelled = [] if encap(net) == "never" else [ip for ip in addresses if ip not in routed]
    if tunnelled:
        bridge, vxlan = names.bridge_name(net), names.vxlan_name(net)
        yield Remote(bridge, vxlan, endpoint.mac, tuple(tunnelled), vtep(net, node))
    for ip in routed:
        yield Route(ip_network(ip), device, node.address)
        yield Proxy(names.bridge_name(net), ip)
        yield from firewall.elsewhere(net, ip, device, node.mac)


def vtep(net: Network, node: Node) -> IPAddress:
    """Where the tunnels of a network end at a node: on the underlay, or within WireGuard."""
    return names.tunnel_address(node.name) if is_encrypted(net) else node.address


def is_encrypted(net: Network) -> bool:
    """Whether the network's frames travel within WireGuard."""
    return ENCRYPTED in net.options


def sealed_port(port: int) -> int:
    """Where VXLAN is spoken within WireGuard, if outside of it that is `port`."""
    return port + 1


def wireguard(node: Node, underlay: int) -> WireGuard:
    """The WireGuard device of `node`, whose underlay device has MTU `underlay`."""
    room = underlay - SEAL[node.address.version]
    return WireGuard(
        names.WIREGUARD,
        alias=f"{names.ALIAS_PREFIX}wireguard",
        altname=f"netd-wireguard-{names.digest(names.WIREGUARD, 6)}",
        mtu=max(room, LEAST[6]),
        port=node.wireguard_port,
        public_key=node.wireguard_key,
    )


def wireguard_address(node: Node) -> Address:
    """Where `node` itself is within WireGuard; with it comes the route to all others."""
    ip = names.tunnel_address(node.name)
    return Address(names.WIREGUARD, ip_interface(f"{ip}/{names.TUNNEL_PREFIX.prefixlen}"))


def wireguard_peer(node: Node) -> WireGuardPeer:
    """Another node, as the WireGuard device must know it."""
    return WireGuardPeer(
        names.WIREGUARD,
        node.wireguard_key,
        names.tunnel_address(node.name),
        node.address,
        node.wireguard_port,
    )


def is_routed(net: Network, address: IPAddress, node: Node, here: Node) -> bool:
    """Whether a plain route leads from `here` to an endpoint's `address` on `node`.

    Both sides answer alike: what one routes, the other expects to come so.
    """
    return (
        encap(net) != "always"
        and here.segment is not None
        and here.segment == node.segment
        and here.address in here.segment
        and node.address in here.segment
        and bool(here.mac and node.mac)
        and not (address.version == 6 and node.address.version == 4)
    )


def has_multicast(net: Network) -> bool:
    """Whether the network's multicast reaches other hosts."""
    return net.options.get(MULTICAST) == "on"


def flood(net: Network, node: Node) -> Flood:
    """Send the network's multicast to `node` too."""
    return Flood(names.vxlan_name(net), vtep(net, node))


def localised(net: Network, underlay: int, family: int) -> Network:
    """The network as it is on a host whose underlay device, addressed in `family`, has MTU `underlay`.

    Where that leaves less than IP itself needs, the outer packets are fragmented instead.
    """
    room = underlay if encap(net) == "never" else underlay - OVERHEAD[family]
    if is_encrypted(net):
        room = underlay - SEAL[family] - OVERHEAD[names.TUNNEL_PREFIX.version]
    wished = min(room, net.mtu_limit) if net.mtu_limit else room
    return replace(net, mtu=max(wished, *(LEAST[each] for each in net.families), 0))
