from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest

from netd.drivers import bridge, driver
from netd.errors import Invalid
from netd.model import Endpoint, Netns, Network, Owner, Sandbox, Subnet
from netd.names import check_ifname
from netd.objects import Address, Bridge, BridgePort, KernelObject, Sysctl, Veth

NET = Network(
    id="n1",
    name="front",
    driver="bridge",
    subnets=tuple(
        Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, ("10.1.0.0/24", "fd00:1::/64"))
    ),
    mtu=1450,
)
LEGACY = replace(NET, subnets=NET.subnets[:1])
WEB = Sandbox(
    id="web",
    name="web",
    owner=Owner.CONTAINER,
    netns=Netns(label="web", path="/run/netd/netns/web", device=4, inode=7),
)


def endpoint(net: Network, **more: object) -> Endpoint:
    return Endpoint(
        id="e1",
        network=net.id,
        sandbox="web",
        ifname="eth0",
        mac="02:42:0a:01:00:02",
        addresses=tuple(ip_interface(f"{s.cidr[2]}/{s.cidr.prefixlen}") for s in net.subnets),
        **more,  # type: ignore[arg-type]
    )


def of(net: Network, sandbox: Sandbox = WEB) -> list[KernelObject]:
    return list(bridge.endpoint(net, sandbox, endpoint(net), net.families))


def sysctls(objects: list[KernelObject], family: int) -> dict[str, str]:
    return {
        item.path[-1]: item.value
        for item in objects
        if isinstance(item, Sysctl) and item.path[1] == f"ipv{family}"
    }


def test_drivers_are_looked_up_by_name() -> None:
    assert driver("bridge") is bridge
    with pytest.raises(Invalid, match="driver 'macvlan' does not exist; choose one of: bridge"):
        driver("macvlan")


def test_the_bridge_is_pinned_tagged_and_has_the_gateways() -> None:
    objects = list(bridge.network(NET))
    [link] = [item for item in objects if isinstance(item, Bridge)]
    assert (link.alias, link.mtu) == ("netd:front", 1450)
    assert int(link.mac[:2], 16) & 3 == 2, "unicast and locally administered"
    assert [str(item) for item in objects if isinstance(item, Address)] == [
        f"addr   10.1.0.1/24 dev {link.name}",
        f"addr   fd00:1::1/64 dev {link.name}",
    ]


