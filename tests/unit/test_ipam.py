from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import ipam, names
from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.ipam import HISTORY, Pool, check_mac, give_back, next_within, take
from netd.model import IPAddress, Network, Subnet


def pool(cidr: str, *, range: str = "", reserved: Mapping[str, str] | None = None, **state: object) -> Pool:
    net = ip_network(cidr)
    subnet = Subnet(
        cidr=net,
        gateway=net[0] if net.num_addresses == 2 else net[1],
        range=ip_network(range) if range else None,
        reserved={label: ip_address(text) for label, text in (reserved or {}).items()},
    )
    return Pool.of("front", subnet, **({"used": {}} | state))  # type: ignore[arg-type]


def drain(pools: tuple[Pool, ...], family: int) -> list[str]:
    """Every address that can still be had, in order."""
    given: list[str] = []
    while True:
        try:
            pools, interface = take(pools, family, "someone")
        except Exhausted:
            return given
        given.append(str(interface.ip))


def test_addresses_come_in_ascending_order_with_the_prefix_of_the_subnet() -> None:
    pools: tuple[Pool, ...] = (pool("10.89.0.0/24"), pool("fd00::/64"))
    pools, first = take(pools, 4, "web")
    pools, second = take(pools, 4, "api")
    pools, third = take(pools, 6, "web")
    assert [first, second, third] == [
        ip_interface("10.89.0.2/24"),
        ip_interface("10.89.0.3/24"),
        ip_interface("fd00::2/64"),
    ]
    assert pools[0].used == {first.ip: "web", second.ip: "api"}


def test_what_was_never_used_comes_before_what_was_given_back_the_longest_ago() -> None:
    pools: tuple[Pool, ...] = (pool("10.89.0.0/29"),)
    for _ in range(3):
        pools, _ = take(pools, 4, "x")
    for text in ("10.89.0.3", "10.89.0.2"):
        pools = give_back(pools, ip_address(text))
    assert drain(pools, 4) == ["10.89.0.5", "10.89.0.6", "10.89.0.3", "10.89.0.2"]


def test_a_pool_is_known_again_from_who_uses_what_and_the_history() -> None:
    pools: tuple[Pool, ...] = (pool("10.89.0.0/28", reserved={"printer": "10.89.0.4"}),)
    for _ in range(5):
        pools, _ = take(pools, 4, "x")
    pools = give_back(give_back(pools, ip_address("10.89.0.5")), ip_address("10.89.0.2"))
    [before] = pools
    again = Pool.of(before.network, before.subnet, before.used, before.freed)
    assert again == before
    assert drain((again,), 4) == drain(pools, 4)


def test_a_static_address_far_ahead_is_stepped_over_and_hides_nothing() -> None:
    pools: tuple[Pool, ...] = (pool("10.89.0.0/29"),)
    pools, wanted = take(pools, 4, "db", ip_address("10.89.0.4"))
    assert wanted == ip_interface("10.89.0.4/29")
    assert drain(pools, 4) == ["10.89.0.2", "10.89.0.3", "10.89.0.5", "10.89.0.6"]


def test_runs_are_given_one_after_the_other_and_again_when_they_are_used_up() -> None:
    cidr = ip_network("10.89.0.0/24")
    runs = tuple(
        (ip_address(first), ip_address(last))
        for first, last in (("10.89.0.1", "10.89.0.3"), ("10.89.0.254", "10.89.0.255"))
    )
    own = Pool.of("front", Subnet(cidr=cidr, gateway=cidr[1], spans=runs), {})
    assert own.capacity == 3
    assert drain((own,), 4) == ["10.89.0.2", "10.89.0.3", "10.89.0.254"]
    pools, _ = take((own,), 4, "static", ip_address("10.89.0.77"))  # outside: only if asked for
    pools = give_back(pools, ip_address("10.89.0.77"))
    assert drain(pools, 4) == ["10.89.0.2", "10.89.0.3", "10.89.0.254"]
    assert not own.full
    for _ in range(3):
        (own,), _ = take((own,), 4, "x")
    assert own.full
    (own,) = give_back((own,), ip_address("10.89.0.3"))
    assert drain((own,), 4) == ["10.89.0.3"]


def test_the_range_narrows_what_is_given_but_not_what_may_be_asked_for() -> None:
    pools: tuple[Pool, ...] = (pool("10.89.0.0/24", range="10.89.0.128/30"),)
    assert drain(pools, 4) == [f"10.89.0.{n}" for n in (128, 129, 130, 131)]
    pools, asked = take(pools, 4, "db", ip_address("10.89.0.9"))
    assert asked == ip_interface("10.89.0.9/24")
    pools = give_back(pools, asked.ip)
    assert "10.89.0.9" not in drain(pools, 4), "what was asked for outside the range is not handed out later"


def test_reserved_addresses_and_the_gateway_are_never_given() -> None:
    pools = (pool("10.89.0.0/29", reserved={"printer": "10.89.0.3", "nas": "10.89.0.6"}),)
    assert drain(pools, 4) == ["10.89.0.2", "10.89.0.4", "10.89.0.5"]
    assert pools[0].capacity == 3


