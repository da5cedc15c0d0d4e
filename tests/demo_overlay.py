"""Two hosts, one network, and one of the hosts dying: `make demo-overlay`.

The hosts, the wire between them and a three-member etcd exist only for the demo. Steps are checked as in
`tests.demo`; the first that is not as it should be ends it with status 1.
"""

from __future__ import annotations

import sys
import time

from tests.demo import BOLD, DIM, PLAIN, Wrong, say
from tests.e2e.etcd import TTL, Cluster
from tests.e2e.fabric import plug
from tests.e2e.host import Host, eventually

SERVER = "echo hello from db >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"


def type_on(name: str, host: Host, command: str, *, answer: str = "", status: int = 0) -> str:
    """Run `command` as typed at the host called `name`; insist on its exit status and its answer."""
    print(f"{BOLD}{name}# {command}{PLAIN}", flush=True)
    done = host.run("/bin/sh", "-c", command)
    wrote = done.stdout + done.stderr
    print(wrote, end="", flush=True)
    if done.returncode != status or answer not in wrote:
        raise Wrong(f"expected exit status {status} and {answer!r}: {command}")
    if status:
        print(f"{DIM}(exit status {status}){PLAIN}", flush=True)
    return wrote


def story(cluster: Cluster) -> None:
    """From two empty hosts to two empty hosts."""
    one, two = cluster.hosts
    say("Two hosts on one wire, 192.0.2.1 and .2, and an etcd of three members.")
    cluster.start_all()
    cluster.wait_until_connected()
    type_on("h1", one, "netd node ls", answer="h2")

    say("One network, made on h1, is on both. A container on each.")
    type_on("h1", one, "netd network create --driver overlay --subnet 10.5.0.0/24 --ipv6 fabric")
    eventually("h2 has it", lambda: not two.run("netd", "network", "inspect", "fabric").returncode)
    type_on("h2", two, f"netd run -d --name db --network fabric -- sh -c '{SERVER}'")
    type_on("h1", one, "netd run -d --name web --network fabric -- sleep 1000")

    say("web on h1 finds db on h2 by name.")
    fetch = "netd exec web -- curl -sS --max-time 2 http://db/"
    eventually("db answers", lambda: not one.run("/bin/sh", "-c", fetch).returncode)
    type_on("h1", one, fetch, answer="hello from db")

    say(f"h2 dies. Within {TTL} s its lease ends, and h1 forgets what was there.")
    two.kill()
    two.sh("ip link set under down")
    began = time.monotonic()
    eventually("h2 is down", lambda: "down" in one.netd("node", "ls"), TTL + 10)
    print(f"{DIM}(noticed after {time.monotonic() - began:.1f} s){PLAIN}")
    type_on("h1", one, "netd node ls", answer="down")
    type_on("h1", one, fetch, status=6)

    say("It comes back.")
    plug(2, two)
    cluster.start(2)
    began = time.monotonic()
    eventually("db answers", lambda: not one.run("/bin/sh", "-c", fetch).returncode)
    print(f"{DIM}(reached after {time.monotonic() - began:.1f} s){PLAIN}")
    type_on("h1", one, fetch, answer="hello from db")

    say("Remove everything: nothing is left on either host.")
    cluster.clean()


def main() -> int:
    began = time.monotonic()
    with Cluster(2) as cluster:
        try:
            story(cluster)
        except (Wrong, AssertionError) as error:
            print(f"\nFAILED: {error}\n\n{cluster.logs()}", file=sys.stderr)
            return 1
    print(f"\ndone in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
