from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import firewall, names
from netd.errors import Invalid
from netd.firewall import COUNT, SETS, atom_of, element_text
from netd.model import Endpoint, GatewayMode, Network, PortMapping, Proto, Subnet
from netd.objects import Element

NET = Network(
    id="n1",
    name="front",
    driver="bridge",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, ("10.89.0.0/24", "fd00:1::/64"))
    ),
    mtu=1500,
    options={"bridge.name": "nd-front"},
)
WEB = Endpoint(
    id="e1",
    network="n1",
    sandbox="web",
    ifname="eth0",
    mac="02:42:0a:59:00:02",
    addresses=(ip_interface("10.89.0.2/24"), ip_interface("fd00:1::2/64")),
)


def lines(elements: object) -> list[str]:
    return [str(item).removeprefix("nft    element ") for item in elements]  # type: ignore[attr-defined]


def mapping(host_ip: str | None = None, proto: Proto = Proto.TCP) -> PortMapping:
    return PortMapping(
        proto=proto, host_ip=ip_address(host_ip) if host_ip else None, host_port=8080, container_port=80
    )


# --- networks and endpoints ----------------------------------------------------------------------------


def test_a_network_is_known_by_its_bridge_and_its_gateways() -> None:
    assert lines(firewall.network(NET)) == [
        "inet netd bridges { nd-front }",
        "inet netd nat { nd-front }",
        "inet netd gateway4 { nd-front . 10.89.0.1 }",
        "inet netd gateway6 { nd-front . fd00:1::1 }",
        "inet netd intra { nd-front . nd-front }",
        "inet netd gateways4 { 10.89.0.1 }",
        "inet netd gateways6 { fd00:1::1 }",
    ]


@pytest.mark.parametrize(
    ("policy", "sets"),
    [
        ({}, {"nat", "intra"}),
        ({"icc": False}, {"nat", "apart"}),
        ({"internal": True}, {"internal", "intra"}),
        ({"gateway_mode": GatewayMode.ROUTED}, {"routed", "intra"}),
        ({"internal": True, "gateway_mode": GatewayMode.ROUTED, "icc": False}, {"internal", "apart"}),
    ],
)
def test_the_policy_of_a_network_is_the_sets_it_is_in(policy: dict[str, object], sets: set[str]) -> None:
    of_policy = {"nat", "routed", "internal", "intra", "apart"}
    elements = firewall.network(replace(NET, **policy))  # type: ignore[arg-type]
    assert {element.set for element in elements} & of_policy == sets


def test_an_endpoint_may_be_itself_and_its_link_local_address() -> None:
    port = "ve-00c4e8bb1d77"
    found = lines(firewall.endpoint(NET, WEB))
    found = [
        line.replace(line.split("{ ")[1].split(" ")[0], port) if " ve-" in line else line for line in found
    ]
    assert found == [
        f"bridge netd ports {{ {port} }}",
        f"bridge netd macs {{ {port} . 02:42:0a:59:00:02 }}",
        "inet netd hairpin4 { nd-front . 10.89.0.2 }",
        f"bridge netd bind4 {{ {port} . 02:42:0a:59:00:02 . 10.89.0.2 }}",
        "inet netd hairpin6 { nd-front . fd00:1::2 }",
        f"bridge netd target6 {{ {port} . 02:42:0a:59:00:02 . fd00:1::2 }}",
        f"bridge netd target6 {{ {port} . 02:42:0a:59:00:02 . fe80::42:aff:fe59:2 }}",
        f"bridge netd bind6 {{ {port} . 02:42:0a:59:00:02 . fd00:1::2 }}",
        f"bridge netd bind6 {{ {port} . 02:42:0a:59:00:02 . fe80::42:aff:fe59:2 }}",
    ]


def test_only_a_router_may_send_packets_of_others() -> None:
    def sets(option: str) -> list[str]:
        return [each.set for each in firewall.endpoint(NET, replace(WEB, options={"router": option}))]

    assert sets("yes").count("routers") == 1
    assert "routers" not in sets("no")


def test_without_ipv6_not_even_the_link_local_address_is_bound() -> None:
    net = replace(NET, subnets=NET.subnets[:1])
    endpoint = replace(WEB, addresses=WEB.addresses[:1])
    assert {element.set for element in firewall.endpoint(net, endpoint)} == {
        "ports",
        "macs",
        "bind4",
        "hairpin4",
    }


