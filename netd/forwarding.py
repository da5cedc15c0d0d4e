"""Turns on what the host must have switched on for containers to be reached, and off again.

Forwarding is a property of the whole host, not of netd's networks. So it is changed only when it is
off and a network needs it, together with a rule that keeps the host from routing for its neighbours
(`firewall.closed`), and it is changed back when the last such network goes. What was there before is
written down first, as facts of this boot: a daemon that starts later must not take its predecessor's
doing for the administrator's.

The switch of the whole host is also one of each interface there is: the kernel turns it on for those that
must not forward, too, such as the bridges of internal networks. So they are turned off again at once.

Each family has a trap. Switching IPv4 forwarding sets `accept_redirects` of "all", each time, to the
opposite (net/ipv4/devinet.c, inet_forward_change), so a hardened host would come back soft. A host
that forwards IPv6 ignores router advertisements unless an interface's `accept_ra` is 2, and drops the
default route that it learned from one (net/ipv6/route.c, rt6_purge_dflt_routers), so interfaces that
listen now (1) are told to go on listening (2) before forwarding is turned on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from netd import firewall, names
from netd.drivers import bridge
from netd.errors import NetdError
from netd.kernel.ports import ApplyError, Kernel
from netd.model import PTP, Network
from netd.objects import Add, Change, Element, Op, Remove, Sysctl
from netd.store.base import Delete, Put, Store, Table

Path = tuple[str, ...]
SWITCHES: Mapping[int, Path] = {family: next(iter(bridge.forwarding([family]))).path for family in (4, 6)}
REDIRECTS: Path = ("net", "ipv4", "conf", "all", "accept_redirects")
FACT = "sysctl "
"""Facts are named FACT + path; the value is what the sysctl was before netd changed it."""


def families(networks: Iterable[Network]) -> set[int]:
    """The families in which `networks` need the host to forward: bridges only outwards, ptp also from one
    container to the next, links never."""

    def forwards(network: Network) -> bool:
        outward = not network.internal
        return (network.bridged and outward) or (network.driver == PTP and (outward or network.icc))

    return {family for network in networks if forwards(network) for family in network.families}


class Forwarding:
    """The host-wide switches, and what they were before. `kept_off` are those of single interfaces that
    must stay 0 (`netd.wanted.kept_off`)."""

    def __init__(self, kernel: Kernel, store: Store, kept_off: Callable[[], Iterable[Path]]) -> None:
        self._kernel = kernel
        self._store = store
        self._kept_off = kept_off
        self._before: dict[Path, str] = {}
        self._lock = asyncio.Lock()

    def recall(self, facts: Mapping[str, str]) -> None:
        """Take over what an earlier daemon of this boot wrote down."""
        for name, value in facts.items():
            if name.startswith(FACT):
                self._before[tuple(name.removeprefix(FACT).split("/"))] = value

    def switched(self) -> list[str]:
        """The sysctls that netd has changed on this host, by path, and will change back."""
        return ["/".join(path) for path in self._before]

    def closed(self) -> frozenset[Element]:
        """The elements that must exist because netd turned forwarding on."""
        return frozenset(firewall.closed(family) for family in (4, 6) if SWITCHES[family] in self._before)

    async def ensure(self, needed: set[int]) -> list[Sysctl]:
        """Make sure that the host forwards in these families; what had to be changed for that."""
        changed = []
        async with self._lock:
            for family in sorted(needed):
                # "" is a kernel without the family.
                if await self._kernel.sysctl(SWITCHES[family]) == "0":
                    await self._turn_on(family)
                    changed.append(Sysctl(SWITCHES[family], "1"))
        return changed

    async def _turn_on(self, family: int) -> None:
        before = {SWITCHES[family]: "0"}
        before |= (
            await self._listening() if family == 6 else {REDIRECTS: await self._kernel.sysctl(REDIRECTS)}
        )
        before = {path: value for path, value in before.items() if value and path not in self._before}
        await self._store.live(*(Put(Table.FACT, _fact(path), value) for path, value in before.items()))
        self._before |= before
        ops: list[Op] = [Add(firewall.closed(family))]
        ops += [_change(path, "1", "2") for path in before if path[-1] == "accept_ra"]
        await self._apply([*ops, _change(SWITCHES[family], "0", "1")])
        await self._except_some(family)

    async def _except_some(self, family: int) -> None:
        """Asked after the switch: what is made later is set by itself."""
        for path in self._kept_off():
            if path[1] == f"ipv{family}" and await self._kernel.sysctl(path) == "1":
                with suppress(NetdError):  # it is being removed; else the next look finds it
                    await self._apply([_change(path, "1", "0")])

    async def _listening(self) -> dict[Path, str]:
        """Interfaces that take router advertisements now and would stop to."""
        found: dict[Path, str] = {}
        for name in {name for name, address, _ in await self._kernel.host_networks() if address.version == 6}:
            path: Path = ("net", "ipv6", "conf", name, "accept_ra")
            if not name.startswith(names.BRIDGE_PREFIX) and await self._kernel.sysctl(path) == "1":
                found[path] = "1"
        return found

    async def release(self, needed: Callable[[], set[int]]) -> None:
        """Change back what no network needs any more; `needed` is asked when nobody can interfere."""
        async with self._lock:
            for family in {4, 6} - needed():
                if SWITCHES[family] in self._before:
                    await self._turn_off(family)

    async def _turn_off(self, family: int) -> None:
        own = [path for path in self._before if path[1] == f"ipv{family}"]
        ops: list[Op] = [_change(SWITCHES[family], "1", "0")]
        for path in own:
            # An interface that has gone took its sysctls along; what somebody else set since, stays.
            if path[-1] == "accept_ra" and await self._kernel.sysctl(path) == "2":
                ops.append(_change(path, "2", "1"))
            if path == REDIRECTS:
                ops.append(_change(path, "1", self._before[path]))
        await self._apply([*ops, Remove(firewall.closed(family))])
        for path in own:
            del self._before[path]
        # Should this fail, the next start finds facts that nobody needs, and comes by here again.
        await self._store.live(*(Delete(Table.FACT, _fact(path)) for path in own))

    async def _apply(self, ops: Sequence[Op]) -> None:
        try:
            await self._kernel.apply(ops)
        except ApplyError as error:
            raise error.cause from error


def _change(path: Path, old: str, new: str) -> Change:
    return Change(Sysctl(path, old), Sysctl(path, new))


def _fact(path: Path) -> str:
    return FACT + "/".join(path)
