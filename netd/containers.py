"""Containers: a process of the runtime in a network of the engine, and their one life together.

The runtime knows processes, the engine knows networks, and neither knows of the other. Here a
container is made of both, whole or not at all, and ended in both:

    created   being made; the record is the intent. If the daemon dies now, its next start undoes it.
    running   committed. The process is nobody's child of ours and outlives the daemon.
    exited    the endpoints, names and namespace are gone; the record and the log stay until `rm`.

One that shares another's network (`--network container:NAME`) has neither endpoints nor a namespace of its
own. When the other ends, it goes on in what is left, with nothing but a loopback, as with docker.

Each container is a `Life` with a lock: what changes it (its end, connect, publish, remove) happens
one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM

import msgspec

from netd import launch, names
from netd.container_files import Files
from netd.engine import Engine
from netd.errors import AlreadyExists, InUse, NetdError, NotFound, Unavailable
from netd.events import Events
from netd.kernel.ports import Kernel
from netd.launch import Launch, Mode, Request
from netd.model import Endpoint, IPAddress, Netns, NetworkRequest, Owner, PortMapping, Want
from netd.ports import parse_publish
from netd.registry import Life, Record, Registry
from netd.runtime.spec import Attached, LogEntry, Process, Runtime, Status
from netd.settings import Settings
from netd.store.base import Store
from netd.tasks import carry_through, each, spawn

log = logging.getLogger(__name__)

DEFAULT_NETWORK = "default"
"""Made when the first container comes that names no network."""

PATIENCE = 10.0
"""Seconds that a stopping daemon waits for containers that are just being made or removed."""

LOST = 255
"""Exit code of a container whose end left no trace (docker uses the same)."""


@dataclass(frozen=True, slots=True)
class Started:
    """A container that runs now, connected to its streams where that was asked for."""

    record: Record
    attached: Attached | None
    _life: Life

    async def end(self) -> Record:
        """Wait until it has ended and its network is gone, whether or not it is remembered then."""
        await self._life.ended.wait()
        return self._life.record


class Containers:
    """All containers of this daemon."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        runtime: Runtime,
        engine: Engine,
        store: Store,
        events: Events,
        settings: Settings,
    ) -> None:
        self._kernel = kernel
        self._runtime = runtime
        self._engine = engine
        self._events = events
        self._settings = settings
        self._registry = Registry(store)
        self._files = Files(runtime, engine, self._registry)
        self._watchers: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._closing = False

    # --- the daemon's own life -----------------------------------------------------------------

    async def start(self) -> None:
        """Take over what an earlier daemon left; engine and runtime have been started.

        Running containers are watched again, those that ended meanwhile are brought to their end,
        half-made ones are undone, and what belongs to no record is removed.
        """
        await self._registry.load()
        known = self._registry.unreadable | {life.record.id for life in self._registry}
        strangers = [id for id in await self._runtime.containers() if id not in known]
        await each(map(self._runtime.remove, strangers), "removing containers without a record")
        await each(map(self._take_over, self._registry), "taking over containers")
        alive = {life.record.id for life in self._registry if life.record.state == "running"}
        alive |= self._registry.unreadable
        sandboxes = self._engine.view.sandboxes.values()
        lost = [s.id for s in sandboxes if s.owner is Owner.CONTAINER and s.id not in alive]
        await each(map(self._engine.detach, lost), "detaching sandboxes without a container")

    async def close(self) -> None:
        """Let what is being made or removed come to its end, and stop watching. The containers go on."""
        self._closing = True
        if self._under_way:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._idle.wait()
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        if self._closing:
            raise Unavailable("the daemon is stopping; try again when it is back")
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _take_over(self, life: Life) -> None:
        record = life.record
        if record.state == "exited":
            life.ended.set()
            try:
                await self._runtime.status(record.id)
            except NotFound:  # the last daemon died while it removed it
                await self._remove(life)
        elif record.state == "created":
            await self._undo(life)
        elif (status := await self._status(record.id)).state == "running":
            self._files.mend(record)
            self._watch(life)
        else:
            await self._finish(life, status)

    async def _status(self, id: str) -> Status:
        try:
            return await self._runtime.status(id)
        except NotFound:
            return Status(state="exited", exit_code=LOST)

    # --- looking -------------------------------------------------------------------------------

    def list(self, *, all: bool) -> list[Record]:
        """The running containers, or all of them; newest first."""
        records = [life.record for life in self._registry]
        return sorted((r for r in records if all or r.state == "running"), key=lambda r: -r.created)

    def find(self, ref: str) -> Record:
        """The container called `ref`; see `Registry.life`."""
        return self._registry.life(ref).record

    def directory(self, record: Record) -> Path:
        """Where the runtime keeps the container's files."""
        return self._runtime.directory(record.id)

    def logs(self, ref: str, *, follow: bool, tail: int) -> AsyncGenerator[LogEntry, None]:
        """Logged lines; see `Runtime.logs`."""
        return self._runtime.logs(self.find(ref).id, follow=follow, tail=tail)

    # --- making --------------------------------------------------------------------------------

    async def run(self, request: Request, *, attach: bool) -> Started:
        """Make a container and start it, whole or not at all; with `attach`, connected to its streams.

        If the caller is cancelled before it has the answer, it cannot know that there is a container:
        it is undone.
        """
        checked = launch.check(request)
        with self._at_work():
            life = self._registry.claim(request, checked.mode, checked.shares)
            name = life.record.name
            try:
                return await carry_through(self._make(life, checked, attach), name=f"make {name}")
            except BaseException as error:
                if not isinstance(error, NetdError):  # those are told to the caller, and logged there
                    log.info("container %s is undone: %r", name, error)
                undo = self._remove(life) if life.record.state == "running" else self._undo(life)
                await carry_through(undo, name=f"undo {name}")
                raise

    async def _make(self, life: Life, checked: Launch, attach: bool) -> Started:
        record = await self._registry.save(life, life.record)
        wants = checked.wants or await self._default_wants(checked.mode)
        networks = [self._engine.network(want.network) for want in wants]
        gateways: tuple[IPAddress, ...] = ()
        if any(address is None for _, address in checked.hosts):
            gateways = launch.host_gateways(checked.mode, wants, networks)
        if checked.mode not in (Mode.HOST, Mode.CONTAINER):
            netns = await self._make_namespace(record)
            record = await self._registry.save(life, msgspec.structs.replace(record, netns=netns))
        await self._make_both(record, checked, wants, gateways)
        self._files.write(record, launch.hosts(checked, gateways))
        attached = await self._runtime.attach(record.id) if attach else None
        try:
            status = await self._runtime.run(record.id)
            started = status.started or time.time()
            record = msgspec.structs.replace(record, state="running", pid=status.pid, started=started)
            await self._registry.save(life, record)
        except BaseException:
            if attached is not None:
                await attached.close()
            raise
        self._watch(life)
        self._events.emit("container", "start", record.id, record.name)
        return Started(record, attached, life)

    async def _make_namespace(self, record: Record) -> Netns:
        """One called like the container, or with its id where a container renamed since has that name."""
        try:
            return await self._kernel.netns_create(record.name)
        except AlreadyExists:
            return await self._kernel.netns_create(_second_label(record))

    async def _make_both(
        self, record: Record, checked: Launch, wants: Sequence[Want], gateways: Sequence[IPAddress]
    ) -> None:
        """The process, waiting, and its interfaces: neither needs the other, so both at once."""
        spec = launch.container(
            checked,
            id=record.id,
            hostname=record.hostname,
            netns=self._registry.namespace_of(record),
            log_bytes=self._settings.container_log_bytes,
            hide=(self._settings.state_dir, self._settings.run_dir),
        )
        steps: list[Awaitable[object]] = [self._runtime.create(spec)]
        if record.netns is not None and wants:
            sandbox = launch.sandbox(
                checked,
                id=record.id,
                name=record.name,
                hostname=record.hostname,
                netns=record.netns,
                gateways=gateways,
            )
            steps.append(self._engine.attach(sandbox, wants))
        # Not a TaskGroup: if one fails the other is waited for, so that what is undone is at rest.
        for outcome in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _default_wants(self, mode: Mode) -> tuple[Want, ...]:
        if mode is not Mode.NETWORKS:
            return ()
        try:
            self._engine.network(DEFAULT_NETWORK)
        except NotFound:
            with suppress(AlreadyExists):  # somebody else's first container was faster
                await self._engine.create_network(NetworkRequest(name=DEFAULT_NETWORK))
        return (Want(network=DEFAULT_NETWORK),)

    async def _undo(self, life: Life) -> None:
        """Leave nothing of a container. What fails is logged and does not keep the rest."""
        record = life.record
        await each([self._runtime.remove(record.id)], f"removing container {record.name}")
        # A namespace may have been made without having been written down.
        labels = [] if record.netns or record.shares else [_second_label(record), record.name]
        held = {life.record.netns.label for life in self._registry if life.record.netns}
        for label in labels:
            if label not in held:
                path = str(self._settings.namespaces / label)
                netns = Netns(label=label, path=path, device=0, inode=0)
                await self._leave_network(msgspec.structs.replace(record, netns=netns))
        await self._leave_network(record)
        await each([self._registry.forget(life)], f"forgetting container {record.name}")
        # Where even that failed, it can be removed like one that has ended.
        life.record = msgspec.structs.replace(life.record, state="exited", netns=None, exit_code=LOST)
        life.ended.set()

    # --- ending --------------------------------------------------------------------------------

    def _watch(self, life: Life) -> None:
        async def until_the_end() -> None:
            try:
                # Whoever killed its monitor ended the wait, and a moment later the container.
                while (status := await self._runtime.wait(life.record.id)).state != "exited":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            except NotFound:
                status = Status(state="exited", exit_code=LOST)
            await self._finish(life, status)

        watcher = spawn(until_the_end(), name=f"watch {life.record.name}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    async def _finish(self, life: Life, status: Status) -> None:
        """The process has ended: take it out of its networks, and away with it if it was `--rm`."""
        async with life.lock:
            name = life.record.name
            left = await self._leave_network(life.record)
            remove = life.record.request.remove and left
            life.record = msgspec.structs.replace(
                life.record,
                state="exited",
                netns=None if left else life.record.netns,
                pid=0,
                exit_code=status.exit_code,
                oom_killed=status.oom_killed,
                finished=status.finished or time.time(),
            )
            if remove:
                await each([self._runtime.remove(life.record.id)], f"removing container {name}")
                await each([self._registry.forget(life)], f"forgetting container {name}")
            else:
                await each([self._registry.save(life, life.record)], f"recording the end of {name}")
        self._events.emit("container", "exit", life.record.id, name, code=str(status.exit_code))
        if remove:
            self._events.emit("container", "remove", life.record.id, name)
        life.ended.set()

    async def _leave_network(self, record: Record) -> bool:
        """Whether nothing of it is left; an endpoint that is, the engine takes away later."""
        if record.netns is None:
            return True
        await each([self._engine.detach(record.id)], f"detaching {record.name}")
        return await each([self._kernel.netns_delete(record.netns)], f"namespace of {record.name}")

    async def wait(self, ref: str) -> Record:
        """Answer when the container has ended and its network is gone."""
        life = self._registry.life(ref)
        await life.ended.wait()
        return life.record

    async def kill(self, ref: str, signal: int) -> Record:
        """Send a signal to the first process; after SIGKILL, wait for the end."""
        life = self._registry.running(ref)
        await self._runtime.kill(life.record.id, signal)
        if signal == SIGKILL:
            await life.ended.wait()
        return life.record

    async def stop(self, ref: str, timeout: float) -> Record:
        """SIGTERM, and after `timeout` seconds SIGKILL. A container that has ended is success."""
        life = self._registry.life(ref)
        if life.record.state == "exited":
            return life.record
        life = self._registry.running(ref)
        if timeout > 0:
            with suppress(NotFound, InUse):  # it ended by itself just now
                await self._runtime.kill(life.record.id, SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await life.ended.wait()
        if not life.ended.is_set():
            await self._end(life)
        return life.record

    async def remove(self, ref: str, *, force: bool) -> Record:
        """Remove an ended container with its log; with `force`, kill a running one first."""
        life = self._registry.life(ref)
        name = life.record.name
        if life.removing:
            raise InUse(f"container {name!r} is being removed already")
        if life.record.state == "created":
            raise InUse(f"container {name!r} is still being made; try again")
        if life.record.state == "running" and not force:
            raise InUse(f"container {name!r} is running: `netd stop {name}` first, or use --force")
        with self._at_work():
            life.removing = True
            try:
                await carry_through(self._remove(life), name=f"remove {name}")
            finally:
                life.removing = False
        return life.record

    async def _remove(self, life: Life) -> None:
        if life.record.state == "running":
            await self._end(life)
        async with life.lock:
            if life.record.id not in self._registry:  # its end removed it: --rm
                return
            if life.record.netns:  # which could not be left when it ended
                await self._kernel.netns_delete(life.record.netns)
            await self._runtime.remove(life.record.id)
            await self._registry.forget(life)
        self._events.emit("container", "remove", life.record.id, life.record.name)

    async def _end(self, life: Life) -> None:
        with suppress(NotFound, InUse):
            await self._runtime.kill(life.record.id, SIGKILL)
        await life.ended.wait()

    # --- changing ------------------------------------------------------------------------------

    async def rename(self, ref: str, name: str) -> Record:
        """Call a container `name` from now on, whether or not it runs. Its host name stays as it is."""
        names.check_name("container", name)
        life = self._registry.life(ref)
        with self._at_work():
            await carry_through(self._rename(life, name), name=f"rename {life.record.name}")
        return life.record

    async def _rename(self, life: Life, name: str) -> None:
        async with life.lock:
            id, old = life.record.id, life.record.name
            if life.removing or id not in self._registry:
                raise InUse(f"container {old!r} is being removed")
            if life.record.state == "created":
                raise InUse(f"container {old!r} is still being made; try again")
            attached = life.record.state == "running" and id in self._engine.view.sandboxes
            with self._registry.renaming(life, name) as write:
                if attached:
                    await self._engine.rename(id, name, [write])
                else:
                    await self._registry.store(write)
            if attached:
                self._files.rewrite(life.record)
        self._events.emit("container", "rename", id, name, old=old)

    async def exec(self, ref: str, process: Process) -> Attached:
        """Run a further process in a running container."""
        return await self._runtime.exec(self._registry.running(ref).record.id, process)

    async def connect(self, ref: str, want: Want) -> Endpoint:
        """Put a running container into one more network."""
        life = self._networked(ref)
        async with life.lock:
            self._networked(life.record.id)
            endpoint = await self._engine.connect(life.record.id, want)
            self._files.rewrite(life.record)
        return endpoint

    async def disconnect(self, ref: str, network: str) -> None:
        """Take a running container out of one network."""
        life = self._networked(ref)
        async with life.lock:
            self._networked(life.record.id)
            await self._engine.disconnect(life.record.id, network)
            self._files.rewrite(life.record)

    async def update(self, ref: str, network: str, options: Mapping[str, str]) -> Endpoint:
        """Change options of a running container's attachment; see `Engine.update`."""
        life = self._networked(ref)
        async with life.lock:
            self._networked(life.record.id)
            return await self._engine.update(life.record.id, network, options)

    async def publish(self, ref: str, spec: str) -> tuple[PortMapping, ...]:
        """Publish further ports of a running container; returns all that are published now."""
        ports = parse_publish(spec)
        life = self._networked(ref)
        async with life.lock:
            self._networked(life.record.id)
            return (await self._engine.publish(life.record.id, ports)).ports

    async def unpublish(self, ref: str, spec: str) -> tuple[PortMapping, ...]:
        """Withdraw ports; a host port or address that `spec` leaves out fits any. Returns those left."""
        life = self._networked(ref)
        async with life.lock:
            self._networked(life.record.id)
            published = self._engine.view.sandboxes[life.record.id].ports
            fitting = [port for given in parse_publish(spec) for port in published if _fits(given, port)]
            if not fitting:
                raise NotFound(f"container {life.record.name!r} does not publish {spec!r}; see `netd port`")
            return (await self._engine.unpublish(life.record.id, fitting)).ports

    def _networked(self, ref: str) -> Life:
        life = self._registry.running(ref)
        if life.record.id not in self._engine.view.sandboxes:
            mode = life.record.request.networks[0].network
            raise InUse(
                f"container {life.record.name!r} was made with --network {mode}: it cannot join networks "
                "or publish ports"
            )
        return life


def _second_label(record: Record) -> str:
    return f"{record.name}.{record.id[:12]}"


def _fits(given: PortMapping, published: PortMapping) -> bool:
    return (
        (given.proto, given.container_port) == (published.proto, published.container_port)
        and given.host_port in (0, published.host_port)
        and given.host_ip in (None, published.host_ip)
    )
