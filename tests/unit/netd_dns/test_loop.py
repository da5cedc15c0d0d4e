"""The loop: readiness, timers, and callbacks that fail."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

import netd_dns.loop
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


def test_timers_of_one_length_in_order_and_cancelled_ones_not(loop: Loop) -> None:
    calls: list[str] = []
    loop.after(0.02, lambda: calls.append("second"))
    loop.after(0.01, lambda: calls.append("first"))
    loop.after(0.02, lambda: calls.append("never")).cancel()
    loop.after(0.02, lambda: calls.append("third"))
    loop.after(0.04, loop.stop)
    began = time.monotonic()
    loop.run()
    assert set(calls) == {"first", "second", "third"}
    assert calls.index("second") < calls.index("third")
    assert 0.04 <= time.monotonic() - began < 1


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


def test_the_patient_are_served_in_turn_and_never_long(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netd_dns.loop, "PATIENCE", 0.0)  # one a turn
    pairs = [socket.socketpair() for _ in range(4)]
    calls: list[int] = []
    for number, (left, right) in enumerate(pairs):
        loop.watch(left.fileno(), lambda number=number: calls.append(number), patient=number > 0)  # type: ignore[misc]
        right.send(b"never read, so ready for ever")
    for _ in range(6):
        loop.turn(0)
    assert calls.count(0) == 6, "the others are served in every turn"
    assert [call for call in calls if call] == [1, 2, 3, 1, 2, 3]
    loop.forget(pairs[1][0].fileno())
    calls.clear()
    for _ in range(4):
        loop.turn(0)
    assert [call for call in calls if call] == [2, 3, 2, 3]
    for left, right in pairs:
        left.close()
        right.close()


def test_waits_for_nothing_while_patient_ones_are_left(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netd_dns.loop, "PATIENCE", 0.0)
    pairs = [socket.socketpair() for _ in range(2)]
    served: list[int] = []
    for left, right in pairs:
        loop.watch(left.fileno(), lambda left=left: served.append(len(left.recv(9))), patient=True)  # type: ignore[misc]
        right.send(b"x")
    began = time.monotonic()
    loop.turn(5)
    loop.turn(5)
    assert served == [1, 1]
    assert time.monotonic() - began < 1
    for left, right in pairs:
        left.close()
        right.close()
