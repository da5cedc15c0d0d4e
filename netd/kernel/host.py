"""The real kernel behind the `Kernel` contract.

Who does what, and on which thread:

    nft elements            one writer task, its libnftables context on a thread of its own
    links of the host       one thread with one rtnetlink socket
    deleting links          a few threads, because each deletion waits for RCU inside the kernel
    inside a namespace      one short-lived thread for all that one call does there
    looking at the host     a thread of the loop's pool, with a socket of its own
    listening               the event loop

`apply` cuts the ordered operations into stretches that belong to the same place and hands over one
stretch after the other. That keeps the order the planner chose, costs one hop between threads for
each stretch, and lets stretches of different callers run side by side: while one endpoint's
namespace is being filled, the next one's veth pair is made.

A deletion is over when the kernel announces that the link has left the namespace (`Monitor`). The
acknowledgement comes 15 to 40 ms later, after the kernel has waited for RCU to free the memory;
nobody needs to wait for that, so nobody does, except `close`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from netd.errors import KernelError, NetdError, NotFound, Unavailable
from netd.kernel import (
    conntrack,
    dumps,
    facts,
    fastnl,
    holder,
    nftrace,
    observe,
    packets,
    sysctl,
    threads,
    unlinking,
)
from netd.kernel import netns as namespaces
from netd.kernel.links import Links
from netd.kernel.monitor import Monitor
from netd.kernel.nft import Nft
from netd.kernel.ports import ApplyError, Drift, Flow, PacketKind, TraceStep, Underlay, Uplink
from netd.kernel.wireguard import Devices
from netd.keys import KeyFile
from netd.model import IPAddress, Netns, Proto
from netd.objects import (
    Address,
    Bridge,
    Change,
    Element,
    HostLink,
    Ifb,
    KernelObject,
    Op,
    Remove,
    Route,
    Sysctl,
    Up,
    Veth,
    Vxlan,
    WireGuard,
)

DELETING_THREADS = 16
NFT, DELETE, HOST = "nft", "delete", "host"
T = TypeVar("T")


def _place(op: Op) -> str | Netns:
    """Where an operation is carried out: consecutive ones of one place go there together."""
    item = op.new if isinstance(op, Change) else op.object
    match item:
        case Element():
            return NFT
        case Bridge() | Veth() | Vxlan() | Ifb() | WireGuard():
            return DELETE if isinstance(op, Remove) else HOST
        case Address() | Up() | Route() | Sysctl() if item.netns is not None:
            return item.netns
    return HOST


class _Rtnl:
    """The host's rtnetlink: one thread with one socket for everything but the deletion of links."""

    def __init__(self, wrote: Callable[[], None], devices: Devices) -> None:
        self._wrote = wrote
        self._socket = fastnl.Socket()
        self._thread = threads.pool(1, "rtnl")
        self._deleting = threads.pool(DELETING_THREADS, "rtnl-delete")
        self.links = Links(self._socket, wrote, on_host=True, devices=devices)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on the thread that owns the socket."""
        return await namespaces.settled(asyncio.wrap_future(self._thread.submit(work, *arguments)))

    def own(self) -> dict[int, str]:
        """Index and name of every link of netd's. On the thread only, as `deletable`."""
        found = map(dumps.link, self._socket.dump(fastnl.link_dump()))
        return {link.index: link.name for link in found if link.ours}

    def deletable(self, names: Sequence[str]) -> list[int]:
        return unlinking.deletable(self._socket, names)

    def delete(self, indexes: Sequence[int]) -> Future[None]:
        return self._deleting.submit(unlinking.delete, indexes, self._wrote)

    def close(self) -> None:
        """Wait for everything under way, then close. Blocks."""
        self._deleting.shutdown()
        self._thread.shutdown()
        self._socket.close()


def _settle(over: asyncio.Future[None], event: asyncio.Future[Any]) -> None:
    """Let `over` end as `event` did, if it was the first; look at its error in any case."""
    if event.cancelled():
        return
    error = event.exception()
    if over.done():
        return
    if error is not None:
        over.set_exception(error)
    else:
        over.set_result(None)


