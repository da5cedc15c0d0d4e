"""Links that are slow or repeat themselves: the kernel's netem queue, for clients inside a namespace.

What a device sends waits in it. So a link that is slow both ways has one at each end: in the container's
namespace on its interface, and on the host's side of the pair, there beneath the token bucket if the link
has a limit too (tc-netem(8), struct tc_netem_qopt in include/uapi/linux/pkt_sched.h).

No test has seen it delay anything: the kernels of the project's own tests have no netem. They see what is
refused then, and what is sent to the kernel.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

from netd.errors import Unsupported
from netd.kernel import fastnl, netns
from netd.kernel.fastnl import NLM_F_ACK, NLM_F_CREATE, Refused, Socket, attribute
from netd.kernel.shaping import (
    HANDLE,
    NLM_F_REPLACE,
    RTM_DELQDISC,
    RTM_NEWQDISC,
    TC_H_ROOT,
    TCA_KIND,
    TCA_OPTIONS,
    TCMSG,
    queue_dump,
)

TCA_NETEM_LATENCY64, TCA_NETEM_JITTER64, TCA_NETEM_PRNG_SEED = 10, 11, 14
QOPT = struct.Struct("=IIIIII")
OWN = 0x4E45 << 16
""" "NE": the handle of netem queues that are a topology's."""
BENEATH_BUCKET = HANDLE | 1
"""The one class of a token bucket, in which another queue can stand."""
LIMIT = 10_000
"""Packets that wait at most: a second of 10 Mbit/s in the smallest, of 120 Mbit/s in full ones."""
LOOPBACK = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Netem:
    """Nanoseconds, a share of one, and where chance begins; 0 for wherever."""

    delay: int = 0
    jitter: int = 0
    duplicate: float = 0.0
    seed: int = 0


def queue_set(index: int, parent: int, wanted: Netem) -> bytes:
    """Have what a link sends wait, beneath `parent`."""
    doubled = round(wanted.duplicate * 0xFFFFFFFF)
    options = QOPT.pack(0, LIMIT, 0, 0, doubled, 0)
    options += attribute(TCA_NETEM_LATENCY64, struct.pack("=q", wanted.delay))
    options += attribute(TCA_NETEM_JITTER64, struct.pack("=q", wanted.jitter))
    if wanted.seed:
        options += attribute(TCA_NETEM_PRNG_SEED, struct.pack("=Q", wanted.seed))
    body = TCMSG.pack(0, 0, index, OWN, parent, 0) + fastnl.text(TCA_KIND, "netem")
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return fastnl.message(RTM_NEWQDISC, flags, body + attribute(TCA_OPTIONS, options))


def queue_delete(index: int, parent: int) -> bytes:
    """Take such a queue away."""
    return fastnl.message(RTM_DELQDISC, NLM_F_ACK, TCMSG.pack(0, 0, index, OWN, parent, 0))


def put(socket: Socket, index: int, wanted: Netem | None) -> None:
    """Make the queue of a link what is wanted; None for none. Raises `Refused` and `Unsupported`."""
    parent = TC_H_ROOT
    for body in socket.dump(queue_dump()):
        _, _, of, handle, above, _ = TCMSG.unpack_from(body)
        if of != index:
            continue
        if handle == OWN:
            socket.request(queue_delete(index, above))
        elif (handle, above) == (HANDLE, TC_H_ROOT):
            parent = BENEATH_BUCKET
    if wanted is None:
        return
    try:
        socket.request(queue_set(index, parent, wanted))
    except Refused as error:
        if error.errno in (errno.ENOENT, errno.EOPNOTSUPP):
            raise Unsupported(LACKING) from error
        raise


LACKING = (
    "delay, jitter, duplicate and seed need the kernel's netem queue (module sch_netem, "
    "CONFIG_NET_SCH_NETEM), which this kernel lacks: load it with `modprobe sch_netem`, take a kernel that "
    "has it, or leave them out; rate and loss need no netem"
)


def check() -> None:
    """Raise `Unsupported` where the kernel has no netem; asked of a namespace that is gone afterwards."""

    def work() -> None:
        with fastnl.Socket() as socket:
            put(socket, LOOPBACK, Netem(delay=1))

    netns.blocking(lambda: netns.in_new_namespace(work), "netem")
