"""The planner, against a kernel of paper: every pair of states, every interruption, every step.

The states are what the compiler makes of whole hosts, so that what is drawn at random is always
something that can be, and the promises can be stated in the words of such a host.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netd import compile, firewall, names
from netd.model import (
    Endpoint,
    GatewayMode,
    Netns,
    Network,
    Node,
    Owner,
    PortMapping,
    Proto,
    RemoteEndpoint,
    Sandbox,
    Scope,
    Subnet,
)
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    Element,
    Flood,
    HostLink,
    KernelObject,
    Latch,
    Op,
    Remote,
    Remove,
    Route,
    Sysctl,
    Up,
    Veth,
    Vxlan,
    WireGuard,
    WireGuardPeer,
)
from netd.plan import plan, undo
from netd.tunnels import Tunnels

State = frozenset[KernelObject]


# --- hosts to plan between ----------------------------------------------------------------------------

NETWORKS = {
    name: Network(
        id=names.digest(name, 32),
        name=name,
        driver="overlay" if "vni" in policy else "bridge",
        subnets=tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, cidrs)),
        mtu=1500,
        **policy,
    )
    for name, cidrs, policy in (
        ("front", ("10.89.1.0/24", "fd00:1::/64"), {}),
        ("back", ("10.89.2.0/24",), {"icc": False}),
        ("inner", ("10.89.3.0/24", "fd00:3::/64"), {"internal": True}),
        ("routed", ("10.89.4.0/24",), {"gateway_mode": GatewayMode.ROUTED}),
        ("far", ("10.89.5.0/24", "fd00:5::/64"), {"scope": Scope.CLUSTER, "vni": 4097}),
    )
}
BY_ID = {net.id: net for net in NETWORKS.values()}
PORTS = tuple(
    PortMapping(proto=proto, host_ip=host, host_port=port, container_port=80)
    for proto, host, port in (
        (Proto.TCP, None, 8080),
        (Proto.UDP, None, 8080),
        (Proto.TCP, ip_address("203.0.113.2"), 8081),
    )
)


def container(
    name: str, life: int, joined: tuple[str, ...], number: int, ports: Iterable[PortMapping]
) -> State:
    """What the container `name` needs. Each `life` has a namespace and endpoints of its own."""
    endpoints = tuple(
        Endpoint(
            id=f"{name} {life} {net}",
            network=NETWORKS[net].id,
            sandbox=name,
            ifname=f"eth-{net}",
            mac=names.mac_of(f"{name} {life} {net}"),
            addresses=tuple(
                ip_interface(f"{subnet.cidr[number]}/{subnet.cidr.prefixlen}")
                for subnet in NETWORKS[net].subnets
            ),
            order=order,
        )
        for order, net in enumerate(joined)
    )
    netns = Netns(label=name, path=f"/run/{name}{life}", device=4, inode=hash((name, life)) & 0xFFFF)
    sandbox = Sandbox(id=name, name=name, owner=Owner.CONTAINER, netns=netns, ports=tuple(ports))
    return compile.sandbox(sandbox, endpoints, BY_ID)


@st.composite
def hosts(draw: st.DrawFn) -> State:
    """A host with networks and containers; each of the three published ports has at most one owner."""
    present = draw(st.sets(st.sampled_from(sorted(NETWORKS))))
    state: set[KernelObject] = set()
    for name in present:
        state |= compile.network(NETWORKS[name])
    if "far" in present:
        state |= draw(elsewhere())
    numbers = draw(st.permutations([2, 3, 4]))
    free = list(PORTS)
    for name, number in zip(("web", "db", "api"), numbers, strict=True):
        joined = tuple(draw(st.lists(st.sampled_from(sorted(present)), unique=True))) if present else ()
        if joined:
            ports = [port for port in free if draw(st.booleans())]
            free = [port for port in free if port not in ports]
            # The same life has the same address on both hosts.
            state |= container(name, 10 * draw(st.integers(0, 1)) + number, joined, number, ports)
    return frozenset(state)


@st.composite
def elsewhere(draw: st.DrawFn) -> State:
    """What leads to the other hosts of the network `far`, which may come back with another address."""
    net = replace(NETWORKS["far"], options={"multicast": draw(st.sampled_from(["on", "off"]))})
    ours, other = (
        Node(name=name, address=ip_address(draw(st.sampled_from(addresses))))
        for name, addresses in (("h1", ["192.0.2.1", "2001:db8::1"]), ("h2", ["192.0.2.2", "192.0.2.3"]))
    )
    tunnels = Tunnels(ours, 4789)
    tunnels.set_network(net)
    tunnels.set_node(other)
    for number in draw(st.sets(st.integers(20, 23))):
        addresses = tuple(ip_interface(f"{s.cidr[number]}/{s.cidr.prefixlen}") for s in net.subnets)
        mac = names.mac_of(str(number))
        remote = RemoteEndpoint(
            id=mac, network=net.id, node="h2", sandbox="c", name="c", mac=mac, addresses=addresses
        )
        tunnels.set_remote(remote)
    return tunnels.objects()


def damaged(host: st.SearchStrategy[State]) -> st.SearchStrategy[State]:
    """Such a host after an outsider removed some of it and changed some."""

    @st.composite
    def build(draw: st.DrawFn) -> State:
        state = draw(host)
        kernel = Paper(state)
        for item in draw(st.lists(st.sampled_from(sorted(state, key=str)), unique=True)) if state else ():
            if item not in kernel.state:
                continue
            if draw(st.booleans()):
                kernel.remove(item)
            else:
                kernel.objects[item.key] = altered(item)
        return kernel.state

    return build()


def altered(item: KernelObject) -> KernelObject:
    match item:
        case Bridge():
            return replace(item, mtu=1400)
        case Veth():
            return replace(item, peer_mac="02:00:00:00:00:99")
        case Vxlan():
            return replace(item, sealed=False)
        case Remote():
            return replace(item, vtep=None)
        case WireGuard():
            return replace(item, public_key="")
        case WireGuardPeer():
            return replace(item, endpoint=None)
        case BridgePort():
            return replace(item, isolated=not item.isolated)
        case Sysctl():
            return replace(item, value="7")
        case Route(via=via) if via is not None:
            return replace(item, via=via + 100)
        case Element(value=(_, port)):
            return replace(item, value=(ip_address("10.9.9.9"), port))
    return item


# --- the kernel of paper --------------------------------------------------------------------------------


class Paper:
    """Does as it is told if a kernel could, takes along what a kernel takes along, refuses the rest."""

    def __init__(self, state: Iterable[KernelObject]) -> None:
        self.objects: dict[Hashable, KernelObject] = {item.key: item for item in state}
        self._links: dict[Hashable, set[Hashable]] = {}  # by the object that has them
        for item in self.objects.values():
            self._note(item)

    def _note(self, item: KernelObject) -> None:
        if links := links_of(item):
            self._links[item.key] = links

    @property
    def state(self) -> State:
        return frozenset(self.objects.values())

    def apply(self, ops: Iterable[Op]) -> State:
        for op in ops:
            self.step(op)
        return self.state

    def step(self, op: Op) -> None:
        match op:
            case Add(item):
                assert item.key not in self.objects, f"{op}: exists"
                self._check_support(item)
                self.objects[item.key] = item
                self._note(item)
            case Change(old, new):
                assert self.objects.get(old.key) == old, f"{op}: not there"
                assert old.key == new.key
                assert old != new
                self._check_support(new)
                self.objects[new.key] = new
                self._note(new)
            case Remove(item):
                assert item.key in self.objects, f"{op}: not there"
                self.remove(item)

    def remove(self, item: KernelObject) -> None:
        del self.objects[item.key]
        gone = self._links.pop(item.key, None)
        if not gone:
            return
        for key, other in list(self.objects.items()):
            if gone & needs(other) and not isinstance(other, Vxlan):
                del self.objects[key]
                self._links.pop(key, None)

    def _check_support(self, item: KernelObject) -> None:
        there = set().union(*self._links.values())
        assert needs(item) <= there, f"{item}: no such interface"
        if isinstance(item, Route):
            assert Up(item.dev, item.netns).key in self.objects, f"{item}: network is down"
        assert not isinstance(item, Veth) or not links_of(item) & there, f"{item}: name is taken"


def links_of(item: KernelObject) -> set[Hashable]:
    if isinstance(item, Bridge | Vxlan | WireGuard):
        return {(None, item.name)}
    return {(None, item.name), (item.netns, item.peer)} if isinstance(item, Veth) else set()


def needs(item: KernelObject) -> set[Hashable]:
    match item:
        case BridgePort():
            return {(None, item.name), (None, item.bridge)}
        case Vxlan():
            return {(None, item.bridge)}
        case Remote():
            return {(None, item.bridge), (None, item.vxlan)}
        case Flood():
            return {(None, item.vxlan)}
        case WireGuardPeer() | Latch():
            return {(None, item.dev)}
        case Address() | Up() | Route():
            return {(item.netns, item.dev)}
        case Sysctl():
            return {(item.netns, item.path[3])}
    return set()


def breaches(state: Collection[KernelObject]) -> list[str]:
    """Where something exists without what protects others from it, or it from others."""
    elements = {(item.family, item.set, *item.item) for item in state if isinstance(item, Element)}
    found = []
    for item in state:
        match item:
            case Veth() | BridgePort():
                if ("bridge", "ports", item.name) not in elements:
                    found.append(f"{item}: not guarded")
            case Bridge():
                if ("inet", "bridges", item.name) not in elements:
                    found.append(f"{item}: unknown to the rules")
                inner = item.name == names.bridge_name(NETWORKS["inner"])
                if inner and ("inet", "internal", item.name) not in elements:
                    found.append(f"{item}: not internal")
            case Vxlan():
                if not any(element[:2] == ("inet", "vxlan") for element in elements):
                    found.append(f"{item}: not guarded")
            case Up():
                veth = next(
                    v for v in state if isinstance(v, Veth) and (v.netns, v.peer) == (item.netns, item.dev)
                )
                if not any(isinstance(port, BridgePort) and port.name == veth.name for port in state):
                    found.append(f"{item}: up before its port has its flags")
                bridges = {
                    port.bridge for port in state if isinstance(port, BridgePort) and port.name == veth.name
                }
                if not all(Latch(bridge) in state for bridge in bridges):
                    found.append(f"{item}: up before its bridge has a latch")
                if not any(
                    isinstance(s, Sysctl) and s.netns == item.netns and item.dev in s.path for s in state
                ):
                    found.append(f"{item}: up before its sysctls")
            case Element(set=name, value=(target, _)) if name in firewall.PUBLISHING:
                if not any(isinstance(a, Address) and a.address.ip == target and a.netns for a in state):
                    found.append(f"{item}: leads nowhere")
    return found


# --- the promises ---------------------------------------------------------------------------------------


@given(desired=hosts(), observed=damaged(hosts()))
@settings(deadline=None)
def test_applied_to_any_state_it_gives_the_desired_one(desired: State, observed: State) -> None:
    assert Paper(observed).apply(plan(desired, observed)) == desired


@given(state=hosts())
@settings(deadline=None)
def test_with_nothing_to_do_it_is_empty(state: State) -> None:
    assert plan(state, state) == ()
    assert plan((), ()) == ()


@given(desired=hosts(), observed=damaged(hosts()))
@settings(deadline=None, max_examples=40)
def test_after_any_interruption_the_next_plan_arrives(desired: State, observed: State) -> None:
    ops = plan(desired, observed)
    kernel = Paper(observed)
    for op in ops:
        kernel.step(op)
        assert Paper(kernel.state).apply(plan(desired, kernel.state)) == desired


@given(before=hosts(), after=hosts())
@settings(deadline=None)
def test_no_step_leaves_anything_unprotected(before: State, after: State) -> None:
    assert not breaches(before)
    kernel = Paper(before)
    for op in plan(after, before):
        kernel.step(op)
        assert not breaches(kernel.objects.values()), f"after {op}"


@given(before=hosts(), after=hosts())
@settings(deadline=None, max_examples=15)
def test_undoing_any_beginning_restores_what_was(before: State, after: State) -> None:
    """Exactly, as long as no link was removed; and with the next plan otherwise. Safe at each step."""
    ops = plan(after, before)
    for length in range(len(ops) + 1):
        done = ops[:length]
        kernel = Paper(before)
        kernel.apply(done)
        bare = any(isinstance(op, Remove) and isinstance(op.object, HostLink) for op in done)
        for op in undo(done):
            kernel.step(op)
            found = breaches(kernel.objects.values())
            assert all(bare and "leads nowhere" in breach for breach in found), f"undoing {op}: {found}"
        if not bare:
            assert kernel.state == before
        else:
            assert Paper(kernel.state).apply(plan(before, kernel.state)) == before


@given(desired=hosts(), observed=damaged(hosts()))
@settings(deadline=None)
def test_the_same_question_has_the_same_answer(desired: State, observed: State) -> None:
    assert plan(sorted(desired, key=str), sorted(observed, key=str, reverse=True)) == plan(desired, observed)


# --- what a reader of the essay expects to see ------------------------------------------------------------

FRONT = compile.network(NETWORKS["front"])
WEB = container("web", 1, ("front",), 2, PORTS)


def kinds(ops: Collection[Op]) -> list[str]:
    """The sequence of operations, with repetitions folded."""
    found: list[str] = []
    for op in ops:
        item = op.new if isinstance(op, Change) else op.object
        kind = type(item).__name__
        if isinstance(item, Element):
            kind = "publish" if item.set in firewall.PUBLISHING else "identify"
        if not found or found[-1] != f"{type(op).__name__} {kind}":
            found.append(f"{type(op).__name__} {kind}")
    return found


def test_attaching_protects_first_and_publishes_last() -> None:
    assert kinds(plan(FRONT | WEB, FRONT)) == [
        "Add identify",
        "Add Veth",
        "Add BridgePort",
        "Add Sysctl",
        "Add Address",
        "Add Up",
        "Add Route",
        "Add publish",
    ]


def test_detaching_withdraws_first_and_leaves_what_goes_along_to_the_kernel() -> None:
    assert kinds(plan(FRONT, FRONT | WEB)) == ["Remove publish", "Remove Veth", "Remove identify"]


def test_a_network_goes_with_one_link() -> None:
    assert kinds(plan((), FRONT)) == ["Remove Bridge", "Remove identify"]


def test_what_hangs_on_a_tunnel_is_made_again_with_it_and_leaves_no_half_behind() -> None:
    bridge = Bridge("nd-far", "netd:far", "", "02:00:00:00:00:01", 1450)
    vtep = ip_address("192.0.2.2")
    tunnel = Vxlan("vx-far", "netd:vxlan@far", "", 4097, vtep + 1, 4789, "02:00:00:00:00:02", 1450, "nd-far")
    remote = Remote("nd-far", "vx-far", "02:00:00:00:00:03", (ip_address("10.5.0.2"),), vtep)
    flood, moved = Flood("vx-far", vtep), replace(tunnel, local=vtep + 2)
    ops = plan({bridge, moved, remote, flood}, {bridge, tunnel, remote, flood})
    assert ops == (Remove(remote), Remove(tunnel), Add(moved), Add(flood), Add(remote))


def test_each_pair_is_followed_by_its_place_in_the_bridge() -> None:
    """So that the kernel's adapter can make both with one message."""
    two = container("web", 1, ("front", "back"), 2, ())
    ops = [op.object for op in plan(two, ()) if isinstance(op, Add)]
    pairs = [index for index, item in enumerate(ops) if isinstance(item, Veth)]
    assert len(pairs) == 2
    for index in pairs:
        port = ops[index + 1]
        assert isinstance(port, BridgePort)
        assert port.name == ops[index].name  # type: ignore[union-attr]