@pytest.mark.parametrize("policy", [{"internal": True}, {"icc": False}])
def test_where_nothing_comes_back_there_is_no_hairpin(policy: dict[str, bool]) -> None:
    elements = firewall.endpoint(replace(NET, **policy), WEB)  # type: ignore[arg-type]
    assert not [element for element in elements if element.set.startswith("hairpin")]


def test_a_detour_is_by_another_network_that_leads_out_in_the_family() -> None:
    four = replace(NET, id="n2", subnets=NET.subnets[:1], options={"bridge.name": "nd-four"})
    inner = replace(NET, id="n3", internal=True)
    assert lines(firewall.detours(WEB, [four, inner], 4)) == ["inet netd detour4 { 10.89.0.2 . nd-four }"]
    assert lines(firewall.detours(WEB, [four, inner], 6)) == []


# --- published ports -----------------------------------------------------------------------------------


def test_a_port_of_every_address_exists_in_both_families() -> None:
    assert lines(firewall.published(NET, WEB, mapping(), 4)) == [
        "inet netd any4 { tcp . 8080 : 10.89.0.2 . 80 }"
    ]
    assert lines(firewall.published(NET, WEB, mapping(proto=Proto.UDP), 6)) == [
        "inet netd any6 { udp . 8080 : fd00:1::2 . 80 }"
    ]