@pytest.mark.parametrize(
    ("cidr", "given"),
    [
        ("10.89.0.0/30", ["10.89.0.2"]),
        ("10.89.0.0/31", ["10.89.0.1"]),
        ("fd00::/127", ["fd00::1"]),
        ("fd00::/126", ["fd00::2", "fd00::3"]),
    ],
)
def test_the_smallest_subnets(cidr: str, given: list[str]) -> None:
    assert drain((pool(cidr),), ip_network(cidr).version) == given


def test_several_subnets_of_a_family_are_used_in_order() -> None:
    pools = (pool("10.89.0.0/30"), pool("fd00::/64"), pool("10.90.0.0/30"))
    assert drain(pools, 4) == ["10.89.0.2", "10.90.0.2"]
    _, asked = take(pools, 4, "db", ip_address("10.90.0.2"))
    assert asked == ip_interface("10.90.0.2/30")


def test_an_exhausted_network_says_how_large_it_is_and_what_to_do() -> None:
    pools, _ = take((pool("10.89.0.0/30"),), 4, "web")
    with pytest.raises(
        Exhausted, match=r"network 'front' has no free IPv4 address left: all 1 of 10\.89\.0\.0/30"
    ):
        take(pools, 4, "api")


def test_what_is_to_be_avoided_is_given_to_nobody_who_did_not_ask_for_it() -> None:
    kept = frozenset(map(ip_address, ("10.89.0.2", "10.89.0.4", "10.90.0.2")))
    pools: tuple[Pool, ...] = (pool("10.89.0.0/29"),)
    found = []
    for _ in range(3):
        pools, interface = take(pools, 4, "web", avoid=kept)
        found.append(str(interface.ip))
    assert found == ["10.89.0.3", "10.89.0.5", "10.89.0.6"]
    with pytest.raises(Exhausted, match=r"all 5 of 10\.89\.0\.0/29 are in use, or kept for others \(2\)"):
        take(pools, 4, "late", avoid=kept)
    for wanted in ("10.89.0.2", "10.89.0.4"):
        pools, interface = take(pools, 4, "db", ip_address(wanted), kept)
        assert str(interface.ip) == wanted
    pools = give_back(give_back(pools, ip_address("10.89.0.4")), ip_address("10.89.0.5"))
    assert str(take(pools, 4, "late", avoid=kept)[1].ip) == "10.89.0.5", "freed later, but free to give"


