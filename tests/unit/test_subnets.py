from __future__ import annotations

import time
from collections.abc import Collection
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import names
from netd.errors import AlreadyExists, Exhausted, Invalid
from netd.model import Network, NetworkRequest, Subnet
from netd.settings import Pool, Settings
from netd.subnets import HostNetwork, resolve

POOLS = (Pool("10.89.0.0/22", 24), Pool("172.16.0.0/23", 24))


def network(name: str, *cidrs: str) -> Network:
    subnets = tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, cidrs))
    return Network(id=name, name=name, driver="bridge", subnets=subnets, mtu=1500)


def on_host(*cidrs: str) -> list[HostNetwork]:
    return [("eth0", net.network_address, net.prefixlen) for net in map(ip_network, cidrs)]


def subnets_of(
    *cidrs: str,
    networks: Collection[Network] = (),
    host: Collection[HostNetwork] = (),
    pools: tuple[Pool, ...] = POOLS,
    **asked: object,
) -> tuple[Subnet, ...]:
    request = NetworkRequest(name="new", subnets=cidrs, **asked)  # type: ignore[arg-type]
    return resolve(request, "id-of-new", pools=pools, networks=networks, host=host)


def cidrs_of(*cidrs: str, **given: object) -> list[str]:
    return [str(subnet.cidr) for subnet in subnets_of(*cidrs, **given)]  # type: ignore[arg-type]


# --- chosen ----------------------------------------------------------------------------------------


def test_the_first_free_block_of_the_pools_is_chosen() -> None:
    [subnet] = subnets_of()
    assert subnet == Subnet(cidr=ip_network("10.89.0.0/24"), gateway=ip_address("10.89.0.1"))


def test_what_networks_or_the_host_have_is_skipped() -> None:
    networks = [network("a", "10.89.0.0/24"), network("b", "10.89.2.128/25")]
    assert cidrs_of(networks=networks, host=on_host("10.89.1.0/28")) == ["10.89.3.0/24"]
    assert cidrs_of(networks=networks, host=on_host("10.0.0.0/8")) == ["172.16.0.0/24"]


def test_a_network_can_do_without_ipv4() -> None:
    assert cidrs_of("fd00:1::/64", ipv4=False) == ["fd00:1::/64"]
    [ula] = cidrs_of(ipv4=False, ipv6=True)
    assert ula.startswith("fd")


def test_a_network_without_ipv4_needs_ipv6_and_nothing_else() -> None:
    with pytest.raises(Invalid, match="needs an IPv6 subnet"):
        subnets_of(ipv4=False)
    with pytest.raises(Invalid, match=r"10\.1\.0\.0/24 is IPv4"):
        subnets_of("10.1.0.0/24", ipv4=False, ipv6=True)


def test_exhausted_pools_are_named_with_the_way_out() -> None:
    with pytest.raises(Exhausted, match=r"10\.89\.0\.0/22 in /24, 172\.16\.0\.0/23 in /24.*--subnet"):
        subnets_of(host=on_host("10.0.0.0/8", "172.16.0.0/12"))


def test_the_search_jumps_over_what_is_taken() -> None:
    taken = [network(f"n{i}", f"10.89.{i}.0/24") for i in range(256)]
    taken += [network(f"m{i}", f"10.{90 + i // 256}.{i % 256}.0/24") for i in range(512)]
    begun = time.process_time()
    assert cidrs_of(networks=taken, pools=Settings().pools) == ["172.16.0.0/24"]
    assert time.process_time() - begun < 0.25


@given(
    st.lists(st.tuples(st.integers(0, 2**11 - 1), st.integers(22, 32)), max_size=12),
    st.lists(st.integers(0, 3), max_size=4),
)
@settings(deadline=None)
def test_the_choice_is_that_of_trying_every_block(host: list[tuple[int, int]], used: list[int]) -> None:
    taken = [
        ip_network((int(ip_address("10.89.0.0")) + offset, length), strict=False) for offset, length in host
    ]
    networks = [network(f"n{i}", f"10.89.{i}.0/24") for i in used]
    blocks = [*ip_network("10.89.0.0/22").subnets(new_prefix=24), *ip_network("172.16.0.0/23").subnets(1)]
    everything = [*taken, *(subnet.cidr for net in networks for subnet in net.subnets)]
    free = [block for block in blocks if not any(block.overlaps(other) for other in everything)]
    assert cidrs_of(networks=networks, host=on_host(*map(str, taken))) == [str(free[0])]


