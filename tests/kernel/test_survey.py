"""What the doctor is told of a host: pure readings of listings, and one look at a real host."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from netd.kernel import survey
from netd.kernel.ports import Chain


def listing(*items: dict[str, Any]) -> str:
    return json.dumps({"nftables": list(items)})


def chain(name: str, table: str = "fw", **fields: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": table, "name": name, "handle": 1, **fields}}


def rule(chain: str, handle: int, *expressions: Any, table: str = "fw") -> dict[str, Any]:
    return {
        "rule": {
            "family": "inet",
            "table": table,
            "chain": chain,
            "handle": handle,
            "expr": list(expressions),
        }
    }


def forward(policy: str = "accept", table: str = "fw") -> dict[str, Any]:
    return chain("fwd", table, type="filter", hook="forward", prio=0, policy=policy)


def test_drops_are_found_through_jumps_and_maps_and_loops_end() -> None:
    [found] = survey.foreign_chains(
        listing(
            forward("drop"),
            chain("a"),
            chain("b"),
            chain("unreached"),
            rule("fwd", 2, {"jump": {"target": "a"}}),
            rule("a", 3, {"vmap": {"key": 1, "data": {"set": [[1, {"goto": {"target": "b"}}]]}}}),
            rule("a", 4, {"reject": {"type": "icmpx"}}),
            rule("b", 5, {"jump": {"target": "a"}}),
            rule("b", 6, {"xt": {"type": "target", "name": "REJECT"}}),
            rule("unreached", 7, {"drop": None}),
        )
    )
    assert (found.policy, found.hook, found.spares) == ("drop", "forward", False)
    assert sorted(found.drops) == ["a handle 4", "b handle 6"]


def test_what_drops_only_invalid_packets_is_no_drop() -> None:
    match = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
    [found] = survey.foreign_chains(listing(forward(), rule("fwd", 2, match, {"drop": None})))
    assert found.drops == ()


@pytest.mark.parametrize(("verdict", "spares"), [({"accept": None}, True), ({"drop": None}, False)])
def test_a_rule_that_accepts_netds_bridges_spares_them(verdict: dict[str, None], spares: bool) -> None:
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "nd-*"}}
    [found] = survey.foreign_chains(listing(forward("drop"), rule("fwd", 2, match, verdict)))
    assert found.spares is spares


def test_netds_own_table_and_chains_that_filter_nothing_are_left_out() -> None:
    nat = chain("dst", type="nat", hook="prerouting", prio=-100, policy="accept")
    assert list(survey.foreign_chains(listing(forward("drop", "netd"), nat, chain("plain")))) == []
    assert list(survey.foreign_chains("")) == []


def test_capabilities_are_read_by_bit() -> None:
    assert survey.lacking("Name:\tx\nCapEff:\t000001ffffffffff\n") == frozenset()
    assert "CAP_NET_ADMIN" in survey.lacking("CapEff:\t000001ffffffefff\n")
    assert "CAP_SYS_ADMIN" not in survey.lacking("CapEff:\t0000000000200000\n")


def test_controllers_belong_to_the_version_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "cg2").mkdir()
    (tmp_path / "cg2" / "cgroup.controllers").write_text("cpu memory hugetlb\n")
    mounts = (
        "30 24 0:26 / /cg2 rw,nosuid - cgroup2 cgroup2 rw\n"
        "31 24 0:27 / /cg1/pids rw,nosuid - cgroup cgroup rw,pids\n"
        "32 24 0:28 / / rw - ext4 /dev/sda rw\n"
    )
    assert survey.controllers(mounts, tmp_path) == {"cpu": 2, "memory": 2, "pids": 1}


FOREIGN = """
table inet fw {
    chain out {
        type filter hook forward priority 5; policy drop;
        iifname "nd-*" accept
        oifname "nd-*" accept
    }
    chain bad { drop; }
    chain in {
        type filter hook input priority 5
        ip saddr 192.0.2.1 jump bad
    }
}
table inet netd {
    chain x { type filter hook forward priority 0; policy drop; }
}
"""


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


async def test_a_real_host(tmp_path: Path) -> None:
    nft(FOREIGN)
    try:
        found = await survey.survey()
    finally:
        nft("delete table inet fw; delete table inet netd")
    assert found.chains[0] == Chain(
        family="inet", table="fw", name="out", hook="forward", policy="drop", spares=True
    )
    assert [(c.name, c.hook, len(c.drops)) for c in found.chains[1:]] == [("in", "input", 1)]
    assert found.tried == {
        "network namespace": "",
        "bridge": "",
        "veth": "",
        "nftables rules": "",
        "latch": "",
    }
    assert found.lacking == frozenset()
    assert found.libraries["libnftables"].startswith("libnftables.so")
    assert found.libraries["libseccomp"].startswith("2.")
    assert found.sysctls["net/ipv4/ip_forward"] == "0"
    assert {"net", "mnt", "pid"} <= found.namespaces
