"""What a view asks of the kernel, in its two halves, and whose a kernel object is."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from netd import compile, names
from netd.drivers import overlay
from netd.model import Node, Proto, Scope
from netd.objects import Add, Address, Bridge, BridgePort, Element, Route, Sysctl, Up, Veth
from netd.plan import plan
from netd.store.base import Attached
from netd.view import View
from netd.wanted import difference, everything, inside, kept_off, owners, owners_of
from tests.unit.host import port
from tests.unit.test_view import BACK, FRONT, ONE, TWO, WEB

VIEW = View.of([FRONT, BACK], [WEB])


def on_host(item: object) -> bool:
    return getattr(item, "netns", None) is None or isinstance(item, Veth)


def test_everything_is_all_networks_and_all_sandboxes() -> None:
    whole = everything(VIEW, ())
    assert whole == (
        compile.network(FRONT)
        | compile.network(BACK)
        | compile.sandbox(WEB.sandbox, WEB.endpoints, VIEW.networks)
    )
    assert everything(VIEW, {WEB.sandbox.id, BACK.id}) == compile.network(FRONT)


def test_what_must_not_forward_is_known_by_its_switch() -> None:
    inner, wire = replace(FRONT, internal=True), replace(BACK, driver="link")
    view = View.of([inner, wire], [WEB])
    assert {(path[1], path[3]) for path in kept_off(everything(view, ()))} == {
        ("ipv4", names.bridge_name(inner)),
        ("ipv6", names.bridge_name(inner)),
        ("ipv4", names.host_ifname(ONE)),
    }


def test_the_inside_of_a_sandbox_is_what_its_namespace_holds() -> None:
    whole = compile.sandbox(WEB.sandbox, WEB.endpoints, VIEW.networks)
    half = inside(WEB, VIEW)
    assert {type(item) for item in half} == {Address, Up, Route, Sysctl}
    assert whole - half == {item for item in whole if on_host(item)}


def test_the_host_half_alone_is_compared() -> None:
    whole = everything(VIEW, ())
    host = frozenset(item for item in whole if on_host(item))
    assert difference(whole, host) == ()
    [gone] = [item for item in host if isinstance(item, Bridge) and item.name == names.bridge_name(FRONT)]
    assert difference(whole, host - {gone}) == (Add(gone),)


def test_a_pair_that_must_be_made_brings_its_inside_along_in_one_order() -> None:
    whole = everything(VIEW, ())
    host = frozenset(item for item in whole if on_host(item))
    veth = names.host_ifname(ONE)
    missing = {item for item in host if isinstance(item, Veth | BridgePort) and item.name == veth}
    ops = difference(whole, host - missing)
    there = {item for item in whole if item not in missing and getattr(item, "dev", "") != "eth0"}
    there -= {i for i in whole if isinstance(i, Sysctl) and i.netns and i.path[3] == "eth0"}
    assert ops == plan(whole, there)
    assert {type(op.object) for op in ops if isinstance(op, Add)} >= {
        Veth,
        BridgePort,
        Address,
        Up,
        Route,
        Sysctl,
    }


def test_every_kernel_object_belongs_to_its_networks() -> None:
    web = Attached(WEB.sandbox, WEB.endpoints)
    view = View.of([FRONT, BACK], [web])
    known = owners(view)
    for network, ends in ((FRONT, [TWO]), (BACK, [ONE])):
        for item in compile.network(network):
            assert owners_of(known, item) == {network.id}, str(item)
        for end in ends:
            for item in compile.sandbox(WEB.sandbox, [end], view.networks):
                if on_host(item):
                    assert owners_of(known, item) == {network.id}, str(item)
    ports = compile.publish([ONE], view.networks, [port(8080), port(53, proto=Proto.UDP)])
    assert {type(item) for item in ports} == {Element}
    for item in ports:
        assert owners_of(known, item) == {BACK.id}
    assert owners_of(known, Element("inet", "closed", ("ipv4",))) == set()


def test_the_wireguard_device_belongs_to_every_encrypted_network() -> None:
    secrets = [
        replace(each, driver="overlay", scope=Scope.CLUSTER, options={"encrypted": "wireguard"})
        for each in (FRONT, BACK)
    ]
    node = Node(name="h1", address=ip_address("192.0.2.1"), wireguard_key=f"{'C' * 42}A=")
    items = (overlay.wireguard(node, 1500), overlay.wireguard_address(node), overlay.wireguard_peer(node))
    for item in items:
        assert owners_of(owners(View.of(secrets, [])), item) == {FRONT.id, BACK.id}, str(item)
        assert owners_of(owners(View.of([secrets[0], BACK], [])), item) == {FRONT.id}, str(item)
        assert owners_of(owners(VIEW), item) == set()
