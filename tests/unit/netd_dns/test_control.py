"""The wire between the daemon and its DNS."""

from __future__ import annotations

import os
import socket

import pytest

from netd_dns import control
from tests.descriptors import descriptors


def test_messages_arrive_whole_with_their_descriptors() -> None:
    left, right = control.pair()
    with left, right:
        reading, writing = os.pipe()
        control.send(left, control.encode({"op": "a", "text": "ü" * 1000}), [writing])
        control.send(left, control.encode({"op": "b"}))
        message, descriptors = control.receive(right)
        assert message == {"op": "a", "text": "ü" * 1000}
        assert not os.get_inheritable(descriptors[0])
        os.write(descriptors[0], b"x")
        assert os.read(reading, 1) == b"x"
        assert control.receive(right) == ({"op": "b"}, [])
        for descriptor in (reading, writing, *descriptors):
            os.close(descriptor)


def test_the_largest_message_fits_the_default_buffer() -> None:
    left, right = control.pair()
    with left, right:
        left.setblocking(False)
        control.send(left, control.encode({"x": "y" * (control.MESSAGE_MOST - 10)}))
        message, _ = control.receive(right)
        assert len(message["x"]) == control.MESSAGE_MOST - 10


def test_what_is_not_a_message() -> None:
    left, right = control.pair()
    with left, right:
        for data in (b"not json", b"[1]", b"\xff", b"x" * (control.MESSAGE_MOST + 1)):
            reading, writing = os.pipe()
            control.send(left, data, [reading])
            before = len(descriptors())
            with pytest.raises(ValueError):  # noqa: PT011  (of json, of us)
                control.receive(right)
            assert len(descriptors()) == before, "its descriptors must not stay open"
            os.close(reading)
            os.close(writing)
        right.setblocking(False)
        with pytest.raises(BlockingIOError):
            control.receive(right)


def test_the_end_of_the_other_side() -> None:
    left, right = control.pair()
    with right:
        left.close()
        with pytest.raises(control.Closed):
            control.receive(right)
        with pytest.raises(OSError):  # noqa: PT011
            control.send(right, b"{}")


def test_more_descriptors_than_allowed_are_refused() -> None:
    left, right = control.pair()
    with left, right, socket.socket() as any_socket:
        control.send(left, b"{}", [any_socket.fileno()] * (control.DESCRIPTORS_MOST + 20))
        with pytest.raises(ValueError, match="cut"):
            control.receive(right)
