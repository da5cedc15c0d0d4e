"""The DNS server as the daemon sees it: a process to start, and a connection to it.

The process outlives the daemon on purpose. So it is found again by its control socket in the run
directory, it is not a child that can be waited for, and all that is ever known of it is whether it
answers. Its sockets for clients are opened here, in the host's namespace and with the daemon's rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import netd_dns
from netd import dns_filter
from netd.errors import AlreadyExists, KernelError, Unavailable
from netd.model import Network
from netd.tasks import spawn
from netd_dns import control
from netd_dns.control import Message

log = logging.getLogger(__name__)

PORT = 53
UDP_QUEUE = 512 * 1024
"""Bytes of packets that may wait in one socket, counted as the kernel does: it doubles this, and a
small question takes 768, so 1,300 of them, which we answer in some 10 ms."""
ANSWER_TIME = 3.0
"""Seconds after which a server that does not answer is taken for dead."""
Listen = tuple[str, str]
"""("udp" or "tcp", address)."""
Answer = asyncio.Future[tuple[Message, list[int]]]
"""What a request will bring: the answer and the descriptors that came with it."""

_HOME = Path(netd_dns.__file__).parent
# Without site-packages the interpreter starts in a third of the time; the server needs none of them.
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from netd_dns.__main__ import main; main(sys.argv[1:])"


def code_version() -> str:
    """Changes with every change of the server's source: a server with another one is replaced."""
    digest = hashlib.blake2s()
    for path in [*sorted(_HOME.glob("*.py")), Path(dns_filter.__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def listens(network: Network) -> tuple[Listen, ...]:
    """Where the server listens for a network: both transports on each gateway."""
    addresses = dict.fromkeys(str(subnet.gateway) for subnet in network.subnets if subnet.gateway)
    return tuple((kind, address) for address in addresses for kind in ("udp", "tcp"))


def open_sockets(network: Network) -> dict[Listen, socket.socket]:
    """All of a network's sockets, or none. Raises `AlreadyExists` where somebody else has the port."""
    opened: dict[Listen, socket.socket] = {}
    try:
        for kind, address in listens(network):
            opened[kind, address] = _open(kind, address)
    except OSError as error:
        for sock in opened.values():
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AlreadyExists(
                f"network {network.name}: port {PORT} of its gateway {address} is taken, probably by a "
                "DNS server of this host that listens on all addresses; let that listen on its own only "
                "(dnsmasq: bind-dynamic; bind: listen-on; unbound: interface)"
            ) from error
        raise KernelError(error.errno or 0, f"listen {kind} {address} port {PORT}") from error
    return opened


def _open(kind: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # The address may be repaired (removed and added again) while we listen, so it need not be
        # there just now. IP_FREEBIND is not in Python's socket module; 15 in linux/in.h, and
        # IPV6_FREEBIND 78 in linux/in6.h.
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, 15, 1)
        if kind == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past connections in TIME_WAIT
        if kind == "udp":
            # SO_RCVBUFFORCE, 33 in asm-generic/socket.h: a burst of a thousand questions may wait.
            sock.setsockopt(socket.SOL_SOCKET, 33, UDP_QUEUE)
        sock.bind((address, PORT))
        if kind == "tcp":
            sock.listen(128)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


class Link:
    """A connection to a server: requests out, in order, each with its answer.

    `lost` is called once, when the server is gone or no longer answers.
    """

    def __init__(self, sock: socket.socket, lost: Callable[[Link], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._answers: dict[int, Answer] = {}
        self._seq = 0
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._read)

    def request(self, message: Message, descriptors: Sequence[int] = ()) -> Answer:
        """Put a request in the queue, at once; the future brings the answer, or `Unavailable`."""
        future: Answer = self._loop.create_future()
        if self.closed:
            future.set_exception(Unavailable("the DNS server is not running"))
            return future
        # Duplicated now: whoever owns the descriptors may close them before the queue is written.
        copies: list[int] = []
        try:
            for descriptor in descriptors:
                copies.append(os.dup(descriptor))
        except OSError as error:
            for copy in copies:
                os.close(copy)
            future.set_exception(Unavailable(f"the DNS server cannot be told: {error.strerror}"))
            return future
        self._seq += 1
        self._answers[self._seq] = future
        self._queue.append((control.encode({**message, "seq": self._seq}), tuple(copies)))
        self._write()
        return future

    async def call(self, message: Message, descriptors: Sequence[int] = ()) -> Message:
        """One request and its answer. Raises `Unavailable` when the server does not answer in time."""
        answer, received = await self.call_for_descriptors(message, descriptors)
        for descriptor in received:
            os.close(descriptor)
        return answer

    async def call_for_descriptors(
        self, message: Message, descriptors: Sequence[int] = ()
    ) -> tuple[Message, list[int]]:
        try:
            return await asyncio.wait_for(self.request(message, descriptors), ANSWER_TIME)
        except TimeoutError as error:
            self.close()
            raise Unavailable(f"the DNS server did not answer within {ANSWER_TIME:g} s") from error

    def close(self) -> None:
        """Let go; the server goes on. Everybody who waits learns that nothing will come."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        for _, copies in self._queue:
            for descriptor in copies:
                os.close(descriptor)
        for future in self._answers.values():
            if not future.done():
                future.set_exception(Unavailable("the DNS server went away"))
                future.exception()  # somebody may have stopped waiting; that is no news for the log
        self._answers.clear()
        self._lost(self)

    def _write(self) -> None:
        while self._queue and not self.closed:
            data, copies = self._queue[0]
            try:
                control.send(self._socket, data, copies)
            except BlockingIOError:
                self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError as error:
                log.warning("DNS control: %s", error)
                self.close()
                return
            self._queue.popleft()
            for descriptor in copies:
                os.close(descriptor)
        if not self.closed:
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        try:
            message, descriptors = control.receive(self._socket)
        except BlockingIOError:
            return
        except (control.Closed, ValueError):
            self.close()
            return
        future = self._answers.pop(int(message.get("seq") or 0), None)
        if future is None or future.done():
            for descriptor in descriptors:
                os.close(descriptor)
        elif "error" in message:
            future.set_exception(Unavailable(f"the DNS server: {message['error']}"))
        else:
            future.set_result((message, descriptors))


class ControlSocket:
    """The listening end of the control socket, and the pid of the server, below the run directory."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "dns.sock"
        self.run_dir = run_dir
        self._pid_file = run_dir / "dns.pid"
        self.socket: socket.socket | None = None
        self._reaping: asyncio.Task[None] | None = None

    def connect(self, lost: Callable[[Link], None]) -> Link | None:
        """A connection to the server that is running, None if there is none."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(self.path))
        except OSError:
            sock.close()
            return None
        return Link(sock, lost)

    def listen(self) -> socket.socket:
        """The listening socket; made anew unless it is held already."""
        if self.socket is None:
            self.path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            sock.bind(str(self.path))
            self.path.chmod(0o600)
            sock.listen(8)
            self.socket = sock
        return self.socket

    def hold(self, descriptor: int) -> None:
        """Keep the listening socket of a server that was found running."""
        if self.socket is not None:
            self.socket.close()
        self.socket = socket.socket(fileno=descriptor)

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def start_server(self, code: str, allowed: bytes, lost: Callable[[Link], None]) -> Link:
        """Start a server process that may make the system calls of `allowed` (`netd.dns_filter`) and
        connect to it. Raises `Unavailable`."""
        with contextlib.ExitStack() as given, contextlib.ExitStack() as kept:
            try:
                listening = self.listen()
                ours, theirs = control.pair()
                kept.callback(ours.close)
                given.callback(theirs.close)
                home = os.open(self.run_dir, os.O_PATH | os.O_DIRECTORY)
                given.callback(os.close, home)
                program = os.memfd_create("filter")
                given.callback(os.close, program)
                os.write(program, allowed)
                os.lseek(program, 0, os.SEEK_SET)
                pid = _start(code, (listening.fileno(), home, theirs.fileno(), program))
            except OSError as error:
                raise Unavailable(f"the DNS server could not be started: {error}") from error
            kept.pop_all()
        self._reaping = spawn(_reap(pid), name="dns-server")
        self._pid_file.write_text(f"{pid}\n")
        return Link(ours, lost)

    async def end_server(self, link: Link) -> None:
        """Tell the server to stop, kill it if it does not; return when it has ended, also one that was found
        running."""
        descriptor = self._open_server()  # before: a process that ends has no command line any more
        with contextlib.suppress(Unavailable):
            await link.call({"op": "stop"})
        if descriptor is not None:
            try:
                await asyncio.wait_for(_exit(descriptor), ANSWER_TIME)
            except TimeoutError:
                await self.kill_server()
        await self.ended()

    async def ended(self) -> None:
        """Return when the server that was started here, and told to stop, has ended and is collected."""
        if self._reaping is not None:
            await self._reaping

    async def kill_server(self) -> None:
        """End a server that does not answer; its sockets are closed on return.

        Whatever else has its pid by now is left alone.
        """
        descriptor = self._open_server()
        if descriptor is None:
            return
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except OSError as error:
            log.warning("the DNS server could not be ended: %s", error)
        try:
            await asyncio.wait_for(_exit(descriptor), ANSWER_TIME)
        except TimeoutError:
            log.warning("the DNS server does not end, though it was killed")

    def _open_server(self) -> int | None:
        """A pidfd of the server whose pid was noted, if it still runs."""
        try:
            pid = int(self._pid_file.read_text())
            descriptor = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            if b"netd_dns" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return descriptor
        os.close(descriptor)
        return None


def _start(code: str, descriptors: Sequence[int]) -> int:
    """Execute the server with `descriptors` as its 3, 4, 5, 6; returns its pid.

    Not asyncio's subprocess: when that is collected it kills a child that still runs, and this one
    outlives the daemon. The server closes whatever else a library here left open for children.
    """
    # Above all numbers that they are copied to, so that no copy overwrites an original.
    originals = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in descriptors]
    numbers = range(3, 3 + len(originals))
    actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, *pair) for pair in zip(originals, numbers, strict=True)]
    arguments = ["-I", "-S", "-c", _BOOT, str(_HOME.parent), *map(str, numbers), code]
    try:
        return os.posix_spawn(
            sys.executable, [sys.executable, *arguments], os.environ, file_actions=actions, setsid=True
        )
    finally:
        for descriptor in originals:
            os.close(descriptor)


async def _reap(pid: int) -> None:
    """Collect a server when it ends; while the daemon stops, only if it has ended."""
    try:
        await _exit(os.pidfd_open(pid))
    finally:
        _collect(pid)


async def _exit(descriptor: int) -> None:
    """Wait until the process of a pidfd has ended; the descriptor is closed, whatever happens."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _collect(pid: int) -> None:
    try:
        collected, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # somebody collected all children
        return
    if collected:
        code = os.waitstatus_to_exitcode(status)
        level = logging.INFO if code == 0 else logging.WARNING
        log.log(level, "DNS server %d ended with %d", pid, code)


def adopt_sockets(
    listen: Sequence[Sequence[str]], descriptors: Sequence[int]
) -> Mapping[Listen, socket.socket]:
    """The sockets that a running server sent back."""
    return {
        (kind, address): socket.socket(fileno=descriptor)
        for (kind, address), descriptor in zip(listen, descriptors, strict=True)
    }
