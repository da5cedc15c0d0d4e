"""What follows from what nodes write, in whatever order it comes and whatever it says."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from netd.cluster import records
from netd.cluster.directory import Changes, Directory, Raw
from tests.unit.cluster.sample import (
    BLOCK6,
    NETWORK,
    A,
    B,
    a_block,
    a_network,
    a_node,
    a_single,
    an_endpoint,
    endpoint,
    raw,
)

GROUND = [a_network(), a_node(A), a_node(B), a_block("b"), a_block("b", BLOCK6)]
E1, E2 = endpoint("e1" * 16), endpoint("e2" * 16, "10.1.0.71/16", "fd01::71/64")


def put(directory: Directory, *items: tuple[bytes, bytes], revision: int = 1) -> Changes:
    return directory.apply([(key, raw(value, revision)) for key, value in items])


def delete(directory: Directory, *items: tuple[bytes, bytes]) -> Changes:
    return directory.apply([(key, None) for key, _ in items])


@pytest.fixture
def directory() -> Directory:
    directory = Directory("a")
    put(directory, *GROUND)
    return directory


def test_a_remote_is_told_of_once_and_taken_back_once(directory: Directory) -> None:
    entry = an_endpoint("b", E1)
    assert [(r.id, r.node, r.name) for r in put(directory, entry).remotes] == [(E1.id, "b", "web")]
    assert put(directory, entry) == Changes()
    assert delete(directory, entry).dropped_remotes == [(NETWORK.id, E1.id)]
    assert delete(directory, entry) == Changes()
    assert not directory.quarantined


def test_what_is_ours_is_no_remote(directory: Directory) -> None:
    put(directory, a_block("a", ip_network("10.1.1.0/26")), a_block("a", ip_network("fd01:0:0:0:1::/80")))
    ours = endpoint("e3" * 16, "10.1.1.7/16", "fd01::1:0:0:7/64")
    assert put(directory, an_endpoint("a", ours)) == Changes()
    assert directory.count("a") == 1


def test_any_order_ends_with_the_same() -> None:
    everything = [*GROUND, an_endpoint("b", E1, since=1), an_endpoint("b", E2, "db", since=2)]
    wanted = None
    for seed in range(20):
        directory = Directory("a")
        random.Random(seed).shuffle(everything)
        for item in everything:
            put(directory, item)
        assert not directory.quarantined
        found = (directory.remotes, directory.networks, directory.nodes)
        wanted = wanted or found
        assert found == wanted
    assert wanted is not None
    assert len(wanted[0]) == 2


def test_an_address_must_be_its_nodes_to_give(directory: Directory) -> None:
    stranger = endpoint("e4" * 16, "10.1.9.9/16")
    assert put(directory, an_endpoint("b", stranger)) == Changes()
    assert "nobody's" in directory.quarantined[an_endpoint("b", stranger)[0]]
    put(directory, a_block("c", ip_network("10.1.9.0/26")), an_endpoint("b", stranger))
    assert "'c'" in directory.quarantined[an_endpoint("b", stranger)[0]]
    changes = put(directory, a_block("b", ip_network("10.1.9.0/26")))
    assert [remote.id for remote in changes.remotes] == [stranger.id]
    assert not directory.quarantined


def test_a_block_that_changes_hands_takes_its_endpoints_along(directory: Directory) -> None:
    put(directory, an_endpoint("b", E1))
    assert put(directory, a_block("c")).dropped_remotes == [(NETWORK.id, E1.id)]
    assert [remote.id for remote in put(directory, a_block("b")).remotes] == [E1.id]


def test_a_claim_counts_more_than_the_block(directory: Directory) -> None:
    put(directory, a_node(replace(B, name="c", address=ip_address("192.0.2.3"))))
    single = endpoint("e5" * 16, "10.1.0.90/16")
    put(directory, a_single("c", "10.1.0.90"))
    assert [r.node for r in put(directory, an_endpoint("c", single)).remotes] == ["c"]
    assert put(directory, an_endpoint("b", endpoint("e6" * 16, "10.1.0.90/16"), "other")) == Changes()
    assert delete(directory, a_single("c", "10.1.0.90")).dropped_remotes == [(NETWORK.id, single.id)]


def test_a_dead_node_takes_its_endpoints_along_and_brings_them_back(directory: Directory) -> None:
    put(directory, an_endpoint("b", E1))
    changes = delete(directory, a_node(B))
    assert changes.dropped_remotes == [(NETWORK.id, E1.id)]
    assert changes.dropped_nodes == ["b"]
    changes = put(directory, a_node(replace(B, address=ip_address("192.0.2.9"))))
    assert [node.address for node in changes.nodes] == [ip_address("192.0.2.9")]
    assert [remote.id for remote in changes.remotes] == [E1.id]


def test_the_later_of_two_with_one_address_is_right(directory: Directory) -> None:
    """Its old host is dead or cut off, but not yet known to be."""
    put(directory, a_single("b", "10.1.0.99"), an_endpoint("b", endpoint("e5" * 16, "10.1.0.99/16"), since=5))
    put(directory, a_node(replace(B, name="c", address=ip_address("192.0.2.3"))))
    moved = endpoint("e6" * 16, "10.1.0.99/16")
    changes = put(directory, a_single("c", "10.1.0.99"), an_endpoint("c", moved, since=9), revision=9)
    assert changes.dropped_remotes == [(NETWORK.id, "e5" * 16)]
    assert [(remote.id, remote.node) for remote in changes.remotes] == [(moved.id, "c")]


def test_the_later_of_two_with_one_mac_is_right(directory: Directory) -> None:
    put(directory, an_endpoint("b", E1, "x", since=1))
    twin = replace(E2, mac=E1.mac)
    changes = put(directory, an_endpoint("b", twin, "y", since=2))
    assert changes.dropped_remotes == [(NETWORK.id, E1.id)]
    assert [remote.id for remote in changes.remotes] == [twin.id]
    assert [remote.id for remote in delete(directory, an_endpoint("b", twin)).remotes] == [E1.id]


def test_the_earlier_of_two_with_one_name_loses_the_name_only(directory: Directory) -> None:
    put(directory, an_endpoint("b", E1, since=1))
    changes = put(directory, an_endpoint("b", E2, since=2))
    assert {(r.id, r.name) for r in changes.remotes} == {(E1.id, ""), (E2.id, "web")}
    assert changes.dropped_remotes == []
    changes = delete(directory, an_endpoint("b", E2))
    assert [(r.id, r.name) for r in changes.remotes] == [(E1.id, "web")]


def test_an_endpoint_of_ours_wins_over_an_older_one_elsewhere(directory: Directory) -> None:
    put(directory, a_single("b", "10.1.0.99"), an_endpoint("b", endpoint("e5" * 16, "10.1.0.99/16"), since=5))
    changes = put(
        directory,
        a_single("a", "10.1.0.99"),
        an_endpoint("a", endpoint("e6" * 16, "10.1.0.99/16"), since=9),
    )
    assert changes.dropped_remotes == [(NETWORK.id, "e5" * 16)]
    assert changes.remotes == []


def test_bad_entries_are_set_aside_and_stop_nobody(directory: Directory) -> None:
    bad = [
        (b"/netd/v1/nodes/c", b"{}"),
        (b"/netd/v1/nodes/d", b"\xff\xfe"),
        (b"/netd/v1/surprise", b"1"),
        (records.network_key("f" * 32), b"[]"),
        (records.endpoint_key(NETWORK.id, "9" * 32), b'{"node": "b"}'),
        (b"/netd/v1/blocks/" + NETWORK.id.encode() + b"/x", b'{"node": "b"}'),
    ]
    changes = put(directory, *bad, an_endpoint("b", E1))
    assert [remote.id for remote in changes.remotes] == [E1.id]
    assert set(directory.quarantined) == {key for key, _ in bad}
    delete(directory, *bad)
    assert not directory.quarantined


def test_a_value_that_turns_bad_says_nothing_any_more(directory: Directory) -> None:
    key, _ = a_node(B)
    assert put(directory, (key, b"{}")).dropped_nodes == ["b"]
    assert key in directory.quarantined
    assert [node.name for node in put(directory, a_node(B)).nodes] == ["b"]
    assert not directory.quarantined


@pytest.mark.parametrize(
    "other",
    [
        replace(NETWORK, id="b2" * 16, name="other"),
        replace(NETWORK, id="b2" * 16, vni=1),
        replace(NETWORK, id="b2" * 16, name="other", vni=1),
    ],
)
def test_networks_that_contradict_each_other(directory: Directory, other: object) -> None:
    key, value = a_network(other)  # type: ignore[arg-type]
    assert put(directory, (key, value)) == Changes()
    assert key in directory.quarantined
    entries = dict(directory.raw)
    del entries[a_network()[0]]
    changes = directory.replace(entries)
    assert changes.dropped_networks == [NETWORK.id]
    assert [network.id for network in changes.networks] == ["b2" * 16]


def test_a_listing_is_applied_as_a_difference(directory: Directory) -> None:
    put(directory, an_endpoint("b", E1))
    new = {key: Raw(value.value, value.created, value.modified) for key, value in directory.raw.items()}
    assert directory.replace(new) == Changes()
    del new[an_endpoint("b", E1)[0]]
    new[an_endpoint("b", E2)[0]] = raw(an_endpoint("b", E2, "db")[1])
    changes = directory.replace(new)
    assert changes.dropped_remotes == [(NETWORK.id, E1.id)]
    assert [remote.id for remote in changes.remotes] == [E2.id]
    assert (changes.nodes, changes.networks) == ([], [])


def test_holdings(directory: Directory) -> None:
    mine = ip_network("10.1.1.0/26")
    put(
        directory,
        a_block("a", mine),
        a_single("a", "10.1.0.99"),
        a_single("b", "10.1.1.9", mine),
        a_single("", "10.1.1.10", mine),
        a_single("b", "10.1.0.98"),
    )
    holdings = directory.holdings(NETWORK.id)
    assert holdings.blocks == (mine,)
    assert holdings.singles == {ip_address("10.1.0.99")}
    assert holdings.barred == {ip_address(f"10.1.{end}") for end in ("0.99", "1.9", "1.10")}
    assert directory.holdings("f" * 32).blocks == ()


def test_draining(directory: Directory) -> None:
    key = records.draining_key("b")
    put(directory, (key, b"{}"))
    assert directory.draining == {"b"}
    directory.apply([(key, None)])
    assert not directory.draining


def test_work_follows_what_changed_not_what_there_is(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    genuine = records.read_endpoint

    def counted(*arguments: object) -> object:
        read.append(arguments[1])
        return genuine(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(records, "read_endpoint", counted)
    blocks = [ip_network(f"10.1.{n}.0/26") for n in range(10, 20)]
    put(directory, *(a_block("b", block) for block in blocks))
    many = [
        endpoint(f"{n:032x}", f"{blocks[n % 10][3 + n // 10]}/16", mac=f"02:00:00:00:01:{n:02x}")
        for n in range(200)
    ]
    put(directory, *(an_endpoint("b", e, f"c{n}") for n, e in enumerate(many)))
    read.clear()
    put(directory, an_endpoint("b", E1))
    assert read == [E1.id]
    put(directory, a_block("b", ip_network("10.1.30.0/26")))
    assert read == [E1.id]
