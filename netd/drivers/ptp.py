"""The ptp driver: no bridge; each endpoint has a link of its own to the host, which routes between them.

The network itself is nothing that exists in the kernel. An endpoint is a veth pair whose host side has
the gateway addresses (the same ones on every pair, as single addresses) and a route to each address of
the container. Inside, the gateway is the only thing that is next to the container, and the rest of its
subnets is behind that, as everything else is.

So all that containers say to each other passes through the host's `forward` hook, also within one
network. The rule set tells by the link group whether two links are of one network, and judges whoever
speaks by `bind4` and `bind6` before anything else, ARP included (`netd.ruleset`). What a bridge floods
(broadcast, multicast) ends at the host.

A network has no 1,023 ports here, and no neighbour can be lied to, as there is none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv6Interface, ip_interface, ip_network

from netd import names
from netd.drivers import connlimit, veth
from netd.errors import Invalid
from netd.model import Endpoint, Network, Sandbox
from netd.objects import Address, KernelObject, Latch, Route

HOST_SIDE = IPv6Interface("fe80::1/64")
"""What the host's side of every pair is called on its link. Neighbour discovery speaks from it: the
kernel gives its own address to no link of netd's, and asks for nobody without one (ndisc_send_ns)."""


def check(net: Network) -> None:
    """Raise `Invalid` for an option that there is not."""
    for option in net.options:
        if option != connlimit.OPTION:
            raise Invalid(
                f"network {net.name!r}: the ptp driver has no option {option!r}, only {connlimit.OPTION}"
            )
    connlimit.check(net.options)


def network(net: Network) -> Iterator[KernelObject]:
    """Nothing: the links are the network."""
    return iter(())


def endpoint(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
) -> Iterator[KernelObject]:
    """What one endpoint needs: the pair, both ends' addresses, and the routes to each other."""
    host, inside, netns = names.host_ifname(endpoint), endpoint.ifname, sandbox.netns
    gateways = [*net.gateways(4), *net.gateways(6)]
    yield veth.pair(net, sandbox, endpoint, group=names.link_group(net))
    yield Latch(host)
    yield from veth.limits(net, sandbox, endpoint)
    # An internal network is routed too, within itself; who leaves it is for the rules to say.
    yield from veth.gateway_sysctls(net, host, forward=not net.internal or net.icc)
    if 6 in net.families:
        yield Address(host, HOST_SIDE)
    yield from (Address(host, ip_interface(gateway)) for gateway in gateways)
    yield from (Route(ip_network(address.ip), host) for address in endpoint.addresses)

    yield from veth.inside(net, sandbox, endpoint, onlink=False)
    yield from (Route(ip_network(gateway), inside, None, netns) for gateway in gateways)
    yield from (Route(subnet.cidr, inside, subnet.gateway, netns) for subnet in net.subnets)
    yield from veth.default_routes(net, sandbox, endpoint, default_families)
