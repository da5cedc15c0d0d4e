"""What the rest of the house sees of the kernel.

The engine is given a `Kernel`. On a host it is `netd.kernel.host.HostKernel`; in tests without
root it is `netd.kernel.fake.FakeKernel`, which renders itself as text. Both keep the contract
written here, and `tests/kernel` runs the same cases on both.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from netd.errors import NetdError
from netd.model import IPAddress, IPNetwork, Netns, Proto
from netd.objects import KernelObject, Op


@dataclass(frozen=True, slots=True)
class Uplink:
    """The interface that a default route of the host uses; `mtu` in bytes."""

    name: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Underlay:
    """The interface that a node of a cluster is reached by; `mtu` in bytes.

    `mac` is empty for one that is not Ethernet. `segment` is the subnet that the node's address was given
    with, and so who is on the same wire.
    """

    name: str
    mtu: int
    mac: str = ""
    segment: IPNetwork | None = None


@dataclass(frozen=True, slots=True)
class Drift:
    """Something outside netd touched kernel state that may be netd's.

    `what` is "link", "address", "route", "neighbour", "queue", "nft", "rules" (of netd's tables more than an
    element changed), "underlay" (see `Kernel.underlay`) or "overflow" (events were lost: look at everything);
    `name` narrows it where the event says so (an interface name), else it is empty.
    """

    what: str
    name: str = ""


class PacketKind(StrEnum):
    """Frames of an interface, to see and to send; or IP packets to send, which the stack of the namespace
    routes as its own."""

    FRAMES = "frames"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The packets of one direction of one conversation; ports 0 where the protocol has none."""

    source: IPAddress
    destination: IPAddress
    proto: int
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceStep:
    """One thing that nftables did to a packet: a `rule` matched, a `policy` or the end of a chain applied.

    `packet` tells copies apart, `rule` is the rule's text, `verdict` may name the chain jumped to.
    `source` and `destination` are as the packet bore them when it entered the table's hook.
    """

    packet: str
    family: str
    table: str
    chain: str
    kind: str
    verdict: str
    handle: int = 0
    rule: str = ""
    iif: str = ""
    oif: str = ""
    source: str = ""
    destination: str = ""


