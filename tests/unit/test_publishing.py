"""Choosing and reserving ports, where they lead, and getting them back after a restart."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from netd import publishing
from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.kernel.fake import FakeKernel
from netd.model import NetworkRequest, Owner, PortMapping, Proto, Want
from netd.publishing import Publishing, targets
from netd.store.base import Attached
from tests.unit.host import RANGE, RESERVED, Host, port, running, until
from tests.unit.test_view import BACK, FRONT, ONE, TWO, WEB, network, sandbox

NETWORKS = {each.id: each for each in (FRONT, BACK)}


class Sockets:
    """The host's ports, as a set of those that another program has."""

    def __init__(self) -> None:
        self.taken: set[tuple[Proto, int]] = set()
        self.asked: list[int] = []

    def bind(self, mapping: PortMapping) -> list[socket.socket]:
        self.asked.append(mapping.host_port)
        if (mapping.proto, mapping.host_port) in self.taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return []


def made() -> tuple[Publishing, Sockets, FakeKernel]:
    kernel, sockets = FakeKernel(), Sockets()
    kernel.sysctls.update({RANGE: "40000 40004", RESERVED: "40001"})
    kernel.addresses = {ip_address("192.0.2.1"), ip_address("2001:db8::1")}
    kernel.holders[Proto.TCP, 80] = "nginx (pid 7)"
    return Publishing(kernel, sockets.bind), sockets, kernel


def test_named_ports_are_taken_as_named_and_choices_made_around_what_is_held() -> None:
    async def story() -> None:
        ports, sockets, _ = made()
        sockets.taken = {(Proto.TCP, 40000)}
        taken = await ports.take(
            WEB.sandbox, [port(8080), port(), port(proto=Proto.UDP), port(8079, end=8081)]
        )
        assert [each.host_port for each in taken] == [8080, 40002, 40003, 8079]
        assert {each.host_port_end for each in taken} == {0}
        assert await ports.take(sandbox("db"), [port(8079, end=8081)]) == (port(8081),)

    asyncio.run(story())


def test_refusals_name_the_holder_and_reserve_nothing() -> None:
    async def story() -> None:
        ports, sockets, _ = made()
        sockets.taken = {(Proto.TCP, 80)}
        await ports.take(WEB.sandbox, [port(8080, "192.0.2.1")])
        for wanted, error, complaint in (
            (port(80), AlreadyExists, r"\*:80/tcp is in use by nginx \(pid 7\)"),
            (port(8080), AlreadyExists, "already published by 'name-web'"),
            (port(8080, "192.0.2.1"), AlreadyExists, "192.0.2.1:8080/tcp is already published by 'name-web'"),
            (port(1, "203.0.113.1"), Invalid, "203.0.113.1 is not an address of this host"),
            (port(1, "fe80::1"), Invalid, "link-local"),
        ):
            with pytest.raises(error, match=complaint):
                await ports.take(sandbox("db"), [port(9000), wanted])
        assert await ports.take(sandbox("db"), [port(9000), port(8080, "127.0.0.1")])

    asyncio.run(story())


def test_a_range_that_other_programs_have_is_exhausted() -> None:
    async def story() -> None:
        ports, sockets, _ = made()
        sockets.taken = {(Proto.TCP, number) for number in range(40000, 40005)}
        with pytest.raises(Exhausted, match="none of 4 is free"):
            await ports.take(WEB.sandbox, [port()])
        assert 40001 not in sockets.asked

    asyncio.run(story())


def test_addresses_of_the_host_of_loopback_and_none_at_all_are_welcome() -> None:
    async def story() -> None:
        ports, _, _ = made()
        wanted = [
            port(1),
            port(2, "192.0.2.1"),
            port(3, "2001:db8::1"),
            port(4, "127.0.0.53"),
            port(5, "::1"),
        ]
        wanted += [port(6, "0.0.0.0"), port(7, "::")]
        assert await ports.take(WEB.sandbox, wanted) == tuple(wanted)

    asyncio.run(story())