def test_ipv6_gives_a_ula_that_belongs_to_the_network() -> None:
    four, six = subnets_of(ipv6=True)
    assert four.family == 4
    assert six.cidr == names.ula_subnet("id-of-new")
    assert six.cidr.subnet_of(ip_network("fd00::/8"))  # type: ignore[arg-type]
    assert six.gateway == six.cidr[1]


def test_a_ula_that_is_taken_is_not_used_twice() -> None:
    taken = network("a", str(names.ula_subnet("id-of-new")))
    [_, six] = subnets_of(ipv6=True, networks=[taken])
    assert six.cidr != names.ula_subnet("id-of-new")
    assert six.cidr.prefixlen == 64


# --- named -----------------------------------------------------------------------------------------


def test_named_subnets_keep_their_order_and_ipv4_is_added_where_missing() -> None:
    assert cidrs_of("192.168.5.0/24", "fd00:1::/64", "192.168.6.0/24") == [
        "192.168.5.0/24",
        "fd00:1::/64",
        "192.168.6.0/24",
    ]
    assert cidrs_of("fd00:1::/64", ipv6=True) == ["10.89.0.0/24", "fd00:1::/64"]


def test_gateways_ranges_and_reserved_addresses_find_their_subnet() -> None:
    four, six = subnets_of(
        "10.1.0.0/24",
        "fd00:1::/64",
        gateways=("fd00:1::ff", "10.1.0.254"),
        ip_ranges=("10.1.0.128/25",),
        aux_addresses={"printer": "10.1.0.9", "nas": "fd00:1::9"},
    )
    assert four == Subnet(
        cidr=ip_network("10.1.0.0/24"),
        gateway=ip_address("10.1.0.254"),
        range=ip_network("10.1.0.128/25"),
        reserved={"printer": ip_address("10.1.0.9")},
    )
    assert six.gateway == ip_address("fd00:1::ff")
    assert six.range is None
    assert six.reserved == {"nas": ip_address("fd00:1::9")}


def test_the_default_gateway_avoids_what_is_reserved() -> None:
    [subnet] = subnets_of("10.1.0.0/24", aux_addresses={"router": "10.1.0.1", "nas": "10.1.0.2"})
    assert subnet.gateway == ip_address("10.1.0.3")


@pytest.mark.parametrize(("cidr", "gateway"), [("10.1.0.0/31", "10.1.0.0"), ("fd00:1::/127", "fd00:1::")])
def test_the_smallest_subnet_has_a_gateway_and_one_container(cidr: str, gateway: str) -> None:
    assert ip_address(gateway) in [subnet.gateway for subnet in subnets_of(cidr)]