class ApplyError(NetdError):
    """Some operations of one `apply` failed.

    `done` are the operations that did take effect, in order (an nft transaction is all or nothing),
    so that the caller can undo exactly those; `cause` is the first failure.
    """

    def __init__(self, cause: NetdError, done: Sequence[Op]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.done = tuple(done)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain of somebody else's nftables table.

    `drops` are the rules that drop or reject, here or in chains it leads to, as "CHAIN handle N";
    `spares` is whether a rule accepts netd's bridges by name.
    """

    family: str
    table: str
    name: str
    hook: str
    policy: str = "accept"
    drops: tuple[str, ...] = ()
    spares: bool = False

    def __str__(self) -> str:
        return f"table {self.family} {self.table}, chain {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Facts about the host for `netd.doctor` (`netd.kernel.survey` collects them).

    `lacking` are capabilities that the daemon needs and has not. `controllers` are cgroup controllers
    with the version (1, 2) under which they can be used. `tried` and `libraries`: what the kernel said
    when it was tried, "" for success; a library's version, "" where it cannot be loaded. `sysctls` are
    by path below /proc/sys. `xtables` are commands that show a legacy table in use, `networkd` the
    settings of systemd-networkd, `resolvers` those who hold port 53 of all addresses.
    """

    lacking: frozenset[str] = frozenset()
    filesystems: frozenset[str] = frozenset()
    namespaces: frozenset[str] = frozenset()
    controllers: Mapping[str, int] = field(default_factory=dict)
    tried: Mapping[str, str] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    chains: tuple[Chain, ...] = ()
    xtables: tuple[str, ...] = ()
    services: frozenset[str] = frozenset()
    networkd: Mapping[str, str] = field(default_factory=dict)
    resolvers: tuple[str, ...] = ()


class Kernel(Protocol):
    """Kernel state as values. Every method may raise `KernelError`."""

    writes: int
    """How many modifying requests this process has sent (netlink messages, nft commands, sysctl writes)."""

    async def start(self) -> None:
        """Open sockets, load the constant nft rule set if it is missing or of another version."""

    async def close(self) -> None:
        """Close every descriptor; leave the data path as it is."""

    async def apply(self, ops: Sequence[Op]) -> None:
        """Carry out `ops` in order. Raises `ApplyError` naming what was done before the failure.

        Concurrent calls are welcome: nft elements of several are batched into one transaction, and
        a bad element fails only the call that brought it.
        """

    async def restore_rules(self) -> bool:
        """Load the nft rule set again, with every element known here, if it is not as it should be.

        Says whether that was needed. Quick, for between a flush and its repair nothing is isolated.
        """

    async def observe(self, sysctls: Collection[tuple[str, ...]] = ()) -> frozenset[KernelObject]:
        """Everything on the host side that is tagged as netd's, in the same form as it was asked for.

        A sysctl carries no tag, so those that are wanted are named; the values of `sysctls` that
        exist are part of the answer. The namespace of an observed veth is known by device and
        inode; its path is empty.
        """

    async def observe_some(self, wanted: Collection[KernelObject]) -> frozenset[KernelObject]:
        """What `observe` would say of `wanted`, objects of endpoints on the host side, and of the links that
        they are about. It costs as much as there is in `wanted`, however much else the host has."""

    async def observe_sandbox(
        self, netns: Netns, links: Collection[str], sysctls: Collection[tuple[str, ...]]
    ) -> frozenset[KernelObject]:
        """Addresses, routes of netd's protocol, up-state and `sysctls` of `links` inside one namespace.

        A namespace that is gone (or is another one by now) raises `NotFound`.
        """

    async def interface(self, netns: Netns, name: str) -> tuple[str, int] | None:
        """(MAC, MTU) of a link inside a namespace as they are now; None where there is no such link.

        A namespace that is gone raises `NotFound`.
        """

    async def host_networks(self) -> Collection[tuple[str, IPAddress, int]]:
        """Every route and address of the host as (interface, network address, prefix length): what
        a new subnet must not overlap. Default routes are left out."""

    async def host_addresses(self) -> Collection[IPAddress]:
        """All addresses of the host itself: what a port may be published on."""

    async def sysctl(self, path: tuple[str, ...]) -> str:
        """The value of one sysctl of the host, by path below /proc/sys; "" where there is none such."""

    async def uplink(self) -> Uplink | None:
        """Where the default route goes, IPv4 first; None where there is none."""

    async def underlay(self, address: IPAddress) -> Underlay | None:
        """The interface that has `address`; None where the host has no such address. From now on `watch`
        also tells ("underlay") of what happens to that interface and to that address."""

    async def wireguard_lack(self) -> str:
        """Why this host can have no WireGuard device, and what would help; "" where it can."""

    async def netns_create(self, label: str) -> Netns:
        """Make a network namespace, `lo` up, held by a bind mount below the run dir, named `label`."""

    async def netns_open(self, path: str, label: str) -> Netns:
        """Identify the namespace at `path`. `Invalid` if it is no network namespace or the host's own."""

    async def netns_delete(self, netns: Netns) -> None:
        """Drop the bind mount made by `netns_create`. Gone already is success, and so is a path that by
        now leads to another namespace. An inode of 0 drops whatever is there."""

    async def netns_alive(self, netns: Netns) -> bool:
        """Whether `netns.path` still is the namespace with this device and inode."""

    async def flush_udp(self, ports: Collection[tuple[IPAddress | None, int]]) -> None:
        """Delete conntrack entries of UDP flows whose original destination is one of `ports`
        (None: any address), in both families (moby #8795, #53384: the host port counts)."""

    async def forget_untranslated(self, addresses: Collection[IPAddress]) -> None:
        """Delete conntrack entries that begin or end at one of `addresses` and are not translated, so that
        what began while rules were missing is judged by them (see `netd.kernel.conntrack`)."""

    def watch(self) -> AsyncIterator[Drift]:
        """Changes by anybody from the moment of this call, so call it before the first look.

        Ends when the kernel port is closed. netd's own writes appear too.
        """

    async def holder(self, proto: Proto, address: IPAddress | None, port: int) -> str:
        """Who listens there: "nginx (pid 812)", or "another program" where that cannot be known."""

    async def packet_socket(self, netns: Netns | None, kind: PacketKind, ifname: str = "") -> socket.socket:
        """A raw socket that belongs to `netns` (None: the host), for whoever may hold it. It is not bound;
        `ifname` is looked for, if given. Raises `NotFound` for a namespace or interface that is not there.
        """

    async def trace(
        self, flow: Flow, send: Callable[[], Awaitable[None]], within: float | None = None
    ) -> list[TraceStep]:
        """What the host's nftables did, in order, to the packets of `flow` that `send` causes.

        They may take `within` seconds to come, where it is given. A port of 0 stands for any.
        The rules for it are in tables of their own, which are gone afterwards in any case.
        """
