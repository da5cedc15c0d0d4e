"""Who is who to the constant rule set: networks, endpoints and published ports as nft elements.

The rules themselves are `netd.ruleset`. Here each thing that netd knows becomes the elements that
the rules look up, and an element becomes text for libnftables. Text is made in one place,
`element_text`, and every component is checked against the type of its set first; nothing a person
typed is ever pasted into a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import chain
from types import MappingProxyType

from netd import names
from netd.drivers import connlimit
from netd.errors import Invalid
from netd.model import LINK, PTP, ROUTER, Endpoint, GatewayMode, IPAddress, Network, PortMapping
from netd.objects import Atom, Element
from netd.ruleset import LATCH, MENDED, MENDING, VERSION
from netd.ruleset import TEXT as RULESET

__all__ = [
    "COUNT",
    "LATCH",
    "MENDED",
    "MENDING",
    "PUBLISHING",
    "RULESET",
    "SETS",
    "VERSION",
    "SetType",
    "atom_of",
    "bound",
    "clamped",
    "closed",
    "detours",
    "element_text",
    "elsewhere",
    "endpoint",
    "network",
    "peer",
    "published",
    "sealed",
    "vxlan",
    "wireguard",
]


@dataclass(frozen=True, slots=True)
class SetType:
    """Component types of a set's key, and of a map's value (empty for a set).

    ifname, mac, proto, family: `str`; ipv4, ipv6, target6: addresses; port, group, count: `int`. A count
    is no value that is looked up, but how many connections the element lets be.
    """

    key: tuple[str, ...]
    value: tuple[str, ...] = ()


COUNT = ("count",)

SETS: Mapping[tuple[str, str], SetType] = MappingProxyType(
    {
        ("inet", "bridges"): SetType(("ifname",)),
        ("inet", "internal"): SetType(("ifname",)),
        ("inet", "nat"): SetType(("ifname",)),
        ("inet", "routed"): SetType(("ifname",)),
        ("inet", "intra"): SetType(("ifname", "ifname")),
        ("inet", "apart"): SetType(("ifname", "ifname")),
        ("inet", "together"): SetType(("group", "group")),
        ("inet", "ptp"): SetType(("ifname",)),
        ("inet", "bind4"): SetType(("ifname", "mac", "ipv4")),
        ("inet", "bind6"): SetType(("ifname", "mac", "ipv6")),
        ("inet", "gateway4"): SetType(("ifname", "ipv4")),
        ("inet", "gateway6"): SetType(("ifname", "ipv6")),
        ("inet", "gateways4"): SetType(("ipv4",)),
        ("inet", "gateways6"): SetType(("ipv6",)),
        ("inet", "hairpin4"): SetType(("ifname", "ipv4")),
        ("inet", "hairpin6"): SetType(("ifname", "ipv6")),
        ("inet", "detour4"): SetType(("ipv4", "ifname")),
        ("inet", "detour6"): SetType(("ipv6", "ifname")),
        ("inet", "group_detour4"): SetType(("ipv4", "group")),
        ("inet", "group_detour6"): SetType(("ipv6", "group")),
        ("inet", "connlimit4"): SetType(("ipv4",), COUNT),
        ("inet", "connlimit6"): SetType(("ipv6",), COUNT),
        ("inet", "pub4"): SetType(("ipv4", "proto", "port"), ("ipv4", "port")),
        ("inet", "pub6"): SetType(("ipv6", "proto", "port"), ("ipv6", "port")),
        ("inet", "any4"): SetType(("proto", "port"), ("ipv4", "port")),
        ("inet", "any6"): SetType(("proto", "port"), ("ipv6", "port")),
        ("inet", "relayed"): SetType(("ifname", "proto", "port")),
        ("inet", "open4"): SetType(("ipv4", "proto", "port")),
        ("inet", "open6"): SetType(("ipv6", "proto", "port")),
        ("inet", "vxlan"): SetType(("port",)),
        ("inet", "sealed"): SetType(("port",)),
        ("inet", "wireguard"): SetType(("port",)),
        ("inet", "peers4"): SetType(("ipv4",)),
        ("inet", "peers6"): SetType(("ipv6",)),
        ("inet", "far4"): SetType(("ifname", "ipv4")),
        ("inet", "far6"): SetType(("ifname", "ipv6")),
        ("inet", "behind4"): SetType(("ifname", "mac", "ipv4")),
        ("inet", "behind6"): SetType(("ifname", "mac", "ipv6")),
        ("inet", "clamped"): SetType(("ifname",)),
        ("inet", "closed"): SetType(("family",)),
        ("bridge", "ports"): SetType(("ifname",)),
        ("bridge", "macs"): SetType(("ifname", "mac")),
        ("bridge", "routers"): SetType(("ifname",)),
        ("bridge", "bind4"): SetType(("ifname", "mac", "ipv4")),
        ("bridge", "bind6"): SetType(("ifname", "mac", "ipv6")),
        ("bridge", "target6"): SetType(("ifname", "mac", "target6")),
        ("arp", "ptp"): SetType(("ifname",)),
        ("arp", "bind4"): SetType(("ifname", "mac", "ipv4")),
    }
)
"""Every set and map that takes elements, by (family, name). `version` is the rule set's own."""

