from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from netd import container_files
from netd.launch import Request
from netd.model import Endpoint, Netns, Network, Owner, Sandbox
from netd.registry import Record
from netd.store.base import Attached
from netd.view import View

NETNS = Netns(label="web", path="/run/netd/netns/web", device=4, inode=7)
WEB = Record(id="0a1b", name="web", hostname="0a1b", request=Request(), created=0.0, netns=NETNS)
VIEW = View.of(
    [Network(id="n1", name="front", driver="bridge", subnets=(), mtu=1500)],
    [
        Attached(
            Sandbox(id="0a1b", name="web", owner=Owner.CONTAINER, netns=NETNS),
            (
                Endpoint(
                    id="e1",
                    network="n1",
                    sandbox="0a1b",
                    ifname="eth0",
                    mac="02:00:00:00:00:01",
                    addresses=(IPv4Interface("10.89.0.2/24"),),
                ),
            ),
        )
    ],
)


def test_files_are_rewritten_in_place(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("x" * 5000)
    inode = hosts.stat().st_ino
    container_files.write(WEB, tmp_path, VIEW, [("oracle", IPv4Address("192.0.2.1"))])
    assert hosts.stat().st_ino == inode, "it is mounted into the container"
    assert hosts.read_text().endswith("192.0.2.1\toracle\n10.89.0.2\t0a1b web\n")
    assert (tmp_path / "hostname").read_text() == "0a1b\n"
    assert (tmp_path / "resolv.conf").exists()


def test_they_are_current_when_they_know_its_name_and_addresses(tmp_path: Path) -> None:
    assert not container_files.are_current(WEB, tmp_path, VIEW)
    container_files.write(WEB, tmp_path, VIEW, ())
    assert container_files.are_current(WEB, tmp_path, VIEW)
    (tmp_path / "hosts").write_bytes((tmp_path / "hosts").read_bytes() + b"10.0.0.1\tmine\n")
    assert container_files.are_current(WEB, tmp_path, VIEW)
    (tmp_path / "hosts").write_text("10.89.0.2\t0a1b shop\n")
    assert not container_files.are_current(WEB, tmp_path, VIEW)
    (tmp_path / "hosts").write_bytes(b"\xff\xfe")
    assert not container_files.are_current(WEB, tmp_path, VIEW)
