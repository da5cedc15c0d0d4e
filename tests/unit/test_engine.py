"""The use cases, told from outside: what exists, what is refused, and what is left afterwards."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from netd.errors import AlreadyExists, Corrupt, InUse, Invalid, KernelError, NotFound, Unavailable
from netd.kernel.ports import Uplink
from netd.model import Network, NetworkRequest, Proto, Want
from netd.names import bridge_name
from netd.objects import Op
from tests.unit.host import FORWARD4, Host, port, running, until

FRONT = NetworkRequest(name="front", ipv6=True)
BACK = NetworkRequest(name="back")


def lines(host: Host, *words: str) -> list[str]:
    """The lines of the rendered kernel that contain all of `words`."""
    return [line for line in host.kernel.render().splitlines() if all(word in line for word in words)]


# --- networks -----------------------------------------------------------------------------------------


def test_a_network_comes_and_goes_without_a_trace(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            network = await host.engine.create_network(FRONT)
            assert [str(subnet.cidr.version) for subnet in network.subnets] == ["4", "6"]
            assert lines(host, bridge_name(network), "bridge alias netd:front")
            assert host.feed.networks == {"front"}
            assert host.engine.network("front") == host.engine.network(network.id[:5]) == network
            assert (await host.store.load()).networks == {network.id: network}
            assert await host.engine.remove_network("front") == network
            assert host.left_over() == set()
            assert host.feed.networks == set()
            loaded = await host.store.load()
            assert (loaded.networks, loaded.intents, loaded.facts) == ({}, {}, {})
            assert host.events() == ["network create front", "network remove front"]

    asyncio.run(story())


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            before = host.kernel.render()
            with pytest.raises(AlreadyExists, match="network 'front' exists already"):
                await host.engine.create_network(FRONT)
            assert host.kernel.render() == before

    asyncio.run(story())


def test_networks_get_different_subnets_even_at_the_same_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            made = await asyncio.gather(
                *(host.engine.create_network(NetworkRequest(name=f"n{i}")) for i in range(20))
            )
            assert len({network.subnets[0].cidr for network in made}) == 20

    asyncio.run(story())


def test_an_overlap_is_refused_by_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            host.kernel.networks.add(("eth0", ip_address("192.168.7.0"), 24))
            await host.engine.create_network(NetworkRequest(name="a", subnets=("10.1.0.0/16",)))
            with pytest.raises(AlreadyExists, match="'a'"):
                await host.engine.create_network(NetworkRequest(name="b", subnets=("10.1.2.0/24",)))
            with pytest.raises(AlreadyExists, match="eth0"):
                await host.engine.create_network(NetworkRequest(name="b", subnets=("192.168.0.0/16",)))
            assert [network.name for network in host.engine.view.networks.values()] == ["a"]

    asyncio.run(story())


def test_the_mtu_is_the_uplinks_unless_given(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            host.kernel.uplink_ = Uplink("wg0", 1420)
            assert (await host.engine.create_network(BACK)).mtu == 1420
            assert (await host.engine.create_network(replace(FRONT, mtu=1280))).mtu == 1280
            with pytest.raises(Invalid, match="MTU 1279 is not possible"):
                await host.engine.create_network(replace(FRONT, name="x", mtu=1279))

    asyncio.run(story())


def test_pruning_takes_only_what_nobody_uses(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            back = await host.engine.create_network(BACK)
            await host.engine.attach(await host.sandbox("web"), [Want(network="front")])
            assert await host.engine.prune_networks() == [back]
            assert [network.name for network in host.engine.view.networks.values()] == ["front"]

    asyncio.run(story())


# --- attachments --------------------------------------------------------------------------------------


def test_attaching_and_detaching_leaves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            await host.engine.create_network(BACK)
            before = host.left_over()
            sandbox, ends = await host.engine.attach(
                await host.sandbox("web", port(18080), port()), [Want(network="front"), Want(network="back")]
            )
            assert [end.ifname for end in ends] == ["eth0", "eth1"]
            assert [published.host_port for published in sandbox.ports] == [18080, 40000]
            assert len(lines(host, "route  default")) == 2
            assert len(lines(host, "element inet netd any")) == 4
            assert host.feed.names["web"] == tuple(str(i.ip) for end in ends for i in end.addresses)
            with pytest.raises(InUse, match="network 'front' is in use by 'web'"):
                await host.engine.remove_network("front")
            await host.engine.detach(sandbox.id)
            await host.engine.detach(sandbox.id)
            assert host.left_over() == before
            assert host.feed.names == {}
            loaded = await host.store.load()
            assert (loaded.sandboxes, loaded.endpoints, loaded.intents) == ({}, {}, {})
            assert {"endpoint connect web", "port publish web", "endpoint disconnect web"} <= set(
                host.events()
            )

    asyncio.run(story())


def test_static_addresses_are_honoured_and_guarded(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(
                NetworkRequest(name="front", subnets=("10.5.0.0/24", "fd05::/64"))
            )
            want = Want(
                network="front",
                ip=IPv4Address("10.5.0.9"),
                ip6=IPv6Address("fd05::9"),
                mac="02:00:00:00:00:09",
            )
            _, (end,) = await host.engine.attach(await host.sandbox("web"), [want])
            assert [str(interface) for interface in end.addresses] == ["10.5.0.9/24", "fd05::9/64"]
            assert end.mac == "02:00:00:00:00:09"
            with pytest.raises(AlreadyExists, match=r"10\.5\.0\.9 .*'web'"):
                await host.engine.attach(await host.sandbox("b"), [Want(network="front", ip=want.ip)])
            with pytest.raises(AlreadyExists, match=r"02:00:00:00:00:09 .*'web'"):
                await host.engine.attach(await host.sandbox("c"), [Want(network="front", mac=want.mac)])
            # The refusals above have kept nothing for themselves.
            _, (end,) = await host.engine.attach(await host.sandbox("d"), [Want(network="front")])
            assert str(end.addresses[0]) == "10.5.0.2/24"

    asyncio.run(story())


def test_freed_addresses_rest_the_longest_possible_over_a_restart(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(NetworkRequest(name="tiny", subnets=("10.5.0.0/29",)))

            async def next_address(name: str) -> str:
                _, (end,) = await host.engine.attach(await host.sandbox(name), [Want(network="tiny")])
                return str(end.addresses[0].ip)

            assert [await next_address(name) for name in "abcde"] == [f"10.5.0.{n}" for n in range(2, 7)]
            for name in "cae":
                await host.engine.detach(f"id-{name}")
            await host.restart()
            assert [await next_address(name) for name in "xyz"] == ["10.5.0.4", "10.5.0.2", "10.5.0.6"]
            assert (await host.store.load()).freed == {}

    asyncio.run(story())


def test_a_wrong_request_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            await host.engine.create_network(replace(BACK, internal=True))
            sandbox = await host.sandbox("web")
            writes = host.kernel.writes
            published = replace(sandbox, ports=(port(18080),))
            for subject, wants, error, complaint in (
                (sandbox, [Want(network="nope")], NotFound, "network 'nope' does not exist"),
                (
                    sandbox,
                    [Want(network="front"), Want(network="front")],
                    AlreadyExists,
                    "in network 'front'",
                ),
                (sandbox, [Want(network="front", ifname="a/b")], Invalid, "interface name 'a/b'"),
                (sandbox, [Want(network="front", ifname="lo")], Invalid, "'lo' has a meaning of its own"),
                (
                    sandbox,
                    [Want(network="front", ip=IPv4Address("10.1.1.1"))],
                    Invalid,
                    "10.1.1.1 lies in no",
                ),
                (sandbox, [Want(network="front", mac="01:00:00:00:00:00")], Invalid, "unicast"),
                (sandbox, [Want(network="front", aliases=("a b",))], Invalid, "alias name 'a b'"),
                (sandbox, [Want(network="back", ip6=IPv6Address("fd00::1"))], Invalid, "fd00::1"),
                (published, [Want(network="back")], Invalid, "in no network with a way out"),
                (
                    replace(sandbox, ports=(port(1, "203.0.113.9"),)),
                    [Want(network="front")],
                    Invalid,
                    "203.0.113.9",
                ),
            ):
                with pytest.raises(error, match=complaint):
                    await host.engine.attach(subject, wants)
            assert host.kernel.writes == writes
            assert (await host.store.load()).intents == {}
            await host.engine.attach(published, [Want(network="front")])

    asyncio.run(story())


def test_the_default_route_and_the_ports_follow_connect_and_disconnect(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            front = await host.engine.create_network(FRONT)
            back = await host.engine.create_network(BACK)
            sandbox, _ = await host.engine.attach(
                await host.sandbox("web", port(18080)), [Want(network="back")]
            )

            def default(family: int) -> list[str]:
                return [
                    line.split()[3]
                    for line in lines(host, "route  default")
                    if (":" in line) == (family == 6)
                ]

            assert default(4) == [str(back.gateways(4)[0])]
            end = await host.engine.connect(sandbox.id, Want(network="front", gateway_priority=5))
            assert end.ifname == "eth1"
            assert default(4) == [str(front.gateways(4)[0])]
            assert default(6) == [str(front.gateways(6)[0])]
            assert str(end.addresses[0].ip) in lines(host, "any4")[0]
            assert lines(host, "any6")
            assert len(host.feed.names["web"]) == 3
            await host.engine.disconnect(sandbox.id, "front")
            assert default(4) == [str(back.gateways(4)[0])]
            assert default(6) == []
            assert str(end.addresses[0].ip) not in host.kernel.render()
            assert not lines(host, "any6")
            with pytest.raises(NotFound, match="container 'web' is not in network 'front'"):
                await host.engine.disconnect(sandbox.id, "front")

    asyncio.run(story())


def test_ports_come_and_go_while_it_runs(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            sandbox, _ = await host.engine.attach(await host.sandbox("web"), [Want(network="front")])
            other, _ = await host.engine.attach(await host.sandbox("db"), [Want(network="front")])
            udp = port(18053, proto=Proto.UDP, container=53)
            sandbox = await host.engine.publish(sandbox.id, [port(18080), udp])
            assert sandbox.ports == (port(18080), udp)
            assert host.kernel.flushed == [(None, 18053)]
            with pytest.raises(AlreadyExists, match="port 18080/tcp is already published by 'web'"):
                await host.engine.publish(other.id, [port(18081), port(18080)])
            assert not lines(host, "18081")
            assert (await host.engine.unpublish(sandbox.id, [udp, port(18080)])).ports == ()
            assert host.kernel.flushed == [(None, 18053)] * 2
            assert not lines(host, "any4")
            with pytest.raises(NotFound, match="18080/tcp of container 'web' is not published"):
                await host.engine.unpublish(sandbox.id, [port(18080)])
            assert (await host.engine.publish(other.id, [port(18080)])).ports == (port(18080),)

    asyncio.run(story())


def test_a_new_name_is_everywhere_and_the_old_one_nowhere(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            limited = Want(network="front", options={"bandwidth.egress": "1000000"})
            sandbox, (endpoint,) = await host.engine.attach(await host.sandbox("web", port(18080)), [limited])
            other, _ = await host.engine.attach(await host.sandbox("db"), [Want(network="front")])
            assert lines(host, "web@front")
            writes = host.kernel.writes
            renamed = await host.engine.rename(sandbox.id, "shop")
            assert host.kernel.writes - writes == 2, "the pair and the device of its limit"
            assert (renamed.name, renamed.hostname) == ("shop", sandbox.hostname)
            assert host.engine.view.endpoints_of(sandbox.id) == (endpoint,)
            assert set(host.feed.names) == {"shop", "db"}
            assert not lines(host, "web@front")
            assert lines(host, "alias netd:shop@front")
            with pytest.raises(AlreadyExists, match="already published by 'shop'"):
                await host.engine.publish(other.id, [port(18080)])
            taken = endpoint.of_family(4)[0].ip
            assert isinstance(taken, IPv4Address)
            with pytest.raises(AlreadyExists, match="container 'shop'"):
                await host.engine.attach(await host.sandbox("late"), [Want(network="front", ip=taken)])
            await host.restart()
            assert host.kernel.writes - writes == 2
            assert set(host.feed.names) == {"shop", "db"}
            with pytest.raises(NotFound):
                await host.engine.rename("id-nobody", "shop")

    asyncio.run(story())


def test_detaching_works_when_the_namespace_is_gone(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            before = host.left_over()
            sandbox, _ = await host.engine.attach(
                await host.sandbox("web", port(18080)), [Want(network="front")]
            )
            host.kernel.vanish(sandbox.netns)
            await host.engine.detach(sandbox.id)
            assert host.left_over() == before

    asyncio.run(story())


# --- the host's forwarding ----------------------------------------------------------------------------


def test_forwarding_is_turned_on_with_a_lock_and_off_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(BACK)
            assert await host.kernel.sysctl(FORWARD4) == "1"
            assert lines(host, "closed { ipv4 }")
            assert not lines(host, "closed { ipv6 }")
            await host.restart()
            assert lines(host, "closed { ipv4 }")
            await host.engine.remove_network("back")
            assert await host.kernel.sysctl(FORWARD4) == "0"
            assert host.left_over() == set()

    asyncio.run(story())


def test_forwarding_that_was_on_before_stays_on_and_open(tmp_path: Path) -> None:
    async def story() -> None:
        host = Host(tmp_path)
        host.kernel.sysctls[FORWARD4] = "1"
        await host.start()
        await host.engine.create_network(BACK)
        assert not lines(host, "closed")
        await host.engine.remove_network("back")
        assert await host.kernel.sysctl(FORWARD4) == "1"
        await host.engine.close()

    asyncio.run(story())


# --- many at once, and callers that vanish ------------------------------------------------------------


def test_64_clients_and_one_name(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            for _ in range(3):
                made = await asyncio.gather(
                    *(host.engine.create_network(FRONT) for _ in range(64)), return_exceptions=True
                )
                assert sum(isinstance(result, Network) for result in made) == 1
                assert sum(isinstance(result, AlreadyExists) for result in made) == 63
                gone = await asyncio.gather(
                    *(host.engine.remove_network("front") for _ in range(64)), return_exceptions=True
                )
                assert sum(isinstance(result, Network) for result in gone) == 1
                assert sum(isinstance(result, NotFound) for result in gone) == 63
            assert host.left_over() == set()

    asyncio.run(story())


def test_64_clients_creating_and_deleting_end_clean(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(BACK)

            async def client(number: int) -> None:
                sandbox = await host.sandbox(f"c{number}", port(20000 + number % 4))
                for request in (FRONT, replace(FRONT, name="side")):
                    for attempt in (
                        host.engine.create_network(request),
                        host.engine.attach(sandbox, [Want(network="back"), Want(network=request.name)]),
                        host.engine.remove_network(request.name),
                        host.engine.detach(sandbox.id),
                        host.engine.remove_network(request.name),
                    ):
                        try:
                            await attempt
                        except (AlreadyExists, InUse, NotFound, Unavailable):
                            await asyncio.sleep(0)

            await asyncio.gather(*(client(number) for number in range(64)))
            for sandbox in list(host.engine.view.sandboxes):
                await host.engine.detach(sandbox)
            await host.engine.prune_networks()
            assert host.left_over() == set()
            loaded = await host.store.load()
            assert (loaded.networks, loaded.sandboxes, loaded.endpoints, loaded.intents) == ({}, {}, {}, {})

    asyncio.run(story())


def slow(host: Host, monkeypatch: pytest.MonkeyPatch, word: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Make kernel operations that speak of `word` wait; returns what tells that one does, and lets it go."""
    waits, go, apply = asyncio.Event(), asyncio.Event(), host.kernel.apply

    async def applied(ops: Sequence[Op]) -> None:
        if any(word in str(op) for op in ops):
            waits.set()
            await go.wait()
        await apply(ops)

    monkeypatch.setattr(host.kernel, "apply", applied)
    return waits, go


