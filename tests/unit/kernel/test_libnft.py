"""What libnftables says, turned into values and errnos. (tests/kernel/test_nft.py has the real one.)"""

from __future__ import annotations

import errno
import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from netd.kernel import libnft
from netd.objects import Element

NAT = Element("inet", "nat", ("nd-1",))
WEB = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))


def listing(*items: Any) -> str:
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *items]})


def test_a_listing_is_read_back_as_it_was_asked_for() -> None:
    mac = "02:42:0a:59:00:02"
    listed = listing(
        {"set": {"family": "inet", "table": "netd", "name": "nat", "elem": ["nd-1"]}},
        {
            "map": {
                "family": "inet",
                "table": "netd",
                "name": "any4",
                "elem": [[{"concat": ["tcp", 8080]}, {"concat": ["10.89.0.2", 80]}]],
            }
        },
        {
            "set": {
                "family": "bridge",
                "table": "netd",
                "name": "target6",
                "elem": [{"concat": ["ve-1", mac, "0xfe800000000000000000000000000002"]}],
            }
        },
        {"set": {"family": "inet", "table": "netd", "name": "routed"}},
    )
    target = Element("bridge", "target6", ("ve-1", mac, IPv6Address("fe80::2")))
    assert set(libnft.elements_of(listed)) == {NAT, WEB, target}


def test_what_netd_cannot_have_written_is_left_out() -> None:
    listed = listing(
        {"set": {"family": "inet", "table": "netd", "name": "version", "elem": ["0a1b2c"]}},
        {"set": {"family": "inet", "table": "netd", "name": "added_by_hand", "elem": ["x"]}},
        {"set": {"family": "inet", "table": "other", "name": "nat", "elem": ["eth0"]}},
        {"set": {"family": "inet", "table": "netd", "name": "gateways4", "elem": [{"prefix": {"len": 8}}]}},
        {"set": {"family": "inet", "table": "netd", "name": "nat", "elem": [{"elem": {"val": "nd-1"}}]}},
    )
    assert set(libnft.elements_of(listed)) == {NAT}


def test_the_fixed_part_of_a_table_has_no_handles_and_no_elements() -> None:
    def table(handle: int, *elements: str, rule: str = "accept") -> str:
        where = {"family": "inet", "table": "netd"}
        return listing(
            {"table": {"family": "inet", "name": "netd", "handle": handle}},
            {"set": {**where, "name": "nat", "type": "ifname", "handle": handle, "elem": list(elements)}},
            {"chain": {**where, "name": "forward", "handle": handle}},
            {"rule": {**where, "chain": "forward", "handle": handle, "expr": [{rule: None}]}},
        )

    one = libnft.rules_of(table(1))
    assert one == libnft.rules_of(table(9, "nd-1", "nd-2"))
    assert one != libnft.rules_of(table(1, rule="drop"))
    assert set(one) == {"set nat", "chain forward"}


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        ("Error: Could not process rule: File exists\nadd element ...\n^^^^", errno.EEXIST),
        ("internal:0:0-0: Error: Could not process rule: No such file or directory\n", errno.ENOENT),
        ("Error: syntax error, unexpected string", errno.EINVAL),
        ("", errno.EINVAL),
    ],
)
def test_words_of_libnftables_become_an_errno(problem: str, code: int) -> None:
    assert libnft.errno_of(problem) == code


def test_an_error_becomes_one_line() -> None:
    problem = "Error: Could not process rule: File exists\nadd element x\n    ^^^^^^~~~\n"
    assert libnft.one_line(problem) == "Error: Could not process rule: File exists / add element x"
