"""Containers, CNI and overlays are whole or absent, too, at whatever step the daemon dies or something fails.

As `test_changes` does for the engine's own use cases: a whole daemon stands on a kernel and a runtime of
paper, with the real store, and a `Fuse` burns at each of its steps in turn.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from netd.cluster.ports import Member
from netd.cni import spec
from netd.cni.verbs import Verbs
from netd.containers import Containers
from netd.engine import Engine
from netd.errors import AlreadyExists, NetdError, NotFound
from netd.kernel.ports import Underlay
from netd.launch import Attachment, Request
from netd.model import NetworkRequest, Scope
from netd.settings import Settings
from tests.unit.cluster_double import OTHER, OURS, THIRD, PaperCluster, fabric, remote
from tests.unit.fuse import (
    Fuse,
    FusedCluster,
    FusedDelegates,
    FusedFeed,
    FusedKernel,
    FusedRuntime,
    FusedStore,
)
from tests.unit.host import Host
from tests.unit.paper import PaperRuntime

CONFLICTS = (AlreadyExists, NotFound)
"""What the repetition of a request may be answered with, where it had succeeded before."""

OVERLAY = NetworkRequest(name="cloth", driver="overlay", subnets=("10.6.0.0/24", "fd06::/64"))
REQUEST = Request(
    name="web",
    command=("true",),
    networks=(Attachment(network="front"), Attachment(network="back")),
    publish=("18080:80", "18053:53/udp"),
)
FIRST = Request(name="web", command=("true",))
GUEST = Request(name="guest", command=("true",), networks=(Attachment(network="container:web"),))
CNI = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "subnets": ["10.1.0.0/24", "fd00:1::/64"]}
OTHERS_IPAM = {**CNI, "subnets": None, "ipam": {"type": "theirs"}}


class PaperIpam:
    """Somebody else's IPAM plugin, which outlives every daemon; `given` is to whom it gave an address."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}

    async def run(
        self, command: str, type: str, path: object, variables: Mapping[str, str], config: object
    ) -> dict[str, Any]:
        assert type == "theirs"
        container = variables["CNI_CONTAINERID"]
        if command == "DEL":
            self.given.pop(container, None)
        if command != "ADD":
            return {}
        number = self.given.setdefault(container, 10 + len(self.given))
        return {"ips": [{"address": f"10.7.0.{number}/24", "gateway": "10.7.0.1"}]}


class LastingCluster(PaperCluster):
    """A cluster that tells a daemon that starts what has been agreed."""

    async def start(self, member: Member) -> None:
        here = self.networks.values()
        remotes = [remote()] if "fabric-id" in self.networks else []
        self.told_first = ([*here], [OURS, OTHER, THIRD], remotes)
        await super().start(member)


class Daemon(Host):
    """A host with all of a daemon on it but the doors: engine, containers, CNI."""

    def __init__(self, directory: Path, *, kills: bool) -> None:
        super().__init__(directory)
        self.fuse = Fuse(kills=kills)
        self.wrap = self._fuse_rooms
        self.runtime = PaperRuntime(directory / "containers")
        self.ipam = PaperIpam()
        self.agreed = LastingCluster()
        self.kernel.underlays[OURS.address] = Underlay("eth0", 1500)

    async def start(self) -> Engine:
        engine = await super().start()
        self.containers = Containers(
            kernel=self.seen,
            runtime=FusedRuntime(self.runtime, self.fuse),
            engine=engine,
            store=self.remembered,
            events=engine._events,
            settings=Settings(),
        )
        await self.containers.start()
        self.verbs = Verbs(engine, self.seen)
        self.verbs._delegates = FusedDelegates(self.ipam, self.fuse)  # type: ignore[assignment]
        await self.verbs.sweep()
        return engine

    def _fuse_rooms(self, host: Host) -> None:
        host.seen = FusedKernel(host.kernel, self.fuse)
        host.feed = FusedFeed(self.fuse)
        host.remembered = FusedStore(host.store, self.fuse)

    def join(self) -> None:
        """From its next start on the daemon is in a cluster."""
        self.cluster = FusedCluster(self.agreed, self.fuse)

    async def close(self) -> None:
        await self.containers.close()
        await self.engine.close()

    async def restart(self) -> Engine:
        await self.close()
        return await self.start()

    async def cni(self, command: str, config: Mapping[str, Any], pod: str = "pod") -> None:
        variables = {
            "CNI_COMMAND": command,
            "CNI_PATH": "/nowhere",
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
        }
        text = json.dumps({key: value for key, value in config.items() if value is not None})
        await self.verbs.answer(spec.call(variables, text.encode(), None))

    def everything(self) -> tuple[object, ...]:
        """What can be seen of the host from outside."""
        return (
            frozenset(self.left_over()),
            {network.name for network in self.engine.view.networks.values()},
            {sandbox.name for sandbox in self.engine.view.sandboxes.values()},
            {record.name: record.state for record in self.containers.list(all=True)},
            set(self.runtime.specs),
            set(self.kernel._namespaces),
            dict(self.ipam.given),
            set(self.agreed.networks),
            self.feed.names,
        )


