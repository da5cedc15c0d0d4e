from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
import threading
from collections.abc import Iterator

import pytest

from netd.cli import terminal


@pytest.fixture
def slave() -> Iterator[int]:
    master, slave = pty.openpty()
    yield slave
    os.close(master)
    os.close(slave)


def test_size_of_the_first_stream_that_is_a_terminal(slave: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    real = os.get_terminal_size
    streams = {2: slave}

    def get(descriptor: int) -> os.terminal_size:
        return real(streams.get(descriptor, -1))

    monkeypatch.setattr(os, "get_terminal_size", get)
    assert terminal.size() == (120, 40)
    streams.clear()
    assert terminal.size() == (80, 24)


def test_raw_is_undone_on_any_way_out(slave: int) -> None:
    before = termios.tcgetattr(slave)

    def fail_in_raw_mode() -> None:
        with terminal.Raw(slave):
            inside = termios.tcgetattr(slave)
            assert not inside[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_raw_mode()
    assert termios.tcgetattr(slave) == before


def test_handlers_are_put_back() -> None:
    seen = []
    before = signal.getsignal(signal.SIGUSR1)
    with terminal.handling({signal.SIGUSR1: lambda number, frame: seen.append(number)}):
        os.kill(os.getpid(), signal.SIGUSR1)
    assert seen == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_write_goes_on_when_a_non_blocking_pipe_is_full() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1_000_000)
    thread = threading.Thread(target=terminal.write, args=(writer, data))
    thread.start()
    received = b""
    while len(received) < len(data):
        received += os.read(reader, 65536)
    thread.join()
    os.close(reader)
    os.close(writer)
    assert received == data
