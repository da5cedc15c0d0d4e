"""The two daemons that are compared, each on a lab of its own, behind one small interface."""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.e2e.host import NETD, PYTHON, ROOT, Failed, Host, Lab, eventually

STOPWATCH = Path(__file__).with_name("stopwatch.py")
UNPACKED = ROOT / "build" / "docker"


def busybox_root(directory: Path) -> Path:
    """A root file system of one static program, for both rivals alike."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", directory / "bin" / "busybox")
    for name in ("true", "sleep"):
        (directory / "bin" / name).symlink_to("busybox")
    return directory


class Rival(Protocol):
    """What is measured of either."""

    name: str
    host: Host

    def run(self, *flags: str, command: Sequence[str]) -> list[str]:
        """The command line that starts a container on network `bench`."""

    def create(self, network: str) -> list[str]:
        """The command line that makes a network."""

    def remove(self, network: str) -> list[str]:
        """The command line that removes it."""

    def clear(self, *containers: str) -> None:
        """Remove containers."""

    def api_seconds(self, rounds: int) -> float:
        """The median time of making and removing a network by API, over one open connection."""

    def cost(self) -> tuple[int, int]:
        """Processes of the daemon itself, without containers, and their resident memory in bytes."""


def measure(rival: Rival, *commands: Sequence[str]) -> float:
    """How long the commands take together, one after another, in seconds."""
    text = json.dumps([list(command) for command in commands])
    wrote = rival.host.output(PYTHON, "-IS", STOPWATCH, input=text, timeout=600)
    taken: list[float] = json.loads(wrote)
    return sum(taken)


def _processes(host: Host, *names: str) -> tuple[int, int]:
    """How many processes run a program of one of these names, and their resident memory in bytes."""
    count = resident = 0
    for line in host.sh("ps -eo rss=,args=").splitlines():
        size, _, arguments = line.strip().partition(" ")
        if any(name in arguments for name in names):
            count += 1
            resident += int(size) * 1024
    return count, resident


NETD_API = """
import statistics, sys, time
from netd.api import netd_pb2 as pb
from netd.api.client import connect

client, taken = connect("/run/netd/netd.sock"), []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter()
    client.create_network(pb.CreateNetworkRequest(name="api"))
    client.remove_network("api")
    taken.append(time.perf_counter() - began)
print(statistics.median(taken))
"""


class Netd:
    """This checkout."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.host
        self.root = busybox_root(lab.directory / "root")
        self.host.start()
        self.host.netd("network", "create", "bench")
        self.name = f"netd {self.host.json('version')['client']['version']}"

    def run(self, *flags: str, command: Sequence[str]) -> list[str]:
        rootfs = ("--rootfs", str(self.root))
        return [str(NETD), "run", "--network", "bench", *rootfs, *flags, "--", *command]

    def create(self, network: str) -> list[str]:
        return [str(NETD), "network", "create", network]

    def remove(self, network: str) -> list[str]:
        return [str(NETD), "network", "rm", network]

    def clear(self, *containers: str) -> None:
        self.host.netd("rm", "-f", *containers, timeout=300)

    def api_seconds(self, rounds: int) -> float:
        return float(self.host.output(sys.executable, "-c", NETD_API, str(rounds), timeout=300))

    def cost(self) -> tuple[int, int]:
        return _processes(self.host, "netd daemon", "netd.runtime", "netd_dns")


class Docker:
    """dockerd from `build/docker` or the PATH. Raises `Failed` where there is none or it does not start."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.host
        lab.environment["PATH"] = f"{UNPACKED}/usr/bin:{UNPACKED}/usr/sbin:{lab.environment['PATH']}"
        if not shutil.which("dockerd", path=lab.environment["PATH"]):
            raise Failed("there is no dockerd: neither in build/docker nor in the PATH")
        log = (lab.directory / "dockerd.log").open("w")
        self._dockerd = self.host.spawn("dockerd", stdout=log, stderr=log)
        try:
            eventually("dockerd answers", self._answers, seconds=30)
        except AssertionError as error:
            tail = (lab.directory / "dockerd.log").read_text()[-500:]
            raise Failed(f"dockerd does not start: {error}: {tail}") from error
        root = busybox_root(lab.directory / "root")
        self.host.sh(f"tar -C {root} -c . | docker import - bench")
        self.host.sh("docker network create bench")
        version = self.host.sh("docker version --format '{{.Server.Version}}'").strip()
        self.name = f"Docker {version.partition('+')[0]}"

    def _answers(self) -> bool:
        return self._dockerd.poll() is None and self.host.run("docker", "version").returncode == 0

    def run(self, *flags: str, command: Sequence[str]) -> list[str]:
        return ["docker", "run", "--network", "bench", *flags, "bench", *command]

    def create(self, network: str) -> list[str]:
        return ["docker", "network", "create", network]

    def remove(self, network: str) -> list[str]:
        return ["docker", "network", "rm", network]

    def clear(self, *containers: str) -> None:
        self.host.output("docker", "rm", "-f", *containers, timeout=300)

    def api_seconds(self, rounds: int) -> float:
        # A socket in a file system is reached from outside the lab's network as well.
        taken = []
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(f"/proc/{self.host.lab.pid}/root/run/docker.sock")
            for _ in range(rounds):
                began = time.perf_counter()
                _http(connection, "POST", "/v1.41/networks/create", {"Name": "api"})
                _http(connection, "DELETE", "/v1.41/networks/api")
                taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    def cost(self) -> tuple[int, int]:
        return _processes(self.host, "dockerd", "containerd --config", "docker-proxy")


def _http(connection: socket.socket, method: str, path: str, body: object = None) -> None:
    """One request over a connection that stays open; `Failed` unless it succeeds."""
    payload = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    reply = b""
    while b"\r\n\r\n" not in reply:
        reply += connection.recv(65536)
    header, _, rest = reply.partition(b"\r\n\r\n")
    lines = header.decode().lower().split("\r\n")
    lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
    while len(rest) < (lengths[0] if lengths else 0):
        rest += connection.recv(65536)
    if not lines[0].split()[1].startswith("2"):
        raise Failed(f"{method} {path}: {lines[0]} {rest.decode()}")


def machine() -> str:
    """What the figures were measured on, in one line."""
    system = os.uname()
    return f"Linux {system.release}, {os.cpu_count()} CPUs, Python {sys.version.split()[0]}"
