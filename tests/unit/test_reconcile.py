"""Damage of every kind is repaired, told, and tried again; what cannot be repaired is said so."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from netd import reconcile
from netd.errors import KernelError, NotFound
from netd.kernel.ports import Drift
from netd.model import IPAddress, NetworkRequest, Want
from netd.names import bridge_name, host_ifname
from netd.objects import Add, Address, Bridge, BridgePort, Element, KernelObject, Sysctl, Veth
from netd.store.base import Put, Table
from tests.unit.host import FORWARD4, Host, port, running, until

FRONT = NetworkRequest(name="front", ipv6=True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop as it is, with shorter pauses."""
    for name, seconds in (("DEBOUNCE", 0.001), ("QUIET", 0.01), ("STEP", 0.005), ("PATIENCE", 0.02)):
        monkeypatch.setattr(reconcile, name, seconds)
    monkeypatch.setattr(reconcile, "FIRST_RETRY", 0.02)


async def furnished(host: Host) -> None:
    """One network with one container, and nothing left to look at."""
    await host.engine.create_network(FRONT)
    await host.engine.attach(await host.sandbox("web", port(18080)), [Want(network="front")])
    await at_rest(host)
    host.events()


async def at_rest(host: Host) -> None:
    await until(lambda: not host.engine._reconciler.busy)


