"""What `netd.topology.links` says, done inside the namespaces of containers that run.

A container that forwards does so only once its filter stands: until then its sysctls are off. Here is also
the way to sockets in namespaces, whichever of several hosts they are on.

Most topologies ask for none of it, so what reaches into namespaces is imported where that happens: it takes
longer to load than a hundred containers take to describe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from netd.api import netd_pb2 as pb
from netd.capture import points
from netd.capture.points import Point
from netd.errors import Unsupported
from netd.topology.compose import Forward
from netd.topology.daemon import Daemon
from netd.topology.links import LOSS, NETEM, loss_rules, router_rules

if TYPE_CHECKING:
    from netd.kernel.netem import Netem


def furnish(
    api: str, container: pb.Container, forward: Forward | None, networks: Mapping[str, str], *, fresh: bool
) -> None:
    """Make a container that has just started (`fresh`), or joined a network, what its file says beside that.

    `api` is the daemon's socket; `networks` gives the key of each network by its name. Repeatable. Raises
    `KernelError`.
    """
    for each in container.endpoints:
        # A rule waits for the next interface of its name (since Linux 6.16), so what was there goes first.
        if LOSS in each.options or not fresh:
            lose(api, container, each.ifname, float(each.options.get(LOSS, 0)))
        if NETEM in each.options or not fresh:
            slow(api, container, each, each.options.get(NETEM, ""))
    if forward is None:
        return
    interfaces = {
        networks[each.network]: each.ifname for each in container.endpoints if each.network in networks
    }
    from netd.kernel import inner
    from netd.kernel.sysctl import has_ipv6
    from netd.objects import Sysctl

    switches = [Sysctl(("net", "ipv4", "ip_forward"), "1")]
    if has_ipv6():
        switches.append(Sysctl(("net", "ipv6", "conf", "all", "forwarding"), "1"))
    with door(api, container.name) as way:
        inner.load_rules(way, container.name, router_rules(forward, interfaces))
        inner.write_sysctls(way, container.name, switches)


def lose(api: str, container: pb.Container, ifname: str, percent: float) -> None:
    """Let an interface of a container lose so many percent of its packets, each way; 0 ends it.

    Raises `Invalid` where the container does not run or has no network of its own, and `KernelError`.
    """
    from netd.kernel import inner

    with door(api, container.name) as way:
        inner.load_rules(way, container.name, loss_rules(ifname, percent))


def slow(api: str, container: pb.Container, endpoint: pb.Endpoint, queue: str) -> None:
    """Let what a link carries wait or come twice, each way, as `NETEM` says; "" ends it.

    Raises what `lose` raises, and `Unsupported` where the kernel has no netem.
    """
    from netd.kernel import inner

    wanted = _netem(queue)
    for where, ifname in ((container.name, endpoint.ifname), ("host", endpoint.host_ifname)):
        with door(api, where) as way:
            inner.delay(way, where, ifname, wanted)


def check_queues(wanted: Iterable[pb.Attachment]) -> None:
    """Raise `Unsupported`, before anything is begun, if one needs netem and the kernel has none."""
    for each in wanted:
        if NETEM in each.options:
            from netd.kernel import netem

            try:
                netem.check()
            except Unsupported as error:
                raise Unsupported(f"a link of network {each.network!r} cannot be had: {error}") from None
            return


def _netem(queue: str) -> Netem | None:
    if not queue:
        return None
    from netd.kernel.netem import Netem

    delay, jitter, duplicate, seed = queue.split()
    return Netem(delay=int(delay), jitter=int(jitter), duplicate=float(duplicate) / 100, seed=int(seed))


def listening(daemon: Daemon, targets: Iterable[str]) -> list[Point]:
    """The points of all targets, each once, with sockets that are the caller's to close.

    Of several hosts that have a network of one name, or an interface, each has a point, "network:lan@a".
    Raises what a daemon refuses, or `Unreachable`.
    """
    found: dict[str, Point] = {}
    try:
        for target in targets:
            for client, at in daemon.seeing(target):
                for point in points.listening(points.beside(Path(client.path)), [target]):
                    point.name += at
                    if point.name in found:
                        point.close()
                    else:
                        found[point.name] = point
    except BaseException:
        for point in found.values():
            point.close()
        raise
    return list(found.values())


@contextmanager
def door(api: str, container: str) -> Iterator[socket]:
    """A socket that the daemon opened in the namespace of a container: the way in for `netd.kernel.inner`."""
    (point,) = points.ask(points.beside(Path(api)), container, "ipv4")
    with point.ear:
        yield point.ear
