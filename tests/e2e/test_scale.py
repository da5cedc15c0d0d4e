"""With many endpoints alive: a restart that nobody notices, and coming and going without end.

`make test` runs them small; `make torture` with 400 and 1,000 endpoints, a hundred restarts and ten
thousand cycles. The figures are printed; those that depend on how busy the machine is are asserted
loosely here and are published from a quiet one (docs/reliability.md).
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fabric import Fabric
from tests.e2e.host import HERE, HOST, PYTHON, WIRE, Host, Node, end, eventually
from tests.e2e.test_overlay import knows, woven

CROWD, PROBER = HERE / "crowd.py", HERE / "prober.py"
READY_WITHIN = 2.0


def crowd(host: Host, *arguments: str | int, timeout: float = 5400) -> list[float]:
    seconds: list[float] = json.loads(
        host.output(PYTHON, "-IS", CROWD, *map(str, arguments), timeout=timeout)
    )
    return seconds


def generation(host: Host) -> int:
    return int(host.output(PYTHON, "-IS", CROWD, "generation"))


def resident(host: Host) -> int:
    """Kibibytes of the daemon that are in memory."""
    (line,) = [
        line
        for line in Path(f"/proc/{host.daemon_pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    ]
    return int(line.split()[1])


@pytest.fixture
def fabric() -> Iterator[Fabric]:
    """Two hosts with an overlay network called `cloth`."""
    with woven("cloth", 4) as fabric:
        yield fabric


def within(host: Host, container: str) -> list[str]:
    """What puts a command into the network of a container, without a daemon."""
    return ["nsenter", f"--net={host.inspect(container)['netns']}"]


def processor_time(host: Host) -> float:
    """Seconds that the daemon has been at work; proc(5), utime and stime of /proc/PID/stat."""
    fields = Path(f"/proc/{host.daemon_pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[round(0.99 * (len(seconds) - 1))]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("endpoints", "restarts"),
    [
        (60, 3),
        pytest.param(400, 10, marks=pytest.mark.slow),
        pytest.param(1000, 100, marks=pytest.mark.slow),
    ],
)
def test_a_restart_under_traffic_is_not_noticed(fabric: Fabric, endpoints: int, restarts: int) -> None:
    """1 kHz by a published port, to a neighbour and by an overlay, TCP that goes on, not one kernel write."""
    host, far = fabric.hosts
    host.netd("network", "create", "front", "--ipv6")
    patient = ("--cap-add", "NET_ADMIN")  # room for what comes while others have the processor
    ports = ("tcp:80", "patient-udp:80")
    host.serve("web", *patient, "--network", "front", "-p", "8080:80", "-p", "8080:80/udp", ports=ports)
    host.serve("api", "--network", "front")
    host.serve("loom", *patient, "--network", "cloth", ports=ports)
    far.serve("peer", "--network", "cloth")
    eventually("peer knows loom", lambda: knows(far, host.address("loom")))
    eventually("loom knows peer", lambda: knows(host, far.address("peer")))
    crowd(host, "up", endpoints)
    host.restart()  # what the first daemon learned in the order of its making, this one sorts
    # The kernel tells of a carrier up to a second after it came.
    eventually(
        "all links are up", lambda: not re.search("^ve-.* (DOWN|UNKNOWN) ", host.sh("ip -br link"), re.M)
    )
    rules, before, links = host.sh("nft -s list ruleset"), generation(host), host.sh("ip link")
    ways: list[tuple[Node, list[str], list[tuple[str, int]]]] = [
        (host.lab.client, [], [(address, 8080) for address in HOST]),
        (host, within(host, "api"), [(host.address("web", family=family), 80) for family in (4, 6)]),
        (far, within(far, "peer"), [(host.address("loom", family=family), 80) for family in (4, 6)]),
    ]
    pushing, streams = [], []
    for node, enter, doors in ways:
        targets = [f"udp,{address},{port}" for address, port in doors]
        pushing.append(node.spawn(*enter, PYTHON, "-IS", PROBER, "push", "0.001", *targets))
        for address, port in doors:
            streams.append(node.spawn(*enter, PYTHON, "-IS", WIRE, "flood", "tcp", address, str(port)))
    for process in (*pushing, *streams):
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    log = host.lab.directory / "monitor"
    with log.open("w") as file:
        monitor = host.spawn("ip", "monitor", "address", "route", "rule", stdout=file)
    host.sh("ip route add 10.1.1.1/32 dev lo; ip route del 10.1.1.1/32 dev lo")
    eventually("the monitor listens", lambda: heard(log, "10.1.1.1") or marked(host))
    took, worked = [], []
    for number in range(restarts):
        (host.kill if number % 2 else host.stop)()
        took.append(host.start())
        worked.append(processor_time(host))
    host.sh("ip route add 10.2.2.2/32 dev lo; ip route del 10.2.2.2/32 dev lo")
    eventually("the monitor has heard all", lambda: heard(log, "10.2.2.2"))
    end(monitor)
    counted: dict[str, tuple[int, int, int]] = {}
    for process in pushing:
        counted |= json.loads(process.communicate(timeout=30)[0])
    lost = {target: knocks - answers for target, (knocks, answers, _) in counted.items()}
    knocks = sum(knocks for knocks, _, _ in counted.values())
    print(
        f"{endpoints} endpoints, {restarts} restarts: ready after median {statistics.median(took):.2f} s, "
        f"slowest {max(took):.2f} s, {statistics.median(worked):.2f} s of them at work; "
        f"{knocks} datagrams, {sum(lost.values())} without an answer: {lost}"
    )
    # A program that gets no processor for long lets its socket overflow; the kernel counts that apart.
    overflowed = sum(overflows(host, name) for name in ("web", "api", "loom"))
    overflowed += overflows(far, "peer") + overflows(host.lab.client)
    assert sum(lost.values()) <= overflowed, (lost, overflowed)
    for stream in streams:
        output, _ = stream.communicate(timeout=30)
        result = json.loads(output.splitlines()[-1])
        assert result["sent"] == result["answered"] > 0
    assert generation(host) == before, "a restart with nothing changed changes no rule"
    assert {"10.1.1.1", "10.2.2.2"} == {address_in(line) for line in heard(log, "")}
    assert host.sh("nft -s list ruleset") == rules
    assert host.sh("ip link") == links
    assert statistics.median(worked) < READY_WITHIN, "whoever else is at work, it is ready after so much"
    crowd(host, "down", endpoints)


def overflows(node: Node, container: str = "") -> int:
    """How many datagrams found a socket full, in the namespace of a node or of a container on it."""
    enter = f"nsenter --net=/run/netd/netns/{container} " if container else ""
    words = node.sh(f"{enter}cat /proc/net/snmp /proc/net/snmp6").splitlines()
    names, values = (line.split() for line in words if line.startswith("Udp: "))
    v6 = [line.split()[1] for line in words if line.startswith("Udp6RcvbufErrors")]
    return int(values[names.index("RcvbufErrors")]) + sum(map(int, v6))


def heard(path: Path, word: str) -> list[str]:
    return [line for line in path.read_text().splitlines() if word in line and "lladdr" not in line]


def address_in(line: str) -> str:
    """The address that a line of `ip monitor` is about; the whole line where that is none of a route."""
    found = re.fullmatch(r"(?:Deleted )?(\S+) dev lo scope link ", line)
    return found[1] if found else line


def marked(host: Host) -> bool:
    host.sh("ip route add 10.1.1.1/32 dev lo; ip route del 10.1.1.1/32 dev lo")
    return False


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("alive", "cycles"), [(50, 480), pytest.param(1000, 10_000, marks=pytest.mark.slow)])
def test_churn_leaves_nothing_and_grows_nothing(host: Host, alive: int, cycles: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    crowd(host, "up", alive)
    crowd(host, "churn", 160, 32, seed)  # caches fill, threads start
    before, memory = host.census(), resident(host)
    took = crowd(host, "churn", cycles, 32, seed)
    growth = (resident(host) - memory) / cycles
    tenth = max(len(took) // 10, 100)
    first, last = p99(took[:tenth]), p99(took[-tenth:])
    print(
        f"{alive} alive, {cycles} cycles: ADD median {statistics.median(took) * 1000:.1f} ms, "
        f"p99 {first * 1000:.1f} ms at first, {last * 1000:.1f} ms at last; {growth:.2f} KiB a cycle"
    )
    eventually("the census is what it was", lambda: host.census() == before)
    assert len(took) == cycles
    assert growth < (1 if cycles >= 10_000 else 8)
    assert last < first * 3
    crowd(host, "down", alive)
