"""Connections through published ports: both families, ends, breaks, and slow readers."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_address

import pytest

from netd import relay as relay_module
from netd.model import Proto
from tests.unit.relaying import HOSTS, container, free_port, published, relaying, request, settled, shout


@pytest.mark.parametrize("client", [4, 6])
@pytest.mark.parametrize("inside", [4, 6])
def test_either_family_reaches_either_family_with_half_close(client: int, inside: int) -> None:
    async def story() -> None:
        async with container(shout, HOSTS[inside]) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port)
                await relay.hold(mapping)
                relay.serve(mapping, {inside: ip_address(HOSTS[inside])})
                assert await request(HOSTS[client], mapping.host_port, b"half close") == b"HALF CLOSE"
                await settled(lambda: relay.connections == 0)

    asyncio.run(story())


def test_a_client_of_a_family_is_led_within_it() -> None:
    async def where(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("sockname")[0].encode())

    async def story() -> None:
        port = free_port()
        async with container(where, ["127.0.0.1", "::1"], port):
            with relaying() as relay:
                mapping = published(Proto.TCP, port)
                await relay.hold(mapping)
                relay.serve(mapping, {family: ip_address(host) for family, host in HOSTS.items()})
                for host in HOSTS.values():
                    assert await request(host, mapping.host_port, b"") == host.encode()

    asyncio.run(story())


def test_a_server_that_speaks_first_and_one_that_ends_first() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\n")
        writer.write_eof()
        assert await reader.read() == b"late"
        writer.close()
        heard.set()

    heard = asyncio.Event()

    async def story() -> None:
        async with container(greet) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                reader, writer = await asyncio.open_connection("127.0.0.1", mapping.host_port)
                assert await reader.read() == b"220 ready\n"
                writer.write(b"late")
                writer.close()
                await asyncio.wait_for(heard.wait(), 5)
                await settled(lambda: relay.connections == 0)

    asyncio.run(story())


def test_megabytes_arrive_whole_and_in_order_past_a_slow_reader() -> None:
    content = bytes(range(256)) * 40_000

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        await writer.drain()
        writer.close()

    async def story() -> None:
        async with container(send) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                reader, writer = await asyncio.open_connection("127.0.0.1", mapping.host_port, limit=4096)
                got = bytearray()
                while chunk := await reader.read(100_000):
                    got += chunk
                    await asyncio.sleep(0)
                assert got == content
                writer.close()

    asyncio.run(story())


def test_back_pressure_reaches_the_sender() -> None:
    """What nobody reads is not piled up in the daemon: the sender comes to a halt."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()
            sent += 1

    async def story() -> None:
        async with container(flood) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                with socket.create_connection(("127.0.0.1", mapping.host_port)) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                    await settled(lambda: sent > 0)
                    halted = -1
                    while halted != sent:
                        halted = sent
                        await asyncio.sleep(0.2)
                    assert sent < 64

    asyncio.run(story())


def test_a_client_that_the_container_refuses_is_reset() -> None:
    async def story() -> None:
        with relaying() as relay:
            mapping = published(Proto.TCP, free_port(), "127.0.0.1")
            await relay.hold(mapping)
            relay.serve(mapping, {4: ip_address("127.0.0.1")})
            with pytest.raises(ConnectionResetError):
                await request("127.0.0.1", mapping.host_port, b"")
            await settled(lambda: relay.connections == 0)

    asyncio.run(story())


def test_clients_wait_while_a_port_is_only_held() -> None:
    async def story() -> None:
        async with container(shout) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                call = asyncio.get_running_loop().create_task(
                    request("127.0.0.1", mapping.host_port, b"patience")
                )
                done, _ = await asyncio.wait([call], timeout=0.1)
                assert not done
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                assert await call == b"PATIENCE"

    asyncio.run(story())


def test_a_port_that_leads_nowhere_refuses_and_can_lead_again() -> None:
    async def story() -> None:
        async with container(shout) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                for _ in range(2):
                    relay.serve(mapping, {})
                    with pytest.raises(ConnectionResetError):
                        await request("127.0.0.1", mapping.host_port, b"anybody?")
                    relay.serve(mapping, {4: ip_address("127.0.0.1")})
                    assert await request("127.0.0.1", mapping.host_port, b"yes") == b"YES"

    asyncio.run(story())


def test_dropping_a_port_cuts_what_runs_through_it() -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await reader.read()
        writer.close()

    async def story() -> None:
        async with container(hold) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                reader, writer = await asyncio.open_connection("127.0.0.1", mapping.host_port)
                assert await reader.readexactly(5) == b"hello"
                relay.drop(mapping)
                assert not relay.holds(mapping)
                with suppress(ConnectionResetError):
                    assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
                await settled(lambda: relay.connections == 0)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", mapping.host_port)

    asyncio.run(story())


@pytest.mark.parametrize("limit", ["CONNECTIONS", "FOR_ONE"])
def test_too_many_connections_are_reset(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, limit, 1)

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        await reader.read()
        writer.close()

    async def story() -> None:
        async with container(hold) as port:
            with relaying() as relay:
                mapping = published(Proto.TCP, port, "127.0.0.1")
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                reader, writer = await asyncio.open_connection("127.0.0.1", mapping.host_port)
                assert await reader.readexactly(1) == b"!"
                with pytest.raises(ConnectionResetError):
                    await request("127.0.0.1", mapping.host_port, b"")
                writer.close()
                await settled(lambda: relay.connections == 0)
                reader, writer = await asyncio.open_connection("127.0.0.1", mapping.host_port)
                assert await reader.readexactly(1) == b"!"
                writer.close()

    asyncio.run(story())
