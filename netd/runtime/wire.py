"""How the daemon, the launcher and the monitors talk: SOCK_SEQPACKET unix sockets.

The daemon hands the launcher a `Preparation` together with two descriptors: one end of a socket pair, over
which the new monitor then answers, and a memfd with the request itself (`Creation` or `Entry`), of any
size. With monitors it exchanges frames.

One packet is one frame, so there is nothing to reassemble and a half frame cannot exist: a byte for the
kind, four for the code, the rest is data. The kinds of `spec.Frame` travel between a process and whoever
is attached to it; these are only spoken here, below `Attached`:

    to the monitor      "attach", "run", "wait", "follow"   the first frame of a connection: its purpose
    from the monitor    "ready"       created; all that is left to do is to execute the command
                        "running"     the command was executed
                        "error"       it could not be; data is the message, code 126 or 127 as in a shell
                        "failed"      the container could not be made; data is "Class: message"
                        "grown"       there is more in the log
    inside              "ready", "run", "error", "failed" likewise, between the monitor and the command
"""

from __future__ import annotations

import array
import contextlib
import socket
import struct

import msgspec

from netd import errors
from netd.errors import NetdError
from netd.runtime.record import Task
from netd.runtime.spec import ContainerSpec, Frame, Process

LAUNCHER = "netd.runtime.launcher"
"""The module that the daemon execs."""

CHUNK = 64 * 1024
"""The most data in one frame, well below the default send buffer of a socket (208 KiB)."""

SOCKET_NAME = "attach"
"""The monitor's listening socket in the container's directory."""

_HEADER = struct.Struct("!BI")
MAXIMUM = _HEADER.size + CHUNK

_KINDS = (
    *("stdout", "stderr", "exit", "stdin", "eof", "resize", "signal"),
    *("attach", "run", "wait", "follow", "ready", "running", "error", "failed", "grown"),
)
# A kind's number is its place here. Monitors of an older netd go on speaking with a newer daemon, so kinds
# are only ever added at the end.
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS, start=1)}


def pack(frame: Frame) -> bytes:
    """The packet of a frame."""
    return _HEADER.pack(_NUMBERS[frame.kind], frame.code) + frame.data


def unpack(packet: bytes) -> Frame:
    """The frame of a packet. Raises ValueError on anything that `pack` does not make."""
    if len(packet) < _HEADER.size:
        raise ValueError(f"a packet of {len(packet)} bytes is no frame")
    number, code = _HEADER.unpack_from(packet)
    if not 1 <= number <= len(_KINDS):
        raise ValueError(f"unknown frame kind {number}")
    return Frame(_KINDS[number - 1], packet[_HEADER.size :], code)


class Preparation(msgspec.Struct, frozen=True):
    """What the launcher must know of a request before it forks: all of it that it ever sees.

    Its memory is inherited by every container's PID 1, where nothing of another's environment may lie
    about. `hide` is None unless the root file system is the host's.
    """

    cap_add: tuple[str, ...]
    cap_drop: tuple[str, ...]
    hide: tuple[str, ...] | None = None


class Creation(msgspec.Struct, frozen=True, tag=True):
    """A container to make: `directory` is its own, `group` its control group."""

    spec: ContainerSpec
    directory: str
    group: str


class Entry(msgspec.Struct, frozen=True, tag=True):
    """A process to start in the container of `spec`, whose first command is `command`."""

    spec: ContainerSpec
    directory: str
    group: str
    command: Task
    process: Process


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, frame: Frame, fds: tuple[int, ...] = ()) -> None:
    """Send, blocking. A peer that is gone is nobody's business here: its end is noticed by reading."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if fds:
            socket.send_fds(channel, [pack(frame)], fds)
        else:
            channel.send(pack(frame))


def receive(channel: socket.socket) -> Frame | None:
    """The next frame; None when the peer is gone."""
    try:
        packet = channel.recv(MAXIMUM)
    except ConnectionResetError:
        # The kernel tells first that the peer left something unread, and then what it had sent.
        packet = channel.recv(MAXIMUM)
    return unpack(packet) if packet else None


def receive_ready(channel: socket.socket) -> tuple[Frame | None, tuple[int, ...], int]:
    """The next frame with the descriptors it brought and the sender's pid in *our* PID namespace.

    Needs SO_PASSCRED on the socket. That translation is how a monitor learns the pid of a process that
    only knows its number inside the container.
    """
    space = socket.CMSG_SPACE(8 * array.array("i").itemsize) + socket.CMSG_SPACE(struct.calcsize("3i"))
    try:
        packet, ancillary, _, _ = channel.recvmsg(MAXIMUM, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # see `receive`
        packet, ancillary, _, _ = channel.recvmsg(MAXIMUM, space, socket.MSG_CMSG_CLOEXEC)
    fds, pid = array.array("i"), 0
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack("3i", data)[0]
    return (unpack(packet) if packet else None), tuple(fds), pid


def refusal(error: Exception) -> Frame:
    """An exception as a frame; `raise_refusal` makes it one again at the other end."""
    name = type(error).__name__ if isinstance(error, NetdError) else "NetdError"
    return Frame("failed", f"{name}: {error}".encode(errors="replace")[:CHUNK])


def raise_refusal(frame: Frame) -> None:
    """Raise what a "failed" frame carries."""
    name, _, message = frame.data.decode(errors="replace").partition(": ")
    known = getattr(errors, name, NetdError)
    kind = known if isinstance(known, type) and issubclass(known, NetdError) else NetdError
    if kind is errors.KernelError:
        kind = NetdError
    raise kind(message)