def test_a_port_leads_where_the_default_route_of_each_family_is() -> None:
    assert targets([ONE, TWO], NETWORKS) == {4: ip_address("10.2.0.2"), 6: ip_address("fd01::2")}
    assert targets([ONE], NETWORKS) == {4: ip_address("10.2.0.2")}
    closed = network(BACK.id, "back", "10.2.0.0/24", internal=True)
    assert targets([ONE], {BACK.id: closed}) == {}


def test_only_udp_is_flushed_by_its_host_port() -> None:
    async def story() -> None:
        ports, _, kernel = made()
        await ports.flush([port(8080), port(53, "192.0.2.1", Proto.UDP, 5353), port(54, proto=Proto.UDP)])
        assert sorted(kernel.flushed, key=str) == sorted([(ip_address("192.0.2.1"), 53), (None, 54)], key=str)

    asyncio.run(story())


def test_a_port_that_was_taken_while_netd_was_away_is_won_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "RETRY", 0.005)

    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(NetworkRequest(name="front"))
            await host.engine.attach(await host.sandbox("web", port(18080)), [Want(network="front")])
            await host.engine.close()
            host.taken = {(Proto.TCP, 18080)}
            await host.start()
            assert "18080" in host.kernel.render()  # by the kernel it is reached all the time
            assert not relay_holds(host, port(18080))
            host.taken = set()
            await until(lambda: relay_holds(host, port(18080)))

    asyncio.run(story())


def test_a_port_that_is_given_back_is_not_won_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "RETRY", 0.005)

    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(NetworkRequest(name="front"))
            await host.engine.attach(
                await host.sandbox("web", port(18080), port(18081)), [Want(network="front")]
            )
            await host.engine.close()
            host.taken = {(Proto.TCP, 18080), (Proto.TCP, 18081)}
            await host.start()
            await host.engine.unpublish("id-web", [port(18080)])
            host.taken = set()
            await until(lambda: relay_holds(host, port(18081)))
            assert not relay_holds(host, port(18080))

    asyncio.run(story())


def relay_holds(host: Host, mapping: PortMapping) -> bool:
    return host.engine._publishing._relay.holds(mapping)


def test_two_that_claim_one_port_in_a_damaged_store_do_not_keep_it_from_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    led: list[object] = []

    async def story() -> None:
        ports, sockets, _ = made()
        monkeypatch.setattr(ports._relay, "serve", lambda mapping, to: led.append((mapping, to)))
        both = [
            Attached(replace(sandbox(id), ports=(port(18080),)), (end,))
            for id, end in (("a", ONE), ("b", TWO))
        ]
        await ports.adopt(both, NETWORKS)
        assert sockets.asked == [18080]
        assert led == [(port(18080), {4: ip_address("10.2.0.2")})]
        with pytest.raises(AlreadyExists, match="'name-a'"):
            await ports.take(sandbox("c"), [port(18080)])

    asyncio.run(story())


def test_a_cni_runtime_may_bind_its_ports_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """As podman does, after ADD; what it leaves is taken later, and what it has is tried again."""
    monkeypatch.setattr(publishing, "RETRY", 0.01)

    async def story() -> None:
        ports, sockets, _ = made()
        pod = replace(WEB.sandbox, owner=Owner.CNI)
        sockets.taken = {(Proto.TCP, 80)}
        with pytest.raises(AlreadyExists, match="nginx"):
            await ports.take(pod, [port(80)])
        taken = await ports.take(pod, [port(8080), port(8081)])
        assert not any(ports._relay.holds(each) for each in taken)
        with pytest.raises(AlreadyExists, match="already published"):
            await ports.take(sandbox("db"), [port(8080)])
        sockets.taken = {(Proto.TCP, 8080)}  # the runtime's own socket
        attached = replace(WEB, sandbox=replace(pod, ports=taken))
        ports.lead(attached, NETWORKS)
        await until(lambda: ports._relay.holds(taken[1]))
        assert not ports._relay.holds(taken[0])
        sockets.taken = set()
        await until(lambda: ports._relay.holds(taken[0]))
        ports.release(attached.sandbox, taken)
        assert not ports._lost
        ports.close()

    asyncio.run(story())
