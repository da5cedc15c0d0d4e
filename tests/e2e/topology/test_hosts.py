"""Several hosts from one file, each with a daemon: what every command does across them, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.host import NETD, ROOT, Host, end, eventually, eventually_equal, inside

FILE = ROOT / "topologies" / "overlay.yaml"
HOMES = ("/run/netd-topology", "/var/lib/netd-topology")


def everything(host: Host) -> str:
    """What a host of the file could leave on the machine, its control groups included."""
    groups = "find /sys/fs/cgroup -type d -path '*/netd/*/*' | sort"
    homes = " ".join(f"ls -d {home} 2>/dev/null || true;" for home in HOMES)
    return host.census() + host.sh(f"{groups}; {homes}")


def holds(host: Host, file: Path, *options: str) -> None:
    done = host.run(NETD, "topology", "check", file, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def ids(host: Host, project: str) -> dict[str, str]:
    return {each["name"]: each["id"] for each in json.loads(host.netd("topology", "ps", project, "--json"))}


def test_every_command_finds_what_is_on_either_host(host: Host) -> None:
    before = everything(host)
    told = host.netd("topology", "up", FILE, "--dry-run").splitlines()
    assert told[:2] == ["start host a", "start host b"]
    assert "are not up" in host.refused("topology", "check", FILE)
    host.netd("topology", "up", FILE)

    rows = host.netd("topology", "ps", "overlay").splitlines()
    assert {tuple(row.split()[:2]) for row in rows[1:]} == {
        ("overlay-web-1", "a"),
        ("overlay-stranger-1", "a"),
        ("overlay-db-1", "b"),
        ("overlay-backup-1", "b"),
    }
    assert json.loads(host.netd("topology", "ps", "--json")) == [
        {"project": "overlay", "containers": 4, "networks": 2}
    ]
    assert host.json("ps") == [], "nothing is on the daemon of this machine"
    for service in ("web", "db"):
        assert host.netd("topology", "exec", FILE, service, "echo", "here") == "here\n"
    assert "on host b" in host.netd("topology", "graph", FILE)
    assert "verdict  accept" in host.netd("topology", "trace", FILE, "db", "tcp", "web", "80")

    points = ("host:eth0", "network:fabric")
    recording = host.spawn(NETD, "topology", "capture", FILE, *points, stderr=subprocess.PIPE)
    assert recording.stderr is not None
    assert "network:fabric@a, network:fabric@b" in recording.stderr.readline()
    host.netd("topology", "exec", FILE, "web", "ping", "-4", "-c1", "-W5", "db")
    os.kill(inside(recording), signal.SIGINT)
    lines, _ = recording.communicate(timeout=15)
    assert "4789 udp" in lines, "as it is between the hosts"
    assert "network:fabric@b" in lines, "and as it is within one"

    host.netd("topology", "link", "down", FILE, "db", "fabric")
    assert host.run(NETD, "topology", "check", FILE).returncode == 1
    host.netd("topology", "link", "up", FILE, "db", "fabric")
    holds(host, FILE)
    host.netd("topology", "down", "overlay")
    assert eventually_equal(before, lambda: everything(host)) == before


def test_two_projects_of_one_file_and_a_service_that_moves(host: Host) -> None:
    before = everything(host)
    host.netd("topology", "up", FILE)
    host.netd("topology", "up", FILE, "-p", "other")
    first, second = ids(host, "overlay"), ids(host, "other")
    holds(host, FILE)
    holds(host, FILE, "-p", "other")

    edited = host.lab.directory / "overlay.yaml"
    text = FILE.read_text().replace('8080:80"]\n    x-netd: {host: a}', '8080:80"]\n    x-netd: {host: b}')
    edited.write_text(text.replace("192.0.2.1:8080", "192.0.2.2:8080"))
    host.netd("topology", "up", edited)
    moved = {name for name, id in ids(host, "overlay").items() if first[name] != id}
    assert moved == {"overlay-web-1"}
    holds(host, edited)

    less = host.lab.directory / "less.yaml"
    less.write_text(
        edited.read_text().replace("hosts: {a: , b: }", "hosts: {b: }").replace("host: a", "host: b")
    )
    assert host.netd("topology", "up", less, "--dry-run").splitlines()[-1] == "end host a"
    host.netd("topology", "up", less)
    assert host.sh("ls /run/netd-topology/overlay").split() == ["_wire", "b"]
    assert {each.split()[1] for each in host.netd("topology", "ps", "overlay").splitlines()[1:]} == {"b"}
    host.netd("topology", "down", edited)
    assert ids(host, "other") == second
    holds(host, FILE, "-p", "other")
    host.netd("topology", "down", "other")
    assert eventually_equal(before, lambda: everything(host)) == before


def test_the_tunnels_are_of_the_family_that_the_file_says(host: Host) -> None:
    """Over IPv6 all that the file promises holds as well; both families are on the wire either way."""
    file = host.lab.directory / "overlay.yaml"
    smaller = FILE.read_text().replace("size: 1372", "size: 1352")  # the outer header is 20 bytes longer
    file.write_text(
        smaller.replace("hosts: {a", "underlay: 6\n  hosts: {a").replace(
            '192.0.2.1:8080"', '[2001:db8:2::1]:8080"'
        )
    )
    before = everything(host)
    host.netd("topology", "up", file)
    nodes = json.loads(
        host.netd("--socket", "/run/netd-topology/overlay/a/run/netd.sock", "node", "ls", "--json")
    )
    assert {each["address"] for each in nodes["nodes"]} == {"2001:db8:2::1", "2001:db8:2::2"}
    holds(host, file)
    task = json.loads(host.sh("cat /run/netd-topology/overlay/a/task.json"))
    assert "dst 2001:db8:2::2 " in host.sh(f"nsenter -t {task['pid']} -n bridge fdb show")
    assert "it cannot be changed: take them down" in host.refused("topology", "up", FILE)
    host.netd("topology", "down", file)
    assert eventually_equal(before, lambda: everything(host)) == before


def daemon_of(host: Host, name: str) -> int:
    """The pid, within the lab, of the daemon on a host of the topology."""
    task = json.loads(host.sh(f"cat /run/netd-topology/overlay/{name}/task.json"))
    return int(host.sh(f"pgrep -o -P {task['pid']} -f 'daemon --cluster'"))


def test_a_daemon_that_is_killed_comes_back_and_finds_its_containers(host: Host) -> None:
    host.netd("topology", "up", FILE)
    before = ids(host, "overlay")
    killed = daemon_of(host, "b")
    host.sh(f"kill -9 {killed}")
    eventually("the daemon of host b is another", lambda: _is_back(host, killed))
    holds(host, FILE)
    assert host.netd("topology", "up", FILE, "--dry-run") == ""
    assert ids(host, "overlay") == before
    host.netd("topology", "down", FILE)


def _is_back(host: Host, killed: int) -> bool:
    done = host.run(NETD, "--socket", "/run/netd-topology/overlay/b/run/netd.sock", "ps")
    return done.returncode == 0 and daemon_of(host, "b") != killed


@pytest.mark.parametrize(
    "moment",
    ["at once", "with one host", "with both hosts", pytest.param("with a network", marks=pytest.mark.slow)],
)
def test_nothing_stays_of_an_up_that_is_killed(host: Host, moment: str) -> None:
    before = everything(host)
    _kill_up(host, ("at once", "with one host", "with both hosts", "with a network").index(moment))
    if moment == "with one host":
        host.netd("topology", "up", FILE)
        holds(host, FILE)
    host.netd("topology", "down", FILE)
    assert eventually_equal(before, lambda: everything(host)) == before


def _kill_up(host: Host, lines: int) -> None:
    """Kill an `up` that has said so many lines."""
    process = host.spawn(NETD, "topology", "up", FILE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    if not lines:
        eventually("a host is being made", lambda: host.run("ls", "/run/netd-topology/overlay").stdout)
    for _ in range(lines):
        assert process.stderr.readline()
    end(process)


def test_without_etcd_it_says_what_to_install(host: Host) -> None:
    before = everything(host)
    done = host.run("env", "PATH=/nowhere", NETD, "topology", "up", FILE)
    assert done.returncode == 1
    assert "apt install etcd-server" in done.stderr
    assert everything(host) == before