def test_a_port_of_one_address_exists_in_its_family() -> None:
    one = mapping("203.0.113.2")
    assert lines(firewall.published(NET, WEB, one, 4)) == [
        "inet netd pub4 { 203.0.113.2 . tcp . 8080 : 10.89.0.2 . 80 }"
    ]
    assert lines(firewall.published(NET, WEB, one, 6)) == []
    assert lines(firewall.published(NET, WEB, mapping("2001:db8::2"), 6)) == [
        "inet netd pub6 { 2001:db8::2 . tcp . 8080 : fd00:1::2 . 80 }"
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
@pytest.mark.parametrize("mode", list(GatewayMode))
def test_a_port_of_loopback_is_not_the_rules_business(address: str, mode: GatewayMode) -> None:
    net = replace(NET, gateway_mode=mode)
    assert [
        *firewall.published(net, WEB, mapping(address), 4),
        *firewall.published(net, WEB, mapping(address), 6),
    ] == []


def test_nothing_is_published_in_a_family_that_the_endpoint_lacks() -> None:
    assert lines(firewall.published(NET, replace(WEB, addresses=WEB.addresses[:1]), mapping(), 6)) == []


def test_in_routed_mode_the_container_port_is_open_too() -> None:
    net = replace(NET, gateway_mode=GatewayMode.ROUTED)
    assert lines(firewall.published(net, WEB, mapping(), 6)) == [
        "inet netd any6 { tcp . 8080 : fd00:1::2 . 80 }",
        "inet netd open6 { fd00:1::2 . tcp . 80 }",
    ]
    assert lines(firewall.published(net, WEB, mapping("203.0.113.2"), 4)) == [
        "inet netd pub4 { 203.0.113.2 . tcp . 8080 : 10.89.0.2 . 80 }"
    ]


def test_neighbours_that_are_kept_apart_reach_a_port_by_the_relay() -> None:
    net = replace(NET, icc=False)
    for family in (4, 6):
        assert "inet netd relayed { nd-front . tcp . 8080 }" in lines(
            firewall.published(net, WEB, mapping(), family)
        )


@pytest.mark.parametrize(("address", "family"), [("0.0.0.0", 4), ("::", 6)])
def test_the_unspecified_address_is_every_address_of_its_family(address: str, family: int) -> None:
    both = [(each, firewall.published(NET, WEB, mapping(address), each)) for each in (4, 6)]
    assert [(each, element.set) for each, found in both for element in found] == [(family, f"any{family}")]


def test_every_element_of_a_published_port_is_known_as_such() -> None:
    net = replace(NET, gateway_mode=GatewayMode.ROUTED, icc=False)
    published = [
        element
        for host in (None, "203.0.113.2", "2001:db8::2")
        for family in (4, 6)
        for element in firewall.published(net, WEB, mapping(host), family)
    ]
    assert {element.set for element in published} == firewall.PUBLISHING
    others = {element.set for element in (*firewall.network(net), *firewall.endpoint(net, WEB))}
    assert not others & firewall.PUBLISHING


# --- links without a bridge ----------------------------------------------------------------------------

LINKS = replace(NET, driver="ptp", options={})
LINK, GROUP = names.host_ifname(WEB), names.link_group(LINKS)


def test_a_network_without_a_bridge_is_known_by_the_group_of_its_links() -> None:
    gateways = ["inet netd gateways4 { 10.89.0.1 }", "inet netd gateways6 { fd00:1::1 }"]
    assert lines(firewall.network(LINKS)) == [f"inet netd together {{ {GROUP} . {GROUP} }}", *gateways]
    assert lines(firewall.network(replace(LINKS, icc=False))) == gateways


@pytest.mark.parametrize(
    ("policy", "sets"),
    [
        ({}, {"nat", "hairpin4", "hairpin6"}),
        ({"icc": False}, {"nat", "hairpin4", "hairpin6"}),
        ({"internal": True}, {"internal"}),
        ({"gateway_mode": GatewayMode.ROUTED}, {"routed", "hairpin4", "hairpin6"}),
    ],
)
def test_a_link_is_to_the_rules_a_bridge_with_one_member(policy: dict[str, object], sets: set[str]) -> None:
    found = list(firewall.endpoint(replace(LINKS, **policy), WEB))  # type: ignore[arg-type]
    always = {"bridges", "ptp", "gateway4", "gateway6", "bind4", "bind6"}
    assert {each.set for each in found if each.family == "inet"} == always | sets
    assert {each.set for each in found if each.family == "arp"} == {"ptp", "bind4"}
    assert not [each for each in found if each.family == "bridge"]
    assert {each.item[0] for each in found} == {LINK}


def test_a_link_speaks_from_its_addresses_and_its_link_local_one() -> None:
    assert [line for line in lines(firewall.endpoint(LINKS, WEB)) if "bind" in line] == [
        f"arp netd bind4 {{ {LINK} . 02:42:0a:59:00:02 . 10.89.0.2 }}",
        f"inet netd bind4 {{ {LINK} . 02:42:0a:59:00:02 . 10.89.0.2 }}",
        f"inet netd bind6 {{ {LINK} . 02:42:0a:59:00:02 . fd00:1::2 }}",
        f"inet netd bind6 {{ {LINK} . 02:42:0a:59:00:02 . fe80::42:aff:fe59:2 }}",
    ]


def test_detours_are_told_by_bridge_or_by_group() -> None:
    assert lines(firewall.detours(WEB, [NET, LINKS, replace(LINKS, internal=True)], 4)) == [
        "inet netd detour4 { 10.89.0.2 . nd-front }",
        f"inet netd group_detour4 {{ 10.89.0.2 . {GROUP} }}",
    ]


def test_no_link_needs_the_relay_for_its_neighbours() -> None:
    apart = replace(LINKS, icc=False)
    assert "relayed" not in {each.set for each in firewall.published(apart, WEB, mapping(), 4)}


# --- text ----------------------------------------------------------------------------------------------

IFNAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,15}", fullmatch=True)
ATOMS = {
    "ifname": IFNAMES,
    "mac": st.binary(min_size=6, max_size=6).map(lambda raw: ":".join(f"{byte:02x}" for byte in raw)),
    "ipv4": st.ip_addresses(v=4),
    "ipv6": st.ip_addresses(v=6),
    "target6": st.ip_addresses(v=6),
    "proto": st.sampled_from(["tcp", "udp"]),
    "port": st.integers(1, 65535),
    "group": st.integers(1, 2**32 - 1),
    "count": st.integers(1, 2**32 - 1),
    "family": st.sampled_from(["ipv4", "ipv6"]),
}


@st.composite
def elements(draw: st.DrawFn) -> Element:
    family, name = draw(st.sampled_from(sorted(SETS)))
    kind = SETS[family, name]
    return Element(
        family,
        name,
        tuple(draw(ATOMS[part]) for part in kind.key),
        tuple(draw(ATOMS[part]) for part in kind.value),
    )