PUBLISHING = frozenset({"pub4", "pub6", "any4", "any6", "relayed", "open4", "open6"})
"""The sets whose elements are published ports: added last, removed first (`netd.plan`)."""


def network(net: Network) -> Iterator[Element]:
    """What the rules must know of a network before it has any endpoint; of a link nothing, ever."""
    if net.bridged:
        bridge = names.bridge_name(net)
        yield from _policy(net, bridge)
        yield Element("inet", "intra" if net.icc else "apart", (bridge, bridge))
    elif net.driver == PTP and net.icc:
        yield Element("inet", "together", (names.link_group(net), names.link_group(net)))
    for family in net.families:
        yield from (Element("inet", f"gateways{family}", (gateway,)) for gateway in net.gateways(family))


def _policy(net: Network, ifname: str) -> Iterator[Element]:
    """How the network leaves the host by this interface of its, and which gateways are for whom is there."""
    yield Element("inet", "bridges", (ifname,))
    if net.internal:
        yield Element("inet", "internal", (ifname,))
    else:
        yield Element("inet", "nat" if net.gateway_mode is GatewayMode.NAT else "routed", (ifname,))
    for family in net.families:
        for gateway in net.gateways(family):
            yield Element("inet", f"gateway{family}", (ifname, gateway))


def endpoint(net: Network, endpoint: Endpoint) -> Iterator[Element]:
    """What one endpoint may say it is, and which of its traffic is a hairpin."""
    if net.driver == LINK:
        return iter([bound(names.host_ifname(endpoint))])
    own = _port(net, endpoint) if net.bridged else _ptp(net, endpoint)
    return chain(own, _limited(net, endpoint))


def _limited(net: Network, endpoint: Endpoint) -> Iterator[Element]:
    """How many connections each address of an endpoint may begin."""
    if limit := connlimit.of(net, endpoint):
        for interface in endpoint.addresses:
            yield Element("inet", f"connlimit{interface.version}", (interface.ip,), (limit,))


def _port(net: Network, endpoint: Endpoint) -> Iterator[Element]:
    """An endpoint that is the port of a bridge."""
    bridge, port, mac = names.bridge_name(net), names.host_ifname(endpoint), endpoint.mac
    yield Element("bridge", "ports", (port,))
    yield Element("bridge", "macs", (port, mac))
    if endpoint.options.get(ROUTER) == "yes":
        yield Element("bridge", "routers", (port,))
    for family in net.families:
        own = [interface.ip for interface in endpoint.of_family(family)]
        if not net.internal and net.icc:
            yield from (Element("inet", f"hairpin{family}", (bridge, ip)) for ip in own)
        if family == 6:
            own.append(names.link_local(mac))
            yield from (Element("bridge", "target6", (port, mac, ip)) for ip in own)
        yield from (Element("bridge", f"bind{family}", (port, mac, ip)) for ip in own)


