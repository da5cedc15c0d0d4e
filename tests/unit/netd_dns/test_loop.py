"""The loop: readiness, timers, and callbacks that fail."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from netd_dns.loop import READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_calls_when_ready_until_told_to_forget(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    calls: list[bytes] = []
    loop.watch(left.fileno(), lambda: calls.append(left.recv(1)))
    loop.turn(0)
    right.send(b"ab")
    loop.turn(0)
    loop.turn(0)
    assert calls == [b"a", b"b"]
    right.send(b"c")
    loop.forget(left.fileno())
    loop.forget(left.fileno())
    loop.turn(0)
    assert calls == [b"a", b"b"]


def test_events_can_change(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    left, _ = pair
    calls: list[str] = []
    loop.watch(left.fileno(), lambda: calls.append("read"), READ)
    loop.turn(0)
    loop.watch(left.fileno(), lambda: calls.append("write"), WRITE)
    loop.turn(0)
    assert calls == ["write"]


def test_a_descriptor_closed_in_the_same_turn_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    calls: list[int] = []

    def first(me: int, other: int) -> None:
        calls.append(me)
        loop.forget(pairs[other][0].fileno())
        pairs[me][0].recv(1)

    for me in (0, 1):
        loop.watch(pairs[me][0].fileno(), lambda me=me: first(me, 1 - me))  # type: ignore[misc]
        pairs[me][1].send(b"x")
    loop.turn(0)
    assert len(calls) == 1
    for left, right in pairs:
        left.close()
        right.close()


def test_timers_in_order_and_cancelled_ones_not(loop: Loop) -> None:
    calls: list[str] = []
    loop.after(0.02, lambda: calls.append("second"))
    loop.after(0.01, lambda: calls.append("first"))
    loop.after(0.015, lambda: calls.append("never")).cancel()
    loop.after(0.03, loop.stop)
    began = time.monotonic()
    loop.run()
    assert calls == ["first", "second"]
    assert 0.03 <= time.monotonic() - began < 1


def test_waits_for_ever_without_timers(loop: Loop) -> None:
    assert loop._timeout() == -1
    loop.after(5, lambda: None).cancel()
    assert loop._timeout() == -1


def test_a_failing_callback_is_counted_and_the_others_go_on(loop: Loop) -> None:
    calls: list[str] = []
    loop.after(0, lambda: 1 // 0)  # type: ignore[arg-type]
    loop.after(0, lambda: calls.append("other"))
    loop.turn(0.01)
    assert (calls, loop.failures) == (["other"], 1)
