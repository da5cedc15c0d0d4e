"""Kernel state as the objects it was asked for as: the other half of `netd.kernel.links`.

Both functions read in the network namespace of the calling thread, with a socket of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from netd.kernel import dumps, fastnl, proxies, shaping, sysctl, vxlan
from netd.kernel.dumps import Link
from netd.model import IPInterface, Netns
from netd.objects import Address, KernelObject, Route, Sysctl, Up

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
    found.update(_addresses(addresses, links, None))
    for route in routes:
        if route.index in links:
            found.add(Route(route.destination, links[route.index].name, route.via))
    found.update(_sysctls(sysctls, None))
    return frozenset(found)


def _of_link(link: Link, links: dict[int, Link]) -> Iterator[KernelObject]:
    if link.kind == "bridge":
        yield dumps.bridge_of(link)
        return
    if link.kind == "ifb":
        yield shaping.ifb_of(link)
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
        body = socket.get(fastnl.link_get(name))
    if body is None:
        return None
    link = dumps.link(body)
    return (link.mac, link.mtu) if link.name == name else None


def _sysctls(paths: SysctlPaths, netns: Netns | None) -> Iterator[Sysctl]:
    for path in paths:
        value = sysctl.read(path)
        if value is not None:
            yield Sysctl(path, value, netns)
