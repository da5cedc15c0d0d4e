"""What a topology does inside a container's namespace, where the daemon itself does nothing.

For clients, which wait: each call enters the namespace on a thread of its own. Nothing of it outlives
the namespace, so nothing has to be taken away when a container ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import nftables

from netd.errors import KernelError
from netd.kernel import netns, sysctl
from netd.kernel.libnft import errno_of, one_line
from netd.objects import Sysctl

T = TypeVar("T")


def inside(path: str, label: str, work: Callable[[], T]) -> T:
    """What `work()` gives on a thread inside the namespace at `path`. Raises `NotFound` or `Invalid`."""

    def body() -> T:
        netns.enter(netns.identify(path, label))
        return work()

    return netns.blocking(body, f"in {label}"[:15])


def load_rules(path: str, label: str, text: str) -> None:
    """Load nft commands as one transaction. Raises `KernelError` with libnftables' own words."""

    def work() -> None:
        code, _, problem = nftables.Nftables().cmd(text)
        if code:
            raise KernelError(errno_of(problem), f"rules of {label}", one_line(problem))

    inside(path, label, work)


def write_sysctls(path: str, label: str, sysctls: Iterable[Sysctl]) -> None:
    """Set sysctls of the namespace. Raises `KernelError`."""

    def work() -> None:
        for each in sysctls:
            sysctl.write(each)

    inside(path, label, work)
