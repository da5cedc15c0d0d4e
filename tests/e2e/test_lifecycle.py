"""The daemon comes and goes, dies half-way, is asked by everybody at once: nothing is lost or left."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from typing import Any

import pytest

from tests.e2e.host import HOST, NETD, ROOT, Flood, Host, Lab, end, eventually
from tests.e2e.monitors import written_during

KINDS = ("tcp", "udp")


def furnish(host: Host) -> None:
    """Two networks, three containers, a published port."""
    host.netd("network", "create", "front", "--ipv6")
    host.netd("network", "create", "back", "--ipv6", "--internal")
    host.serve("web", "--network", "front", "--network", "back", "-p", "8080:80", "-p", "8080:80/udp")
    host.serve("api", "--network", "front")
    host.serve("db", "--network", "back")


def floods(host: Host) -> list[Flood]:
    return [Flood(host.lab.client, kind, address, 8080) for kind in KINDS for address in HOST]


def picture(host: Host) -> object:
    """What the listings say."""
    return [host.json("network", "ls"), host.json("ps", "-a")]


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_traffic_goes_on_while_the_daemon_is_away_and_comes_back(host: Host, how: str) -> None:
    furnish(host)
    before = picture(host)
    flows = floods(host)
    for flow in flows:
        assert flow.answered_by() == "web"
    getattr(host, how)()
    late = floods(host)  # conversations that begin while there is no daemon
    for flow in late:
        assert flow.answered_by() == "web"
    host.start()
    assert picture(host) == before
    for target in ("tcp,127.0.0.1,8080", "udp,::1,8080"):
        assert host.answer(target).startswith("web"), "the relay serves loopback again"
    for flow in flows + late:
        flow.end_unharmed()


def test_a_restart_with_nothing_changed_writes_nothing_to_the_kernel(host: Host) -> None:
    furnish(host)
    host.restart()
    assert written_during(host, host.restart) == []


def test_what_a_container_asked_of_its_interfaces_outlives_a_restart(host: Host) -> None:
    """They are set once the interface is there, and a restart does not take them for damage."""
    host.netd("network", "create", "front", "--ipv6")
    asked = {"ipv4.conf.eth0.accept_redirects": "1", "ipv6.conf.eth0.accept_dad": "1"}
    flags = [word for key, value in asked.items() for word in ("--sysctl", f"net.{key}={value}")]
    host.netd("run", "-d", "--name", "odd", "--network", "front", *flags, "--", "sleep", "600")
    assert host.inspect("odd")["request"]["detach"] is True

    inside = f"nsenter --net={host.inspect('odd')['netns']} sysctl"

    def value(key: str) -> str:
        return host.sh(f"{inside} -n net.{key}").strip()

    assert {key: value(key) for key in asked} == asked
    # What is netd's own is damaged, so that one sees when the daemon has looked inside.
    host.sh(f"{inside} -qw net.ipv6.conf.eth0.accept_redirects=1")
    host.restart()
    eventually("its inside is repaired", lambda: value("ipv6.conf.eth0.accept_redirects") == "0")
    assert {key: value(key) for key in asked} == asked
    unknown = ("--network", "front", "--sysctl", "net.ipv4.conf.eth9.rp_filter=1")
    assert "'eth9', only eth0" in host.refused("run", *unknown, "--", "true")


def test_containers_outlive_the_daemon_and_their_end_is_known(host: Host) -> None:
    host.netd("network", "create", "front")
    script = "echo begun; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo ended; exit 7"
    host.netd("run", "-d", "--name", "worker", "--network", "front", "--", "sh", "-c", script)
    eventually("worker has begun", lambda: "begun" in host.netd("logs", "worker"))
    pid = host.inspect("worker")["pid"]
    netns = host.inspect("worker")["netns"]
    assert host.inspect("worker")["state"] == "running"
    host.kill()
    host.sh(f"touch /proc/{pid}/root/tmp/go")
    eventually("worker has ended", lambda: host.run("test", "-d", f"/proc/{pid}").returncode)
    host.start()
    container = host.inspect("worker")
    assert (container["state"], container["exit_code"]) == ("exited", 7)
    assert host.netd("logs", "worker") == "begun\nended\n"
    assert host.netd("wait", "worker").strip() == "7"
    assert netns


def test_a_container_that_removes_itself_is_removed_although_the_daemon_was_away(host: Host) -> None:
    host.netd("network", "create", "front")
    host.netd(
        "run", "-d", "--rm", "--name", "brief", "--network", "front", "-p", "8080:80", "--", "sleep", "600"
    )
    pid = host.inspect("brief")["pid"]
    host.kill()
    host.sh(f"kill -9 {pid}")
    eventually("brief has ended", lambda: host.run("test", "-d", f"/proc/{pid}").returncode)
    host.start()
    eventually("brief is removed", lambda: host.json("ps", "-a") == [])
    host.serve("web", "--network", "front", "-p", "8080:80")
    assert host.lab.client.answer(f"tcp,{HOST[0]},8080").startswith("web")


DELAYS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3)


def test_whatever_step_the_daemon_dies_at_the_next_start_finishes_or_undoes_it(host: Host) -> None:
    """Timed kills; `tests/` elsewhere enumerate every step. Here the whole program and the real kernel."""
    host.netd("network", "create", "front", "--ipv6")
    for number, delay in enumerate(DELAYS):
        name = f"c{number}"
        network = host.spawn(NETD, "network", "create", f"n{number}", stderr=-3)
        container = host.spawn(
            *(NETD, "run", "-d", "--name", name, "--network", "front", "-p", f"{8000 + number}:80", "--"),
            *("sleep", "600"),
            stderr=-3,
        )
        time.sleep(delay)  # not a wait for anything: the moment of death is the variable
        host.kill()
        network.wait(30)
        container.wait(30)
        host.start()
        containers = {each["name"]: each for each in host.json("ps", "-a")}
        networks = {each["name"]: each for each in host.json("network", "ls")}
        if name in containers:
            (endpoint,) = containers[name]["endpoints"]
            assert endpoint["network"] == "front"
            if containers[name]["state"] == "running":
                assert endpoint["addresses"][0] in host.netd("exec", name, "--", "ip", "addr")
            host.netd("rm", "-f", name)
        if f"n{number}" in networks:
            assert host.sh(f"ip -br link show {networks[f'n{number}']['bridge']}")
            host.netd("network", "rm", f"n{number}")
        # The same request can be repeated.
        host.netd("network", "create", f"n{number}")
        host.netd(
            "run", "--rm", "--name", name, "--network", "front", "-p", f"{8000 + number}:80", "--", "true"
        )
        host.netd("network", "rm", f"n{number}")


def test_after_a_reboot_networks_are_there_and_containers_are_gone(lab: Lab) -> None:
    """A second machine with the first one's disk, and nothing of its /run or its kernel."""
    host = lab.host
    host.start()
    furnish(host)
    definitions = [definition(network) for network in host.json("network", "ls")]
    host.kill()
    disk = lab.directory / "disk"
    host.sh(f"cp -a /var/lib/netd {disk}")
    with Lab() as again:
        again.host.sh(f"cp -a {disk} /var/lib/netd")
        again.host.start()
        assert again.host.json("ps", "-a") == []
        networks = again.host.json("network", "ls")
        assert [definition(network) for network in networks] == definitions
        assert all(subnet["used"] == 0 for network in networks for subnet in network["subnets"])
        again.host.serve("web", "--network", "front", "-p", "8080:80")
        assert again.client.answer(f"tcp,{HOST[0]},8080").startswith("web")
        again.host.remove_everything()


