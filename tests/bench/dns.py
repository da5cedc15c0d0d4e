"""Row 8: names of containers, asked by dnsperf, of netd and of everybody else in one run.

::

    client (netns) ── veth ── br0 10.100.0.1 ── the server, on one processor; dnsperf on the other

Docker answers inside the container's own namespace, on 127.0.0.11, so dnsperf is put there, and its
packets have a shorter way. The C echo sends each question back: nothing that reads a packet and sends
one can be faster. Rounds of all servers alternate; figures are medians.

    python -m tests.bench.dns [--rounds N] [--seconds S] [--alone]

`make bench` does this too, with the other rows; `--rows 8` there does this alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.rivals import Docker, machine
from tests.e2e.host import Failed, Lab, eventually

HERE = Path(__file__).resolve().parent
AARDVARK = Path("/usr/lib/podman/aardvark-dns")
GATEWAY = "10.100.0.1"
UPSTREAM = "127.0.0.153"
DEAD = "127.0.0.154"
NAMES = 100
PROBES = 1000
ECHO_TARGET = 0.8

_NETWORK = f"""
ip link add br0 type bridge
ip addr add {GATEWAY}/16 dev br0
ip link set br0 up
ip netns add asker
ip link add asker index 40 type veth peer name eth0 netns asker
ip link set asker master br0 up
ip -n asker addr add 10.100.0.2/16 dev eth0
ip -n asker link set lo up
ip -n asker link set eth0 up
"""


@dataclass
class Server:
    """A server that runs, where it is asked, and what was measured of it."""

    name: str
    lab: Lab
    address: str
    inside: tuple[str, ...]
    """The command that enters the namespace of the asker."""
    names: int = NAMES
    rates: list[float] = field(default_factory=list)
    latencies: list[dict[str, float]] = field(default_factory=list)

    def questions(self, kind: str) -> Path:
        """A file of questions for dnsperf: names that exist, or names of elsewhere, each asked once."""
        path = self.lab.directory / f"{kind}-{self.names}"
        if not path.exists():
            domain, count = ("", self.names) if kind == "name" else (".example.com", 200_000)
            path.write_text("".join(f"{kind}{number}{domain} A\n" for number in range(count)))
        return path

    def load(self, kind: str, seconds: int, *flags: str) -> float:
        """Questions answered a second by dnsperf's count."""
        argv = ("taskset", "-c", "1", "dnsperf", "-s", self.address, "-d", str(self.questions(kind)))
        wrote = self.lab.host.output(
            *self.inside, *argv, "-l", str(seconds), "-W", *flags, timeout=seconds + 60
        )
        found = re.search(r"Queries per second:\s+([\d.]+)", wrote)
        assert found, wrote
        return float(found[1])

    def latency(self, kind: str, rate: float) -> dict[str, float]:
        """What single questions take while dnsperf asks `rate` a second."""
        argv = [
            "taskset",
            "-c",
            "1",
            "dnsperf",
            "-s",
            self.address,
            "-d",
            str(self.questions(kind)),
            "-l",
            "60",
            "-t",
            "10",
        ]
        background = self.lab.host.spawn(*self.inside, *argv, "-Q", str(int(rate)), stdout=subprocess.DEVNULL)
        probe = ("python3", "-IS", str(HERE / "dns_probe.py"), self.address, "name7", str(PROBES))
        result: dict[str, float] = json.loads(self.lab.host.output(*self.inside, *probe, timeout=120))
        background.kill()
        background.wait()
        return result


ASKER = ("nsenter", "--net=/run/netns/asker")


@contextlib.contextmanager
def bare_lab() -> Iterator[Lab]:
    """A lab with a bridge and an asker on it."""
    with Lab() as lab:
        lab.host.sh(_NETWORK)
        yield lab


