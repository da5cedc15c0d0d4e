"""Who holds a port: the question behind "address already in use".

Read only when a publish was refused, so it may take its time: /proc/net names the socket's inode,
and the process is whoever has a descriptor of it. Both are looked up from the calling thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from netd.model import IPAddress, Proto

UNKNOWN = "another program"
TCP_LISTEN = "0A"  # include/net/tcp_states.h
NET = Path("/proc/thread-self/net")


def find(proto: Proto, address: IPAddress | None, port: int) -> str:
    """ "nginx (pid 812)" for whoever listens on `port` at `address` (None: at any), else `UNKNOWN`."""
    inodes = {inode for held, inode in sockets(proto, port) if _overlap(held, address)}
    return owner(*inodes)


def owner(*inodes: str) -> str:
    """ "nginx (pid 812)" for the first process found with a descriptor of one of these sockets."""
    for pid, inode in _descriptors() if inodes else ():
        if inode in inodes:
            return f"{_command(pid)} (pid {pid})"
    return UNKNOWN


def sockets(proto: Proto, port: int) -> Iterator[tuple[IPAddress, str]]:
    """(local address, inode) of the sockets that hold `port`; for TCP the listening ones."""
    for table in (proto.value, f"{proto.value}6"):
        try:
            lines = (NET / table).read_text().splitlines()[1:]
        except OSError:
            continue  # a kernel without IPv6 has no such file
        for line in lines:
            fields = line.split()
            address, number = fields[1].split(":")
            if int(number, 16) == port and (proto is Proto.UDP or fields[3] == TCP_LISTEN):
                yield parse_address(address), fields[9]


def parse_address(text: str) -> IPAddress:
    """An address of /proc/net/tcp{,6}: 32-bit words, each printed as a number of this machine."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _overlap(held: IPAddress, wanted: IPAddress | None) -> bool:
    """Whether the two compete. A socket on [::] takes IPv4 traffic too unless it is IPV6_V6ONLY, which
    /proc does not tell; naming it is still the best answer."""
    if isinstance(held, IPv6Address) and held.ipv4_mapped:
        held = held.ipv4_mapped
    if wanted is None or held == wanted:
        return True
    return held.is_unspecified and (held.version == wanted.version or held.version == 6)


def _descriptors() -> Iterator[tuple[int, str]]:
    """(pid, socket inode) of every open socket of every process that we may look into."""
    # Names and strings, not Path objects: there may be a hundred thousand descriptors.
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        directory = f"/proc/{pid}/fd"
        with suppress(OSError):  # it ended meanwhile
            for descriptor in os.listdir(directory):  # noqa: PTH208
                with suppress(FileNotFoundError):  # closed meanwhile
                    target = os.readlink(f"{directory}/{descriptor}")  # noqa: PTH115
                    if target.startswith("socket:["):
                        yield int(pid), target[8:-1]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() or UNKNOWN
    except OSError:
        return UNKNOWN
