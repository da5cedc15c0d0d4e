"""The hand-packed messages against pyroute2's encoder, byte for byte; tables put back together."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from netd.kernel import fastnl, vxlan
from netd.kernel.vxlan import NTF_SELF, NUD_NOARP, NUD_PERMANENT, Entry
from netd.model import IPAddress
from netd.objects import Flood, Remote, Vxlan

MAC = "02:42:0a:59:00:02"
FOUR, SIX = IPv4Address("10.1.0.2"), IPv6Address("fd00::2")
VTEP = IPv4Address("192.0.2.2")
DEVICE = Vxlan("vx-1", "netd:vxlan@n", "", 4097, IPv4Address("192.0.2.1"), 4789, MAC, 1450, "nd-1")


def encoded(kind: type[Any], fields: dict[str, Any], attributes: list[Any], type: int, flags: int) -> bytes:
    message = kind()
    message.update(fields)
    message["attrs"] = attributes
    message["header"] = {"type": type, "flags": fastnl.NLM_F_REQUEST | flags, "sequence_number": 0, "pid": 0}
    message.encode()
    return bytes(message.data)


def neighbour(fields: dict[str, Any], attributes: list[Any], type: int, flags: int) -> bytes:
    return encoded(ndmsg, {"ndm_type": 0, **fields}, attributes, type, flags)


@pytest.mark.parametrize(
    ("local", "attribute"),
    [(IPv4Address("192.0.2.1"), "IFLA_VXLAN_LOCAL"), (IPv6Address("2001:db8::1"), "IFLA_VXLAN_LOCAL6")],
)
def test_create(local: IPAddress, attribute: str) -> None:
    wanted = Vxlan("vx-1", "netd:vxlan@n", "", 4097, local, 4789, MAC, 1450, "nd-1")
    data = [
        ["IFLA_VXLAN_ID", 4097],
        [attribute, str(local)],
        ["IFLA_VXLAN_LEARNING", 0],
        ["IFLA_VXLAN_PORT", 4789],
    ]
    info = [["IFLA_INFO_KIND", "vxlan"], ["IFLA_INFO_DATA", {"attrs": data}]]
    expected = encoded(
        ifinfmsg,
        {"family": 0, "ifi_type": 0, "index": 0, "flags": 0, "change": 0},
        [
            ["IFLA_IFNAME", "vx-1"],
            ["IFLA_ADDRESS", MAC],
            ["IFLA_MTU", 1450],
            ["IFLA_GROUP", 5],
            ["IFLA_LINKINFO", {"attrs": info}],
        ],
        fastnl.RTM_NEWLINK,
        fastnl.NLM_F_ACK | fastnl.NLM_F_CREATE | fastnl.NLM_F_EXCL,
    )
    assert vxlan.create(wanted, 5) == expected


def test_neighbours() -> None:
    for address, family in ((FOUR, 2), (SIX, 10)):
        assert vxlan.neighbour_add(3, address, MAC) == neighbour(
            {"family": family, "ifindex": 3, "state": 0x80, "flags": 0},
            [["NDA_DST", str(address)], ["NDA_LLADDR", MAC], ["NDA_PROTOCOL", 78]],
            vxlan.RTM_NEWNEIGH,
            fastnl.NLM_F_ACK | fastnl.NLM_F_CREATE | 0x100,
        )
        where = {"family": family, "ifindex": 3, "state": 0, "flags": 0}
        assert vxlan.neighbour_delete(3, address) == neighbour(
            where, [["NDA_DST", str(address)]], vxlan.RTM_DELNEIGH, fastnl.NLM_F_ACK
        )
        assert vxlan.neighbour_get(3, address) == neighbour(
            where, [["NDA_DST", str(address)]], vxlan.RTM_GETNEIGH, 0
        )


def test_forwarding_entries() -> None:
    own = {"family": 7, "ifindex": 4, "state": 0xC0, "flags": 2}
    leads = [["NDA_LLADDR", MAC], ["NDA_DST", str(VTEP)]]
    create = fastnl.NLM_F_ACK | fastnl.NLM_F_CREATE
    assert vxlan.tunnel_add(4, MAC, VTEP) == neighbour(own, leads, vxlan.RTM_NEWNEIGH, create | 0x100)
    assert vxlan.tunnel_add(4, MAC, VTEP, append=True) == neighbour(
        own, leads, vxlan.RTM_NEWNEIGH, create | 0x800
    )
    assert vxlan.tunnel_delete(4, MAC, VTEP) == neighbour(own, leads, vxlan.RTM_DELNEIGH, fastnl.NLM_F_ACK)
    assert vxlan.tunnel_delete(4, MAC, None) == neighbour(
        own, leads[:1], vxlan.RTM_DELNEIGH, fastnl.NLM_F_ACK
    )
    port = {"family": 7, "ifindex": 4, "state": 0x40, "flags": 4}
    assert vxlan.behind(vxlan.RTM_NEWNEIGH, 4, MAC) == neighbour(
        port, leads[:1], vxlan.RTM_NEWNEIGH, create | 0x100
    )


def entry(**more: Any) -> Entry:
    fields = {"family": 7, "index": 4, "state": 0, "flags": 0, "mac": MAC, "to": None, "protocol": 0}
    return Entry(**{**fields, **more})


NEIGHBOURS = [
    entry(family=10, state=NUD_PERMANENT, to=SIX, protocol=78),
    entry(family=2, state=NUD_PERMANENT, to=FOUR, protocol=78),
]
SELF = entry(state=NUD_PERMANENT | NUD_NOARP, flags=NTF_SELF, to=VTEP)
BEHIND = entry(state=NUD_NOARP)
WHOLE = Remote("nd-1", "vx-1", MAC, (FOUR, SIX), VTEP)


def found(neighbours: list[Entry], table: list[Entry]) -> list[Remote | Flood]:
    return list(vxlan.remotes("nd-1", "vx-1", neighbours, table))


def test_what_is_whole_in_all_tables_is_a_remote() -> None:
    assert found(NEIGHBOURS, [SELF, BEHIND]) == [WHOLE]


@pytest.mark.parametrize(
    ("neighbours", "table"),
    [
        (NEIGHBOURS[:1], [SELF, BEHIND]),
        ([], [SELF, BEHIND]),
        (NEIGHBOURS, [SELF]),
        (NEIGHBOURS, [BEHIND]),
        (NEIGHBOURS, []),
        ([NEIGHBOURS[0], entry(family=2, state=2, to=FOUR, protocol=78)], [SELF, BEHIND]),
    ],
    ids=["one neighbour", "none", "not behind", "no tunnel", "neighbours alone", "a guess"],
)
def test_what_is_not_whole_is_another_of_the_same_key(neighbours: list[Entry], table: list[Entry]) -> None:
    [partial] = found(neighbours, table)
    assert partial != WHOLE
    assert partial.key == WHOLE.key


def test_what_others_know_is_not_netds() -> None:
    others = [
        entry(family=2, state=NUD_PERMANENT, to=FOUR),  # an administrator's neighbour
        entry(family=2, state=2, to=FOUR),  # what the kernel has resolved
    ]
    table = [
        entry(state=NUD_PERMANENT),  # the port's own MAC
        entry(mac="33:33:00:00:00:01", state=NUD_PERMANENT, flags=NTF_SELF),
    ]
    assert found(others, table) == []


def test_flood_entries() -> None:
    assert found([], [entry(mac=vxlan.EVERYONE, flags=NTF_SELF, to=VTEP)]) == [Flood("vx-1", VTEP)]
