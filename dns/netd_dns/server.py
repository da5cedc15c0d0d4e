"""The server put together, and what the daemon can tell it.

Each operation of the control socket is a method `_on_OP(message, descriptors)` that returns the
answer's fields. It is applied before it is answered, in the thread that answers clients: when the
daemon reads "done", every later question is answered accordingly.
"""

from __future__ import annotations

import base64
import gc
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from itertools import islice
from typing import Any

from netd_dns import control, wire
from netd_dns.cache import Cache
from netd_dns.control import Message
from netd_dns.counters import Counters
from netd_dns.forward import Forwarder
from netd_dns.guard import Guard
from netd_dns.loop import WRITE, Loop
from netd_dns.resolve import Resolver
from netd_dns.tcp import TcpListener, TcpServer
from netd_dns.udp import Sources, UdpListener
from netd_dns.upstream import Upstreams
from netd_dns.zone import Host, Sandbox, Segment, View, Zone

log = logging.getLogger(__name__)

ROWS = 200
"""Rows of `dump` in one message."""
DUMPS_MOST = 8
ORPHAN_LOOK = 1.0
"""Seconds between looks at whether anybody still wants an orphaned server."""


class Listeners:
    """The sockets of one network, by (kind, address)."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.sockets: dict[tuple[str, str], UdpListener | TcpListener] = {}


class Server:
    """Owns the loop, the zone and the sockets.

    `home` is a descriptor of the run directory: when that is deleted nobody will ever come back.
    `code` identifies the program that this process runs, so that a newer daemon can replace it.
    """

    def __init__(
        self, listening: socket.socket, home: int, code: str, resolv_conf: str = "/etc/resolv.conf"
    ) -> None:
        self.loop = Loop()
        self.counters = Counters()
        self.zone = Zone(is_local)
        self.upstreams = Upstreams(resolv_conf)
        self.cache = Cache()
        self.resolver = Resolver(
            Forwarder(self.loop, self.upstreams, self.cache, self.counters), self.counters
        )
        self.tcp = TcpServer(self.loop, self.resolver, self.counters)
        self._nobody = View(self.zone, (), {}, ())
        self._listeners: dict[str, Listeners] = {}
        self._unseen: tuple[set[str], set[str]] = (set(), set())
        self._telling = False
        self._said: dict[str, int] = {}
        """By sandbox, a hash of what was told of it last."""
        self._code = code
        self._listening = listening
        self._home = home
        self._daemon: socket.socket | None = None
        self._outbox: deque[tuple[bytes, list[int]]] = deque()
        self._dumps: dict[int, Iterator[tuple[str, str, str, str]]] = {}
        listening.setblocking(False)
        self.loop.watch(listening.fileno(), self._accept)
        self.loop.after(ORPHAN_LOOK, self._look_around)

    def adopt(self, connection: socket.socket) -> None:
        """Obey whoever is at the other end of `connection`, and nobody else from now on."""
        if self._daemon is not None:
            self._orphaned()
        connection.setblocking(False)
        self._daemon = connection
        self.loop.watch(connection.fileno(), self._obey)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except OSError:
            return
        self.adopt(connection)

    def _orphaned(self) -> None:
        assert self._daemon is not None
        for _, descriptors in self._outbox:
            _close(descriptors)
        self._outbox.clear()
        self.loop.forget(self._daemon.fileno())
        self._daemon.close()
        self._daemon = None

    def _look_around(self) -> None:
        if self._daemon is None and os.fstat(self._home).st_nlink == 0:
            log.info("the run directory is gone, so am I")
            self.loop.stop()
        self.loop.after(ORPHAN_LOOK, self._look_around)

    def _obey(self) -> None:
        connection = self._daemon
        assert connection is not None
        try:
            message, descriptors = control.receive(connection)
        except BlockingIOError:
            return
        except (control.Closed, ValueError):
            log.info("the daemon is gone; answering with what is known")
            self._orphaned()
            return
        answer: Message | None
        try:
            handler: Callable[[Message, list[int]], Message | None] = getattr(
                self, f"_on_{message.get('op')}"
            )
            answer = handler(message, descriptors)
        except Exception as error:
            log.exception("control message %r failed", message.get("op"))
            answer = {"error": f"{type(error).__name__}: {error}"}
        if answer is not None:
            self._answer(message.get("seq"), answer)

    def _answer(self, seq: object, answer: Message) -> None:
        """Put an answer in the outbox. Its descriptors are copied: they may be closed before it is sent."""
        if self._daemon is None:
            return
        descriptors = [os.dup(descriptor) for descriptor in answer.pop("descriptors", ())]
        self._outbox.append((control.encode({**answer, "seq": seq}), descriptors))
        self._flush()

    def _flush(self) -> None:
        """Send what is in the outbox; while it does not fit, listen to no further request."""
        connection = self._daemon
        assert connection is not None
        try:
            while self._outbox:
                data, descriptors = self._outbox[0]
                control.send(connection, data, descriptors)
                self._outbox.popleft()
                _close(descriptors)
        except BlockingIOError:
            self.loop.watch(connection.fileno(), self._flush, WRITE)
        except OSError:
            self._orphaned()
        else:
            self.loop.watch(connection.fileno(), self._obey)

    # --- what exists ------------------------------------------------------------------------------

    def _on_hello(self, _: Message, __: list[int]) -> Message:
        """Who I am and what I have; with it comes the listening control socket."""
        return {
            "version": control.VERSION,
            "code": self._code,
            "pid": os.getpid(),
            "networks": len(self._listeners),
            "descriptors": [self._listening.fileno()],
        }

    def _on_ping(self, _: Message, __: list[int]) -> Message:
        return {}

    def _on_begin(self, _: Message, __: list[int]) -> Message:
        """A snapshot follows; what it does not name by its `end` is gone."""
        self._telling = True
        self._unseen = (set(self.zone.segments), set(self.zone.sandboxes))
        return {}

    def _on_end(self, _: Message, __: list[int]) -> Message:
        networks, sandboxes = self._unseen
        self._unseen = (set(), set())
        self._telling = False
        for id in sandboxes:
            self._touched(self.zone.put_sandbox(Sandbox(id, "", ())))
            self._said.pop(id, None)
        for id in networks:
            self._remove(id)
        for kept in self._listeners.values():
            for listener in kept.sockets.values():
                self.loop.watch(listener.socket.fileno(), listener.serve)
        # The collector would look through all this again and again, and everybody would wait for it.
        gc.freeze()
        return {"networks": len(self.zone.segments), "sandboxes": len(self.zone.sandboxes)}

    def _on_configure(self, message: Message, _: list[int]) -> Message:
        self.upstreams.configure(message["upstreams"])
        return {}

    def _on_network(self, message: Message, descriptors: list[int]) -> Message:
        id = message["id"]
        self._unseen[0].discard(id)
        segment = Segment(
            id, message["name"], message["internal"], tuple(message["subnets"]), tuple(message["dns"])
        )
        touched = self.zone.put_segment(segment)
        kept = self._listeners.get(id)
        if kept is None:
            kept = self._listeners[id] = Listeners(
                Sources(lambda source: self.zone.client(id, source), self._nobody)
            )
        for (kind, address), descriptor in zip(message["listen"], descriptors, strict=True):
            self._listen(kept, id, kind, address, socket.socket(fileno=descriptor))
        self._touched(touched)
        return {}

    def _on_network_removed(self, message: Message, _: list[int]) -> Message:
        self._remove(message["id"])
        return {}

    def _on_sandboxes(self, message: Message, _: list[int]) -> Message:
        for value in message["sandboxes"]:
            id = value["id"]
            self._unseen[1].discard(id)
            said = hash(repr(value))
            if self._said.get(id) != said:
                # A new daemon tells everything again, most of which is known: names stay finished.
                self._touched(self.zone.put_sandbox(read_sandbox(value)))
                self._said[id] = said
            if not value["endpoints"]:
                del self._said[id]
        return {}

    def _on_sockets(self, message: Message, _: list[int]) -> Message:
        """The listening sockets of one network, by its place, for a daemon that was started anew."""
        id, kept = next(islice(self._listeners.items(), message["place"], None))
        listen = sorted(kept.sockets)
        return {
            "id": id,
            "listen": listen,
            "descriptors": [kept.sockets[key].socket.fileno() for key in listen],
        }

    def _on_stop(self, _: Message, __: list[int]) -> Message:
        self.loop.stop()
        return {}

    def _listen(self, kept: Listeners, id: str, kind: str, address: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        old = kept.sockets.pop((kind, address), None)
        if old is not None:
            self._close(old)
        listener: UdpListener | TcpListener
        if kind == "udp":
            guard = Guard(sock, self.loop, self.counters)
            listener = UdpListener(sock, kept.sources, self._nobody, self.resolver, guard)
        else:
            listener = TcpListener(sock, lambda source: self.zone.client(id, source), self.tcp)
        kept.sockets[kind, address] = listener
        self.upstreams.listens(address, here=True)
        # While a snapshot is being told, questions wait: half of the truth would answer "no such name".
        if not self._telling:
            self.loop.watch(sock.fileno(), listener.serve)

    def _close(self, listener: UdpListener | TcpListener) -> None:
        self.loop.forget(listener.socket.fileno())
        listener.socket.close()

    def _remove(self, id: str) -> None:
        touched = self.zone.drop_segment(id)
        kept = self._listeners.pop(id, None)
        if kept is not None:
            for (_, address), listener in kept.sockets.items():
                self.upstreams.listens(address, here=False)
                self._close(listener)
        self._touched(touched)

    def _touched(self, segments: Iterable[str]) -> None:
        """Whoever was known to ask on these networks may be somebody else now."""
        for id in segments:
            kept = self._listeners.get(id)
            if kept is not None:
                kept.sources.clear()

    # --- what a person wants to know ----------------------------------------------------------------

    def _on_explain(self, message: Message, _: list[int]) -> Message:
        """What a sandbox would be told about a question, and why; nothing is asked outside."""
        view = self.zone.view_of(message["sandbox"])
        if view is None:
            return {"kind": None}
        name = wire.encode_name(message["name"])
        match = view.find(name.lower())
        servers = self.upstreams.choose(view.upstreams, self.loop.now) if view.outside else ()
        return {
            "kind": match.kind.name,
            "why": match.kind.value,
            "networks": [segment.name for segment in view.segments],
            "hosts": [
                {"sandbox": host.sandbox, "network": self.zone.segments[host.segment].name}
                for host in match.hosts
            ],
            "outside": view.outside,
            "upstreams": list(servers),
        }

    def _on_ask(self, message: Message, _: list[int]) -> None:
        """Answer a question as a sandbox would be answered, when the answer is there."""
        view = self.zone.view_of(message["sandbox"])
        client = Captured(
            lambda answer: self._answer(message["seq"], {"answer": base64.b64encode(answer).decode()})
        )
        self.resolver.question(base64.b64decode(message["question"]), view, client, keep=False)

    def _on_dump(self, message: Message, _: list[int]) -> Message:
        """The next rows of a dump that goes by a number of the asker's choice; none when it is over.

        It goes on where it was, since looking for the place again would take longer with every page.
        """
        number = message["dump"]
        rows = self._dumps.pop(number, None)
        if rows is None:
            rows = self._rows()
            if len(self._dumps) >= DUMPS_MOST:
                del self._dumps[next(iter(self._dumps))]
        page = list(islice(rows, ROWS))
        if page:
            self._dumps[number] = rows
        return {"rows": page}

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        """(network, name, address, sandbox) for everything that a client can be told, as it is now."""
        for segment in list(self.zone.segments.values()):
            for table, prefix in ((segment.names, ""), (segment.wildcards, "*.")):
                for name, hosts in list(table.items()):
                    for host in list(hosts):
                        for address in (*host.a, *host.aaaa):
                            text = prefix + wire.decode_name(name)
                            yield segment.name, text, str(ip_address(address)), host.sandbox

    def _on_metrics(self, _: Message, __: list[int]) -> Message:
        values = self.counters.values()
        values["answers"] = {wire.RCODES.get(code, str(code)): n for code, n in self.counters.answers.items()}
        values["ready_bytes"] = self.zone.budget.used
        values["cache_entries"] = len(self.cache)
        values["cache_bytes"] = self.cache.bytes
        values["failures"] = self.loop.failures
        return {"metrics": values}


class Captured:
    """A client without a socket: `netd dns lookup`."""

    source = ""

    def __init__(self, reply: Callable[[bytes], None]) -> None:
        self.reply = reply

    def limit(self, _: wire.Query) -> int:
        """As over TCP."""
        return wire.TCP_MOST


def read_sandbox(value: dict[str, Any]) -> Sandbox:
    """A sandbox as the daemon writes it; see `netd.dns_feed`. Raises KeyError, ValueError."""
    extra: dict[bytes, tuple[bytes, ...]] = {}
    for name, address in value["hosts"]:
        key = wire.encode_name(name).lower()
        extra[key] = (*extra.get(key, ()), ip_address(address).packed)
    services = frozenset((proto.encode(), port) for proto, port in value["services"])
    hosts = tuple(_host(value["id"], endpoint, services) for endpoint in value["endpoints"])
    return Sandbox(value["id"], value["name"], hosts, extra, tuple(value["dns"]))


def _host(sandbox: str, endpoint: dict[str, Any], services: frozenset[tuple[bytes, int]]) -> Host:
    return Host(
        sandbox=sandbox,
        segment=endpoint["network"],
        canonical=wire.encode_name(endpoint["canonical"]),
        addresses=[ip_address(address).packed for address in endpoint["addresses"]],
        names=tuple(wire.encode_name(name).lower() for name in endpoint["names"]),
        wildcards=tuple(wire.encode_name(name).lower() for name in endpoint["wildcards"]),
        services=services,
        silent=tuple(ip_address(address).packed for address in endpoint["silent"]),
    )


def is_local(address: str) -> bool:
    """Whether an address is the host's own: then it is also the source of what is sent to it.

    Binding to it would say so too, except where net.ipv4.ip_nonlocal_bind is set.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 53))
            return str(probe.getsockname()[0]) == address
    except OSError:
        return False


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
