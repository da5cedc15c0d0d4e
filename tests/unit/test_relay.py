"""Holding published ports against other programs, and what a refusal says."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address

import pytest

from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.model import PortMapping, Proto
from netd.relay import Relay
from tests.unit.relaying import HOSTS, published, relaying, somebody


@pytest.mark.parametrize("proto", list(Proto))
@pytest.mark.parametrize("host", list(HOSTS.values()))
def test_a_port_of_another_program_is_refused_with_its_name(proto: Proto, host: str) -> None:
    async def story() -> None:
        mapping = published(proto, 80)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = socket.SOCK_STREAM if proto is Proto.TCP else socket.SOCK_DGRAM
        with relaying() as relay:
            with socket.socket(family, kind) as other:
                other.bind((host, mapping.host_port))
                if proto is Proto.TCP:
                    other.listen()
                with pytest.raises(
                    AlreadyExists, match=rf"\*:{mapping.host_port}/{proto} .* nginx \(pid 7\)"
                ):
                    await relay.hold(mapping)
                assert not relay.holds(mapping)
            await relay.hold(mapping)  # the refusal has left nothing bound

    asyncio.run(story())


@pytest.mark.parametrize("proto", list(Proto))
def test_a_port_that_is_held_cannot_be_taken(proto: Proto) -> None:
    async def story() -> None:
        mapping = published(proto, 80)
        kind = socket.SOCK_STREAM if proto is Proto.TCP else socket.SOCK_DGRAM
        with relaying() as relay:
            await relay.hold(mapping)
            await relay.hold(mapping)  # once is enough
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                with socket.socket(family, kind) as other:
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    with pytest.raises(OSError) as caught:  # noqa: PT011  (errno is looked at below)
                        other.bind((address, mapping.host_port))
                    assert caught.value.errno == errno.EADDRINUSE

    asyncio.run(story())


def test_a_foreign_address_and_a_lack_of_descriptors_are_told_apart() -> None:
    async def story() -> None:
        with pytest.raises(Invalid, match=r"203\.0\.113\.9 is not an address of this host"):
            await Relay(somebody).hold(published(Proto.TCP, 80, "203.0.113.9"))

        def exhausted(mapping: PortMapping) -> list[socket.socket]:
            raise OSError(errno.EMFILE, "Too many open files")

        with pytest.raises(Exhausted, match="Too many open files; publish fewer ports"):
            await Relay(somebody, bind=exhausted).hold(published(Proto.TCP, 80))

    asyncio.run(story())


def test_two_hundred_ports_are_taken_at_once_and_given_back() -> None:
    async def story() -> None:
        with relaying() as relay:
            mappings = [published(Proto.TCP, 80) for _ in range(200)]
            for mapping in mappings:
                await relay.hold(mapping)
                relay.serve(mapping, {4: ip_address("127.0.0.1")})
            assert all(relay.holds(mapping) for mapping in mappings)
        with relaying() as relay:
            for mapping in mappings:
                await relay.hold(mapping)

    asyncio.run(story())
