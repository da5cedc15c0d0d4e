"""The latch of a bridge: made, seen again, repaired and removed; what it lets pass is in test_outsiders."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from netd.kernel import latch
from netd.kernel.fake import FakeKernel
from netd.kernel.host import HostKernel
from netd.kernel.netns import in_new_namespace
from netd.kernel.ports import Drift
from netd.names import LINK_GROUPS
from netd.objects import Add, Bridge, Ifb, KernelObject, Latch, Redirect, Remove, Veth
from netd.plan import plan

Shell = Callable[[str], str]
Either = FakeKernel | HostKernel

BRIDGE = Bridge("nd-front", "netd:front", "netd-front-0a1b2c", "02:00:00:00:00:01", 1500)
LATCH = Latch("nd-front")
WANTED: frozenset[KernelObject] = frozenset({BRIDGE, LATCH})


async def test_what_was_made_is_seen_and_written_once(kernel: Either) -> None:
    await kernel.apply(plan(WANTED, ()))
    writes = kernel.writes
    assert await kernel.observe() == WANTED
    await kernel.apply(plan(WANTED, await kernel.observe()))
    assert kernel.writes == writes
    await kernel.apply([Add(LATCH)])
    assert await kernel.observe() == WANTED
    await kernel.apply(plan((), WANTED))
    assert await kernel.observe() == frozenset()


async def test_it_goes_and_comes_without_the_bridge(kernel: Either) -> None:
    await kernel.apply(plan(WANTED, ()))
    await kernel.apply([Remove(LATCH), Remove(LATCH)])
    assert await kernel.observe() == {BRIDGE}
    await kernel.apply([Add(LATCH)])
    assert await kernel.observe() == WANTED
    await kernel.apply(plan((), WANTED))


async def test_a_link_may_have_a_limit_and_a_latch(kernel: Either) -> None:
    """They stand on one thing, and each can come and go without the other."""
    netns = await kernel.netns_create("web")
    mac = "02:42:0a:59:00:02"
    link: set[KernelObject] = {
        Veth("ve-web", "netd:web@front", "", 1500, "eth0", mac, netns, group=LINK_GROUPS | 1),
        Ifb("if-web", "netd:limit of web@front", "", 1500),
    }
    latched, limited = Latch("ve-web"), Redirect("ve-web", "if-web")
    for first, second in ((latched, limited), (limited, latched)):
        await kernel.apply(plan({*link, latched, limited}, await kernel.observe()))
        assert {latched, limited} <= await kernel.observe()
        await kernel.apply([Remove(first)])
        assert {latched, limited} & await kernel.observe() == {second}
        await kernel.apply([Remove(second)])
        assert {latched, limited} & await kernel.observe() == set()
    await kernel.apply(plan((), await kernel.observe()))
    await kernel.netns_delete(netns)


@pytest.mark.parametrize(
    "damage",
    [
        "tc qdisc del dev nd-front clsact",
        "tc filter del dev nd-front egress",
        "tc filter replace dev nd-front egress prio 20036 handle 1 bpf da bytecode '1,6 0 0 4294967295'",
    ],
)
async def test_damage_is_seen_told_and_repaired(host_kernel: HostKernel, sh: Shell, damage: str) -> None:
    await host_kernel.apply(plan(WANTED, ()))
    assert f"pref {latch.OWN} bpf" in sh("tc filter show dev nd-front egress")
    drifts = host_kernel.watch()
    sh("ip addr add 10.9.9.9/32 dev nd-front")  # behind all that was told of the making
    await asyncio.wait_for(_until(drifts, Drift("address", "nd-front")), 10)
    sh(damage)
    await asyncio.wait_for(_until(drifts, Drift("queue", "nd-front")), 10)
    assert await host_kernel.observe() == {BRIDGE}
    await host_kernel.apply(plan(WANTED, await host_kernel.observe()))
    assert await host_kernel.observe() == WANTED
    await host_kernel.apply(plan((), WANTED))


async def _until(drifts: AsyncIterator[Drift], wanted: Drift) -> None:
    async for drift in drifts:
        if drift == wanted:
            return


async def test_filters_of_others_stay(host_kernel: HostKernel, sh: Shell) -> None:
    await host_kernel.apply(plan({BRIDGE}, ()))
    sh("tc qdisc add dev nd-front clsact")
    for way in ("ingress", "egress"):
        sh(f"tc filter add dev nd-front {way} prio 7 bpf da bytecode '1,6 0 0 4294967295'")
    await host_kernel.apply([Add(LATCH), Remove(LATCH)])
    for way in ("ingress", "egress"):
        assert "pref 7" in sh(f"tc filter show dev nd-front {way}")
    sh("tc filter del dev nd-front egress")
    await host_kernel.apply([Add(LATCH), Remove(LATCH)])
    assert "pref 7" in sh("tc filter show dev nd-front ingress")
    await host_kernel.apply(plan((), {BRIDGE}))


async def test_a_kernel_without_filters_has_none_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sh: Shell
) -> None:
    assert in_new_namespace(latch.refusal) == ""
    monkeypatch.setattr(latch, "BPF", "unheard-of")
    latch.supported.cache_clear()
    kernel = HostKernel(tmp_path)
    await kernel.start()
    try:
        await kernel.apply(plan(WANTED, ()))
        assert "clsact" not in sh("tc qdisc show dev nd-front")
        assert plan(WANTED, await kernel.observe()) == ()
        await kernel.apply(plan((), WANTED))
    finally:
        await kernel.close()
        latch.supported.cache_clear()