def one(host: Host, kind: type[KernelObject], word: str = "") -> KernelObject:
    return min((i for i in host.kernel.objects if isinstance(i, kind) and word in str(i)), key=str)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (Bridge, ""),
        (Veth, ""),
        (BridgePort, ""),
        (Address, "dev nd-"),
        (Element, "any4"),
        (Element, "bind6"),
        (Element, "closed"),
        (Sysctl, "nd-"),
    ],
)
def test_what_is_removed_comes_back(kind: type[KernelObject], word: str, tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before = host.kernel.render()
            victim = one(host, kind, word)
            host.kernel.tamper(victim)
            assert host.kernel.render() != before
            await until(lambda: host.kernel.render() == before)
            assert any(f"repair add {' '.join(str(victim).split())}" == event for event in host.events())

    asyncio.run(story())


def test_what_is_changed_is_changed_back_and_what_is_added_is_removed(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before = host.kernel.render()
            bridge = one(host, Bridge)
            assert isinstance(bridge, Bridge)
            host.kernel.tamper(bridge, replace(bridge, mtu=9000))
            stray = Element("inet", "any4", ("tcp", 9999), (one(host, Element, "any4").value[0], 1))  # type: ignore[union-attr]
            host.kernel.tamper(one(host, Element, "any4"), stray)
            await until(lambda: host.kernel.render() == before)
            assert {event.split()[1] for event in host.events()} == {"change", "add", "remove"}

    asyncio.run(story())


def test_events_that_were_lost_lead_to_a_look_at_everything(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before, watchers = host.kernel.render(), host.kernel._watchers
            host.kernel._watchers = set()
            host.kernel.tamper(one(host, Veth))
            host.kernel.tamper(one(host, Address, "dev nd-"))
            host.kernel._watchers = watchers
            host.kernel.drift(Drift("overflow"))
            await until(lambda: host.kernel.render() == before)

    asyncio.run(story())


def test_a_look_that_finds_nothing_writes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            writes = host.kernel.writes
            host.kernel.drift(Drift("link", "ve-whatever"))
            await until(lambda: host.engine._reconciler.busy)
            await at_rest(host)
            assert host.kernel.writes == writes
            assert host.events() == []

    asyncio.run(story())


def test_forwarding_that_is_turned_off_is_turned_on_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            host.kernel.tamper(Sysctl(FORWARD4, "1"), Sysctl(FORWARD4, "0"))
            await until(lambda: "sysctl net/ipv4/ip_forward = 1" in host.kernel.render())

    asyncio.run(story())


def test_what_cannot_be_repaired_degrades_its_network_until_it_can(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            other = await host.engine.create_network(NetworkRequest(name="other"))
            front = host.engine.network("front")
            await at_rest(host)
            before, victim = host.kernel.render(), one(host, Address, f"dev {bridge_name(front)}")
            broken = KernelError(errno.ENOMEM, str(victim))
            host.kernel.fail(lambda op: isinstance(op, Add) and op.object == victim, broken, times=8)
            # More is broken than what cannot be repaired; the rest is repaired at once.
            port = one(host, BridgePort)
            host.kernel.tamper(port)
            host.kernel.tamper(victim)
            await until(lambda: bool(host.engine.view.degraded))
            assert host.engine.view.degraded.keys() == {front.id}
            assert "cannot be repaired: " in host.engine.view.degraded[front.id]
            assert "ENOMEM" in host.engine.view.degraded[front.id]
            assert str(port) in host.kernel.render()
            assert other.id in host.engine.view.networks
            await until(lambda: not host.engine.view.degraded)
            assert host.kernel.render() == before
            told = [event for event in host.events() if event.startswith("network")]
            assert told == ["network create other", "network degraded front", "network ready front"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "problem",
    [KernelError(errno.ENOBUFS, "dump"), OSError(errno.EMFILE, "no descriptor"), KeyError("defect")],
)
def test_a_kernel_that_cannot_be_looked_at_is_looked_at_again(
    problem: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before, observe, failures = host.kernel.render(), host.kernel.observe, 2

            async def failing(sysctls: object = ()) -> frozenset[KernelObject]:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise problem
                return await observe(sysctls)  # type: ignore[arg-type]

            monkeypatch.setattr(host.kernel, "observe", failing)
            host.kernel.tamper(one(host, Element, "any4"))
            await until(lambda: host.kernel.render() == before)
            assert failures == 0

    asyncio.run(story())


def test_a_namespace_that_goes_takes_its_attachment_along(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            sandbox = host.engine.view.sandboxes["id-web"]
            [end] = host.engine.view.endpoints_of(sandbox.id)
            host.kernel.vanish(sandbox.netns)
            host.kernel.drift(Drift("link", host_ifname(end)))
            await until(lambda: "endpoint disconnect web" in host.events())
            assert not host.engine.view.sandboxes
            assert host.feed.names == {}
            await at_rest(host)
            host.assert_as_wanted()
            await host.engine.remove_network("front")
            assert host.left_over() == set()

    asyncio.run(story())


def test_an_interface_in_the_way_is_named_and_left_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            bridge = one(host, Bridge)
            assert isinstance(bridge, Bridge)
            host.kernel.foreign_link(bridge.name)
            host.kernel.tamper(bridge)
            await until(lambda: bool(host.engine.view.degraded))
            assert "was not made by netd" in next(iter(host.engine.view.degraded.values()))

    asyncio.run(story())


def test_repairs_and_changes_do_not_take_each_other_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            observe, looks = host.kernel.observe, 0

            async def slowly(sysctls: Collection[tuple[str, ...]] = ()) -> frozenset[KernelObject]:
                nonlocal looks
                looks += 1
                found = await observe(sysctls)
                await asyncio.sleep(0.01)  # what was seen grows old before it is used
                return found

            monkeypatch.setattr(host.kernel, "observe", slowly)

            async def churn(number: int) -> None:
                turn = 0
                while looks < 4:
                    turn += 1
                    sandbox = await host.sandbox(f"c{number}-{turn}", port(20000 + number))
                    await host.engine.attach(sandbox, [Want(network="front")])
                    host.kernel.drift(Drift("nft"))
                    await asyncio.sleep(0.002)
                    await host.engine.detach(sandbox.id)

            async with asyncio.timeout(30):
                await asyncio.gather(*(churn(number) for number in range(8)))
            await at_rest(host)
            assert [event for event in host.events() if event.startswith("repair")] == []
            host.assert_as_wanted()

    asyncio.run(story())


def test_nothing_is_removed_while_records_cannot_be_read(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before, network = host.left_over(), host.engine.network("front")
            await host.store.define(Put(Table.NETWORK, network.id, replace(network, mtu="broken")))  # type: ignore[arg-type]
            await host.restart()
            assert {q.table for q in host.engine.view.quarantined} == {"network", "endpoint"}
            assert host.engine.view.networks == {}
            await at_rest(host)
            assert host.left_over() == before
            with pytest.raises(NotFound):
                host.engine.network("front")
            await host.store.define(Put(Table.NETWORK, network.id, network))
            await host.restart()
            assert host.engine.view.quarantined == ()
            host.assert_as_wanted()

    asyncio.run(story())


def test_lost_rules_are_restored_without_waiting_and_what_began_meanwhile_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            lost, forgotten = [True, False], []

            async def restore() -> bool:
                return lost.pop(0)

            async def forget(addresses: Collection[IPAddress]) -> None:
                forgotten.append(set(addresses))

            monkeypatch.setattr(host.kernel, "restore_rules", restore)
            monkeypatch.setattr(host.kernel, "forget_untranslated", forget)
            async with host.engine._gate.shared():  # a change that takes its time
                host.kernel.drift(Drift("rules"))
                await until(lambda: any(each.startswith("repair add") for each in host.events()))
            host.kernel.drift(Drift("rules"))
            await until(lambda: not lost)
            [end], [network] = host.engine.view.endpoints.values(), host.engine.view.networks.values()
            gateways = {subnet.gateway for subnet in network.subnets}
            assert forgotten == [{address.ip for address in end.addresses} | gateways]

    asyncio.run(story())


def test_what_began_while_an_element_was_missing_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before, forgotten = host.kernel.render(), []

            async def forget(addresses: Collection[IPAddress]) -> None:
                forgotten.append(host.kernel.render())

            monkeypatch.setattr(host.kernel, "forget_untranslated", forget)
            host.kernel.tamper(one(host, Element, "bridges"))
            await until(lambda: bool(forgotten))
            assert forgotten == [before], "only once the element is back"

    asyncio.run(story())


def test_a_look_that_takes_long_is_taken_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            asked: list[float] = []
            quiet_for, observe = host.engine._gate.quiet_for, host.kernel.observe

            def noted(seconds: float) -> bool:
                asked.append(seconds)
                return quiet_for(seconds)

            async def slow(sysctls: Collection[tuple[str, ...]] = ()) -> frozenset[KernelObject]:
                await asyncio.sleep(0.03)
                return await observe(sysctls)

            monkeypatch.setattr(host.engine._gate, "quiet_for", noted)
            monkeypatch.setattr(host.kernel, "observe", slow)
            for _ in range(2):
                host.kernel.drift(Drift("link"))
                await until(lambda: host.engine._reconciler.busy)
                await at_rest(host)
            assert max(asked) > 0.3  # ten times what the first look took
            monkeypatch.setattr(reconcile, "LONGEST_QUIET", 0.1)
            asked.clear()
            host.kernel.drift(Drift("link"))
            await until(lambda: bool(asked))
            assert asked[0] == 0.1

    asyncio.run(story())
