"""Delay and the like: what is sent to the kernel, and what a kernel without netem is told to be without.

None of this has been seen to delay a packet: see `netd.kernel.netem`.
"""

from __future__ import annotations

import errno
import struct
import subprocess

import pytest

from netd.errors import Unsupported
from netd.kernel import fastnl, netem, shaping
from netd.kernel.fastnl import Refused
from netd.kernel.netem import Netem

SLOW = Netem(delay=20_000_000, jitter=2_000_000, duplicate=0.5, seed=7)


class Paper:
    """A socket to a kernel that has `queues` (interface, handle, parent), and whether it has netem."""

    def __init__(self, *queues: tuple[int, int, int], has: bool = True) -> None:
        self.queues = queues
        self.has = has
        self.sent: list[tuple[int, tuple[int, ...], bytes]] = []

    def dump(self, message: bytes) -> list[bytes]:
        return [shaping.TCMSG.pack(0, 0, index, handle, above, 0) for index, handle, above in self.queues]

    def request(self, message: bytes) -> None:
        kind = struct.unpack_from("=IH", message)[1]
        if kind == shaping.RTM_NEWQDISC and not self.has:
            raise Refused(errno.ENOENT, "Specified qdisc kind is unknown.")
        head = shaping.TCMSG.unpack_from(message, 16)
        self.sent.append((kind, head[2:5], message[16 + shaping.TCMSG.size :]))


def test_a_queue_says_what_waits_and_how_long() -> None:
    paper = Paper((8, shaping.HANDLE, shaping.TC_H_ROOT), (9, 0, shaping.TC_H_ROOT))
    netem.put(paper, 9, SLOW)  # type: ignore[arg-type]
    [(kind, place, body)] = paper.sent
    assert (kind, place) == (shaping.RTM_NEWQDISC, (9, netem.OWN, shaping.TC_H_ROOT))
    told = dict(fastnl.attributes(body, 0))
    assert told[shaping.TCA_KIND] == b"netem\0"
    options = told[shaping.TCA_OPTIONS]
    assert netem.QOPT.unpack_from(options) == (0, netem.LIMIT, 0, 0, 2**31, 0)
    assert dict(fastnl.attributes(options, netem.QOPT.size)) == {
        netem.TCA_NETEM_LATENCY64: struct.pack("=q", 20_000_000),
        netem.TCA_NETEM_JITTER64: struct.pack("=q", 2_000_000),
        netem.TCA_NETEM_PRNG_SEED: struct.pack("=Q", 7),
    }


def test_it_stands_beneath_a_limit_and_takes_the_place_of_what_was_asked_before() -> None:
    paper = Paper((9, shaping.HANDLE, shaping.TC_H_ROOT), (9, netem.OWN, netem.BENEATH_BUCKET))
    netem.put(paper, 9, SLOW)  # type: ignore[arg-type]
    beneath = (9, netem.OWN, netem.BENEATH_BUCKET)
    assert [sent[:2] for sent in paper.sent] == [
        (shaping.RTM_DELQDISC, beneath),
        (shaping.RTM_NEWQDISC, beneath),
    ]
    netem.put(paper, 9, None)  # type: ignore[arg-type]
    assert [sent[:2] for sent in paper.sent[2:]] == [(shaping.RTM_DELQDISC, beneath)]
    untouched = Paper((9, shaping.HANDLE, shaping.TC_H_ROOT), (9, 0x80010000, 1))
    netem.put(untouched, 9, None)  # type: ignore[arg-type]
    assert untouched.sent == []


def test_a_kernel_without_it_is_named_with_the_module_and_the_way_out() -> None:
    with pytest.raises(Unsupported, match=r"sch_netem.*modprobe sch_netem.*rate and loss need no netem"):
        netem.put(Paper(has=False), 1, SLOW)  # type: ignore[arg-type]


def test_this_kernel_is_taken_for_what_tc_takes_it() -> None:
    words = ("unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    if subprocess.run(words, check=False, capture_output=True).returncode == 0:
        netem.check()
    else:
        with pytest.raises(Unsupported, match="modprobe sch_netem"):
            netem.check()