@pytest.mark.parametrize(
    ("wanted", "error", "message"),
    [
        ("10.89.0.2", AlreadyExists, r"10\.89\.0\.2 of network 'front' is held by container 'web'"),
        ("10.89.0.1", Invalid, r"10\.89\.0\.1 of network 'front' is its gateway"),
        ("10.89.0.9", Invalid, r"is reserved as 'printer'"),
        (
            "10.89.0.0",
            Invalid,
            r"network or broadcast address of 10\.89\.0\.0/24; choose one from 10\.89\.0\.1 to",
        ),
        ("10.89.0.255", Invalid, r"network or broadcast address"),
        ("10.1.2.3", Invalid, r"10\.1\.2\.3 lies in no IPv4 subnet of network 'front' \(10\.89\.0\.0/24\)"),
        ("fd00::5", Invalid, r"lies in no IPv4 subnet"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_by_name(wanted: str, error: type, message: str) -> None:
    pools = (pool("10.89.0.0/24", reserved={"printer": "10.89.0.9"}),)
    pools, _ = take(pools, 4, "container 'web'")  # type: ignore[assignment]
    with pytest.raises(error, match=message):
        take(pools, 4, "container 'api'", ip_address(wanted))


def test_a_family_that_the_network_does_not_have() -> None:
    with pytest.raises(Invalid, match="'front' has no IPv6 subnet"):
        take((pool("10.89.0.0/24"),), 6, "web")


def test_giving_back_what_nobody_holds_changes_nothing() -> None:
    pools = (pool("10.89.0.0/24"),)
    assert give_back(pools, ip_address("10.89.0.7")) == pools


def test_an_ipv6_subnet_is_not_enumerated() -> None:
    """2^64 addresses; also when a million of them were given before, which nobody remembers."""
    begun = time.process_time()
    pools: tuple[Pool, ...] = (pool("fd00::/64"),)
    for number in range(2 * HISTORY):
        pools, interface = take(pools, 6, "x")
        assert interface.ip == ip_address("fd00::2") + number
        pools = give_back(pools, interface.ip)
    assert len(pools[0].freed) == HISTORY
    assert time.process_time() - begun < 5
    assert pools[0].capacity == 2**64 - 2


def test_what_was_forgotten_counts_as_never_used() -> None:
    pools: tuple[Pool, ...] = (pool("10.64.0.0/21"),)  # 2046 addresses, more than are remembered
    given = []
    for _ in range(2045):
        pools, interface = take(pools, 4, "x")
        given.append(interface.ip)
    for address in given:
        pools = give_back(pools, address)
    pools, interface = take(pools, 4, "x")
    assert interface.ip == given[0]
    assert interface.ip not in pools[0].freed


@given(st.lists(st.one_of(st.just("take"), st.integers(0, 12)), max_size=60))
@settings(deadline=None)
def test_any_history_keeps_the_order_and_gives_no_address_twice(actions: list[str | int]) -> None:
    """Against the obvious model: one queue, from whose head one takes and to whose tail one gives back."""
    pools: tuple[Pool, ...] = (pool("10.89.0.0/28"),)
    queue = deque(list(IPv4Network("10.89.0.0/28"))[2:-1])
    held: list[IPAddress] = []
    for action in actions:
        if action == "take":
            if not queue:
                with pytest.raises(Exhausted):
                    take(pools, 4, "x")
                continue
            pools, interface = take(pools, 4, "x")
            assert interface.ip == queue.popleft()
            assert interface.ip not in held
            held.append(interface.ip)
        elif held:
            address = held.pop(int(action) % len(held))
            pools = give_back(pools, address)
            queue.append(address)  # type: ignore[arg-type]
        assert set(pools[0].used) == set(held)
        assert Pool.of("front", pools[0].subnet, pools[0].used, pools[0].freed) == pools[0]


NET = Network(id="n1", name="front", driver="bridge", subnets=(), mtu=1500)


def test_a_mac_is_kept_in_one_form() -> None:
    assert check_mac(NET, "02-42-0A-59-00-02", {}) == "02:42:0a:59:00:02"


@pytest.mark.parametrize(
    ("mac", "error", "message"),
    [
        ("02:42:0a:59:00", Invalid, "'02:42:0a:59:00' is not valid"),
        ("02:42:0a:59:00:0g", Invalid, "is not valid"),
        ("01:00:5e:00:00:01", Invalid, "not a unicast address"),
        ("ff:ff:ff:ff:ff:ff", Invalid, "not a unicast address"),
        ("00:00:00:00:00:00", Invalid, "not a unicast address"),
        (
            "02:42:0A:59:00:02",
            AlreadyExists,
            "02:42:0a:59:00:02 of network 'front' is held by container 'web'",
        ),
        (names.mac_of("n1"), AlreadyExists, "is held by the network's bridge"),
    ],
)
def test_a_mac_that_cannot_be_had_is_refused_by_name(mac: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        check_mac(NET, mac, {"02:42:0a:59:00:02": "container 'web'"})


def test_usable_addresses_leave_out_what_has_a_meaning() -> None:
    def span(cidr: str) -> tuple[str, str]:
        first, last = ipam.usable(ip_network(cidr))
        return str(ip_network(cidr)[0] + (first - int(ip_network(cidr)[0]))), str(
            ip_network(cidr)[0] + (last - int(ip_network(cidr)[0]))
        )

    assert span("10.0.0.0/24") == ("10.0.0.1", "10.0.0.254")
    assert span("10.0.0.0/31") == ("10.0.0.0", "10.0.0.1")
    assert span("10.0.0.7/32") == ("10.0.0.7", "10.0.0.7")
    assert span("fd00::/64") == ("fd00::1", "fd00::ffff:ffff:ffff:ffff")
    assert span("fd00::/127") == ("fd00::", "fd00::1")


def test_within_blocks_what_was_never_given_comes_first_then_what_was_free_the_longest() -> None:
    pools: tuple[Pool, ...] = (pool("10.0.0.0/24"), pool("fd00::/64"))
    blocks = [ip_network("10.0.0.8/30"), ip_network("10.0.0.0/30"), ip_network("fd00::8/126")]
    given = []
    while (address := next_within(pools, 4, blocks, {ip_address("10.0.0.9")})) is not None:
        pools, _ = take(pools, 4, "someone", address)
        given.append(str(address))
    assert given == ["10.0.0.8", "10.0.0.10", "10.0.0.11", "10.0.0.2", "10.0.0.3"], "the gateway is 10.0.0.1"
    for text in ("10.0.0.3", "10.0.0.8"):
        pools = give_back(pools, ip_address(text))
    assert next_within(pools, 4, blocks, ()) == ip_address("10.0.0.9"), "never given"
    assert next_within(pools, 4, blocks[:1], {ip_address("10.0.0.9")}) == ip_address("10.0.0.8")
    assert next_within(pools, 4, blocks, {ip_address("10.0.0.9")}) == ip_address("10.0.0.3")
    assert next_within(pools, 6, blocks, ()) == ip_address("fd00::8")
    assert next_within(pools, 4, blocks[2:], ()) is None


def test_blocks_never_reach_beyond_the_range() -> None:
    pools = (pool("10.0.0.0/24", range="10.0.0.128/25"),)
    assert next_within(pools, 4, [ip_network("10.0.0.0/25")], ()) is None
    assert next_within(pools, 4, [ip_network("10.0.0.0/24")], ()) == ip_address("10.0.0.128")
