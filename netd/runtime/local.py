"""The runtime as the daemon uses it: containers on this host.

    daemon ── launcher             warm, forks (launcher.py)
                ╎ forks and forgets
              monitor              one a container (monitor.py), adopted by the machine's PID 1
                └─ first process   PID 1 inside (init.py)
                     └─ command

Nothing here is remembered in memory. What there is to know of a container lies in its directory and its
control group, so a daemon that starts again needs no recovery: it asks the same questions of the same
files. The event loop reads small files of /run and speaks with monitors over sockets; whatever may have to
wait for the kernel (killing, removing) happens in a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import msgspec

from netd.errors import AlreadyExists, Corrupt, Exhausted, InUse, Invalid, NotFound, Unavailable
from netd.runtime import cgroup, check, logs, record, rootfs, wire
from netd.runtime.attach import Connection, Ended
from netd.runtime.spec import Attached, ContainerSpec, Frame, LogEntry, Process, Status
from netd.runtime.wire import LAUNCHER, Creation, Entry, Preparation

_NO_MONITOR = (ConnectionRefusedError, ConnectionResetError, FileNotFoundError)
_PATIENCE = 2.0
"""Seconds that a monitor whose container is being removed has to end by itself."""


class LocalRuntime:
    """Implements `spec.Runtime`. Containers live below `run_dir`; `hide` are further host paths that no
    container with the host's root file system may see."""

    def __init__(self, run_dir: Path, hide: tuple[str, ...] = ()) -> None:
        self._containers = run_dir / "containers"
        self._hide = (str(run_dir), *hide)
        self._groups = ""
        self._launcher = 0
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._hierarchy: cgroup.Hierarchy | None = None

    # The launcher.

    async def start(self) -> None:
        """Ready the launcher. Raises `Unsupported` on a host without usable control groups."""
        self._containers.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._hierarchy = cgroup.find()
        self._groups = f"netd/{_token(self._containers)}"
        await self._spawn()

    async def close(self) -> None:
        """End the launcher. Containers go on."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._launcher:
            await asyncio.to_thread(os.waitpid, self._launcher, 0)
            self._launcher = 0

    async def _spawn(self) -> None:
        ours, theirs = wire.pair()
        try:
            self._launcher = _start_launcher(theirs.fileno())
        except OSError as error:
            ours.close()
            raise Exhausted(f"the launcher of containers cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        self._control = ours
        try:
            await Connection(ours).expect("ready")
        except ConnectionResetError:
            raise Unavailable("the launcher of containers ended at once; its error is in the log") from None

    async def _request(self, request: Creation | Entry) -> Connection:
        """Have a monitor forked for `request`; what it has to say comes over the connection."""
        ours, theirs = wire.pair()
        payload = os.memfd_create("netd-request", os.MFD_CLOEXEC)
        try:
            os.write(payload, msgspec.msgpack.encode(request))
            packet = msgspec.msgpack.encode(self._preparation(request))
            async with self._starting:
                try:
                    await self._hand_over(packet, theirs.fileno(), payload)
                except (BrokenPipeError, ConnectionResetError):
                    await self.close()
                    await self._spawn()
                    await self._hand_over(packet, theirs.fileno(), payload)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(payload)
        return Connection(ours)

    def _preparation(self, request: Creation | Entry) -> Preparation:
        spec = request.spec
        hide = None
        if isinstance(request, Creation) and spec.rootfs == "host":
            hide = (*self._hide, *spec.hide)
        return Preparation(spec.cap_add, spec.cap_drop, hide)

    async def _hand_over(self, packet: bytes, *fds: int) -> None:
        if self._hierarchy is None:
            raise Unavailable("the runtime has not been started")
        if self._control is None:  # the last one has ended, and there could be no other
            await self._spawn()
        assert self._control is not None
        while True:
            try:
                socket.send_fds(self._control, [packet], fds)
            except BlockingIOError:
                await _writable(self._control)
            else:
                return

    # Containers.

    def directory(self, id: str) -> Path:
        """The container's directory."""
        return self._containers / check.identity(id)

    def _group(self, id: str) -> cgroup.Group:
        if self._hierarchy is None:
            raise Unavailable("the runtime has not been started")
        return self._hierarchy.group(f"{self._groups}/{id}")

    async def create(self, spec: ContainerSpec) -> None:
        """Make the cgroup, the mounts and the first process, which waits for `run`."""
        check.container(spec)
        directory = self.directory(spec.id)
        if (directory / record.SPEC).exists():
            raise AlreadyExists(f"container {spec.id} exists already")
        connection: Connection | None = None
        try:
            _furnish(directory, spec)
            request = Creation(spec, str(directory), f"{self._groups}/{spec.id}")
            connection = await self._request(request)
            await connection.expect("ready")
        except ConnectionResetError:
            words = _last_words(directory)
            await asyncio.shield(self._undo(spec.id, connection))
            raise Unavailable(f"the monitor of container {spec.id} ended: {words}") from None
        except BaseException:
            await asyncio.shield(self._undo(spec.id, connection))
            raise
        await connection.close()

    async def _undo(self, id: str, connection: Connection | None) -> None:
        """Remove a container whose making failed or was called off, once its monitor is at rest."""
        if connection is not None:
            while await connection.receive() is not None:
                pass
            await connection.close()
        await self.remove(id)

    async def run(self, id: str) -> Status:
        """Let the first process execute its command."""
        try:
            connection = await Connection.open(self._existing(id), "run")
        except _NO_MONITOR:
            raise InUse(f"container {id} has ended already") from None
        try:
            frame = await connection.expect("running", "error", "exit")
        except ConnectionResetError:
            frame = Frame("exit")
        finally:
            await connection.close()
        if frame.kind == "error":
            await self.wait(id)
            raise _not_executed(frame)
        return await self.status(id)

    async def exec(self, id: str, process: Process) -> Attached:
        """Start a further process in the container."""
        check.process(process)
        directory = self._existing(id)
        state = record.read(directory)
        if state.status().state != "running":
            raise InUse(f"container {id} is not running")
        spec = record.read_spec(directory)
        request = Entry(spec, str(directory), f"{self._groups}/{id}", state.command, process)
        connection = await self._request(request)
        try:
            frame = await connection.expect("running", "error")
        except ConnectionResetError:
            await connection.close()
            raise InUse(f"container {id} ended before the process could start") from None
        except BaseException:
            await connection.close()
            raise
        if frame.kind == "error":
            await connection.close()
            raise _not_executed(frame)
        return connection

    async def attach(self, id: str) -> Attached:
        """Connect to the first process."""
        connection = await self._open(id, "attach")
        return connection or Ended((await self.status(id)).exit_code)

    async def _open(self, id: str, purpose: str) -> Connection | None:
        """A connection to the monitor; None if the container has ended."""
        directory = self._existing(id)
        try:
            connection = await Connection.open(directory, purpose)
        except _NO_MONITOR:
            return None
        try:
            await connection.expect("ready")
        except _NO_MONITOR:
            await connection.close()
            return None
        except BaseException:
            await connection.close()
            raise
        return connection

    async def status(self, id: str) -> Status:
        """What is known now."""
        directory = self._existing(id)
        try:
            return record.read(directory).status()
        except NotFound:
            return Status(state="exited", exit_code=record.UNMADE)

    async def wait(self, id: str) -> Status:
        """Answer when the container has ended."""
        connection = await self._open(id, "wait")
        if connection is not None:
            try:
                while (frame := await connection.receive()) is not None and frame.kind != "exit":
                    pass
            finally:
                await connection.close()
        status = await self.status(id)
        if status.state != "exited":
            # The monitor is gone without a word, and the first process is about to follow it.
            await asyncio.to_thread(self._group(id).kill)
            await _end_of(record.read(self._existing(id)).init)
            status = await self.status(id)
        return status

    async def kill(self, id: str, signal_number: int) -> None:
        """Send a signal to the first process; SIGKILL kills everything at once."""
        state = record.read(self._existing(id))
        if state.status().state == "exited":
            raise InUse(f"container {id} has ended already")
        if signal_number == signal.SIGKILL:
            await asyncio.to_thread(self._group(id).kill)
        else:
            state.command.signal(signal_number)

    async def remove(self, id: str) -> None:
        """Kill what still runs and remove every trace. Unknown id is success."""
        directory = self.directory(id)
        group = self._group(id)
        await asyncio.to_thread(group.kill)
        with contextlib.suppress(NotFound):
            await _end_of(record.read(directory).monitor)
        await asyncio.to_thread(_clear, group)
        await asyncio.to_thread(shutil.rmtree, directory, True)

    async def logs(self, id: str, *, follow: bool, tail: int) -> AsyncGenerator[LogEntry, None]:
        """Logged lines, the last `tail` of them (0: all), then new ones until the container ends."""
        directory = self._existing(id)
        # Connected before the first read: whatever is written after that read is told.
        connection = await self._open(id, "follow") if follow else None
        reader = logs.Reader(directory)
        try:
            if tail:
                kept: deque[LogEntry] = deque(maxlen=tail)
                async for entry in _present(reader):
                    kept.append(entry)
                for entry in kept:
                    yield entry
            async for entry in _present(reader):
                yield entry
            told: Frame | None = Frame("grown")
            while connection is not None and told is not None and told.kind != "exit":
                told = await connection.receive()
                async for entry in _present(reader):
                    yield entry
        finally:
            reader.close()
            if connection is not None:
                await connection.close()

    async def containers(self) -> list[str]:
        """Ids of all containers that have a directory or a cgroup of this run dir."""
        if self._hierarchy is None:
            raise Unavailable("the runtime has not been started")
        directories = {path.name for path in self._containers.iterdir() if path.is_dir()}
        return sorted(directories | self._hierarchy.children(self._groups))

    def _existing(self, id: str) -> Path:
        directory = self.directory(id)
        if not (directory / record.SPEC).exists():
            raise NotFound(f"no container {id}")
        return directory