def test_sandboxes_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            waits, go = slow(host, monkeypatch, "slow@")
            async with asyncio.TaskGroup() as group:
                group.create_task(host.engine.attach(await host.sandbox("slow"), [Want(network="front")]))
                await waits.wait()
                await host.engine.attach(await host.sandbox("quick"), [Want(network="front")])
                await host.engine.detach("id-quick")
                assert "id-slow" not in host.engine.view.sandboxes
                go.set()
            assert "id-slow" in host.engine.view.sandboxes

    asyncio.run(story())


def test_a_network_stays_while_somebody_is_being_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            waits, go = slow(host, monkeypatch, "slow@")
            async with asyncio.TaskGroup() as group:
                group.create_task(host.engine.attach(await host.sandbox("slow"), [Want(network="front")]))
                await waits.wait()
                with pytest.raises(InUse, match="network 'front' is in use by 'slow'"):
                    await host.engine.remove_network("front")
                assert await host.engine.prune_networks() == []
                go.set()
            host.assert_as_wanted()

    asyncio.run(story())


def test_nobody_is_attached_to_a_network_that_is_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            waits, go = slow(host, monkeypatch, "remove link")
            async with asyncio.TaskGroup() as group:
                group.create_task(host.engine.remove_network("front"))
                await waits.wait()
                with pytest.raises(Unavailable, match="network 'front' is being removed"):
                    await host.engine.attach(await host.sandbox("late"), [Want(network="front")])
                go.set()
            assert host.left_over() == set()

    asyncio.run(story())


