"""Two TCP connections joined into one, with half-close and back-pressure.

What one end reads, the other writes. An end of data is handed on as an end of data (FIN), and the
other direction goes on: that is how a client says "that was the request" and still gets its answer.
Whoever reads slowly makes the other side wait, because an end stops reading while its partner's
buffer is full. A connection that breaks breaks its partner, too.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from netd.tasks import spawn

CONNECT_TIMEOUT = 10.0
"""Seconds in which the container has to answer."""


def reset(client: socket.socket) -> None:
    """Close with RST: the client learns at once that nobody is there, instead of reading an end."""
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


class Pipe:
    """A client, and the container it is led to. Calls `ended` once, when both ends are closed."""

    def __init__(self, client: socket.socket, target: tuple[str, int], ended: Callable[[Pipe], None]) -> None:
        self._client = client
        self._ended = ended
        self._near, self._far = _End(self), _End(self)
        self._near.partner, self._far.partner = self._far, self._near
        self._joining = spawn(self._join(*target), name=f"relay to {target[0]}:{target[1]}")
        self._joining.add_done_callback(self._joined)

    async def _join(self, host: str, port: int) -> bool:
        """Connect to the container first: a client it does not want is reset, not served an end."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(lambda: self._far, host, port)
            await loop.connect_accepted_socket(lambda: self._near, self._client)
        except (OSError, TimeoutError):
            return False
        return True

    def _joined(self, joining: asyncio.Task[bool]) -> None:
        if not joining.cancelled() and joining.result():
            return
        reset(self._client)
        self._near.lost = True
        if self._far.transport and not self._far.lost:
            self._far.transport.abort()  # which tells, when it is done, that the last end is closed
        else:
            self._far.lost = True
            self.closed()

    def abort(self) -> None:
        """Cut both ends now."""
        self._joining.cancel()
        for end in (self._near, self._far):
            if end.transport:
                end.transport.abort()

    def closed(self) -> None:
        """One end is closed; tell when it was the last."""
        if self._near.lost and self._far.lost:
            self._ended(self)


class _End(asyncio.Protocol):
    """One connection of a pipe: hands on what it reads, and its end, and its hesitation."""

    partner: _End

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.transport: asyncio.Transport | None = None
        self.early = bytearray()
        self.finished = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        partner = self.partner
        if partner.transport is None:
            return
        # The container may have spoken (SSH and SMTP greet), ended or broken before the client's end stood.
        if partner.early:
            transport.write(bytes(partner.early))
            partner.early.clear()
        if partner.lost:
            transport.close()
        elif partner.finished:
            transport.write_eof()
        else:
            partner.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.partner.transport:
            self.partner.transport.write(data)
        else:
            self.early += data
            assert self.transport
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.finished = True
        if self.partner.transport and not self.partner.transport.is_closing():
            self.partner.transport.write_eof()
        # Stay open for the other direction, unless that one has ended before.
        return not self.partner.finished

    def pause_writing(self) -> None:
        if self.partner.transport:
            self.partner.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.partner.transport and not self.partner.transport.is_closing():
            self.partner.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self.partner.transport and not self.partner.lost:
            if error is None and self.finished:
                self.partner.transport.close()
            else:
                self.partner.transport.abort()
        self._pipe.closed()