def _ptp(net: Network, endpoint: Endpoint) -> Iterator[Element]:
    """An endpoint with an interface of the host to itself, which is to the rules a bridge with one member."""
    host, mac = names.host_ifname(endpoint), endpoint.mac
    yield from _policy(net, host)
    yield bound(host)
    yield Element("arp", "ptp", (host,))
    for family in net.families:
        own = [interface.ip for interface in endpoint.of_family(family)]
        if not net.internal:
            yield from (Element("inet", f"hairpin{family}", (host, ip)) for ip in own)
        if family == 4:
            yield from (Element("arp", "bind4", (host, mac, ip)) for ip in own)
        else:
            own.append(names.link_local(mac))
        yield from (Element("inet", f"bind{family}", (host, mac, ip)) for ip in own)


def published(net: Network, endpoint: Endpoint, mapping: PortMapping, family: int) -> Iterator[Element]:
    """One published port in one family, to the first address of `endpoint` in that family.

    Nothing for a loopback address (the daemon's relay serves that) and nothing for a family that the
    host address or the endpoint does not have. In routed mode a port that is published everywhere
    also opens the container's own address.
    """
    host, addresses = mapping.host_ip, endpoint.of_family(family)
    if not addresses or (host is not None and (host.version != family or host.is_loopback)):
        return
    ip, proto = addresses[0].ip, str(mapping.proto)
    target: tuple[Atom, ...] = (ip, mapping.container_port)
    everywhere = host is None or host.is_unspecified
    if everywhere:
        yield Element("inet", f"any{family}", (proto, mapping.host_port), target)
    elif host is not None:
        yield Element("inet", f"pub{family}", (host, proto, mapping.host_port), target)
    if everywhere and net.gateway_mode is GatewayMode.ROUTED:
        yield Element("inet", f"open{family}", (ip, proto, mapping.container_port))
    if net.bridged and not net.icc:
        yield Element("inet", "relayed", (names.bridge_name(net), proto, mapping.host_port))


def detours(carrier: Endpoint, others: Iterable[Network], family: int) -> Iterator[Element]:
    """From where a question to `carrier` must not be seen to come, for its answer to take the same way.

    `others` are the further networks of its sandbox: it has a shorter way to their members than back by
    the carrier, or on a link of its own at least another.
    """
    for interface in carrier.of_family(family):
        for other in others:
            if family not in other.families or other.internal:
                continue
            if other.bridged:
                yield Element("inet", f"detour{family}", (interface.ip, names.bridge_name(other)))
            elif other.driver == PTP:
                yield Element("inet", f"group_detour{family}", (interface.ip, names.link_group(other)))


def clamped(net: Network) -> Element:
    """Keep TCP between a network and the outside from agreeing on more than fits through it."""
    return Element("inet", "clamped", (names.bridge_name(net),))


def vxlan(port: int) -> Element:
    """Where this host speaks VXLAN: from now on only its kernel does there, and only with peers."""
    return Element("inet", "vxlan", (port,))


def sealed(port: int) -> Element:
    """At this port of `vxlan` it is spoken within WireGuard only."""
    return Element("inet", "sealed", (port,))


def bound(ifname: str) -> Element:
    """A link by which nothing enters but what is bound to it: that is for other elements to say."""
    return Element("inet", "ptp", (ifname,))


def wireguard(port: int) -> Element:
    """Where this host speaks WireGuard: with peers only, as VXLAN."""
    return Element("inet", "wireguard", (port,))


def peer(address: IPAddress) -> Element:
    """A node that may speak VXLAN and WireGuard to this one."""
    return Element("inet", f"peers{address.version}", (address,))


def elsewhere(net: Network, address: IPAddress, device: str, mac: str) -> Iterator[Element]:
    """An endpoint that a plain route leads to: its packets come by `device`, from the node with `mac`."""
    yield Element("inet", f"far{address.version}", (names.bridge_name(net), address))
    yield Element("inet", f"behind{address.version}", (device, mac, address))


def closed(family: int) -> Element:
    """Keep the host from routing for others in `family`, where netd itself turned forwarding on."""
    return Element("inet", "closed", (f"ipv{family}",))


