"""WireGuard devices and their peers, in the kernel or, where it has none, in a process.

To rtnetlink a WireGuard device is a link like any other. Its key, its port and its peers are told by
generic netlink (include/uapi/linux/wireguard.h), whose messages are packed here as those of `fastnl` are;
or, if a process holds the device, by its socket (`netd.kernel.uapi`). Both are spoken to by `Devices`,
which is all that the rest of the house sees.

A peer is always added with a keepalive, the longest there is: being given one makes it shake hands at
once. So whoever has a new key, or lost its sessions in a restart, has told everybody before the first
frame has to wait for it, and from then on nothing is sent that nobody asked for. Only a peer whose key
was replaced is let begin by itself for a moment (`COURTESY`).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from netd import keys
from netd.errors import AlreadyExists, Invalid, Unavailable, Unsupported
from netd.kernel import fastnl, uapi
from netd.kernel.dumps import Link, own_altname
from netd.kernel.fastnl import NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, Refused, attribute, attributes
from netd.keys import KeyFile
from netd.model import IPAddress
from netd.names import WIREGUARD
from netd.objects import WireGuard, WireGuardPeer

# include/uapi/linux/genetlink.h, wireguard.h
NETLINK_GENERIC = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
WG_CMD_GET_DEVICE, WG_CMD_SET_DEVICE = 0, 1
WGDEVICE_IFNAME, WGDEVICE_PRIVATE_KEY, WGDEVICE_PUBLIC_KEY = 2, 3, 4
WGDEVICE_LISTEN_PORT, WGDEVICE_PEERS = 6, 8
WGPEER_PUBLIC_KEY, WGPEER_FLAGS, WGPEER_ENDPOINT, WGPEER_KEEPALIVE, WGPEER_ALLOWEDIPS = 1, 3, 4, 5, 9
WGPEER_F_REMOVE_ME, WGPEER_F_REPLACE_ALLOWEDIPS = 1, 2
WGALLOWEDIP_FAMILY, WGALLOWEDIP_IPADDR, WGALLOWEDIP_CIDR_MASK = 1, 2, 3

FIRST = NLA_F_NESTED | 1
"""What a list of one holds."""

GENL = struct.Struct("=BBxx")
VERSION = 1
KEEPALIVE = 65535
"""Seconds; see above."""

COURTESY = 0.05
"""Seconds in which a peer with a new key may begin to shake hands before this side does.

