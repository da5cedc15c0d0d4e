"""The bridge driver: a Linux bridge a network, a veth pair an endpoint.

The host's side of a network is the bridge with its gateway addresses. Its MAC is pinned, because
a bridge otherwise takes the lowest MAC of its ports and changes it, under every neighbour cache,
whenever a container comes or goes. An endpoint is a veth pair (`netd.drivers.veth`) whose host side is a
port of the bridge.

Who may speak to whom is not decided here but by the rule set (`netd.ruleset`), with one exception:
without icc the bridge itself keeps its ports apart, because frames between two ports of one bridge
meet no rule unless br_netfilter is loaded and on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from ipaddress import ip_interface

from netd import names
from netd.drivers import connlimit, veth
from netd.errors import Invalid
from netd.model import Endpoint, Network, Sandbox
from netd.objects import Address, Bridge, BridgePort, KernelObject, Latch, Sysctl

BRIDGE_NAME = "bridge.name"
_CHOSEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_RESERVED_NAMES = frozenset({"all", "default", "lo"})


def check(net: Network) -> None:
    """Raise `Invalid` for an option that this driver does not have, or a bridge name it cannot use."""
    for option in net.options:
        if option not in (BRIDGE_NAME, connlimit.OPTION):
            raise Invalid(
                f"network {net.name!r}: the bridge driver has no option {option!r}, only {BRIDGE_NAME} and "
                f"{connlimit.OPTION}"
            )
    connlimit.check(net.options)
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
    yield Latch(bridge)
    yield from veth.gateway_sysctls(net, bridge, forward=not net.internal)
    for subnet in net.subnets:
        if subnet.gateway:
            yield Address(bridge, ip_interface(f"{subnet.gateway}/{subnet.cidr.prefixlen}"))


def endpoint(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
) -> Iterator[KernelObject]:
    """What one endpoint needs: the pair, its place in the bridge, addresses and routes inside."""
    host = names.host_ifname(endpoint)
    yield veth.pair(net, sandbox, endpoint)
    # Hairpin: with br_netfilter on, a container that reaches itself through the host's address is
    # translated while still on the bridge, and the frame goes back out of the port it came from.
    yield BridgePort(host, bridge=names.bridge_name(net), isolated=not net.icc, hairpin=net.icc)
    yield from veth.limits(net, sandbox, endpoint)
    yield from veth.inside(net, sandbox, endpoint)
    yield from veth.default_routes(net, sandbox, endpoint, default_families)
