"""The rule set and its elements in the real nf_tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from netd import firewall
from netd.errors import KernelError
from netd.kernel import nftget
from netd.kernel.host import HostKernel
from netd.kernel.libnft import Context
from netd.kernel.ports import ApplyError
from netd.objects import Add, Atom, Change, Element, Remove

Shell = Callable[[str], str]
SAMPLES: dict[str, Atom] = {
    "ifname": "nd-0a1b2c3d4e5f",
    "mac": "02:42:0a:59:00:02",
    "ipv4": IPv4Address("10.89.0.2"),
    "ipv6": IPv6Address("fd00:89::2"),
    "target6": IPv6Address("fe80::42:aff:fe59:2"),
    "proto": "udp",
    "port": 8080,
    "count": 50,
    "group": 78 << 24 | 7,
    "family": "ipv6",
}


def sample(family: str, name: str) -> Element:
    kind = firewall.SETS[family, name]
    item = tuple(SAMPLES[part] for part in kind.key)
    return Element(family, name, item, tuple(SAMPLES[part] for part in kind.value))


EVERY_SET = [sample(family, name) for family, name in firewall.SETS]


def rules(sh: Shell, how: str = "-t") -> str:
    """The loaded rules, usually without counters and elements."""
    return sh("; ".join(f"nft {how} list table {family} netd" for family in ("inet", "bridge", "arp")))


async def test_an_element_of_every_set_is_found_by_its_key(host_kernel: HostKernel) -> None:
    assert list(nftget.present(EVERY_SET)) == []
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    assert list(nftget.present(EVERY_SET)) == EVERY_SET
    assert await host_kernel.observe_some(EVERY_SET) == frozenset(EVERY_SET)
    maps = [item for item in EVERY_SET if item.value]
    assert list(nftget.present(replace(item, value=(*item.value[:-1], 9)) for item in maps)) == []
    await host_kernel.apply([Remove(item) for item in EVERY_SET[::2]])
    assert list(nftget.present(EVERY_SET)) == EVERY_SET[1::2]


async def test_what_is_written_by_hand_is_what_the_library_would_write(
    host_kernel: HostKernel, sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes in the kernel: the library lists the one as it lists the other."""
    by_hand = [item for item in EVERY_SET if firewall.SETS[item.family, item.set].value != firewall.COUNT]
    asked: list[str] = []
    text = Context.text
    monkeypatch.setattr(Context, "text", lambda self, words: (asked.append(words), text(self, words))[1])  # type: ignore[func-returns-value]
    await host_kernel.apply([Add(item) for item in by_hand])
    await host_kernel.apply([Add(item) for item in by_hand])  # there already, with the same value
    assert asked == []
    written = rules(sh, "")
    await host_kernel.apply([Remove(item) for item in by_hand])
    assert (asked, list(nftget.present(by_hand))) == ([], [])
    monkeypatch.setattr(Context, "write", lambda self, ops: False)
    await host_kernel.apply([Add(item) for item in by_hand])
    assert asked
    assert rules(sh, "") == written
    assert await host_kernel.observe() >= frozenset(by_hand)


async def test_what_is_refused_by_hand_changes_nothing_and_is_explained(host_kernel: HostKernel) -> None:
    led, other = sample("inet", "any4"), sample("inet", "pub4")
    await host_kernel.apply([Add(led)])
    elsewhere = replace(led, value=(IPv4Address("10.89.0.3"), 81))
    with pytest.raises(ApplyError, match="its place is taken by"):
        await host_kernel.apply([Add(other), Add(elsewhere)])
    assert list(nftget.present([led, other])) == [led]
    await host_kernel.apply([Change(led, elsewhere), Remove(other)])  # which is not there
    assert list(nftget.present([led, elsewhere])) == [elsewhere]


async def test_without_its_rules_no_element_is_found(host_kernel: HostKernel, sh: Shell) -> None:
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    sh("nft flush chain inet netd forward")
    assert await host_kernel.observe_some(EVERY_SET) == frozenset()
    assert await host_kernel.restore_rules()
    assert await host_kernel.observe_some(EVERY_SET) == frozenset(EVERY_SET)


