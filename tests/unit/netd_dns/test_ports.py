"""Ports to upstream servers: a fresh one for each question, though the sockets are kept."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from netd_dns import ports
from netd_dns.loop import Loop
from netd_dns.ports import Port, Ports
from netd_dns.upstream import Server, parse

LOOPBACKS = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Question:
    """Whoever borrows a port; `done` is what it says to what comes."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.refused = 0
        self.done = True

    def received(self, data: bytes) -> bool:
        self.came.append(data)
        return self.done

    def unreachable(self) -> None:
        self.refused += 1


class World:
    """A server, and ports to ask it from."""

    def __init__(self, upstream: socket.socket) -> None:
        self.upstream = upstream
        address, number = upstream.getsockname()[:2]
        self.server: Server = parse(f"{address}#{number}")
        self.loop = Loop()
        self.ports = Ports(self.loop)

    def lend(self) -> Port:
        return self.ports.lend(self.server, Question())

    def until(self, port: Port, came: int = 0, refused: int = 0) -> Question:
        """Turn until the port's borrower has heard so much."""
        question = port.borrower
        assert isinstance(question, Question)
        deadline = time.monotonic() + 10
        while len(question.came) < came or question.refused < refused:
            assert time.monotonic() < deadline
            self.loop.turn(0.01)
        return question


def number(port: Port) -> int:
    found: int = port.socket.getsockname()[1]
    return found


@pytest.fixture(params=LOOPBACKS, ids=["ipv4", "ipv6"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with closing(socket.socket(request.param, socket.SOCK_DGRAM)) as upstream:
        upstream.bind((LOOPBACKS[request.param], 0))
        made = World(upstream)
        yield made
        made.ports.close()
        assert not made.loop.failures
        assert not made.loop._watched
        made.loop.close()


def test_one_socket_after_another_question_never_the_same_port(world: World) -> None:
    numbers, sockets = [], set()
    for _ in range(50):
        port = world.lend()
        numbers.append(number(port))
        sockets.add(port.socket.fileno())
        world.ports.give_back(port)
        assert number(port) == 0, "nobody can send to it any more"
    assert len(sockets) == 1
    assert len(set(numbers)) >= 48, "chosen at random: the same twice among 50 is rare, thrice never seen"
    assert any(later < earlier for earlier, later in itertools.pairwise(numbers)), "not in order"


def test_questions_in_flight_have_a_port_each(world: World) -> None:
    lent = [world.lend() for _ in range(ports.IDLE_MOST + 10)]
    assert len({number(port) for port in lent}) == len(lent)
    for port in lent:
        world.ports.give_back(port)
    assert len(world.loop._watched) == ports.IDLE_MOST, "no more are kept"


def test_what_comes_goes_to_whoever_has_the_port(world: World) -> None:
    port = world.lend()
    assert isinstance(port.borrower, Question)
    port.borrower.done = False
    port.send(b"question")
    _, peer = world.upstream.recvfrom(100)
    for data in (b"forged", b"answer"):
        world.upstream.sendto(data, peer)
    assert world.until(port, came=2).came == [b"forged", b"answer"]
    world.ports.drop(port)


def test_what_came_too_late_is_nothing_to_the_next_question(world: World) -> None:
    port = world.lend()
    port.send(b"question")
    _, peer = world.upstream.recvfrom(100)
    for data in (b"answer", b"once more", b"and again"):
        world.upstream.sendto(data, peer)
    world.until(port, came=1)
    world.ports.give_back(port)
    after = world.lend()
    assert after is not port, "a socket with something unread in it is not used again"
    world.upstream.sendto(b"late", peer)
    after.send(b"another question")
    _, peer = world.upstream.recvfrom(100)
    world.upstream.sendto(b"its answer", peer)
    assert world.until(after, came=1).came == [b"its answer"]
    world.ports.drop(after)


def test_what_comes_late_to_a_socket_that_is_kept_does_not_arrive(world: World) -> None:
    port = world.lend()
    port.send(b"question")
    _, peer = world.upstream.recvfrom(100)
    world.upstream.sendto(b"answer", peer)
    world.until(port, came=1)
    world.ports.give_back(port)
    world.upstream.sendto(b"late", peer)
    after = world.lend()
    assert after is port
    world.upstream.sendto(b"later", peer)
    after.send(b"another question")
    _, peer = world.upstream.recvfrom(100)
    world.upstream.sendto(b"its answer", peer)
    assert world.until(after, came=1).came == [b"its answer"]
    world.ports.drop(after)


def test_only_the_server_can_answer(world: World) -> None:
    port = world.lend()
    with closing(socket.socket(port.socket.family, socket.SOCK_DGRAM)) as stranger:
        stranger.sendto(b"forged", (LOOPBACKS[port.socket.family], number(port)))
    port.send(b"question")
    _, peer = world.upstream.recvfrom(100)
    world.upstream.sendto(b"answer", peer)
    assert world.until(port, came=1).came == [b"answer"]
    world.ports.drop(port)


def test_a_server_that_is_not_there_says_so(world: World) -> None:
    port = world.lend()
    world.upstream.close()
    port.send(b"question")
    assert world.until(port, refused=1).came == []
    world.ports.drop(port)


def test_a_server_that_cannot_be_reached_costs_no_descriptor(world: World) -> None:
    nowhere = Server("255.255.255.255", socket.AF_INET, ("255.255.255.255", 53))  # refused: no broadcast
    with pytest.raises(OSError, match="denied"):
        world.ports.lend(nowhere, Question())
    assert not world.loop._watched
