"""Asks the daemon for the sockets of a target; `netd.packets` is the other end."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from netd.errors import BY_GRPC, NetdError, Unreachable

TIMEOUT = 30.0
"""Seconds in which the daemon has to answer."""

DESCRIPTORS = 253
"""As many as one message can carry (SCM_MAX_FD in the kernel)."""


@dataclass(slots=True)
class Point:
    """One place where packets pass: its name, its interface, and a socket that is not bound yet.

    `speaker` sends marker frames, because the kernel does not show a socket what it sent itself.
    """

    name: str
    ifname: str
    ear: socket.socket
    speaker: socket.socket | None = None

    def close(self) -> None:
        """Let go of the sockets."""
        self.ear.close()
        if self.speaker:
            self.speaker.close()


def beside(api: Path) -> Path:
    """Where descriptors are handed out by the daemon whose API listens at `api`."""
    return api.with_name("packet.sock")


def ask(path: Path, target: str, kind: str = "frames") -> list[Point]:
    """The points that `target` means, each with an open socket that is the caller's to close.

    Raises what the daemon refuses it with, or `Unreachable`.
    """
    with _conversation(path) as daemon:
        daemon.sendall(json.dumps({"target": target, "kind": kind}).encode() + b"\n")
        data, descriptors, _, _ = socket.recv_fds(daemon, 65536, DESCRIPTORS)
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        while data and not data.endswith(b"\n"):
            data += daemon.recv(65536)
    answer = json.loads(data) if data else {"error": {"message": f"nobody answers at {path}"}}
    if refusal := answer.get("error"):
        raise BY_GRPC.get(refusal.get("grpc", ""), NetdError)(refusal["message"])
    return [
        Point(point["name"], point["ifname"], opened)
        for point, opened in zip(answer["points"], sockets, strict=True)
    ]


def listening(path: Path, targets: Iterable[str]) -> list[Point]:
    """The points of all targets, each once, with speakers; raises as `ask`.

    An interface of the host gets none: from there a marker would leave the machine, while elsewhere it
    ends at the other end of a veth pair or in the bridge.
    """
    points: dict[str, Point] = {}
    try:
        for target in targets:
            for point in ask(path, target):
                if point.name in points:
                    point.close()
                    continue
                points[point.name] = point
                if not point.name.startswith("host:"):
                    (speaker,) = ask(path, point.name)
                    point.speaker = speaker.ear
    except BaseException:
        for point in points.values():
            point.close()
        raise
    return list(points.values())


@contextmanager
def _conversation(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.settimeout(TIMEOUT)
        try:
            daemon.connect(str(path))
            yield daemon
        except OSError as error:
            raise Unreachable(
                f"cannot get packet sockets at {path} ({error.strerror or error}): is the daemon running?"
            ) from error
