"""Every change is whole or absent, at whatever step the daemon dies, and wherever something fails.

A `Fuse` (`tests.unit.fuse`) stands between the engine and its surroundings and burns at the Nth step that
leaves a trace: either the daemon dies there, or that step fails with an error. Each use case is run with
N = 1, 2, 3, … until the fuse no longer burns, so every step is hit. Containers, CNI and overlays are in
`test_crashes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from netd.changes import Undo
from netd.errors import AlreadyExists, KernelError, NotFound, Unavailable
from netd.model import NetworkRequest, Proto, Want
from netd.store.base import Put, Table
from tests.unit.fuse import Fuse, FusedFeed, FusedKernel, FusedStore
from tests.unit.host import Host, port

FRONT = NetworkRequest(name="front", ipv6=True)
BACK = NetworkRequest(name="back")
SIDE = NetworkRequest(name="side", ipv6=True)
CALLED_SHOP = Put(Table.CONTAINER, "id-web", b"shop")
"""What the owner of a sandbox remembers of its name: true exactly when the engine's own is."""
PORTS = (port(18080), port(18053, proto=Proto.UDP, container=53))


@dataclass(frozen=True)
class Case:
    """A use case: what must be there first, and the request."""

    prepare: Callable[[Host], Awaitable[object]]
    request: Callable[[Host], Coroutine[Any, Any, object]]


async def nothing(host: Host) -> None:
    pass


async def networks(host: Host) -> None:
    for request in (FRONT, BACK):
        await host.engine.create_network(request)


async def attached(host: Host) -> None:
    await networks(host)
    web = await host.sandbox("web", *PORTS)
    await host.engine.attach(web, [Want(network="back")])


async def attached_twice(host: Host) -> None:
    await attached(host)
    await host.engine.connect("id-web", Want(network="front", gateway_priority=1))


async def attach(host: Host) -> object:
    path = "/run/netd/netns/web"
    if path not in host.kernel._namespaces:
        await host.kernel.netns_create("web")
    netns = await host.kernel.netns_open(path, "web")
    web = replace(await sandbox_named(host, "web"), netns=netns, ports=PORTS)
    return await host.engine.attach(web, [Want(network="front"), Want(network="back", ifname="back0")])


async def sandbox_named(host: Host, name: str) -> Any:
    from netd.model import Netns, Owner, Sandbox

    nowhere = Netns(label=name, path="", device=0, inode=0)
    return Sandbox(id=f"id-{name}", name=name, owner=Owner.CONTAINER, netns=nowhere)


