"""What bandwidth limits need of rtnetlink: token buckets, IFB devices, and the way from one to the other.

Beside `netd.kernel.fastnl`, and packed the same way. Queues carry no alias, so netd's are known by a
number: the major of a bucket's handle, the priority of a filter. Whatever else stands on a link of
netd's, the reference bandwidth plugin's buckets among it, is not looked at.

The filter is u32 with one key that everything matches, because the kernel's matchall is younger and not
everywhere.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator, Mapping

from netd.errors import Unsupported
from netd.kernel import fastnl
from netd.kernel.dumps import Link, own_altname
from netd.kernel.fastnl import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Refused, Socket, attribute
from netd.objects import Ifb, Redirect, Shaper

# include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h
RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_DELTFILTER, RTM_GETTFILTER = 44, 45, 46
NLM_F_REPLACE = 0x100
TC_H_ROOT, TC_H_INGRESS, INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # of clsact; the older ingress queue takes either for its own
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TCA_U32_SEL, TCA_U32_ACT, TC_U32_TERMINAL = 5, 7, 1
TCA_ACT_KIND, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS = 1, 2, 2
TC_ACT_STOLEN, TCA_EGRESS_REDIR, LINKLAYER_ETHERNET = 4, 1, 1

EVENTS = frozenset({RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER})

TCMSG = struct.Struct("=BxHiIII")
RATE = struct.Struct("=BBHhHI")
TBF = struct.Struct("=12s12sIII")
SELECTOR = struct.Struct("=BBBxHHhhI")
MIRRED = struct.Struct("=IIiiiiI")

OWN = 0x4E44
""" "ND": the major of handles, and the priority of filters, that netd gives."""
HANDLE = OWN << 16
EVERY_PROTOCOL = 0x0300  # ETH_P_ALL in network order
FILTER = OWN << 16 | EVERY_PROTOCOL
TICK = 64
"""Nanoseconds of the unit in which the kernel tells how long it takes to empty a bucket."""
WAITING = 40
"""What does not fit the bucket waits for at most this part of a second: a fortieth, 25 ms."""
ANY = struct.pack("=IIii", 0, 0, 0, 0)


# Messages -----------------------------------------------------------------------------------------


def ifb_create(wanted: Ifb, group: int) -> bytes:
    """Make an IFB device, up."""
    body = (
        fastnl.IFINFO.pack(fastnl.AF_UNSPEC, 0, 0, fastnl.IFF_UP, fastnl.IFF_UP)
        + fastnl.text(fastnl.IFLA_IFNAME, wanted.name)
        + fastnl.u32(fastnl.IFLA_MTU, wanted.mtu)
        + fastnl.u32(fastnl.IFLA_GROUP, group)
        + attribute(fastnl.IFLA_LINKINFO, fastnl.text(fastnl.IFLA_INFO_KIND, "ifb"))
    )
    return fastnl.message(fastnl.RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def bucket_set(index: int, rate: int, burst: int) -> bytes:
    """Put a bucket at the root of a link, whatever stood there. Bytes a second, bytes.

    The queue behind it is as long as what passes in 25 ms. It is told exactly and the burst is not (only
    as time, rounded), so the burst is read back from its length.
    """
    ratespec = RATE.pack(0, LINKLAYER_ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    limit = min(rate // WAITING + burst, 0xFFFFFFFF)
    options = attribute(TCA_TBF_PARMS, TBF.pack(ratespec, bytes(12), limit, 0, 0))
    options += attribute(TCA_TBF_BURST, struct.pack("=I", burst))
    if rate > 0xFFFFFFFF:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    body = TCMSG.pack(0, 0, index, HANDLE, TC_H_ROOT, 0) + fastnl.text(TCA_KIND, "tbf")
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return fastnl.message(RTM_NEWQDISC, flags, body + attribute(TCA_OPTIONS, options))


def bucket_delete(index: int) -> bytes:
    """Take netd's bucket away; anybody else's has another handle and is not hit."""
    return fastnl.message(RTM_DELQDISC, NLM_F_ACK, TCMSG.pack(0, 0, index, HANDLE, TC_H_ROOT, 0))


def ingress_add(index: int) -> bytes:
    """Make filters on what a link receives possible."""
    body = TCMSG.pack(0, 0, index, INGRESS_HANDLE, TC_H_INGRESS, 0) + fastnl.text(TCA_KIND, "ingress")
    return fastnl.message(RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def ingress_delete(index: int) -> bytes:
    """Take that away, with all filters."""
    body = TCMSG.pack(0, 0, index, INGRESS_HANDLE, TC_H_INGRESS, 0)
    return fastnl.message(RTM_DELQDISC, NLM_F_ACK, body)


def redirect_add(index: int, to: int) -> bytes:
    """Lead all that a link receives to the device `to`."""
    parms = MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)
    action = fastnl.text(TCA_ACT_KIND, "mirred") + attribute(
        TCA_ACT_OPTIONS, attribute(TCA_MIRRED_PARMS, parms)
    )
    options = attribute(TCA_U32_SEL, SELECTOR.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + ANY)
    options += attribute(TCA_U32_ACT, attribute(1, action))
    body = TCMSG.pack(0, 0, index, 0, INGRESS, FILTER) + fastnl.text(TCA_KIND, "u32")
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return fastnl.message(RTM_NEWTFILTER, flags, body + attribute(TCA_OPTIONS, options))


def redirect_delete(index: int) -> bytes:
    """Take netd's filter away."""
    body = TCMSG.pack(0, 0, index, 0, INGRESS, FILTER)
    return fastnl.message(RTM_DELTFILTER, NLM_F_ACK, body)


