from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.errors import InUse, Invalid, KernelError, NetdError
from netd.runtime import wire
from netd.runtime.spec import Frame


@given(st.sampled_from(wire._KINDS), st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_a_frame_survives_the_wire(kind: str, data: bytes, code: int) -> None:
    assert wire.unpack(wire.pack(Frame(kind, data, code))) == Frame(kind, data, code)


@given(st.binary(max_size=20))
def test_anything_else_is_refused_or_is_a_frame(packet: bytes) -> None:
    try:
        frame = wire.unpack(packet)
    except ValueError:
        return
    assert wire.pack(frame) == packet


def test_the_largest_frame_fits_into_a_packet() -> None:
    ours, theirs = wire.pair()
    with ours, theirs:
        frame = Frame("stdout", b"x" * wire.CHUNK)
        wire.send(ours, frame)
        assert wire.receive(theirs) == frame


def test_the_end_of_the_other_side() -> None:
    ours, theirs = wire.pair()
    with ours:
        wire.send(theirs, Frame("ready"))
        theirs.close()
        assert wire.receive(ours) == Frame("ready")
        assert wire.receive(ours) is None
        wire.send(ours, Frame("run"))  # nobody hears it, and that is no error


def test_last_words_of_a_peer_that_left_something_unread() -> None:
    """The kernel reports ECONNRESET before them."""
    ours, theirs = wire.pair()
    with ours:
        wire.send(ours, Frame("run"))
        wire.send(theirs, Frame("failed", b"Invalid: the reason"))
        theirs.close()
        assert wire.receive(ours) == Frame("failed", b"Invalid: the reason")
        assert wire.receive(ours) is None


def test_ready_brings_descriptors_and_the_sender_s_pid() -> None:
    ours, theirs = wire.pair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        read, write = os.pipe()
        wire.send(theirs, Frame("ready"), (read, write))
        frame, fds, pid = wire.receive_ready(ours)
        assert (frame, len(fds), pid) == (Frame("ready"), 2, os.getpid())
        assert not any(os.get_inheritable(fd) for fd in fds)
        os.write(fds[1], b"x")
        assert os.read(read, 1) == b"x"
        for fd in (read, write, *fds):
            os.close(fd)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (Invalid("no: such thing"), Invalid),
        (InUse("busy"), InUse),
        (KernelError(2, "thing"), NetdError),
        (RuntimeError("unforeseen"), NetdError),
    ],
)
def test_a_refusal_crosses_with_its_class_and_message(error: Exception, wanted: type[NetdError]) -> None:
    with pytest.raises(NetdError) as caught:
        wire.raise_refusal(wire.refusal(error))
    assert type(caught.value) is wanted
    assert str(caught.value) == str(error)


@pytest.mark.parametrize("data", [b"", b"os: system", b"BY_GRPC: x", b"annotations: x", b"\xff"])
def test_a_forged_refusal_is_still_one_of_ours(data: bytes) -> None:
    with pytest.raises(NetdError):
        wire.raise_refusal(Frame("failed", data))
