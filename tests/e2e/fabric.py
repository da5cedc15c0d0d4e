"""Several hosts with netd on one underlay, each a `Lab` of its own with a second interface.

::

      h1 (Lab: host, router, client)        h2 (the same)        stranger
         under 192.0.2.1, 2001:db8:2::1        under .2, ::2         under .99, ::99
            └───────────────┬─────────────────────┴────────────────────┘
                     lan (bridge, in a namespace of the first lab's)

The stranger is a machine on the same wire that is no node. Hosts have their own way out besides: the
router of their own lab. `fabric_daemon.py` is their cluster, which starts at once and does what a test
says; `tests.e2e.etcd` has hosts whose cluster is a real one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from netd.model import Node as NodeRecord
from netd.store import codec
from tests.e2e.host import HERE, PYTHON, WIRE, Host, Lab, Node, end, eventually, eventually_equal, unified

PROGRAM = HERE / "fabric_daemon.py"
STRANGER = 99
PORT = 4789


def underlay(number: int, family: int) -> str:
    """The address of host `number` on the underlay."""
    return f"192.0.2.{number}" if family == 4 else f"2001:db8:2::{number}"


def plug(number: int, node: Node) -> None:
    """Take host `number`'s end of the wire up, with the IPv6 addresses that go when it is taken down.

    Without the link-local one a host cannot ask for the neighbours that it forwards to.
    """
    node.sh(
        f"ip addr add {underlay(number, 6)}/64 dev under nodad; "
        f"ip addr add fe80::{number}/64 dev under nodad; ip link set under up"
    )


class Fabric:
    """The hosts, as a context manager; their tunnels end at addresses of `family`.

    `wireguard_go` is what does WireGuard on hosts whose kernel cannot, "" for nothing.
    """

    def __init__(self, size: int, family: int = 4, wireguard_go: str = "") -> None:
        self.family = family
        self.wireguard_go = wireguard_go
        self.directory = Path(tempfile.mkdtemp(prefix="netd-board-", dir="/tmp"))
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._labs = [self._stack.enter_context(Lab()) for _ in range(size)]
            self.hosts = [lab.host for lab in self._labs]
            self._wire()
        except BaseException:
            self._stack.close()
            raise
        self._before: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _wire(self) -> None:
        """The wire, and everybody's end of it."""
        first = self._labs[0]
        first.host.sh("ip netns add wire; ip netns add stranger")
        self.wire, self.stranger = Node(first, "wire"), Node(first, "stranger")
        self.wire.sh(
            "sysctl -qw net.ipv6.conf.default.disable_ipv6=1; ip link set lo up; "
            "ip link add lan type bridge; ip link set lan mtu 9000 promisc on up"
        )
        ends: list[tuple[int, Node, str]] = [
            (number, host, f"/proc/{host.lab.pid}/ns/net") for number, host in enumerate(self.hosts, 1)
        ]
        ends.append((STRANGER, self.stranger, f"/proc/{first.pid}/root/run/netns/stranger"))
        for number, node, namespace in ends:
            # From outside of the labs, where the process numbers of all of them mean something.
            subprocess.run(
                [
                    *("nsenter", f"--net=/proc/{first.pid}/root/run/netns/wire"),
                    *f"ip link add h{number} mtu 9000 index {100 + number} type veth".split(),
                    *("peer", "name", "under", "netns", namespace),
                ],
                check=True,
            )
            self.wire.sh(f"ip link set h{number} master lan up")
            node.sh(
                "ip link set lo up; ip link set under mtu 1500 addrgenmode none; "
                f"ip addr add {underlay(number, 4)}/24 dev under"
            )
            plug(number, node)

    def start(self, number: int, address: str = "") -> Host:
        """Start the daemon of host `number`, counted from 1; it is a node called hNUMBER."""
        host = self.hosts[number - 1]
        address = address or underlay(number, self.family)
        arguments = (self.directory, str(number), f"h{number}", address, self.wireguard_go)
        host.program = (sys.executable, PROGRAM, *arguments)
        host.start()
        return host

    def start_all(self) -> None:
        """Start every daemon and wait until each knows all others."""
        for number in range(1, len(self.hosts) + 1):
            self.start(number)
        self.wait_until_met(
            {number: underlay(number, self.family) for number in range(1, len(self.hosts) + 1)}
        )

    def wait_until_met(self, addresses: Mapping[int, str]) -> None:
        """Wait until each host knows the others by their addresses; what is on them then is the beginning."""
        for number, host in enumerate(self.hosts, 1):
            others = {address for other, address in addresses.items() if other != number}
            eventually(f"h{number} knows its peers", partial(_knows_peers, host, others))
        self.count()

    def count(self) -> None:
        """What is there now may be there when everything is removed."""
        for number, host in enumerate(self.hosts, 1):
            self._before[number] = host.census()

    def write_node(self, name: str, address: str) -> None:
        """Make the cluster believe in a node."""
        text = codec.encode(NodeRecord(name=name, address=ip_address(address)))
        half = self.directory / f"{name}.new"
        half.write_text(text)
        half.rename(self.directory / "node" / name)

    def forget(self, name: str) -> None:
        """The cluster takes a node for dead."""
        (self.directory / "node" / name).unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove everything on every host; nothing may be left anywhere, and nobody has complained."""
        for number, host in enumerate(self.hosts, 1):
            if host.daemon is None:
                self.start(number)
        for host in self.hosts:
            names = [container["name"] for container in host.json("ps", "-a")]
            if names:
                host.netd("rm", "-f", *names)
        for host in self.hosts:
            for network in host.json("network", "ls"):
                host.run("netd", "network", "rm", network["name"])
        for number, host in enumerate(self.hosts, 1):
            eventually("no network is left", partial(_has_no_network, host))
            before = self._before[number]
            after = eventually_equal(before, host.census)
            assert after == before, f"left behind on h{number}:\n" + "\n".join(unified(before, after))
        for host in self.hosts:
            assert "Traceback" not in host.log.read_text(), "the daemon logged an exception"

    def logs(self) -> str:
        """What all daemons logged."""
        return "\n".join(
            f"--- h{number}\n{host.log.read_text()}"
            for number, host in enumerate(self.hosts, 1)
            if host.log.exists()
        )

    def address(self, container: str, family: int = 4) -> str:
        """The address of a container, whichever host it is on."""
        for host in self.hosts:
            if any(each["name"] == container for each in host.json("ps")):
                return host.address(container, family=family)
        raise AssertionError(f"no host has {container}")

    @contextlib.contextmanager
    def listening(self) -> Iterator[list[Any]]:
        """The frames that travel on the underlay while the block runs, in the list once it is over: all."""
        # Into a file, for nobody reads meanwhile, and whoever writes into a full pipe hears nothing.
        heard = self.directory / "heard"
        with heard.open("w") as output:
            ear = self.wire.spawn(PYTHON, "-IS", WIRE, "listen", "lan", "600", stdout=output)
        eventually("somebody listens", lambda: heard.read_text().startswith("ready\n"))
        frames: list[Any] = []
        try:
            yield frames
        finally:
            ear.communicate("", timeout=30)
            frames += [Ether(bytes.fromhex(line)) for line in heard.read_text().split()[1:]]
        assert ear.returncode == 0, "frames were missed"


def peers(host: Host) -> set[str]:
    """The addresses that may speak VXLAN to a host."""
    listed = json.loads(host.sh("nft -j list ruleset"))["nftables"]
    sets = [item["set"] for item in listed if item.get("set", {}).get("name") in ("peers4", "peers6")]
    return {element for each in sets for element in each.get("elem", ())}


def _knows_peers(host: Host, others: set[str]) -> bool:
    return others <= peers(host)


def _has_no_network(host: Host) -> bool:
    return not host.json("network", "ls")


def strange(frames: list[Any], peers: set[str]) -> list[str]:
    """Those of `frames` that are neither unicast VXLAN between `peers` nor how peers find each other."""
    return [frame.summary() for frame in frames if not _is_expected(frame, peers)]


def _is_expected(frame: Any, peers: set[str]) -> bool:
    if ARP in frame:
        return {frame[ARP].psrc, frame[ARP].pdst} <= peers
    outer = frame[IP] if IP in frame.layers()[:2] else frame[IPv6] if IPv6 in frame.layers()[:2] else None
    if outer is None:
        return False
    if isinstance(outer, IPv6) and UDP not in outer:
        # The hosts' own neighbour discovery and listener reports. What tunnels carry is in UDP.
        local = outer.src.startswith("fe80:") or outer.dst.startswith("fe80:")
        return local or outer.dst.startswith("ff02:") or {outer.src, outer.dst} <= peers
    return (
        not int(frame.dst[:2], 16) & 1
        and {outer.src, outer.dst} <= peers
        and UDP in outer.layers()[:2]
        and outer[UDP].dport == PORT
    )


def inner(frames: list[Any]) -> list[Any]:
    """The frames that tunnels carry."""
    return [frame[VXLAN].payload for frame in frames if VXLAN in frame]


@contextmanager
def heard_until(host: Host, container: str, mark: bytes, last: str) -> Iterator[list[str]]:
    """What stands behind `mark` in the frames that a container hears, up to `last`, whose arrival the block
    sees to. The container has wire.py."""
    ear = host.spawn("netd", "exec", "-i", container, "--", PYTHON, "-IS", "/wire.py", "listen", "eth0", "30")
    assert ear.stdout is not None
    assert ear.stdout.readline() == "ready\n"
    heard: list[str] = []
    yield heard
    while heard[-1:] != [last] and (line := ear.stdout.readline()):
        if mark in (frame := bytes.fromhex(line)):
            heard.append(frame.partition(mark)[2].decode().strip())
    end(ear)