class HostKernel:
    """`Kernel` on the network namespace of the thread that constructs and starts it.

    `key_file` and `wireguard_go` are for `netd.kernel.wireguard.Devices`.
    """

    def __init__(self, run_dir: Path, *, key_file: KeyFile | None = None, wireguard_go: str = "") -> None:
        self.writes = 0
        self._counting = threading.Lock()
        self._namespaces = run_dir / "netns"
        self._nft = Nft(self._wrote)
        self._monitor = Monitor()
        self._devices = Devices(key_file, wireguard_go, self._wrote)
        self._rtnl: _Rtnl | None = None

    def _wrote(self, number: int = 1) -> None:
        with self._counting:  # called from several threads
            self.writes += number

    async def start(self) -> None:
        """Open sockets, load the rule set if needed. Raises `Unsupported`, `KernelError`."""
        self._namespaces.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            threads.reserve()
            self._rtnl = _Rtnl(self._wrote, self._devices)
            await self._nft.start()
            self._monitor.start(await self._rtnl.run(self._rtnl.own))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Let what is under way end, then close every descriptor; the data path stays as it is."""
        self._monitor.close()
        await self._nft.close()
        if self._rtnl:
            await asyncio.to_thread(self._rtnl.close)
        self._rtnl = None

    @property
    def _host(self) -> _Rtnl:
        if self._rtnl is None:
            raise Unavailable("the kernel adapter is not started")
        return self._rtnl

    # Writing ---------------------------------------------------------------------------------------

    async def apply(self, ops: Sequence[Op]) -> None:
        """Carry out `ops` in order; see `Kernel.apply`.

        A call that is cancelled still ends the stretch under way, so nothing is written after it.
        """
        done: list[Op] = []
        for place, stretch in groupby(ops, _place):
            try:
                await self._apply_at(place, list(stretch), done)
            except NetdError as error:
                raise ApplyError(error, done) from error
            except OSError as error:  # no request was refused: there is no descriptor or memory for one
                raise ApplyError(KernelError(error.errno or 0, str(ops[len(done)])), done) from error

    async def _apply_at(self, place: str | Netns, ops: list[Op], done: list[Op]) -> None:
        if isinstance(place, Netns):
            await self._apply_inside(place, ops, done)
        elif place == HOST:
            await self._host.run(self._host.links.apply, ops, done)
        else:
            await (self._nft.apply(ops) if place == NFT else self._delete_links(ops))
            done.extend(ops)

    async def _apply_inside(self, place: Netns, ops: list[Op], done: list[Op]) -> None:
        def work() -> None:
            with fastnl.Socket() as socket:
                Links(socket, self._wrote, on_host=False).apply(ops, done)

        try:
            await namespaces.inside(place, work)
        except NotFound:
            # With the namespace everything in it is gone, which is all that a removal wants.
            if not all(isinstance(op, Remove) for op in ops):
                raise
            done.extend(ops)

    async def _delete_links(self, ops: Sequence[Op]) -> None:
        """Delete links; return when all of them have left the namespace, or raise why not."""
        names = [op.object.name for op in ops if isinstance(op, Remove) and isinstance(op.object, HostLink)]
        indexes = await self._host.run(self._host.deletable, names)
        if not indexes:
            return
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        departures = asyncio.gather(*map(self._monitor.departure, indexes))
        freed = asyncio.wrap_future(self._host.delete(indexes))
        for event in (departures, freed):
            event.add_done_callback(lambda event: _settle(over, event))
        try:
            await namespaces.settled(over)
        finally:
            for index in indexes:
                self._monitor.forget(index)

    async def restore_rules(self) -> bool:
        """Put the rule set back at once if somebody changed it; see `Kernel.restore_rules`."""
        return await self._nft.restore()

    # Reading ---------------------------------------------------------------------------------------

    async def observe(self, sysctls: Collection[tuple[str, ...]] = ()) -> frozenset[KernelObject]:
        """Everything of netd's on the host; see `Kernel.observe`."""
        elements, state = await asyncio.gather(
            self._nft.elements(), asyncio.to_thread(observe.host, frozenset(sysctls))
        )
        return elements | state

    async def observe_some(self, wanted: Collection[KernelObject]) -> frozenset[KernelObject]:
        """What is there of `wanted`; see `Kernel.observe_some`."""
        intact, found = await asyncio.gather(self._nft.intact(), asyncio.to_thread(observe.some, wanted))
        return found if intact else frozenset(each for each in found if not isinstance(each, Element))

    async def observe_sandbox(
        self, netns: Netns, links: Collection[str], sysctls: Collection[tuple[str, ...]]
    ) -> frozenset[KernelObject]:
        """What is inside one namespace; see `Kernel.observe_sandbox`."""
        names, paths = frozenset(links), frozenset(sysctls)
        return await namespaces.inside(netns, lambda: observe.sandbox(netns, names, paths))

    async def interface(self, netns: Netns, name: str) -> tuple[str, int] | None:
        """A link inside a namespace; see `Kernel.interface`."""
        return await namespaces.inside(netns, lambda: observe.interface(name))

    async def host_networks(self) -> Collection[tuple[str, IPAddress, int]]:
        return await asyncio.to_thread(facts.networks)

    async def host_addresses(self) -> Collection[IPAddress]:
        return await asyncio.to_thread(facts.addresses)

    async def sysctl(self, path: tuple[str, ...]) -> str:
        return sysctl.read(path) or ""

    async def uplink(self) -> Uplink | None:
        return await asyncio.to_thread(facts.uplink)

    async def underlay(self, address: IPAddress) -> Underlay | None:
        found = await facts.underlay(address)
        index, underlay = found or (0, None)
        self._monitor.underlay(index, address)
        return underlay

    async def wireguard_lack(self) -> str:
        return await asyncio.to_thread(self._devices.lack)

    # Namespaces, conntrack, the rest ---------------------------------------------------------------

    async def netns_create(self, label: str) -> Netns:
        return await namespaces.create(self._namespaces, label)

    async def netns_open(self, path: str, label: str) -> Netns:
        return namespaces.identify(path, label)

    async def netns_delete(self, netns: Netns) -> None:
        if Path(netns.path).parent == self._namespaces:
            await asyncio.to_thread(namespaces.release, netns)  # unmounting waits for RCU

    async def netns_alive(self, netns: Netns) -> bool:
        return namespaces.alive(netns)

    async def flush_udp(self, ports: Collection[tuple[IPAddress | None, int]]) -> None:
        await asyncio.to_thread(conntrack.flush, frozenset(ports), self._wrote)

    async def forget_untranslated(self, addresses: Collection[IPAddress]) -> None:
        await asyncio.to_thread(conntrack.untranslated, addresses, self._wrote)
        await self._nft.trust()

    def watch(self) -> AsyncIterator[Drift]:
        return self._monitor.watch()

    async def holder(self, proto: Proto, address: IPAddress | None, port: int) -> str:
        return await asyncio.to_thread(holder.find, proto, address, port)

    async def packet_socket(self, netns: Netns | None, kind: PacketKind, ifname: str = "") -> socket.socket:
        return await packets.open_socket(netns, kind, ifname)

    async def trace(
        self, flow: Flow, send: Callable[[], Awaitable[None]], within: float | None = None
    ) -> list[TraceStep]:
        return await nftrace.trace(flow, send, within)
