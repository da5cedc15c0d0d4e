"""Finds upstream servers that forward to us, so that a question would go round for ever.

A host's dnsmasq may well be told to ask netd, while the host's resolv.conf tells netd to ask dnsmasq.
Addresses do not show it. So each server that is used gets, now and then, a question with a name that
nobody else could make up; if that question arrives here, the server leads back to us, and is not
asked until a later check finds it changed. (CoreDNS has the same idea, and once crashed on a probe it
had let others guess, CVE-2026-26018: ours come from the kernel's generator and mean nothing else.)
"""

from __future__ import annotations

import logging
import os
import socket
import time

from netd_dns import wire
from netd_dns.loop import Loop
from netd_dns.upstream import Server, Upstreams

log = logging.getLogger(__name__)

CHECK_EVERY = 300.0
"""Seconds between two checks of a server that is in use."""
LISTEN = 5.0
"""Seconds in which the question may come back."""


class LoopCheck:
    """Sends the questions and recognises them."""

    def __init__(self, loop: Loop, upstreams: Upstreams) -> None:
        self._loop = loop
        self._upstreams = upstreams
        self._due: dict[str, float] = {}
        self._latest: list[Server] | None = None
        self._quiet = 0.0
        self._sent: dict[bytes, tuple[Server, socket.socket]] = {}

    def used(self, servers: list[Server], now: float) -> None:
        """These servers are about to be asked: check those that were not checked lately."""
        if servers is self._latest and now < self._quiet:
            return  # nearly always
        self._latest, self._quiet = servers, now + 1.0
        for server in servers:
            if now >= self._due.get(server.text, float("-inf")):
                if len(self._due) > 1000:
                    self._due.clear()
                self._due[server.text] = now + CHECK_EVERY
                self._send(server)

    def is_ours(self, name: bytes) -> bool:
        """Whether a question that arrived is one of ours; its server then is not asked any more."""
        sent = self._sent.get(name)
        if sent is None:
            return False
        server, _ = sent
        self._due[server.text] = 0.0  # look again when it is asked again
        if self._upstreams.loops(server, time.monotonic()):
            log.error(
                "DNS server %s forwards to netd, which forwards to it: it is left out until it has changed",
                server.text,
            )
        return True

    def _send(self, server: Server) -> None:
        labels = [os.urandom(10).hex().encode() for _ in range(2)]
        name = b"".join(bytes([len(label)]) + label for label in labels) + wire.ROOT
        head = os.urandom(2) + wire.HEADER.pack(0, wire.RECURSION_DESIRED, 1, 0, 0, 0)[2:]
        sock = socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(server.address)
            sock.send(head + name + wire.HINFO.to_bytes(2, "big") + wire.IN.to_bytes(2, "big"))
        except OSError:
            sock.close()
            return

        # Nobody will read the answer; the socket stays open so that it meets no closed port.
        self._sent[name] = server, sock
        self._loop.after(LISTEN, lambda: self._forget(name))

    def close(self) -> None:
        """Forget everything that is on its way."""
        for name in list(self._sent):
            self._forget(name)

    def _forget(self, name: bytes) -> None:
        if name in self._sent:
            self._sent.pop(name)[1].close()
