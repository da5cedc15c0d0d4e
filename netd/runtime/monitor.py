"""The process that stays with a container: it holds its streams, writes its log and its last status.

A monitor is nobody's child but the machine's PID 1's. It outlives the daemon and the launcher; it alone is
the parent of the container's first process, and so the one to learn how it ended, and it writes that down
before it tells anyone. The daemon finds it by the socket `attach` in the container's directory: who can
connect has the right monitor, whatever pids have been used again meanwhile.

A container is made in two steps. `create` goes as far as a command that waits to be executed, so that all
that can be refused is refused before its networks are set up, and `run` lets it go.

An exec has a monitor too, with one client from the start and neither log nor status. When that client
goes, the process stays; when the container ends, its PID namespace takes the process with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

from netd.errors import InUse, NetdError
from netd.runtime import cgroup, host, init, logs, record, syscalls, wire
from netd.runtime.record import Record, Task
from netd.runtime.spec import Frame, Process
from netd.runtime.streams import Carrier, Client, Ends

ERRORS = "monitor.log"
"""In the container's directory: what a monitor that fails in an unforeseen way has to say."""


class _Container(Carrier):
    """The carrier of a container's first process, with its log, its status and its listening socket."""

    def __init__(
        self,
        ends: Ends,
        state: Record,
        channel: socket.socket,
        directory: int,
        log: logs.Writer,
        listener: socket.socket,
        group: cgroup.Group,
    ) -> None:
        super().__init__(ends, state.init.pid, state.command.pid, channel)
        self._state = state
        self._directory = directory
        self._log = log
        self._listener = listener
        self._group = group
        self._runners: list[Client] = []
        self.watch(listener, self._accept)

    def logged(self, stream: str, data: bytes) -> None:
        self._log.write(stream, data)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            self.add(self._listener.accept()[0])

    def opened(self, client: Client, frame: Frame) -> None:
        if frame.kind == "run":
            self._run(client)
        elif frame.kind in ("attach", "wait", "follow"):
            client.purpose = frame.kind
            self.post(client, Frame("ready"))
        else:
            self.drop(client)

    def _run(self, client: Client) -> None:
        if self._state.state != "created" or self._runners:
            self.post(client, wire.refusal(InUse("the container has been started already")))
            return
        self._runners.append(client)
        self.start()

    def started(self) -> None:
        self._state.state = "running"
        self._state.started = time.time()
        record.write(self._directory, record.STATUS, self._state)
        self._reply(Frame("running"))

    def refused(self, frame: Frame) -> None:
        self._reply(frame)

    def _reply(self, frame: Frame) -> None:
        for client in self._runners:
            client.purpose = "wait"
            self.post(client, frame)

    def finished(self, code: int) -> None:
        self._log.close()
        self._state.state = "exited"
        self._state.exit_code = code
        self._state.finished = time.time()
        self._state.oom_killed = self._group.oom_kills() > 0
        record.write(self._directory, record.STATUS, self._state)
        self.unwatch(self._listener)
        self._listener.close()