Who has a new key has packets waiting, and begins about when we hear of it. Two beginnings that cross are
both answered and neither answer is expected any more: both sides then wait until one begins again, 5 s
later (REKEY_TIMEOUT; whitepaper 6.1)."""

KINDS = ("wireguard", "tun")
"""What a WireGuard device is to rtnetlink: the kernel's own, and a process's."""


# Messages -----------------------------------------------------------------------------------------


def family_get(name: str) -> bytes:
    """Which number a generic netlink family has; the kernel loads its module for that."""
    body = GENL.pack(CTRL_CMD_GETFAMILY, 1) + fastnl.text(CTRL_ATTR_FAMILY_NAME, name)
    return fastnl.message(GENL_ID_CTRL, 0, body)


def create(wanted: WireGuard, group: int) -> bytes:
    """Make the device, down and without a key."""
    body = (
        fastnl.IFINFO.pack(fastnl.AF_UNSPEC, 0, 0, 0, 0)
        + fastnl.text(fastnl.IFLA_IFNAME, wanted.name)
        + fastnl.u32(fastnl.IFLA_MTU, wanted.mtu)
        + fastnl.u32(fastnl.IFLA_GROUP, group)
        + attribute(fastnl.IFLA_LINKINFO, fastnl.text(fastnl.IFLA_INFO_KIND, "wireguard"))
    )
    return fastnl.message(fastnl.RTM_NEWLINK, NLM_F_ACK | fastnl.NLM_F_CREATE | fastnl.NLM_F_EXCL, body)


def device_get(family: int, name: str) -> bytes:
    """Everything about one device, peer by peer."""
    body = GENL.pack(WG_CMD_GET_DEVICE, VERSION) + fastnl.text(WGDEVICE_IFNAME, name)
    return fastnl.message(family, NLM_F_DUMP, body)


def _device_set(family: int, name: str, content: bytes) -> bytes:
    body = GENL.pack(WG_CMD_SET_DEVICE, VERSION) + fastnl.text(WGDEVICE_IFNAME, name) + content
    return fastnl.message(family, NLM_F_ACK, body)


def device_set(family: int, name: str, private: str, port: int) -> bytes:
    """Give the device its key, and the port on which it speaks."""
    content = attribute(WGDEVICE_PRIVATE_KEY, keys.raw_of(private))
    content += attribute(WGDEVICE_LISTEN_PORT, port.to_bytes(2, sys.byteorder))
    return _device_set(family, name, content)


def peer_set(family: int, name: str, peer: bytes) -> bytes:
    """Change one peer as `peer_add` or `peer_remove` say."""
    return _device_set(family, name, attribute(WGDEVICE_PEERS | NLA_F_NESTED, attribute(FIRST, peer)))


def peer_add(peer: WireGuardPeer, keepalive: int) -> bytes:
    """Make a peer what it is to be."""
    if peer.address is None:
        raise Invalid(f"{peer}: it has no address")
    family = fastnl.AF_INET if peer.address.version == 4 else fastnl.AF_INET6
    allowed = (
        attribute(WGALLOWEDIP_FAMILY, family.to_bytes(2, sys.byteorder))
        + attribute(WGALLOWEDIP_IPADDR, peer.address.packed)
        + attribute(WGALLOWEDIP_CIDR_MASK, bytes([peer.address.max_prefixlen]))
    )
    content = attribute(WGPEER_PUBLIC_KEY, keys.raw_of(peer.public_key))
    content += fastnl.u32(WGPEER_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS)
    if peer.endpoint is not None:
        content += attribute(WGPEER_ENDPOINT, sockaddr(peer.endpoint, peer.port))
    content += attribute(WGPEER_KEEPALIVE, keepalive.to_bytes(2, sys.byteorder))
    return content + attribute(WGPEER_ALLOWEDIPS | NLA_F_NESTED, attribute(FIRST, allowed))


def peer_remove(public_key: str) -> bytes:
    """Forget a peer; one that is not there is forgotten too."""
    return attribute(WGPEER_PUBLIC_KEY, keys.raw_of(public_key)) + fastnl.u32(
        WGPEER_FLAGS, WGPEER_F_REMOVE_ME
    )


def sockaddr(address: IPAddress, port: int) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    where = port.to_bytes(2, "big")
    if address.version == 4:
        return socket.AF_INET.to_bytes(2, sys.byteorder) + where + address.packed + bytes(8)
    return socket.AF_INET6.to_bytes(2, sys.byteorder) + where + bytes(4) + address.packed + bytes(4)


def _endpoint(packed: bytes) -> tuple[IPAddress | None, int]:
    port = int.from_bytes(packed[2:4], "big")
    match int.from_bytes(packed[:2], sys.byteorder):
        case socket.AF_INET:
            return IPv4Address(packed[4:8]), port
        case socket.AF_INET6:
            return IPv6Address(packed[8:24]), port
    return None, 0


# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a device was told: its public key ("" for none), its port, its peers."""

    public_key: str = ""
    port: int = 0
    peers: tuple[WireGuardPeer, ...] = ()


def configuration(dev: str, bodies: Iterable[bytes]) -> Configuration:
    """Put the messages of one dump together. A peer with many addresses may go on in the next message."""
    public, port = "", 0
    peers: dict[bytes, list[tuple[int, bytes]]] = {}
    for body in bodies:
        found = dict(attributes(body, GENL.size))
        if key := found.get(WGDEVICE_PUBLIC_KEY):
            public = keys.text_of(key)
        port = int.from_bytes(found.get(WGDEVICE_LISTEN_PORT, b""), sys.byteorder) or port
        for _, content in attributes(found.get(WGDEVICE_PEERS, b"")):
            said = list(attributes(content))
            peers.setdefault(dict(said).get(WGPEER_PUBLIC_KEY, b""), []).extend(said)
    return Configuration(public, port, tuple(_peer(dev, key, said) for key, said in peers.items()))


def _peer(dev: str, key: bytes, said: list[tuple[int, bytes]]) -> WireGuardPeer:
    allowed = [
        dict(attributes(each))
        for kind, content in said
        if kind == WGPEER_ALLOWEDIPS
        for _, each in attributes(content)
    ]
    address: IPAddress | None = None
    if len(allowed) == 1:
        packed = allowed[0].get(WGALLOWEDIP_IPADDR, b"")
        if allowed[0].get(WGALLOWEDIP_CIDR_MASK) == bytes([len(packed) * 8]):
            address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    endpoint, port = _endpoint(dict(said).get(WGPEER_ENDPOINT, bytes(4)))
    return WireGuardPeer(dev, keys.text_of(key), address, endpoint, port)


def wireguard_of(link: Link, told: Configuration) -> WireGuard:
    """The device as it was asked for, as far as it still is."""
    return WireGuard(
        link.name, link.alias, own_altname(link), link.mtu, told.port, told.public_key, up=link.up
    )


def read(name: str) -> Configuration:
    """What the device `name` was told. One that tells nothing has no key, so it is told again."""
    try:
        if uapi.alive(name):
            return Configuration(*_as_tuple(uapi.described(name, uapi.ask(name, [("get", "1")]))))
        with fastnl.Socket(NETLINK_GENERIC) as generic:
            if (family := _family(generic)) is not None:
                return configuration(name, generic.dump(device_get(family, name)))
    except (Refused, Unavailable, ValueError):
        pass
    return Configuration()