def test_a_removal_that_fails_is_finished_by_asking_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            await host.engine.attach(await host.sandbox("web", port(18080)), [Want(network="front")])
            busy = KernelError(errno.EBUSY, "the link")
            host.kernel.fail(lambda op: str(op).startswith("remove link"), busy, times=20)
            with pytest.raises(KernelError, match="EBUSY"):
                await host.engine.detach("id-web")
            # It does not come back, though it is still known: what is leaving is not wanted any more.
            assert not lines(host, "any4")
            with pytest.raises(NotFound, match="has no attachment"):
                await host.engine.publish("id-web", [port(18081)])
            host.kernel._failures.clear()
            await host.engine.detach("id-web")
            await host.engine.remove_network("front")
            assert host.left_over() == set()

    asyncio.run(story())


def test_a_caller_that_vanishes_leaves_a_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            before, outcomes = host.left_over(), set()
            for patience in range(40):
                sandbox = await host.sandbox(f"c{patience}", port(19000 + patience))
                call = asyncio.get_running_loop().create_task(
                    host.engine.attach(sandbox, [Want(network="front")])
                )
                for _ in range(patience):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                outcomes.add(call.cancelled())
                await host.engine.detach(sandbox.id)
                assert host.left_over() == before
            assert True in outcomes
            assert (await host.store.load()).intents == {}

    asyncio.run(story())