def keep_container(
    request: wire.Creation,
    hidden: list[host.Hidden],
    confinement: init.Confinement,
    hierarchy: cgroup.Hierarchy,
    reply: socket.socket,
) -> None:
    """Make a container, say so, and stay until it has ended."""
    syscalls.set_title(f"netd-monitor {request.spec.id}")
    directory = _settle(request.directory)
    group = hierarchy.group(request.group)
    try:
        group.create(request.spec.limits)
        door = group.door()
        os.chdir(request.directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(wire.SOCKET_NAME)  # a relative name: an absolute one may exceed the 107 bytes allowed
        listener.listen(1024)
        listener.setblocking(False)
        os.chdir("/")
        channel, inside = _channel()
        ends, streams = _streams(request.spec.process)
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = init.forked(os.fork)
        if pid == 0:
            channel.close()
            init.first_process(
                request.spec,
                request.directory,
                hidden,
                confinement,
                door,
                inside,
                streams,
            )
        inside.close()
        door.close()
        command = _ready(pid, channel, streams, ends)
        state = Record(monitor=Task.of(os.getpid()), init=Task.of(pid), command=Task.of(command))
        log = logs.Writer(directory, request.spec.log_bytes)
        record.write(directory, record.STATUS, state)
    except Exception as error:
        with contextlib.suppress(OSError):
            group.kill()
            group.remove()
        wire.send(reply, wire.refusal(error))
        return
    carrier = _Container(ends, state, channel, directory, log, listener, group)
    wire.send(reply, Frame("ready"))
    reply.close()
    carrier.run()


class _Exec(Carrier):
    """The carrier of an exec'd process: whoever asked for it is attached."""

    def __init__(self, ends: Ends, pid: int, channel: socket.socket, client: socket.socket) -> None:
        super().__init__(ends, pid, pid, channel)
        self._client = self.add(client, "attach")

    def started(self) -> None:
        self.post(self._client, Frame("running"))

    def refused(self, frame: Frame) -> None:
        self.post(self._client, frame)


def keep_exec(
    request: wire.Entry, confinement: init.Confinement, hierarchy: cgroup.Hierarchy, reply: socket.socket
) -> None:
    """Start a process in a container, and stay until it has ended."""
    syscalls.set_title(f"netd-exec {request.spec.id}")
    _settle(request.directory)
    try:
        # The command's namespaces, not PID 1's, whose control group is another one.
        pidfd = os.pidfd_open(request.command.pid)
        if not request.command.alive():
            raise InUse("the container is not running")
        channel, inside = _channel()
        ends, streams = _streams(request.process)
        door = hierarchy.group(request.group).door()
        syscalls.setns(pidfd, syscalls.CLONE_NEWPID)
        pid = init.forked(door.fork)
        if pid == 0:
            channel.close()
            init.further_process(pidfd, request.process, confinement, door, inside, streams)
        inside.close()
        door.close()
        os.close(pidfd)
        _ready(pid, channel, streams, ends)
        carrier = _Exec(ends, pid, channel, reply)
    except Exception as error:
        gone = isinstance(error, (ProcessLookupError, FileNotFoundError))
        wire.send(reply, wire.refusal(InUse("the container is not running") if gone else error))
        return
    carrier.start()
    carrier.run()


def _settle(directory: str) -> int:
    """Let go of everything that was the launcher's; returns the container's directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    errors = os.open(ERRORS, flags, 0o600, dir_fd=fd)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for source, number in ((null, 0), (null, 1), (errors, 2)):
        os.dup2(source, number)
    os.close(null)
    os.close(errors)
    os.umask(0o022)
    return fd


def _channel() -> tuple[socket.socket, socket.socket]:
    """The line to the first process: (ours, its)."""
    ours, its = wire.pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, its


def _streams(process: Process) -> tuple[Ends, init.Streams]:
    """Pipes for the standard streams; with a terminal none, it is opened inside."""
    if process.tty:
        return Ends(), init.Streams()
    stdin_read, stdin_write = os.pipe() if process.interactive else (-1, -1)
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    ends = Ends({"stdout": out_read, "stderr": err_read}, stdin_write)
    return ends, init.Streams(stdin_read, out_write, err_write)


def _ready(pid: int, channel: socket.socket, streams: init.Streams, ends: Ends) -> int:
    """Wait until the child has set everything up; returns the command's pid."""
    for fd in streams:
        if fd >= 0:
            os.close(fd)
    frame, fds, command = wire.receive_ready(channel)
    if frame is None:
        os.waitpid(pid, 0)
        raise NetdError("the process was killed while it was being set up; is there too little memory?")
    if frame.kind != "ready":
        os.waitpid(pid, 0)
        wire.raise_refusal(frame)
    if fds:
        # The slave stays open here, so that a moment in which nobody inside has it open is no end.
        master, _ = fds
        ends.terminal, ends.stdin = master, os.dup(master)
        ends.outputs["stdout"] = os.dup(master)
    return command
