"""The wire between hosts that are namespaces of this machine: a bridge in one, a veth pair to each other.

For clients, like `netd.kernel.inner`. Nothing of it is on the machine itself; all ends with the namespaces.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from socket import if_nametoindex

from netd.errors import KernelError
from netd.kernel import fastnl, netns
from netd.kernel.fastnl import Refused
from netd.model import IPInterface, Netns
from netd.names import mac_of

BRIDGE = "lan"
PORT = "eth0"
MTU = 1500
STATIC = 4
"""RTPROT_STATIC (linux/rtnetlink.h), an administrator's. What bears netd's own number, a daemon of that host
would take for a leftover of its own and remove."""


def lay(wire: Netns, addresses: Sequence[IPInterface]) -> None:
    """Make the bridge in the namespace `wire`, with addresses of its own. Repeatable."""

    def work() -> None:
        netns.enter(wire)
        with fastnl.Socket() as socket:
            socket.request(fastnl.link_change(if_nametoindex("lo"), up=True))
            _made(socket, fastnl.bridge_create(BRIDGE, mac_of(wire.label), MTU, 0))
            for address in addresses:
                _made(socket, fastnl.address_add(if_nametoindex(BRIDGE), address, STATIC))

    _named(work, "the wire between hosts")


def plug(wire: Netns, host: Netns, addresses: Sequence[IPInterface]) -> None:
    """Give `host` an interface `eth0` on the bridge of `wire`. Repeatable."""

    def on_the_wire() -> None:
        netns.enter(wire)
        descriptor = netns.open_checked(host)
        name = f"h-{host.label}"[:15]
        try:
            with fastnl.Socket() as socket:
                mac = mac_of(f"{wire.label}/{host.label}")
                _made(socket, fastnl.veth_create(name, MTU, 0, PORT, mac, descriptor))
                change = fastnl.link_change(
                    if_nametoindex(name), master=if_nametoindex(BRIDGE), own_ipv6=False
                )
                socket.request(change)
        finally:
            os.close(descriptor)

    def at_the_host() -> None:
        netns.enter(host)
        with fastnl.Socket() as socket:
            socket.request(fastnl.link_change(if_nametoindex("lo"), up=True))
            index = if_nametoindex(PORT)
            for address in addresses:
                _made(socket, fastnl.address_add(index, address, STATIC))
            socket.request(fastnl.link_change(index, up=True))

    _named(on_the_wire, f"the wire to host {host.label}")
    _named(at_the_host, f"host {host.label}")


def _made(socket: fastnl.Socket, message: bytes) -> None:
    try:
        socket.request(message)
    except Refused as error:
        if error.errno != errno.EEXIST:
            raise


def _named(work: object, what: str) -> None:
    try:
        netns.blocking(work, "underlay")  # type: ignore[arg-type]
    except Refused as error:
        raise KernelError(error.errno or 0, what, error.hint) from error
