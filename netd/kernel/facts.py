"""What the host's own network looks like. None of it is ever changed.

netd reads here what it must not collide with (routes and addresses), where it may publish, and the
uplink whose MTU a new network takes. That is asked with every new network, so it is read by hand
like everything else that is asked often, on whatever thread calls: each function opens a socket in
the namespace of its thread and closes it.

`underlay` is another matter: only a daemon in a cluster asks for it, seldom, so it goes through
pyroute2, which is imported then and not before. It would be 11 MB of every daemon's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from socket import if_indextoname

from netd.errors import KernelError, Unavailable
from netd.kernel import dumps, fastnl
from netd.kernel.dumps import KernelRoute
from netd.kernel.fastnl import AF_INET, AF_INET6, DUMP_TRIES, NLM_F_DUMP_INTR, RT_TABLE_MAIN, RTN_UNICAST
from netd.kernel.ports import Underlay, Uplink
from netd.model import IPAddress

FAMILIES = (AF_INET, AF_INET6)
ARPHRD_ETHER = 1
READING = "read the host's network configuration"


def networks() -> list[tuple[str, IPAddress, int]]:
    """(interface, network address, prefix length) of each route and address, default routes left out.

    Routes of every table count: another tool's policy routing is somebody's network too. The
    interface of a multipath route is its first one; "" where there is none.
    """
    with _socket() as socket:
        routes = [route for family in FAMILIES for route in _unicast(socket, family)]
        addresses = _addresses(socket)
    names = _Names()
    found = [
        (names[route.device], route.destination.network_address, route.destination.prefixlen)
        for route in routes
        if route.destination.prefixlen
    ]
    return found + [(names[index], address, prefix) for index, address, prefix in addresses]


def addresses() -> list[IPAddress]:
    """Every address of the host."""
    with _socket() as socket:
        return [address for _, address, _ in _addresses(socket)]


def uplink() -> Uplink | None:
    """The interface of the default route with the lowest metric, IPv4 before IPv6."""
    with _socket() as socket:
        for family in FAMILIES:
            defaults = [
                (route.metric, route.device)
                for route in _unicast(socket, family, RT_TABLE_MAIN)
                if not route.destination.prefixlen and route.device
            ]
            if defaults:
                _, index = min(defaults)
                body = socket.get(fastnl.link_get(_Names()[index]))
                return _uplink(body) if body is not None else None
    return None


def _uplink(body: bytes) -> Uplink:
    link = dumps.link(body)
    return Uplink(link.name, link.mtu)


async def underlay(address: IPAddress) -> tuple[int, Underlay] | None:
    """The index of the interface that has `address`, and the interface. To be asked on the event loop."""
    from pyroute2 import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    # Strict checking makes the kernel filter dumps; extended ACKs give errors their words.
    rtnl = AsyncIPRoute(ext_ack=True, strict_check=True)
    try:
        await rtnl.setup_endpoint()
        for _ in range(DUMP_TRIES):
            messages = [message async for message in await rtnl.addr("dump")]
            # pyroute2 0.9 no longer looks at the flag of an interrupted dump (its commit e08b54a5).
            if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                break
        else:
            raise Unavailable("the host's addresses keep changing; try again")
        for message in messages:
            # On a point-to-point link `address` is the peer's; our own is `local`. IPv6 has only `address`.
            if ip_address(message.get("local") or message.get("address")) == address:
                segment = ip_network((address, message["prefixlen"]), strict=False)
                for link in await rtnl.link("get", index=message["index"]):
                    mac = link.get("address") if link["ifi_type"] == ARPHRD_ETHER else ""
                    return message["index"], Underlay(link.get("ifname"), link.get("mtu"), mac, segment)
    except NetlinkError as error:
        raise KernelError(error.code, READING) from error
    finally:
        rtnl.close()
    return None


@contextmanager
def _socket() -> Iterator[fastnl.Socket]:
    """A socket of the thread's namespace; what the kernel refuses over it is a `KernelError`."""
    with fastnl.Socket() as socket:
        try:
            yield socket
        except fastnl.Refused as error:
            raise KernelError(error.errno or 0, READING, error.hint) from error


def _unicast(socket: fastnl.Socket, family: int, table: int = 0) -> list[KernelRoute]:
    """Unicast routes, of all tables or of one. The kernel filters by type, where it does so at all:
    every interface has local and multicast routes besides."""
    found = map(dumps.route, socket.dump(fastnl.route_dump(family, table=table, kind=RTN_UNICAST)))
    return [route for route in found if route.kind == RTN_UNICAST]


def _addresses(socket: fastnl.Socket) -> list[tuple[int, IPAddress, int]]:
    found = map(dumps.address, socket.dump(fastnl.address_dump()))
    return [(index, value.ip, value.network.prefixlen) for index, value, *_ in found]


class _Names(dict[int, str]):
    """Names of interfaces by index, each asked for once; "" for one that is gone."""

    def __missing__(self, index: int) -> str:
        try:
            self[index] = if_indextoname(index)
        except OSError:
            self[index] = ""
        return self[index]
