"""Numbers are used again: whoever gets the pid of something of netd's is neither signalled nor entered.

The kernel is told which number to give next (/proc/sys/kernel/ns_last_pid, in the lab's own PID namespace),
so strangers really have the numbers: each is a program in a network namespace of its own, with an `eth0`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.e2e.host import PYTHON, Host, eventually

AS_NUMBER = """
import os, sys
wanted, furnish = int(sys.argv[1]), sys.argv[2]
while True:
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(wanted - 1))
    child = os.fork()
    if child == 0:
        if os.getpid() != wanted:  # somebody else forked in between
            os._exit(0)
        os.execvp("unshare", ["unshare", "--net", "sh", "-c", furnish + " echo ready; exec sleep 600"])
    if child == wanted:
        break
    os.waitpid(child, 0)
os.waitpid(child, 0)
"""
ETH0 = "ip link add eth0 type veth peer name far; ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up;"
LOOK = "ip -o -4 addr show dev eth0; ip -o link | wc -l"


class Stranger:
    """A program with a pid of our choice."""

    def __init__(self, host: Host, pid: int, furnish: str = ETH0) -> None:
        self.host, self.pid = host, pid
        eventually(f"{pid} is free", lambda: host.run("test", "-e", f"/proc/{pid}").returncode)
        self.process: subprocess.Popen[str] = host.spawn(PYTHON, "-IS", "-c", AS_NUMBER, str(pid), furnish)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.before = self.look()

    def look(self) -> str:
        """Who it is, since when, and what is in its namespace. Fails where it is gone."""
        who = self.host.sh(f"cut -d' ' -f1,22 /proc/{self.pid}/stat; readlink /proc/{self.pid}/ns/net")
        return who + self.host.sh(f"nsenter --net=/proc/{self.pid}/ns/net sh -c '{LOOK}' 2>&1 || true")

    def end(self) -> None:
        self.host.sh(f"kill -9 {self.pid}")
        self.process.wait(15)


def pids_of(host: Host, container: str) -> list[int]:
    """Monitor, first process and command of a container, as its record has them."""
    record = json.loads(host.sh(f"cat /run/netd/containers/{host.inspect(container)['id']}/status.json"))
    return [record[each]["pid"] for each in ("monitor", "init", "command")]


def test_who_has_the_numbers_of_a_dead_container_is_let_alone(host: Host) -> None:
    host.netd("network", "create", "front")
    host.serve("web", "--network", "front", "-p", "8080:80")
    numbers = pids_of(host, "web")
    assert len(set(numbers)) == 3
    host.kill()
    host.sh(f"kill -9 {numbers[0]}")  # the container ends with its monitor, which could not write that down
    strangers = [Stranger(host, number) for number in numbers]
    host.start()
    assert [each["state"] for each in host.json("ps", "-a")] == ["exited"]
    for command in (["exec", "web", "--", "true"], ["kill", "web"], ["kill", "-s", "TERM", "web"]):
        host.refused(*command)
    host.run("netd", "stop", "web")
    host.netd("rm", "-f", "web")
    assert [each.look() for each in strangers] == [each.before for each in strangers]
    for each in strangers:
        each.end()


def test_who_has_the_number_by_which_a_pod_was_known_is_let_alone(host: Host) -> None:
    """CNI_NETNS may be /proc/PID/ns/net; so it is for as long as the daemon runs, and when it starts."""
    host.netd("network", "create", "front")
    bin, conf = Path("/run/bin"), Path("/run/conf")
    host.netd("cni", "install", "--bin-dir", bin, "--conf-dir", conf)

    def plugin(command: str, pod: str, pid: int) -> subprocess.CompletedProcess[str]:
        given = {"CONTAINERID": pod, "NETNS": f"/proc/{pid}/ns/net", "IFNAME": "eth0", "PATH": str(bin)}
        words = [f"CNI_{key}={value}" for key, value in {"COMMAND": command, **given}.items()]
        config = {"cniVersion": "1.0.0", "name": "pods", "type": "netd", "network": "front"}
        return host.run("env", *words, bin / "netd", input=json.dumps(config))

    for pod, pid, restart in (("one", 20_000, False), ("two", 21_000, True)):
        holder = Stranger(host, pid, "")
        assert plugin("ADD", pod, pid).returncode == 0
        assert "eth0" in holder.look()
        if restart:
            host.kill()
        holder.end()
        stranger = Stranger(host, pid)
        if restart:
            host.start()
        if stranger.before.splitlines()[1] == holder.before.splitlines()[1]:
            print("even the inode of the namespace is used again")
        assert plugin("DEL", pod, pid).returncode == 0
        eventually("nothing is attached", lambda: host.network("front")["endpoints"] == [])
        assert stranger.look() == stranger.before
        stranger.end()
