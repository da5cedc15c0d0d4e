"""Names that are computed instead of remembered.

An interface name has at most 15 bytes (IFNAMSIZ in include/uapi/linux/if.h, less the NUL), too
few for a network's or container's name, so each is a fixed prefix and a hash; the readable name
goes into the link's altname (up to 127 bytes) and its alias carries the ownership tag. The same
id gives the same name on every start, so nothing about names is ever stored.
"""

from __future__ import annotations

import re
from hashlib import blake2s
from ipaddress import IPv6Address, IPv6Network

from netd.errors import Invalid
from netd.model import Endpoint, Network

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
IFNAME = re.compile(r"[^\s/:]{1,15}")
NO_NETWORKS = ("none", "host")
"""What --network takes for no network at all and for the host's own; no network can be called so."""
SHARED = "container:"
"""How --network begins that names a container whose network namespace is shared."""

BRIDGE_PREFIX = "nd-"
VETH_PREFIX = "ve-"
VXLAN_PREFIX = "vx-"
IFB_PREFIX = "if-"
WIREGUARD = "wg-netd"
"""The one WireGuard device of a host; the rule set knows it by this name."""
PREFIXES = (BRIDGE_PREFIX, VETH_PREFIX, VXLAN_PREFIX, IFB_PREFIX, WIREGUARD)
"""How the names of all links begin that netd makes on the host, unless a user chose one."""
ALIAS_PREFIX = "netd:"
LINK_GROUPS = 78 << 24
"""Where the link groups begin that netd gives to links that are to stay in them."""
TUNNELS = 0x6E657476
"""The link group of all VXLAN devices ("netv"): the rule set knows them by it."""
ROUTE_PROTOCOL = 78
"""`rtm_protocol` of every route and address-less object netd makes (78 is 'N'; free in rtnetlink.h)."""


def check_name(kind: str, name: str) -> str:
    """Return `name` if it may name a `kind` ("network", "container"), else raise Invalid."""
    if not NAME.fullmatch(name):
        raise Invalid(
            f"{kind} name {name!r} is not valid: it must start with a letter or digit, followed by "
            "at most 62 letters, digits, '_', '.' or '-'"
        )
    return name


def check_ifname(name: str) -> str:
    """Return `name` if the kernel accepts it for an interface (dev_valid_name, net/core/dev.c)."""
    if not IFNAME.fullmatch(name) or name in (".", "..") or not name.isascii():
        raise Invalid(
            f"interface name {name!r} is not valid: 1 to 15 ASCII characters without '/', ':' or spaces"
        )
    return name


def digest(text: str, length: int) -> str:
    """`length` hex digits that depend on all of `text`."""
    return blake2s(text.encode()).hexdigest()[:length]


def bridge_name(network: Network) -> str:
    """The bridge of a network: the name the user chose (--opt bridge.name) or a derived one."""
    return network.options.get("bridge.name") or BRIDGE_PREFIX + digest(network.id, 12)


def vxlan_name(network: Network) -> str:
    """The VXLAN device of a network."""
    return VXLAN_PREFIX + digest(network.id, 12)


TUNNEL_PREFIX = IPv6Network("fdb4:8a1c:e95d::/64")
"""Where the nodes are to each other inside WireGuard: a ULA prefix whose global id was drawn once for all
(RFC 4193, 3.2). The rule set knows it too, and lets nothing for it pass by another interface."""


def tunnel_address(node: str) -> IPv6Address:
    """A node's address inside WireGuard. It follows from the name, not from the key, so that a new key
    changes nothing of what stands on it; two names that had the same are told apart by `netd.tunnels`."""
    return TUNNEL_PREFIX[int(digest(node, 16), 16)]


def vtep_mac(node: str, network: Network) -> str:
    """The MAC of a node's VXLAN device in a network: the same whenever the node comes back."""
    return mac_of(f"{node}/{network.id}")


def host_ifname(endpoint: Endpoint) -> str:
    """The host side of an endpoint's veth pair."""
    return VETH_PREFIX + digest(endpoint.id, 12)


def link_group(network: Network) -> int:
    """The link group of the host's sides of a network without a bridge: 24 bits behind "N"."""
    return LINK_GROUPS | int(digest(network.id, 6), 16)


def ifb_name(endpoint: Endpoint) -> str:
    """The device by which an endpoint with a limit on what it sends reaches the host."""
    return IFB_PREFIX + digest(endpoint.id, 12)


def mac_of(key: str) -> str:
    """A unicast, locally administered MAC derived from `key` (IEEE 802-2014, 8.4: U/L bit set)."""
    raw = bytearray(blake2s(key.encode()).digest()[:6])
    raw[0] = (raw[0] & 0xFC) | 0x02
    return ":".join(f"{byte:02x}" for byte in raw)


def link_local(mac: str) -> IPv6Address:
    """The IPv6 link-local address that the kernel derives from a MAC (RFC 4291, appendix A)."""
    octets = bytearray(int(part, 16) for part in mac.split(":"))
    octets[0] ^= 0x02
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes(octets[:3]) + b"\xff\xfe" + bytes(octets[3:]))


def ula_subnet(network_id: str) -> IPv6Network:
    """A /64 out of fd00::/8 whose 40-bit global id is derived from the network's id (RFC 4193, 3.2)."""
    raw = bytes.fromhex("fd") + blake2s(network_id.encode()).digest()[:7]
    return IPv6Network((raw + bytes(8), 64))
