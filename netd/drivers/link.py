"""The link driver: a wire between two containers, without a bridge and without the host.

Each end is a veth pair, as everywhere, and all that the host's side of one receives the kernel hands to the
host's side of the other (an ingress redirection). One pair with an end in each container would be
shorter by a hop, and would have no end here: it could not be seen, limited or repaired without entering a
namespace, and would die with whichever container is the first to end. So the other end of a wire
outlives a neighbour that is replaced, and what it sends meanwhile is dropped.

What arrives is what was sent: any protocol, also frames that a bridge keeps to itself (LLDP, STP, LACP:
01:80:c2:00:00:0X, IEEE 802.1Q 8.6.3), any source address, as a routing daemon or a VRRP router needs. So
nothing guards a wire against forged addresses, and nothing has to: at each end there is one container, which
hears of the other whatever it likes, and nobody else. What keeps the rest of the host apart:

- The redirection takes a frame before the host's stack sees it, and hands it to the other end alone. (Less
  than four bytes behind the Ethernet header, which no Ethernet allows, it does not take.)
- Where there is no redirection (the other end is not there yet, or somebody took it away), the rule set
  drops every IP packet from a host's side, to which nothing is bound (set `ptp`), and its interface does
  not answer ARP nor forward.
- The host has no address there: no gateway, no DNS, no way out. A wire never carries a default route of
  its own; one that leads through the neighbour can be asked for.

A limit stands where what it limits leaves the host: `bandwidth.ingress` of either end. What a container
sends is limited at the other end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from netd import names
from netd.drivers import shaping, veth
from netd.errors import Invalid
from netd.model import Endpoint, GatewayMode, Network, Sandbox
from netd.objects import KernelObject, Redirect, Sysctl


def check(net: Network) -> None:
    """Raise `Invalid` for what a wire cannot have; the message names the option."""
    for option in net.options:
        raise Invalid(f"network {net.name!r}: the link driver has no option {option!r}, and no other")
    for what, given in (
        ("--internal", net.internal),
        ("--no-icc", not net.icc),
        ("--gateway-mode routed", net.gateway_mode is not GatewayMode.NAT),
        (f"--dns {', '.join(map(str, net.dns))}", net.dns),
    ):
        if given:
            raise Invalid(
                f"network {net.name!r}: {what} has no meaning for a link, in which the host has no part"
            )


def network(net: Network) -> Iterator[KernelObject]:
    """Nothing: a wire consists of its ends."""
    yield from ()


def endpoint(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
) -> Iterator[KernelObject]:
    """One end. It never carries a default route: `default_families` is empty."""
    host = names.host_ifname(endpoint)
    yield veth.pair(net, sandbox, endpoint)
    # Where the redirection is missing: answer no ARP (8), and forward for nobody.
    yield Sysctl(("net", "ipv4", "conf", host, "arp_ignore"), "8")
    yield Sysctl(("net", "ipv4", "conf", host, "forwarding"), "0")
    yield from shaping.towards(net, endpoint)
    yield from veth.inside(net, sandbox, endpoint)


def wire(one: Endpoint, other: Endpoint) -> Iterator[Redirect]:
    """What makes two ends one wire."""
    yield Redirect(names.host_ifname(one), names.host_ifname(other))
    yield Redirect(names.host_ifname(other), names.host_ifname(one))
