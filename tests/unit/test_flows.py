"""Datagrams through published ports: whose answer they are, how long they are remembered."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from netd.flows import Flow, Flows
from netd.model import Proto
from tests.unit.relaying import HOSTS, free_port, published, relaying, settled


@contextmanager
def udp_server(host: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        server.setblocking(False)
        yield server


async def ask(client: socket.socket, server: socket.socket, data: bytes) -> bytes:
    """Client asks, server answers in capitals, both through the event loop."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, data)
    question, address = await asyncio.wait_for(loop.sock_recvfrom(server, 65535), 5)
    assert question == data
    await loop.sock_sendto(server, question.upper(), address)
    return await asyncio.wait_for(loop.sock_recv(client, 65535), 5)


def udp_client(host: str, port: int) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    client.setblocking(False)
    client.connect((host, port))  # connected: it hears only what comes from the address it asked
    return client


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.77", "::1"])
@pytest.mark.parametrize("inside", [4, 6])
def test_datagrams_come_back_from_the_address_that_was_asked(asked: str, inside: int) -> None:
    async def story() -> None:
        with udp_server(HOSTS[inside]) as server, relaying() as relay:
            mapping = published(Proto.UDP, server.getsockname()[1])
            await relay.hold(mapping)
            relay.serve(mapping, {inside: ip_address(HOSTS[inside])})
            with udp_client(asked, mapping.host_port) as one, udp_client(asked, mapping.host_port) as two:
                assert await ask(one, server, b"one") == b"ONE"
                assert await ask(two, server, b"two" * 10_000) == b"TWO" * 10_000
                assert await ask(one, server, b"") == b""
            assert len(relay.flows) == 2
            relay.drop(mapping)
            assert len(relay.flows) == 0

    asyncio.run(story())


def test_a_port_that_leads_nowhere_swallows_datagrams() -> None:
    async def story() -> None:
        with udp_server("127.0.0.1") as server, relaying() as relay:
            mapping = published(Proto.UDP, server.getsockname()[1], "127.0.0.1")
            await relay.hold(mapping)
            relay.serve(mapping, {})
            with udp_client("127.0.0.1", mapping.host_port) as client:
                client.send(b"anybody?")  # on loopback, this is in the relay's queue when it returns
                for _ in range(3):
                    await asyncio.sleep(0)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
                assert await ask(client, server, b"yes") == b"YES"

    asyncio.run(story())


def test_silent_flows_end_and_the_most_silent_one_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with udp_server("127.0.0.1") as server, relaying() as relay:
            mapping = published(Proto.UDP, server.getsockname()[1], "127.0.0.1")
            await relay.hold(mapping)
            relay.serve(mapping, {4: ip_address("127.0.0.1")})
            clients = [udp_client("127.0.0.1", mapping.host_port) for _ in range(5)]
            monkeypatch.setattr("netd.flows.LIMIT", 3)
            monkeypatch.setattr("netd.flows.IDLE", 0.2)
            for client in clients:
                assert await ask(client, server, b"x") == b"X"
            assert len(relay.flows) == 3
            assert await ask(clients[0], server, b"again") == b"AGAIN"
            await settled(lambda: len(relay.flows) == 0)
            assert await ask(clients[0], server, b"after a while") == b"AFTER A WHILE"
            for client in clients:
                client.close()

    asyncio.run(story())


def test_a_container_that_does_not_listen_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = asyncio.Event()
    forget = Flows.forget

    def forgotten(flows: Flows, flow: Flow) -> None:
        forget(flows, flow)
        refused.set()

    monkeypatch.setattr(Flows, "forget", forgotten)

    async def story() -> None:
        inside = free_port(Proto.UDP)
        with relaying() as relay:
            mapping = published(Proto.UDP, inside, "127.0.0.1")
            await relay.hold(mapping)
            relay.serve(mapping, {4: ip_address("127.0.0.1")})
            with udp_client("127.0.0.1", mapping.host_port) as client:
                client.send(b"too early")
                await asyncio.wait_for(refused.wait(), 5)
                assert len(relay.flows) == 0
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                    server.bind(("127.0.0.1", inside))
                    server.setblocking(False)
                    assert await ask(client, server, b"now") == b"NOW"

    asyncio.run(story())
