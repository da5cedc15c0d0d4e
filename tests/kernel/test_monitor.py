"""What is heard of changes on the host, and what is none of netd's business."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from netd.kernel import monitor, unlinking
from netd.kernel.host import HostKernel
from netd.kernel.ports import Drift, Underlay
from netd.objects import Add, Address, Bridge, Element, Remote, Remove, Route, Veth, Vxlan

Shell = Callable[[str], str]
BRIDGE = Bridge("nd-front", "netd:front", "", "02:42:00:00:00:01", 1500)
GATEWAY = Address("nd-front", IPv4Interface("10.89.0.1/24"))
TUNNEL = Vxlan(
    "vx-front",
    "netd:vxlan@front",
    "",
    4097,
    IPv4Address("198.51.100.1"),
    4789,
    "02:42:00:00:00:02",
    1450,
    "nd-front",
)
REMOTE = Remote(
    "nd-front", "vx-front", "02:42:00:00:00:07", (IPv4Address("10.89.0.7"),), IPv4Address("192.0.2.2")
)
ROUTE = Route(IPv4Network("192.0.2.0/24"), "nd-front", IPv4Address("10.89.0.9"))


class Ear:
    """Collects drifts until a marker that the test sets itself."""

    def __init__(self, kernel: HostKernel, sh: Shell) -> None:
        self._sh = sh
        self._drifts = kernel.watch()
        self._number = 0

    async def begin(self) -> None:
        """Return when the watch is on."""
        await self.until_now()

    async def until_now(self) -> set[Drift]:
        """All that was heard since the last time."""
        heard: set[Drift] = set()
        self._number += 1
        marker = f"nd-m{id(self) % 10000}-{self._number}"
        waiting = asyncio.get_running_loop().create_task(self._until(Drift("link", marker), heard))
        await asyncio.sleep(0)
        self._sh(f"ip link add {marker} type bridge && ip link del {marker}")
        async with asyncio.timeout(5):
            await waiting
        return {drift for drift in heard if not drift.name.startswith("nd-m")}

    async def _until(self, marker: Drift, heard: set[Drift]) -> None:
        async for drift in self._drifts:
            heard.add(drift)
            if drift in (marker, Drift("overflow")):  # after an overflow the marker may be lost too
                return

    async def end(self) -> None:
        """Stop listening."""
        assert isinstance(self._drifts, AsyncGenerator)
        await self._drifts.aclose()


@asynccontextmanager
async def listening(kernel: HostKernel, sh: Shell) -> AsyncGenerator[Ear, None]:
    await kernel.apply([Add(BRIDGE), Add(GATEWAY), Add(ROUTE)])
    ear = Ear(kernel, sh)
    await ear.begin()
    yield ear
    await ear.end()
    await kernel.apply([Remove(BRIDGE)])


@pytest.mark.parametrize(
    ("command", "heard"),
    [
        ("ip link set nd-front down", Drift("link", "nd-front")),
        ("ip link del nd-front", Drift("link", "nd-front")),
        ("ip link set nd-front alias ''", Drift("link", "nd-front")),
        ("ip link set nd-front name br9", Drift("link", "nd-front")),
        ("ip address del 10.89.0.1/24 dev nd-front", Drift("address", "nd-front")),
        ("ip route del 192.0.2.0/24", Drift("route", "nd-front")),
        ("nft flush ruleset", Drift("nft")),
        ("nft delete table inet netd", Drift("nft")),
    ],
)
async def test_damage_is_heard(host_kernel: HostKernel, sh: Shell, command: str, heard: Drift) -> None:
    async with listening(host_kernel, sh) as ear:
        sh(command)
        assert heard in await ear.until_now()
        sh("ip link del br9 2>/dev/null || ip link del nd-front 2>/dev/null || true")


SEGMENT = IPv4Network("198.51.100.0/24")


def mac(sh: Shell, link: str) -> str:
    return str(json.loads(sh(f"ip -j link show {link}"))[0]["address"])


@asynccontextmanager
async def tunnelled(kernel: HostKernel, sh: Shell) -> AsyncGenerator[Ear, None]:
    """A host on an underlay, with a tunnel and a remote endpoint."""
    sh("ip link add under type veth peer other; ip link set under up; ip addr add 198.51.100.1/24 dev under")
    assert await kernel.underlay(IPv4Address("198.51.100.1")) == Underlay(
        "under", 1500, mac(sh, "under"), SEGMENT
    )
    async with listening(kernel, sh) as ear:
        await kernel.apply([Add(TUNNEL), Add(REMOTE)])
        await ear.until_now()
        yield ear
        await kernel.apply([Remove(TUNNEL)])
    sh("ip link del under")


@pytest.mark.parametrize(
    ("command", "heard"),
    [
        ("ip neigh del 10.89.0.7 dev nd-front", Drift("neighbour", "nd-front")),
        ("bridge fdb del 02:42:00:00:00:07 dev vx-front master", Drift("neighbour", "vx-front")),
        ("bridge fdb del 02:42:00:00:00:07 dev vx-front self", Drift("neighbour", "vx-front")),
        ("ip link set under mtu 1400", Drift("underlay")),
        ("ip link set under down", Drift("underlay")),
        ("ip addr del 198.51.100.1/24 dev under", Drift("underlay")),
        ("ip link del vx-front", Drift("link", "vx-front")),
    ],
)
async def test_damage_to_tunnels_is_heard(
    host_kernel: HostKernel, sh: Shell, command: str, heard: Drift
) -> None:
    async with tunnelled(host_kernel, sh) as ear:
        sh(command)
        assert heard in await ear.until_now()


async def test_an_underlay_that_comes_back_by_another_interface_is_heard(
    host_kernel: HostKernel, sh: Shell
) -> None:
    async with tunnelled(host_kernel, sh) as ear:
        sh("ip addr del 198.51.100.1/24 dev under")
        assert await host_kernel.underlay(IPv4Address("198.51.100.1")) is None
        await ear.until_now()
        sh("ip addr add 198.51.100.1/24 dev other")
        assert Drift("underlay") in await ear.until_now()
        assert await host_kernel.underlay(IPv4Address("198.51.100.1")) == Underlay(
            "other", 1500, mac(sh, "other"), SEGMENT
        )


async def test_neighbours_of_others_are_none_of_our_business(host_kernel: HostKernel, sh: Shell) -> None:
    async with tunnelled(host_kernel, sh) as ear:
        for where, address in (("nd-front", "10.89.0.77"), ("under", "198.51.100.77")):
            sh(f"ip neigh add {address} dev {where} lladdr 02:42:00:00:00:77")
            sh(f"ip neigh del {address} dev {where}")
        assert await ear.until_now() == set()


async def test_other_peoples_links_addresses_and_routes_are_none_of_our_business(
    host_kernel: HostKernel, sh: Shell
) -> None:
    async with listening(host_kernel, sh) as ear:
        sh(
            "ip link add other type bridge; ip address add 10.1.1.1/24 dev other; ip link set other up;"
            "ip route add 198.51.100.0/24 via 10.1.1.2; ip link del other"
        )
        assert await ear.until_now() == set()


async def test_a_storm_is_one_drift_and_two_watchers_hear_the_same(
    host_kernel: HostKernel, sh: Shell
) -> None:
    async with listening(host_kernel, sh) as ear:
        other = Ear(host_kernel, sh)
        await other.begin()
        await ear.until_now()
        sh("for n in 1 2 3 4 5; do ip link set nd-front mtu 140$n; done")
        assert await ear.until_now() == {Drift("link", "nd-front")}
        assert Drift("link", "nd-front") in await other.until_now()
        await other.end()


async def test_lost_events_are_an_overflow(
    host_kernel: HostKernel, sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host_kernel.close()
    monkeypatch.setattr(monitor, "BUFFER", 1)  # the kernel makes its minimum of it
    await host_kernel.start()
    async with listening(host_kernel, sh) as ear:
        # All while the loop is kept from reading.
        sh("for n in $(seq 40); do ip link set nd-front mtu $((1300 + n)); done")
        assert Drift("overflow") in await ear.until_now()


async def test_an_element_that_an_outsider_adds_is_heard_and_seen(host_kernel: HostKernel, sh: Shell) -> None:
    async with listening(host_kernel, sh) as ear:
        sh("nft add element inet netd nat '{ \"nd-evil\" }'")
        assert Drift("nft") in await ear.until_now()
        foreign = Element("inet", "nat", ("nd-evil",))
        assert foreign in await host_kernel.observe()
        await host_kernel.apply([Remove(foreign)])


@pytest.mark.parametrize("kind", ["bridge", "veth"])
async def test_a_deletion_is_over_when_the_link_is_gone_not_when_its_memory_is_freed(
    host_kernel: HostKernel, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The kernel's acknowledgement is held back here; only its announcement can end the deletion."""
    acknowledged = threading.Event()

    def slowly(indexes: Sequence[int], wrote: Callable[[], None]) -> None:
        delete(indexes, wrote)
        acknowledged.wait(20)

    delete = unlinking.delete
    monkeypatch.setattr(unlinking, "delete", slowly)
    monkeypatch.setattr(monitor, "PAUSE", 3600.0)  # nor may the pause between two looks delay it
    netns = await host_kernel.netns_create("web")
    pair = Veth("ve-2", "netd:web@front", "", 1500, "eth0", "02:42:0a:59:00:02", netns)
    link = BRIDGE if kind == "bridge" else pair
    await host_kernel.apply([Add(link)])
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            await host_kernel.apply([Remove(link)])
        assert not acknowledged.is_set()
        assert await host_kernel.observe() == frozenset()
    finally:
        acknowledged.set()
    await host_kernel.netns_delete(netns)


async def test_a_deletion_ends_without_an_announcement_too(
    host_kernel: HostKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events can be lost; the acknowledgement cannot."""
    monkeypatch.setattr(monitor, "RTM_DELNETCONF", -1)
    await host_kernel.apply([Add(BRIDGE)])
    async with asyncio.timeout(10):
        await host_kernel.apply([Remove(BRIDGE)])
    assert await host_kernel.observe() == frozenset()
