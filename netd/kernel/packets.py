"""Sockets that see and send packets, opened inside the namespace that they belong to.

A socket belongs for its whole life to the namespace of the thread that made it, whoever holds its
descriptor. So a short-lived thread makes it here, the descriptor is handed to a test or to `netd
capture` (`netd.packets`), and neither of them ever has to change its namespace or to be root.

What is made is deaf: a packet socket without a protocol receives nothing. Its holder first sets
filter and ring and then binds, so that nothing arrives that it did not ask for and nothing is missed
after it did.
"""

from __future__ import annotations

import socket

from netd.errors import KernelError, NotFound
from netd.kernel.netns import enter, on_thread
from netd.kernel.ports import PacketKind
from netd.model import Netns


async def open_socket(netns: Netns | None, kind: PacketKind, ifname: str) -> socket.socket:
    """See `Kernel.packet_socket`."""

    def work() -> socket.socket:
        if netns is not None:
            enter(netns)
        try:
            if ifname:
                socket.if_nametoindex(ifname)
        except OSError as error:
            where = f"network namespace {netns.label!r}" if netns else "this host"
            raise NotFound(f"there is no interface {ifname!r} in {where}") from error
        try:
            return _opened(kind)
        except OSError as error:
            raise KernelError(error.errno or 0, f"open a {kind} socket") from error

    return await on_thread(work, "packets")


def _opened(kind: PacketKind) -> socket.socket:
    match kind:
        case PacketKind.FRAMES:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        case PacketKind.IPV4:
            return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        case PacketKind.IPV6:
            return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
