"""Hands out packet sockets: the side socket `packet.sock`, since gRPC cannot carry a descriptor.

A client connects, writes one line of JSON for each wish and gets one line back, with the descriptors
beside its first byte (SCM_RIGHTS)::

    {"target": "web:eth0", "kind": "frames"}
    {"points": [{"name": "web:eth0", "ifname": "eth0"}]}                 one descriptor a point
    {"error": {"grpc": "NOT_FOUND", "message": "container 'web' does not exist"}}

A target is a container's interface ("web:eth0"), all that netd gave it ("web", "web:*"), the bridge of
a network ("network:front") or an interface of the host ("host:eth0"). The kinds are those of
`PacketKind`; the two that only send take a container without interface, or "host".

Who may use the API may start a container with the host's network and CAP_NET_RAW, so this is no
further right, and the socket has the API's mode and group.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from netd import names
from netd.containers import Containers
from netd.engine import Engine
from netd.errors import Invalid, NetdError, NotFound
from netd.kernel.ports import Kernel, PacketKind
from netd.listening import peers
from netd.model import PTP, Netns, Network
from netd.tasks import spawn

log = logging.getLogger(__name__)

MODE = 0o660
LINE = 4096
"""Bytes of a wish at most."""

POINTS = 200
"""Descriptors of one answer; the kernel takes 253 (SCM_MAX_FD)."""

Point = tuple[str, Netns | None, str]
"""A name, where it is, and the interface there ("" for none in particular)."""


class Packets:
    """Finds out what a target means and opens the sockets."""

    def __init__(self, kernel: Kernel, engine: Engine, containers: Containers) -> None:
        self._kernel = kernel
        self._engine = engine
        self._containers = containers

    def points(self, target: str, kind: PacketKind) -> list[Point]:
        """What `target` means. Raises `Invalid`, `NotFound`."""
        owner, colon, ifname = target.partition(":")
        if not owner or (colon and not ifname):
            raise Invalid(
                f"capture target {target!r} must be CONTAINER[:IFNAME], network:NAME or host:IFNAME"
            )
        if owner == "network" and colon:
            network = self._engine.network(ifname)
            return [(f"network:{network.name}", None, self._of_network(network))]
        if ifname not in ("", "*"):
            names.check_ifname(ifname)
        if owner == "host":
            if kind is PacketKind.FRAMES and ifname in ("", "*"):
                raise Invalid("name the interface of the host, like host:eth0")
            return [(target, None, ifname)]
        return self._of_container(owner, ifname, kind)

    def _of_network(self, network: Network) -> str:
        """Where on the host its frames pass: the bridge, or of a link either end, which sees both ways."""
        if network.bridged:
            return names.bridge_name(network)
        if network.driver == PTP:
            raise Invalid(
                f"network {network.name!r} has no bridge to capture at; name a container, like web:eth0"
            )
        for endpoint in self._engine.view.endpoints_in(network.id):
            return names.host_ifname(endpoint)
        raise NotFound(f"link {network.name!r} has no end yet: nothing passes there")

    def _of_container(self, owner: str, ifname: str, kind: PacketKind) -> list[Point]:
        record = self._containers.find(owner)
        if record.netns is None or record.state != "running":
            why = (
                "is not running"
                if record.state != "running"
                else "shares the host's network: name host:IFNAME"
            )
            raise Invalid(f"container {record.name!r} {why}")
        if kind is not PacketKind.FRAMES:
            return [(record.name, record.netns, "")]
        own = [endpoint.ifname for endpoint in self._engine.view.endpoints_of(record.id)]
        if ifname in ("", "*"):
            if not own:
                raise NotFound(f"container {record.name!r} is on no network; name its interface")
            return [(f"{record.name}:{each}", record.netns, each) for each in own[:POINTS]]
        return [(f"{record.name}:{ifname}", record.netns, ifname)]

    async def open(self, wish: Any) -> tuple[list[Point], list[socket.socket]]:
        """Sockets for a decoded wish, one a point. Raises any `NetdError`; then none is left open."""
        if not isinstance(wish, dict) or not isinstance(wish.get("target"), str):
            raise Invalid('a wish must be an object with a "target"')
        try:
            kind = PacketKind(wish.get("kind", "frames"))
        except ValueError:
            raise Invalid(f"kind {wish['kind']!r} must be one of {', '.join(PacketKind)}") from None
        points = self.points(wish["target"], kind)
        with ExitStack() as opened:
            sockets = [
                opened.enter_context(await self._kernel.packet_socket(netns, kind, ifname))
                for _, netns, ifname in points
            ]
            opened.pop_all()
        return points, sockets


class PacketServer:
    """Listens once started; every connection is a task of its own."""

    def __init__(self, packets: Packets, path: Path, group: int | None) -> None:
        self._packets = packets
        self._path = path
        self._group = group
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. A socket that a killed daemon left is replaced in one step."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.unlink(missing_ok=True)
        listener.bind(str(beside))
        if self._group is not None:
            os.chown(beside, -1, self._group)
        beside.chmod(MODE)
        listener.listen(128)
        beside.rename(self._path)
        self._socket = listener
        self._hold(spawn(self._accept(listener), name="packets accept"))

    async def stop(self) -> None:
        """Hand out nothing more. What was handed out stays with its holders."""
        self._path.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._socket:
            self._socket.close()

    def _hold(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        async for peer in peers(listener):
            self._hold(spawn(self._serve(peer), name="packets client"))

    async def _serve(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with peer:
            peer.setblocking(False)
            unread = b""
            try:
                while True:
                    line, newline, rest = unread.partition(b"\n")
                    if newline:
                        unread = rest
                        await self._answer(peer, line)
                    elif len(unread) > LINE or not (piece := await loop.sock_recv(peer, LINE)):
                        return
                    else:
                        unread += piece
            except OSError as error:
                log.info("a client of %s went away: %s", self._path, error)

    async def _answer(self, peer: socket.socket, line: bytes) -> None:
        sockets: list[socket.socket] = []
        try:
            points, sockets = await self._packets.open(json.loads(line))
            reply: dict[str, Any] = {
                "points": [{"name": name, "ifname": ifname} for name, _, ifname in points]
            }
        except NetdError as error:
            reply = {"error": {"grpc": error.grpc, "message": str(error)}}
        except ValueError as error:
            reply = {"error": {"grpc": Invalid.grpc, "message": f"this is no JSON: {error}"}}
        text = json.dumps(reply).encode() + b"\n"
        try:
            # The first byte carries the descriptors; the rest may have to wait for its reader.
            socket.send_fds(peer, [text[:1]], [each.fileno() for each in sockets])
        finally:
            for each in sockets:
                each.close()
        await asyncio.get_running_loop().sock_sendall(peer, text[1:])
