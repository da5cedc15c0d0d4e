"""A kernel in memory that renders itself as text.

It keeps the contract of `netd.kernel.ports` as the host does, including what it refuses: the same
cases run on both (tests/kernel). What the kernel does by itself it does too: a deleted link takes
along its addresses, routes, sysctls and place in a bridge, a vanished namespace the pair that
reaches into it. Beyond the contract it offers what tests need: `render()`, `fail()` to make chosen
operations fail, and verbs for what an outsider may do to a host.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace

from netd.errors import (
    AlreadyExists,
    Denied,
    Invalid,
    KernelError,
    NetdError,
    NotFound,
    Unavailable,
    Unsupported,
)
from netd.firewall import element_text
from netd.kernel.ports import ApplyError, Drift, Flow, PacketKind, TraceStep, Underlay, Uplink
from netd.model import IPAddress, Netns, Proto
from netd.names import ALIAS_PREFIX
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    Element,
    Flood,
    HostLink,
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

DEVICE = 4
"""The device number of every namespace here, as of a kernel's only nsfs."""


@dataclass
class _Failure:
    predicate: Callable[[Op], bool]
    error: NetdError
    times: int


class FakeKernel:
    """`Kernel` without a kernel.

    `uplink_`, `addresses`, `networks`, `sysctls` and `holders` are what the host is said to have beside
    netd's objects; `flushed` are the ports whose UDP flows were forgotten, in order. `lacks_wireguard` is
    why it can have none, if not empty.
    """

    def __init__(self) -> None:
        self.writes = 0
        self.started = False
        self.uplink_: Uplink | None = Uplink("eth0", 1500)
        self.underlays: dict[IPAddress, Underlay] = {}
        self.addresses: set[IPAddress] = set()
        self.networks: set[tuple[str, IPAddress, int]] = set()
        self.flushed: list[tuple[IPAddress | None, int]] = []
        self.sysctls: dict[tuple[str, ...], str] = {}
        self.holders: dict[tuple[Proto, int], str] = {}
        self.lacks_wireguard = ""
        self._objects: dict[Hashable, KernelObject] = {}
        self._foreign: set[str] = set()
        self._namespaces: dict[str, Netns] = {}
        self._next_inode = 4026532000
        self._failures: list[_Failure] = []
        self._watchers: set[asyncio.Queue[Drift | None]] = set()

    # What tests ask and arrange --------------------------------------------------------------------

    def render(self) -> str:
        """Everything that exists, one line an object, sorted."""
        return "\n".join(sorted(str(item) for item in self._objects.values()))

    @property
    def objects(self) -> frozenset[KernelObject]:
        """Everything that exists, on the host and in every namespace."""
        return frozenset(self._objects.values())

    def fail(self, predicate: Callable[[Op], bool], error: NetdError, *, times: int = 1) -> None:
        """Make the next `times` operations for which `predicate` holds raise `error`."""
        self._failures.append(_Failure(predicate, error, times))

    def foreign_link(self, name: str) -> None:
        """An interface on the host that somebody else made."""
        self._foreign.add(name)

    def tamper(self, item: KernelObject, instead: KernelObject | None = None) -> None:
        """An outsider removes `item`, or puts `instead` in its place; watchers hear of it."""
        self._forget(self._objects[item.key])
        if instead is not None:
            self._objects[instead.key] = instead
        what = {Element: "nft", Address: "address", Route: "route"}.get(type(item), "link")
        self.drift(Drift(what, getattr(item, "name", "") or getattr(item, "dev", "")))

    def drift(self, drift: Drift) -> None:
        """Tell every watcher."""
        for queue in self._watchers:
            queue.put_nowait(drift)

    def vanish(self, netns: Netns) -> None:
        """The namespace ends, as when its last process is killed, and takes its interfaces along."""
        self._namespaces = {
            path: known for path, known in self._namespaces.items() if _identity(known) != _identity(netns)
        }
        for item in list(self._objects.values()):
            if isinstance(item, Veth) and item.netns == netns:
                self._forget(item)
            elif getattr(item, "netns", None) == netns:
                self._objects.pop(item.key, None)

    # The contract: writing -------------------------------------------------------------------------

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.started = False
        for queue in self._watchers:
            queue.put_nowait(None)

    async def apply(self, ops: Sequence[Op]) -> None:
        if not self.started:
            raise ApplyError(Unavailable("the kernel adapter is not started"), ())
        await asyncio.sleep(0)  # concurrent callers really interleave, as on a host
        done: list[Op] = []
        position = 0
        while position < len(ops):
            stretch = self._stretch(ops, position)
            before = dict(self._objects)
            try:
                for op in stretch:
                    self._inject(op)
                    self._carry_out(op)
            except NetdError as error:
                if isinstance(_object(stretch[0]), Element):
                    self._objects = before  # one transaction: all or nothing
                else:
                    done.extend(stretch[: stretch.index(op)])
                raise ApplyError(error, done) from error
            done.extend(stretch)
            position += len(stretch)

    def _stretch(self, ops: Sequence[Op], start: int) -> Sequence[Op]:
        """The consecutive nft operations from `start` on, or the one operation there."""
        end = start
        while end < len(ops) and isinstance(_object(ops[end]), Element):
            end += 1
        return ops[start : max(end, start + 1)]

    def _inject(self, op: Op) -> None:
        for failure in self._failures:
            if failure.times and failure.predicate(op):
                failure.times -= 1
                raise failure.error

    def _carry_out(self, op: Op) -> None:
        match op:
            case Remove(unwanted):
                self._remove(unwanted)
            case Change(old, new):
                if isinstance(old, Element) and old.key in self._objects:
                    del self._objects[old.key]
                self._add(new, change=True)
            case Add(wanted):
                self._add(wanted, change=False)

    def _add(self, wanted: KernelObject, *, change: bool) -> None:
        self._check_place(wanted)
        present = self._objects.get(wanted.key)
        match wanted:
            case Bridge() | Veth() | Vxlan() | Ifb() | WireGuard():
                self._check_link(wanted, present, change=change)
                if isinstance(wanted, Veth) and isinstance(present, Veth) and _peer(present) != _peer(wanted):
                    self._forget(present)
                if isinstance(wanted, Vxlan) and isinstance(present, Vxlan) and _end(present) != _end(wanted):
                    self._forget(present)
            case Element():
                element_text("add", wanted)  # refuses what does not fit the set
                if present is not None and present != wanted:
                    raise AlreadyExists(f"{wanted}: its place is taken")
        self.writes += 1
        self._objects[wanted.key] = wanted

    def _check_place(self, wanted: KernelObject) -> None:
        """Raise what the kernel would: a namespace that is gone, an interface that is not there."""
        netns = getattr(wanted, "netns", None)
        if netns is not None and netns not in self._namespaces.values():
            raise NotFound(f"network namespace {netns.label!r} is gone")
        match wanted:
            case BridgePort():
                self._check_device(wanted, wanted.bridge, None)
                self._check_device(wanted, wanted.name, None)
            case Vxlan():
                self._check_device(wanted, wanted.bridge, None)
            case Remote():
                self._check_device(wanted, wanted.bridge, None)
                self._check_device(wanted, wanted.vxlan, None)
            case Flood():
                self._check_device(wanted, wanted.vxlan, None)
            case WireGuard() if self.lacks_wireguard:
                raise Unsupported(self.lacks_wireguard)
            case Shaper() | Proxy() | WireGuardPeer() | Latch():
                self._check_device(wanted, wanted.dev, None)
            case Redirect():
                self._check_device(wanted, wanted.dev, None)
                self._check_device(wanted, wanted.to, None)
            case Route(netns=None):
                if wanted.dev not in self._others():
                    self._check_device(wanted, wanted.dev, None)
            case Address() | Up() | Route():
                self._check_device(wanted, wanted.dev, wanted.netns)

    def _others(self) -> set[str]:
        """Links of the host that are not netd's; routes may lead by them."""
        return {each.name for each in (self.uplink_, *self.underlays.values()) if each}

    def _check_device(self, wanted: KernelObject, name: str, netns: Netns | None) -> None:
        if netns is None and name in self._foreign:
            raise Denied(f"interface {name!r} was not made by netd and is left alone")
        if not any(_is_device(item, name, netns) for item in self._objects.values()):
            raise KernelError(errno.ENODEV, str(wanted))

    def _check_link(self, wanted: HostLink, present: KernelObject | None, *, change: bool) -> None:
        if not wanted.alias.startswith(ALIAS_PREFIX):
            raise Invalid(f"link {wanted.name}: alias {wanted.alias!r} must start with {ALIAS_PREFIX!r}")
        if wanted.name in self._foreign:
            raise AlreadyExists(f"interface {wanted.name!r} exists already and was not made by netd")
        if isinstance(present, HostLink) and present.alias != wanted.alias and not change:
            raise AlreadyExists(f"interface {wanted.name!r} exists already and belongs to {present.alias!r}")
        if isinstance(wanted, Veth):
            for item in self._objects.values():
                if item is not present and _is_device(item, wanted.peer, wanted.netns):
                    raise AlreadyExists(
                        f"interface {wanted.peer!r} exists already in network namespace "
                        f"{wanted.netns.label!r}"
                    )

    def _remove(self, unwanted: KernelObject) -> None:
        if isinstance(unwanted, HostLink) and unwanted.name in self._foreign:
            raise Denied(f"interface {unwanted.name!r} was not made by netd and is left alone")
        present = self._objects.get(unwanted.key)
        if present is None or isinstance(unwanted, Sysctl):
            return
        self.writes += 1
        self._forget(present)

    def _forget(self, item: KernelObject) -> None:
        """Take `item` away with all that the kernel takes along."""
        self._objects.pop(item.key, None)
        if isinstance(item, HostLink):
            devices = {(None, item.name)}
            if isinstance(item, Veth):
                devices.add((item.netns, item.peer))  # type: ignore[arg-type]
            for other in list(self._objects.values()):
                if not devices.isdisjoint(_stands_on(other)):
                    del self._objects[other.key]

    # The contract: reading -------------------------------------------------------------------------

    async def restore_rules(self) -> bool:
        """False: a table of this kernel has no rules that could be lost."""
        return False

    async def observe(self, sysctls: Collection[tuple[str, ...]] = ()) -> frozenset[KernelObject]:
        found: set[KernelObject] = set()
        for item in self._objects.values():
            match item:
                case Sysctl(path=path, netns=None) if path in sysctls:
                    found.add(item)
                case Veth():
                    # The host sees the identity of the peer's namespace, not where it can be opened.
                    found.add(replace(item, netns=replace(item.netns, path="")))
                case Bridge() | Vxlan() | Ifb() | BridgePort() | Remote() | Flood() | Element():
                    found.add(item)
                case Shaper() | Redirect() | Proxy() | WireGuard() | WireGuardPeer() | Latch():
                    found.add(item)
                case Address(netns=None) | Route(netns=None):
                    found.add(item)
        return frozenset(found)

    async def observe_some(self, wanted: Collection[KernelObject]) -> frozenset[KernelObject]:
        sysctls = [item.path for item in wanted if isinstance(item, Sysctl)]
        keys = {item.key for item in wanted}
        return frozenset(item for item in await self.observe(sysctls) if item.key in keys)

    async def observe_sandbox(
        self, netns: Netns, links: Collection[str], sysctls: Collection[tuple[str, ...]]
    ) -> frozenset[KernelObject]:
        if not await self.netns_alive(netns):
            raise NotFound(f"network namespace {netns.label!r} is gone")
        return frozenset(
            item
            for item in self._objects.values()
            if (isinstance(item, Address | Route | Up) and item.netns == netns and item.dev in links)
            or (isinstance(item, Sysctl) and item.netns == netns and item.path in sysctls)
        )

    async def interface(self, netns: Netns, name: str) -> tuple[str, int] | None:
        if not await self.netns_alive(netns):
            raise NotFound(f"network namespace {netns.label!r} is gone")
        for item in self._objects.values():
            if isinstance(item, Veth) and item.netns == netns and item.peer == name:
                return item.peer_mac, item.mtu
        return None

    async def host_networks(self) -> Collection[tuple[str, IPAddress, int]]:
        own = {
            (item.dev, item.address.ip, item.address.network.prefixlen)
            for item in self._objects.values()
            if isinstance(item, Address) and item.netns is None
        }
        return self.networks | own

    async def host_addresses(self) -> Collection[IPAddress]:
        own = {item.address.ip for item in self._objects.values() if isinstance(item, Address)}
        return self.addresses | own

    async def sysctl(self, path: tuple[str, ...]) -> str:
        item = self._objects.get(Sysctl(path, "").key)
        return item.value if isinstance(item, Sysctl) else self.sysctls.get(path, "")

    async def uplink(self) -> Uplink | None:
        return self.uplink_

    async def underlay(self, address: IPAddress) -> Underlay | None:
        return self.underlays.get(address)

    # The contract: namespaces and the rest ---------------------------------------------------------

    async def wireguard_lack(self) -> str:
        return self.lacks_wireguard

    async def netns_create(self, label: str) -> Netns:
        path = f"/run/netd/netns/{label}"
        if path in self._namespaces:
            raise AlreadyExists(f"network namespace {label!r} exists already at {path}")
        return self._new_namespace(path, label)

    def _new_namespace(self, path: str, label: str) -> Netns:
        self._next_inode += 1
        netns = Netns(label=label, path=path, device=DEVICE, inode=self._next_inode)
        self._namespaces[path] = netns
        return netns

    def add_namespace(self, path: str) -> None:
        """A namespace that somebody else made and holds at `path`, as a CNI runtime does."""
        self._new_namespace(path, path)

    async def netns_open(self, path: str, label: str) -> Netns:
        if path not in self._namespaces:
            raise NotFound(f"network namespace {label!r} is gone: nothing at {path!r}")
        return replace(self._namespaces[path], label=label)

    async def netns_delete(self, netns: Netns) -> None:
        held = self._namespaces.get(netns.path)
        if held is not None and (held == netns or not netns.inode):
            self.vanish(held)

    async def netns_alive(self, netns: Netns) -> bool:
        found = self._namespaces.get(netns.path)
        return found is not None and _identity(found) == _identity(netns)

    async def flush_udp(self, ports: Collection[tuple[IPAddress | None, int]]) -> None:
        self.flushed.extend(ports)

    async def forget_untranslated(self, addresses: Collection[IPAddress]) -> None:
        """Nothing: there are no flows."""

    def watch(self) -> AsyncIterator[Drift]:
        queue: asyncio.Queue[Drift | None] = asyncio.Queue()
        self._watchers.add(queue)
        return self._drifts(queue)

    async def _drifts(self, queue: asyncio.Queue[Drift | None]) -> AsyncIterator[Drift]:
        try:
            while (drift := await queue.get()) is not None:
                yield drift
        finally:
            self._watchers.discard(queue)

    async def holder(self, proto: Proto, address: IPAddress | None, port: int) -> str:
        return self.holders.get((proto, port), "another program")

    async def packet_socket(self, netns: Netns | None, kind: PacketKind, ifname: str = "") -> socket.socket:
        """A socket that nothing ever arrives at."""
        if netns is not None and netns not in self._namespaces.values():
            raise NotFound(f"network namespace {netns.label!r} is gone")
        devices = self._objects.values()
        if ifname and not any(_is_device(item, ifname, netns) for item in devices):
            raise NotFound(f"there is no interface {ifname!r} here")
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def trace(
        self, flow: Flow, send: Callable[[], Awaitable[None]], within: float | None = None
    ) -> list[TraceStep]:
        """Nothing: there are no packets here."""
        await send()
        return []


