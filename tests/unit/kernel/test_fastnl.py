"""The hand-packed messages against pyroute2's encoder, byte for byte, and the reading of answers."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from netd.errors import Unavailable
from netd.kernel import fastnl
from netd.kernel.fastnl import Refused

MAC = "02:42:0a:59:00:02"
CREATE = fastnl.NLM_F_CREATE | fastnl.NLM_F_EXCL


def encoded(kind: type[Any], fields: dict[str, Any], attributes: list[Any], type: int, flags: int) -> bytes:
    """What pyroute2 makes of a request."""
    message = kind()
    message.update(fields)
    message["attrs"] = attributes
    message["header"] = {"type": type, "flags": fastnl.NLM_F_REQUEST | flags, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


def link(fields: dict[str, Any], attributes: list[Any], type: int, flags: int) -> bytes:
    return encoded(ifinfmsg, {"family": 0, "ifi_type": 0, **fields}, attributes, type, flags)


def test_veth_create() -> None:
    peer = [["IFLA_IFNAME", "eth0"], ["IFLA_ADDRESS", MAC], ["IFLA_MTU", 1450], ["IFLA_NET_NS_FD", 7]]
    info = [["IFLA_INFO_KIND", "veth"], ["IFLA_INFO_DATA", {"attrs": [["VETH_INFO_PEER", {"attrs": peer}]]}]]
    expected = link(
        {"index": 0, "flags": 1, "change": 1},
        [
            ["IFLA_IFNAME", "ve-1"],
            ["IFLA_MTU", 1450],
            ["IFLA_GROUP", 5],
            ["IFLA_LINKINFO", {"attrs": info}],
        ],
        fastnl.RTM_NEWLINK,
        fastnl.NLM_F_ACK | CREATE,
    )
    assert fastnl.veth_create("ve-1", 1450, 5, "eth0", MAC, 7) == expected
    numbered = fastnl.veth_create("ve-1", 1450, 5, "eth0", MAC, 7, indexes=(0x51, 0x52))
    changed = [(at, new) for at, (old, new) in enumerate(zip(expected, numbered, strict=True)) if old != new]
    assert [new for _, new in changed] == [0x51, 0x52]
    header = expected.index(b"eth0") - 4 - fastnl.IFINFO.size
    assert [at for at, _ in changed] == [fastnl.HEADER.size + 4, header + 4], "ifi_index of either end"


def test_bridge_create() -> None:
    data = [["IFLA_BR_STP_STATE", 0], ["IFLA_BR_MCAST_SNOOPING", 0]]
    info = [["IFLA_INFO_KIND", "bridge"], ["IFLA_INFO_DATA", {"attrs": data}]]
    expected = link(
        {"index": 0, "flags": 1, "change": 1},
        [
            ["IFLA_IFNAME", "nd-1"],
            ["IFLA_ADDRESS", MAC],
            ["IFLA_MTU", 1500],
            ["IFLA_GROUP", 5],
            ["IFLA_LINKINFO", {"attrs": info}],
        ],
        fastnl.RTM_NEWLINK,
        fastnl.NLM_F_ACK | CREATE,
    )
    assert fastnl.bridge_create("nd-1", MAC, 1500, 5) == expected


def test_link_change() -> None:
    port = [["IFLA_BRPORT_MODE", 1], ["IFLA_BRPORT_ISOLATED", 0]]
    info = [["IFLA_INFO_SLAVE_KIND", "bridge"], ["IFLA_INFO_SLAVE_DATA", {"attrs": port}]]
    expected = link(
        {"index": 9, "flags": 1, "change": 1},
        [
            ["IFLA_ADDRESS", MAC],
            ["IFLA_MTU", 1400],
            ["IFLA_MASTER", 3],
            ["IFLA_IFALIAS", "netd:x"],
            ["IFLA_GROUP", 0],
            ["IFLA_LINKINFO", {"attrs": info}],
        ],
        fastnl.RTM_NEWLINK,
        fastnl.NLM_F_ACK,
    )
    changed = fastnl.link_change(
        9, up=True, mac=MAC, mtu=1400, master=3, alias="netd:x", group=0, port=(False, True)
    )
    assert changed == expected


def test_link_without_an_ipv6_address_of_its_own() -> None:
    none = ["AF_INET6", {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", 1]]}]
    expected = link(
        {"index": 9, "flags": 0, "change": 0},
        [["IFLA_AF_SPEC", {"attrs": [none]}]],
        fastnl.RTM_NEWLINK,
        fastnl.NLM_F_ACK,
    )
    assert fastnl.link_change(9, own_ipv6=False) == expected


@pytest.mark.parametrize(
    ("type", "flags"), [(fastnl.RTM_NEWLINKPROP, CREATE), (fastnl.RTM_DELLINKPROP, 0)], ids=["add", "delete"]
)
def test_altname(type: int, flags: int) -> None:
    expected = link(
        {"index": 9, "flags": 0, "change": 0},
        [["IFLA_PROP_LIST", {"attrs": [["IFLA_ALT_IFNAME", "web@front"]]}]],
        type,
        fastnl.NLM_F_ACK | flags,
    )
    assert fastnl.altname(type, 9, "web@front") == expected


def test_deleting_links() -> None:
    one = link({"index": 9, "flags": 0, "change": 0}, [], fastnl.RTM_DELLINK, fastnl.NLM_F_ACK)
    assert fastnl.link_delete(9) == one
    group = link(
        {"index": 0, "flags": 0, "change": 0}, [["IFLA_GROUP", 77]], fastnl.RTM_DELLINK, fastnl.NLM_F_ACK
    )
    assert fastnl.group_delete(77) == group


def test_asking_for_links() -> None:
    fields = {"index": 0, "flags": 0, "change": 0}
    mask = ["IFLA_EXT_MASK", fastnl.RTEXT_FILTER_SKIP_STATS]
    assert fastnl.link_get("eth0") == link(fields, [["IFLA_IFNAME", "eth0"], mask], fastnl.RTM_GETLINK, 0)
    long = "a" * 40
    by_altname = link(fields, [["IFLA_ALT_IFNAME", long], mask], fastnl.RTM_GETLINK, 0)
    assert fastnl.link_get_by_altname(long) == by_altname
    assert fastnl.link_dump() == link(fields, [mask], fastnl.RTM_GETLINK, fastnl.NLM_F_DUMP)


def test_ipv4_addresses() -> None:
    fields = {"family": 2, "prefixlen": 24, "flags": 0, "scope": 0, "index": 4}
    address = [["IFA_LOCAL", "10.89.0.2"], ["IFA_ADDRESS", "10.89.0.2"]]
    rest = [["IFA_BROADCAST", "10.89.0.255"], ["IFA_PROTO", 78]]
    added = encoded(ifaddrmsg, fields, address + rest, fastnl.RTM_NEWADDR, fastnl.NLM_F_ACK | CREATE)
    assert fastnl.address_add(4, IPv4Interface("10.89.0.2/24"), 78) == added
    deleted = encoded(ifaddrmsg, fields, address, fastnl.RTM_DELADDR, fastnl.NLM_F_ACK)
    assert fastnl.address_delete(4, IPv4Interface("10.89.0.2/24")) == deleted


def test_an_address_without_its_prefix() -> None:
    fields = {"family": 2, "prefixlen": 24, "flags": 0, "scope": 0, "index": 4}
    address = [["IFA_LOCAL", "10.89.0.2"], ["IFA_ADDRESS", "10.89.0.2"], ["IFA_BROADCAST", "10.89.0.255"]]
    rest = [["IFA_PROTO", 78], ["IFA_FLAGS", fastnl.IFA_F_NOPREFIXROUTE]]
    added = encoded(ifaddrmsg, fields, address + rest, fastnl.RTM_NEWADDR, fastnl.NLM_F_ACK | CREATE)
    assert fastnl.address_add(4, IPv4Interface("10.89.0.2/24"), 78, onlink=False) == added


def test_a_point_to_point_address_has_no_broadcast() -> None:
    assert struct.pack("=HH", 8, fastnl.IFA_BROADCAST) not in fastnl.address_add(
        4, IPv4Interface("10.0.0.1/31"), 78
    )


def test_ipv6_address_without_duplicate_detection() -> None:
    fields = {"family": 10, "prefixlen": 64, "flags": fastnl.IFA_F_NODAD, "scope": 0, "index": 4}
    attributes = [["IFA_LOCAL", "fd00::2"], ["IFA_ADDRESS", "fd00::2"], ["IFA_PROTO", 78]]
    expected = encoded(ifaddrmsg, fields, attributes, fastnl.RTM_NEWADDR, fastnl.NLM_F_ACK | CREATE)
    assert fastnl.address_add(4, IPv6Interface("fd00::2/64"), 78) == expected


@pytest.mark.parametrize(
    ("destination", "via", "family", "scope", "attributes"),
    [
        (IPv4Network("0.0.0.0/0"), IPv4Address("10.0.0.1"), 2, 0, [["RTA_GATEWAY", "10.0.0.1"]]),
        (IPv4Network("192.0.2.0/24"), None, 2, 253, [["RTA_DST", "192.0.2.0"]]),
        (IPv6Network("::/0"), IPv6Address("fd00::1"), 10, 0, [["RTA_GATEWAY", "fd00::1"]]),
        (IPv6Network("2001:db8::/32"), None, 10, 0, [["RTA_DST", "2001:db8::"]]),
    ],
)
def test_routes(destination: Any, via: Any, family: int, scope: int, attributes: list[Any]) -> None:
    fields = {
        "family": family,
        "dst_len": destination.prefixlen,
        "src_len": 0,
        "tos": 0,
        "table": 254,
        "proto": 78,
        "scope": scope,
        "type": 1,
        "flags": 0,
    }
    attributes = [*attributes, ["RTA_OIF", 6]]
    added = encoded(rtmsg, fields, attributes, fastnl.RTM_NEWROUTE, fastnl.NLM_F_ACK | CREATE)
    assert fastnl.route_add(destination, 6, via, 78) == added
    deleted = encoded(rtmsg, fields, attributes, fastnl.RTM_DELROUTE, fastnl.NLM_F_ACK)
    assert fastnl.route_delete(destination, 6, via, 78) == deleted


def test_attributes_end_at_nonsense() -> None:
    good = fastnl.u32(fastnl.IFLA_MTU, 1500)
    assert list(fastnl.attributes(good + b"\x00\x00\x01\x00")) == [(fastnl.IFLA_MTU, good[4:])]


class Scripted(fastnl.Socket):
    """A socket whose kernel answers from a script: one list of datagrams for each request."""

    def __init__(self, *answers: list[Callable[[int], bytes]]) -> None:
        self._sequence = 0
        self._script: Iterator[list[Callable[[int], bytes]]] = iter(answers)
        self._pending: list[bytes] = []
        self._socket: Any = self
        self.asked = 0

    def send(self, request: bytes) -> None:
        """Take a request and make its answers ready."""
        self.asked += 1
        self._pending = [answer(self._sequence) for answer in next(self._script)]

    def recv(self, size: int) -> bytes:
        """The next datagram."""
        return self._pending.pop(0)


def answer(kind: int, flags: int, body: bytes, late: int = 0) -> Callable[[int], bytes]:
    return lambda sequence: (
        fastnl.HEADER.pack(fastnl.HEADER.size + len(body), kind, flags, sequence - late, 0) + body
    )


def acknowledgement(code: int, hint: str = "", late: int = 0) -> Callable[[int], bytes]:
    body = struct.pack("=i", -code) + fastnl.HEADER.pack(16, 16, 0, 0, 0)
    flags = fastnl.NLM_F_CAPPED
    if hint:
        body += fastnl.text(fastnl.NLMSGERR_ATTR_MSG, hint)
        flags |= fastnl.NLM_F_ACK_TLVS
    return answer(fastnl.NLMSG_ERROR, flags, body, late)


def done() -> Callable[[int], bytes]:
    return answer(fastnl.NLMSG_DONE, 0, struct.pack("=i", 0))


def test_a_refusal_carries_the_kernels_words() -> None:
    socket = Scripted([acknowledgement(errno.ENETUNREACH, "Nexthop has invalid gateway")])
    with pytest.raises(Refused) as caught:
        socket.request(fastnl.link_delete(1))
    assert caught.value.errno == errno.ENETUNREACH
    assert caught.value.hint == "Nexthop has invalid gateway"


def test_an_answer_to_an_earlier_request_is_not_taken_for_this_one() -> None:
    Scripted([acknowledgement(errno.EPERM, late=1), acknowledgement(0)]).request(fastnl.link_delete(1))


def test_what_does_not_exist_is_none() -> None:
    assert Scripted([acknowledgement(errno.ENODEV)]).get(fastnl.link_get("x")) is None
    with pytest.raises(Refused):
        Scripted([acknowledgement(errno.EPERM)]).get(fastnl.link_get("x"))


def test_a_dump_is_all_its_messages() -> None:
    parts = [answer(16, 2, b"one."), answer(16, 2, b"two."), done()]
    assert Scripted(parts).dump(fastnl.link_dump()) == [b"one.", b"two."]


def test_an_interrupted_dump_is_asked_for_again() -> None:
    interrupted = [answer(16, 2, b"old."), answer(16, 2 | fastnl.NLM_F_DUMP_INTR, b"odd."), done()]
    socket = Scripted(interrupted, [answer(16, 2, b"new."), done()])
    assert socket.dump(fastnl.link_dump()) == [b"new."]
    assert socket.asked == 2


def test_a_dump_that_is_always_interrupted_is_refused_rather_than_half_believed() -> None:
    interrupted = [answer(fastnl.NLMSG_DONE, fastnl.NLM_F_DUMP_INTR, struct.pack("=i", 0))]
    socket = Scripted(*[interrupted] * fastnl.DUMP_TRIES)
    with pytest.raises(Unavailable, match="try again"):
        socket.dump(fastnl.link_dump())
    assert socket.asked == fastnl.DUMP_TRIES


def test_a_refused_dump_raises() -> None:
    with pytest.raises(Refused):
        Scripted([acknowledgement(errno.EINVAL)]).dump(fastnl.link_dump())
