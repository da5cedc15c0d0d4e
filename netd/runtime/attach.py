"""The daemon's end of a connection to a monitor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from netd.errors import Unavailable
from netd.runtime import record, wire
from netd.runtime.spec import Frame


class Connection:
    """A non-blocking SEQPACKET socket; frames in and out. Implements `spec.Attached`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._sending = asyncio.Lock()

    @classmethod
    async def open(cls, directory: Path, purpose: str) -> Connection:
        """Connect to the monitor of the container in `directory` and tell it what for.

        Raises ConnectionRefusedError or FileNotFoundError where no monitor listens (any more).
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection = cls(sock)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By way of the descriptor: a socket's path has at most 107 bytes, and a run dir may be deep.
            sock.connect(f"/proc/self/fd/{fd}/{wire.SOCKET_NAME}")
            await connection.send(Frame(purpose))
        except BlockingIOError:
            await connection.close()
            raise Unavailable(
                f"the monitor of container {directory.name} does not answer: try again"
            ) from None
        except BaseException:
            await connection.close()
            raise
        finally:
            os.close(fd)
        return connection

    async def receive(self) -> Frame | None:
        """The next frame; None when the monitor is gone."""
        loop = asyncio.get_running_loop()
        try:
            packet = await loop.sock_recv(self._socket, wire.MAXIMUM)
        except ConnectionResetError:  # see `wire.receive`
            packet = await loop.sock_recv(self._socket, wire.MAXIMUM)
        return wire.unpack(packet) if packet else None

    async def expect(self, *kinds: str) -> Frame:
        """The next frame, which must be one of `kinds`; a refusal is raised, as is the monitor's end."""
        frame = await self.receive()
        if frame is None:
            raise ConnectionResetError("the monitor ended")
        if frame.kind == "failed":
            wire.raise_refusal(frame)
        if frame.kind not in kinds:
            raise ConnectionResetError(f"the monitor answered {frame.kind!r}")
        return frame

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            frame = await self.receive() or Frame("exit", code=record.LOST)
            yield frame
            if frame.kind == "exit":
                return

    async def send(self, frame: Frame) -> None:
        """Send a frame, in pieces if it is long. A peer that is gone swallows it."""
        loop = asyncio.get_running_loop()
        async with self._sending:
            for start in range(0, max(len(frame.data), 1), wire.CHUNK):
                piece = Frame(frame.kind, frame.data[start : start + wire.CHUNK], frame.code)
                try:
                    await loop.sock_sendall(self._socket, wire.pack(piece))
                except (BrokenPipeError, ConnectionResetError):
                    return

    async def close(self) -> None:
        """Detach."""
        self._socket.close()


class Ended:
    """What one gets by attaching to a process that has ended already. Implements `spec.Attached`."""

    def __init__(self, code: int) -> None:
        self._code = code

    async def __aiter__(self) -> AsyncIterator[Frame]:
        yield Frame("exit", code=self._code)

    async def send(self, frame: Frame) -> None:
        """Swallowed."""

    async def close(self) -> None:
        """Nothing to do."""
