"""From what is to what must be, in a safe order.

`plan` is pure: a set of desired objects and a set of observed ones go in, a sequence of operations
comes out. It remembers nothing, so there is nothing to recover: after any interruption the next
plan starts from whatever is there by then. Applied to its own result it is empty.

The order keeps one promise at every step, also if the daemon dies there: *nothing exists without
its protection*. A port in a bridge is guarded against spoofing before it exists and for as long as
it exists; a bridge is known to the rule set before it can carry a packet; a published port lets
somebody in only when all behind it stands. Building goes up these ranks, taking down goes down
them:

    0  nft elements that say who is who     (they protect, and may name links that do not exist yet)
    1  bridges
    2  VXLAN, IFB and WireGuard devices; veth pairs, each followed by its place in a bridge   (the peer is
       still down); the latches of what the host's stack sends by
    3  on the host: sysctls, bandwidth limits, WireGuard peers  (before an address could make a packet),
       addresses, routes
    4  inside sandboxes: sysctls, addresses
    5  interfaces inside sandboxes go up    (from here on, frames flow)
    6  routes inside sandboxes; what the host is a proxy for; remote endpoints, the nodes that get multicast
    7  nft elements that publish

What is on the host comes before what is inside, so that an attachment goes to either place once.

A plan removes first and adds after. What is added may take the place of what was removed: an
address that moves to another interface, a default route that moves to another network, a host port
whose container was replaced. A change of one object is made in place, at its rank among the
additions, and never by removing and adding it: an nft element is replaced within one transaction, a
route by NLM_F_REPLACE. With one exception: where the container that a port leads to goes, the port is
closed first and opened again last, or it would lead to whoever gets the address in between.

What a removed link takes along (its addresses, routes, sysctls, its place in a bridge) is not
removed one by one: the kernel does it, the namespace may be gone, and each would cost a system call.
A veth pair cannot be turned into one with another peer or namespace: it is removed and made again,
and all that hung on it is added again.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

from netd.firewall import PUBLISHING
from netd.model import Netns
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    Element,
    Flood,
    Ifb,
    KernelObject,
    Latch,
    Op,
    Proxy,
    Redirect,
    Remote,
    Remove,
    Route,
    Shaper,
    Sysctl,
    Up,
    Veth,
    Vxlan,
    WireGuard,
    WireGuardPeer,
)

Device = tuple[tuple[int, int] | None, str]
"""An interface: the identity of its namespace (None is the host) and its name there."""


def plan(desired: Collection[KernelObject], observed: Collection[KernelObject]) -> tuple[Op, ...]:
    """The operations that turn `observed` into `desired`; empty if there is nothing to do."""
    want = {item.key: item for item in desired}
    have = {item.key: item for item in observed}
    doomed = {key for key, item in have.items() if key not in want or _must_be_remade(item, want[key])}
    doomed |= _led_astray(have, doomed)
    doomed |= _cut_off(have, doomed)
    doomed |= _misdirected(have, doomed)
    lost = set(_taken_along([have[key] for key in doomed], have.values()))
    survivors = {key: item for key, item in have.items() if key not in doomed and item not in lost}

    removals = [have[key] for key in doomed if have[key] not in lost]
    arrivals: list[Add | Change] = []
    for key, item in want.items():
        if key not in survivors:
            arrivals.append(Add(item))
        elif survivors[key] != item:
            arrivals.append(Change(survivors[key], item))
    return (
        *(Remove(item) for item in sorted(removals, key=_place, reverse=True)),
        *sorted(arrivals, key=lambda op: _place(op.object if isinstance(op, Add) else op.new)),
    )


def undo(done: Sequence[Op]) -> tuple[Op, ...]:
    """The operations that take `done` back, last first; as safe at each step as `done` was.

    They restore what was before, except what a removed link took along: the link comes back bare,
    guarded and outside its bridge, and the next plan completes it. Attaching, connecting and
    publishing remove no link, so for them the way back is exact.
    """
    return tuple(_inverse(op) for op in reversed(done))


def _inverse(op: Op) -> Op:
    match op:
        case Add(item):
            return Remove(item)
        case Remove(item):
            return Add(item)
        case Change(old, new):
            return Change(new, old)


def _must_be_remade(old: KernelObject, new: KernelObject) -> bool:
    """Whether `old` cannot become `new` in place."""
    if isinstance(old, Veth) and isinstance(new, Veth):
        return (old.peer, old.peer_mac, _ns(old.netns)) != (new.peer, new.peer_mac, _ns(new.netns))
    if isinstance(old, Vxlan) and isinstance(new, Vxlan):
        return (old.vni, old.local, old.port) != (new.vni, new.local, new.port)
    return type(old) is not type(new)


def _led_astray(have: Mapping[Hashable, KernelObject], doomed: Collection[Hashable]) -> set[Hashable]:
    """Publishing elements that lead to an address whose owner is among the doomed."""
    leaving = {
        item.item[-1]
        for key in doomed
        if isinstance(item := have[key], Element) and item.set in ("bind4", "bind6")
    }
    return {
        key
        for key, item in have.items()
        if isinstance(item, Element) and item.set in PUBLISHING and item.value and item.value[0] in leaving
    }


def _cut_off(have: Mapping[Hashable, KernelObject], doomed: Collection[Hashable]) -> set[Hashable]:
    """Remote endpoints behind a VXLAN device that is doomed. Half of each is on the bridge, which stays."""
    going = {item.name for key in doomed if isinstance(item := have[key], Vxlan)}
    return {key for key, item in have.items() if isinstance(item, Remote) and item.vxlan in going}


def _misdirected(have: Mapping[Hashable, KernelObject], doomed: Collection[Hashable]) -> set[Hashable]:
    """Redirections to a device that is doomed: the kernel remembers the device, not its name."""
    going = {name for key in doomed for _, name in _devices_of(have[key])}
    if not going:
        return set()
    return {key for key, item in have.items() if isinstance(item, Redirect) and item.to in going}


def _taken_along(removed: Iterable[KernelObject], present: Iterable[KernelObject]) -> Iterator[KernelObject]:
    """Those of `present` that the kernel removes by itself together with `removed`."""
    gone = {device for item in removed for device in _devices_of(item)}
    if gone:
        yield from (item for item in present if not gone.isdisjoint(_stands_on(item)))


def _devices_of(item: KernelObject) -> tuple[Device, ...]:
    """The interfaces that exist because of `item`."""
    match item:
        case Bridge() | Vxlan() | Ifb() | WireGuard():
            return ((None, item.name),)
        case Veth():
            return ((None, item.name), (_ns(item.netns), item.peer))
    return ()


def _stands_on(item: KernelObject) -> tuple[Device, ...]:
    """The interfaces without which `item` cannot exist."""
    match item:
        case BridgePort():
            return ((None, item.name), (None, item.bridge))
        case Remote():
            return ((None, item.bridge),)
        case Flood():
            return ((None, item.vxlan),)
        case Shaper() | Redirect() | Proxy() | WireGuardPeer() | Latch():
            return ((None, item.dev),)
        case Address() | Up() | Route():
            return ((_ns(item.netns), item.dev),)
        case Sysctl(path=("net", "ipv4" | "ipv6", "conf" | "neigh", ifname, _)) if ifname not in (
            "all",
            "default",
        ):
            return ((_ns(item.netns), ifname),)
    return ()


def _ns(netns: Netns | None) -> tuple[int, int] | None:
    return (netns.device, netns.inode) if netns else None


def _place(item: KernelObject) -> tuple[int, str, int, str]:
    """Where `item` comes when building up: its rank, and within it a stable order of its own."""
    match item:
        case Element():
            return (7 if item.set in PUBLISHING else 0, "", 0, str(item))
        case Bridge():
            return (1, item.name, 0, "")
        case Latch():
            return (2, item.dev, 1, "")
        case Veth() | Vxlan() | Ifb() | WireGuard():
            return (2, item.name, 0, "")
        case BridgePort():
            return (2, item.name, 1, "")
        case Sysctl() | Shaper() | Redirect() | WireGuardPeer():
            return (3 if getattr(item, "netns", None) is None else 4, "", 0, str(item))
        case Address():
            return (3 if item.netns is None else 4, "", 1, str(item))
        case Up():
            return (5, "", 0, str(item))
        case Route():
            # A gateway may be reachable only by one of the on-link routes.
            return (3 if item.netns is None else 6, "", 2 if item.via is None else 3, str(item))
        case Remote() | Proxy() | Flood():
            return (6, "", 4, str(item))
