"""What `netd.topology.links` says, done inside the namespaces of containers that run.

A container that forwards does so only once its filter stands: until then its sysctls are off.
"""

from __future__ import annotations

from collections.abc import Mapping

from netd.api import netd_pb2 as pb
from netd.errors import NotFound
from netd.kernel import inner
from netd.kernel.sysctl import has_ipv6
from netd.objects import Sysctl
from netd.topology.compose import Forward
from netd.topology.links import LOSS, loss_rules, router_rules

FORWARDING = (
    Sysctl(("net", "ipv4", "ip_forward"), "1"),
    Sysctl(("net", "ipv6", "conf", "all", "forwarding"), "1"),
)


def furnish(
    container: pb.Container, forward: Forward | None, networks: Mapping[str, str], *, fresh: bool
) -> None:
    """Make a container that has just started (`fresh`), or joined a network, what its file says beside that.

    `networks` gives the key of each network by its name. Repeatable. Raises `KernelError`.
    """
    for each in container.endpoints:
        # A rule waits for the next interface of its name (since Linux 6.16), so what was there goes first.
        if LOSS in each.options or not fresh:
            lose(container, each.ifname, float(each.options.get(LOSS, 0)))
    if forward is None:
        return
    interfaces = {
        networks[each.network]: each.ifname for each in container.endpoints if each.network in networks
    }
    inner.load_rules(container.netns, container.name, router_rules(forward, interfaces))
    switches = FORWARDING if has_ipv6() else FORWARDING[:1]
    inner.write_sysctls(container.netns, container.name, switches)


def lose(container: pb.Container, ifname: str, percent: float) -> None:
    """Let an interface of a container lose so many percent of its packets, each way; 0 ends it.

    Raises `NotFound` where the container does not run or has no network of its own.
    """
    if not container.netns:
        raise NotFound(f"container {container.name!r} has no network of its own that runs")
    inner.load_rules(container.netns, container.name, loss_rules(ifname, percent))
