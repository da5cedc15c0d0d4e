"""Joins the two sides of a published port: netd's own table and the socket that reserves it.

A port is *taken* before the kernel hears of it: chosen where the request left it open, entered in
the table, bound by the relay. It is *led* to a container once that can be reached, and led elsewhere
when the container's default route moves to another network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from netd import tasks
from netd.errors import AlreadyExists, Invalid, NetdError
from netd.kernel.ports import Kernel
from netd.model import Endpoint, IPAddress, Network, Owner, PortMapping, Proto, Sandbox, default_route_of
from netd.ports import Ports, ephemeral, show
from netd.relay import Bind, Relay, bind
from netd.store.base import Attached

log = logging.getLogger(__name__)

RANGE = ("net", "ipv4", "ip_local_port_range")
RESERVED = ("net", "ipv4", "ip_local_reserved_ports")
RETRY = 5.0
"""Seconds between attempts to get a port that another program took while netd was away, or that a CNI
runtime was let have first."""


def targets(endpoints: Sequence[Endpoint], networks: Mapping[str, Network]) -> dict[int, IPAddress]:
    """Where the ports of a sandbox lead, by family: to the endpoint with the default route of that family."""
    found: dict[int, IPAddress] = {}
    for family in (4, 6):
        endpoint = default_route_of(tuple(endpoints), networks, family)
        if endpoint:
            found[family] = endpoint.of_family(family)[0].ip
    return found


class Publishing:
    """Every published port of this host."""

    def __init__(self, kernel: Kernel, bind: Bind = bind) -> None:
        self._kernel = kernel
        self._table = Ports()
        self._relay = Relay(kernel.holder, bind)
        self._retrying: asyncio.Task[None] | None = None
        self._lost: dict[PortMapping, tuple[Attached, Mapping[str, Network]]] = {}

    async def take(self, sandbox: Sandbox, wanted: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """Choose and reserve all of `wanted`, or none; returns them with their host ports.

        Raises `AlreadyExists` naming who holds one, `Invalid` for an address that is not the host's,
        `Exhausted` where there is nothing left to choose from.
        """
        await self._check_addresses(wanted)
        free: Sequence[int] = ()
        if any(mapping.host_port == 0 for mapping in wanted):
            free = ephemeral(await self._kernel.sysctl(RANGE), await self._kernel.sysctl(RESERVED))
        taken: list[PortMapping] = []
        try:
            for mapping in wanted:
                taken.append(await self._take(sandbox, mapping, free))
        except BaseException:
            self.release(sandbox, taken)
            raise
        return tuple(taken)

    async def _take(self, sandbox: Sandbox, wanted: PortMapping, free: Sequence[int]) -> PortMapping:
        """The first candidate that nobody holds, neither in the table nor on the host."""
        named = wanted.host_port and not wanted.host_port_end
        for mapping in self._table.candidates(wanted, free):
            self._table.claim(sandbox.id, sandbox.name, mapping)
            try:
                await self._relay.hold(mapping)
            except BaseException as error:
                self._table.release(sandbox.id, [mapping])
                if named or not isinstance(error, AlreadyExists):
                    raise
            else:
                if sandbox.owner is Owner.CNI:
                    # Podman binds the port itself once the network is up, and fails if it cannot. So
                    # a runtime goes first; what it leaves is taken a moment later (`lead`).
                    self._relay.drop(mapping)
                return mapping
        raise AssertionError("candidates() yields one or raises")

    async def _check_addresses(self, wanted: Iterable[PortMapping]) -> None:
        named = [mapping for mapping in wanted if mapping.host_ip]
        if not named:
            return
        own = set(await self._kernel.host_addresses())
        for mapping in named:
            address = mapping.host_ip
            assert address is not None
            if address.is_link_local:
                raise Invalid(
                    f"port {show(mapping)} cannot be published: link-local addresses mean nothing beyond a "
                    "link; name another address, or none for all"
                )
            if address not in own and not address.is_loopback and not address.is_unspecified:
                raise Invalid(
                    f"port {show(mapping)} cannot be published: {address} is not an address of this host"
                )

    def release(self, sandbox: Sandbox, mappings: Iterable[PortMapping]) -> None:
        """Give ports back; connections through them are cut."""
        mappings = list(mappings)
        for mapping in mappings:
            self._lost.pop(mapping, None)
            self._relay.drop(mapping)
        self._table.release(sandbox.id, mappings)

    def rename(self, sandbox: Sandbox) -> None:
        """Name it to others, who ask for the same ports, as it is called today."""
        self._table.rename(sandbox.id, sandbox.name, sandbox.ports)

    def lead(self, attached: Attached, networks: Mapping[str, Network]) -> None:
        """Lead all ports of a sandbox to where its endpoints are now."""
        for mapping in attached.sandbox.ports:
            if not self._table.holds(attached.sandbox.id, mapping):
                continue  # a damaged store may speak of two
            if self._relay.holds(mapping):
                self._relay.serve(mapping, targets(attached.endpoints, networks))
            else:
                self._lost[mapping] = (attached, networks)
        self._try_again()

    def _try_again(self) -> None:
        if self._lost and (self._retrying is None or self._retrying.done()):
            self._retrying = tasks.spawn(self._win_back(), name="take back ports")

    async def adopt(self, attached: Iterable[Attached], networks: Mapping[str, Network]) -> None:
        """Take back, after a restart, what was published before.

        Never fails: the kernel's translation still works without the socket. What another program has
        bound meanwhile is tried again until it lets go.
        """
        for each in attached:
            for mapping in each.sandbox.ports:
                try:
                    self._table.claim(each.sandbox.id, each.sandbox.name, mapping)
                except NetdError as error:
                    log.error("two containers publish one port: %s", error)
                    continue
                try:
                    await self._relay.hold(mapping)
                except NetdError as error:
                    log.warning("%s; %r is not reachable on it by loopback", error, each.sandbox.name)
                    self._lost[mapping] = (each, networks)
            self.lead(each, networks)
        self._try_again()

    async def _win_back(self) -> None:
        while self._lost:
            await asyncio.sleep(RETRY)
            for mapping in list(self._lost):
                if mapping not in self._lost:
                    continue  # given back while we waited for another
                try:
                    await self._relay.hold(mapping)
                except NetdError:
                    continue
                attached, networks = self._lost.pop(mapping)
                self._relay.serve(mapping, targets(attached.endpoints, networks))
                log.info("port %s is ours now", show(mapping))

    async def flush(self, mappings: Iterable[PortMapping]) -> None:
        """Make the kernel forget UDP flows of these ports, which would go on to the old place."""
        udp = {(mapping.host_ip, mapping.host_port) for mapping in mappings if mapping.proto is Proto.UDP}
        if udp:
            await self._kernel.flush_udp(udp)

    def close(self) -> None:
        """Let go of every socket."""
        if self._retrying:
            self._retrying.cancel()
        self._relay.close()