CASES = {
    "create": Case(nothing, lambda host: host.engine.create_network(FRONT)),
    "create another": Case(networks, lambda host: host.engine.create_network(SIDE)),
    "remove": Case(networks, lambda host: host.engine.remove_network("front")),
    "attach": Case(networks, attach),
    "detach": Case(attached_twice, lambda host: host.engine.detach("id-web")),
    "connect": Case(
        attached, lambda host: host.engine.connect("id-web", Want(network="front", gateway_priority=1))
    ),
    "disconnect": Case(attached_twice, lambda host: host.engine.disconnect("id-web", "front")),
    "publish": Case(attached, lambda host: host.engine.publish("id-web", [port(19090)])),
    "rename": Case(attached_twice, lambda host: host.engine.rename("id-web", "shop", [CALLED_SHOP])),
    "unpublish": Case(attached, lambda host: host.engine.unpublish("id-web", PORTS)),
}
CONFLICTS = (AlreadyExists, NotFound)
"""What the repetition of a request may be answered with, where it had succeeded before."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory without a disk behind it: hundreds of starts need not wait for theirs."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def fused(directory: Path, *, kills: bool) -> tuple[Host, Fuse]:
    host, fuse = Host(directory), Fuse(kills=kills)

    def wrap(host: Host) -> None:
        host.seen = FusedKernel(host.kernel, fuse)
        host.feed = FusedFeed(fuse)
        host.remembered = FusedStore(host.store, fuse)

    host.wrap = wrap
    return host, fuse


def everything_of(host: Host) -> tuple[object, ...]:
    """What can be seen of a host, for comparison."""
    view = host.engine.view
    return (
        frozenset(host.left_over()),
        view.networks,
        view.sandboxes,
        view.endpoints,
        host.feed.names,
        host.feed.networks,
        [host.engine._addresses.capacity(network) for network in view.networks.values()],
    )


async def assert_remembered(host: Host) -> None:
    """The store holds what the view shows, and nothing is under way."""
    loaded, view = await host.store.load(), host.engine.view
    assert (loaded.networks, loaded.sandboxes) == (view.networks, view.sandboxes)
    assert loaded.endpoints == view.endpoints
    assert loaded.intents == {}
    renamed = any(sandbox.name == "shop" for sandbox in view.sandboxes.values())
    assert (await host.store.containers()).get("id-web") == (b"shop" if renamed else None)


async def remove_all(host: Host) -> None:
    for id in list(host.engine.view.sandboxes):
        await host.engine.detach(id)
    await host.engine.prune_networks()
    assert host.left_over() == set()
    loaded = await host.store.load()
    assert (loaded.networks, loaded.sandboxes, loaded.endpoints) == ({}, {}, {})
    assert (loaded.intents, loaded.facts) == ({}, {})


@pytest.mark.parametrize("name", CASES)
def test_dying_at_any_step(name: str, memory: Path) -> None:
    """After a death: whole or absent, the request can be repeated, and all of it can be removed."""

    async def story(number: int) -> bool:
        host, fuse = fused(memory / str(number), kills=True)
        await host.start()
        await CASES[name].prepare(host)
        fuse.arm(number)
        burnt = not await fuse.survived(CASES[name].request(host))
        if burnt:
            await host.crash()
            # The next start dies, too, at a step that differs from run to run; the one after does not.
            fuse.arm(number % 11 + 1)
            await fuse.survived(host.start())
            await host.crash()
            fuse.arm(0)
            await host.start()
        host.assert_as_wanted()
        await assert_remembered(host)
        with suppress(*CONFLICTS):
            await CASES[name].request(host)
        host.assert_as_wanted()
        await remove_all(host)
        await host.engine.close()
        return burnt

    steps = 1
    while asyncio.run(story(steps)):
        steps += 1
    print(f"{name}: died at {steps - 1} points, and again while recovering from each")
    assert steps > 5, "the fuse was not where the steps are"


@pytest.mark.parametrize("name", CASES)
def test_failing_at_any_step(name: str, memory: Path) -> None:
    """After an error: what was made is undone, what was removed can be removed again."""
    removing = name in ("remove", "detach")

    async def story(number: int) -> bool:
        host, fuse = fused(memory / str(number), kills=False)
        await host.start()
        await CASES[name].prepare(host)
        before = everything_of(host)
        fuse.arm(number)
        failed = False
        try:
            await CASES[name].request(host)
        except KernelError:
            failed = True
        burnt = fuse.burnt
        fuse.arm(0)
        if failed and not removing:
            assert everything_of(host) == before
            await assert_remembered(host)
        if failed:
            await CASES[name].request(host)
        host.assert_as_wanted()
        assert host.feed.networks == {network.name for network in host.engine.view.networks.values()}
        assert host.feed.names.keys() == {sandbox.name for sandbox in host.engine.view.sandboxes.values()}
        await host.restart()
        host.assert_as_wanted()
        await remove_all(host)
        await host.engine.close()
        return burnt

    steps = 1
    while asyncio.run(story(steps)):
        steps += 1
    print(f"{name}: failed at {steps - 1} points")
    assert steps > 4, "the fuse was not where the steps are"


def test_undo_goes_backwards_and_stops_where_it_fails() -> None:
    done: list[str] = []

    async def step(what: str) -> None:
        if what == "broken":
            raise Unavailable("no")
        done.append(what)

    async def story() -> None:
        steps = Undo()
        for what in ("first", "second"):
            steps.push(step, what)
        assert await steps.run()
        assert done == ["second", "first"]
        done.clear()
        for what in ("intent", "broken", "last"):
            steps.push(step, what)
        assert not await steps.run()
        assert done == ["last"]

    asyncio.run(story())
