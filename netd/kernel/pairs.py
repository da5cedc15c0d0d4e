"""Veth pairs whose ends have different indexes.

Each namespace numbers its interfaces by itself, so the two ends of a pair may get the same number: the
second interface of a container on a host that has made few yet. The kernel then takes either end for
one that leans on nothing (linkwatch_urgent_event, net/core/link_watch.c: its index is that of the link
below it) and tells it as much as a second late that the other one has come up. A bridge forwards nothing
on such a port meanwhile.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from netd.kernel import fastnl, netns
from netd.kernel.fastnl import Refused, Socket
from netd.objects import Veth

Send = Callable[[bytes], None]


def create(socket: Socket, send: Send, wanted: Veth, group: int) -> None:
    """Make the pair, its peer in its namespace under its final name. Raises `Refused`, `NotFound`."""
    descriptor = netns.open_checked(wanted.netns)
    try:

        def make(own: int = 0, peer: int = 0) -> None:
            ends = (wanted.peer, wanted.peer_mac, descriptor)
            send(fastnl.veth_create(wanted.name, wanted.mtu, group, *ends, indexes=(own, peer)))

        make()
        index, peer = _indexes(socket, wanted.name)
        if index == peer:
            send(fastnl.link_delete(index))
            try:
                make(index, peer + 1)  # a namespace numbers upwards: this one was to be next
            except Refused as error:
                if error.errno != errno.EBUSY:
                    raise
                make()  # somebody has taken the number; late is better than never
    finally:
        os.close(descriptor)


def _indexes(socket: Socket, name: str) -> tuple[int, int]:
    """The index of a link and that of its other end; (-1, 0) where it has gone again."""
    body = socket.get(fastnl.link_get(name))
    if body is None:
        return -1, 0
    _, _, index, _, _ = fastnl.IFINFO.unpack_from(body)
    for kind, payload in fastnl.attributes(body, fastnl.IFINFO.size):
        if kind == fastnl.IFLA_LINK:
            return index, int.from_bytes(payload, sys.byteorder)
    return index, 0
