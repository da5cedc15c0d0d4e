"""The cluster hears of what is new or changed in its networks, of what is gone, and of nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_interface

from netd.announcements import Announcements
from netd.model import Endpoint, Netns, Owner, Sandbox, Scope
from netd.store.base import Attached
from netd.view import View
from tests.unit.cluster_double import PaperCluster, fabric

LOCAL = replace(fabric(), id="local-id", name="front", driver="bridge", scope=Scope.LOCAL, vni=0)
VIEW = View.of([fabric(), LOCAL], [])
WEB = Sandbox(id="c", name="web", owner=Owner.CONTAINER, netns=Netns(label="web", path="", device=4, inode=1))


def endpoint(network: str) -> Endpoint:
    return Endpoint(
        id=f"in {network}",
        network=network,
        sandbox="c",
        ifname="eth0",
        mac="02:00:00:00:00:01",
        addresses=(ip_interface("10.5.0.2/24"),),
    )


SHARED, OWN = endpoint("fabric-id"), endpoint("local-id")
BOTH = Attached(WEB, (SHARED, OWN))


def heard(before: Attached | None, after: Attached | None) -> list[str]:
    async def story() -> list[str]:
        cluster = PaperCluster()
        announcements = Announcements(cluster)
        announcements.gather(VIEW, before, after)
        assert cluster.said == [], "not before it is told"
        await announcements.tell()
        await announcements.tell()
        return cluster.said

    return asyncio.run(story())


def test_what_comes_changes_and_goes() -> None:
    renamed = Attached(replace(WEB, hostname="other"), BOTH.endpoints)
    assert heard(None, BOTH) == ["publish web"]
    assert heard(BOTH, renamed) == ["publish web"]
    assert heard(BOTH, None) == ["withdraw"]
    assert heard(BOTH, Attached(WEB, (OWN,))) == ["withdraw"]
    assert heard(Attached(WEB, (OWN,)), BOTH) == ["publish web"]


def test_what_is_none_of_its_business() -> None:
    assert heard(BOTH, BOTH) == []
    assert heard(None, Attached(WEB, (OWN,))) == []
    assert heard(BOTH, Attached(WEB, (SHARED,))) == []


def test_without_a_cluster_nobody_hears() -> None:
    async def story() -> None:
        announcements = Announcements(None)
        announcements.gather(VIEW, None, BOTH)
        await announcements.tell()

    asyncio.run(story())


def test_who_finds_another_telling_waits_until_it_is_told() -> None:
    async def story() -> None:
        cluster, go = PaperCluster(), asyncio.Event()
        withdraw = cluster.withdraw

        async def slowly(endpoints: list[Endpoint]) -> None:
            await go.wait()
            await withdraw(endpoints)

        cluster.withdraw = slowly  # type: ignore[assignment,method-assign]
        announcements = Announcements(cluster)
        announcements.gather(VIEW, BOTH, None)
        async with asyncio.TaskGroup() as group:
            first = group.create_task(announcements.tell())
            await asyncio.sleep(0)
            second = group.create_task(announcements.tell())
            for _ in range(5):
                await asyncio.sleep(0)
            assert not first.done()
            assert not second.done()
            go.set()
        assert cluster.said == ["withdraw"]

    asyncio.run(story())
