"""The composition root: builds the daemon's parts, starts them in order, ends them in reverse.

Starting goes from what others stand on to what others use: directories and lock, then the engine
(with kernel, store and name feed) beside the runtime, the containers, and last the socket. So the first
request that can arrive finds everything there, and `READY=1` means it. Each part that was started
is pushed on one exit stack; a failure, or a signal, half-way through unwinds exactly what is there.

Ending takes nothing down but the daemon. Containers, bridges, rules and the DNS process stay, because
the data path needs no daemon (architecture, law 4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import netd
from netd import dirs
from netd.cluster.ports import Cluster
from netd.dns_feed import NameFeed
from netd.dns_lookup import Names
from netd.errors import Denied
from netd.events import Events
from netd.kernel.ports import Kernel, Survey
from netd.keys import KeyFile
from netd.runtime.spec import Runtime
from netd.settings import Settings
from netd.store.base import Store

log = logging.getLogger(__name__)

GRACE = 2.0
"""Seconds that running calls get when the daemon stops. Whoever watches is told and ends at once; a
terminal or a `wait` is cut off, and its container goes on."""


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd (sd_notify(3)); nothing where it does not listen. "@" starts an abstract address."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            log.warning("systemd was not told %s: %s", state, error)


class Signals:
    """SIGTERM, SIGINT or SIGHUP: while starting they cancel the start, later they ask to stop.

    Made first thing in the main task, whose cancellation is the one thing that every await of the
    start already answers to. A second signal changes nothing: what ends is bounded in time.
    """

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._starting = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) asks for
                asyncio.get_running_loop().add_signal_handler(number, self._received, number)

    def _received(self, number: int) -> None:
        log.info("stopping: %s", signal.Signals(number).name)
        if not self._stop.is_set() and self._starting is not None:
            self._starting.cancel()
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def wait(self) -> None:
        """The start is over; return when a signal has come."""
        self._starting = None
        await self._stop.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """What differs between a host and a test: whatever touches something outside of the process."""

    kernel: Kernel
    store: Store
    feed: NameFeed
    runtime: Runtime
    survey: Callable[[], Awaitable[Survey]]
    names: Names | None = None
    cluster: Cluster | None = None
    lock: dirs.HostLock | None = None


def of_this_host(settings: Settings) -> Rooms:
    """The real ones. Imported here, so that a start that is refused does not wait for them."""
    from netd.cluster.join import join
    from netd.dns_feed import DnsFeed
    from netd.kernel import threads
    from netd.kernel.host import HostKernel
    from netd.kernel.survey import survey
    from netd.runtime.local import LocalRuntime
    from netd.store.sqlite import SqliteStore

    threads.one_arena()
    asyncio.get_running_loop().set_default_executor(threads.default_pool())
    feed = DnsFeed(settings)
    store = SqliteStore(settings.state, settings.run)
    return Rooms(
        kernel=HostKernel(
            settings.run, key_file=KeyFile(settings.key_file), wireguard_go=settings.wireguard_go
        ),
        store=store,
        cluster=join(settings, store),
        feed=feed,
        names=feed,
        runtime=LocalRuntime(settings.run),
        survey=survey,
        lock=dirs.HostLock(),
    )


async def serve(settings: Settings, rooms: Callable[[Settings], Rooms] = of_this_host) -> None:
    """Be the daemon until a signal ends it. Raises `NetdError` where it cannot start."""
    signals = Signals()
    try:
        async with AsyncExitStack() as stack:
            group = _claim(settings, stack)
            await _start(settings, rooms(settings), group, stack)
            log.info("netd %s is ready on %s", netd.__version__, settings.socket)
            notify(f"READY=1\nSTATUS=serving on {settings.socket}")
            await signals.wait()
            notify("STOPPING=1")
    except asyncio.CancelledError:
        if not signals.stopping:
            raise
    log.info("stopped; containers and networks stay as they are")


async def _start(settings: Settings, rooms: Rooms, group: int | None, stack: AsyncExitStack) -> None:
    from netd.api.server import Server, Service
    from netd.cni.verbs import Verbs
    from netd.cni_server import CniServer
    from netd.containers import Containers
    from netd.engine import Engine
    from netd.packets import Packets, PacketServer
    from netd.tracing import Tracer

    if rooms.lock is not None:
        rooms.lock.acquire()
        stack.callback(rooms.lock.release)
    events = Events()
    engine = Engine(
        kernel=rooms.kernel,
        store=rooms.store,
        feed=rooms.feed,
        settings=settings,
        events=events,
        cluster=rooms.cluster,
    )
    stack.push_async_callback(engine.close)
    stack.push_async_callback(rooms.runtime.close)
    # The launcher is another process, and nearly all of its start is its own: both at once. If one fails
    # the other is waited for, so that what is closed is at rest.
    both = (engine.start(look_inside=False), rooms.runtime.start())
    for outcome in await asyncio.gather(*both, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome

    containers = Containers(
        kernel=rooms.kernel,
        runtime=rooms.runtime,
        engine=engine,
        store=rooms.store,
        events=events,
        settings=settings,
    )
    stack.push_async_callback(containers.close)
    await containers.start()

    cni = CniServer(Verbs(engine, rooms.kernel, rooms.names), settings.cni_socket, settings.state)
    stack.push_async_callback(cni.stop, GRACE)
    await cni.start()

    packets = Packets(rooms.kernel, engine, containers)
    packet_server = PacketServer(packets, settings.packet_socket, group)
    stack.push_async_callback(packet_server.stop)
    await packet_server.start()

    service = Service(
        engine=engine,
        containers=containers,
        events=events,
        settings=settings,
        survey=rooms.survey,
        names=rooms.names,
        cluster=rooms.cluster,
        tracer=Tracer(rooms.kernel, engine, packets),
    )
    server = Server(service, settings.socket, group)
    stack.push_async_callback(server.stop, GRACE)
    stack.callback(events.close)
    await server.start()
    engine.look_inside()  # not before: with a thousand sandboxes that would be a third of the start


def _claim(settings: Settings, stack: AsyncExitStack) -> int | None:
    """Make the directories and take their locks; returns the group that may use the socket."""
    if os.geteuid() != 0:
        raise Denied("netd daemon must run as root: it makes network interfaces and namespaces")
    group = dirs.group_id(settings.socket_group)
    if group is None:
        log.info("there is no group %r: only root can use %s", settings.socket_group, settings.socket)
    for path, mode, owner in ((settings.run, dirs.RUN_MODE, group), (settings.state, dirs.STATE_MODE, None)):
        dirs.make(path, mode, owner)
        lock = dirs.Lock(path)
        lock.acquire()
        stack.callback(lock.release)
    # Whatever is made from here on is for root alone, unless its maker says otherwise.
    os.umask(0o077)
    return group
