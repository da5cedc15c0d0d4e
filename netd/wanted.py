"""What everything that netd knows asks of the kernel, and how that differs from what is there. Pure.

`netd.compile` speaks of one network or one sandbox; here a whole `View` is put together, for the
comparison at start and for repairs. It has two halves, because they are observed apart: what is on
the host, in one look, and what is inside each sandbox, each with a look of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping

from netd import compile, names
from netd.drivers import overlay
from netd.model import LINK
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Element,
    Flood,
    Ifb,
    KernelObject,
    Latch,
    Op,
    Proxy,
    Redirect,
    Remote,
    Route,
    Shaper,
    Sysctl,
    Up,
    Veth,
    Vxlan,
    WireGuard,
    WireGuardPeer,
)
from netd.plan import plan
from netd.store.base import Attached
from netd.view import View

Link = tuple[int, int, str]
"""An interface inside a sandbox: its namespace's device and inode, and its name."""


def everything(view: View, leaving: Collection[str]) -> frozenset[KernelObject]:
    """All that must exist for `view`, but for what is being removed (`leaving`, ids)."""
    found: set[KernelObject] = set()
    for network in view.networks.values():
        if network.id not in leaving:
            found |= compile.network(network)
    for sandbox in view.sandboxes.values():
        if sandbox.id not in leaving:
            found |= compile.sandbox(sandbox, view.endpoints_of(sandbox.id), view.networks)
    for network in view.networks.values():
        if network.driver == LINK:
            ends = [e for e in view.endpoints_in(network.id) if e.sandbox not in leaving]
            found |= compile.wires(ends, view) if len(ends) > 1 else set()
    return frozenset(found)


def kept_off(objects: Iterable[KernelObject]) -> set[tuple[str, ...]]:
    """The switches, by path, with which `objects` keep interfaces of the host from forwarding."""
    return {
        item.path
        for item in objects
        if isinstance(item, Sysctl) and (item.path[-1], item.value, item.netns) == ("forwarding", "0", None)
    }


def inside(attached: Attached, view: View) -> frozenset[KernelObject]:
    """The half of what a sandbox needs that is inside its namespace."""
    whole = compile.sandbox(attached.sandbox, attached.endpoints, view.networks)
    return frozenset(item for item in whole if _link_of(item))


def difference(desired: Collection[KernelObject], observed: frozenset[KernelObject]) -> tuple[Op, ...]:
    """How the host half of `desired` differs from what was observed of the host.

    A veth pair that must be made has an empty end inside a sandbox. What belongs there comes along,
    so that one order covers both ends.
    """
    host = {item for item in desired if not _link_of(item)}
    if host == observed:
        return ()  # the usual case, in a fraction of the time that planning takes
    ops = plan(host, observed)
    made = {_peer(op.object) for op in ops if isinstance(op, Add) and isinstance(op.object, Veth)}
    if not made:
        return ops
    return plan(host | {item for item in desired if _link_of(item) in made}, observed)


def owners(view: View) -> Mapping[Hashable, Collection[str]]:
    """Network ids by what speaks of them in kernel objects: bridges, link groups, veths, addresses."""
    found: dict[Hashable, Collection[str]] = {}
    for network in view.networks.values():
        found[names.bridge_name(network)] = found[names.vxlan_name(network)] = (network.id,)
        found[names.link_group(network)] = (network.id,)
        found.update((gateway, (network.id,)) for family in (4, 6) for gateway in network.gateways(family))
    for endpoint in view.endpoints.values():
        found[names.host_ifname(endpoint)] = found[names.ifb_name(endpoint)] = (endpoint.network,)
        found.update((interface.ip, (endpoint.network,)) for interface in endpoint.addresses)
    found[names.WIREGUARD] = [net.id for net in view.networks.values() if overlay.is_encrypted(net)]
    return found


def owners_of(owners: Mapping[Hashable, Collection[str]], item: KernelObject) -> set[str]:
    """The ids of the networks that `item` belongs to, by `owners`."""
    return {id for word in _words(item) for id in owners.get(word, ())}


def _words(item: KernelObject) -> Iterable[Hashable]:
    match item:
        case Bridge() | Veth() | Vxlan() | Ifb() | WireGuard():
            return (item.name,)
        case Remote():
            return (item.bridge,)
        case Flood():
            return (item.vxlan,)
        case BridgePort():
            return (item.name, item.bridge)
        case Sysctl():
            return item.path
        case Address():
            return (item.dev, item.address.ip)
        case Element():
            return (*item.item, *item.value)
        case Route() | Up() | Shaper() | Redirect() | Proxy() | WireGuardPeer() | Latch():
            return (item.dev,)


def _link_of(item: KernelObject) -> Link | None:
    """The interface inside a sandbox that `item` is about; None where it is on the host."""
    match item:
        case Address() | Up() | Route() if item.netns:
            return (item.netns.device, item.netns.inode, item.dev)
        case Sysctl(path=("net", _, "conf", ifname, _)) if item.netns:
            return (item.netns.device, item.netns.inode, ifname)
        case Sysctl() if item.netns:
            return (item.netns.device, item.netns.inode, "")
    return None


def _peer(veth: Veth) -> Link:
    return (veth.netns.device, veth.netns.inode, veth.peer)
