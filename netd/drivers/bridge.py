"""The bridge driver: a Linux bridge a network, a veth pair an endpoint.

The host's side of a network is the bridge with its gateway addresses. Its MAC is pinned, because
a bridge otherwise takes the lowest MAC of its ports and changes it, under every neighbour cache,
whenever a container comes or goes. An endpoint is a veth pair whose peer is made inside the
sandbox under its final name, so that nothing is ever moved or renamed.

Who may speak to whom is not decided here but by the rule set (`netd.ruleset`), with one exception:
without icc the bridge itself keeps its ports apart, because frames between two ports of one bridge
meet no rule unless br_netfilter is loaded and on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_interface

from netd import names
from netd.drivers import shaping
from netd.errors import Invalid
from netd.model import Endpoint, IPNetwork, Netns, Network, Sandbox
from netd.objects import Address, Bridge, BridgePort, KernelObject, Route, Sysctl, Up, Veth

BRIDGE_NAME = "bridge.name"
_CHOSEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.-]")
_RESERVED_NAMES = frozenset({"all", "default", "lo"})
_EVERYTHING: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


def check(net: Network) -> None:
    """Raise `Invalid` for an option that this driver does not have, or a bridge name it cannot use."""
    for option in net.options:
        if option != BRIDGE_NAME:
            raise Invalid(
                f"network {net.name!r}: the bridge driver has no option {option!r}, only {BRIDGE_NAME}"
            )
    chosen = net.options.get(BRIDGE_NAME)
    if chosen is None:
        return
    # Names of interfaces become sysctl paths and nft strings; "all" and "default" are directories there.
    if not _CHOSEN_NAME.fullmatch(chosen) or chosen in _RESERVED_NAMES:
        raise Invalid(
            f"network {net.name!r}: {BRIDGE_NAME} {chosen!r} cannot name a bridge: at most 15 letters, "
            "digits, '_', '.' or '-', the first a letter or digit, and neither 'all', 'default' nor 'lo'"
        )
    if chosen.startswith(names.PREFIXES):
        raise Invalid(
            f"network {net.name!r}: {BRIDGE_NAME} {chosen!r} starts like the names that "
            "netd makes up; choose another"
        )


def forwarding(families: Collection[int]) -> Iterator[Sysctl]:
    """The switches of the whole host without which nothing reaches or leaves a container.

    They are not part of any network: the engine sets them when the first network needs them, and
    where one was off before, `firewall.closed` keeps the host from routing for anybody else. They
    are the global ones because answers come in by interfaces that netd does not know. Turning on
    IPv6 forwarding makes the kernel ignore router advertisements on interfaces whose accept_ra is 1;
    a host that gets its address that way needs 2 there.
    """
    if 4 in families:
        yield Sysctl(("net", "ipv4", "ip_forward"), "1")
    if 6 in families:
        yield Sysctl(("net", "ipv6", "conf", "all", "forwarding"), "1")


def network(net: Network) -> Iterator[KernelObject]:
    """What the host needs for a network: the bridge, how it behaves, its gateway addresses."""
    bridge = names.bridge_name(net)
    yield Bridge(
        bridge,
        alias=f"{names.ALIAS_PREFIX}{net.name}",
        altname=f"netd-{net.name}-{names.digest(net.id, 6)}",
        mac=names.mac_of(net.id),
        mtu=net.mtu,
    )
    yield from _host_sysctls(net, bridge)
    for subnet in net.subnets:
        if subnet.gateway:
            yield Address(bridge, ip_interface(f"{subnet.gateway}/{subnet.cidr.prefixlen}"))


def endpoint(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
) -> Iterator[KernelObject]:
    """What one endpoint needs: the pair, its place in the bridge, addresses and routes inside."""
    host, netns = names.host_ifname(endpoint), sandbox.netns
    yield pair(net, sandbox, endpoint)
    # Hairpin: with br_netfilter on, a container that reaches itself through the host's address is
    # translated while still on the bridge, and the frame goes back out of the port it came from.
    yield BridgePort(host, bridge=names.bridge_name(net), isolated=not net.icc, hairpin=net.icc)
    yield from shaping.endpoint(
        net,
        endpoint,
        alias=f"{names.ALIAS_PREFIX}limit of {_label(sandbox)}@{net.name}",
        altname=f"{_altname(net, sandbox, endpoint)[:-7]}.{names.digest(f'{endpoint.id}/ifb', 6)}",
    )
    yield from within(net, sandbox, endpoint)
    for family in sorted(default_families):
        yield from _default_route(net, endpoint, family, netns)


def pair(net: Network, sandbox: Sandbox, endpoint: Endpoint) -> Veth:
    """The two ends of an endpoint: one on the host, one in the sandbox."""
    return Veth(
        names.host_ifname(endpoint),
        alias=f"{names.ALIAS_PREFIX}{_label(sandbox)}@{net.name}",
        altname=_altname(net, sandbox, endpoint),
        mtu=net.mtu,
        peer=endpoint.ifname,
        peer_mac=endpoint.mac,
        netns=sandbox.netns,
    )


def within(net: Network, sandbox: Sandbox, endpoint: Endpoint) -> Iterator[KernelObject]:
    """What the sandbox's own end needs: how it behaves, its addresses, its routes but the default ones."""
    inside, netns = endpoint.ifname, sandbox.netns
    settings = {item.path: item for item in _sandbox_sysctls(net, inside, netns)}
    yield from (settings | _chosen_sysctls(sandbox, inside)).values()
    for address in endpoint.addresses:
        yield Address(inside, address, netns)
    yield Up(inside, netns)
    for route in endpoint.routes:
        yield Route(route.destination, inside, route.via, netns)


