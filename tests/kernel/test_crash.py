"""The daemon dies at any write: what it leaves is netd's, and the next one finishes it or removes it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from netd import compile, names
from netd.errors import KernelError, Unsupported
from netd.kernel import fastnl, libnft, sysctl
from netd.kernel.host import HostKernel
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, Subnet
from netd.objects import KernelObject, Op, Sysctl, Veth
from netd.plan import plan

NETWORK = Network(
    id="n" * 12,
    name="front",
    driver="bridge",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, ("10.89.0.0/24", "fd00:89::/64"))
    ),
    mtu=1500,
    icc=False,
)


def everything(netns: Netns) -> frozenset[KernelObject]:
    """A network and a container in it with a published port."""
    box = Sandbox(
        id="s1",
        name="web",
        owner=Owner.CONTAINER,
        netns=netns,
        ports=(PortMapping(proto=Proto.TCP, host_ip=None, host_port=8080, container_port=80),),
    )
    endpoint = Endpoint(
        id="e1",
        network=NETWORK.id,
        sandbox="s1",
        ifname="eth0",
        mac=names.mac_of("e1"),
        addresses=(IPv4Interface("10.89.0.2/24"), IPv6Interface("fd00:89::2/64")),
    )
    return compile.network(NETWORK) | compile.sandbox(box, [endpoint], {NETWORK.id: NETWORK})


class Killed(BaseException):
    """Instead of SIGKILL: no handler of an ordinary error sees it."""


class Executioner:
    """Lets so many writes through and kills whoever tries the next; what follows on any thread dies too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = 10**9
        self._lock = threading.Lock()
        for owner, name in (
            (fastnl.Socket, "request"),
            (fastnl.Socket, "batch"),
            (libnft.Context, "text"),
            (sysctl.Writer, "write"),
        ):
            original: Callable[..., Any] = getattr(owner, name)
            monkeypatch.setattr(owner, name, self._guarded(original))

    def kill_after(self, writes: int) -> None:
        """Let `writes` more through."""
        self._left = writes

    def pardon(self) -> None:
        """From now on everything is let through."""
        self._left = 10**9

    def _guarded(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    raise Killed
            return original(*arguments, **options)

        return call


def on_host(item: KernelObject) -> bool:
    return getattr(item, "netns", None) is None or isinstance(item, Veth)


async def difference(kernel: HostKernel, wanted: frozenset[KernelObject], netns: Netns) -> tuple[Op, ...]:
    """What a daemon that starts now has to do, on the host and in the namespace."""
    sysctls = [item for item in wanted if isinstance(item, Sysctl)]
    host = await kernel.observe([item.path for item in sysctls if item.netns is None])
    inside = await kernel.observe_sandbox(netns, ["eth0"], [item.path for item in sysctls if item.netns])
    return plan(wanted, host | inside)


async def test_the_next_daemon_finishes_what_a_killed_one_began(
    host_kernel: HostKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executioner = Executioner(monkeypatch)
    finished = False
    for writes in itertools.count():
        netns = await host_kernel.netns_create(f"web{writes}")
        wanted = everything(netns)
        executioner.kill_after(writes)
        try:
            await host_kernel.apply(plan(wanted, []))
            finished = True
        except Killed:
            pass
        executioner.pardon()
        later = HostKernel(tmp_path)
        await later.start()
        await later.apply(await difference(later, wanted, netns))
        assert await difference(later, wanted, netns) == (), f"killed after {writes} writes"
        await later.apply(plan([], await later.observe()))
        assert await later.observe() == frozenset()
        await later.netns_delete(netns)
        await later.close()
        if finished:
            break
    print(f"killed at each of {writes} kernel writes")
    assert writes > 20


@pytest.mark.parametrize("half", ["building up", "taking down"])
async def test_the_next_daemon_can_also_remove_it(
    host_kernel: HostKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    executioner = Executioner(monkeypatch)
    finished = False
    for writes in itertools.count():
        netns = await host_kernel.netns_create(f"web{writes}")
        wanted = everything(netns)
        ops = plan(wanted, [])
        if half == "taking down":
            await host_kernel.apply(ops)
            ops = plan([], wanted)
        executioner.kill_after(writes)
        try:
            await host_kernel.apply(ops)
            finished = True
        except Killed:
            pass
        executioner.pardon()
        later = HostKernel(tmp_path)
        await later.start()
        await later.apply(plan([], await later.observe()))
        assert await later.observe() == frozenset(), f"killed after {writes} writes"
        await later.netns_delete(netns)
        await later.close()
        if finished:
            break
    print(f"{half}: killed at each of {writes} kernel writes")
    assert writes > (20 if half == "building up" else 3)


@pytest.mark.parametrize("room", ["_nft", "_monitor"])
async def test_a_start_that_fails_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    kernel = HostKernel(tmp_path)

    def refuse(*_: object) -> None:
        raise KernelError(12, "no memory")

    monkeypatch.setattr(getattr(kernel, room), "start", refuse)
    with pytest.raises(KernelError, match="no memory"):
        await kernel.start()
    monkeypatch.undo()
    await kernel.start()
    await kernel.close()


async def test_a_host_without_libnftables_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise OSError("libnftables.so.1: cannot open shared object file")

    monkeypatch.setattr("nftables.Nftables", missing)
    with pytest.raises(Unsupported, match="install libnftables1"):
        await HostKernel(tmp_path).start()