@pytest.mark.parametrize(
    ("cidr", "message"),
    [
        ("10.1.0.0", r"'10\.1\.0\.0' has no prefix length: write 10\.1\.0\.0/24"),
        ("fd00::", "has no prefix length: write fd00::/64"),
        ("10.1.0.5/24", r"has host bits set; did you mean 10\.1\.0\.0/24\?"),
        ("10.1.0.0/33", "is not valid"),
        ("front", "'front' is not valid"),
        ("", "'' is not valid"),
        ("10.0.0.0/7", "too large: the largest in IPv4 is /8"),
        ("0.0.0.0/0", "too large"),
        ("::/0", "too large: the largest in IPv6 is /16"),
        ("127.0.0.0/24", r"lies in 127\.0\.0\.0/8, which is reserved"),
        ("169.254.0.0/24", "which is reserved"),
        ("224.1.0.0/24", "which is reserved"),
        ("255.255.255.0/24", "which is reserved"),
        ("fe80::/64", "which is reserved"),
        ("ff05::/64", "which is reserved"),
        ("::ffff:10.0.0.0/120", "which is reserved"),
        ("10.1.0.1/32", "no address left for a container"),
        ("fd00::1/128", "no address left for a container"),
    ],
)
def test_a_subnet_that_cannot_work_is_refused(cidr: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        subnets_of(cidr)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"gateways": ("10.2.0.1",)},
            r"gateway 10\.2\.0\.1 lies in no subnet of this network \(10\.1\.0\.0/24\)",
        ),
        ({"gateways": ("10.1.0.1", "10.1.0.2")}, "has two of --gateway"),
        ({"gateways": ("10.1.0.0",)}, r"gateway 10\.1\.0\.0 is the network or broadcast address"),
        ({"gateways": ("10.1.0.255",)}, "is the network or broadcast address"),
        ({"gateways": ("x",)}, "gateway 'x' is not an IP address"),
        ({"gateways": ("fe80::1%eth0",)}, "names an interface"),
        ({"ip_ranges": ("10.1.0.0/23",)}, r"ip-range 10\.1\.0\.0/23 lies in no subnet"),
        ({"ip_ranges": ("10.1.0.1/25",)}, "ip-range '10.1.0.1/25' is not valid"),
        ({"ip_ranges": ("10.1.0.0/25", "10.1.0.128/25")}, "has two of --ip-range"),
        ({"ip_ranges": ("10.1.0.1/32",)}, r"10\.1\.0\.1/32 has no address left"),
        ({"aux_addresses": {"nas": "10.9.0.1"}}, "aux-address 10.9.0.1 lies in no subnet"),
        ({"aux_addresses": {"nas": "10.1.0.0"}}, "is the network or broadcast address"),
        ({"aux_addresses": {"nas": "10.1.0.7"}, "gateways": ("10.1.0.7",)}, "nas=10.1.0.7 is the gateway"),
    ],
)
def test_what_does_not_fit_the_subnet_is_refused(asked: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        subnets_of("10.1.0.0/24", **asked)  # type: ignore[arg-type]


def test_an_overlap_names_who_has_it() -> None:
    with pytest.raises(AlreadyExists, match=r"10\.1\.0\.0/24 overlaps 10\.1\.0\.128/25, .* network 'old'"):
        subnets_of("10.1.0.0/24", networks=[network("old", "10.1.0.128/25")])
    with pytest.raises(AlreadyExists, match=r"overlaps 10\.0\.0\.0/8, which is used by the host, by eth0"):
        subnets_of("10.1.0.0/24", host=on_host("10.0.0.0/8"))
    with pytest.raises(AlreadyExists, match="another --subnet of this request"):
        subnets_of("10.1.0.0/24", "10.1.0.0/25")
    with pytest.raises(AlreadyExists, match="fd00:1::/64 overlaps"):
        subnets_of("10.1.0.0/24", "fd00:1::/64", networks=[network("old", "fd00:1::/48")])


def test_runs_of_addresses_narrow_a_subnet_in_ascending_order() -> None:
    [subnet] = subnets_of("10.1.0.0/24", ip_ranges=("10.1.0.99 - 10.1.0.255", "10.1.0.5-10.1.0.7"))
    assert [f"{first}-{last}" for first, last in subnet.spans] == [
        "10.1.0.5-10.1.0.7",
        "10.1.0.99-10.1.0.255",
    ]
    assert subnet.range is None


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (("10.1.0.9-10.1.0.5",), "is no run of addresses"),
        (("10.1.0.9-fd00::1",), "is no run of addresses"),
        (("10.1.0.9-x",), "'x' is not an IP address"),
        (("10.1.0.9-10.1.1.5",), r"ends outside of 10\.1\.0\.0/24"),
        (("10.2.0.9-10.2.0.10",), "lies in no subnet"),
        (("10.1.0.9-10.1.0.12", "10.1.0.12-10.1.0.14"), "overlaps 10.1.0.9-10.1.0.12"),
        (("10.1.0.9-10.1.0.12", "10.1.0.128/25"), "leave one out"),
        (("10.1.0.1-10.1.0.1",), "has no address left"),
    ],
)
def test_runs_that_make_no_sense_are_refused(ranges: tuple[str, ...], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        subnets_of("10.1.0.0/24", ip_ranges=ranges)
