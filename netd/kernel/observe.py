"""Kernel state as the objects it was asked for as: the other half of `netd.kernel.links`.

All functions read in the network namespace of the calling thread, with a socket of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from socket import if_indextoname

from netd.kernel import dumps, fastnl, latch, nftget, proxies, shaping, sysctl, vxlan, wireguard
from netd.kernel.dumps import Link
from netd.model import IPInterface, Netns
from netd.objects import Address, Element, Ifb, KernelObject, Redirect, Route, Shaper, Sysctl, Up, Veth

SysctlPaths = frozenset[tuple[str, ...]]


def host(sysctls: SysctlPaths) -> frozenset[KernelObject]:
    """Every link, port, address and route on the host that is netd's, and the values of `sysctls`."""
    with fastnl.Socket() as socket:
        links = {link.index: link for link in map(dumps.link, socket.dump(fastnl.link_dump()))}
        addresses = dumps.own_addresses(socket)
        routes = dumps.own_routes(socket)
        found: set[KernelObject] = set()
        for link in links.values():
            if link.ours:
                found.update(_of_link(link, links))
                found.update(_far_away(socket, link, links))
        found.update(shaping.observed(socket, links))
        found.update(proxies.observed(socket, links))
        found.update(latch.observed(socket, links))
    found.update(_addresses(addresses, links, None))
    for route in routes:
        if route.index in links:
            found.add(Route(route.destination, links[route.index].name, route.via))
    found.update(_sysctls(sysctls, None))
    return frozenset(found)


def some(wanted: Collection[KernelObject]) -> frozenset[KernelObject]:
    """What `host` says of `wanted`, objects of endpoints on the host, and of the links that they are about.

    Each link and element is asked for by itself, so the cost follows from `wanted` and not from what else
    there is. Only queues cannot be had so: asked for those of one link, the kernel tells every listener of
    them as if they had changed (tc_get_qdisc), and a look at the whole host would follow; so it lists all.
    """
    found: set[KernelObject] = set(nftget.present(each for each in wanted if isinstance(each, Element)))
    sysctls = frozenset(each.path for each in wanted if isinstance(each, Sysctl))
    with fastnl.Socket() as socket:
        links: dict[int, Link] = {}
        for name in {each.name for each in wanted if isinstance(each, Veth | Ifb)}:
            if link := _named(socket, name):
                links[link.index] = link
        masters = [_named(socket, name) for link in links.values() if (name := _name_of(link.master))]
        around = links | {link.index: link for link in masters if link}
        for link in links.values():
            if link.ours:
                found.update(_of_link(link, around))
            found.update(_addresses(dumps.own_addresses(socket, link.index), links, None))
            for route in dumps.own_routes(socket, link.index):
                found.add(Route(route.destination, link.name, route.via))
        if any(isinstance(each, Shaper | Redirect) for each in wanted):
            found.update(shaping.observed(socket, links))
        found.update(latch.observed(socket, links))
    found.update(_sysctls(sysctls, None))
    return frozenset(found)


def _named(socket: fastnl.Socket, name: str) -> Link | None:
    body = socket.get(fastnl.link_get(name))
    link = dumps.link(body) if body is not None else None
    return link if link and link.name == name else None  # else it is somebody's altname


def _name_of(index: int) -> str:
    try:
        return if_indextoname(index) if index else ""
    except OSError:
        return ""


def _of_link(link: Link, links: dict[int, Link]) -> Iterator[KernelObject]:
    if link.kind == "bridge":
        yield dumps.bridge_of(link)
        return
    if link.kind == "ifb":
        yield shaping.ifb_of(link)
        return
    if link.kind in wireguard.KINDS:
        told = wireguard.read(link.name)
        yield wireguard.wireguard_of(link, told)
        yield from told.peers
        return
    if link.kind == "vxlan":
        yield vxlan.vxlan_of(link, _name(link.master, links))
        return
    yield dumps.veth_of(link)
    if link.master in links:
        yield dumps.port_of(link, links[link.master].name)


def _far_away(socket: fastnl.Socket, link: Link, links: dict[int, Link]) -> Iterator[KernelObject]:
    """The remote endpoints behind a VXLAN device that is a port."""
    if link.kind == "vxlan" and link.master in links:
        neighbours = socket.dump(vxlan.neighbour_dump(link.master))
        table = socket.dump(vxlan.table_dump(link.index))
        yield from vxlan.remotes(
            links[link.master].name, link.name, map(vxlan.entry, neighbours), map(vxlan.entry, table)
        )


def _name(index: int, links: dict[int, Link]) -> str:
    return links[index].name if index in links else ""


def sandbox(netns: Netns, names: Collection[str], sysctls: SysctlPaths) -> frozenset[KernelObject]:
    """Up-state, addresses and routes of netd's on the links called `names`, and the values of `sysctls`."""
    with fastnl.Socket() as socket:
        links = {
            link.index: link
            for link in map(dumps.link, socket.dump(fastnl.link_dump()))
            if link.name in names
        }
        addresses = dumps.own_addresses(socket)
        routes = dumps.own_routes(socket)
    found: set[KernelObject] = {Up(link.name, netns) for link in links.values() if link.up}
    found.update(_addresses(addresses, links, netns))
    for route in routes:
        if route.index in links:
            found.add(Route(route.destination, links[route.index].name, route.via, netns))
    found.update(_sysctls(sysctls, netns))
    return frozenset(found)


def _addresses(
    found: Collection[tuple[int, IPInterface, bool]], links: Mapping[int, Link], netns: Netns | None
) -> Iterator[Address]:
    for index, value, onlink in found:
        if index in links:
            yield Address(links[index].name, value, netns, onlink)


def interface(name: str) -> tuple[str, int] | None:
    """(MAC, MTU) of a link; None where there is none."""
    with fastnl.Socket() as socket:
        link = _named(socket, name)
    return (link.mac, link.mtu) if link else None


def _sysctls(paths: SysctlPaths, netns: Netns | None) -> Iterator[Sysctl]:
    for path in paths:
        value = sysctl.read(path)
        if value is not None:
            yield Sysctl(path, value, netns)