_IFNAME = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def _ifname(atom: Atom) -> str:
    # Narrower than the kernel: nft would read a quote, a backslash or a final '*' as syntax.
    if isinstance(atom, str) and _IFNAME.fullmatch(atom):
        return f'"{atom}"'
    raise ValueError("an interface name of letters, digits, '_', '.' and '-'")


def _mac(atom: Atom) -> str:
    if isinstance(atom, str) and _MAC.fullmatch(atom):
        return atom
    raise ValueError("a MAC address such as 02:42:0a:59:00:02")


def _ipv4(atom: Atom) -> str:
    if isinstance(atom, IPv4Address):
        return str(atom)
    raise ValueError("an IPv4 address")


def _ipv6(atom: Atom) -> str:
    if isinstance(atom, IPv6Address) and atom.scope_id is None:
        return str(atom)
    raise ValueError("an IPv6 address without a zone")


def _target6(atom: Atom) -> str:
    if isinstance(atom, IPv6Address) and atom.scope_id is None:
        return f"0x{int(atom):032x}"
    raise ValueError("an IPv6 address without a zone")


def _proto(atom: Atom) -> str:
    if isinstance(atom, str) and atom in ("tcp", "udp"):
        return str(atom)
    raise ValueError("tcp or udp")


def _number_of(what: str, most: int) -> Callable[[Atom], str]:
    """How a whole number from 1 to `most` is written."""

    def text(atom: Atom) -> str:
        if isinstance(atom, int) and not isinstance(atom, bool) and 0 < atom <= most:
            return str(atom)
        raise ValueError(f"{what} from 1 to {most}")

    return text


def _family(atom: Atom) -> str:
    if isinstance(atom, str) and atom in ("ipv4", "ipv6"):
        return str(atom)
    raise ValueError("ipv4 or ipv6")


_TEXT: Mapping[str, Callable[[Atom], str]] = {
    "ifname": _ifname,
    "mac": _mac,
    "ipv4": _ipv4,
    "ipv6": _ipv6,
    "target6": _target6,
    "proto": _proto,
    "port": _number_of("a port", 65535),
    "group": _number_of("a link group", 0xFFFFFFFF),
    "count": _number_of("a number of connections", 0xFFFFFFFF),
    "family": _family,
}

_ATOM: Mapping[str, Callable[[str | int], Atom]] = {
    "ifname": str,
    "mac": str,
    "ipv4": lambda listed: IPv4Address(str(listed)),
    "ipv6": lambda listed: IPv6Address(str(listed)),
    "target6": lambda listed: IPv6Address(int(str(listed), 0)),
    "proto": str,
    "port": int,
    "group": int,
    "count": int,
    "family": str,
}


def atom_of(kind: str, listed: str | int) -> Atom:
    """Turn one component that libnftables listed (JSON) back into the atom it was made of.

    Raises `ValueError` for what netd cannot have written.
    """
    return _ATOM[kind](listed)


def element_text(op: str, element: Element) -> str:
    """The libnftables command that does `op` ("add" or "delete") with `element`.

    Raises `Invalid` for an unknown set and for a component that is not of the set's type.
    """
    kind = SETS.get((element.family, element.set))
    if kind is None or op not in ("add", "delete"):
        raise Invalid(f"nft {op} in {element.family} netd {element.set!r}: no such operation or set")
    text = _join(element, element.item, kind.key)
    if op == "add" and (kind.value or element.value):
        introduced = " ct count over " if kind.value == COUNT else " : "
        text += introduced + _join(element, element.value, kind.value)
    return f"{op} element {element.family} netd {element.set} {{ {text} }}"


def _join(element: Element, atoms: tuple[Atom, ...], kinds: tuple[str, ...]) -> str:
    if len(atoms) != len(kinds):
        raise Invalid(f"{element}: {len(atoms)} components where {len(kinds)} are needed")
    return " . ".join(_checked(element, atom, kind) for atom, kind in zip(atoms, kinds, strict=True))


def _checked(element: Element, atom: Atom, kind: str) -> str:
    try:
        return _TEXT[kind](atom)
    except ValueError as error:
        raise Invalid(f"{element}: {atom!r} is not {error}") from None
