"""A host with netd's rule set, containers and a LAN around it, for packets to be sent through.

::

      client (LAN) ── eth0 host eth1 ── far (another LAN behind the host)
                         │ networks of netd, each a bridge
                   containers

Every machine is a network namespace that lives as long as its `agent.py`, which ends when this process
does. What the host gets is what the product computes, `netd.compile` in the order of `netd.plan`, set up
with iproute2 and nft, so that a failure here is one of the rule set and of nothing else.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Self

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from netd import compile, firewall, names
from netd.drivers import bridge
from netd.kernel import latch
from netd.model import Endpoint, Netns, Network, Owner, PortMapping, Proto, Sandbox, Subnet
from netd.objects import (
    Add,
    Address,
    Bridge,
    BridgePort,
    Change,
    Element,
    KernelObject,
    Latch,
    Op,
    Remove,
    Route,
    Sysctl,
    Up,
    Veth,
)
from netd.plan import plan

AGENT = Path(__file__).parent / "agent.py"
HOST4, HOST6 = "203.0.113.2", "2001:db8:1::2"
CLIENT4, CLIENT6 = "203.0.113.10", "2001:db8:1::10"
FAR4, FAR6 = "198.51.100.10", "2001:db8:2::10"

FAMILIES = (4, 6)
HOST = {4: HOST4, 6: HOST6}
CLIENT = {4: CLIENT4, 6: CLIENT6}
FAR = {4: FAR4, 6: FAR6}
TOWARDS_FAR = {4: "198.51.100.2", 6: "2001:db8:2::2"}
SILENCE = 0.4
"""Seconds after which a packet that should have been dropped counts as dropped; an answer takes 1 ms."""

SERVED = [("tcp", 80), ("udp", 80), ("tcp", 81), ("udp", 81), ("udp", 7)]
RELAYED = [8080, 8083, 8084, 8086]
"""Where the relay of the daemon would listen, on all addresses of the host."""
HOST_SERVED = [("udp", 7), *((kind, port) for port in (53, 7000, *RELAYED) for kind in ("tcp", "udp"))]
MARK = "the-last-and-honest-one"

Target = tuple[str, str, int]
"""(tcp, udp or icmp; address; port)."""


class Machine:
    """A network namespace with an agent in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._agent = subprocess.Popen(
            ["unshare", "--net", "/usr/bin/python3", "-IS", str(AGENT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = int(self._answer())
        self.run("ip", "link", "set", "lo", "up")

    def __call__(self, verb: str, *arguments: Any) -> Any:
        assert self._agent.stdin is not None
        self._agent.stdin.write(json.dumps([verb, *arguments]) + "\n")
        self._agent.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._agent.stdout is not None
        answer = json.loads(self._agent.stdout.readline() or '{"error": "the agent died"}')
        assert "error" not in answer, f"{self.name}: {answer['error']}"
        return answer["ok"]

    def run(self, *argv: str, input: str = "") -> str:
        return str(self("run", argv, input))

    def ask(self, *targets: Target, seconds: float = 1.0) -> dict[Target, str | None]:
        """Who answers, and whom they saw asking: "NAME ADDRESS", "pong", or None."""
        return dict(zip(targets, self("ask", targets, seconds), strict=True))

    def mac(self, ifname: str) -> str:
        return str(json.loads(self.run("ip", "-j", "link", "show", "dev", ifname))[0]["address"])

    def addresses(self, ifname: str, scope: str) -> list[str]:
        """The IPv6 addresses of an interface: scope "global" or "link"."""
        [link] = json.loads(self.run("ip", "-6", "-j", "addr", "show", "dev", ifname))
        return [info["local"] for info in link["addr_info"] if info["scope"] == scope]

    @property
    def netns(self) -> Netns:
        path = f"/proc/{self.pid}/ns/net"
        status = os.stat(path)  # noqa: PTH116
        return Netns(label=self.name, path=path, device=status.st_dev, inode=status.st_ino)

    def close(self) -> None:
        assert self._agent.stdin is not None
        assert self._agent.stdout is not None
        self._agent.stdin.close()
        self._agent.stdout.close()
        self._agent.wait(timeout=10)


class Lab:
    """The host, its LAN and whatever containers are attached."""

    def __init__(self, *, bridge_nf: bool) -> None:
        self._cleanup = contextlib.ExitStack()
        self.bridge_nf = bridge_nf
        self.machines: dict[str, Machine] = {}
        self.networks: dict[str, Network] = {}
        self.sandboxes: dict[str, Sandbox] = {}
        self.endpoints: dict[str, tuple[Endpoint, ...]] = {}
        self.present: frozenset[KernelObject] = frozenset()
        self._used: dict[str, Iterator[int]] = {}
        try:
            self._build(bridge_nf)
        except BaseException:
            self._cleanup.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def _machine(self, name: str) -> Machine:
        machine = self.machines[name] = Machine(name)
        self._cleanup.callback(machine.close)
        return machine

    def _build(self, bridge_nf: bool) -> None:
        host, client, far = (self._machine(name) for name in ("host", "client", "far"))
        for switch in ("iptables", "ip6tables", "arptables"):
            host("write", f"/proc/sys/net/bridge/bridge-nf-call-{switch}", str(int(bridge_nf)))
        for machine, index, ours, theirs in (
            (client, 0, (HOST4, HOST6), (CLIENT4, CLIENT6)),
            (far, 1, ("198.51.100.2", "2001:db8:2::2"), (FAR4, FAR6)),
        ):
            # Indexes that differ on both sides let the kernel see the carrier at once.
            host.run(
                *f"ip link add eth{index} index {20 + index} type veth peer name eth0".split(),
                *("netns", str(machine.pid)),
            )
            for where, ifname, addresses in ((host, f"eth{index}", ours), (machine, "eth0", theirs)):
                where.run("ip", "addr", "add", f"{addresses[0]}/24", "dev", ifname)
                where.run("ip", "addr", "add", f"{addresses[1]}/64", "dev", ifname, "nodad")
                where("write", f"/proc/sys/net/ipv6/conf/{ifname}/accept_dad", "0")
                where.run("ip", "link", "set", ifname, "up")
            # Neighbours that send everything to the host, whether it wants it or not.
            machine.run("ip", "route", "add", "default", "via", ours[0])
            machine.run("ip", "route", "add", "default", "via", ours[1])
            machine("serve", machine.name, SERVED)
        host("serve", "host", HOST_SERVED)
        host.run("nft", "-f", "-", input=firewall.RULESET)
        self.change(frozenset(bridge.forwarding((4, 6))))

    def wait_for_link_local(self, ifname: str) -> None:
        """Until the host can use the link-local address of one of its interfaces."""
        deadline = time.monotonic() + 10
        while "tentative" in self["host"].run("ip", "-6", "addr", "show", "dev", ifname, "scope", "link"):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def network(self, name: str, *cidrs: str, **policy: Any) -> Network:
        subnets = tuple(Subnet(cidr=cidr, gateway=cidr[1]) for cidr in map(ip_network, cidrs))
        given = {"driver": "bridge", "subnets": subnets, "mtu": 1500, **policy}
        net = Network(id=names.digest(name, 32), name=name, **given)
        self.networks[net.id] = net
        self._used[net.id] = itertools.count(2)
        self.change(self.present | compile.network(net))
        return net

    def container(self, name: str, *networks: Network, ports: Sequence[PortMapping] = ()) -> Machine:
        machine = self._machine(name)
        endpoints = []
        for order, net in enumerate(networks):
            number = next(self._used[net.id])
            endpoints.append(
                Endpoint(
                    id=names.digest(f"{name} {net.name}", 32),
                    network=net.id,
                    sandbox=name,
                    ifname=f"eth{order}",
                    mac=names.mac_of(f"{name} {net.name}"),
                    addresses=tuple(
                        ip_interface(f"{subnet.cidr[number]}/{subnet.cidr.prefixlen}")
                        for subnet in net.subnets
                    ),
                    order=order,
                )
            )
        self.endpoints[name] = tuple(endpoints)
        self.sandboxes[name] = Sandbox(
            id=name,
            name=name,
            owner=Owner.CONTAINER,
            netns=machine.netns,
            ports=tuple(ports),
        )
        self.change(self.present | compile.sandbox(self.sandboxes[name], self.endpoints[name], self.networks))
        machine("serve", name, SERVED)
        return machine

    def ip(self, name: str, family: int, index: int = 0) -> str:
        """The address of a container's interface."""
        return str(self.endpoints[name][index].of_family(family)[0].ip)

    def network_of(self, name: str) -> Network:
        """The network of a container's first interface."""
        return self.networks[self.endpoints[name][0].network]

    def gateway(self, name: str, family: int) -> str:
        """The gateway address of a network."""
        return next(str(n.gateways(family)[0]) for n in self.networks.values() if n.name == name)

    def foreign_bridge(self, name: str, *members: str) -> None:
        """A bridge on the host that netd does not know, with machines 192.0.2.1, .2, ... on it."""
        host = self["host"]
        host.run("ip", "link", "add", name, "type", "bridge")
        host.run("ip", "link", "set", name, "up")
        for number, member in enumerate(members, 1):
            machine = self._machine(member)
            link = ["link", "add", member, "index", str(100 + number), "type", "veth"]
            host.run("ip", *link, "peer", "name", "eth0", "netns", str(machine.pid))
            host.run("ip", "link", "set", member, "master", name, "up")
            machine.run("ip", "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
            machine.run("ip", "addr", "add", f"2001:db8:5::{number}/64", "dev", "eth0", "nodad")
            machine.run("ip", "link", "set", "eth0", "up")

    def bridge(self, name: str) -> str:
        """The interface of a network."""
        return next(names.bridge_name(net) for net in self.networks.values() if net.name == name)

    def mac_of_bridge(self, name: str) -> str:
        return next(names.mac_of(net.id) for net in self.networks.values() if net.name == name)

    def mac(self, name: str) -> str:
        """The MAC of a container's first interface."""
        return self.endpoints[name][0].mac

    def route(self, source: str, target: str) -> None:
        """Make `source` send what is for `target` to its gateway: what an attacker with NET_ADMIN can do."""
        if source not in self.endpoints:
            return  # the neighbours have the host as their default route
        family = ip_address(target).version
        gateway = self.network_of(source).gateways(family)[0]
        self[source].run("ip", "route", "replace", target, "via", str(gateway), "dev", "eth0")

    def exchange(self, sender: str, frames: Sequence[Packet], *, listener: str, last: str) -> list[Packet]:
        """Send raw frames; everything that `listener` hears on its eth0 until the last, honest one.

        That is a datagram to the echo service of the address `last`, by whose way the frames go: it carries
        a mark, and so does its answer. A frame that is not heard by then was dropped and not merely late.
        """
        self[listener]("capture", "eth0")
        self[sender]("send", "eth0", [bytes(frame).hex() for frame in frames])
        self[sender]("tell", last, 7, MARK)
        return [Ether(bytes.fromhex(frame)) for frame in self[listener]("captured", "eth0", MARK, 10.0)]

    def arrives(self, sender: str, address: str, port: int, *, at: str) -> bool:
        """Whether a datagram gets to a container, which may well be unable to answer it."""
        self[at]("capture", "eth0")
        self[sender]("tell", address, port, "the-datagram-in-question")
        self["host"]("tell", str(self.endpoints[at][0].addresses[0].ip), 7, MARK)
        frames = self[at]("captured", "eth0", MARK, 10.0)
        return any(b"the-datagram-in-question" in bytes.fromhex(frame) for frame in frames)

    @contextlib.contextmanager
    def passing(self, match: str, priority: int) -> Iterator[Callable[[], tuple[int, int]]]:
        """Count packets that match just before and just behind a prerouting priority of the host."""
        host = self["host"]
        chains = "".join(
            f"chain {name} {{ type filter hook prerouting priority {at}; {match} counter; }}\n"
            for name, at in (("before", priority - 1), ("behind", priority + 1))
        )
        host.run("nft", "-f", "-", input=f"table inet probe {{\n{chains}}}\n")
        try:
            yield lambda: (self._count("before"), self._count("behind"))
        finally:
            host.run("nft", "delete", "table", "inet", "probe")

    def _count(self, chain: str) -> int:
        listed = json.loads(self["host"].run("nft", "-j", "list", "chain", "inet", "probe", chain))[
            "nftables"
        ]
        rule = next(item["rule"] for item in listed if "rule" in item)
        return next(int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part)

    @contextlib.contextmanager
    def holding(self, element: Element) -> Iterator[None]:
        """One more element, for as long as that."""
        before = self.present
        self.change(before | {element})
        try:
            yield
        finally:
            self.change(before)

    def change(self, desired: frozenset[KernelObject]) -> None:
        for op in plan(desired, self.present):
            self._do(op)
        self.present = desired

    def _do(self, op: Op) -> None:
        item = op.new if isinstance(op, Change) else op.object
        verb = {Add: "add", Remove: "del", Change: "replace"}[type(op)]
        where = self["host"]
        if netns := getattr(item, "netns", None):
            where = next(m for m in self.machines.values() if m.netns == netns)
        if isinstance(item, Veth):
            where = self["host"]
        ip = partial(where.run, "ip")
        match item:
            case Element():
                assert not isinstance(op, Change)
                where.run("nft", firewall.element_text("add" if verb == "add" else "delete", item))
            case Sysctl():
                if verb != "del":
                    where("write", "/proc/sys/" + "/".join(item.path), item.value)
            case Bridge() | Veth() if verb == "del":
                ip("link", "del", item.name)
            case Bridge():
                ip("link", "add", item.name, "address", item.mac, "mtu", str(item.mtu), "type", "bridge")
                ip("link", "set", item.name, "up")
            case Latch():
                at = ["dev", item.dev]
                where.run("tc", "qdisc", verb, *at, "clsact")
                if verb == "add":
                    code = list(struct.iter_unpack("=HBBI", latch.PROGRAM))
                    text = ",".join(" ".join(map(str, step)) for step in code)
                    where.run(
                        *("tc", "filter", "add", *at, "egress", "bpf", "direct-action"),
                        *("bytecode", f"{len(code)},{text}"),
                    )
            case Veth():
                peer = str(next(m.pid for m in self.machines.values() if m.netns == item.netns))
                ip(
                    *("link", "add", item.name, "type", "veth"),
                    *("peer", "name", item.peer, "address", item.peer_mac, "netns", peer),
                )
                ip("link", "set", item.name, "group", str(item.group), "addrgenmode", "none", "up")
            case BridgePort():
                ip("link", "set", item.name, "master", item.bridge)
                ip("link", "set", item.name, "type", "bridge_slave", *_flags(item))
            case Address():
                nodad = ["nodad"] if item.address.version == 6 else []
                onlink = [] if item.onlink else ["noprefixroute"]
                ip("addr", verb, str(item.address), "dev", item.dev, *nodad, *onlink)
            case Up():
                ip("link", "set", item.dev, "up")
            case Route():
                via = ["via", str(item.via)] if item.via else []
                ip("route", verb, str(item.destination), *via, "dev", item.dev)


def _flags(port: BridgePort) -> list[str]:
    on = {True: "on", False: "off"}
    return ["isolated", on[port.isolated], "hairpin", on[port.hairpin]]


def tcp(host_port: int, container_port: int, host_ip: Any = None) -> PortMapping:
    return PortMapping(proto=Proto.TCP, host_ip=host_ip, host_port=host_port, container_port=container_port)


def udp(host_port: int, container_port: int, host_ip: Any = None) -> PortMapping:
    return PortMapping(proto=Proto.UDP, host_ip=host_ip, host_port=host_port, container_port=container_port)


def both(address: str, port: int) -> tuple[Target, Target]:
    return ("tcp", address, port), ("udp", address, port)


def expect(lab: Lab, source: str, expected: dict[Target, str | None]) -> None:
    """Each target answers from `source` as expected: "NAME ADDRESS" it saw, "pong", None for silence."""
    silent = [target for target, answer in expected.items() if answer is None]
    heard = lab[source].ask(*(expected.keys() - set(silent)), seconds=5)
    heard |= lab[source].ask(*silent, seconds=SILENCE)
    assert heard == expected
