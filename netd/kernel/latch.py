"""A door that falls shut when netd's rules are gone.

`nft flush ruleset` takes away all that keeps networks apart, and until the daemon has put it back the
host routes everything everywhere; without a daemon it goes on. So on each of netd's bridges, and on the
host's side of each ptp link, there is a classic BPF program where the host's own stack hands it packets.
It lets an IPv4 or IPv6 packet pass if a bit of its mark is set, and the rules set that bit on what they
let through to a network (`netd.ruleset`): no rules, no bit, no packet. Whatever else there is, such as
ARP, passes.

It costs seven instructions a packet that is routed to a container, and nothing between containers of one
network, whose frames do not come by here. The bit is set as late as can be, so nobody's routing by mark
sees it, and the kernel clears it when the packet enters the container's namespace.

Classic BPF needs no system call and no compiler: the program is an attribute of the filter. Where the
kernel has no such filters there is no latch, and none is missed (`supported`); `netd doctor` says so.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from netd.firewall import LATCH
from netd.kernel import fastnl
from netd.kernel.dumps import Link, in_a_network
from netd.kernel.fastnl import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Refused, Socket, attribute
from netd.kernel.netns import in_new_namespace
from netd.kernel.shaping import (
    EGRESS,
    FILTER,
    INGRESS_HANDLE,
    OWN,
    RTM_DELTFILTER,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    TC_H_INGRESS,
    TCA_KIND,
    TCA_OPTIONS,
    TCMSG,
    filter_dump,
    has_filters,
    ingress_delete,
)
from netd.objects import Latch

__all__ = ["OWN", "PROGRAM", "Latches", "observed", "refusal", "supported"]

# include/uapi/linux/pkt_sched.h, pkt_cls.h, filter.h, bpf_common.h, if_ether.h
TCA_BPF_OPS_LEN, TCA_BPF_OPS, TCA_BPF_FLAGS, DIRECT = 4, 5, 8, 1
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
LOAD_HALF = 0x28
PROTOCOL, MARK = 0xFFFFF000, 0xFFFFF000 + 20
BPF = "bpf"
NEXT_FILTER, DROP = 0xFFFFFFFF, 2
IPV4, IPV6 = 0x0800, 0x86DD
_STEP = struct.Struct("=HBBI")
PROGRAM = b"".join(
    _STEP.pack(*step)
    for step in (
        (LOAD, 0, 0, MARK),
        (JUMP_SET, 3, 0, LATCH),
        (LOAD_HALF, 0, 0, PROTOCOL),
        (JUMP_EQUAL, 2, 0, IPV4),
        (JUMP_EQUAL, 1, 0, IPV6),
        (RETURN, 0, 0, NEXT_FILTER),
        (RETURN, 0, 0, DROP),
    )
)


def place_add(index: int) -> bytes:
    """Make filters on what a link sends possible."""
    body = TCMSG.pack(0, 0, index, INGRESS_HANDLE, TC_H_INGRESS, 0) + fastnl.text(TCA_KIND, "clsact")
    return fastnl.message(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def latch_add(index: int) -> bytes:
    """Put the program where a link sends."""
    options = attribute(TCA_BPF_OPS_LEN, struct.pack("=H", len(PROGRAM) // _STEP.size))
    options += attribute(TCA_BPF_OPS, PROGRAM) + fastnl.u32(TCA_BPF_FLAGS, DIRECT)
    body = TCMSG.pack(0, 0, index, 0, EGRESS, FILTER) + fastnl.text(TCA_KIND, BPF)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return fastnl.message(RTM_NEWTFILTER, flags, body + attribute(TCA_OPTIONS, options))


def latch_delete(index: int) -> bytes:
    """Take netd's filter away."""
    return fastnl.message(RTM_DELTFILTER, NLM_F_ACK, TCMSG.pack(0, 0, index, 0, EGRESS, FILTER))


def observed(socket: Socket, links: Mapping[int, Link]) -> Iterator[Latch]:
    """The latches of those of `links` (by index) by which netd's networks are reached.

    A kernel that cannot have them is said to have them all, or it would be asked for them for ever.
    """
    for index, link in links.items():
        if not link.ours or not (link.kind == "bridge" or in_a_network(link)):
            continue
        if any(map(_whole, _own(socket, index))) or not supported():
            yield Latch(link.name)


@cache
def supported() -> bool:
    """Whether this kernel has such filters: tried once, when first needed, in a namespace made for it."""
    return not in_new_namespace(refusal)


def refusal() -> str:
    """What the kernel says to a latch on the `lo` of the thread's own namespace, which should end with it;
    empty if it can."""
    with Socket() as socket:
        try:
            for message in (place_add(1), latch_add(1)):
                socket.request(message)
        except Refused as error:
            return str(error)
    return ""


def _own(socket: Socket, index: int) -> list[bytes]:
    try:
        present = socket.dump(filter_dump(index, EGRESS))
    except Refused:  # there is no place for filters
        return []
    return [body for body in present if TCMSG.unpack_from(body)[5] == FILTER]


def _whole(body: bytes) -> bool:
    found = dict(fastnl.attributes(body, TCMSG.size))
    options = dict(fastnl.attributes(found.get(TCA_OPTIONS, b"")))
    return options.get(TCA_BPF_OPS) == PROGRAM and options.get(TCA_BPF_FLAGS) == struct.pack("=I", DIRECT)


class Latches:
    """Closes and opens; `send` and `send_removal` are those of `netd.kernel.links`."""

    def __init__(
        self, socket: Socket, send: Callable[[bytes], None], send_removal: Callable[[bytes], None]
    ) -> None:
        self._socket = socket
        self._send = send
        self._send_removal = send_removal

    def close(self, index: int) -> None:
        """Put the program on a link, in the place of what somebody made of it; nothing if there are none."""
        if not supported():
            return
        try:
            self._send(place_add(index))
        except Refused as error:
            if error.errno != errno.EEXIST:
                raise
            present = _own(self._socket, index)
            if any(map(_whole, present)):
                return
            if present:
                self._send_removal(latch_delete(index))
        self._send(latch_add(index))

    def open(self, index: int) -> None:
        """Take the program away, and what it stood on if nobody else uses that."""
        if not _own(self._socket, index):
            return
        self._send_removal(latch_delete(index))
        if not has_filters(self._socket, index):
            self._send_removal(ingress_delete(index))