def definition(network: dict[str, Any]) -> dict[str, Any]:
    """A network less what comes and goes."""
    subnets = [
        {key: value for key, value in subnet.items() if key != "used"} for subnet in network["subnets"]
    ]
    return {**network, "endpoints": [], "subnets": subnets}


@pytest.mark.parametrize("garbage", ["not a database at all", ""], ids=["garbage", "truncated"])
def test_a_damaged_store_is_refused_and_left_untouched(lab: Lab, garbage: str) -> None:
    host = lab.host
    host.start()
    host.netd("network", "create", "front")
    host.stop()
    (path,) = host.sh(
        "find /var/lib/netd -name '*.db' -o -name '*.sqlite*' | grep -v -e -wal -e -shm"
    ).split()
    if garbage:
        host.output("tee", path, input=garbage * 100)
    else:
        host.sh(f"truncate -s 3000 {path}")
    before = host.sh(f"sha256sum {path}")
    assert path in host.refused("daemon").splitlines()[-1]
    assert host.sh(f"sha256sum {path}") == before


RACE = """
import collections, json, sys, threading
from netd.api.client import connect
from netd.api import netd_pb2 as pb
from netd.errors import NetdError

clients = [connect("/run/netd/netd.sock") for _ in range(64)]

def race(act):
    start, results = threading.Barrier(len(clients)), []
    def one(number, client):
        start.wait()
        try:
            act(number, client)
            results.append("done")
        except NetdError as error:
            results.append(str(error) if type(error) is NetdError else type(error).__name__)
    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(clients)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return dict(collections.Counter(results))

rounds = []
for round in range(3):
    rounds.append(race(lambda n, c: c.create_network(pb.CreateNetworkRequest(name="prize"))))
    rounds.append(race(lambda n, c: c.remove_network("prize")))
print(json.dumps(rounds))
print(json.dumps(race(lambda n, c: c.create_network(pb.CreateNetworkRequest(name=f"n{n}")))))
print(json.dumps(sorted(s.cidr for n in clients[0].networks() for s in n.subnets)))
print(json.dumps(race(lambda n, c: c.remove_network(f"n{n}"))))
"""


