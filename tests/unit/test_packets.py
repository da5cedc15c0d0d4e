"""The side socket without a kernel: what targets mean, what is refused, and what is left open."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from netd.capture import points
from netd.errors import Invalid, NetdError, NotFound
from netd.kernel.ports import PacketKind
from netd.launch import Request
from netd.model import Netns, NetworkRequest, Owner, Sandbox, Want
from netd.names import bridge_name
from netd.packets import Packets, PacketServer
from netd.registry import Record
from tests.unit.paper import PaperEngine

WEB = Netns(label="web", path="/run/netd/netns/web", device=4, inode=7)


class Kernel:
    """Knows the interfaces of `web` and remembers what it gave away."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.given: list[socket.socket] = []

    def last(self) -> tuple[object, ...]:
        return self.asked[-1]

    async def packet_socket(self, netns: Netns | None, kind: PacketKind, ifname: str = "") -> socket.socket:
        if netns == WEB and ifname not in ("", "eth0", "eth1", "lo"):
            raise NotFound(f"there is no interface {ifname!r} here")
        self.asked.append((netns, kind, ifname))
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.given.append(opened)
        return opened


class Containers:
    """`web` on two networks, `alone` with the host's, `over` that has ended."""

    def find(self, ref: str) -> Record:
        netns, state = {"web": (WEB, "running"), "alone": (None, "running"), "over": (None, "exited")}[ref]
        return Record(
            id=f"{ref}-id", name=ref, hostname=ref, request=Request(), created=0, state=state, netns=netns
        )


class House:
    def __init__(self, directory: Path) -> None:
        self.kernel = Kernel()
        self.engine = PaperEngine()
        self.path = directory / "packet.sock"
        packets = Packets(self.kernel, self.engine, Containers())  # type: ignore[arg-type]
        self.server = PacketServer(packets, self.path, None)

    async def furnish(self) -> None:
        for name, driver in (("front", "bridge"), ("back", "bridge"), ("links", "ptp")):
            await self.engine.create_network(NetworkRequest(name=name, driver=driver))
        sandbox = Sandbox(id="web-id", name="web", owner=Owner.CONTAINER, netns=WEB)
        await self.engine.attach(sandbox, [Want(network="front"), Want(network="back")])

    async def ask(self, target: str, kind: str = "frames") -> list[points.Point]:
        return await asyncio.to_thread(points.ask, self.path, target, kind)

    async def names(self, target: str, kind: str = "frames") -> list[str]:
        found = await self.ask(target, kind)
        for point in found:
            point.close()
        return [point.name for point in found]

    async def raw(self, line: bytes) -> Any:
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(line)
        answer = await reader.readline()
        writer.close()
        return json.loads(answer)


Story = Callable[[House], Awaitable[None]]


def tell(directory: Path, story: Story) -> None:
    async def whole() -> None:
        house = House(directory)
        await house.furnish()
        await house.server.start()
        try:
            await story(house)
        finally:
            await house.server.stop()
        assert not house.path.exists()
        assert {each.fileno() for each in house.kernel.given} <= {-1}, "the daemon kept a descriptor"

    asyncio.run(whole())


def test_what_a_target_means(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        assert await house.names("web:eth1") == ["web:eth1"]
        assert await house.names("web:lo") == ["web:lo"], "also what netd did not make"
        assert await house.names("web") == await house.names("web:*") == ["web:eth0", "web:eth1"]
        assert await house.names("network:front") == ["network:front"]
        bridge = bridge_name(house.engine.network("front"))
        assert house.kernel.last() == (None, PacketKind.FRAMES, bridge)
        assert await house.names("host:eth9") == ["host:eth9"]
        assert house.kernel.last() == (None, PacketKind.FRAMES, "eth9")
        assert await house.names("web", "ipv6") == ["web"]
        assert house.kernel.last() == (WEB, PacketKind.IPV6, "")
        assert await house.names("host", "ipv4") == ["host"]

    tell(tmp_path, story)


@pytest.mark.parametrize(
    ("target", "kind", "error", "why"),
    [
        ("", "frames", Invalid, "must be CONTAINER"),
        ("web:", "frames", Invalid, "must be CONTAINER"),
        ("web:no such", "frames", Invalid, "interface name"),
        ("web:eth7", "frames", NotFound, "eth7"),
        ("network:side", "frames", NotFound, "side"),
        ("network:links", "frames", Invalid, "has no bridge to capture at"),
        ("host", "frames", Invalid, "like host:eth0"),
        ("alone:eth0", "frames", Invalid, "shares the host's network"),
        ("over:eth0", "frames", Invalid, "'over' is not running"),
        ("web", "sound", Invalid, "must be one of frames, ipv4, ipv6"),
    ],
)
def test_refusals(tmp_path: Path, target: str, kind: str, error: type[NetdError], why: str) -> None:
    async def story(house: House) -> None:
        with pytest.raises(error, match=why):
            await house.ask(target, kind)
        assert await house.names("web:eth0") == ["web:eth0"], "it goes on"

    tell(tmp_path, story)


def test_a_target_with_several_points_gives_all_or_none(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        def one_only(sandbox: str) -> Any:
            return [*endpoints(sandbox)[:1], *(_Vanished() for _ in range(1))]

        endpoints = house.engine.view.endpoints_of
        house.engine.view = _View(one_only)  # type: ignore[assignment]
        with pytest.raises(NotFound, match="gone"):
            await house.ask("web")

    class _Vanished:
        ifname = "gone"

    class _View:
        def __init__(self, endpoints_of: Callable[[str], Any]) -> None:
            self.endpoints_of = endpoints_of

    tell(tmp_path, story)


@pytest.mark.parametrize("line", [b"no json\n", b"[]\n", b'{"target": 7}\n', b"\xff\n"])
def test_nonsense_is_answered(tmp_path: Path, line: bytes) -> None:
    async def story(house: House) -> None:
        assert (await house.raw(line))["error"]["grpc"] == "INVALID_ARGUMENT"

    tell(tmp_path, story)


def test_whoever_says_too_much_or_goes_away_is_let_go(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        reader, writer = await asyncio.open_unix_connection(str(house.path))
        writer.write(b"x" * 10000)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        _, writer = await asyncio.open_unix_connection(str(house.path))
        writer.write(b'{"target": "web"}\n{"target":')
        writer.close()
        assert await house.names("web:eth0") == ["web:eth0"]

    tell(tmp_path, story)


def test_the_socket_is_for_whoever_may_use_the_api(tmp_path: Path) -> None:
    async def story(house: House) -> None:
        assert stat.S_IMODE(house.path.stat().st_mode) == 0o660
        assert os.listdir(tmp_path) == ["packet.sock"]  # noqa: PTH208

    (tmp_path / "packet.sock").touch()
    tell(tmp_path, story)
