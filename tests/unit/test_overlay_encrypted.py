"""Encrypted overlays among what a cluster tells: the device, its peers, and the key that others are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from netd import names
from netd.errors import Unsupported
from netd.kernel.ports import Drift, Underlay
from netd.objects import Remote, Vxlan, WireGuard, WireGuardPeer
from tests.unit.cluster_double import OTHER, OURS, PaperCluster, fabric, remote
from tests.unit.host import Host, until
from tests.unit.test_overlay import REQUEST, made, member

SECRET = fabric(options={"encrypted": "wireguard"})
KEYED = replace(OTHER, wireguard_key=f"{'C' * 42}A=")


def test_an_encrypted_network_brings_wireguard_and_takes_it_along(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([SECRET], [OURS, KEYED], [remote()])
        assert host.engine.network("fabric").mtu == 1370
        assert made(host, WireGuard).public_key == cluster.node.wireguard_key != ""
        assert made(host, WireGuard).mtu == 1440
        assert made(host, WireGuardPeer).public_key == KEYED.wireguard_key
        assert made(host, Remote).vtep == names.tunnel_address("h2")
        assert host.feed.remotes == {"db": ("10.5.0.9", "fd05::9")}
        host.kernel.underlays[OURS.address] = Underlay("eth0", 9000)
        host.kernel.drift(Drift("underlay", "eth0"))
        await until(lambda: made(host, WireGuard).mtu == 8940)
        await until(lambda: made(host, Vxlan).mtu == 8870)
        await cluster.member.sync_cluster([], [OURS, KEYED], [])
        assert not [item for item in host.kernel.objects if isinstance(item, WireGuard | WireGuardPeer)]

    member(tmp_path, story)


def test_a_restart_of_an_encrypted_network_writes_nothing(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([SECRET], [OURS, KEYED], [remote()])
        cluster.told_first = ([SECRET], [OURS, KEYED], [remote()])
        cluster.node = OURS  # as a new daemon's settings have it
        writes = host.kernel.writes
        await host.restart()
        assert host.kernel.writes == writes
        assert cluster.node.wireguard_key == made(host, WireGuard).public_key

    member(tmp_path, story)


def test_a_node_that_tells_no_key_is_named_and_its_names_do_not_resolve(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([SECRET], [OURS, OTHER], [remote()])
        assert not [item for item in host.kernel.objects if isinstance(item, Remote | WireGuardPeer)]
        assert host.feed.remotes == {}
        assert "node 'h2' has told no WireGuard key; its containers are not reached" in caplog.text
        await cluster.member.set_node(KEYED)
        assert host.feed.remotes == {"db": ("10.5.0.9", "fd05::9")}
        await cluster.member.set_node(OTHER)
        assert host.feed.remotes == {}

    member(tmp_path, story)


def test_a_new_key_is_given_to_the_device_and_told(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        await cluster.member.sync_cluster([SECRET], [OURS, KEYED], [remote()])
        before = made(host, WireGuard).public_key
        cluster.said.clear()
        await host.engine.rotate_key()
        assert made(host, WireGuard).public_key == cluster.node.wireguard_key != before
        assert cluster.said == ["identity"]

    member(tmp_path, story)


def test_what_cannot_be_encrypted_is_refused_and_not_made_in_the_cluster(tmp_path: Path) -> None:
    async def story(host: Host, cluster: PaperCluster) -> None:
        host.kernel.lacks_wireguard = "this kernel has no WireGuard: load its module"
        with pytest.raises(Unsupported, match="'fabric' is encrypted, and this kernel has no WireGuard"):
            await host.engine.create_network(replace(REQUEST, options={"encrypted": "wireguard"}))
        assert not cluster.networks
        with pytest.raises(Unsupported, match="no WireGuard key"):
            await host.engine.rotate_key()

    member(tmp_path, story)
