"""A fabric whose hosts are nodes of a real cluster: three members of etcd on the wire, and `netd daemon`.

::

      h1          h2          h3     under 192.0.2.N
       └───────────┼───────────┘
                  lan             192.0.2.101, .102, .103: etcd

Members of etcd speak to each other over loopback of the wire's namespace, so what is heard on the wire is
only what hosts say.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP

from tests.e2e.fabric import Fabric, strange, underlay
from tests.e2e.host import NETD, Host, end, eventually

TTL = 2
"""Seconds: short, so that tests need not wait long for a death."""
CLIENTS = 2379


def member(number: int) -> str:
    """The address of a member of etcd."""
    return f"192.0.2.{100 + number}"


class Cluster(Fabric):
    """The hosts and the etcd, as a context manager. `grace` is how long addresses of the dead are kept."""

    def __init__(self, size: int, family: int = 4, grace: float = 3600.0) -> None:
        super().__init__(size, family)
        self.members: dict[int, subprocess.Popen[str]] = {}
        self.config = self.directory / "netd.toml"
        self.config.write_text(f"cluster_ttl = {TTL}\ncluster_grace = {grace}\n")
        try:
            for number in (1, 2, 3):
                self.wire.sh(f"ip addr add {member(number)}/24 dev lan")
                self.start_member(number)
            eventually("etcd has a leader", self._is_healthy)
        except BaseException:
            self.__exit__()
            raise

    def start_member(self, number: int) -> None:
        """Start, or start again, a member of etcd."""
        peers = {n: f"http://127.0.1.{n}:2380" for n in (1, 2, 3)}
        flags = {
            "name": f"m{number}",
            "data-dir": self.directory / f"etcd-{number}",
            "listen-client-urls": f"http://{member(number)}:{CLIENTS}",
            "advertise-client-urls": f"http://{member(number)}:{CLIENTS}",
            "listen-peer-urls": peers[number],
            "initial-advertise-peer-urls": peers[number],
            "initial-cluster": ",".join(f"m{n}={url}" for n, url in peers.items()),
            "heartbeat-interval": 50,
            "election-timeout": 500,
            "logger": "zap",
            "log-level": "error",
        }
        with (self.directory / f"etcd-{number}.log").open("a") as log:
            argv = [f"--{key}={value}" for key, value in flags.items()]
            self.members[number] = self.wire.spawn("etcd", *argv, stdout=log, stderr=log)

    def kill_member(self, number: int) -> None:
        """SIGKILL a member of etcd."""
        end(self.members.pop(number))

    def etcdctl(self, *arguments: str) -> str:
        """etcdctl at a member that runs."""
        number = min(self.members)
        where = f"--endpoints=http://{member(number)}:{CLIENTS}"
        return self.wire.output("env", "ETCDCTL_API=3", "etcdctl", where, *arguments)

    def _is_healthy(self) -> bool:
        where = ",".join(f"http://{member(number)}:{CLIENTS}" for number in self.members)
        command = ("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={where}", "endpoint", "health")
        return self.wire.run(*command).returncode == 0

    def leader(self) -> int:
        """The number of the member that leads."""
        for number in self.members:
            where = f"--endpoints=http://{member(number)}:{CLIENTS}"
            status = self.wire.output("env", "ETCDCTL_API=3", "etcdctl", where, "endpoint", "status")
            if status.split(", ")[4] == "true":
                return number
        raise AssertionError("no member leads")

    def start(self, number: int, address: str = "") -> Host:
        """Start the daemon of host `number`, which finds its address by itself unless it is given."""
        host = self.hosts[number - 1]
        members = ",".join(f"{member(n)}:{CLIENTS}" for n in (1, 2, 3))
        program: list[Any] = [NETD, "daemon", "--config", self.config, "--cluster", f"etcd://{members}"]
        program += ["--cluster-insecure", "--node-name", f"h{number}"]
        program += ["--wireguard-go", self.wireguard_go] if self.wireguard_go else []
        if self.family == 6:
            address = address or underlay(number, 6)
        host.program = (*program, *(["--advertise", address] if address else []))
        host.start()
        return host

    @contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """No packet between a host and etcd; everything else goes on."""
        rules = "add table inet cut; add chain inet cut out { type filter hook output priority -500; }; "
        host.sh(f"nft '{rules} add rule inet cut out tcp dport {CLIENTS} drop'")
        try:
            yield
        finally:
            host.sh("nft delete table inet cut")

    def connected(self, host: Host) -> bool:
        """Whether a host follows etcd."""
        return bool(host.json("node", "ls")["connected"])

    def wait_until_connected(self) -> None:
        """Wait until every host follows etcd."""
        for number, host in enumerate(self.hosts, 1):
            eventually(f"h{number} follows etcd", partial(self.connected, host))

    def strange(self, frames: list[Any]) -> list[str]:
        """Those of `frames` that are neither VXLAN between nodes nor between a node and etcd."""
        ends = {underlay(number, self.family) for number in range(1, len(self.hosts) + 1)}
        known = {*(underlay(n, 4) for n in range(1, len(self.hosts) + 1)), *map(member, (1, 2, 3))}
        return strange([frame for frame in frames if not _is_of_etcd(frame, known)], ends)


def _is_of_etcd(frame: Any, known: set[str]) -> bool:
    if ARP in frame:
        return {frame[ARP].psrc, frame[ARP].pdst} <= known
    if IP not in frame.layers()[:2] or TCP not in frame.layers()[:3]:
        return False
    return {frame[IP].src, frame[IP].dst} <= known and CLIENTS in (frame[TCP].sport, frame[TCP].dport)