def _token(containers: Path) -> str:
    """The name under which this run dir's control groups are kept, chosen once.

    Not a digest of the path: there is one tree of control groups for all mount namespaces, and two of
    them may each have a /run/netd. A daemon in the one would take the containers of the other for orphans
    of its own, and remove them.
    """
    path = containers / ".group"
    if not path.exists():
        new = path.with_name(".group.new")
        new.write_text(secrets.token_hex(6))
        new.rename(path)
    token = path.read_text()
    if not re.fullmatch("[0-9a-f]{12}", token):
        raise Corrupt(f"{path} does not hold a name of control groups; if no container runs, remove it")
    return token


def _start_launcher(control: int) -> int:
    """Start the launcher with `control` as its standard input; returns its pid.

    posix_spawn returns when the program is executed, a millisecond later; asyncio's way would start a
    thread to wait for its end.
    """
    # Of the environment only what an interpreter may need to find its libraries: this one is PID 1's too.
    kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH") if key in os.environ}
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-m", LAUNCHER],
        kept | {"LC_ALL": "C.UTF-8"},
        file_actions=[(os.POSIX_SPAWN_DUP2, control, 0)],
        setsid=True,  # a ^C at the daemon's terminal is not for it
    )


def _furnish(directory: Path, spec: ContainerSpec) -> None:
    """Everything that is in a container's directory before it is made; what is there already is kept."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / rootfs.MOUNT_POINT).mkdir(mode=0o700, exist_ok=True)
    contents = {"hostname": f"{spec.hostname}\n"}
    for name in rootfs.FILES:
        path = directory / name
        if not path.exists():
            path.write_text(contents.get(name, ""))
        path.chmod(0o644)  # users inside read them too
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        record.write(fd, record.SPEC, spec)
    finally:
        os.close(fd)


def _not_executed(frame: Frame) -> Invalid:
    """The refusal of a command; it carries the exit status that a shell would end with, 126 or 127."""
    error = Invalid(frame.data.decode(errors="replace"))
    error.exit_code = frame.code
    return error


def _last_words(directory: Path) -> str:
    """The last line that a monitor wrote before it failed in a way that nobody foresaw."""
    with contextlib.suppress(OSError):
        lines = (directory / "monitor.log").read_text(errors="replace").splitlines()
        if lines:
            return lines[-1]
    return "it was killed"


def _clear(group: cgroup.Group) -> None:
    """Remove a group, and kill again what a monitor may have put in since; its daemon may have died."""
    for _ in range(5):
        try:
            return group.remove()
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            group.kill()
    return group.remove()


async def _present(reader: logs.Reader) -> AsyncIterator[LogEntry]:
    """What can be read now, without keeping the event loop from others for longer than one block."""
    while entries := reader.block():
        for entry in entries:
            yield entry
        await asyncio.sleep(0)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)


async def _end_of(task: record.Task) -> None:
    """Until a process has ended; it is killed if it does not by itself (its client may not read)."""
    try:
        fd = os.pidfd_open(task.pid) if task.alive() else -1
    except ProcessLookupError:
        return
    if fd < 0:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), _PATIENCE)
    except TimeoutError:
        task.signal(signal.SIGKILL)
        await ended.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