def _label(sandbox: Sandbox) -> str:
    # A container's name fits as it is; what a CNI runtime calls a sandbox may be anything.
    return _UNPRINTABLE.sub("-", sandbox.name)[:48]


def _altname(net: Network, sandbox: Sandbox, endpoint: Endpoint) -> str:
    """Readable, at most 127 bytes (ALTIFNAMSIZ), and unique even if two sandboxes share a name."""
    return f"{_label(sandbox)}.{endpoint.ifname}@{net.name[:48]}.{names.digest(endpoint.id, 6)}"


def _default_route(net: Network, endpoint: Endpoint, family: int, netns: Netns) -> Iterator[Route]:
    """Through the gateway of the subnet that the endpoint's first address of the family lies in."""
    for address in endpoint.of_family(family)[:1]:
        for subnet in net.subnets:
            if address.ip in subnet.cidr and subnet.gateway:
                yield Route(_EVERYTHING[family], endpoint.ifname, subnet.gateway, netns)
                return


def _host_sysctls(net: Network, bridge: str) -> Iterator[Sysctl]:
    forward = "0" if net.internal else "1"
    yield _conf(4, bridge, "forwarding", forward)
    yield _conf(4, bridge, "accept_redirects", "0")
    yield _conf(4, bridge, "rp_filter", "1")
    # Answer ARP for the bridge's own addresses only, not for those of other networks.
    yield _conf(4, bridge, "arp_ignore", "1")
    if 6 not in net.families:
        # A link-local address alone would open the host to containers, and them to each other, in a
        # family that nobody asked for (CVE-2024-32473).
        yield _conf(6, bridge, "disable_ipv6", "1")
        return
    yield _conf(6, bridge, "disable_ipv6", "0")
    yield _conf(6, bridge, "forwarding", forward)
    yield _conf(6, bridge, "accept_ra", "0")  # CVE-2020-13401: a container must not route the host
    yield _conf(6, bridge, "accept_redirects", "0")
    yield _conf(6, bridge, "accept_dad", "0")  # its addresses are usable at once


def _sandbox_sysctls(net: Network, ifname: str, netns: Netns) -> Iterator[Sysctl]:
    # Forwarding is not among them: it is off from the birth of a namespace, and a container that was
    # asked to be a router (--sysctl net.ipv4.ip_forward=1) is one on all its interfaces.
    yield _conf(4, ifname, "accept_redirects", "0", netns)
    yield _conf(4, ifname, "arp_notify", "1", netns)  # neighbours learn who has the address now
    if 6 not in net.families:
        yield _conf(6, ifname, "disable_ipv6", "1", netns)
        return
    yield _conf(6, ifname, "disable_ipv6", "0", netns)
    yield _conf(6, ifname, "accept_ra", "0", netns)
    yield _conf(6, ifname, "accept_redirects", "0", netns)
    yield _conf(6, ifname, "accept_dad", "0", netns)  # or names resolve a second before they can be reached
    yield _conf(6, ifname, "ndisc_notify", "1", netns)


def _chosen_sysctls(sandbox: Sandbox, ifname: str) -> dict[tuple[str, ...], Sysctl]:
    """What the sandbox's owner asked of this interface, or of all; it wins over the driver's own."""
    found: dict[tuple[str, ...], Sysctl] = {}
    for whose in ("all", ifname):
        for text, value in sandbox.sysctls.items():
            net, family, conf, of, key = text.split("/")
            if of == whose:
                path = (net, family, conf, ifname, key)
                found[path] = Sysctl(path, value, sandbox.netns)
    return found


def _conf(family: int, ifname: str, key: str, value: str, netns: Netns | None = None) -> Sysctl:
    return Sysctl(("net", f"ipv{family}", "conf", ifname, key), value, netns)