def test_a_stopping_engine_finishes_what_runs_and_refuses_the_rest(tmp_path: Path) -> None:
    async def story() -> None:
        host = Host(tmp_path)
        await host.start()
        call = asyncio.get_running_loop().create_task(host.engine.create_network(FRONT))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await host.engine.close()
        assert (await call).name == "front"
        with pytest.raises(Unavailable, match="stopping"):
            await host.engine.create_network(BACK)
        await host.start()
        assert [network.name for network in host.engine.view.networks.values()] == ["front"]
        await host.engine.close()

    asyncio.run(story())


# --- restarts -----------------------------------------------------------------------------------------


def test_a_restart_with_nothing_changed_writes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            await host.engine.create_network(replace(BACK, internal=True, icc=False))
            wants = [Want(network="front"), Want(network="back", aliases=("db",))]
            for number in range(5):
                await host.engine.attach(await host.sandbox(f"c{number}", port(18080 + number)), wants)
            view, names, writes = host.engine.view, host.feed.names, host.kernel.writes
            await host.restart()
            assert host.kernel.writes == writes
            assert host.engine.view == view
            assert host.feed.names == names
            await until(lambda: not host.engine._reconciler.busy)  # it looks into every sandbox
            assert host.kernel.writes == writes
            with pytest.raises(AlreadyExists, match="18080/tcp is already published by 'c0'"):
                await host.engine.publish("id-c1", [port(18080)])

    asyncio.run(story())


def test_a_damaged_store_stops_the_start_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await host.engine.create_network(FRONT)
            await host.engine.close()
            before, path = host.kernel.render(), host.store.paths["definitions"]
            content = path.read_bytes()
            path.write_bytes(b"rubbish" * 1000)
            with pytest.raises(Corrupt, match=r"netd\.db is damaged"):
                await host.start()
            await host.engine.close()
            assert host.kernel.render() == before
            assert path.read_bytes() == b"rubbish" * 1000
            path.write_bytes(content)
            await host.start()
            assert host.kernel.render() == before

    asyncio.run(story())
