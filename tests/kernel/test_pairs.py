"""The two ends of a pair, whose indexes differ although each namespace numbers by itself."""

from __future__ import annotations

from collections.abc import Callable

from netd.kernel.host import HostKernel
from netd.model import Netns
from netd.objects import Add, Remove, Up, Veth

Shell = Callable[[str], str]


def veth(netns: Netns, number: int) -> Veth:
    mac = f"02:42:0a:59:00:{number:02x}"
    return Veth(f"ve-{number}", f"netd:c{number}@front", "", 1500, "eth0", mac, netns)


def index(sh: Shell, name: str, netns: Netns | None = None) -> int:
    inside = f"nsenter --net={netns.path} " if netns else ""
    return int(sh(f"{inside}ip -o link show {name}").partition(":")[0])


async def test_the_ends_of_a_pair_never_share_an_index(host_kernel: HostKernel, sh: Shell) -> None:
    """The first link of a fresh namespace is the second of all, in a container as on the host."""
    netns = await host_kernel.netns_create("web")
    await host_kernel.apply([Add(veth(netns, 1)), Add(Up("eth0", netns))])
    assert (index(sh, "ve-1"), index(sh, "eth0", netns)) == (2, 3)
    other = await host_kernel.netns_create("db")
    await host_kernel.apply([Add(veth(other, 2))])
    assert (index(sh, "ve-2"), index(sh, "eth0", other)) == (3, 2), (
        "what differs anyway is left to the kernel"
    )
    assert len(await host_kernel.observe()) == 2
    await host_kernel.apply([Remove(veth(netns, 1)), Remove(veth(other, 2))])
    await host_kernel.netns_delete(netns)
    await host_kernel.netns_delete(other)


async def test_a_number_that_somebody_else_has_is_no_reason_to_fail(
    host_kernel: HostKernel, sh: Shell
) -> None:
    netns = await host_kernel.netns_create("web")
    sh(f"nsenter --net={netns.path} ip link add other index 3 type bridge")
    await host_kernel.apply([Add(veth(netns, 1))])
    assert index(sh, "eth0", netns) not in (0, 3)
    await host_kernel.apply([Remove(veth(netns, 1))])
    await host_kernel.netns_delete(netns)
