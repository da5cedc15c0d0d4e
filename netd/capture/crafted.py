"""Small packets for those who have no scapy: what `netd trace` sends."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from typing import Protocol

from netd.errors import Invalid

NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1}
HOPS = 64


class Interface(Protocol):
    """An endpoint, as the API tells of it."""

    @property
    def addresses(self) -> Iterable[str]:
        """With prefix lengths."""

    @property
    def default_route(self) -> Iterable[int]:
        """Families."""


def source_towards(endpoints: Iterable[Interface], destination: str) -> str:
    """The address from which a container with these endpoints speaks to `destination`. Raises `Invalid`."""
    target = ip_address(destination)
    listed = list(endpoints)
    own = [
        (ip_interface(address), target.version in endpoint.default_route)
        for endpoint in listed
        for address in endpoint.addresses
    ]
    own = [each for each in own if each[0].version == target.version]
    near = [address for address, _ in own if target in address.network]
    far = [address for address, default in own if default]
    for address in (*near, *far, *(address for address, _ in own)):
        return str(address.ip)
    raise Invalid(f"the container has no IPv{target.version} address to send to {destination} from")


def packet(proto: str, source: str, destination: str, sport: int = 0, dport: int = 0) -> bytes:
    """A SYN, an empty datagram or an echo request, from the IP header on. Raises `Invalid`."""
    try:
        ends = ip_address(source), ip_address(destination)
    except ValueError as error:
        raise Invalid(str(error)) from error
    if ends[0].version != ends[1].version:
        raise Invalid(f"{source} cannot send to {destination}: one is IPv4, the other IPv6")
    if proto not in NUMBERS:
        raise Invalid(f"protocol {proto!r} must be one of {', '.join(NUMBERS)}")
    number = 58 if proto == "icmp" and ends[0].version == 6 else NUMBERS[proto]
    upper = _upper(proto, ends[0].version, sport, dport)
    at = {"tcp": 16, "udp": 6, "icmp": 2}[proto]
    pseudo = ends[0].packed + ends[1].packed + struct.pack("!IHH", len(upper), 0, number)
    total = _checksum((b"" if number == 1 else pseudo) + upper)
    upper = upper[:at] + (total or 0xFFFF if proto == "udp" else total).to_bytes(2, "big") + upper[at + 2 :]
    return _header(ends[0], ends[1], number, len(upper)) + upper


def _upper(proto: str, version: int, sport: int, dport: int) -> bytes:
    match proto:
        case "tcp":
            return struct.pack("!HHIIBBHHH", sport, dport, 1, 0, 5 << 4, 2, 65535, 0, 0)
        case "udp":
            return struct.pack("!HHHH", sport, dport, 8, 0)
    return struct.pack("!BBHHH", 8 if version == 4 else 128, 0, 0, 1, 1)


def _header(
    source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, number: int, length: int
) -> bytes:
    ends = source.packed + destination.packed
    if source.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, number, HOPS) + ends
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, HOPS, number, 0)
    return head[:10] + _checksum(head + ends).to_bytes(2, "big") + ends


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