async def nothing(host: Daemon) -> None:
    pass


async def networks(host: Daemon) -> None:
    await host.engine.create_network(NetworkRequest(name="front", ipv6=True))
    await host.engine.create_network(NetworkRequest(name="back"))


async def running(host: Daemon) -> None:
    await networks(host)
    await host.containers.run(REQUEST, attach=False)


async def with_guest(host: Daemon) -> None:
    await running(host)
    await host.containers.run(GUEST, attach=False)


async def ended(host: Daemon) -> None:
    await running(host)
    await host.containers.stop("web", 5)


async def pod(host: Daemon) -> None:
    host.kernel.add_namespace("/run/netns/pod")


def added(config: Mapping[str, Any]) -> Callable[[Daemon], Awaitable[None]]:
    async def prepare(host: Daemon) -> None:
        await pod(host)
        await host.cni("ADD", config)

    return prepare


async def told(host: Daemon) -> None:
    """A cluster with a network in it, which this host is about to join."""
    host.agreed.networks["fabric-id"] = fabric()
    host.join()


async def member(host: Daemon) -> None:
    await told(host)
    await host.restart()


async def woven(host: Daemon) -> None:
    await member(host)
    await host.engine.create_network(OVERLAY)


async def attach(host: Daemon) -> None:
    """A container on the overlay, for which this host needs a block of addresses and a name of its own."""
    request = Request(name="web", command=("true",), networks=(Attachment(network="fabric", ip="10.5.0.77"),))
    await host.containers.run(request, attach=False)


def run(request: Request) -> Callable[[Daemon], Coroutine[Any, Any, object]]:
    return lambda host: host.containers.run(request, attach=True)


def remove(name: str) -> Callable[[Daemon], Coroutine[Any, Any, object]]:
    return lambda host: host.containers.remove(name, force=True)


@dataclass(frozen=True)
class Case:
    """A use case: what must be there first, and the request. `least` is how many steps it has at least."""

    prepare: Callable[[Daemon], Awaitable[object]]
    request: Callable[[Daemon], Coroutine[Any, Any, object]]
    least: int
    traceless: bool = True
    """Whether a request that fails leaves nothing. The default network stays: the next one needs it, too; and
    what a start has done before it is refused is there when the next one begins."""


CASES = {
    "container run": Case(networks, run(REQUEST), 40),
    "container run, the first of all": Case(
        nothing, run(Request(name="web", command=("true",))), 30, traceless=False
    ),
    "container run, in another's network": Case(running, run(GUEST), 8),
    "container rm --force": Case(running, remove("web"), 20),
    "container rm": Case(ended, remove("web"), 4),
    "container rm, with a guest": Case(with_guest, remove("web"), 20),
    "container stop": Case(running, lambda host: host.containers.stop("web", 5), 18),
    "CNI ADD": Case(pod, lambda host: host.cni("ADD", CNI), 25),
    "CNI ADD, another's IPAM": Case(pod, lambda host: host.cni("ADD", OTHERS_IPAM), 25),
    "CNI DEL": Case(added(CNI), lambda host: host.cni("DEL", CNI), 8),
    "CNI DEL, another's IPAM": Case(added(OTHERS_IPAM), lambda host: host.cni("DEL", OTHERS_IPAM), 8),
    "overlay join": Case(told, lambda host: host.restart(), 15, traceless=False),
    "overlay create": Case(member, lambda host: host.engine.create_network(OVERLAY), 15),
    "overlay remove": Case(woven, lambda host: host.engine.remove_network("cloth"), 8),
    "overlay attach": Case(member, attach, 20),
}


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory without a disk behind it: hundreds of starts need not wait for theirs."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


