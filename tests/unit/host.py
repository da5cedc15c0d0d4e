"""A host without a kernel for the tests of the engine: fake kernel, real store, a feed that remembers."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from netd.cluster.ports import Cluster
from netd.engine import Engine
from netd.events import Events
from netd.kernel.fake import FakeKernel
from netd.kernel.ports import Kernel
from netd.model import Endpoint, Network, Owner, PortMapping, Proto, RemoteEndpoint, Sandbox
from netd.objects import Sysctl
from netd.settings import Settings
from netd.store.base import Store
from netd.store.sqlite import SqliteStore
from netd.wanted import everything

FORWARD4 = ("net", "ipv4", "ip_forward")
FORWARD6 = ("net", "ipv6", "conf", "all", "forwarding")
RANGE = ("net", "ipv4", "ip_local_port_range")
RESERVED = ("net", "ipv4", "ip_local_reserved_ports")


class Feed:
    """A `NameFeed` that knows what the DNS would know."""

    def __init__(self) -> None:
        self.networks: set[str] = set()
        self._told: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.remotes: dict[str, tuple[str, ...]] = {}

    async def start(
        self, networks: Sequence[Network], sandboxes: Sequence[tuple[Sandbox, Sequence[Endpoint]]]
    ) -> None:
        self.networks = {network.name for network in networks}
        self._told = {box.id: (box.name, _addresses(endpoints)) for box, endpoints in sandboxes if endpoints}

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """What resolves."""
        return dict(self._told.values())

    async def network_added(self, network: Network) -> None:
        self.networks.add(network.name)

    async def network_removed(self, network: Network) -> None:
        self.networks.discard(network.name)

    async def sandbox_changed(self, sandbox: Sandbox, endpoints: Sequence[Endpoint]) -> None:
        self._told.pop(sandbox.id, None)
        if endpoints:
            self._told[sandbox.id] = (sandbox.name, _addresses(endpoints))

    async def remotes_changed(
        self, known: Collection[RemoteEndpoint], gone: Collection[RemoteEndpoint] = ()
    ) -> None:
        for remote in gone:
            self.remotes.pop(remote.name, None)
        self.remotes.update((remote.name, _addresses([remote])) for remote in known)

    async def close(self) -> None:
        pass


def _addresses(endpoints: Sequence[Endpoint | RemoteEndpoint]) -> tuple[str, ...]:
    return tuple(str(interface.ip) for endpoint in endpoints for interface in endpoint.addresses)


class Host:
    """What outlives a daemon, the kernel and the directories; and the daemon of the moment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kernel = FakeKernel()
        self.wrap: Callable[[Host], None] = lambda host: None
        """Called with each new daemon's surroundings, to put something between them and it."""
        self.kernel.sysctls.update({FORWARD4: "0", FORWARD6: "0", RANGE: "40000 40999", RESERVED: "40001"})
        self.boot = "boot"
        self.cluster: Cluster | None = None
        self.engine: Engine
        self.feed: Feed
        self.store: SqliteStore
        self.taken: set[tuple[Proto, int]] = set()

    async def start(self) -> Engine:
        """Start a daemon."""
        self.feed, events = Feed(), Events()
        self.store = SqliteStore(self.directory / "state", self.directory / "run", boot_id=self.boot)
        self.seen: Kernel = self.kernel
        self.remembered: Store = self.store
        self.wrap(self)
        self.engine = Engine(
            kernel=self.seen,
            store=self.remembered,
            feed=self.feed,
            settings=Settings(state_dir=str(self.directory / "state")),
            events=events,
            cluster=self.cluster,
            bind=self._bind,
        )
        self._watcher = events.subscribe()
        await self.engine.start()
        return self.engine

    def _bind(self, mapping: PortMapping) -> list[socket.socket]:
        """Ports are taken in a set: the tests of the engine run beside each other on one machine."""
        if (mapping.proto, mapping.host_port) in self.taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return []

    async def restart(self) -> Engine:
        """End the daemon in good order, and start the next."""
        await self.engine.close()
        return await self.start()

    async def crash(self) -> None:
        """The daemon dies where it stands; the kernel and the files are what they are."""
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # some begin others when they end
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self.store.close()
        await self.kernel.close()

    def assert_as_wanted(self) -> None:
        """The kernel holds what the view asks for, on the host and inside, and nothing else."""
        wide = {Sysctl(path, "").key for path in (FORWARD4, FORWARD6)}
        there = {str(item) for item in self.kernel.objects if item.key not in wide}
        wanted = everything(self.engine.view, ()) | self.engine._forwarding.closed()
        wanted |= self.engine.elsewhere()
        assert there == {str(item) for item in wanted}

    def events(self) -> list[str]:
        """What was emitted since the last time, as "type action name"."""
        news = []
        while self._watcher._unread:
            event = self._watcher._unread.popleft()
            news.append(f"{event.type} {event.action} {event.name}".strip())
        return news

    def left_over(self) -> set[str]:
        """What exists in the kernel beside host-wide sysctls at their original value."""
        untouched = {str(Sysctl(path, value)) for path, value in self.kernel.sysctls.items()}
        return {str(item) for item in self.kernel.objects} - untouched

    async def sandbox(self, name: str, *ports: PortMapping) -> Sandbox:
        """A fresh namespace and the sandbox that lives in it."""
        netns = await self.kernel.netns_create(name)
        return Sandbox(id=f"id-{name}", name=name, owner=Owner.CONTAINER, netns=netns, ports=ports)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Host]:
    """A host with a daemon, which is ended afterwards."""
    host = Host(directory)
    await host.start()
    try:
        yield host
    finally:
        await host.engine.close()


def port(
    number: int = 0, ip: str = "", proto: Proto = Proto.TCP, container: int = 80, end: int = 0
) -> PortMapping:
    """A published port, in few words."""
    return PortMapping(
        proto=proto,
        host_ip=ip_address(ip) if ip else None,
        host_port=number,
        container_port=container,
        host_port_end=end,
    )


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    """Wait for a condition to hold."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come to hold in time")
