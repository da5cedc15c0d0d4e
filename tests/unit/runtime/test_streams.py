"""The loop of a monitor, around a child of this test instead of a container."""

from __future__ import annotations

import os
import socket
import subprocess
import threading

from netd.runtime import wire
from netd.runtime.spec import Frame
from netd.runtime.streams import BACKLOG, Carrier, Ends


class Carried(Carrier):
    """A carrier that writes down what it is told."""

    def __init__(self, script: str, *, interactive: bool = False) -> None:
        channel, self.inside = wire.pair()
        out_read, out_write = os.pipe()
        self.events: list[object] = []
        stdin_read, stdin_write = os.pipe() if interactive else (-1, -1)
        self.child = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdout=out_write,
            stdin=stdin_read if interactive else subprocess.DEVNULL,
        )
        os.close(out_write)
        if interactive:
            os.close(stdin_read)
        super().__init__(Ends({"stdout": out_read}, stdin_write), self.child.pid, self.child.pid, channel)

    def attached(self) -> socket.socket:
        ours, theirs = wire.pair()
        self.add(theirs, "attach")
        return ours

    def logged(self, stream: str, data: bytes) -> None:
        self.events.append((stream, data))

    def started(self) -> None:
        self.events.append("started")

    def finished(self, code: int) -> None:
        self.events.append(("finished", code))
        self.child.returncode = code  # reaped by the carrier

    def go(self) -> None:
        self.start()
        assert wire.receive(self.inside) == Frame("run")
        self.inside.close()
        self.run()


def frames(sock: socket.socket) -> list[Frame]:
    seen = []
    while (frame := wire.receive(sock)) is not None:
        seen.append(frame)
        if frame.kind == "exit":
            break
    return seen


def test_output_is_logged_and_carried_before_the_end_is_told() -> None:
    carrier = Carried("echo one; exit 3")
    with carrier.attached() as client:
        carrier.go()
        assert carrier.events == ["started", ("stdout", b"one\n"), ("finished", 3)]
        assert frames(client) == [Frame("stdout", b"one\n"), Frame("exit", code=3)]
    carrier.close()


def test_a_slow_client_holds_the_output_back_and_loses_nothing() -> None:
    total = 8 * BACKLOG
    carrier = Carried(f"head -c {total} /dev/zero")
    received = []
    with carrier.attached() as client:
        most = 0

        def read() -> None:
            nonlocal most
            for frame in frames_slowly(client):
                received.append(len(frame.data))
                most = max(most, *(each.size for each in list(carrier._clients)), 0)

        def frames_slowly(sock: socket.socket) -> list[Frame]:
            threading.Event().wait(0.2)
            return frames(sock)

        reader = threading.Thread(target=read)
        reader.start()
        carrier.go()
        reader.join(20)
    assert sum(received) == total
    assert most <= BACKLOG + 2 * wire.CHUNK
    carrier.close()


def test_a_client_that_never_reads_is_not_waited_for_forever() -> None:
    carrier = Carried("head -c 3000000 /dev/zero; exit 5")
    with carrier.attached() as client:
        done = threading.Thread(target=carrier.go)
        done.start()
        # It is held back until the client goes.
        done.join(0.3)
        assert done.is_alive()
        client.close()
        done.join(10)
        assert not done.is_alive()
    assert carrier.events[-1] == ("finished", 5)
    carrier.close()


def test_input_arrives_whole_and_ends() -> None:
    carrier = Carried("wc -c", interactive=True)
    data = b"x" * (3 * BACKLOG)
    with carrier.attached() as client:
        running = threading.Thread(target=carrier.go)
        running.start()
        for start in range(0, len(data), wire.CHUNK):
            wire.send(client, Frame("stdin", data[start : start + wire.CHUNK]))
        wire.send(client, Frame("eof"))
        seen = frames(client)
        running.join(10)
    assert b"".join(frame.data for frame in seen).strip() == b"%d" % len(data)
    carrier.close()


def test_signals_go_to_the_target_and_nonsense_nowhere() -> None:
    carrier = Carried("exec sleep 60")
    with carrier.attached() as client:
        running = threading.Thread(target=carrier.go)
        running.start()
        wire.send(client, Frame("signal", code=999))
        wire.send(client, Frame("resize", code=1))
        wire.send(client, Frame("stdin", b"nobody reads this"))
        wire.send(client, Frame("signal", code=15))
        assert frames(client)[-1] == Frame("exit", code=143)
        running.join(10)
    carrier.close()
