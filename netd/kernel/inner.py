"""What clients do inside a namespace, where the daemon itself does nothing.

Topologies and tests are such clients, and may wait: each call enters the namespace on a thread of its
own. Its way in is a socket that the daemon opened there (`netd.packets`), which leads to the right place
wherever the client is. Nothing outlives the namespace, so nothing has to be taken away when a container
ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from socket import if_nametoindex, socket
from typing import TypeVar

from netd.errors import KernelError
from netd.kernel import fastnl, netem, netns, sysctl
from netd.kernel.fastnl import Refused
from netd.kernel.libnft import FAMILIES, command, elements_of, errno_of, library, one_line
from netd.kernel.netem import Netem
from netd.objects import Element, Sysctl

T = TypeVar("T")


def inside(door: socket, label: str, work: Callable[[], T]) -> T:
    """What `work()` gives on a thread inside the namespace that `door` belongs to. Raises `KernelError`."""

    def body() -> T:
        netns.enter_with(door.fileno(), label)
        return work()

    return netns.blocking(body, f"in {label}"[:15])


def load_rules(door: socket, label: str, text: str) -> None:
    """Load nft commands as one transaction. Raises `KernelError` with libnftables' own words."""

    def work() -> None:
        code, _, problem = command(library(), text)
        if code:
            raise KernelError(errno_of(problem), f"rules of {label}", one_line(problem))

    inside(door, label, work)


def delay(door: socket, label: str, ifname: str, wanted: Netem | None) -> None:
    """Have what an interface sends wait, or with None no longer. Raises `KernelError`, and `Unsupported`
    where the kernel cannot."""

    def work() -> None:
        with fastnl.Socket() as socket:
            try:
                netem.put(socket, if_nametoindex(ifname), wanted)
            except Refused as error:
                raise KernelError(error.errno or 0, f"delay of {ifname} in {label}", error.hint) from error

    inside(door, label, work)


def elements(door: socket, label: str) -> frozenset[Element]:
    """The elements in netd's own tables. Raises `KernelError`."""

    def work() -> frozenset[Element]:
        listing = library()
        listing.set_json_output(True)
        found: set[Element] = set()
        for family in FAMILIES:
            code, listed, problem = command(listing, f"list table {family} netd")
            if code:
                raise KernelError(errno_of(problem), f"list the rules of {label}", one_line(problem))
            found.update(elements_of(listed))
        return frozenset(found)

    return inside(door, label, work)


def write_sysctls(door: socket, label: str, sysctls: Iterable[Sysctl]) -> None:
    """Set sysctls of the namespace. Raises `KernelError`."""

    def work() -> None:
        for each in sysctls:
            sysctl.write(each)

    inside(door, label, work)