def queue_dump() -> bytes:
    """The queues of all links."""
    return fastnl.message(RTM_GETQDISC, NLM_F_DUMP, TCMSG.pack(0, 0, 0, 0, 0, 0))


def filter_dump(index: int, place: int = INGRESS) -> bytes:
    """The filters on what one link receives, or sends."""
    return fastnl.message(RTM_GETTFILTER, NLM_F_DUMP, TCMSG.pack(0, 0, index, 0, place, 0))


# Reading ------------------------------------------------------------------------------------------


def ifb_of(link: Link) -> Ifb:
    """The device as it was asked for, as far as it still is."""
    return Ifb(link.name, link.alias, own_altname(link), link.mtu, up=link.up)


def observed(socket: Socket, links: Mapping[int, Link]) -> Iterator[Shaper | Redirect]:
    """netd's buckets and redirections on those of `links` (by index) that are netd's."""
    for body in socket.dump(queue_dump()):
        _, _, index, handle, parent, _ = TCMSG.unpack_from(body)
        link = links.get(index)
        if link is None or not link.ours:
            continue
        if handle == HANDLE and parent == TC_H_ROOT:
            yield from _bucket(link.name, body)
        elif handle == INGRESS_HANDLE:
            for each in socket.dump(filter_dump(index)):
                yield from _redirect(link.name, each, links)


def has_filters(socket: Socket, index: int) -> bool:
    """Whether a link with a place for filters has any, anybody's."""
    return any(socket.dump(filter_dump(index, place)) for place in (INGRESS, EGRESS))


def _bucket(name: str, body: bytes) -> Iterator[Shaper]:
    found = dict(fastnl.attributes(body, TCMSG.size))
    if found.get(TCA_KIND) != b"tbf\0":
        return
    options = dict(fastnl.attributes(found.get(TCA_OPTIONS, b"")))
    ratespec, _, limit, ticks, _ = TBF.unpack_from(options[TCA_TBF_PARMS])
    rate = RATE.unpack(ratespec)[5]
    if TCA_TBF_RATE64 in options:
        (rate,) = struct.unpack_from("=Q", options[TCA_TBF_RATE64])
    burst, seen = limit - rate // WAITING, ticks * TICK * rate // 10**9
    # Somebody may have changed the burst and left the queue: then what is seen is the truth.
    yield Shaper(name, rate, burst if abs(burst - seen) <= 64 + burst // 100 else seen)


def _redirect(name: str, body: bytes, links: Mapping[int, Link]) -> Iterator[Redirect]:
    *_, info = TCMSG.unpack_from(body)
    found = dict(fastnl.attributes(body, TCMSG.size))
    options = dict(fastnl.attributes(found.get(TCA_OPTIONS, b"")))
    if info != FILTER or TCA_U32_ACT not in options:
        return  # u32 also lists the table that its filters are in
    for _, action in fastnl.attributes(options[TCA_U32_ACT]):
        parts = dict(fastnl.attributes(action))
        told = dict(fastnl.attributes(parts.get(TCA_ACT_OPTIONS, b"")))
        if TCA_MIRRED_PARMS in told:
            to = MIRRED.unpack_from(told[TCA_MIRRED_PARMS])[6]
            yield Redirect(name, links[to].name if to in links else "")


# Writing ------------------------------------------------------------------------------------------


class Queues:
    """Writes buckets and redirections; `send` and `send_removal` are those of `netd.kernel.links`."""

    def __init__(
        self, socket: Socket, send: Callable[[bytes], None], send_removal: Callable[[bytes], None]
    ) -> None:
        self._socket = socket
        self._send = send
        self._send_removal = send_removal

    def shape(self, index: int, wanted: Shaper) -> None:
        """Make a bucket, or give it another size. Raises `Unsupported`."""
        try:
            self._send(bucket_set(index, wanted.rate, wanted.burst))
        except Refused as error:
            raise _unsupported(error, "the token bucket queue (CONFIG_NET_SCH_TBF)") or error from error

    def unshape(self, index: int) -> None:
        """Take netd's bucket away."""
        if any(
            TCMSG.unpack_from(body)[2:5] == (index, HANDLE, TC_H_ROOT)
            for body in self._socket.dump(queue_dump())
        ):
            self._send_removal(bucket_delete(index))

    def redirect(self, index: int, to: int) -> None:
        """Lead what a link receives to `to`, and nowhere else any more. Raises `Unsupported`."""
        lacking = "ingress queues, u32 filters and the mirred action (CONFIG_NET_SCH_INGRESS, "
        lacking += "CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)"
        try:
            try:
                self._send(ingress_add(index))
            except Refused as error:
                if error.errno != errno.EEXIST:
                    raise
                self._drop(index)
            self._send(redirect_add(index, to))
        except Refused as error:
            raise _unsupported(error, lacking) or error from error

    def undirect(self, index: int) -> None:
        """Take the redirection away, and what it stood on if nobody else uses that."""
        if self._drop(index) and not has_filters(self._socket, index):
            self._send_removal(ingress_delete(index))

    def _drop(self, index: int) -> bool:
        try:
            present = self._socket.dump(filter_dump(index))
        except Refused:
            return False
        if not any(TCMSG.unpack_from(body)[5] == FILTER for body in present):
            return False
        self._send_removal(redirect_delete(index))
        return True


def _unsupported(error: Refused, what: str) -> Unsupported | None:
    """The kernel's way to say that it lacks `what`: no such queue, filter or kind of link."""
    if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):
        return None
    return Unsupported(
        f"bandwidth limits need {what}, which this kernel lacks; load the module, or leave the limit out"
    )


def no_ifb(error: Refused) -> Unsupported | None:
    """The kernel's answer where it has no IFB devices."""
    return _unsupported(error, "IFB devices (CONFIG_IFB)")
