"""What a cluster tells becomes what this host has; what this host has becomes known to the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from netd import names, reconcile
from netd.errors import AlreadyExists, InUse, Invalid, KernelError, Unavailable
from netd.kernel.ports import Drift, Underlay
from netd.model import Network, NetworkRequest, Scope, Want
from netd.objects import Bridge, Element, Remote, Route, Veth, Vxlan
from tests.unit.cluster_double import OTHER, OURS, THIRD, PaperCluster, fabric, remote
from tests.unit.host import Host, until

Story = Callable[[Host, PaperCluster], Coroutine[Any, Any, None]]
REQUEST = NetworkRequest(name="fabric", driver="overlay", subnets=("10.5.0.0/24", "fd05::/64"))


def member(tmp_path: Path, story: Story, cluster: PaperCluster | None = None) -> None:
    """Run `story` on a host that is in a cluster of paper."""

    async def run() -> None:
        host = Host(tmp_path)
        paper = cluster or PaperCluster()
        host.cluster = paper
        host.kernel.underlays[OURS.address] = Underlay("eth0", 1500)
        await host.start()
        try:
            await story(host, paper)
            host.assert_as_wanted()
        finally:
            await host.engine.close()

    asyncio.run(run())


def made(host: Host, kind: type) -> Any:
    [item] = [item for item in host.kernel.objects if isinstance(item, kind)]
    return item


def routes(host: Host) -> list[Route]:
    """The host's own."""
    return [item for item in host.kernel.objects if isinstance(item, Route) and item.netns is None]


async def told(cluster: PaperCluster) -> None:
    """A network, two nodes and an endpoint, as after a first list."""
    await cluster.member.sync_cluster([fabric()], [OURS, OTHER, THIRD], [remote()])


def test_what_is_told_is_made(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        assert host.engine.network("fabric").mtu == 1450
        assert made(host, Vxlan).local == OURS.address
        assert made(host, Remote).vtep == OTHER.address
        assert host.feed.remotes == {"db": ("10.5.0.9", "fd05::9")}
        assert host.feed.networks == {"fabric"}

    member(tmp_path, story)


def test_a_restart_with_what_was_known_writes_nothing(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])
        cluster.told_first = ([fabric()], [OURS, OTHER, THIRD], [remote()])
        writes = host.kernel.writes
        await host.restart()
        assert host.kernel.writes == writes
        assert host.feed.remotes == {"db": ("10.5.0.9", "fd05::9")}
        await told(cluster)
        assert host.kernel.writes == writes

    member(tmp_path, story)


def test_a_restart_among_plain_routes_writes_nothing_and_tells_where_it_is(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        segment = ip_network("192.0.2.0/24")
        host.kernel.underlays[OURS.address] = Underlay("eth0", 1500, "02:00:00:00:00:01", segment)
        await host.restart()
        assert (cluster.node.segment, cluster.node.mac) == (segment, "02:00:00:00:00:01")
        near = replace(OTHER, segment=segment, mac="02:00:00:00:00:02")
        net = fabric(options={"encap": "auto"})
        cluster.told_first = ([net], [near], [remote()])
        await host.restart()
        assert [str(route.destination) for route in routes(host)] == ["10.5.0.9/32"]
        writes = host.kernel.writes
        await host.restart()
        assert host.kernel.writes == writes
        await cluster.member.drop_node("h2")
        assert not routes(host)

    member(tmp_path, story)


def test_a_network_without_tunnels_takes_nobody_who_would_be_alone(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        net = fabric(options={"encap": "never"}, subnets=fabric().subnets[:1])
        cluster.told_first = ([net], [OTHER], [remote(addresses=remote().addresses[:1])])
        await host.restart()
        with pytest.raises(Unavailable, match=r"'h2'.*encap=auto"):
            await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])
        [problem] = host.engine.problems()
        assert "'h2'" in problem
        await cluster.member.drop_remote(net.id, remote().id)
        assert not host.engine.problems()
        await host.engine.attach(await host.sandbox("api"), [Want(network="fabric")])

    member(tmp_path, story)


