"""One file a driver; pure: what a network and its endpoints need of the kernel, as values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from netd.drivers import bridge, link, overlay, ptp
from netd.errors import Invalid
from netd.model import LINK, PTP, Endpoint, Network, Sandbox
from netd.objects import KernelObject


class Driver(Protocol):
    """What every driver offers. None of it does I/O."""

    def check(self, net: Network) -> None:
        """Raise `Invalid` if this driver cannot make such a network; the message names the option."""

    def network(self, net: Network) -> Iterator[KernelObject]:
        """What the host needs for the network itself."""

    def endpoint(
        self, net: Network, sandbox: Sandbox, endpoint: Endpoint, default_families: Collection[int]
    ) -> Iterator[KernelObject]:
        """What one endpoint needs on both sides; it carries the default route of `default_families`."""


_DRIVERS: Mapping[str, Driver] = {"bridge": bridge, LINK: link, "overlay": overlay, PTP: ptp}


def driver(name: str) -> Driver:
    """Look a driver up. Raises `Invalid` naming those there are."""
    found = _DRIVERS.get(name)
    if found is None:
        raise Invalid(f"driver {name!r} does not exist; choose one of: {', '.join(sorted(_DRIVERS))}")
    return found
