"""What is promised to one request is nobody else's, and comes back if the request fails."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from netd.errors import InUse, Invalid, KernelError
from netd.model import NetworkRequest, Want
from tests.unit.host import Host, port, running

WIRE = NetworkRequest(name="wire", driver="link", subnets=("10.9.0.0/31", "fd00:9::/127"))
LAN = NetworkRequest(name="lan")


def wires(host: Host) -> list[str]:
    return sorted(line for line in host.kernel.render().splitlines() if "redirect to" in line)


async def two(host: Host) -> None:
    await host.engine.create_network(WIRE)
    sandboxes = [await host.sandbox(name) for name in ("a", "b")]
    await asyncio.gather(*(host.engine.attach(each, [Want(network="wire")]) for each in sandboxes))


def test_two_ends_that_come_at_once_are_one_wire(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await two(host)
            assert len(wires(host)) == 2
            host.assert_as_wanted()
            ends = host.engine.view.endpoints.values()
            assert {str(a.ip) for e in ends for a in e.addresses} == {
                "10.9.0.0",
                "10.9.0.1",
                "fd00:9::",
                "fd00:9::1",
            }
            await host.restart()
            host.assert_as_wanted()
            await host.engine.detach("id-a")
            assert wires(host) == []
            host.assert_as_wanted()
            await host.engine.attach(await host.sandbox("c"), [Want(network="wire")])
            assert len(wires(host)) == 2
            for name in ("id-b", "id-c"):
                await host.engine.detach(name)
            await host.engine.remove_network("wire")
            assert host.left_over() == set()

    asyncio.run(story())


def test_a_link_has_two_ends_however_many_ask_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(NetworkRequest(name="wire", driver="link"))
            sandboxes = [await host.sandbox(f"c{n}") for n in range(8)]
            done = await asyncio.gather(
                *(host.engine.attach(each, [Want(network="wire")]) for each in sandboxes),
                return_exceptions=True,
            )
            refused = [each for each in done if isinstance(each, InUse)]
            assert len(refused) == 6
            assert "link 'wire' has both its ends already, at c" in str(refused[0])
            assert len(wires(host)) == 2
            host.assert_as_wanted()

    asyncio.run(story())


def test_a_link_leads_nowhere_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(WIRE)
            one, other = await host.sandbox("a", port(8080)), await host.sandbox("b")
            with pytest.raises(Invalid, match="in no network with a way out"):
                await host.engine.attach(one, [Want(network="wire")])
            want = Want(network="wire", options={"bandwidth.egress": "1000000"})
            with pytest.raises(Invalid, match=r"bandwidth\.egress '1000000' cannot be had on link 'wire'"):
                await host.engine.attach(other, [want])
            assert not host.engine.view.sandboxes
            assert host.engine.families() == set(), "the host needs not forward for it"

    asyncio.run(story())


def test_what_a_failed_request_was_promised_is_free_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(LAN)

            async def refuse(ops: object) -> None:
                raise KernelError(12, "a test")

            apply, host.kernel.apply = host.kernel.apply, refuse  # type: ignore[method-assign]
            with pytest.raises(KernelError):
                await host.engine.attach(await host.sandbox("a"), [Want(network="lan")])
            host.kernel.apply = apply  # type: ignore[method-assign]
            _, [endpoint] = await host.engine.attach(await host.sandbox("b"), [Want(network="lan")])
            assert str(endpoint.addresses[0].ip).endswith(".3"), "what was given back comes last"
            await host.engine.detach("id-b")
            await host.engine.remove_network("lan")

    asyncio.run(story())


def test_options_change_in_place(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(LAN)
            await host.engine.attach(await host.sandbox("a"), [Want(network="lan", options={"x": "1"})])
            before = host.kernel.render()
            changed = await host.engine.update("id-a", "lan", {"bandwidth.ingress": "8000000", "x": ""})
            assert changed.options == {"bandwidth.ingress": "8000000"}
            added = set(host.kernel.render().splitlines()) - set(before.splitlines())
            assert [line.split()[0] for line in added] == ["queue"]
            assert "rate 1000000" in added.pop()
            host.assert_as_wanted()
            assert host.events()[-1] == "endpoint update a"
            await host.restart()
            assert host.engine.view.endpoints_of("id-a") == (changed,)
            with pytest.raises(Invalid, match=r"bandwidth\.ingress 'much'"):
                await host.engine.update("id-a", "lan", {"bandwidth.ingress": "much"})
            await host.engine.update("id-a", "lan", {"bandwidth.ingress": ""})
            assert host.kernel.render() == before

    asyncio.run(story())


def test_only_an_address_that_was_anothers_is_announced(tmp_path: Path) -> None:
    """Announcements reach every port of a bridge; nobody can remember who had an address that nobody had."""

    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(NetworkRequest(name="lan", ipv6=True))
            told = ("arp_notify", "ndisc_notify")

            def announcing() -> list[str]:
                return sorted(
                    line for line in host.kernel.render().splitlines() if any(w in line for w in told)
                )

            _, [first] = await host.engine.attach(await host.sandbox("a"), [Want(network="lan")])
            assert (first.announced, announcing()) == (False, [])
            await host.engine.detach("id-a")
            await host.restart()
            four, six = (each.ip for each in first.addresses)
            assert isinstance(four, IPv4Address)
            assert isinstance(six, IPv6Address)
            for name, want in (("b", Want(network="lan", ip=four)), ("c", Want(network="lan", ip6=six))):
                _, [second] = await host.engine.attach(await host.sandbox(name), [want])
                assert second.announced
                assert len(announcing()) == 2
                await host.restart()
                host.assert_as_wanted()
                await host.engine.detach(f"id-{name}")

    asyncio.run(story())
