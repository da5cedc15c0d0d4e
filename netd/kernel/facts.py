"""What the host's own network looks like, asked seldom: through pyroute2.

netd reads here what it must not collide with (routes and addresses), where it may publish, and the
uplink whose MTU a new network takes. None of it is ever changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from ipaddress import ip_address
from socket import if_indextoname
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from netd.errors import KernelError, Unavailable
from netd.kernel.fastnl import AF_INET, AF_INET6, DUMP_TRIES, NLM_F_DUMP_INTR, RT_TABLE_MAIN, RTN_UNICAST
from netd.kernel.ports import Uplink
from netd.model import IPAddress

Dump = Callable[[], Awaitable[AsyncIterator[Any]]]


class Facts:
    """One rtnetlink socket of the event loop's namespace, for reading only."""

    def __init__(self) -> None:
        self._rtnl: AsyncIPRoute | None = None
        # The kernel runs one dump at a time on a socket and refuses a second with EBUSY.
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        # Strict checking makes the kernel filter dumps; extended ACKs give errors their words.
        self._rtnl = AsyncIPRoute(ext_ack=True, strict_check=True)
        await self._rtnl.setup_endpoint()

    async def close(self) -> None:
        if self._rtnl:
            self._rtnl.close()
        self._rtnl = None

    async def networks(self) -> list[tuple[str, IPAddress, int]]:
        """(interface, network address, prefix length) of each route and address, default routes left out.

        Routes of every table count: another tool's policy routing is somebody's network too.
        """
        found: list[tuple[str, IPAddress, int]] = []
        for family, unspecified in ((AF_INET, "0.0.0.0"), (AF_INET6, "::")):
            # The kernel filters by type: every interface has local and multicast routes besides.
            ask = partial(self._socket.route, "dump", family=family, type=RTN_UNICAST)
            for route in await self._dump(ask):
                if route["dst_len"] and route["type"] == RTN_UNICAST:
                    destination = ip_address(route.get("dst") or unspecified)
                    found.append((_name(_device(route)), destination, route["dst_len"]))
        found += [(_name(index), address, prefix) for index, address, prefix in await self._addresses()]
        return found

    async def addresses(self) -> list[IPAddress]:
        """Every address of the host."""
        return [address for _, address, _ in await self._addresses()]

    async def uplink(self) -> Uplink | None:
        """The interface of the default route with the lowest metric, IPv4 before IPv6."""
        for family in (AF_INET, AF_INET6):
            ask = partial(self._socket.route, "dump", family=family, table=RT_TABLE_MAIN)
            routes = await self._dump(ask)
            defaults = [
                (route.get("priority") or 0, index)
                for route in routes
                if not route["dst_len"] and route["type"] == RTN_UNICAST and (index := _device(route))
            ]
            if defaults:
                _, index = min(defaults)
                for link in await self._socket.link("get", index=index):
                    return Uplink(link.get("ifname"), link.get("mtu"))
        return None

    async def underlay(self, address: IPAddress) -> tuple[int, Uplink] | None:
        """The index of the interface that has `address`, and the interface."""
        for index, found, _ in await self._addresses():
            if found == address:
                for link in await self._socket.link("get", index=index):
                    return index, Uplink(link.get("ifname"), link.get("mtu"))
        return None

    @property
    def _socket(self) -> AsyncIPRoute:
        if self._rtnl is None:
            raise Unavailable("the kernel adapter is not started")
        return self._rtnl

    async def _addresses(self) -> list[tuple[int, IPAddress, int]]:
        # On a point-to-point link `address` is the peer's; our own is `local`. IPv6 has only `address`.
        return [
            (
                message["index"],
                ip_address(message.get("local") or message.get("address")),
                message["prefixlen"],
            )
            for message in await self._dump(partial(self._socket.addr, "dump"))
        ]

    async def _dump(self, ask: Dump) -> list[Any]:
        """A whole dump. pyroute2 0.9 no longer looks at the flag of an interrupted one (its commit
        e08b54a5), so it is looked at here."""
        for _ in range(DUMP_TRIES):
            try:
                async with self._turn:
                    messages = [message async for message in await ask()]
            except NetlinkError as error:
                raise KernelError(error.code, "read the host's network configuration") from error
            if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                return messages
        raise Unavailable("the host's routes and addresses keep changing; try again")


def _name(index: int) -> str:
    try:
        return if_indextoname(index)
    except OSError:
        return ""


def _device(route: Any) -> int:
    """The interface of a route, the first one of a multipath route."""
    if index := route.get("oif"):
        return int(index)
    for hop in route.get("multipath") or ():
        return int(hop["oif"])
    return 0