def _object(op: Op) -> KernelObject:
    return op.new if isinstance(op, Change) else op.object


def _peer(veth: Veth) -> tuple[str, str, Netns]:
    return veth.peer, veth.peer_mac, veth.netns


def _end(vxlan: Vxlan) -> tuple[int, IPAddress, int]:
    return vxlan.vni, vxlan.local, vxlan.port


def _is_device(item: KernelObject, name: str, netns: Netns | None) -> bool:
    """Whether `item` is what makes interface `name` exist in `netns`."""
    if netns is None:
        return isinstance(item, HostLink) and item.name == name
    return name == "lo" or (isinstance(item, Veth) and item.peer == name and item.netns == netns)


def _stands_on(item: KernelObject) -> set[tuple[Netns | None, str]]:
    """The interfaces that `item` cannot outlive."""
    match item:
        case BridgePort():
            return {(None, item.name), (None, item.bridge)}
        case Remote():
            return {(None, item.bridge), (None, item.vxlan)}
        case Flood():
            return {(None, item.vxlan)}
        case Shaper() | Redirect() | Proxy() | WireGuardPeer() | Latch():
            return {(None, item.dev)}
        case Address() | Up() | Route():
            return {(item.netns, item.dev)}
        case Sysctl(path=("net", _, "conf" | "neigh", ifname, _)):
            return {(item.netns, ifname)}
    return set()


def _identity(netns: Netns) -> tuple[int, int]:
    return netns.device, netns.inode
