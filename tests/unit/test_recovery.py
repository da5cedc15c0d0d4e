"""What a start makes of what it finds: intents, dead namespaces, contradictions, another boot."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

from netd.model import NetworkRequest, Proto, Want
from netd.names import bridge_name
from netd.objects import Route, Sysctl
from netd.store.base import Attached, Delete, Intent, Put, Table
from tests.unit.host import Host, port, running, until

FRONT = NetworkRequest(name="front", ipv6=True)
UDP = port(18053, proto=Proto.UDP, container=53)


async def furnished(host: Host) -> Attached:
    await host.engine.create_network(FRONT)
    await host.engine.attach(await host.sandbox("web", port(18080), UDP), [Want(network="front")])
    found = host.engine.view.attached("id-web")
    assert found
    return found


def test_another_boot_keeps_the_networks_and_forgets_the_rest(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            network = host.engine.network("front")
            await host.engine.close()
            rebooted = Host(tmp_path)
            rebooted.boot = "next"
            await rebooted.start()
            assert rebooted.engine.view.networks == {network.id: network}
            assert not rebooted.engine.view.sandboxes
            rebooted.assert_as_wanted()
            assert bridge_name(network) in rebooted.kernel.render()
            # Nobody remembers the addresses of another boot: they are all free.
            _, (end,) = await rebooted.engine.attach(await rebooted.sandbox("db"), [Want(network="front")])
            assert end.addresses[0] == ip_interface("10.89.0.2/24")
            await rebooted.engine.detach("id-db")
            await rebooted.engine.remove_network("front")
            assert rebooted.left_over() == set()
            await rebooted.engine.close()

    asyncio.run(story())


def test_a_namespace_that_went_meanwhile_is_detached(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            web = await furnished(host)
            await host.engine.attach(await host.sandbox("db"), [Want(network="front")])
            await host.engine.close()
            host.kernel.vanish(web.sandbox.netns)
            host.kernel.flushed.clear()
            await host.start()
            assert host.engine.view.sandboxes.keys() == {"id-db"}
            assert host.kernel.flushed == [(None, 18053)]
            host.assert_as_wanted()
            assert host.feed.names.keys() == {"db"}
            loaded = await host.store.load()
            assert loaded.sandboxes.keys() == {"id-db"}
            assert len(loaded.endpoints) == 1
            # Its addresses go to the end of the queue.
            assert {freed.address for freed in loaded.freed.values()} == {
                interface.ip for interface in web.endpoints[0].addresses
            }

    asyncio.run(story())


def test_half_a_change_inside_a_living_namespace_is_taken_back_before_the_start_is_over(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            web = await furnished(host)
            before = host.kernel.render()
            after = replace(web, sandbox=replace(web.sandbox, ports=(*web.sandbox.ports, port(19000))))
            await host.store.live(Put(Table.INTENT, "id-web", Intent(before=web, after=after)))
            await host.crash()
            [route] = [
                item
                for item in host.kernel.objects
                if isinstance(item, Route) and item.via and item.via.version == 4
            ]
            host.kernel.tamper(route)
            [sysctl] = [
                i
                for i in host.kernel.objects
                if isinstance(i, Sysctl) and i.path[-1] == "accept_ra" and i.netns
            ]
            host.kernel.tamper(sysctl, replace(sysctl, value="1"))
            await host.start()
            assert host.kernel.render() == before
            assert host.engine.view.attached("id-web") == web

    asyncio.run(story())


def test_the_inside_of_every_sandbox_is_looked_at_in_the_background(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            before = host.kernel.render()
            await host.engine.close()
            for item in [i for i in host.kernel.objects if isinstance(i, Route) and i.netns]:
                host.kernel.tamper(item)
            await host.start()
            await until(lambda: host.kernel.render() == before)

    asyncio.run(story())


def test_an_intent_that_was_fulfilled_is_recognised(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            network = await host.engine.create_network(FRONT)
            await host.store.live(Put(Table.INTENT, network.id, Intent(network_after=network)))
            writes = host.kernel.writes
            await host.restart()
            assert host.engine.view.networks == {network.id: network}
            assert host.kernel.writes == writes
            assert (await host.store.load()).intents == {}

    asyncio.run(story())


def test_records_that_contradict_each_other_are_set_aside(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            web = await furnished(host)
            [end] = web.endpoints
            twin = replace(end, id="zz-twin", ifname="eth9")
            homeless = replace(end, id="zz-homeless", network="nowhere")
            orphan = replace(
                end,
                id="zz-orphan",
                sandbox="nobody",
                addresses=(ip_interface("10.89.0.3/24"),),
                mac="02:00:00:00:00:09",
            )
            await host.store.live(*(Put(Table.ENDPOINT, e.id, e) for e in (twin, homeless, orphan)))
            await host.restart()
            complaints = {q.key: q.problem for q in host.engine.view.quarantined}
            assert complaints.keys() == {"zz-twin", "zz-homeless", "zz-orphan"}
            assert "its address 10.89.0.2 is held by endpoint" in complaints["zz-twin"]
            assert "network nowhere does not exist" in complaints["zz-homeless"]
            assert "sandbox nobody does not exist" in complaints["zz-orphan"]
            assert host.engine.view.attached("id-web") == web
            # They are still in the store, for whoever repairs it; and nobody gets their addresses.
            assert complaints.keys() < (await host.store.load()).endpoints.keys()
            _, (next_end,) = await host.engine.attach(await host.sandbox("db"), [Want(network="front")])
            assert next_end.addresses[0] == ip_interface("10.89.0.4/24")
            await host.store.live(*(Delete(Table.ENDPOINT, key) for key in complaints))

    asyncio.run(story())


def test_the_history_of_a_network_that_is_gone_is_dropped(tmp_path: Path) -> None:
    async def story() -> None:
        async with running(tmp_path) as host:
            await furnished(host)
            network = host.engine.network("front")
            await host.engine.detach("id-web")
            await host.store.live(Put(Table.INTENT, network.id, Intent(network_before=network)))
            assert (await host.store.load()).freed
            await host.restart()
            loaded = await host.store.load()
            assert (loaded.networks, loaded.freed, loaded.intents, loaded.facts) == ({}, {}, {}, {})
            assert host.left_over() == set()

    asyncio.run(story())
