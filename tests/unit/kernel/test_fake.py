"""What the fake offers to tests beyond the contract, which tests/kernel/test_host.py holds it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Interface

import pytest

from netd.errors import AlreadyExists, Denied, KernelError
from netd.kernel.fake import FakeKernel
from netd.kernel.ports import ApplyError, Drift
from netd.objects import Add, Address, Bridge, BridgePort, Element, KernelObject, Remove, Sysctl, Up, Veth

BRIDGE = Bridge("nd-1", "netd:front", "netd-front-0a1b2c", "02:42:00:00:00:01", 1500)
GATEWAY = Address("nd-1", IPv4Interface("10.89.0.1/24"))
NAT = Element("inet", "nat", ("nd-1",))


def run(test: Callable[[FakeKernel], Awaitable[None]]) -> FakeKernel:
    async def body() -> FakeKernel:
        kernel = FakeKernel()
        await kernel.start()
        await test(kernel)
        return kernel

    return asyncio.run(body())


async def first(drifts: AsyncIterator[Drift]) -> Drift:
    async for drift in drifts:
        return drift
    raise AssertionError("the watch ended")


def test_it_reads_like_the_host_it_makes() -> None:
    async def test(kernel: FakeKernel) -> None:
        netns = await kernel.netns_create("web")
        pair = Veth("ve-1", "netd:web@front", "web.eth0", 1500, "eth0", "02:42:0a:59:00:02", netns)
        inside: list[KernelObject] = [
            Address("eth0", IPv4Interface("10.89.0.2/24"), netns),
            Up("eth0", netns),
        ]
        port = BridgePort("ve-1", "nd-1", isolated=False, hairpin=True)
        everything: list[KernelObject] = [BRIDGE, GATEWAY, NAT, pair, port, *inside]
        await kernel.apply([Add(item) for item in everything])

    assert run(test).render() == "\n".join(
        [
            "addr   10.89.0.1/24 dev nd-1",
            "addr   10.89.0.2/24 dev eth0 [netns web]",
            "link   nd-1 bridge alias netd:front altname netd-front-0a1b2c mac 02:42:00:00:00:01 mtu 1500 up",
            "link   ve-1 veth alias netd:web@front altname web.eth0 mtu 1500 up peer eth0 "
            "mac 02:42:0a:59:00:02 [netns web]",
            "nft    element inet netd nat { nd-1 }",
            "port   ve-1 master nd-1 hairpin",
            "up     eth0 [netns web]",
        ]
    )


def test_a_chosen_operation_fails_as_often_as_asked() -> None:
    async def test(kernel: FakeKernel) -> None:
        kernel.fail(lambda op: isinstance(op, Add) and op.object == GATEWAY, KernelError(12, "no memory"))
        with pytest.raises(ApplyError, match="no memory") as caught:
            await kernel.apply([Add(BRIDGE), Add(GATEWAY), Add(NAT)])
        assert caught.value.done == (Add(BRIDGE),)
        assert kernel.objects == {BRIDGE}
        await kernel.apply([Add(GATEWAY)])

    assert GATEWAY in run(test).objects


def test_a_foreign_link_is_in_the_way_and_stays() -> None:
    async def test(kernel: FakeKernel) -> None:
        kernel.foreign_link("nd-1")
        for op, refusal in ((Add(BRIDGE), AlreadyExists), (Remove(BRIDGE), Denied), (Add(GATEWAY), Denied)):
            with pytest.raises(ApplyError, match="nd-1") as caught:
                await kernel.apply([op])
            assert isinstance(caught.value.cause, refusal)

    assert run(test).objects == frozenset()


def test_an_outsider_is_noticed() -> None:
    async def test(kernel: FakeKernel) -> None:
        drifts = kernel.watch()
        await kernel.apply([Add(BRIDGE), Add(GATEWAY)])
        async with asyncio.TaskGroup() as group:
            heard = group.create_task(first(drifts))
            await asyncio.sleep(0)
            kernel.tamper(BRIDGE)
        assert heard.result() == Drift("link", "nd-1")
        assert isinstance(drifts, AsyncGenerator)
        await drifts.aclose()

    assert run(test).objects == frozenset()


def test_a_link_takes_its_sysctls_along() -> None:
    forwarding = Sysctl(("net", "ipv4", "conf", "nd-1", "forwarding"), "1")
    everywhere = Sysctl(("net", "ipv4", "conf", "all", "forwarding"), "1")

    async def test(kernel: FakeKernel) -> None:
        await kernel.apply([Add(BRIDGE), Add(forwarding), Add(everywhere), Remove(BRIDGE)])
        assert await kernel.sysctl(everywhere.path) == "1"
        assert await kernel.sysctl(forwarding.path) == ""

    assert run(test).objects == {everywhere}


def test_namespaces_of_others_can_be_opened() -> None:
    async def test(kernel: FakeKernel) -> None:
        kernel.add_namespace("/var/run/netns/cni-1")
        netns = await kernel.netns_open("/var/run/netns/cni-1", "pod")
        assert netns.label == "pod"
        pair = Veth("ve-1", "netd:pod@front", "", 1500, "eth0", "02:42:0a:59:00:02", netns)
        await kernel.apply([Add(pair)])
        kernel.vanish(netns)
        assert not await kernel.netns_alive(netns)

    assert run(test).objects == frozenset()
