"""Turns on what the host must have switched on for containers to be reached, and off again.

Forwarding is a property of the whole host, not of netd's networks. So it is changed only when it is
off and a network needs it, together with a rule that keeps the host from routing for its neighbours
(`firewall.closed`), and it is changed back when the last such network goes. What was changed is
written down first, as a fact of this boot: a daemon that starts later must not take its
predecessor's doing for the administrator's.

IPv6 has a trap. A host that forwards ignores router advertisements unless an interface's
`accept_ra` is 2, and drops the default route that it learned from one (Documentation/networking/
ip-sysctl.rst; net/ipv6/route.c, rt6_purge_dflt_routers). So interfaces that listen now (1) are told
to go on listening (2) before forwarding is turned on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from netd import firewall, names
from netd.drivers import bridge
from netd.kernel.ports import Kernel
from netd.model import Network
from netd.objects import Add, Change, Element, Op, Remove, Sysctl
from netd.store.base import Delete, Put, Store, Table

FACT = "sysctl "
"""Facts are named FACT + path; the value is what the sysctl was before netd changed it."""


def families(networks: Iterable[Network]) -> set[int]:
    """The families in which `networks` need the host to forward; internal ones go nowhere."""
    return {family for network in networks if not network.internal for family in network.families}


class Forwarding:
    """The host-wide switches, and what they were before."""

    def __init__(self, kernel: Kernel, store: Store) -> None:
        self._kernel = kernel
        self._store = store
        self._before: dict[Sysctl, str] = {}
        self._lock = asyncio.Lock()

    def recall(self, facts: Mapping[str, str]) -> None:
        """Take over what an earlier daemon of this boot wrote down."""
        for name, value in facts.items():
            if name.startswith(FACT):
                path = tuple(name.removeprefix(FACT).split("/"))
                self._before[Sysctl(path, _wanted(path))] = value

    def switched(self) -> list[str]:
        """The sysctls that netd has changed on this host, by path, and will change back."""
        return ["/".join(sysctl.path) for sysctl in self._before]

    def closed(self) -> frozenset[Element]:
        """The elements that must exist because netd turned forwarding on."""
        return frozenset(firewall.closed(family) for family in (4, 6) if self._switch(family) in self._before)

    async def ensure(self, needed: set[int]) -> list[Sysctl]:
        """Make sure that the host forwards in these families; return what had to be changed."""
        async with self._lock:
            changed: list[Sysctl] = []
            for family in sorted(needed):
                switch = self._switch(family)
                if await self._kernel.sysctl(switch.path) != "0":
                    continue  # on, or a kernel without the family
                listening = await self._listening() if family == 6 else []
                for sysctl in (*listening, switch):
                    self._before.setdefault(sysctl, _unwanted(sysctl))
                await self._store.live(
                    *(Put(Table.FACT, FACT + "/".join(s.path), self._before[s]) for s in (*listening, switch))
                )
                ops: list[Op] = [Add(firewall.closed(family))]
                ops += [Change(Sysctl(s.path, self._before[s]), s) for s in (*listening, switch)]
                await self._kernel.apply(ops)
                changed += [*listening, switch]
            return changed

    async def release(self, needed: set[int]) -> None:
        """Change back what no network needs any more."""
        async with self._lock:
            for family in (4, 6):
                switch = self._switch(family)
                if family in needed or switch not in self._before:
                    continue
                own = [s for s in self._before if s == switch or (family == 6 and s.path[-1] == "accept_ra")]
                ops: list[Op] = [Change(s, Sysctl(s.path, self._before[s])) for s in reversed(own)]
                # An interface that has gone took its sysctls along.
                ops = [op for op in ops if isinstance(op, Change) and await self._kernel.sysctl(_path(op))]
                await self._kernel.apply([*ops, Remove(firewall.closed(family))])
                await self._store.live(*(Delete(Table.FACT, FACT + "/".join(s.path)) for s in own))
                for sysctl in own:
                    del self._before[sysctl]

    async def _listening(self) -> list[Sysctl]:
        """Interfaces that take router advertisements now and would stop to."""
        interfaces = {name for name, address, _ in await self._kernel.host_networks() if address.version == 6}
        found = []
        for name in sorted(interfaces):
            path = ("net", "ipv6", "conf", name, "accept_ra")
            if not name.startswith(names.BRIDGE_PREFIX) and await self._kernel.sysctl(path) == "1":
                found.append(Sysctl(path, "2"))
        return found

    @staticmethod
    def _switch(family: int) -> Sysctl:
        [switch] = bridge.forwarding([family])
        return switch


def _path(change: Change) -> tuple[str, ...]:
    assert isinstance(change.old, Sysctl)
    return change.old.path


def _wanted(path: tuple[str, ...]) -> str:
    return "2" if path[-1] == "accept_ra" else "1"


def _unwanted(sysctl: Sysctl) -> str:
    return "1" if sysctl.path[-1] == "accept_ra" else "0"
