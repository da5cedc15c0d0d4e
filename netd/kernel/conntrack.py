"""Forgetting flows, so that their next packet meets the rules as they are now.

A UDP flow that is in conntrack keeps the translation it was born with. When a port is published, a
client that was already knocking would go on reaching nobody; when it is removed, a client would go
on reaching the old container (moby #8795). What counts is the original destination, the host's
address and port: matching the container's port instead leaves flows behind whenever the two differ
(moby #53384).

What began while rules were missing is a matter of its own. Conntrack calls it established, and the
rules, once they are back, let established flows pass: a door that stood open for five milliseconds
would stay open for as long as somebody leans against it. `untranslated` forgets every flow of some
addresses that is not translated. A flow that may be is not interrupted by that: its next packet is
judged like a first one, and passes.

Entries are found by a dump that the kernel filters, and are deleted one by one by their whole
tuple. Not by one filtered delete: kernels that do not know the filter would take it for a request to
flush everything.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Collection
from ipaddress import IPv4Address, IPv6Address

from netd.errors import KernelError
from netd.kernel import fastnl
from netd.kernel.fastnl import NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, Refused, Socket, attribute, attributes
from netd.model import IPAddress

# include/uapi/linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
CT_GET, CT_DELETE = 0x0101, 0x0102
CTA_TUPLE_ORIG, CTA_STATUS, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 3, 12, 18, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_DST, CTA_IP_V6_DST = 2, 4
IPS_NAT_MASK = 1 << 4 | 1 << 5
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_PROTO_NUM, FILTER_DST_PORT = 1 << 3, 1 << 5
IPPROTO_UDP = 17
NO_CONNTRACK = {errno.ENOENT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT}

Ports = Collection[tuple[IPAddress | None, int]]


def flush(ports: Ports, wrote: Callable[[], None]) -> None:
    """Delete the UDP entries of the calling thread's namespace that were first sent to one of `ports`.

    An address of None matches every address. Entries that vanish meanwhile and a kernel without
    conntrack are fine.
    """
    if ports:
        _forget(lambda family: _dump(family, ports), lambda body: _matches(body, ports), wrote)


def untranslated(addresses: Collection[IPAddress], wrote: Callable[[], None]) -> None:
    """Delete the entries of any protocol that begin or end at one of `addresses` and have no NAT."""
    if addresses:
        packed = {address.packed for address in addresses}
        _forget(
            lambda family: fastnl.message(CT_GET, NLM_F_DUMP, _nfgenmsg(family)),
            lambda body: _is_untranslated(body, packed),
            wrote,
        )


def _forget(ask: Callable[[int], bytes], matches: Callable[[bytes], bool], wrote: Callable[[], None]) -> None:
    try:
        with Socket(fastnl.NETLINK_NETFILTER) as socket:
            for family in (fastnl.AF_INET, fastnl.AF_INET6):
                for body in socket.dump(ask(family)):
                    if matches(body):
                        wrote()
                        _delete(socket, family, body)
    except Refused as error:
        if error.errno not in NO_CONNTRACK:
            raise KernelError(error.errno or 0, "flush conntrack entries", error.hint) from error


def _dump(family: int, ports: Ports) -> bytes:
    """Ask for all UDP entries of a family, narrowed to the port if there is but one."""
    flags = FILTER_PROTO_NUM
    proto = attribute(CTA_PROTO_NUM, bytes([IPPROTO_UDP]))
    numbers = {port for _, port in ports}
    if len(numbers) == 1:
        flags |= FILTER_DST_PORT
        proto += attribute(CTA_PROTO_DST_PORT, struct.pack("!H", *numbers))
    wanted = attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, proto)
    which = fastnl.u32(CTA_FILTER_ORIG_FLAGS, flags) + fastnl.u32(CTA_FILTER_REPLY_FLAGS, 0)
    body = attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, wanted) + attribute(CTA_FILTER | NLA_F_NESTED, which)
    return fastnl.message(CT_GET, NLM_F_DUMP, _nfgenmsg(family) + body)


def _nfgenmsg(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def _matches(body: bytes, ports: Ports) -> bool:
    """Whether an entry is one of those wanted; the kernel may not have filtered."""
    entry = dict(attributes(body, 4))
    tuple_ = dict(attributes(entry.get(CTA_TUPLE_ORIG, b"")))
    proto = dict(attributes(tuple_.get(CTA_TUPLE_PROTO, b"")))
    if proto.get(CTA_PROTO_NUM) != bytes([IPPROTO_UDP]) or CTA_PROTO_DST_PORT not in proto:
        return False
    (port,) = struct.unpack("!H", proto[CTA_PROTO_DST_PORT])
    ip = dict(attributes(tuple_.get(CTA_TUPLE_IP, b"")))
    packed = ip.get(CTA_IP_V4_DST) or ip.get(CTA_IP_V6_DST) or b""
    address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return (None, port) in ports or (address, port) in ports


def _is_untranslated(body: bytes, packed: Collection[bytes]) -> bool:
    entry = dict(attributes(body, 4))
    if int.from_bytes(entry.get(CTA_STATUS, b""), "big") & IPS_NAT_MASK:
        return False
    tuple_ = dict(attributes(entry.get(CTA_TUPLE_ORIG, b"")))
    return any(value in packed for _, value in attributes(tuple_.get(CTA_TUPLE_IP, b"")))


def _delete(socket: Socket, family: int, body: bytes) -> None:
    """Delete exactly the entry of `body`: its tuple, its zone, and its id lest it be a later one."""
    entry = dict(attributes(body, 4))
    request = _nfgenmsg(family) + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, entry[CTA_TUPLE_ORIG])
    for kind in (CTA_ZONE, CTA_ID):
        if kind in entry:
            request += attribute(kind, entry[kind])
    try:
        socket.request(fastnl.message(CT_DELETE, NLM_F_ACK, request))
    except Refused as error:
        if error.errno != errno.ENOENT:
            raise
