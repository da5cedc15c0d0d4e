"""Standard streams, signals and terminals of `run` and `exec`, by the real command on real pipes and ptys."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from netd.api import netd_pb2 as pb
from netd.cli import attach
from tests.fake_daemon import FakeDaemon, container

Spawn = Callable[..., "subprocess.Popen[bytes]"]
DEADLINE = 20


def read_until(descriptor: int, wanted: bytes) -> bytes:
    """Everything that arrives up to and with `wanted`."""
    found = b""
    end = time.monotonic() + DEADLINE
    while wanted not in found:
        ready, _, _ = select.select([descriptor], [], [], max(0, end - time.monotonic()))
        assert ready, f"{wanted!r} did not come, only {found!r}"
        found += os.read(descriptor, 4096)
    return found


def test_streams_stay_apart_and_binary(spawn: Spawn) -> None:
    process = spawn("run", "both")
    assert process.communicate(timeout=DEADLINE) == (b"\x00out\xff\n", b"err\n")
    assert process.returncode == 3


def test_input_is_sent_to_its_last_byte(spawn: Spawn, daemon: FakeDaemon) -> None:
    data = os.urandom(3_000_000)
    process = spawn("run", "-i", "cat")
    out, err = process.communicate(data, timeout=DEADLINE)
    assert (out == data, err, process.returncode) == (True, b"", 0)
    assert daemon.stdin == data


def test_without_i_the_callers_input_is_left_alone(spawn: Spawn, daemon: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"line\n" * 100)
    with file.open() as stream:
        assert spawn("run", "exit", "0", stdin=stream).wait(DEADLINE) == 0
        assert os.lseek(stream.fileno(), 0, os.SEEK_CUR) == 0


def test_refused_run_eats_no_input(spawn: Spawn, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"line\n" * 100)
    with file.open() as stream:
        assert spawn("run", "-i", "missing", stdin=stream).wait(DEADLINE) == 127
        assert os.lseek(stream.fileno(), 0, os.SEEK_CUR) == 0


def test_slow_reader_holds_the_daemon_back(spawn: Spawn, daemon: FakeDaemon) -> None:
    chunks = 2000  # 64 MB, far more than pipes and flow-control windows hold
    process = spawn("run", "flood", str(chunks))
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1) == b"x"
    settled = -1
    end = time.monotonic() + DEADLINE
    while settled != daemon.sent:
        assert time.monotonic() < end
        settled = daemon.sent
        select.select([], [], [], 0.3)
    assert settled < chunks / 2
    received = 1
    while data := os.read(process.stdout.fileno(), 1 << 20):
        received += len(data)
    assert received == chunks * 32768
    assert process.wait(DEADLINE) == 0


def test_output_that_is_non_blocking_loses_nothing(spawn: Spawn) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = spawn("run", "flood", "40", stdout=writer)
    os.close(writer)
    received = 0
    while data := os.read(reader, 65536):
        received += len(data)
    os.close(reader)
    assert received == 40 * 32768
    assert process.wait(DEADLINE) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM])
def test_signals_go_to_the_process(spawn: Spawn, number: signal.Signals) -> None:
    process = spawn("run", "trap")
    assert process.stdout is not None
    read_until(process.stdout.fileno(), b"ready\n")
    process.send_signal(number)
    read_until(process.stdout.fileno(), f"{number.name}\n".encode())
    if number is not signal.SIGTERM:
        process.terminate()
    assert process.wait(DEADLINE) == 143


def test_third_interrupt_ends_the_client(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "trap")
    assert process.stdout is not None
    read_until(process.stdout.fileno(), b"ready\n")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        read_until(process.stdout.fileno(), b"SIGINT\n")
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130
    assert daemon.cancelled.wait(DEADLINE)


def test_ignored_hangup_stays_ignored(spawn: Spawn, daemon: FakeDaemon) -> None:
    """As under nohup."""
    process = spawn("run", "trap", through=["env", "--ignore-signal=HUP"])
    assert process.stdout is not None
    read_until(process.stdout.fileno(), b"ready\n")
    process.send_signal(signal.SIGHUP)
    process.terminate()
    assert process.stdout.read() == b"SIGTERM\n"


def test_closed_output_becomes_sigpipe_of_the_process(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "yes", "until", "SIGPIPE")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 2) == b"y\n"
    process.stdout.close()
    assert process.wait(DEADLINE) == 141
    daemon.wait_for_input("signal")


def test_process_that_ignores_the_closed_output_is_left(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("run", "trap")
    assert process.stdout is not None
    read_until(process.stdout.fileno(), b"ready\n")
    process.stdout.close()
    process.send_signal(signal.SIGUSR1)  # the answer to it meets the closed pipe
    assert process.wait(DEADLINE) == 141
    assert daemon.wait_for_input("signal").signal == "SIGUSR1"


@pytest.mark.parametrize(
    ("command", "reason"), [("die", b"lost the daemon"), ("truncated", b"ended the stream")]
)
def test_daemon_that_goes_away(spawn: Spawn, command: str, reason: bytes) -> None:
    process = spawn("run", command)
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 125
    assert reason in err
    assert err.count(b"\n") == 1


class Terminal:
    """A terminal of 30 lines and 100 columns, with `netd` at its far end."""

    def __init__(self, spawn: Spawn, *line: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(30, 100)
        self.before = termios.tcgetattr(self.slave)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave)
        # A session of its own, whose controlling terminal it becomes, so that SIGWINCH reaches it.
        self.process = spawn(*line, through=["setsid", "--ctty"], **streams)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def is_as_before(self) -> bool:
        return bool(termios.tcgetattr(self.slave) == self.before)

    def close(self) -> None:
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(spawn: Spawn, daemon: FakeDaemon) -> Iterator[Callable[..., Terminal]]:
    daemon.containers = {"web": container("web", 1)}
    opened = []

    def open_terminal(*line: str) -> Terminal:
        opened.append(Terminal(spawn, *line))
        return opened[-1]

    yield open_terminal
    for each in opened:
        each.close()


@pytest.mark.parametrize("line", [["run"], ["exec", "web"]])
def test_terminal_is_raw_and_then_as_before(
    terminal: Callable[..., Terminal], daemon: FakeDaemon, line: list[str]
) -> None:
    command, *name = line
    screen = terminal(command, "-it", *name, "cat")
    daemon.wait_for_input("resize")
    assert screen.is_raw()
    os.write(screen.master, b"a\x03b")  # Ctrl-C is a byte like any other
    assert read_until(screen.master, b"b") == b"a\x03b"  # neither echoed nor cooked
    os.write(screen.master, b"\x04")
    assert screen.process.wait(DEADLINE) == 0
    assert screen.is_as_before()


def test_window_size_is_sent_with_the_request_and_when_it_changes(
    terminal: Callable[..., Terminal], daemon: FakeDaemon
) -> None:
    screen = terminal("run", "-it", "trap")
    read_until(screen.master, b"30x100\n")
    assert (daemon.last().window.rows, daemon.last().window.columns) == (30, 100)
    screen.resize(40, 120)
    read_until(screen.master, b"40x120\n")
    screen.process.terminate()
    assert screen.process.wait(DEADLINE) == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_ends_the_client_of_a_terminal(
    terminal: Callable[..., Terminal], daemon: FakeDaemon, number: int
) -> None:
    screen = terminal("run", "-it", "trap")
    read_until(screen.master, b"30x100\n")
    screen.process.send_signal(number)
    assert screen.process.wait(DEADLINE) == 128 + number
    assert screen.is_as_before()
    assert not [each for each in daemon.inputs if each.signal]


def test_continued_client_is_raw_again(terminal: Callable[..., Terminal], daemon: FakeDaemon) -> None:
    screen = terminal("run", "-it", "trap")
    read_until(screen.master, b"30x100\n")
    screen.process.send_signal(signal.SIGSTOP)
    os.waitpid(screen.process.pid, os.WUNTRACED)
    termios.tcsetattr(screen.slave, termios.TCSANOW, screen.before)  # as a shell does
    screen.process.send_signal(signal.SIGCONT)
    read_until(screen.master, b"30x100\n")
    assert screen.is_raw()
    screen.process.terminate()
    assert screen.process.wait(DEADLINE) == 143


def test_daemon_that_goes_away_leaves_the_terminal_as_it_was(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("run", "-it", "truncated")
    assert screen.process.wait(DEADLINE) == 125
    assert screen.is_as_before()


def test_input_waits_its_turn(tmp_path: Path) -> None:
    """Never are more than AHEAD chunks of input in memory, and none is lost."""
    data = os.urandom(attach.CHUNK * attach.AHEAD * 3 + 1)
    (tmp_path / "input").write_bytes(data)
    outgoing = attach.Outgoing(pb.StreamInput())
    with (tmp_path / "input").open("rb") as source:
        pump = threading.Thread(target=outgoing.pump, args=(source.fileno(),))
        pump.start()
        received = b""
        for message in outgoing:
            assert outgoing._queue.qsize() <= attach.AHEAD
            received += message.stdin
            if message.stdin_closed:
                outgoing.close()
        pump.join()
    assert received == data
