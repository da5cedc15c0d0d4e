"""Listening to the kernel: what changed, whoever changed it.

Two raw netlink sockets hang on the event loop, one in the multicast groups of links, addresses and
routes, one in that of nf_tables. Only what may concern netd's own state becomes a `Drift`. Each
watcher has a small ordered set of pending drifts, not a queue: a storm of ten thousand events about
one link is one entry, and memory is bounded by the number of netd's links.

When a socket overflows (ENOBUFS) events are lost, and the only truth left is to look at everything:
that is `Drift("overflow")`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from netd.kernel import dumps, fastnl, shaping, vxlan
from netd.kernel.ports import Drift
from netd.model import IPAddress
from netd.names import PREFIXES, ROUTE_PROTOCOL, VXLAN_PREFIX

log = logging.getLogger(__name__)

# include/uapi/linux/rtnetlink.h (RTNLGRP_*), netfilter/nfnetlink.h (NFNLGRP_NFTABLES), nf_tables.h
LINK, NEIGHBOUR, QUEUE, IPV4_ADDRESS, IPV4_ROUTE = 1, 3, 4, 5, 7
IPV6_ADDRESS, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF = 9, 11, 24, 25
RTM_NEWNETCONF, RTM_DELNETCONF, NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL = 80, 81, 1, -1
AF_BRIDGE = 7
NFTABLES = 7
NFT_MSG_NEWGEN = 0x0A0F  # NFNL_SUBSYS_NFTABLES << 8 | 15: one at the end of each transaction
NFT_MSG_RULES = frozenset(0x0A00 | kind for kind in (*range(9), 9, 11))
"""What tells of tables, chains, rules and sets, made or deleted; elements and requests are not among it."""
OUR_TABLE = b"netd\0"
NETLINK_ADD_MEMBERSHIP, SO_RCVBUFFORCE = 1, 33
BUFFER = 4 << 20
"""Bytes of events that may wait while the loop is busy: some thousands of link events."""


PAUSE = 0.005
"""Seconds between two looks at the sockets, unless somebody waits for a link to be gone."""

Interpreter = Callable[[int, bytes], Drift | None]
"""What a message (type, body) means to netd."""


class Monitor:
    """The two sockets, the watchers, and those who wait for a link to be gone."""

    def __init__(self) -> None:
        self._sockets: dict[socket.socket, Interpreter] = {}
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._watchers: set[_Pending] = set()
        self._departures: dict[int, asyncio.Future[None]] = {}
        self._ours: dict[int, str] = {}
        self._underlay: tuple[int, IPAddress | None] = (0, None)

    def underlay(self, index: int, address: IPAddress) -> None:
        """Tell of this interface, 0 for none, and of this address too: tunnels depend on them.

        Neighbours are listened to from then on only: on a host without tunnels none of them is netd's.
        """
        if self._underlay[1] is None:
            for opened, interpret in self._sockets.items():
                if interpret == self._of_route:
                    opened.setsockopt(fastnl.SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NEIGHBOUR)
        self._underlay = (index, address)

    def start(self, ours: dict[int, str]) -> None:
        """Open the sockets in the calling thread's namespace; `ours` are netd's links, index to name."""
        self._ours = dict(ours)
        groups = (LINK, QUEUE, IPV4_ADDRESS, IPV4_ROUTE, IPV6_ADDRESS, IPV6_ROUTE, IPV4_NETCONF, IPV6_NETCONF)
        self._listen(fastnl.NETLINK_ROUTE, groups, self._of_route)
        self._listen(fastnl.NETLINK_NETFILTER, (NFTABLES,), self._of_nft)

    def _listen(self, protocol: int, groups: tuple[int, ...], interpret: Interpreter) -> None:
        opened = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol
        )
        self._sockets[opened] = interpret
        with suppress(PermissionError):  # without CAP_NET_ADMIN the default size has to do
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        opened.bind((0, 0))
        for group in groups:
            opened.setsockopt(fastnl.SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        asyncio.get_running_loop().add_reader(opened.fileno(), self._readable, opened, interpret)

    def close(self) -> None:
        """End every `watch` and close the sockets."""
        for timer in self._paused.values():
            timer.cancel()
        self._paused.clear()
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()
        for pending in self._watchers:
            pending.end()
        for future in self._departures.values():
            future.cancel()
        self._departures.clear()

    def watch(self) -> AsyncIterator[Drift]:
        """Drifts from now on, not only from the first look; until `close`."""
        pending = _Pending()
        self._watchers.add(pending)
        return self._drifts(pending)

    async def _drifts(self, pending: _Pending) -> AsyncIterator[Drift]:
        try:
            while (drift := await pending.next()) is not None:
                yield drift
        finally:
            self._watchers.discard(pending)

    def departure(self, index: int) -> asyncio.Future[None]:
        """A future that is done when the kernel announces that link `index` has left the namespace.

        That is not the link's RTM_DELLINK, which a bridge sends only after an rcu_barrier
        (br_multicast_dev_del), tens of milliseconds late. But IPv4 says with RTM_DELNETCONF that it
        has dropped its settings of the link, and it is told to only after the link has been taken
        off the kernel's lists: nobody can find it or send through it any more
        (unregister_netdevice_many_notify, net/core/dev.c).
        """
        for opened in list(self._paused):
            self._resume(opened)
        return self._departures.setdefault(index, asyncio.get_running_loop().create_future())

    def forget(self, index: int) -> None:
        """Nobody waits for the departure of `index` any more."""
        self._departures.pop(index, None)

    def _readable(self, opened: socket.socket, interpret: Interpreter) -> None:
        try:
            for _ in range(64):  # then let the loop do something else
                for kind, body in _messages(opened.recv(1 << 17)):
                    if drift := interpret(kind, body):
                        self._tell(drift)
        except BlockingIOError:
            self._pause(opened)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                log.error("kernel events: %s", error)
            self._tell(Drift("overflow"))

    def _pause(self, opened: socket.socket) -> None:
        """Let events gather for a moment: one attachment makes a dozen, and each would wake the loop."""
        if not self._departures and opened not in self._paused:
            loop = asyncio.get_running_loop()
            loop.remove_reader(opened.fileno())
            self._paused[opened] = loop.call_later(PAUSE, self._resume, opened)

    def _resume(self, opened: socket.socket) -> None:
        if timer := self._paused.pop(opened, None):
            timer.cancel()
            interpret = self._sockets[opened]
            asyncio.get_running_loop().add_reader(opened.fileno(), self._readable, opened, interpret)

    def _tell(self, drift: Drift) -> None:
        for pending in self._watchers:
            pending.add(drift)

    def _of_route(self, kind: int, body: bytes) -> Drift | None:
        if kind in (RTM_NEWNETCONF, RTM_DELNETCONF):
            return self._of_settings(kind, body)
        if kind in (fastnl.RTM_NEWLINK, fastnl.RTM_DELLINK):
            return self._of_link(kind, body)
        if kind in (fastnl.RTM_NEWADDR, fastnl.RTM_DELADDR):
            index, value, _, protocol = dumps.address(body)
            if value.ip == self._underlay[1]:
                return Drift("underlay")
            if protocol == ROUTE_PROTOCOL or index in self._ours:
                return Drift("address", self._ours.get(index, ""))
        if kind in shaping.EVENTS:
            index = shaping.TCMSG.unpack_from(body)[2]
            return Drift("queue", self._ours[index]) if index in self._ours else None
        if kind == vxlan.RTM_DELNEIGH:
            return self._of_neighbour(body)
        # rtm_protocol first: on a router with a full table, other people's routes come by the thousand.
        if kind in (fastnl.RTM_NEWROUTE, fastnl.RTM_DELROUTE) and body[5] == ROUTE_PROTOCOL:
            return Drift("route", self._ours.get(dumps.route(body).index, ""))
        return None

    def _of_settings(self, kind: int, body: bytes) -> Drift | None:
        """Forwarding or rp_filter of a link, or of all; the kernel tells of no other sysctl."""
        for attribute, payload in fastnl.attributes(body, 4):
            if attribute == NETCONFA_IFINDEX:
                index = int.from_bytes(payload, sys.byteorder, signed=True)
                if kind == RTM_DELNETCONF and body[0] == fastnl.AF_INET:
                    self._departed(index)
                elif index == NETCONFA_IFINDEX_ALL or index in self._ours:
                    return Drift("sysctl", self._ours.get(index, ""))
        return None

    def _of_neighbour(self, body: bytes) -> Drift | None:
        """What is removed of a remote endpoint. Neighbours come and go; only permanent entries are netd's,
        and in forwarding tables only those of VXLAN devices."""
        found = vxlan.entry(body)
        name = self._ours.get(found.index, "")
        if found.family == vxlan.AF_BRIDGE:
            wanted = name.startswith(VXLAN_PREFIX)
        else:
            wanted = bool(name) and found.protocol == ROUTE_PROTOCOL
        return Drift("neighbour", name) if wanted else None

    def _departed(self, index: int) -> None:
        waiting = self._departures.pop(index, None)
        if waiting and not waiting.done():
            waiting.set_result(None)

    def _of_link(self, kind: int, body: bytes) -> Drift | None:
        index, name = dumps.index_and_name(body)
        if body[0] == AF_BRIDGE and index in self._ours:
            return Drift("link", self._ours[index])  # a port's flags: of those the link itself says nothing
        if body[0] != fastnl.AF_UNSPEC:
            return None
        if index == self._underlay[0]:
            return Drift("underlay")
        before = self._ours.get(index)
        if not before and not name.startswith(PREFIXES) and not dumps.link(body).ours:
            return None
        if kind == fastnl.RTM_DELLINK:
            self._ours.pop(index, None)
        else:
            self._ours[index] = name
        # A link that was renamed or lost its tag is still known by its index.
        return Drift("link", before or name)

    def _of_nft(self, kind: int, body: bytes) -> Drift | None:
        if kind in NFT_MSG_RULES and OUR_TABLE in body:
            return Drift("rules")
        return Drift("nft") if kind == NFT_MSG_NEWGEN else None


class _Pending:
    """The drifts one watcher has not seen yet, each once, oldest first."""

    def __init__(self) -> None:
        self._drifts: dict[Drift, None] = {}
        self._wake = asyncio.Event()
        self._ended = False

    def add(self, drift: Drift) -> None:
        self._drifts[drift] = None
        self._wake.set()

    def end(self) -> None:
        self._ended = True
        self._wake.set()

    async def next(self) -> Drift | None:
        while not self._drifts:
            if self._ended:
                return None
            self._wake.clear()
            await self._wake.wait()
        drift = next(iter(self._drifts))
        del self._drifts[drift]
        return drift


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + fastnl.HEADER.size <= len(data):
        (length,) = struct.unpack_from("=I", data, offset)
        _, kind, _, _, _ = fastnl.HEADER.unpack_from(data, offset)
        yield kind, data[offset + fastnl.HEADER.size : offset + length]
        offset += (length + 3) & ~3