def _as_tuple(said: tuple[str, int, list[WireGuardPeer]]) -> tuple[str, int, tuple[WireGuardPeer, ...]]:
    return said[0], said[1], tuple(said[2])


def _family(generic: fastnl.Socket) -> int | None:
    body = generic.get(family_get("wireguard"))
    if body is None:
        return None
    return int.from_bytes(dict(attributes(body, GENL.size))[CTRL_ATTR_FAMILY_ID], sys.byteorder)


# Writing ------------------------------------------------------------------------------------------


class Devices:
    """Makes WireGuard devices of the calling thread's namespace what they are to be.

    `key_file` holds the private key, `program` is what holds a device where the kernel has none ("" for
    nothing: then somebody else has to). `wrote` is called for each request that changes something.
    """

    def __init__(self, key_file: KeyFile | None, program: str, wrote: Callable[[], None]) -> None:
        self._key_file = key_file
        self._program = program
        self._wrote = wrote

    def lack(self) -> str:
        """Why this host cannot have WireGuard, and what would help; "" where it can."""
        with fastnl.Socket(NETLINK_GENERIC) as generic:
            if _family(generic) is not None:
                return ""
        if uapi.alive(WIREGUARD):
            return ""
        kernel = "this kernel has no WireGuard (link type 'wireguard')"
        if not self._program:
            return (
                f"{kernel}: load its module, or let a process do it: set wireguard_go = "
                f'"/usr/bin/wireguard-go", or start `wireguard-go -f {WIREGUARD}` yourself'
            )
        if not os.access(self._program, os.X_OK):
            return f"{kernel}, and {self._program!r} (wireguard_go) cannot be executed: install it"
        if not uapi.TUN.exists():
            return f"{kernel}, and {self._program!r} needs {uapi.TUN}: load the module tun"
        return ""

    def start(self, name: str) -> None:
        """After the kernel refused to make one: have a process make it. Raises `Unsupported` or as that."""
        if not self._program:
            raise Unsupported(
                f"interface {name!r} cannot be had: {self.lack() or 'its process just went away'}"
            )
        self._wrote()
        uapi.start(self._program, name)

    def is_held(self, link: Link) -> bool:
        """Whether a link is a WireGuard device that a process holds."""
        return link.kind == "tun" and uapi.alive(link.name)

    def configure(self, wanted: WireGuard) -> None:
        """Give the device its key and port, unless it has them."""
        told = read(wanted.name)
        if (told.public_key, told.port) == (wanted.public_key, wanted.port):
            return
        private = self._key_file.private() if self._key_file else ""
        if not private or keys.public_of(private) != wanted.public_key:
            raise Unavailable(
                f"interface {wanted.name!r}: the private key of {wanted.public_key} is not at hand any more"
            )
        try:
            self._tell(
                wanted.name,
                lambda: uapi.device(private, wanted.port),
                lambda family: device_set(family, wanted.name, private, wanted.port),
            )
        except Refused as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise AlreadyExists(
                f"interface {wanted.name!r}: UDP port {wanted.port} is used by another program; end that, or "
                "choose another wireguard_port on every node"
            ) from None

    def add(self, peer: WireGuardPeer, instead: str = "") -> None:
        """Make a peer what it is to be; the one with the public key `instead` gives way to it."""
        if instead and instead != peer.public_key:
            self._put(peer, 0)
            self.remove(peer.dev, instead)  # after the new one took its address, without a gap
            time.sleep(COURTESY)
        self._put(peer, KEEPALIVE)

    def _put(self, peer: WireGuardPeer, keepalive: int) -> None:
        self._tell(
            peer.dev,
            lambda: uapi.peer_add(peer, keepalive),
            lambda family: peer_set(family, peer.dev, peer_add(peer, keepalive)),
        )

    def remove(self, dev: str, public_key: str) -> None:
        """Forget a peer; one that is gone already, with its device perhaps, is forgotten too."""
        try:
            self._tell(
                dev,
                lambda: uapi.peer_remove(public_key),
                lambda family: peer_set(family, dev, peer_remove(public_key)),
            )
        except Refused as error:
            if error.errno not in (errno.ENODEV, errno.ENOENT):
                raise

    def _tell(
        self,
        name: str,
        to_process: Callable[[], list[uapi.Line]],
        to_kernel: Callable[[int], bytes],
    ) -> None:
        self._wrote()
        if uapi.alive(name):
            uapi.ask(name, to_process())
            return
        with fastnl.Socket(NETLINK_GENERIC) as generic:
            family = _family(generic)
            if family is None:
                raise Refused(errno.ENODEV, f"no process holds {name!r}, and the kernel has no WireGuard")
            generic.request(to_kernel(family))