def test_a_chosen_name_is_the_bridges_name_everywhere() -> None:
    net = replace(NET, options={"bridge.name": "br-front"})
    bridge.check(net)
    objects = [*bridge.network(net), *of(net)]
    assert {item.name for item in objects if isinstance(item, Bridge)} == {"br-front"}
    assert {item.bridge for item in objects if isinstance(item, BridgePort)} == {"br-front"}
    assert {item.dev for item in objects if isinstance(item, Address) and item.netns is None} == {"br-front"}
    assert {item.path[3] for item in objects if isinstance(item, Sysctl) and item.netns is None} == {
        "br-front"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bridge.nam": "x"}, "has no option 'bridge.nam', only bridge.name"),
        *(
            ({"bridge.name": name}, f"bridge.name {name!r} cannot name a bridge")
            for name in (
                "",
                "all",
                "default",
                "lo",
                "a/b",
                "a b",
                'a"b',
                "br*",
                ".",
                "..",
                "-x",
                "x" * 16,
                "é",
            )
        ),
        ({"bridge.name": "nd-front"}, "starts like the names that netd makes up"),
        ({"bridge.name": "ve-front"}, "starts like the names that netd makes up"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(Invalid, match=message.replace("*", r"\*").replace(".", r"\.")):
        bridge.check(replace(NET, options=options))


def test_a_network_without_options_is_fine() -> None:
    bridge.check(NET)


def test_forwarding_is_wanted_for_the_families_there_are() -> None:
    assert [str(item) for item in bridge.forwarding({4, 6})] == [
        "sysctl net/ipv4/ip_forward = 1",
        "sysctl net/ipv6/conf/all/forwarding = 1",
    ]
    assert [item.path[1] for item in bridge.forwarding({6})] == ["ipv6"]


@pytest.mark.parametrize(("internal", "forward"), [(False, "1"), (True, "0")])
def test_an_internal_bridge_does_not_forward(internal: bool, forward: str) -> None:
    objects = list(bridge.network(replace(NET, internal=internal)))
    assert sysctls(objects, 4)["forwarding"] == sysctls(objects, 6)["forwarding"] == forward


def test_nobody_advertises_routes_to_the_host_or_the_container() -> None:
    for objects in (list(bridge.network(NET)), of(NET)):
        assert sysctls(objects, 6)["accept_ra"] == "0"
        assert sysctls(objects, 6)["accept_redirects"] == sysctls(objects, 4)["accept_redirects"] == "0"
        assert sysctls(objects, 6)["accept_dad"] == "0"


def test_without_ipv6_it_is_off_on_both_sides() -> None:
    for objects in (list(bridge.network(LEGACY)), of(LEGACY)):
        assert sysctls(objects, 6) == {"disable_ipv6": "1"}


def test_whether_a_container_routes_is_its_own_affair() -> None:
    assert "forwarding" not in sysctls(of(NET), 4) | sysctls(of(NET), 6)


def test_what_its_owner_asked_of_an_interface_wins() -> None:
    asked = {
        "net/ipv6/conf/eth0/accept_ra": "2",
        "net/ipv4/conf/eth0/rp_filter": "2",
        "net/ipv6/conf/eth1/accept_dad": "1",
        "net/ipv6/conf/all/disable_ipv6": "0",
    }
    chosen = of(LEGACY, replace(WEB, sysctls=asked))
    assert sysctls(chosen, 6) == {"accept_ra": "2", "disable_ipv6": "0"}
    assert sysctls(chosen, 4) == sysctls(of(LEGACY), 4) | {"rp_filter": "2"}
    own = {"net/ipv6/conf/eth0/disable_ipv6": "1", **asked}
    assert sysctls(of(LEGACY, replace(WEB, sysctls=own)), 6)["disable_ipv6"] == "1", "its own before all's"
    assert len({item.path for item in chosen if isinstance(item, Sysctl)}) == len(
        [item for item in chosen if isinstance(item, Sysctl)]
    )


@pytest.mark.parametrize("icc", [True, False])
def test_without_icc_the_port_is_isolated_and_reflects_nothing(icc: bool) -> None:
    [port] = [item for item in of(replace(NET, icc=icc)) if isinstance(item, BridgePort)]
    assert (port.isolated, port.hairpin) == (not icc, icc)


def test_everything_of_the_container_is_inside_its_namespace() -> None:
    for item in of(NET):
        if not isinstance(item, BridgePort):
            assert getattr(item, "netns", None) == WEB.netns


@pytest.mark.parametrize("name", ["web", "a" * 63, "pod/with:odd name", "x" * 300, "ünïcode", ""])
def test_names_fit_the_kernel(name: str) -> None:
    net = replace(NET, name="n" * 63)
    sandbox = replace(WEB, name=name)
    [link] = [item for item in bridge.network(net) if isinstance(item, Bridge)]
    [veth] = [item for item in of(net, sandbox) if isinstance(item, Veth)]
    for item in (link, veth):
        check_ifname(item.name)
        assert len(item.altname.encode()) <= 127
        assert not set(item.altname) & set(" /:\t\n")
        assert item.altname != item.name
        assert len(item.alias.encode()) <= 255
        assert item.alias.isprintable()


def test_two_sandboxes_of_one_name_have_different_altnames() -> None:
    """A kubelet retries a pod under the same name while the old sandbox still goes."""
    first, second = (
        next(
            item
            for item in bridge.endpoint(NET, WEB, replace(endpoint(NET), id=id), ())
            if isinstance(item, Veth)
        )
        for id in ("e1", "e2")
    )
    assert first.altname != second.altname
    assert first.name != second.name
