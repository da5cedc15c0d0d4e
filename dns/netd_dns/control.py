"""The wire between the daemon and its DNS: one JSON object a message, descriptors beside it.

A SOCK_SEQPACKET unix socket keeps messages apart and carries descriptors with the message that they
belong to. Every request of the daemon has a `seq`, and the answer with the same `seq` comes when what
it asks for is in force. Both sides import this module, and nothing else of each other.
"""

from __future__ import annotations

import json
import socket
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

VERSION = 1
"""Raise it whenever a message changes its meaning: a daemon then replaces a server it cannot speak to."""
MESSAGE_MOST = 160 * 1024
"""Bytes; below the default socket buffer (net.core.wmem_default), so that one message always fits."""
BATCH = 64 * 1024
"""Bytes that a sender may put into one message before it starts the next."""
DESCRIPTORS_MOST = 64

Message = dict[str, Any]


class Closed(Exception):
    """The other side is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair, for a server that is about to be started."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def encode(message: Message) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(",", ":")).encode()


def send(sock: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one encoded message. Raises BlockingIOError when the buffer is full, else OSError."""
    if descriptors:
        socket.send_fds(sock, [data], list(descriptors))
    else:
        sock.send(data)


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """One message. Raises `Closed`, BlockingIOError, or ValueError for what is not a message."""
    # Not socket.recv_fds: it ignores its flags (CPython 3.11), and descriptors must not leak into children.
    descriptors = array("i")
    room = socket.CMSG_SPACE(DESCRIPTORS_MOST * descriptors.itemsize)
    try:
        data, ancillary, flags, _ = sock.recvmsg(MESSAGE_MOST, room, socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError as error:
        raise Closed from error
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(raw[: len(raw) - len(raw) % descriptors.itemsize])
    if not data:
        raise Closed
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(descriptors)
        raise ValueError("a control message was cut")
    try:
        message = json.loads(data)
        if not isinstance(message, dict):
            raise ValueError("a control message must be an object")
    except ValueError:
        _close(descriptors)
        raise
    return message, list(descriptors)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        socket.close(descriptor)
