"""What an endpoint has in every driver that gives it a veth pair: the pair, limits, and what is inside.

The peer is made inside the sandbox under its final name, so that nothing is ever moved or renamed. How
the host's side is joined to the rest (a bridge, a route) is for the driver to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network

from netd import names
from netd.drivers import shaping
from netd.model import Endpoint, IPNetwork, Netns, Network, Sandbox
from netd.objects import Address, KernelObject, Route, Sysctl, Up, Veth

_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.-]")
_EVERYTHING: Mapping[int, IPNetwork] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


def pair(net: Network, sandbox: Sandbox, endpoint: Endpoint, group: int = 0) -> Veth:
    """The pair itself; `group` is the link group of its host side."""
    return Veth(
        names.host_ifname(endpoint),
        alias=f"{names.ALIAS_PREFIX}{_label(sandbox)}@{net.name}",
        altname=_altname(net, sandbox, endpoint),
        mtu=net.mtu,
        peer=endpoint.ifname,
        peer_mac=endpoint.mac,
        netns=sandbox.netns,
        group=group,
    )


def limits(net: Network, sandbox: Sandbox, endpoint: Endpoint) -> Iterator[KernelObject]:
    """What its bandwidth limits need; nothing for none."""
    return shaping.endpoint(
        net,
        endpoint,
        alias=f"{names.ALIAS_PREFIX}limit of {_label(sandbox)}@{net.name}",
        altname=f"{_altname(net, sandbox, endpoint)[:-7]}.{names.digest(f'{endpoint.id}/ifb', 6)}",
    )


def _label(sandbox: Sandbox) -> str:
    # A container's name fits as it is; what a CNI runtime calls a sandbox may be anything.
    return _UNPRINTABLE.sub("-", sandbox.name)[:48]


def _altname(net: Network, sandbox: Sandbox, endpoint: Endpoint) -> str:
    """Readable, at most 127 bytes (ALTIFNAMSIZ), and unique even if two sandboxes share a name."""
    return f"{_label(sandbox)}.{endpoint.ifname}@{net.name[:48]}.{names.digest(endpoint.id, 6)}"


def gateway_sysctls(net: Network, ifname: str, *, forward: bool) -> Iterator[Sysctl]:
    """How an interface of the host behaves towards containers, for whom it is the gateway."""
    forwarding = "1" if forward else "0"
    yield _conf(4, ifname, "forwarding", forwarding)
    yield _conf(4, ifname, "accept_redirects", "0")
    yield _conf(4, ifname, "rp_filter", "1")
    # Answer ARP for the interface's own addresses only, not for those of other networks.
    yield _conf(4, ifname, "arp_ignore", "1")
    if 6 not in net.families:
        # A link-local address alone would open the host to containers, and them to each other, in a
        # family that nobody asked for (CVE-2024-32473).
        yield _conf(6, ifname, "disable_ipv6", "1")
        return
    yield _conf(6, ifname, "disable_ipv6", "0")
    yield _conf(6, ifname, "forwarding", forwarding)
    yield _conf(6, ifname, "accept_ra", "0")  # CVE-2020-13401: a container must not route the host
    yield _conf(6, ifname, "accept_redirects", "0")
    yield _conf(6, ifname, "accept_dad", "0")  # its addresses are usable at once


def inside(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, *, onlink: bool = True
) -> Iterator[KernelObject]:
    """What the sandbox's own end needs: how it behaves, its addresses, its routes but the default ones.
    `onlink` says whether the rest of its subnets is next to it."""
    ifname, netns = endpoint.ifname, sandbox.netns
    settings = {item.path: item for item in _usual_sysctls(net, ifname, netns, announced=endpoint.announced)}
    yield from (settings | _chosen_sysctls(sandbox, ifname)).values()
    yield from (Address(ifname, address, netns, onlink) for address in endpoint.addresses)
    yield Up(ifname, netns)
    yield from (Route(route.destination, ifname, route.via, netns) for route in endpoint.routes)


def default_routes(
    net: Network, sandbox: Sandbox, endpoint: Endpoint, families: Collection[int]
) -> Iterator[Route]:
    """Through the gateway of the subnet that the endpoint's first address of each family lies in."""
    for family in sorted(families):
        for address in endpoint.of_family(family)[:1]:
            for subnet in net.subnets:
                if address.ip in subnet.cidr and subnet.gateway:
                    yield Route(_EVERYTHING[family], endpoint.ifname, subnet.gateway, sandbox.netns)


def _usual_sysctls(net: Network, ifname: str, netns: Netns, *, announced: bool) -> Iterator[Sysctl]:
    # Forwarding is not among them: it is off from the birth of a namespace, and a container that was
    # asked to be a router (--sysctl net.ipv4.ip_forward=1) is one on all its interfaces.
    yield _conf(4, ifname, "accept_redirects", "0", netns)
    if announced:  # each is delivered to all of a bridge's ports, and there may be a thousand
        yield _conf(4, ifname, "arp_notify", "1", netns)
    if 6 not in net.families:
        yield _conf(6, ifname, "disable_ipv6", "1", netns)
        return
    yield _conf(6, ifname, "disable_ipv6", "0", netns)
    yield _conf(6, ifname, "accept_ra", "0", netns)
    yield _conf(6, ifname, "accept_redirects", "0", netns)
    yield _conf(6, ifname, "accept_dad", "0", netns)  # or names resolve a second before they can be reached
    if announced:
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
