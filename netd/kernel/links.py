"""Links, bridge ports, addresses, routes and sysctls: operations made true in one namespace.

A `Links` works in the network namespace of the thread that runs it, through one blocking netlink
socket: the host's links on the one thread that owns them, a container's on a short-lived thread
inside it. Operations are carried out one by one, in order, up to the first failure.

Two rules are kept here for everything. *Tagged or untouched*: a host link is changed or deleted only
if its alias starts with "netd:", an address or route only if it carries netd's protocol number.
*Repeatable*: what is there already, is ours and is as wanted, is success; what is gone already needs
no removal.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Sequence
from socket import if_nametoindex

from netd.errors import AlreadyExists, Exhausted, Invalid, KernelError, NetdError
from netd.kernel import dumps, fastnl, latch, netns, pairs, proxies, shaping, sysctl, vxlan, wireguard
from netd.kernel.dumps import BIRTH_GROUP, Link
from netd.kernel.fastnl import Refused, Socket
from netd.kernel.unlinking import GONE, foreign
from netd.kernel.wireguard import Devices
from netd.names import ALIAS_PREFIX, ROUTE_PROTOCOL, TUNNELS
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

Simple = Bridge | Veth | Vxlan | Ifb
"""Links that one message makes."""


@contextlib.contextmanager
def _named(what: KernelObject) -> Iterator[None]:
    """Turn a refusal into a `KernelError` that names the object it was about."""
    try:
        yield
    except Refused as error:
        raise KernelError(error.errno or 0, str(what), error.hint) from error


class Links:
    """Applies operations in the calling thread's namespace; `wrote` is called for each request sent.

    `on_host` says whether this is the host, where only tagged links may be touched. Inside a
    container's namespace every link that netd is asked about is one that it put there. `devices` is for
    WireGuard, which is the host's only.
    """

    def __init__(
        self, socket: Socket, wrote: Callable[[], None], *, on_host: bool, devices: Devices | None = None
    ) -> None:
        self._socket = socket
        self._wrote = wrote
        self._on_host = on_host
        self._entries = vxlan.Entries(socket, self._send, self._send_removal)
        self._proxies = proxies.Proxies(socket, self._send, self._send_removal)
        self._sysctls = sysctl.Writer()
        self._queues = shaping.Queues(socket, self._send, self._send_removal)
        self._latches = latch.Latches(socket, self._send, self._send_removal)
        self._off = {Shaper: self._queues.unshape, Redirect: self._queues.undirect, Latch: self._latches.open}
        self._wireguard = devices or Devices(None, "", wrote)

    def apply(self, ops: Sequence[Op], done: list[Op]) -> None:
        """Carry out `ops` in order, appending each to `done` when it has taken effect.

        Raises the first failure as a `NetdError`.
        """
        with self._sysctls:
            for op in ops:
                match op:
                    case Add(wanted):
                        with _named(wanted):
                            self._add(wanted)
                    case Change(old, new):
                        with _named(new):
                            self._change(old, new)
                    case Remove(unwanted):
                        with _named(unwanted):
                            self._remove(unwanted)
                done.append(op)

    def _add(self, wanted: KernelObject) -> None:
        match wanted:
            case WireGuard():
                self._add_wireguard(wanted)
            case Bridge() | Veth() | Vxlan() | Ifb():
                self._add_link(wanted)
            case BridgePort():
                self._join(wanted)
            case WireGuardPeer():
                self._own(wanted.dev, wanted)
                self._wireguard.add(wanted)
            case Address():
                self._add_address(wanted)
            case Route():
                self._add_route(wanted)
            case Remote() | Flood():
                self._entries.add(wanted, *self._ends(wanted))
            case Proxy():
                self._proxies.add(wanted, self._own(wanted.dev, wanted))
            case Shaper():
                self._queues.shape(self._own(wanted.dev, wanted).index, wanted)
            case Redirect():
                self._queues.redirect(self._own(wanted.dev, wanted).index, self._own(wanted.to, wanted).index)
            case Latch():
                self._latches.close(self._own(wanted.dev, wanted).index)
            case Up():
                self._send(fastnl.link_change(self._index(wanted.dev, wanted), up=True))
            case Sysctl():
                self._wrote()
                self._sysctls.write(wanted)
            case Element():
                raise TypeError("nft elements go to netd.kernel.nft")

    def _change(self, old: KernelObject, new: KernelObject) -> None:
        match new:
            case Bridge() | Veth() | Vxlan() | Ifb() | WireGuard():
                if isinstance(old, HostLink) and old.alias != new.alias:
                    self._retitle(old, new)
                self._add(new)
            case WireGuardPeer() if isinstance(old, WireGuardPeer):
                self._own(new.dev, new)
                self._wireguard.add(new, instead=old.public_key)
            case Address() | Route():
                # Not NLM_F_REPLACE: it replaces whatever route has this destination, ours or not.
                self._remove(old)
                self._add(new)
            case Remote() if isinstance(old, Remote):
                self._entries.change(old, new, *self._ends(new))
            case _:
                self._add(new)

    def _remove(self, unwanted: KernelObject) -> None:
        match unwanted:
            case Bridge() | Veth() | Vxlan() | Ifb() | WireGuard():
                raise TypeError("links are deleted through `deletable` and `delete`, which need not wait")
            case WireGuardPeer():
                if self._index_of_ours(unwanted.dev):
                    self._wireguard.remove(unwanted.dev, unwanted.public_key)
            case BridgePort():
                link = self._find(unwanted.name)
                if link and link.ours and link.master and link.master == _index_or_zero(unwanted.bridge):
                    self._send(fastnl.link_change(link.index, master=0))
            case Address():
                self._remove_address(unwanted)
            case Route():
                if index := _index_or_zero(unwanted.dev):
                    gone = fastnl.route_delete(unwanted.destination, index, unwanted.via, ROUTE_PROTOCOL)
                    self._send_removal(gone)
            case Remote(bridge=bridge, vxlan=vxlan):
                self._entries.remove(unwanted, self._index_of_ours(bridge), self._index_of_ours(vxlan))
            case Flood(vxlan=vxlan):
                self._entries.remove(unwanted, 0, self._index_of_ours(vxlan))
            case Proxy():
                self._proxies.remove(unwanted, self._index_of_ours(unwanted.dev))
            case Shaper() | Redirect() | Latch():
                if index := self._index_of_ours(unwanted.dev):
                    self._off[type(unwanted)](index)
            case Up():
                if index := _index_or_zero(unwanted.dev):
                    self._send_removal(fastnl.link_change(index, up=False))
            case Sysctl():
                pass  # it lives and dies with its link, or belongs to the host
            case Element():
                raise TypeError("nft elements go to netd.kernel.nft")

    # Requests --------------------------------------------------------------------------------------

    def _send(self, message: bytes) -> None:
        self._wrote()
        self._socket.request(message)

    def _send_removal(self, message: bytes) -> None:
        try:
            self._send(message)
        except Refused as error:
            if error.errno not in GONE:
                raise

    def _find(self, name: str) -> Link | None:
        body = self._socket.get(fastnl.link_get(name))
        return dumps.link(body) if body is not None else None

    def _index(self, name: str, what: KernelObject) -> int:
        """The index of a link to be changed. Raises `Denied` for a foreign one, unless for a tagged route."""
        if not self._on_host or isinstance(what, Route):
            if index := _index_or_zero(name):
                return index
            raise KernelError(errno.ENODEV, str(what))
        return self._own(name, what).index

    def _own(self, name: str, what: KernelObject) -> Link:
        link = self._find(name)
        if link is None:
            raise KernelError(errno.ENODEV, str(what))
        if not link.ours:
            raise foreign(link)
        return link

    # Links -----------------------------------------------------------------------------------------

    def _add_link(self, wanted: Simple) -> None:
        """Create a link, or turn the one of that name into what is wanted if it is the same one of ours."""
        if not wanted.alias.startswith(ALIAS_PREFIX):
            raise Invalid(f"link {wanted.name}: alias {wanted.alias!r} must start with {ALIAS_PREFIX!r}")
        try:
            self._create(wanted)
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            link = self._taken(wanted)
            if self._mend(link, wanted):
                return
            self._send_removal(fastnl.link_delete(link.index))
            self._create(wanted)
        self._tag(wanted)

    def _add_wireguard(self, wanted: WireGuard) -> None:
        """Make the device, or take the one that a process holds, and see that it is as wanted.

        It is up before it has a key, so nothing passes yet, and a port that is taken is refused here.
        """
        link = self._find(wanted.name)
        if link is None:
            try:
                self._send(wireguard.create(wanted, BIRTH_GROUP))
            except Refused as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                self._wireguard.start(wanted.name)
            self._tag(wanted)
        elif not link.ours and self._wireguard.is_held(link):
            self._tag(wanted)
        else:
            self._taken(wanted)
            if link.kind not in wireguard.KINDS:
                raise AlreadyExists(f"interface {wanted.name!r} exists already and is no WireGuard device")
            found = wireguard.wireguard_of(link, wireguard.Configuration())
            self._adjust(link, wanted, found, mac="")
        self._send(fastnl.link_change(self._own(wanted.name, wanted).index, up=True))
        self._wireguard.configure(wanted)

    def _taken(self, wanted: HostLink) -> Link:
        """The link of ours that has the wanted name. Raises `AlreadyExists` if it is somebody else's."""
        link = self._find(wanted.name)
        if link is None and isinstance(wanted, Vxlan):
            raise AlreadyExists(
                f"VNI {wanted.vni} is used by a VXLAN device of this host that netd did not make; remove "
                "that, or make the network again to get another"
            )
        if link is None and isinstance(wanted, Veth):
            raise AlreadyExists(
                f"interface {wanted.peer!r} exists already in network namespace {wanted.netns.label!r}"
            )
        if link is None or link.name != wanted.name:
            held = f" as another name of {link.name!r}" if link else ""
            raise AlreadyExists(f"interface name {wanted.name!r} is taken{held}")
        found = _as_found(link, wanted)
        if not link.ours or (found.alias and found.alias != wanted.alias):
            owner = f"belongs to {link.alias!r}" if link.alias else "was not made by netd"
            raise AlreadyExists(f"interface {wanted.name!r} exists already and {owner}")
        return link

    def _mend(self, link: Link, wanted: HostLink) -> bool:
        """Change what can be changed of our `link`; False if it must be made anew instead."""
        if link.half_made:
            return False
        if link.kind != type(wanted).__name__.lower():
            return False
        match wanted, _as_found(link, wanted):
            case Veth(), Veth() as found:
                peer = (found.peer, found.peer_mac, found.netns)
                if peer != (wanted.peer, wanted.peer_mac, wanted.netns):
                    return False
                if link.mtu != wanted.mtu:
                    self._adjust_peer(wanted)
                self._adjust(link, wanted, found, mac="")
            case Vxlan(), Vxlan() as found:
                if (found.vni, found.local, found.port) != (wanted.vni, wanted.local, wanted.port):
                    return False
                self._plug(link, wanted)
                self._adjust(link, wanted, found, mac=wanted.mac)
            case _, found:
                self._adjust(link, wanted, found, mac=wanted.mac if isinstance(wanted, Bridge) else "")
        return True

    def _adjust(self, link: Link, wanted: HostLink, found: HostLink, *, mac: str) -> None:
        if (link.mtu, link.up) != (wanted.mtu, True) or (mac and link.mac != mac):
            self._send(fastnl.link_change(link.index, up=True, mtu=wanted.mtu, mac=mac))
        if _group(found) != _group(wanted):
            self._send(fastnl.link_change(link.index, group=_group(wanted)))
        if found.altname != wanted.altname:
            for name in link.altnames:
                if name == found.altname:
                    self._send_removal(fastnl.altname(fastnl.RTM_DELLINKPROP, link.index, name))
            self._give_altname(link.index, wanted)

    def _adjust_peer(self, wanted: Veth) -> None:
        """Give the other end the MTU too, or it would send what this end no longer takes."""

        def work() -> None:
            netns.enter(wanted.netns)
            with fastnl.Socket() as socket:
                self._wrote()
                socket.request(fastnl.link_change(if_nametoindex(wanted.peer), mtu=wanted.mtu))

        netns.blocking(work, "peer")

    def _create(self, wanted: Simple) -> None:
        if isinstance(wanted, Bridge):
            # One byte off: a bridge follows the smallest MTU of its ports until its own is changed,
            # and setting what it already has would be no change (br_change_mtu). `_tag` sets it.
            self._send(fastnl.bridge_create(wanted.name, wanted.mac, wanted.mtu ^ 1, BIRTH_GROUP))
            return
        if isinstance(wanted, Vxlan):
            self._send(vxlan.create(wanted, BIRTH_GROUP))
            return
        if isinstance(wanted, Ifb):
            try:
                self._send(shaping.ifb_create(wanted, BIRTH_GROUP))
            except Refused as error:
                raise shaping.no_ifb(error) or error from error
            return
        pairs.create(self._socket, self._send, wanted, BIRTH_GROUP)

    def _retitle(self, old: HostLink, new: HostLink) -> None:
        """Let the alias of a link of ours say what it stands for now; one that is not as it was stays."""
        link = self._find(new.name)
        if link is not None and link.ours and not link.half_made and _as_found(link, old).alias == old.alias:
            self._send(fastnl.link_change(link.index, alias=_alias(new)))

    def _tag(self, wanted: HostLink) -> None:
        """Give a link that was just created its alias and altname; undo the creation if that fails."""
        index = if_nametoindex(wanted.name)
        try:
            # Without a link-local address of its own: the bridge speaks for its ports, and a thousand
            # ports need not each probe for duplicates and join multicast groups.
            own_ipv6 = not (isinstance(wanted, Veth | Vxlan | Ifb | WireGuard) and sysctl.has_ipv6())
            change = fastnl.link_change(
                index, mtu=wanted.mtu, alias=_alias(wanted), group=_group(wanted), own_ipv6=own_ipv6
            )
            self._send(change)
            self._give_altname(index, wanted)
            if isinstance(wanted, Vxlan):
                self._plug(self._own(wanted.name, wanted), wanted)
        except (Refused, NetdError):
            self._send_removal(fastnl.link_delete(index))
            raise

    def _give_altname(self, index: int, wanted: HostLink) -> None:
        if not wanted.altname:
            return
        try:
            self._send(fastnl.altname(fastnl.RTM_NEWLINKPROP, index, wanted.altname))
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            holder = self._find_by_any_name(wanted.altname)
            if holder is None or holder.index != index:
                by = f" by {holder.name!r}" if holder else ""
                raise AlreadyExists(f"interface name {wanted.altname!r} is taken{by}") from error

    def _find_by_any_name(self, name: str) -> Link | None:
        body = self._socket.get(fastnl.link_get_by_altname(name))
        return dumps.link(body) if body is not None else None

    # Ports -----------------------------------------------------------------------------------------

    def _join(self, port: BridgePort) -> None:
        link = self._own(port.name, port)
        bridge = _index_or_zero(port.bridge)
        if not bridge:
            raise KernelError(errno.ENODEV, str(port), f"there is no bridge {port.bridge!r}")
        if link.master != bridge:
            # Its flags can be set only once it is a port. Where a live container is on the other end,
            # the link goes down in between, or for a moment the port would not be isolated.
            if port.isolated and link.running:
                self._send(fastnl.link_change(link.index, up=False))
            self._enslave(link.index, bridge, port)
        self._send(fastnl.link_change(link.index, up=True, port=(port.isolated, port.hairpin)))

    def _enslave(self, index: int, bridge: int, port: BridgePort) -> None:
        try:
            self._send(fastnl.link_change(index, master=bridge))
        except Refused as error:
            if error.errno != errno.EXFULL:
                raise
            raise Exhausted(  # BR_MAX_PORTS, net/bridge/br_private.h
                f"bridge {port.bridge} has 1,023 ports, and the kernel gives a bridge no more; use another "
                "network for further containers"
            ) from error

    def _plug(self, link: Link, wanted: Vxlan) -> None:
        """Make a VXLAN device the sealed port that it is to be, and take it up."""
        bridge = self._own(wanted.bridge, wanted).index
        if link.master != bridge:
            if link.up:  # as a port it would flood until it is sealed
                self._send(fastnl.link_change(link.index, up=False))
            self._send(fastnl.link_change(link.index, master=bridge))
        self._send(vxlan.seal(link.index, wanted))

    def _ends(self, wanted: Remote | Flood) -> tuple[int, int]:
        """The indexes of the bridge (0 where it does not matter) and of the VXLAN device."""
        bridge = self._own(wanted.bridge, wanted).index if isinstance(wanted, Remote) else 0
        return bridge, self._own(wanted.vxlan, wanted).index

    def _index_of_ours(self, name: str) -> int:
        link = self._find(name) if name else None
        return link.index if link and link.ours and link.name == name else 0

    # Addresses and routes --------------------------------------------------------------------------

    def _add_address(self, wanted: Address) -> None:
        index = self._index(wanted.dev, wanted)
        try:
            self._send(fastnl.address_add(index, wanted.address, ROUTE_PROTOCOL, onlink=wanted.onlink))
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            if (index, wanted.address, wanted.onlink) not in dumps.own_addresses(self._socket, index):
                raise AlreadyExists(
                    f"address {wanted.address} exists already on {wanted.dev!r} and was not set by netd"
                ) from error

    def _remove_address(self, unwanted: Address) -> None:
        index = _index_or_zero(unwanted.dev)
        if index and (index, unwanted.address, unwanted.onlink) in dumps.own_addresses(self._socket, index):
            self._send_removal(fastnl.address_delete(index, unwanted.address))

    def _add_route(self, wanted: Route) -> None:
        index = self._index(wanted.dev, wanted)
        request = fastnl.route_add(wanted.destination, index, wanted.via, ROUTE_PROTOCOL)
        try:
            self._send(request)
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            same = [each for each in dumps.own_routes(self._socket) if each.destination == wanted.destination]
            found = next((each for each in same if each.index == index), None)
            if found is None:
                whose = "by another interface" if same else "and was not set by netd"
                raise AlreadyExists(f"a route to {wanted.destination} exists already {whose}") from error
            if found.via != wanted.via:
                old = fastnl.route_delete(found.destination, index, found.via, ROUTE_PROTOCOL)
                self._send_removal(old)
                self._send(request)


def _as_found(link: Link, wanted: HostLink) -> HostLink:
    """The link as one of the kind that is wanted, to be compared."""
    if isinstance(wanted, Veth):
        return dumps.veth_of(link)
    if isinstance(wanted, Ifb):
        return shaping.ifb_of(link)
    if isinstance(wanted, WireGuard):
        return wireguard.wireguard_of(link, wireguard.Configuration())
    return vxlan.vxlan_of(link, "") if isinstance(wanted, Vxlan) else dumps.bridge_of(link)


def _alias(wanted: HostLink) -> str:
    return dumps.veth_alias(wanted) if isinstance(wanted, Veth) else wanted.alias


def _group(link: HostLink) -> int:
    if isinstance(link, Vxlan):
        return TUNNELS
    return link.group if isinstance(link, Veth) else 0


def _index_or_zero(name: str) -> int:
    try:
        return if_nametoindex(name)
    except OSError:
        return 0
