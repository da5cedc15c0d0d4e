"""Promises of addresses and MACs, and the history that outlives a restart."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from netd.addresses import Addresses
from netd.cluster.ports import Holdings
from netd.errors import AlreadyExists, Exhausted, Invalid, Unavailable
from netd.ipam import HISTORY
from netd.model import Endpoint, Network, Subnet, Want
from netd.names import mac_of
from netd.store.base import Delete, Freed, Put, Table, Write

TINY = Network(
    id="n",
    name="tiny",
    driver="bridge",
    mtu=1500,
    subnets=(
        Subnet(cidr=ip_network("10.5.0.0/29"), gateway=ip_address("10.5.0.1")),
        Subnet(cidr=ip_network("fd05::/64"), gateway=ip_address("fd05::1")),
    ),
)


def take(addresses: Addresses, id: str, want: Want = Want(network="tiny")) -> tuple[Endpoint, list[Write]]:  # noqa: B008
    given, mac, writes = addresses.take(TINY, want, id, f"container {id!r}")
    end = Endpoint(id=id, network="n", sandbox=id, ifname="eth0", mac=mac, addresses=given)
    return end, writes


def fresh() -> Addresses:
    addresses = Addresses()
    addresses.add(TINY)
    return addresses


def test_both_families_and_a_mac_of_its_own() -> None:
    end, writes = take(fresh(), "e1")
    assert [str(interface) for interface in end.addresses] == ["10.5.0.2/29", "fd05::2/64"]
    assert end.mac == mac_of("e1")
    assert writes == []


def test_nothing_is_promised_twice_and_a_refusal_promises_nothing() -> None:
    addresses = fresh()
    first, _ = take(addresses, "e1")
    for want, complaint in (
        (Want(network="tiny", ip=IPv4Address("10.5.0.2")), "10.5.0.2 .*'e1'"),
        (Want(network="tiny", mac=first.mac.upper()), "'e1'"),
    ):
        with pytest.raises(AlreadyExists, match=complaint):
            take(addresses, "e2", want)
    with pytest.raises(Invalid, match="gateway"):
        take(addresses, "e2", Want(network="tiny", ip=IPv4Address("10.5.0.1")))
    assert addresses.capacity(TINY)[0] == (1, 5)
    second, _ = take(addresses, "e2")
    assert str(second.addresses[0].ip) == "10.5.0.3"


def test_a_full_network_says_so_and_keeps_the_other_family() -> None:
    addresses = fresh()
    for number in range(5):
        take(addresses, f"e{number}")
    with pytest.raises(Exhausted, match="'tiny' has no free IPv4 address"):
        take(addresses, "late")
    assert addresses.capacity(TINY)[1][0] == 5
    assert addresses.exhausted(TINY) == {4: 5}


def test_history_is_written_and_taken_up_again() -> None:
    addresses, store = fresh(), {}

    def note(writes: list[Write]) -> None:
        for write in writes:
            if isinstance(write, Put):
                store[write.key] = write.value
            else:
                store.pop(write.key, None)

    ends = [take(addresses, f"e{number}")[0] for number in range(5)]
    for end in (ends[2], ends[0], ends[4]):
        note(addresses.give_back(end))
    again = Addresses()
    again.add(TINY, [("x", ends[1]), ("y", ends[3])], store.values())
    for expected in ("10.5.0.4", "10.5.0.2", "10.5.0.6"):
        end, writes = take(again, expected)
        assert str(end.addresses[0].ip) == expected
        note(writes)
    assert [value.address.version for value in store.values()] == [6, 6, 6]  # a /64 goes on upwards
    with pytest.raises(AlreadyExists, match="container 'x'"):
        take(again, "z", Want(network="tiny", mac=ends[1].mac))
    note(again.drop(TINY))
    assert store == {}


def test_history_is_bounded_in_the_store_as_in_memory() -> None:
    addresses = fresh()
    kept: set[str] = set()
    for number in range(HISTORY + 50):
        end, taken = take(addresses, f"e{number}")
        for write in [*taken, *addresses.give_back(end)]:
            assert write.table is Table.FREED
            if isinstance(write, Put):
                assert isinstance(write.value, Freed)
                kept.add(write.key)
            else:
                assert isinstance(write, Delete)
                kept.discard(write.key)
    assert len(kept) == HISTORY + 5


def test_giving_back_to_a_network_that_is_gone_is_nothing() -> None:
    addresses = fresh()
    end, _ = take(addresses, "e")
    addresses.drop(TINY)
    assert addresses.give_back(end) == []


def test_out_of_this_hosts_own_blocks_and_no_other() -> None:
    addresses = fresh()
    block, other = ip_network("10.5.0.4/31"), ip_network("fd05::10/127")
    holdings = Holdings(blocks=(block, other), barred=frozenset({IPv4Address("10.5.0.4")}))

    def give(id: str, want: Want = Want(network="tiny")) -> tuple[list[str], str]:  # noqa: B008
        given, mac, _ = addresses.take(TINY, want, id, f"container {id!r}", holdings)
        return [str(each.ip) for each in given], mac

    assert addresses.lacking(TINY, Want(network="tiny"), Holdings()) == (4, None)
    assert addresses.lacking(TINY, Want(network="tiny"), holdings) is None
    assert give("e1") == (["10.5.0.5", "fd05::10"], mac_of("n/10.5.0.5"))
    assert addresses.lacking(TINY, Want(network="tiny"), holdings) == (4, None)
    with pytest.raises(Unavailable, match="no IPv4 address of network 'tiny' left"):
        give("e2")
    assert addresses.capacity(TINY)[1][0] == 1, "nothing was promised"


def test_what_others_will_ask_for_is_avoided_with_a_cluster_and_without() -> None:
    kept = frozenset(map(ip_address, ("10.5.0.2", "10.5.0.4", "fd05::10")))
    want = Want(network="tiny", avoid=kept)
    assert [str(each.ip) for each in take(fresh(), "e1", want)[0].addresses] == ["10.5.0.3", "fd05::2"]
    holdings = Holdings(blocks=(ip_network("10.5.0.4/31"), ip_network("fd05::10/127")))
    addresses = fresh()
    given, _, _ = addresses.take(TINY, want, "e1", "container 'e1'", holdings)
    assert [str(each.ip) for each in given] == ["10.5.0.5", "fd05::11"]
    assert addresses.lacking(TINY, want, holdings) == (4, None), "another block is needed"
    assert addresses.lacking(TINY, Want(network="tiny"), holdings) is None


def test_an_address_that_is_asked_for_must_be_this_hosts() -> None:
    addresses = fresh()
    wanted = IPv4Address("10.5.0.4")
    blocks = (ip_network("10.5.0.4/31"), ip_network("fd05::10/127"))
    want = Want(network="tiny", ip=wanted)
    barred = Holdings(blocks=blocks, barred=frozenset({wanted}))
    claimed = Holdings(blocks=blocks, barred=frozenset({wanted}), singles=frozenset({wanted}))
    for holdings in (Holdings(), barred):
        assert addresses.lacking(TINY, want, holdings) == (4, wanted)
        with pytest.raises(Unavailable, match=r"10\.5\.0\.4 of network 'tiny' is not this node's"):
            addresses.take(TINY, want, "e1", "container 'e1'", holdings)
    assert addresses.lacking(TINY, want, Holdings(blocks=blocks)) is None
    assert addresses.lacking(TINY, want, claimed) is None
    given, _, _ = addresses.take(TINY, want, "e1", "container 'e1'", claimed)
    assert given[0].ip == wanted
    with pytest.raises(AlreadyExists, match="'e1'"):
        addresses.lacking(TINY, want, claimed)
    with pytest.raises(Invalid, match="gateway"):
        addresses.lacking(TINY, Want(network="tiny", ip=IPv4Address("10.5.0.1")), Holdings())