def test_what_came_to_be_and_went_while_no_daemon_ran(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        other = fabric(id="other-id", name="other", subnets=(replace(fabric().subnets[1]),), vni=5000)
        cluster.told_first = ([other], [OURS, THIRD], [])
        await host.restart()
        assert [network.name for network in host.engine.view.networks.values()] == ["other"]
        assert host.feed.remotes == {}

    member(tmp_path, story)


def test_one_more_remote_costs_one_object(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        for number in range(20, 120):
            await cluster.member.set_remote(remote(f"c{number}", number))
        writes = host.kernel.writes
        await cluster.member.set_remote(remote("late", 200))
        assert host.kernel.writes == writes + 1
        await cluster.member.drop_remote("fabric-id", "ep-late")
        assert host.kernel.writes == writes + 2
        assert "late" not in host.feed.remotes

    member(tmp_path, story)


def test_a_node_that_dies_and_comes_back_elsewhere(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await cluster.member.drop_node("h2")
        assert host.feed.remotes == {}
        assert Element("inet", "peers4", (OTHER.address,)) not in host.kernel.objects
        moved = replace(OTHER, address=ip_address("192.0.2.77"))
        await cluster.member.set_node(moved)
        assert made(host, Remote).vtep == moved.address
        assert host.feed.remotes == {"db": ("10.5.0.9", "fd05::9")}

    member(tmp_path, story)


def test_damage_to_what_leads_elsewhere_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEBOUNCE", "QUIET", "STEP"):
        monkeypatch.setattr(reconcile, name, 0.001)

    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        before = host.kernel.render()
        for kind in (Remote, Vxlan):
            host.kernel.tamper(made(host, kind))
            await until(lambda: host.kernel.render() == before)
        host.kernel.tamper(made(host, Remote), replace(made(host, Remote), vtep=None))
        await until(lambda: host.kernel.render() == before)

    member(tmp_path, story)


def test_what_the_kernel_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DEBOUNCE", "QUIET", "STEP"):
        monkeypatch.setattr(reconcile, name, 0.001)

    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([fabric()], [OURS, OTHER], [])
        host.kernel.fail(lambda op: "remote" in str(op), KernelError(12, "remote"))
        await cluster.member.set_remote(remote())
        await until(lambda: any(isinstance(item, Remote) for item in host.kernel.objects))

    member(tmp_path, story)


def test_the_mtu_follows_the_underlay_into_containers_and_back(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await cluster.member.adopt_network(
            fabric(
                id="narrow-id",
                name="narrow",
                vni=4100,
                mtu_limit=1400,
                subnets=(
                    replace(
                        fabric().subnets[0], cidr=ip_network("10.6.0.0/24"), gateway=ip_address("10.6.0.1")
                    ),
                ),
            )
        )
        await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])
        for underlay, mtu, narrow in ((9000, 8950, 1400), (1400, 1350, 1350), (1500, 1450, 1400)):
            host.kernel.underlays[OURS.address] = Underlay("eth0", underlay)
            host.kernel.drift(Drift("underlay"))
            await until(lambda: made(host, Veth).mtu == mtu)  # noqa: B023  (awaited here)
            assert host.engine.network("fabric").mtu == mtu
            await until(lambda: host.engine.network("narrow").mtu == narrow)  # noqa: B023  (awaited here)
            await until(lambda: not host.engine._operations._running)
            mtus = {item.mtu for item in host.kernel.objects if isinstance(item, Bridge | Vxlan)}
            assert mtus == {mtu, narrow}
        host.kernel.underlays[OURS.address] = Underlay("eth0", 4000)
        cluster.told_first = ([fabric()], [OURS, OTHER], [remote()])
        await host.restart()
        assert made(host, Veth).mtu == 3950, "also if it changed while no daemon ran"
        assert host.engine.network("fabric").mtu == 3950

    member(tmp_path, story)


def test_a_network_is_agreed_on_made_and_connected(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([], [OURS, OTHER], [])
        network = await host.engine.create_network(REQUEST)
        assert (network.scope, network.vni, network.mtu) == (Scope.CLUSTER, 4096, 1450)
        assert made(host, Vxlan).vni == 4096
        await cluster.member.adopt_network(cluster.networks[network.id])
        await host.engine.remove_network("fabric")
        assert cluster.networks == {}
        assert not [item for item in host.kernel.objects if isinstance(item, Bridge | Vxlan)]

    member(tmp_path, story)


def test_what_the_cluster_refuses_is_not_made(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        cluster.refusal = Unavailable("etcd is away")
        with pytest.raises(Unavailable, match="etcd is away"):
            await host.engine.create_network(REQUEST)
        assert not host.engine.view.networks
        network = await host.engine.create_network(REQUEST)
        cluster.refusal = InUse("container 'db' on node 'h2' is in it")
        with pytest.raises(InUse, match="'h2'"):
            await host.engine.remove_network("fabric")
        assert host.engine.network("fabric") == network

    member(tmp_path, story)


def test_what_cannot_be_made_here_is_taken_back_from_the_cluster(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        host.kernel.fail(lambda op: "bridge" in str(op), KernelError(12, "bridge"))
        with pytest.raises(KernelError):
            await host.engine.create_network(REQUEST)
        assert cluster.networks == {}
        assert not host.engine.view.networks

    member(tmp_path, story)


def test_an_agreement_that_cannot_be_taken_back_is_no_worse_error(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        def fail(op: object) -> bool:
            if "bridge" in str(op):
                cluster.refusal = Unavailable("etcd is away")
            return "bridge" in str(op)

        host.kernel.fail(fail, KernelError(12, "bridge"))
        with pytest.raises(KernelError):
            await host.engine.create_network(REQUEST)
        assert not host.engine.view.networks

    member(tmp_path, story)


def test_no_network_covers_the_way_to_a_node(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([], [OURS, replace(OTHER, address=ip_address("10.5.0.7"))], [])
        with pytest.raises(AlreadyExists, match=r"10\.5\.0\.7, the address of node 'h2'"):
            await host.engine.create_network(REQUEST)
        with pytest.raises(AlreadyExists, match=r"10\.5\.0\.7"):
            await cluster.member.adopt_network(fabric())
        assert not cluster.networks

    member(tmp_path, story)


def test_an_underlay_that_is_away_leaves_the_mtu_as_it_was(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        host.kernel.underlays[OURS.address] = Underlay("eth0", 9000)
        host.kernel.drift(Drift("underlay"))
        await told(cluster)
        await until(lambda: host.engine.network("fabric").mtu == 8950)
        writes = host.kernel.writes
        del host.kernel.underlays[OURS.address]
        cluster.told_first = ([fabric()], [OURS, OTHER, THIRD], [remote()])
        await host.restart()
        assert host.engine.network("fabric").mtu == 8950
        assert host.kernel.writes == writes

    member(tmp_path, story)


def test_a_removal_that_failed_is_not_fought_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reconciler finishes it: what belongs to the network is not wanted any more."""
    for name in ("DEBOUNCE", "QUIET", "STEP"):
        monkeypatch.setattr(reconcile, name, 0.001)

    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        host.kernel.fail(lambda op: "bridge" in str(op), KernelError(12, "bridge"))
        with pytest.raises(KernelError):
            await cluster.member.drop_network("fabric-id")
        kinds = Bridge | Vxlan | Remote
        await until(lambda: not [item for item in host.kernel.objects if isinstance(item, kinds)])
        await cluster.member.drop_network("fabric-id")
        assert not host.engine.view.networks

    member(tmp_path, story)


def test_a_host_without_a_cluster_refuses_overlays(tmp_path: Path) -> None:
    async def run() -> None:
        host = Host(tmp_path)
        await host.start()
        with pytest.raises(Invalid, match="needs a cluster"):
            await host.engine.create_network(REQUEST)
        await host.engine.close()

    asyncio.run(run())


def test_a_daemon_that_left_its_cluster_says_so(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        host.cluster = None
        await host.restart()
        assert not [item for item in host.kernel.objects if isinstance(item, Vxlan | Remote)]
        with pytest.raises(Unavailable, match="--cluster"):
            await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])
        with pytest.raises(Unavailable, match="--cluster"):
            await host.engine.remove_network("fabric")

    member(tmp_path, story)


@pytest.mark.parametrize(
    "network",
    [
        fabric(name="front"),
        fabric(
            subnets=(
                replace(
                    fabric().subnets[0], cidr=ip_network("10.89.0.0/20"), gateway=ip_address("10.89.0.1")
                ),
            )
        ),
        fabric(options={"encrypted": "wireguard"}),
    ],
    ids=["name", "overlap", "cannot be had"],
)
def test_what_cannot_be_adopted_is_left_and_the_rest_goes_on(tmp_path: Path, network: Network) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        host.kernel.lacks_wireguard = "this kernel has no WireGuard"
        await host.engine.create_network(NetworkRequest(name="front"))
        good = fabric(id="good-id", name="good", vni=9000, subnets=(fabric().subnets[1],))
        await cluster.member.sync_cluster([network, good], [OURS, OTHER], [])
        assert {each.name for each in host.engine.view.networks.values()} == {"front", "good"}

    member(tmp_path, story)


def test_a_network_that_is_in_use_here_stays(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])
        with pytest.raises(InUse, match="'web'"):
            await cluster.member.drop_network("fabric-id")
        await cluster.member.sync_cluster([], [OURS], [])
        assert host.engine.network("fabric")
        await host.engine.detach("id-web")
        await cluster.member.drop_network("fabric-id")
        await cluster.member.drop_network("fabric-id")
        assert not host.engine.view.networks

    member(tmp_path, story)


def test_a_local_network_is_never_dropped(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        front = await host.engine.create_network(NetworkRequest(name="front"))
        await cluster.member.sync_cluster([], [OURS], [])
        await cluster.member.drop_network(front.id)
        assert host.engine.network("front") == front

    member(tmp_path, story)


def test_addresses_come_from_this_nodes_blocks_and_macs_from_the_addresses(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        given = []
        for number in range(4):
            _, [endpoint] = await host.engine.attach(
                await host.sandbox(f"c{number}"), [Want(network="fabric")]
            )
            given.append(str(endpoint.addresses[0].ip))
            assert endpoint.mac == names.mac_of(f"fabric-id/{endpoint.addresses[0].ip}")
        assert given == ["10.5.0.2", "10.5.0.3", "10.5.0.4", "10.5.0.5"], "the gateway is in the first block"
        assert cluster.said.count("grow fabric 4 None") == 2
        await host.engine.detach("id-c1")
        _, [again] = await host.engine.attach(
            await host.sandbox("again"), [Want(network="fabric", ip=IPv4Address("10.5.0.3"))]
        )
        assert "grow fabric 4 10.5.0.3" in cluster.said, "or no other node could take it over"
        assert again.mac == names.mac_of("fabric-id/10.5.0.3")

    member(tmp_path, story)


def test_an_address_that_is_asked_for_is_claimed_or_refused(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        _, [endpoint] = await host.engine.attach(
            await host.sandbox("web"), [Want(network="fabric", ip=IPv4Address("10.5.0.100"))]
        )
        assert str(endpoint.addresses[0].ip) == "10.5.0.100"
        with pytest.raises(AlreadyExists, match="'h2'"):
            await host.engine.attach(
                await host.sandbox("b"), [Want(network="fabric", ip=IPv4Address("10.5.0.200"))]
            )
        with pytest.raises(Invalid, match="gateway"):
            await host.engine.attach(
                await host.sandbox("c"), [Want(network="fabric", ip=IPv4Address("10.5.0.1"))]
            )
        assert "grow fabric 4 10.5.0.1" not in cluster.said

    member(tmp_path, story)


def test_a_draining_node_takes_nothing_new(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await cluster.drain("h1", True)
        with pytest.raises(Unavailable, match="being drained"):
            await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])

    member(tmp_path, story)


def test_endpoints_are_published_and_withdrawn(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await host.engine.create_network(NetworkRequest(name="front"))
        await host.engine.attach(await host.sandbox("web"), [Want(network="fabric"), Want(network="front")])
        assert [endpoint.network for _, endpoint in cluster.published.values()] == ["fabric-id"]
        await host.engine.disconnect("id-web", "fabric")
        assert not cluster.published
        await host.engine.connect("id-web", Want(network="fabric"))
        assert len(cluster.published) == 1
        await host.engine.detach("id-web")
        assert not cluster.published

    member(tmp_path, story)


def test_a_node_that_is_drained_takes_nothing(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await told(cluster)
        await host.engine.create_network(NetworkRequest(name="front"))
        cluster.node = replace(OURS, draining=True)
        for network in ("fabric", "front"):
            with pytest.raises(Unavailable, match="netd node drain --undo h1"):
                await host.engine.attach(await host.sandbox(f"in-{network}"), [Want(network=network)])
        cluster.node = OURS
        await host.engine.attach(await host.sandbox("web"), [Want(network="fabric")])

    member(tmp_path, story)
