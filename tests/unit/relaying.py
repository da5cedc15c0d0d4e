"""What the tests of the relay share: a relay, servers that stand for containers, clients."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from ipaddress import ip_address

from netd.model import IPAddress, PortMapping, Proto
from netd.relay import Relay

HOSTS = {4: "127.0.0.1", 6: "::1"}


def free_port(proto: Proto = Proto.TCP) -> int:
    """A port that is free in both families right now."""
    kind = socket.SOCK_STREAM if proto is Proto.TCP else socket.SOCK_DGRAM
    while True:
        with socket.socket(socket.AF_INET6, kind) as six, socket.socket(socket.AF_INET, kind) as four:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::", 0))
            try:
                four.bind(("0.0.0.0", six.getsockname()[1]))
            except OSError:
                continue
            return int(four.getsockname()[1])


def published(proto: Proto, container_port: int, ip: str = "") -> PortMapping:
    return PortMapping(
        proto=proto,
        host_ip=ip_address(ip) if ip else None,
        host_port=free_port(proto),
        container_port=container_port,
    )


async def somebody(proto: Proto, address: IPAddress | None, port: int) -> str:
    return f"nginx (pid 7) on {address}:{port}/{proto}"


@contextmanager
def relaying() -> Iterator[Relay]:
    with closing(Relay(somebody)) as relay:
        yield relay


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def container(
    handler: Handler, host: str | list[str] = "127.0.0.1", port: int = 0
) -> AsyncIterator[int]:
    """A server that stands for the container's; yields its port, and ends when its clients have."""
    serving: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(writer)
        with suppress(ConnectionError):
            await handler(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        serving.discard(writer)

    server = await asyncio.start_server(serve, host, port)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await settled(lambda: not serving)


async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the whole request, in capitals, only after the client has ended it."""
    writer.write((await reader.read()).upper())
    writer.close()


async def request(host: str, port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def settled(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("the condition did not come to hold in time")