def test_a_pair_in_another_namespace_is_made_again_with_all_that_hung_on_it() -> None:
    elsewhere = frozenset(
        replace(item, netns=replace(item.netns, inode=1)) if isinstance(item, Veth) else item for item in WEB
    )
    ops = plan(FRONT | WEB, FRONT | elsewhere)
    assert kinds(ops)[:3] == ["Remove Veth", "Add Veth", "Add BridgePort"]


def test_a_port_that_moves_between_living_containers_is_never_closed() -> None:
    other = container("api", 2, ("front",), 3, ())
    before = FRONT | container("web", 1, ("front",), 2, PORTS[:1]) | other
    after = FRONT | container("web", 1, ("front",), 2, ()) | container("api", 2, ("front",), 3, PORTS[:1])
    assert kinds(plan(after, before)) == ["Change publish"]


def test_a_port_whose_container_goes_is_closed_before_anybody_gets_the_address() -> None:
    before = FRONT | container("web", 1, ("front",), 2, PORTS[:1])
    after = FRONT | container("api", 2, ("front",), 3, PORTS[:1]) | container("new", 3, ("front",), 2, ())
    ops = kinds(plan(after, before))
    assert ops[0] == "Remove publish"
    assert ops[-1] == "Add publish"


def test_an_on_link_route_comes_before_one_that_needs_it() -> None:
    netns = Netns(label="web", path="/", device=4, inode=1)
    near = Route(ip_network("10.7.0.1/32"), "eth0", None, netns)
    far = Route(ip_network("10.0.0.0/8"), "eth0", ip_address("10.7.0.1"), netns)
    assert [op.object for op in plan({far, near}, ()) if isinstance(op, Add)] == [near, far]
    assert [op.object for op in plan((), {far, near}) if isinstance(op, Remove)] == [far, near]


@pytest.mark.parametrize(
    "path", [("net", "ipv4", "ip_forward"), ("net", "ipv6", "conf", "all", "forwarding")]
)
def test_a_switch_of_the_whole_host_hangs_on_no_link(path: tuple[str, ...]) -> None:
    bridge = Bridge("all", alias="netd:x", altname="x", mac="02:00:00:00:00:01", mtu=1500)
    switch = Sysctl(path, "1")
    assert plan({switch}, {switch, bridge}) == (Remove(bridge),)
