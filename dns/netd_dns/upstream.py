"""Which servers to forward to: their addresses, and whether they answered lately.

Kept apart from `forward` because it is all bookkeeping: the host's resolv.conf read again when it
changes, and a short memory of servers that let us wait.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at resolv.conf. A look is one stat(2), and only made when forwarding, so
that an idle server sleeps; inotify would see writes and renames of the file but not a symlink's."""
SHUN = 5.0
"""Seconds for which a server that did not answer is asked after the others."""
LOOPING = 60.0
"""Seconds for which a server that asked us our own question is not asked at all."""
SERVERS_MOST = 8


class Server(NamedTuple):
    """One upstream. `text` is how it was written; `address` is what connect(2) takes."""

    text: str
    family: int
    address: tuple[str, int] | tuple[str, int, int, int]


def parse(text: str) -> Server:
    """`ADDRESS`, `ADDRESS%INTERFACE` or `ADDRESS#PORT`. Raises ValueError for anything else."""
    host, _, port = text.partition("#")
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"DNS server {text!r} is not valid: the port must lie between 1 and 65535")
    try:
        # Bytes, because text goes through the idna codec, whose import costs more than all the rest.
        found = socket.getaddrinfo(
            host.encode(), int(port or 53), type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
    except OSError as error:
        raise ValueError(f"DNS server {text!r} is not an IP address") from error
    family, _, _, _, address = found[0]
    return Server(text, int(family), cast(Any, address))


def nameservers(resolv_conf: str) -> tuple[str, ...]:
    """The servers that a resolv.conf(5) names, those that are not addresses left out."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.append(parse(words[1]).text)
            except ValueError:
                log.warning("resolv.conf: %r is not an address, ignored", words[1])
    return tuple(dict.fromkeys(found))[:SERVERS_MOST]


class Upstreams:
    """The host's servers, parsed addresses, and who is being shunned."""

    def __init__(self, resolv_conf: str = "/etc/resolv.conf") -> None:
        self._own: set[str] = set()
        self._others: dict[tuple[str, ...], tuple[str, ...]] = {}  # servers, without our own addresses
        self._path = resolv_conf
        self._configured: tuple[str, ...] = ()
        self._host: tuple[str, ...] = ()
        self._seen: tuple[int, int, int] | None = None
        self._looked = float("-inf")
        self._servers: dict[str, Server] = {}
        self._usual: tuple[tuple[str, ...], list[Server]] = ((), [])
        self._shunned: dict[str, float] = {}
        self._looping: dict[str, float] = {}

    def configure(self, servers: Iterable[str]) -> None:
        """Use these instead of the host's; empty goes back to the host's. Raises ValueError."""
        self._configured = tuple(parse(server).text for server in servers)

    def listens(self, address: str, *, here: bool) -> None:
        """We answer at `address`, or no longer do: asking there is asking ourselves."""
        (self._own.add if here else self._own.discard)(address)
        self._others.clear()

    def choose(self, wanted: tuple[str, ...], now: float) -> tuple[str, ...]:
        """The servers for a question: `wanted`, or else the host's; never ourselves."""
        wanted = wanted or self._hosts(now)
        servers = self._others.get(wanted)
        if servers is None:
            servers = tuple(server for server in wanted if server.partition("#")[0] not in self._own)
            self._others[wanted] = servers
        if self._looping:
            return tuple(server for server in servers if self._looping.get(server, 0.0) <= now)
        return servers

    def loops(self, server: Server, now: float) -> bool:
        """This server leads back to us. True if that is news."""
        news = self._looping.get(server.text, 0.0) <= now
        self._looping[server.text] = now + LOOPING
        return news

    def ordered(self, servers: tuple[str, ...], now: float) -> list[Server]:
        """In the order given, those that let us wait lately last."""
        shunned = self._shunned
        if shunned:
            late = sorted(servers, key=lambda server: shunned.get(server, 0.0) > now)
            return [self._server(server) for server in late]
        if servers != self._usual[0]:
            self._usual = servers, [self._server(server) for server in servers]
        return self._usual[1]

    def all_away(self, servers: tuple[str, ...], now: float) -> bool:
        return all(self._shunned.get(server, 0.0) > now for server in servers)

    def failed(self, server: Server, now: float) -> None:
        self._shunned[server.text] = now + SHUN

    def answered(self, server: Server) -> None:
        self._shunned.pop(server.text, None)

    def _server(self, text: str) -> Server:
        server = self._servers.get(text)
        if server is None:
            if len(self._servers) > 1000:
                self._servers.clear()
                self._others.clear()
            server = self._servers[text] = parse(text)
        return server

    def _hosts(self, now: float) -> tuple[str, ...]:
        if self._configured:
            return self._configured
        if now - self._looked < LOOK_EVERY:
            return self._host
        self._looked = now
        try:
            status = os.stat(self._path)  # noqa: PTH116  (pathlib costs 10 ms of a restart)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                    self._host = nameservers(file.read(65536))
                self._seen = seen
                log.info("upstream servers: %s", " ".join(self._host) or "none")
        except OSError as error:
            # Keep what was known: resolv.conf is replaced by programs that are not always careful.
            if self._seen is not None:
                log.warning("%s: %s", self._path, error)
            self._seen = None
        return self._host
