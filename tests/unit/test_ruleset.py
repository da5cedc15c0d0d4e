"""The text of the rules against the table of its sets; what the rules do is in tests/kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from netd import names, ruleset
from netd.firewall import COUNT, SETS, SetType

ROOT = Path(__file__).resolve().parents[2]

NFT = {
    "ifname": "ifname",
    "ether_addr": "mac",
    "ipv4_addr": "ipv4",
    "ipv6_addr": "ipv6",
    "inet_proto": "proto",
    "inet_service": "port",
    "nf_proto": "family",
    "devgroup": "group",
    # typeof
    "iifname": "ifname",
    "ether saddr": "mac",
    "@th,64,128": "target6",
}


def declared() -> Iterator[tuple[tuple[str, str], SetType]]:
    family = ""
    for line in ruleset.SETS.splitlines():
        if table := re.match(r"table (\w+) netd", line):
            family = table[1]
        elif found := re.match(r"\s*(?:set|map) (\w+) \{ type(?:of)? ([^:;]+?)(?: : ([^;]+))?;", line):
            name, key, value = found.groups()
            kinds = (tuple(NFT[part] for part in text.split(" . ")) if text else () for text in (key, value))
            if "; ct count over " in line:
                yield (family, name), SetType(next(kinds), COUNT)
            else:
                yield (family, name), SetType(*kinds)


def test_the_table_of_sets_is_that_of_the_text() -> None:
    found = dict(declared())
    for family in ("inet", "bridge", "arp"):
        assert found.pop((family, "version")) == SetType(("ifname",))
    assert found.pop(("inet", "mending")) == SetType(("family",))
    assert found == SETS


def test_every_set_is_used_by_a_rule_and_every_rule_uses_a_set_that_exists() -> None:
    for family, text in (("inet", ruleset.INET), ("bridge", ruleset.BRIDGE), ("arp", ruleset.ARP)):
        used = set(re.findall(r"@(\w+)\b(?!,)", text))
        assert used - {"mending"} == {name for table, name in SETS if table == family}


def test_no_set_has_intervals() -> None:
    """Adding to one makes libnftables read it back first, which grows with what is there."""
    assert "interval" not in ruleset.SETS


def test_the_version_changes_with_the_rules_and_fits_its_set() -> None:
    assert re.fullmatch(r"[0-9a-f]{12}", ruleset.VERSION)
    assert ruleset.TEXT.count(f'"{ruleset.VERSION}"') == 3


def test_loading_empties_chains_and_the_version_but_no_other_set() -> None:
    flushes = re.findall(r"^(?:flush|delete|destroy|reset) .*", ruleset.TEXT, re.MULTILINE)
    assert flushes == [
        "flush table inet netd",
        "flush table bridge netd",
        "flush table arp netd",
        "flush set inet netd version",
        "flush set bridge netd version",
        "flush set arp netd version",
    ]


def test_the_rules_know_the_wireguard_device_and_its_prefix_by_name() -> None:
    assert set(re.findall(r'"(wg-[^"]*)"', ruleset.INET)) == {names.WIREGUARD}
    assert set(re.findall(r"fdb4:[0-9a-f:]*/64", ruleset.INET)) == {str(names.TUNNEL_PREFIX)}


def test_whoever_removes_netd_is_told_of_every_table() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    removed = set(re.findall(r"nft delete table (\w+) netd", page))
    assert removed == set(re.findall(r"^table (\w+) netd", ruleset.TEXT, re.MULTILINE))
