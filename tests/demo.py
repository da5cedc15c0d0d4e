"""The main job of netd, shown on a host and a LAN that exist only for the demo: `make demo`.

Each line after a prompt is what a person would type at that machine, each line below it what came
back. Every step is checked; the first that is not as it should be ends the demo with status 1.
"""

from __future__ import annotations

import re
import sys
import time

from tests.e2e.host import HOST, Host, Lab, Node, eventually, eventually_equal, unified

BOLD, DIM, PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")

WEB = "echo hello from web >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"
DB = "echo the books >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"


class Wrong(Exception):
    """A step did not do what it should."""


def say(text: str) -> None:
    """A heading."""
    print(f"\n{BOLD}# {text}{PLAIN}", flush=True)


def type_at(node: Node, command: str, *, answer: str = "", status: int = 0) -> str:
    """Run `command` as typed at `node`, show both; insist on its exit status and on a regex in its answer."""
    print(f"{BOLD}{node.name}# {command}{PLAIN}", flush=True)
    done = node.run("/bin/sh", "-c", command)
    wrote = done.stdout + done.stderr
    print(wrote, end="", flush=True)
    if done.returncode != status:
        raise Wrong(f"exit status {done.returncode} instead of {status}: {command}")
    if done.returncode:
        print(f"{DIM}(exit status {done.returncode}){PLAIN}", flush=True)
    if not re.search(answer, wrote):
        raise Wrong(f"the answer lacks {answer!r}: {command}")
    return wrote


def start_daemon(host: Host) -> None:
    """`netd daemon &`, as systemd would do it."""
    print(f"{BOLD}host# netd daemon &{PLAIN}", flush=True)
    seconds = host.start()
    print(f"{DIM}(ready after {seconds:.2f} s){PLAIN}", flush=True)


def main_job(lab: Lab) -> None:
    """The story from an empty host to an empty host."""
    host, client = lab.host, lab.client
    four, six = HOST
    say("A host with one uplink, a client on its LAN; all of it in namespaces made for this demo.")
    type_at(host, "ip -br addr", answer=four)
    type_at(client, "ip -br addr", answer="203.0.113.10")

    say("Start netd. Its definitions lie in /var/lib/netd, everything else in /run/netd.")
    start_daemon(host)
    before = host.census()
    type_at(host, "netd version", answer="netd")

    say("Two networks, and a container on each. Port 80 of the first is published as port 8080.")
    type_at(host, "netd network create front --ipv6")
    type_at(host, "netd network create back --ipv6")
    type_at(host, "netd network ls", answer="front")
    type_at(host, f"netd run -d --name web --network front -p 8080:80 -- sh -c '{WEB}'")
    type_at(host, f"netd run -d --name db --network back -- sh -c '{DB}'")
    type_at(host, "netd ps", answer="8080->80/tcp")
    for name in ("web", "db"):
        listening = f"netd exec {name} -- curl -s --max-time 1 http://127.0.0.1/"
        eventually(f"{name} listens", lambda: host.run("/bin/sh", "-c", listening).returncode == 0)  # noqa: B023

    say("The port answers on the LAN, in both families...")
    type_at(client, f"curl -s http://{four}:8080/", answer="hello from web")
    type_at(client, f"curl -s http://[{six}]:8080/", answer="hello from web")
    say("...on the host, by its address and by loopback...")
    type_at(host, f"curl -s http://{four}:8080/", answer="hello from web")
    type_at(host, "curl -s http://127.0.0.1:8080/", answer="hello from web")
    type_at(host, "curl -s http://[::1]:8080/", answer="hello from web")
    say("...and a neighbour in the network finds the container by name.")
    type_at(host, "netd run --rm --network front -- curl -s http://web/", answer="hello from web")

    say("Networks are closed to each other: from front, neither the name nor the address of db leads to it.")
    address = host.address("db")
    type_at(host, "netd run --rm --network front -- curl -sS --max-time 2 http://db/", status=6)
    type_at(host, f"netd run --rm --network front -- curl -sS --max-time 2 http://{address}/", status=28)
    say("Nor can the LAN go round the published port, even if it knows the way to the container.")
    subnet = host.network("front")["subnets"][0]["cidr"]
    type_at(client, f"ip route add {subnet} via {four}")
    type_at(client, f"curl -sS --max-time 2 http://{host.address('web')}/", status=28)

    say("Kill the daemon, the hard way. Nothing that is running needs it.")
    pid = host.sh("pgrep -of 'netd daemon'").strip()
    type_at(host, f"kill -9 {pid}")
    host.gone()
    type_at(host, "netd ps", answer="netd.sock", status=125)
    type_at(client, f"curl -s http://{four}:8080/", answer="hello from web")
    type_at(client, f"curl -s http://[{six}]:8080/", answer="hello from web")

    say("Start it again: it finds everything as it was.")
    start_daemon(host)
    type_at(host, "netd ps", answer="web")
    type_at(host, "curl -s http://127.0.0.1:8080/", answer="hello from web")

    say("Remove everything.")
    type_at(host, "netd rm -f web db", answer="web")
    type_at(host, "netd network rm front back", answer="front")
    after = eventually_equal(before, host.census)
    if after != before:
        print("\n".join(unified(before, after)))
        raise Wrong("something was left behind")
    things = len(before.splitlines())
    print(
        f"\ncensus of links, addresses, routes, rules, neighbours, nft tables, namespaces, cgroups, mounts,"
        f"\nprocesses and files: {things} before, {things} after, the same."
    )


def main() -> int:
    began = time.monotonic()
    with Lab() as lab:
        try:
            main_job(lab)
            lab.host.stop()
        except (Wrong, AssertionError) as error:
            print(f"\nFAILED: {error}", file=sys.stderr)
            if lab.host.log.exists():
                print(f"\nthe daemon's log:\n{lab.host.log.read_text()}", file=sys.stderr)
            return 1
    print(f"\ndone in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