def test_of_64_clients_exactly_one_wins_each_name(host: Host) -> None:
    """Creating and deleting the same name at once; then 64 different ones, which must not share a subnet."""
    lines = host.output(sys.executable, "-c", RACE, timeout=110).splitlines()
    rounds, made, subnets, removed = map(json.loads, lines)
    assert rounds == [{"done": 1, "AlreadyExists": 63}, {"done": 1, "NotFound": 63}] * 3
    assert made == {"done": 64}
    assert len(set(subnets)) == 64
    assert removed == {"done": 64}
    assert host.json("network", "ls") == []


@pytest.mark.parametrize(
    "flags",
    [("--name", "prize"), ("-p", "8080:80"), ("--network", "front,ip=10.7.0.7")],
    ids=["name", "port", "address"],
)
def test_of_many_containers_one_wins(host: Host, flags: tuple[str, ...]) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24")
    network = () if "--network" in flags else ("--network", "front")
    command = shlex.join([str(NETD), "run", "-d", *network, *flags, "--", "sleep", "600"])
    script = (
        f"for i in 1 2 3 4 5 6 7 8 9 10; do ({command} >/dev/null 2>&1 && echo 0 || echo $?) & done; wait"
    )
    outcomes = Counter(host.sh(script).split())
    assert outcomes == {"0": 1, "1": 9}
    (winner,) = host.json("ps", "-a")
    assert winner["state"] == "running"
    assert host.network("front")["subnets"][0]["used"] == 1


def test_thirty_containers_at_once(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    command = f"{NETD} run -d --network front --name c$i -p $((9000+i)):80 -- sleep 600"
    host.sh(f"for i in $(seq 30); do {command} >/dev/null & done; wait", timeout=100)
    containers = host.json("ps")
    assert len(containers) == 30
    addresses = [a for each in containers for endpoint in each["endpoints"] for a in endpoint["addresses"]]
    assert len(set(addresses)) == 60
    macs = {endpoint["mac"] for each in containers for endpoint in each["endpoints"]}
    assert len(macs) == 30
    host.netd("rm", "-f", *(each["name"] for each in containers))
    assert host.json("ps", "-a") == []


def test_everything_the_daemon_starts_outlives_it_only_where_it_must(host: Host) -> None:
    """After a stop with no container left, nothing of netd computes: at most its DNS process waits."""
    furnish(host)
    host.remove_everything()
    host.stop()
    left = host.sh("ps -eo args=").splitlines()
    known = ("init.py", "ps -eo", "/bin/sh -ec", "netd_dns")
    assert [line for line in left if not any(word in line for word in known)] == []
    host.start()


def test_a_terminated_client_does_not_stop_what_it_asked_for(host: Host) -> None:
    host.netd("network", "create", "front")
    client = host.spawn(NETD, "run", "--name", "web", "--network", "front", "--", "sleep", "600")
    eventually("web runs", lambda: [c["state"] for c in host.json("ps", "-a")] == ["running"])
    end(client)
    assert host.inspect("web")["state"] == "running"


def test_the_units_names_exist() -> None:
    """The systemd unit that is shipped starts a command that exists, and never kills the containers."""
    (unit,) = ROOT.rglob("netd.service")
    text = unit.read_text()
    assert "KillMode=process" in text
    assert "Type=notify" in text
    assert "netd daemon" in text
