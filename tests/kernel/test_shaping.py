"""Bandwidth limits: made, seen again, changed, repaired and removed; on paper and on a host."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from netd.errors import Unsupported
from netd.kernel import shaping
from netd.kernel.fake import FakeKernel
from netd.kernel.fastnl import Refused
from netd.kernel.host import HostKernel
from netd.kernel.ports import Drift
from netd.objects import Add, Change, Ifb, KernelObject, Redirect, Remove, Shaper, Veth
from netd.plan import plan

Shell = Callable[[str], str]
Either = FakeKernel | HostKernel

IFB = Ifb("if-web", "netd:limit of web@front", "netd-limit-web-0a1b2c", 1450)
TO = Shaper("ve-web", 1_250_000, 25_000)
FROM = Shaper("if-web", 125_000, 3_036)
REDIRECT = Redirect("ve-web", "if-web")


async def build(kernel: Either) -> set[KernelObject]:
    """A pair with limits in both directions."""
    netns = await kernel.netns_create("web")
    veth = Veth("ve-web", "netd:web@front", "web.eth0@front.0a1b2d", 1450, "eth0", "02:42:00:00:00:02", netns)
    wanted: set[KernelObject] = {veth, IFB, TO, FROM, REDIRECT}
    await kernel.apply(plan(wanted, ()))
    return wanted


async def unbuild(kernel: Either, wanted: set[KernelObject]) -> None:
    await kernel.apply(plan((), wanted))
    assert await kernel.observe() == frozenset()
    for item in wanted:
        if isinstance(item, Veth):
            await kernel.netns_delete(item.netns)


async def test_what_was_made_is_seen_as_it_was_asked_for_and_written_once(kernel: Either) -> None:
    wanted = await build(kernel)
    writes = kernel.writes
    assert await kernel.observe() == wanted
    await kernel.apply(plan(wanted, await kernel.observe()))
    assert kernel.writes == writes
    await unbuild(kernel, wanted)


@pytest.mark.parametrize("rate", [125, 1_250_000, 125_000_000, 12_500_000_000, 62_500_000_000])
async def test_any_rate_is_seen_as_it_was_asked_for(kernel: Either, rate: int) -> None:
    wanted = await build(kernel)
    other = replace(TO, rate=rate, burst=max(3_036, rate // 50))
    await kernel.apply([Change(TO, other)])
    assert other in await kernel.observe()
    await unbuild(kernel, wanted - {TO} | {other})


async def test_limits_go_and_come_without_the_link(kernel: Either) -> None:
    wanted = await build(kernel)
    for item in (REDIRECT, TO, FROM):
        await kernel.apply([Remove(item), Remove(item)])
        assert await kernel.observe() == wanted - {item}
        await kernel.apply([Add(item), Add(item)])
        assert await kernel.observe() == wanted
    await unbuild(kernel, wanted)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("tc qdisc del dev ve-web root", Drift("queue", "ve-web")),
        ("tc qdisc del dev if-web root", Drift("queue", "if-web")),
        ("tc qdisc del dev ve-web ingress", Drift("queue", "ve-web")),
        (
            "tc qdisc replace dev ve-web root handle 4e44: tbf rate 1mbit burst 5k latency 25ms",
            Drift("queue", "ve-web"),
        ),
        (
            "tc qdisc change dev ve-web root tbf rate 10mbit burst 90k limit 56250",
            Drift("queue", "ve-web"),
        ),
        ("tc filter del dev ve-web parent ffff:", Drift("queue", "ve-web")),
        ("ip link del if-web", Drift("link", "if-web")),
        ("ip link set if-web down", Drift("link", "if-web")),
    ],
)
async def test_damage_is_seen_told_and_repaired(
    host_kernel: HostKernel, sh: Shell, damage: str, told: Drift
) -> None:
    wanted = await build(host_kernel)
    drifts = host_kernel.watch()
    sh("ip addr add 10.9.9.9/32 dev ve-web")  # behind all that was told of the making
    await asyncio.wait_for(_until(drifts, Drift("address", "ve-web")), 10)
    sh(damage)
    await asyncio.wait_for(_until(drifts, told), 10)
    observed = await host_kernel.observe()
    assert observed != wanted
    await host_kernel.apply(plan(wanted, observed))
    assert await host_kernel.observe() == wanted
    await unbuild(host_kernel, wanted)


async def _until(drifts: AsyncIterator[Drift], wanted: Drift) -> None:
    async for drift in drifts:
        if drift == wanted:
            return


async def test_queues_of_others_are_not_looked_at_and_stay(host_kernel: HostKernel, sh: Shell) -> None:
    wanted = await build(host_kernel)
    await host_kernel.apply([Remove(REDIRECT), Remove(TO)])
    sh("tc qdisc add dev ve-web root handle 1: tbf rate 1mbit burst 5k latency 25ms")
    sh("tc qdisc add dev ve-web ingress")
    mine = "tc filter add dev ve-web parent ffff: prio 9 u32 match u32 0 0 "
    sh(f"{mine} action mirred egress redirect dev if-web")
    assert await host_kernel.observe() == wanted - {REDIRECT, TO}
    await host_kernel.apply([Add(REDIRECT), Remove(REDIRECT), Remove(TO)])
    assert "tbf 1:" in sh("tc qdisc show dev ve-web")
    assert "pref 9" in sh("tc filter show dev ve-web parent ffff:")
    await unbuild(host_kernel, wanted - {REDIRECT, TO})


async def test_tc_reads_what_was_meant(host_kernel: HostKernel, sh: Shell) -> None:
    wanted = await build(host_kernel)
    shown = sh("tc qdisc show dev ve-web")
    assert re.search(r"tbf 4e44: root refcnt \d+ rate 10Mbit burst \S+ lat 25(\.\d)?ms", shown), shown
    assert "Egress Redirect to device if-web" in sh("tc filter show dev ve-web parent ffff:")
    await unbuild(host_kernel, wanted)


def test_what_a_kernel_lacks_is_named() -> None:
    class Bare:
        def __call__(self, message: bytes) -> None:
            raise Refused(errno.ENOENT, "Specified qdisc kind is unknown")

    queues = shaping.Queues(None, Bare(), Bare())  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="CONFIG_NET_SCH_TBF"):
        queues.shape(1, TO)
    with pytest.raises(Unsupported, match="CONFIG_NET_SCH_INGRESS"):
        queues.redirect(1, 2)
    assert "CONFIG_IFB" in str(shaping.no_ifb(Refused(errno.EOPNOTSUPP)))
    assert shaping.no_ifb(Refused(errno.EEXIST)) is None