@contextlib.contextmanager
def netd(names: int = NAMES, networks: int = 1, upstream: str = "", title: str = "netd") -> Iterator[Server]:
    """netd's server, with its feed."""
    with bare_lab() as lab:
        script = [
            "taskset",
            "-c",
            "1",
            sys.executable,
            str(HERE / "dns_server.py"),
            str(lab.directory / "run"),
        ]
        process = lab.host.spawn(*script, str(names), str(networks), *([upstream] if upstream else []))
        assert process.stdout is not None
        pid = process.stdout.readline().strip()
        lab.host.output("taskset", "-cp", "0", pid)
        yield Server(title, lab, GATEWAY, ASKER, names)


@contextlib.contextmanager
def echo() -> Iterator[Server]:
    """The limit. Raises `Failed` where there is no C compiler."""
    with bare_lab() as lab:
        serve_echo(lab, GATEWAY, "0")
        yield Server("echo in C", lab, GATEWAY, ASKER)


def serve_echo(lab: Lab, address: str, processor: str) -> None:
    """Run the echo in the lab's host."""
    if not shutil.which("cc"):
        raise Failed("there is no C compiler")
    binary = lab.directory / "echo"
    subprocess.run(["cc", "-O2", "-o", binary, HERE / "echo.c"], check=True)
    process = lab.host.spawn("taskset", "-c", processor, binary, address)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


@contextlib.contextmanager
def aardvark(upstream: str = "") -> Iterator[Server]:
    """podman's server. Raises `Failed` where it is not installed."""
    if not AARDVARK.exists():
        raise Failed("aardvark-dns is not installed")
    version = subprocess.run(
        [AARDVARK, "--version"], capture_output=True, text=True, check=False
    ).stdout.split()[1]
    with bare_lab() as lab:
        config = lab.directory / "aardvark"
        config.mkdir()
        rows = [f"{n:064x} 10.100.{n // 250 + 1}.{n % 250 + 1}  name{n}\n" for n in range(NAMES)]
        (config / "net0").write_text(f"{GATEWAY}\n" + "".join(rows) + f"{'f' * 64} 10.100.0.2  asker\n")
        if upstream:
            lab.host.sh(f"echo nameserver {upstream} > /run/resolv.conf")
        argv: list[str | Path] = ["taskset", "-c", "0", AARDVARK, "--config", config, "-p", "53", "run"]
        lab.host.spawn(*argv, stdout=subprocess.DEVNULL)
        made = Server(f"aardvark-dns {re.sub('[^0-9.].*', '', version)}", lab, GATEWAY, ASKER)
        answers = [*ASKER, "dig", "+short", "+time=1", "+tries=1", f"@{GATEWAY}", "name7"]
        eventually("aardvark-dns answers", lambda: "10.100" in lab.host.run(*answers).stdout)
        yield made


@contextlib.contextmanager
def docker() -> Iterator[Server]:
    """Docker's resolver, in a container of a network whose containers have `NAMES` aliases."""
    with Lab() as lab:
        rival = Docker(lab)
        each = NAMES // 10
        for number in range(10):
            aliases = [word for n in range(each) for word in ("--network-alias", f"name{number * each + n}")]
            lab.host.output(
                *rival.run("-d", "--name", f"c{number}", *aliases, command=["/bin/sleep", "3600"])
            )
        pid = lab.host.sh("docker inspect -f '{{.State.Pid}}' c0").strip()
        for daemon in lab.host.sh("pidof dockerd").split():
            lab.host.output("taskset", "-acp", "0", daemon)
        yield Server(rival.name, lab, "127.0.0.11", ("nsenter", f"--net=/proc/{pid}/ns/net"))


def enter(stack: contextlib.ExitStack, *makers: contextlib.AbstractContextManager[Server]) -> list[Server]:
    """Those servers that can be run here; says of the others why not."""
    servers = []
    for maker in makers:
        try:
            servers.append(stack.enter_context(maker))
        except (Failed, AssertionError) as error:
            print(f"not measured: {error}", file=sys.stderr)
    return servers


