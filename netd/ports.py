"""Published ports: what a person types, who holds what, and which free one to choose. Pure.

`Ports` is the table of everything that netd itself has published. It answers before anything is
touched, and by name ("is published by container 'web'"). Ports that other programs hold are found
out by binding (`netd.relay`): asking first and binding later would be a race.

Two mappings of one protocol and port exclude each other where their addresses overlap. A mapping
without an address covers both families.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address, ip_address

from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.model import IPAddress, PortMapping, Proto

PUBLISH = re.compile(
    r"(?:(?P<ip>\[[^\]]*\]|[^:\[\]/]*):(?=[^:]*:))?"  # an address only where another colon follows
    r"(?:(?P<host>[^:]*):)?"
    r"(?P<container>[^:/]*)"
    r"(?:/(?P<proto>[^/]*))?"
)
PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
FALLBACK = range(49153, 65536)
"""Where ports are chosen on a kernel that does not say: the dynamic ports of RFC 6335, 6."""


def parse_publish(spec: str) -> tuple[PortMapping, ...]:
    """Read docker's `-p` grammar, `[IP:][HOST[-END]:]CTR[-END][/tcp|udp]`, into one mapping a port.

    A host port that is left out (or 0) is 0, "choose one"; `8000-8010:80` is one mapping that takes
    the first free port of the range. Raises `Invalid` naming `spec` and what is wrong with it.
    """
    match = PUBLISH.fullmatch(spec)
    if not match:
        raise Invalid(
            f"port {spec!r} is not valid: write [IP:][HOST[-END]:]CONTAINER[-END][/tcp|udp], an IPv6 "
            "address in brackets"
        )
    proto = _proto(spec, match["proto"])
    host_ip = _address(spec, match["ip"])
    container = _range(spec, match["container"])
    if container[0] == 0:
        raise Invalid(f"port {spec!r} is not valid: a container port lies between 1 and 65535")
    host = _range(spec, match["host"]) if match["host"] else range(1)
    first = PortMapping(proto=proto, host_ip=host_ip, host_port=host[0], container_port=container[0])
    if len(host) > 1 and len(container) == 1:
        return (replace(first, host_port_end=host[-1]),)
    if host == range(1):
        return tuple(replace(first, container_port=port) for port in container)
    if len(host) != len(container):
        raise Invalid(
            f"port {spec!r} is not valid: {len(host)} host ports cannot be mapped to {len(container)} "
            "container ports; make the ranges equally long"
        )
    return tuple(
        replace(first, host_port=outer, container_port=inner)
        for outer, inner in zip(host, container, strict=True)
    )


def _proto(spec: str, text: str | None) -> Proto:
    try:
        return Proto("tcp" if text is None else text.lower())
    except ValueError:
        raise Invalid(f"port {spec!r} is not valid: {text!r} cannot be published, tcp and udp can") from None


def _address(spec: str, text: str | None) -> IPAddress | None:
    if not text:
        return None
    try:
        address = ip_address(text.strip("[]"))
    except ValueError:
        raise Invalid(f"port {spec!r} is not valid: {text!r} is not an IP address") from None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise Invalid(f"port {spec!r} is not valid: write {address.ipv4_mapped} instead of {text}")
    return address


def _range(spec: str, text: str) -> range:
    match = PORTS.fullmatch(text)
    if not match:
        raise Invalid(f"port {spec!r} is not valid: {text!r} is neither a port nor a range of ports")
    first, last = int(match[1]), int(match[2] or match[1])
    if last > 65535:
        raise Invalid(f"port {spec!r} is not valid: {last} is above 65535")
    if last < first or (first == 0 and last > 0):
        raise Invalid(f"port {spec!r} is not valid: the range {text} does not begin below its end")
    return range(first, last + 1)


def ephemeral(ports: str, reserved: str) -> Sequence[int]:
    """The ports to choose from, given the host's sysctls `ip_local_port_range` and `ip_local_reserved_ports`.

    Reserved ones are left out: an administrator reserves them for programs that will come
    (Documentation/networking/ip-sysctl.rst).
    """
    bounds = [int(part) for part in ports.split()]
    whole = range(bounds[0], bounds[1] + 1) if len(bounds) == 2 else FALLBACK
    kept_free: set[int] = set()
    for part in filter(None, reserved.strip().split(",")):
        first, _, last = part.partition("-")
        kept_free.update(range(int(first), int(last or first) + 1))
    return [port for port in whole if port not in kept_free] if kept_free else whole


def show(mapping: PortMapping) -> str:
    """A mapping as a person would type its host side: "8080/tcp", "127.0.0.1:53/udp", "[::1]:53/udp"."""
    if mapping.host_ip is None:
        where = ""
    else:
        where = f"[{mapping.host_ip}]:" if mapping.host_ip.version == 6 else f"{mapping.host_ip}:"
    last = f"-{mapping.host_port_end}" if mapping.host_port_end else ""
    return f"{where}{mapping.host_port}{last}/{mapping.proto}"


def _overlap(one: IPAddress | None, other: IPAddress | None) -> bool:
    if one is None or other is None:
        return True
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


class Ports:
    """Who has published what. `owner` is a sandbox id, `name` what people call it."""

    def __init__(self) -> None:
        self._held: dict[tuple[Proto, int], list[tuple[IPAddress | None, str, str]]] = {}
        self._last = 0

    def holder(self, mapping: PortMapping) -> str | None:
        """The name of who holds something that excludes `mapping`; None where it is free."""
        for address, _, name in self._held.get((mapping.proto, mapping.host_port), ()):
            if _overlap(address, mapping.host_ip):
                return name
        return None

    def holds(self, owner: str, mapping: PortMapping) -> bool:
        """Whether it is `owner` that publishes exactly `mapping`."""
        held = self._held.get((mapping.proto, mapping.host_port), ())
        return any((address, whose) == (mapping.host_ip, owner) for address, whose, _ in held)

    def claim(self, owner: str, name: str, mapping: PortMapping) -> None:
        """Note that `owner` publishes `mapping`. Raises `AlreadyExists` naming who does already."""
        if taken := self.holder(mapping):
            raise AlreadyExists(f"port {show(mapping)} is already published by {taken!r}; choose another one")
        self._held.setdefault((mapping.proto, mapping.host_port), []).append((mapping.host_ip, owner, name))

    def release(self, owner: str, mappings: Iterable[PortMapping]) -> None:
        """Forget that `owner` publishes these. One that it does not publish is passed over."""
        for mapping in mappings:
            key = (mapping.proto, mapping.host_port)
            kept = [held for held in self._held.get(key, ()) if held[:2] != (mapping.host_ip, owner)]
            if kept:
                self._held[key] = kept
            else:
                self._held.pop(key, None)

    def rename(self, owner: str, name: str, mappings: Iterable[PortMapping]) -> None:
        """Call `owner`, who publishes these, `name` from now on."""
        for mapping in mappings:
            held = self._held.get((mapping.proto, mapping.host_port), [])
            held[:] = [
                (address, whose, name if whose == owner else called) for address, whose, called in held
            ]

    def candidates(self, mapping: PortMapping, free: Sequence[int]) -> Iterator[PortMapping]:
        """`mapping` with each host port that may stand for what was asked, best first.

        A port that was named is the only candidate, held or not, so that the refusal names its holder.
        A choice goes through `free`, from after the last one chosen: whoever still talks to a
        container that is gone should not reach its successor on the same port.
        """
        if mapping.host_port and not mapping.host_port_end:
            yield mapping
            return
        if mapping.host_port:
            pool: Sequence[int] = range(mapping.host_port, mapping.host_port_end + 1)
            what = f"port {show(mapping)}"
        else:
            start = next((i for i, port in enumerate(free) if port > self._last), 0)
            pool = [*free[start:], *free[:start]]
            what = f"a {mapping.proto} port of the host's ephemeral range"
        for port in pool:
            chosen = replace(mapping, host_port=port, host_port_end=0)
            if self.holder(chosen) is None:
                if not mapping.host_port:
                    self._last = port
                yield chosen
        raise Exhausted(f"{what} cannot be had: none of {len(pool)} is free; name another, or remove one")
