"""Carries the standard streams between one process and whoever is attached to it.

One loop over one selector, no threads, nothing that blocks. What the process writes goes to the log and
to every attached client. A client that does not read holds the output back once `BACKLOG` bytes wait for
it, as a terminal does under ^S, so that nothing is lost in a pipeline; followers of the log are only told
that there is more, so they hold nothing back.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from netd.runtime import devices, wire
from netd.runtime.spec import Frame

BACKLOG = 1 << 20
"""Bytes that may wait for an attached client, or for the process's standard input."""

FAREWELL = 10.0
"""Seconds that a client has to take what is left for it after the process has ended."""


@dataclass
class Ends:
    """Our ends of a process's standard streams: what it writes, by name, and where its input goes.

    With a terminal (the descriptor of its master) its copies stand for both directions.
    """

    outputs: dict[str, int] = field(default_factory=dict)
    stdin: int = -1
    terminal: int = -1


class Client:
    """One connection: what it is for, and what still has to be sent to it."""

    def __init__(self, sock: socket.socket, purpose: str = "") -> None:
        self.socket = sock
        self.purpose = purpose
        self.waiting: deque[bytes] = deque()
        self.size = 0
        self.deaf = False


class Carrier:
    """The loop of a monitor. `pid` is its child, which answers over `channel` whether it could execute;
    `target` is the process for which the signals of clients are meant."""

    def __init__(self, ends: Ends, pid: int, target: int, channel: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._ends = ends
        self._pid = pid
        self._channel = channel
        self._pidfd = os.pidfd_open(pid)
        self._target = os.pidfd_open(target)
        self._clients: set[Client] = set()
        self._input = bytearray()
        self._input_ends = False
        self._held_back = True  # until the command is executed; what it says comes after "running"
        self._answered = False
        self._exit_code: int | None = None
        self._selector.register(self._pidfd, selectors.EVENT_READ, self._ended)
        for fd in ends.outputs.values():
            os.set_blocking(fd, False)
        if ends.stdin >= 0:
            os.set_blocking(ends.stdin, False)

    # What differs between the first process of a container and an exec.

    def logged(self, stream: str, data: bytes) -> None:
        """Called with everything that the process writes."""

    def started(self) -> None:
        """Called once the command was executed."""

    def refused(self, frame: Frame) -> None:
        """Called when it could not be."""

    def finished(self, code: int) -> None:
        """Called when the process has ended and its output is complete, before anyone is told."""

    # The loop.

    def run(self) -> None:
        """Until the process has ended and everyone who wants to know has been told."""
        while self._exit_code is None:
            self._turn(None)
        self._drain()
        self.finished(self._exit_code)
        for client in list(self._clients):
            self.post(client, Frame("exit", code=self._exit_code))
        deadline = time.monotonic() + FAREWELL
        while any(client.waiting for client in self._clients) and (left := deadline - time.monotonic()) > 0:
            self._turn(left)

    def close(self) -> None:
        """Let go of everything; a monitor does so by ending."""
        for client in list(self._clients):
            self.drop(client)
        for fd in (self._pidfd, self._target, *self._ends.outputs.values(), self._ends.stdin):
            if fd >= 0:
                os.close(fd)
        self._channel.close()
        self._selector.close()

    def _turn(self, timeout: float | None) -> None:
        for key, events in self._selector.select(timeout):
            callback: Callable[[int], None] = key.data
            callback(events)

    def _ended(self, events: int) -> None:
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._exit_code = code if code >= 0 else 128 - code
        self._selector.unregister(self._pidfd)

    # Output.

    def _reader(self, stream: str, fd: int) -> Callable[[int], None]:
        def read(events: int) -> None:
            self._read_output(stream, fd)

        return read

    def _read_output(self, stream: str, fd: int) -> bool:
        """Take what is there; False at the end and when there is nothing now."""
        try:
            data = os.read(fd, wire.CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
            os.close(fd)
            del self._ends.outputs[stream]
            return False
        self.logged(stream, data)
        for client in list(self._clients):
            if client.purpose == "attach":
                self.post(client, Frame(stream, data))
            elif client.purpose == "follow":
                with contextlib.suppress(OSError):
                    client.socket.send(wire.pack(Frame("grown")))
        return True

    def _drain(self) -> None:
        """What still lies in the pipes of a process that has ended; nobody waits for further writers."""
        for stream, fd in list(self._ends.outputs.items()):
            while self._read_output(stream, fd):
                pass

    def post(self, client: Client, frame: Frame) -> None:
        """Send a frame, now or when the client takes it."""
        if client.deaf:
            return
        packet = wire.pack(frame)
        client.waiting.append(packet)
        client.size += len(packet)
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            while client.waiting:
                client.socket.send(client.waiting[0])
                client.size -= len(client.waiting.popleft())
        except BlockingIOError:
            pass
        except OSError:
            # It has gone. What it had sent before may still be unread, and counts.
            client.deaf = True
            client.waiting.clear()
            client.size = 0
        self._watch(client)
        self._hold_back()

    def _hold_back(self) -> None:
        """Stop reading the process's output while a client has a long queue, and go on afterwards."""
        full = any(client.size > BACKLOG for client in self._clients)
        if full == self._held_back or not self._answered or self._exit_code is not None:
            return
        self._held_back = full
        for stream, fd in self._ends.outputs.items():
            if full:
                self._selector.unregister(fd)
            else:
                self._selector.register(fd, selectors.EVENT_READ, self._reader(stream, fd))

    # Clients.

    def watch(self, source: socket.socket, callback: Callable[[], None]) -> None:
        """Call back whenever a further source can be read, until the process has ended."""
        self._selector.register(source, selectors.EVENT_READ, lambda events: callback())

    def unwatch(self, source: socket.socket) -> None:
        """No longer."""
        self._selector.unregister(source)

    def add(self, sock: socket.socket, purpose: str = "") -> Client:
        """Serve one more client; its first frame says what it wants, unless `purpose` does."""
        sock.setblocking(False)
        client = Client(sock, purpose)
        self._clients.add(client)
        self._selector.register(sock, selectors.EVENT_READ, self._servant(client))
        return client

    def _servant(self, client: Client) -> Callable[[int], None]:
        def serve(events: int) -> None:
            if events & selectors.EVENT_WRITE:
                self._flush(client)
            if events & selectors.EVENT_READ and client in self._clients:
                self._read_client(client)

        return serve

    def _watch(self, client: Client) -> None:
        listening = len(self._input) <= BACKLOG
        events = (selectors.EVENT_READ if listening else 0) | (selectors.EVENT_WRITE if client.waiting else 0)
        known = client.socket in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(client.socket)
        elif known:
            self._selector.modify(client.socket, events, self._servant(client))
        else:
            self._selector.register(client.socket, events, self._servant(client))

    def drop(self, client: Client) -> None:
        self._clients.discard(client)
        with contextlib.suppress(KeyError):
            self._selector.unregister(client.socket)
        client.socket.close()
        self._hold_back()

    def _read_client(self, client: Client) -> None:
        try:
            frame = wire.receive(client.socket)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            frame = None
        if frame is None:
            self.drop(client)
        elif client.purpose == "attach":
            self._take(frame)
        else:
            self.opened(client, frame)

    def opened(self, client: Client, frame: Frame) -> None:
        """The first frame of a client that is not attached."""
        self.drop(client)

    # Input.

    def _take(self, frame: Frame) -> None:
        if frame.kind == "stdin":
            self._input += frame.data
            self._feed()
        elif frame.kind == "eof":
            self._input_ends = True
            if self._ends.terminal >= 0:
                self._input += b"\x04"  # VEOF: how a terminal is told
            self._feed()
        elif frame.kind == "resize" and self._ends.terminal >= 0:
            devices.resize(self._ends.terminal, frame.code >> 16, frame.code & 0xFFFF)
        elif frame.kind == "signal":
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._target, frame.code)

    def _feed(self, events: int = 0) -> None:
        """Hand the process as much of its input as it takes now."""
        fd = self._ends.stdin
        if fd < 0:
            self._input.clear()
            return
        try:
            while self._input:
                del self._input[: os.write(fd, self._input[: wire.CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._input.clear()
            self._input_ends = True
        known = fd in self._selector.get_map()
        if self._input and not known:
            self._selector.register(fd, selectors.EVENT_WRITE, self._feed)
        elif not self._input and known:
            self._selector.unregister(fd)
        if self._input_ends and not self._input and self._ends.terminal < 0:
            os.close(fd)
            self._ends.stdin = -1
        for client in list(self._clients):
            self._watch(client)

    # Starting.

    def start(self) -> None:
        """Let the waiting command be executed; the answer comes over the channel."""
        wire.send(self._channel, Frame("run"))
        self._selector.register(self._channel, selectors.EVENT_READ, self._answer)

    def _answer(self, events: int) -> None:
        frame = wire.receive(self._channel)
        self._answered = True
        self._selector.unregister(self._channel)
        self._channel.close()
        if frame is None:  # closed by execve
            self.started()
        else:
            self.refused(frame)
        self._hold_back()