def measure_names(rounds: int, seconds: int, alone: bool) -> str:
    """Rates and latencies of container names."""
    with contextlib.ExitStack() as stack:
        rivals = [] if alone else [aardvark(), docker()]
        servers = enter(
            stack,
            echo(),
            netd(),
            netd(names=10_000, title="netd, 10,000 names"),
            netd(networks=1000, title="netd, 1,000 networks"),
            *rivals,
        )
        for server in servers:
            server.load("name", 2)  # warms up, and does not count
        for number in range(rounds):
            for server in servers:
                server.rates.append(server.load("name", seconds))
            print(f"names: round {number + 1} of {rounds}", file=sys.stderr)
        for server in servers:
            server.latencies.append(server.latency("name", statistics.median(server.rates) / 2))
        return _names_table(servers)


def _names_table(servers: list[Server]) -> str:
    limit = next((statistics.median(s.rates) for s in servers if s.name.startswith("echo")), None)
    lines = [
        "| DNS, names of containers | questions/s | of the echo | p50 at half load | p99 |",
        "|---|---|---|---|---|",
    ]
    for server in servers:
        rate, latency = statistics.median(server.rates), server.latencies[0]
        spread = f"{min(server.rates):,.0f}-{max(server.rates):,.0f}"
        part = f"{rate / limit:.2f}" if limit else "-"
        figures = f"{rate:,.0f} ({spread}) | {part} | {latency['p50']:.2f} ms | {latency['p99']:.2f} ms"
        lines.append(f"| {server.name} | {figures} |")
    ours = statistics.median(next(s for s in servers if s.name == "netd").rates)
    rivals = [s for s in servers if not s.name.startswith(("echo", "netd"))]
    faster = all(ours > statistics.median(rival.rates) for rival in rivals)
    near = limit is not None and ours >= ECHO_TARGET * limit
    lines.append("")
    lines.append(f"Target: faster than every server ({_verdict(faster)}),")
    lines.append(f"{ECHO_TARGET} of the echo ({_verdict(near)}).")
    return "\n".join(lines)


def measure_forwarding(rounds: int, seconds: int, alone: bool) -> str:
    """Names of elsewhere, none asked twice, with the echo as upstream; and with one that never answers."""
    with contextlib.ExitStack() as stack:
        rivals = [] if alone else [aardvark(UPSTREAM)]
        servers = enter(stack, netd(upstream=UPSTREAM), *rivals)
        for server in servers:
            serve_echo(server.lab, UPSTREAM, "1")
        for number in range(rounds):
            for server in servers:
                # Fewer seconds than it takes to ask every name once.
                server.rates.append(server.load("name", 1) and server.load("elsewhere", seconds))
            print(f"forwarding: round {number + 1} of {rounds}", file=sys.stderr)
        lines = ["| DNS, forwarding of uncached names | questions/s |", "|---|---|"]
        for server in servers:
            spread = f"{min(server.rates):,.0f}-{max(server.rates):,.0f}"
            lines.append(f"| {server.name} | {statistics.median(server.rates):,.0f} ({spread}) |")
        ours, *theirs = (statistics.median(server.rates) for server in servers)
        faster = all(ours > rate for rate in theirs)
        lines += ["", f"Target: faster than every server ({_verdict(faster)})."] if theirs else []
    with netd(upstream=DEAD) as server:
        server.lab.host.spawn(
            "python3",
            "-IS",
            "-c",
            f"""
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(({DEAD!r}, 53))
time.sleep(3600)
""",
        )
        calm = server.latency("elsewhere", 2000)
    lines.append("")
    figures = f"p50 {calm['p50']:.2f} ms, p99 {calm['p99']:.2f} ms"
    lines.append("A local name while 2,000 a second are forwarded to a server that never answers:")
    lines.append(f"{figures} (target: under 2 ms, {_verdict(calm['p99'] < 2)}).")
    return "\n".join(lines)


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def report(rounds: int, alone: bool, seconds: int = 3) -> None:
    """Measure and print."""
    print(f"\n{machine()}\n")
    print(measure_names(rounds, seconds, alone) + "\n")
    print(measure_forwarding(rounds, seconds, alone))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dns", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    report(options.rounds, options.alone, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
