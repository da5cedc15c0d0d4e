"""One question to an address, asked with plain sockets of the namespace that the caller is in.

Three answers, because two would lie: "refused" says that the way is open and nobody listens, which is
neither what an assertion of `open` wants to hear nor one of `blocked`.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from netd.model import IPAddress

SOL_IP_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER (linux/in.h, linux/in6.h)."""
RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
"""IP_RECVERR and IPV6_RECVERR."""
TTL = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
PMTUDISC_DO = 2
EXTENDED_ERROR = struct.Struct("=IBBBBII")
"""struct sock_extended_err (linux/errqueue.h); the offender's socket address follows."""
ECHO = {4: (8, 0), 6: (128, 129)}
"""Types of echo request and echo reply (RFC 792, RFC 4443)."""
TRACE_PORT = 33434

SILENT = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EMSGSIZE}
"""What the kernel says of a closed way; EMSGSIZE of a packet that must not be fragmented and is too big."""


class Answer(StrEnum):
    """What came back."""

    OPEN = "open"
    REFUSED = "refused"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is asked: a port, or with `proto` "icmp" an echo of `size` payload bytes."""

    address: IPAddress
    proto: str
    port: int = 0
    size: int = 56
    df: bool = False

    def __str__(self) -> str:
        if self.proto == "icmp":
            return f"{self.address}/icmp"
        where = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{where}:{self.port}/{self.proto}"


def ask(target: Target, seconds: float) -> Answer:
    """What `target` answers within `seconds`."""
    try:
        return {"tcp": _tcp, "udp": _udp, "icmp": _icmp}[target.proto](target, seconds)
    except TimeoutError:
        return Answer.BLOCKED
    except OSError as error:
        if error.errno in SILENT:
            return Answer.BLOCKED
        if error.errno == errno.ECONNREFUSED:
            return Answer.REFUSED
        raise


def _family(address: IPAddress) -> socket.AddressFamily:
    return socket.AF_INET6 if address.version == 6 else socket.AF_INET


def _tcp(target: Target, seconds: float) -> Answer:
    with socket.socket(_family(target.address), socket.SOCK_STREAM) as tcp:
        tcp.settimeout(seconds)
        tcp.connect((str(target.address), target.port))
        return Answer.OPEN


def _udp(target: Target, seconds: float) -> Answer:
    with socket.socket(_family(target.address), socket.SOCK_DGRAM) as udp:
        udp.settimeout(seconds)
        udp.connect((str(target.address), target.port))
        udp.send(b"netd\n")
        udp.recv(65535)
        return Answer.OPEN


def _icmp(target: Target, seconds: float) -> Answer:
    family = target.address.version
    proto = socket.IPPROTO_ICMPV6 if family == 6 else socket.IPPROTO_ICMP
    asked, answered = ECHO[family]
    identity, payload = os.getrandom(4), bytes(target.size)
    with socket.socket(_family(target.address), socket.SOCK_RAW, proto) as raw:
        if target.df:
            raw.setsockopt(*SOL_IP_MTU_DISCOVER[family], PMTUDISC_DO)
        raw.connect((str(target.address), 0))
        body = identity + payload
        # The kernel fills in the checksum of ICMPv6 (RFC 3542, 3.1) and leaves that of ICMP to us.
        checksum = 0 if family == 6 else _checksum(bytes((asked, 0, 0, 0)) + body)
        raw.send(struct.pack("!BBH", asked, 0, checksum) + body)
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            packet = raw.recv(65535)
            if family == 4:
                packet = packet[(packet[0] & 15) * 4 :]
            if packet[:1] == bytes((answered,)) and packet[4:8] == identity:
                return Answer.OPEN
        return Answer.BLOCKED


def _checksum(data: bytes) -> int:
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def hop(address: IPAddress, distance: int, seconds: float) -> IPAddress | None:
    """Who drops a packet to `address` that may go `distance` hops; None where nobody says so.

    A router says it before its filter is asked (ip_forward in net/ipv4/ip_forward.c), so this works
    across one that lets only some ports through.
    """
    family = address.version
    with socket.socket(_family(address), socket.SOCK_DGRAM) as udp:
        udp.setsockopt(*RECVERR[family], 1)
        udp.setsockopt(*TTL[family], distance)
        udp.connect((str(address), TRACE_PORT + distance))
        udp.send(b"netd\n")
        poll = select.poll()
        poll.register(udp, 0)  # errors are always reported
        if not poll.poll(seconds * 1000):
            return None
        _, ancillary, _, _ = udp.recvmsg(0, 512, socket.MSG_ERRQUEUE)
        for level, kind, data in ancillary:
            if (level, kind) == RECVERR[family]:
                return _offender(data, family)
    return None


def _offender(data: bytes, family: int) -> IPAddress | None:
    sockaddr = data[EXTENDED_ERROR.size :]
    if family == 4 and len(sockaddr) >= 8:
        return IPv4Address(sockaddr[4:8])
    if family == 6 and len(sockaddr) >= 24:
        return IPv6Address(sockaddr[8:24])
    return None


def address(text: str) -> IPAddress | None:
    """`text` as an address, or None where it is a name."""
    try:
        return ip_address(text.strip("[]"))
    except ValueError:
        return None
