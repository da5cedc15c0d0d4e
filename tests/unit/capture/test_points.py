"""The asking side; `tests/unit/test_packets.py` has both sides together."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from netd.capture import points
from netd.errors import NotFound, Unreachable
from tests.descriptors import descriptors


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Answers every target with one socket of that name, but "gone" with a refusal and "mute" not at all."""
    path = tmp_path / "packet.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as given:
                target = json.loads(peer.recv(4096))["target"]
                if target == "gone":
                    refusal = {"grpc": "NOT_FOUND", "message": "gone is gone"}
                    peer.sendall(json.dumps({"error": refusal}).encode() + b"\n")
                elif target != "mute":
                    text = json.dumps({"points": [{"name": target, "ifname": "eth0"}]}).encode() + b"\n"
                    socket.send_fds(peer, [text[:1]], [given.fileno()])
                    peer.sendall(text[1:])

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_it_lies_beside_the_api() -> None:
    assert points.beside(Path("/run/netd/netd.sock")) == Path("/run/netd/packet.sock")


def test_only_an_interface_of_the_host_has_no_speaker(daemon: Path) -> None:
    found = points.listening(daemon, ["web:eth0", "host:eth0", "web:eth0"])
    assert [(point.name, point.speaker is not None) for point in found] == [
        ("web:eth0", True),
        ("host:eth0", False),
    ], "each once"
    for point in found:
        point.close()


def test_a_refusal_closes_what_was_opened(daemon: Path) -> None:
    before = len(descriptors())
    with pytest.raises(NotFound, match="gone is gone"):
        points.listening(daemon, ["web:eth0", "gone"])
    assert len(descriptors()) == before


def test_nobody_answers(daemon: Path, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="is the daemon running"):
        points.ask(tmp_path / "none.sock", "web")
    with pytest.raises(Exception, match="nobody answers"):
        points.ask(daemon, "mute")
