"""TCP: many questions on a connection, and clients that try to be in the way."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import dns.message
import pytest

from netd_dns import tcp, wire
from netd_dns.counters import Counters
from netd_dns.loop import Loop
from netd_dns.resolve import Client, Resolver
from netd_dns.tcp import TcpListener, TcpServer
from netd_dns.wire import Query
from netd_dns.zone import View
from tests.unit.netd_dns.stub import until
from tests.unit.netd_dns.world import endpoint, sandbox, view, world


class Later:
    """A forwarder that keeps the questions until it is told to answer."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Query, Client]] = []

    def ask(self, query: Query, view: View, client: Client) -> None:
        self.waiting.append((query, client))

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for query, client in reversed(waiting):
            client.reply(wire.respond(query, wire.NOERROR, limit=client.limit(query)))


class Hall:
    """A TCP server on the loopback, whose clients are all the sandbox `web`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.counters = Counters()
        self.later = Later()
        self.zone = world()
        for number in range(200):
            self.zone.put_sandbox(
                sandbox(
                    f"m{number}", endpoint("front-id", f"m{number}", f"10.0.0.{number}", aliases=["many"])
                )
            )
        self.server = TcpServer(self.loop, Resolver(self.later, self.counters), self.counters)
        sock = socket.create_server(("127.0.0.1", 0))
        sock.setblocking(False)
        self.listener = TcpListener(sock, lambda _: view(self.zone, "web"), self.server)
        self.loop.watch(sock.fileno(), self.listener.serve)
        self.clients: list[socket.socket] = []

    def client(self) -> socket.socket:
        sock = socket.create_connection(self.listener.socket.getsockname())
        sock.setblocking(False)
        self.clients.append(sock)
        self.loop.turn(0)
        return sock

    def read(self, sock: socket.socket, count: int) -> list[dns.message.Message]:
        """The next answers on a connection."""
        data = b""
        found: list[dns.message.Message] = []

        def complete() -> bool:
            nonlocal data
            try:
                data += sock.recv(65536)
            except BlockingIOError:
                return False
            while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                size = int.from_bytes(data[:2], "big")
                found.append(dns.message.from_wire(data[2 : 2 + size]))
                data = data[2 + size :]
            return len(found) >= count

        until(self.loop, complete)
        return found

    def closed(self, sock: socket.socket, within: float) -> float:
        """How long the server took to close a connection."""

        def ended() -> bool:
            try:
                return sock.recv(65536) == b""
            except BlockingIOError:
                return False
            except ConnectionResetError:
                return True

        return until(self.loop, ended, within)


@pytest.fixture
def hall() -> Iterator[Hall]:
    made = Hall()
    yield made
    for sock in made.clients:
        sock.close()
    until(made.loop, lambda: not made.server._total)
    assert not made.server._open
    assert not made.loop.failures
    made.loop.forget(made.listener.socket.fileno())
    made.listener.socket.close()
    made.loop.close()


def frame(name: str = "api", rtype: str = "A", id: int = 1) -> bytes:
    data = dns.message.make_query(name, rtype, id=id).to_wire()
    return len(data).to_bytes(2, "big") + data


def test_several_questions_on_a_connection(hall: Hall) -> None:
    sock = hall.client()
    for number in range(5):
        sock.send(frame(id=number))
        (answer,) = hall.read(sock, 1)
        assert answer.id == number
        assert str(answer.answer[0][0]) == "10.0.0.3"


def test_pipelined_questions_and_answers_in_any_order(hall: Hall) -> None:
    sock = hall.client()
    sock.send(
        b"".join(
            [frame("slow.example.com", id=1), frame(id=2), frame("slower.example.com", id=3), frame(id=4)]
        )
    )
    assert [answer.id for answer in hall.read(sock, 2)] == [2, 4]
    hall.later.answer()
    assert [answer.id for answer in hall.read(sock, 2)] == [3, 1]


def test_questions_in_pieces(hall: Hall) -> None:
    sock = hall.client()
    for byte in frame() + frame(id=2):
        sock.send(bytes([byte]))
        hall.loop.turn(0)
    assert [answer.id for answer in hall.read(sock, 2)] == [1, 2]


def test_an_answer_that_udp_would_cut_is_whole(hall: Hall) -> None:
    sock = hall.client()
    sock.send(frame("many"))
    (answer,) = hall.read(sock, 1)
    assert len(answer.answer[0]) == 200
    assert not answer.flags & dns.flags.TC


def test_a_half_closed_client_gets_its_answers_and_costs_nothing(hall: Hall) -> None:
    """CVE-2026-35406: the end of the input, reported again and again."""
    sock = hall.client()
    sock.send(frame(id=1) + frame("slow.example.com", id=2))
    sock.shutdown(socket.SHUT_WR)
    assert [answer.id for answer in hall.read(sock, 1)] == [1]
    turns = 0
    began = time.monotonic()
    while time.monotonic() - began < 0.2:
        hall.loop.turn(0.05)
        turns += 1
    assert turns < 10, "the loop must sleep while it waits for the upstream"
    hall.later.answer()
    assert [answer.id for answer in hall.read(sock, 1)] == [2]
    hall.closed(sock, 1)


@pytest.mark.parametrize("junk", [b"\x00\x00", b"\x00\x05hello", b"\xff\xff" + bytes(100), b"\x20\x00"])
def test_junk_closes_the_connection(hall: Hall, junk: bytes) -> None:
    sock = hall.client()
    sock.send(junk)
    hall.closed(sock, 1)


def test_a_response_gets_silence_and_the_connection_goes_on(hall: Hall) -> None:
    sock = hall.client()
    data = bytearray(frame())
    data[4] |= 0x80
    sock.send(bytes(data) + frame(id=9))
    assert [answer.id for answer in hall.read(sock, 1)] == [9]
    sock.shutdown(socket.SHUT_WR)
    hall.closed(sock, 1)


def test_silent_and_slow_clients_are_sent_away(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "IDLE", 0.3)
    monkeypatch.setattr(tcp, "READ_TIME", 0.3)
    monkeypatch.setattr(tcp, "LOOK_EVERY", 0.05)
    silent, slow = hall.client(), hall.client()
    began = time.monotonic()
    slow.send(b"\x00")
    dribble = iter(frame()[1:])

    def sent_away() -> bool:
        """A byte now and then must not earn it more time."""
        try:
            slow.send(bytes([next(dribble, 0)]))
        except OSError:
            return True
        return False

    until(hall.loop, sent_away, 3)
    assert time.monotonic() - began < 2
    hall.closed(silent, 2)


def test_a_client_that_waits_for_an_upstream_is_not_idle(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "IDLE", 0.1)
    monkeypatch.setattr(tcp, "READ_TIME", 0.1)
    monkeypatch.setattr(tcp, "LOOK_EVERY", 0.05)
    sock = hall.client()
    sock.send(frame("slow.example.com"))
    began = time.monotonic()
    until(hall.loop, lambda: time.monotonic() - began > 0.5)
    hall.later.answer()
    assert len(hall.read(sock, 1)) == 1


def test_one_client_has_so_many_connections_and_no_more(hall: Hall) -> None:
    for _ in range(tcp.CLIENT_MOST):
        hall.client()
    extra = hall.client()
    hall.closed(extra, 1)
    hall.clients[0].send(frame())
    assert len(hall.read(hall.clients[0], 1)) == 1
    hall.clients.pop(0).close()
    until(hall.loop, lambda: hall.server._total < tcp.CLIENT_MOST)
    sock = hall.client()
    sock.send(frame())
    assert len(hall.read(sock, 1)) == 1


def test_questions_that_wait_are_bounded_by_not_reading_more(hall: Hall) -> None:
    sock = hall.client()
    sock.setblocking(True)
    for number in range(tcp.WAITING_MOST * 4):
        sock.send(frame(f"n{number}.example.com", id=number))
    sock.setblocking(False)
    for _ in range(50):
        hall.loop.turn(0)
    most = tcp.WAITING_MOST + tcp.CHUNK // 20
    assert tcp.WAITING_MOST <= len(hall.later.waiting) <= most
    assert not hall.loop._epoll.poll(0), "what is not read must not wake us again and again"
    seen = 0
    while seen < tcp.WAITING_MOST * 4:
        until(hall.loop, lambda: bool(hall.later.waiting))
        count = len(hall.later.waiting)
        hall.later.answer()
        seen += len(hall.read(sock, count))


def test_a_client_that_does_not_read_is_sent_away(hall: Hall) -> None:
    sock = hall.client()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asked = 0

    def sent_away() -> bool:
        nonlocal asked
        try:
            sock.send(frame("many") * 20)
            asked += 20
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    until(hall.loop, sent_away, 10)
    assert hall.counters.dropped["unread"] == 1


def test_a_crowd_with_much_to_ask_stalls_nobody(hall: Hall) -> None:
    """Counted in processor time of this thread, so that a busy machine does not matter."""
    for _ in range(tcp.CLIENT_MOST):
        hall.client().send(frame() * 150)
    longest = 0.0
    while hall.counters.tcp < tcp.CLIENT_MOST * 150:
        began = time.thread_time()
        hall.loop.turn(0.1)
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.01


def test_a_reset_is_survived(hall: Hall) -> None:
    for _ in range(3):
        sock = hall.client()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.send(frame("slow.example.com"))
        hall.loop.turn(0)
        sock.close()
        hall.loop.turn(0.01)
    until(hall.loop, lambda: not hall.server._total)
    hall.later.answer()


def test_running_out_of_descriptors_does_not_spin(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted:
        def accept(self) -> None:
            raise OSError(24, "Too many open files")

        fileno = hall.listener.socket.fileno
        getsockname = hall.listener.socket.getsockname

    real = hall.listener.socket
    monkeypatch.setattr(hall.listener, "socket", Exhausted())
    waiting = hall.client()
    waiting.send(frame())
    turns = 0
    began = time.monotonic()
    while time.monotonic() - began < 0.15:
        hall.loop.turn(0.05)
        turns += 1
    assert turns < 8
    monkeypatch.setattr(hall.listener, "socket", real)
    assert len(hall.read(waiting, 1)) == 1