def test_text_of_a_set_and_of_a_map() -> None:
    bound = Element("bridge", "bind4", ("ve-1", "02:42:0a:59:00:02", IPv4Address("10.89.0.2")))
    assert element_text("add", bound) == (
        'add element bridge netd bind4 { "ve-1" . 02:42:0a:59:00:02 . 10.89.0.2 }'
    )
    port = Element("inet", "any6", ("udp", 53), (IPv6Address("fd00::2"), 53))
    assert element_text("add", port) == "add element inet netd any6 { udp . 53 : fd00::2 . 53 }"
    assert element_text("delete", port) == "delete element inet netd any6 { udp . 53 }"
    target = Element("bridge", "target6", ("ve-1", "02:42:0a:59:00:02", IPv6Address("fd00::2")))
    assert element_text("add", target).endswith(" . 0xfd000000000000000000000000000002 }")


@given(elements())
@settings(deadline=None)
def test_what_is_written_can_be_read_back(element: Element) -> None:
    """In the words that libnftables lists: the same as those it is given, without quotes."""
    kind = SETS[element.family, element.set]
    text = element_text("add", element).partition("{ ")[2].removesuffix(" }")
    key, _, value = text.partition(" ct count over " if kind.value == COUNT else " : ")
    for parts, kinds, atoms in ((key, kind.key, element.item), (value, kind.value, element.value)):
        words = [word.strip('"') for word in parts.split(" . ")] if parts else []
        assert tuple(atom_of(each, word) for each, word in zip(kinds, words, strict=True)) == atoms


JUNK = st.one_of(
    st.text(),
    st.integers(),
    st.booleans(),
    st.ip_addresses(),
    st.sampled_from(
        ["eth0; flush ruleset", "a }", '"', "ve-*", "", "x" * 16, "a b", "tcp ", "02:42", "1.2.3.4", "\n"]
    ),
)


@given(elements(), st.data())
@settings(deadline=None)
def test_what_is_not_of_the_type_never_becomes_text(element: Element, data: st.DataObject) -> None:
    """Whatever stands in for a component: either it is a word of that type, or the element is refused."""
    kind = SETS[element.family, element.set]
    position = data.draw(st.integers(0, len(kind.key) - 1))
    junk = data.draw(JUNK)
    item = (*element.item[:position], junk, *element.item[position + 1 :])
    try:
        text = element_text("add", replace(element, item=item))
    except Invalid:
        return
    introduced = " ct count over " if kind.value == COUNT else " : "
    words = text.partition("{ ")[2].removesuffix(" }").partition(introduced)[0].split(" . ")
    assert len(words) == len(kind.key)
    assert atom_of(kind.key[position], words[position].strip('"')) == junk


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (Element("inet", "nowhere", ("a",)), "no such operation or set"),
        (Element("bridge", "bridges", ("a",)), "no such operation or set"),
        (Element("inet", "version", ("a",)), "no such operation or set"),
        (Element("inet", "bridges", ("a", "b")), "2 components where 1 are needed"),
        (Element("inet", "bridges", ()), "0 components where 1 are needed"),
        (Element("inet", "any4", ("tcp", 80)), "0 components where 2 are needed"),
        (Element("inet", "bridges", ("a",), ("b",)), "1 components where 0 are needed"),
        (Element("inet", "bridges", ('a" } flush',)), "is not an interface name"),
        (Element("inet", "gateways4", ("10.0.0.1",)), "'10.0.0.1' is not an IPv4 address"),
        (Element("inet", "gateways4", (IPv6Address("::1"),)), "is not an IPv4 address"),
        (
            Element("inet", "gateways6", (IPv6Address("fe80::1%eth0"),)),
            "is not an IPv6 address without a zone",
        ),
        (Element("inet", "open4", (IPv4Address("10.0.0.1"), "tcp", 0)), "0 is not a port"),
        (Element("inet", "open4", (IPv4Address("10.0.0.1"), "tcp", True)), "True is not a port"),
        (Element("inet", "open4", (IPv4Address("10.0.0.1"), "sctp", 80)), "'sctp' is not tcp or udp"),
        (Element("bridge", "macs", ("a", "02:42:0A:59:00:02")), "is not a MAC address"),
        (Element("inet", "closed", ("arp",)), "'arp' is not ipv4 or ipv6"),
    ],
)
def test_a_wrong_element_is_refused_by_name(element: Element, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        element_text("add", element)


def test_only_two_operations_are_known() -> None:
    with pytest.raises(Invalid, match="nft flush in inet netd"):
        element_text("flush", Element("inet", "bridges", ("a",)))