async def assert_whole_or_absent(host: Daemon) -> None:
    """What the parts know of each other is one story, and the kernel is what it says."""
    host.assert_as_wanted()
    loaded, view = await host.store.load(), host.engine.view
    assert (loaded.networks, loaded.sandboxes) == (view.networks, view.sandboxes)
    assert loaded.endpoints == view.endpoints
    assert loaded.intents == {}
    records = host.containers.list(all=True)
    assert (await host.store.containers()).keys() == {record.id for record in records}
    assert host.runtime.specs.keys() == {record.id for record in records}
    assert {record.state for record in records} <= {"running", "exited"}
    for record in records:
        status = await host.runtime.status(record.id)
        assert status.state == record.state
        whole = record.state == "running" and not record.shares
        assert (record.id in view.sandboxes) == whole
        assert record.netns is not None or not whole  # one that could not be removed is remembered
    held = {record.netns.path for record in records if record.netns} | {"/run/netns/pod"}
    assert set(host.kernel._namespaces) <= held
    shared = {network.id for network in view.networks.values() if network.scope is Scope.CLUSTER}
    assert shared == (host.agreed.networks.keys() if host.cluster else set())


async def remove_all(host: Daemon) -> None:
    """Nothing is left when everything has been removed, with the verbs that remove."""
    for record in host.containers.list(all=True):
        await host.containers.remove(record.id, force=True)
    for config in (CNI, OTHERS_IPAM):
        await host.cni("DEL", config)
    await host.engine.prune_networks()
    host.kernel._namespaces.pop("/run/netns/pod", None)
    if host.cluster:
        assert host.agreed.networks == {}
        host.cluster = None  # who its members are is known until it is left
        await host.restart()
    assert host.left_over() == set()
    assert (host.kernel._namespaces, host.runtime.specs, host.ipam.given) == ({}, {}, {})
    assert host.feed.names == {}
    assert host.feed.remotes == {}
    loaded = await host.store.load()
    assert (loaded.networks, loaded.sandboxes, loaded.endpoints) == ({}, {}, {})
    assert (loaded.intents, loaded.facts, await host.store.containers()) == ({}, {}, {})


@pytest.mark.parametrize("name", CASES)
def test_dying_at_any_step(name: str, memory: Path) -> None:
    """After a death: whole or absent, the request can be repeated, and all of it can be removed."""
    case = CASES[name]

    async def story(number: int) -> bool:
        host = Daemon(memory / str(number), kills=True)
        await host.start()
        await case.prepare(host)
        host.fuse.arm(number)
        died = not await host.fuse.survived(case.request(host))
        if died:
            await host.crash()
            # The next start dies, too, at a step that differs from run to run; the one after does not.
            host.fuse.arm(number % 11 + 1)
            await host.fuse.survived(host.start())
            await host.crash()
            host.fuse.arm(0)
            await host.start()
        await assert_whole_or_absent(host)
        if died:
            with suppress(*CONFLICTS):
                await case.request(host)
            await assert_whole_or_absent(host)
        await remove_all(host)
        await host.close()
        return died

    steps = 1
    while asyncio.run(story(steps)):
        steps += 1
    print(f"{name}: died at {steps - 1} points, and again while recovering from each")
    assert steps > case.least, "the fuse was not where the steps are"


@pytest.mark.parametrize("name", CASES)
def test_failing_at_any_step(name: str, memory: Path) -> None:
    """After an error: what was made is undone, what was removed can be removed again."""
    case = CASES[name]
    removing = any(word in name for word in ("rm", "stop", "DEL", "remove"))

    async def story(number: int) -> bool:
        host = Daemon(memory / str(number), kills=False)
        await host.start()
        await case.prepare(host)
        before = host.everything()
        host.fuse.arm(number)
        failed = False
        try:
            await host.fuse.survived(case.request(host))
        except NetdError:
            failed = True
        if failed and case.traceless and not removing:
            assert host.everything() == before
        if failed and name == "overlay join":  # the start is refused: no daemon runs
            await host.crash()
            await host.start()
        elif failed:
            with suppress(*(CONFLICTS if removing else ())):
                await case.request(host)
        await host.restart()
        await assert_whole_or_absent(host)
        await remove_all(host)
        await host.close()
        return host.fuse.burnt

    steps = 1
    while asyncio.run(story(steps)):
        steps += 1
    print(f"{name}: failed at {steps - 1} points")
    assert steps > case.least // 2, "the fuse was not where the steps are"