async def test_rules_are_listed_again_only_when_somebody_else_wrote(
    host_kernel: HostKernel, sh: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[bool] = []
    tables = Context.tables

    def counted(self: Context, *, terse: bool = False) -> dict[str, str]:
        listed.append(terse)
        return tables(self, terse=terse)

    monkeypatch.setattr(Context, "tables", counted)
    for item in EVERY_SET:
        assert not await host_kernel.restore_rules()
        await host_kernel.apply([Add(item)])
        assert await host_kernel.observe_some([item]) == {item}
    assert listed in ([], [True]), "once, if it had been loaded just now"
    listed.clear()
    for write in ("nft add table inet mine", "nft delete table inet mine"):
        sh(write)
        await host_kernel.apply([Remove(EVERY_SET[0])])
        assert not await host_kernel.restore_rules()
        await host_kernel.apply([Add(EVERY_SET[0])])
        assert await host_kernel.observe_some(EVERY_SET) == frozenset(EVERY_SET)
    assert listed == [True, True], "once after each of them"


async def test_an_element_of_every_set_is_observed_as_it_was_asked_for(host_kernel: HostKernel) -> None:
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    assert await host_kernel.observe() == frozenset(EVERY_SET)
    await host_kernel.apply([Remove(item) for item in EVERY_SET])
    assert await host_kernel.observe() == frozenset()


async def test_deleting_again_is_success_for_every_set(host_kernel: HostKernel) -> None:
    await host_kernel.apply([Add(item) for item in EVERY_SET[::2]])
    await host_kernel.apply([Remove(item) for item in EVERY_SET])
    assert await host_kernel.observe() == frozenset()
    await host_kernel.apply([Remove(item) for item in EVERY_SET])


async def test_a_restart_writes_nothing(host_kernel: HostKernel, sh: Shell) -> None:
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    before = sh("nft list ruleset")
    await host_kernel.close()
    host_kernel.writes = 0
    await host_kernel.start()
    assert host_kernel.writes == 0
    assert sh("nft list ruleset") == before
    assert await host_kernel.observe() == frozenset(EVERY_SET)


async def test_another_version_is_replaced_and_keeps_every_element(
    host_kernel: HostKernel, sh: Shell
) -> None:
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    wanted = rules(sh)
    await host_kernel.close()
    sh("nft flush chain inet netd forward; nft flush set inet netd version")
    sh("nft add element inet netd version '{ \"older\" }'")
    assert rules(sh) != wanted
    await host_kernel.start()
    assert rules(sh) == wanted
    assert await host_kernel.observe() == frozenset(EVERY_SET)


@pytest.mark.parametrize("family", ["inet", "bridge", "arp"])
async def test_a_table_that_is_gone_is_loaded_again(host_kernel: HostKernel, sh: Shell, family: str) -> None:
    wanted = rules(sh)
    await host_kernel.close()
    sh(f"nft delete table {family} netd")
    await host_kernel.start()
    assert rules(sh) == wanted


DAMAGE = [
    "nft flush chain inet netd forward",
    "nft flush chain bridge netd guard4",
    "nft insert rule inet netd to_container accept",
    "nft delete rule inet netd raw handle $(nft -a list chain inet netd raw | tail -3 | grep -o '[0-9]*$')",
    "nft chain inet netd forward '{ policy drop; }'",
    "nft delete table bridge netd",
    "nft flush ruleset",
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damaged_rules_are_repaired_with_the_next_transaction(
    host_kernel: HostKernel, sh: Shell, damage: str
) -> None:
    wanted = rules(sh)
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    sh(damage)
    assert await host_kernel.observe() == frozenset(), "elements without their rules protect nobody"
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    assert await host_kernel.observe() == frozenset(EVERY_SET)
    assert rules(sh) == wanted


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_while_the_daemon_was_away_is_repaired_at_start(
    host_kernel: HostKernel, sh: Shell, damage: str
) -> None:
    wanted = rules(sh)
    await host_kernel.close()
    sh(damage)
    await host_kernel.start()
    assert rules(sh) == wanted


async def test_an_administrators_chain_in_our_table_is_no_damage(host_kernel: HostKernel, sh: Shell) -> None:
    sh("nft 'table inet netd { chain mine { type filter hook forward priority -5; counter; }; }'")
    nat = sample("inet", "nat")
    await host_kernel.apply([Add(nat)])
    assert await host_kernel.observe() == {nat}
    await host_kernel.close()
    await host_kernel.start()
    assert "counter" in sh("nft list chain inet netd mine")


async def test_a_request_that_meets_damage_unforewarned_repairs_it(
    host_kernel: HostKernel, sh: Shell
) -> None:
    wanted = rules(sh)
    sh("nft flush ruleset")
    await host_kernel.apply([Add(item) for item in EVERY_SET])
    assert rules(sh) == wanted
    assert await host_kernel.observe() == frozenset(EVERY_SET)


async def test_what_an_administrator_put_beside_it_stays(host_kernel: HostKernel, sh: Shell) -> None:
    await host_kernel.close()
    sh("nft 'table inet mine { set s { type ipv4_addr; elements = { 10.1.1.1 }; }; }'")
    sh("nft delete table inet netd")
    await host_kernel.start()
    assert "10.1.1.1" in sh("nft list table inet mine")
    sh("nft delete table inet mine")


async def test_a_full_set_is_an_error_that_names_the_element(host_kernel: HostKernel, sh: Shell) -> None:
    sh("nft delete set inet netd closed || true; nft flush chain inet netd forward")
    sh("nft delete set inet netd closed; nft add set inet netd closed '{ type nf_proto; size 1; }'")
    await host_kernel.apply([Add(firewall.closed(4))])
    with pytest.raises(ApplyError, match="ipv6") as caught:
        await host_kernel.apply([Add(firewall.closed(6))])
    assert isinstance(caught.value.cause, KernelError)
    assert caught.value.cause.hint


async def test_sixty_four_callers_at_once(host_kernel: HostKernel) -> None:
    groups = [
        [
            Element("inet", "any4", ("tcp", 2000 + number), (IPv4Address("10.89.0.2"), 80)),
            Element("inet", "any6", ("tcp", 2000 + number), (IPv6Address("fd00::2"), 80)),
        ]
        for number in range(64)
    ]
    await asyncio.gather(*(host_kernel.apply([Add(item) for item in group]) for group in groups))
    assert await host_kernel.observe() == {item for group in groups for item in group}
    await asyncio.gather(*(host_kernel.apply([Remove(item) for item in group]) for group in groups))
    assert await host_kernel.observe() == frozenset()


async def test_rules_and_every_known_element_are_put_back_at_once(host_kernel: HostKernel, sh: Shell) -> None:
    """Those that this process wrote, and those that were there before it and that it has seen."""
    before, since = EVERY_SET[::2], EVERY_SET[1::2]
    await host_kernel.apply([Add(item) for item in before])
    await host_kernel.close()
    await host_kernel.start()
    assert await host_kernel.observe() == frozenset(before)
    await host_kernel.apply([Add(item) for item in since])
    await host_kernel.apply([Remove(since[0])])
    wanted = rules(sh, "-s")
    assert not await host_kernel.restore_rules(), "nothing was lost"
    for damage in (
        "nft flush ruleset",
        "nft delete table bridge netd",
        "nft delete table arp netd",
        "nft flush chain inet netd forward",
    ):
        sh(damage)
        assert await host_kernel.restore_rules()
        assert rules(sh, "-s") != wanted, "nobody is known until what conntrack knows is forgotten"
        await host_kernel.forget_untranslated([])
        assert rules(sh, "-s") == wanted
    assert await host_kernel.observe() == frozenset(EVERY_SET) - {since[0]}


async def test_rules_that_a_transaction_has_put_back_count_as_restored(
    host_kernel: HostKernel, sh: Shell
) -> None:
    """Whoever asks must know: flows that began without the rules are to be forgotten."""
    await host_kernel.apply([Add(item) for item in EVERY_SET[1:]])
    sh("nft flush ruleset")
    await host_kernel.apply([Add(EVERY_SET[0])])
    assert await host_kernel.observe() == frozenset(EVERY_SET)
    assert await host_kernel.restore_rules()
    assert not await host_kernel.restore_rules()
