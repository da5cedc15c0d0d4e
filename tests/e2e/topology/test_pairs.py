"""Links between two containers, without a bridge: what they carry, and what they keep apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.host import NETD, PYTHON, Host, eventually

WIRE = Path(__file__).parents[1] / "wire.py"
LAB = """\
name: lab
services:
  left: {x-netd: {routes: ["0.0.0.0/0 via router", "::/0 via router"]}}
  router: {x-netd: {forward: {policy: drop, allow: ["a->b tcp/80", "a->b icmp"]}}}
  right:
    command: /usr/bin/python3 -IS /wire.py serve right tcp:80 tcp:81
    volumes: [WIRE:/wire.py:ro]
    x-netd: {routes: ["10.9.1.0/24 via router", "fd00:1::/64 via router"]}
  guest:
    network_mode: service:right
    command: /usr/bin/python3 -IS /wire.py serve guest tcp:82
    volumes: [WIRE:/wire.py:ro]
x-netd:
  links:
    - {endpoints: ["left:up0", "router:a0"], name: a, subnet: 10.9.1.0/24, subnet6: "fd00:1::/64", mtu: 1400}
    - {endpoints: ["router:b0", right], name: b, subnet: 10.9.2.0/31, subnet6: "fd00:2::/127"}
  checks:
    - {from: left, to: "right:80", via: [router]}
    - {from: left, to: "right:81", expect: blocked}
    - {from: router, to: "guest:82"}
    - {from: left, to: router/icmp}
    - {from: host, to: "right:80", expect: blocked}
"""
LISTEN = (
    "import socket; s = socket.socket(17, 3, 0x0300); s.bind(('a0', 3)); print('ready', flush=True)\n"
    "while (frame := s.recv(2000))[:6] != bytes.fromhex('0180c200000e'): pass\n"
    "print(frame[12:].hex())"
)
SEND = (
    "import socket; s = socket.socket(17, 3); s.bind(('up0', 0))\n"
    "s.send(bytes.fromhex('0180c200000e' + '020000000001' + '88cc' + '0207') + bytes(44))"
)


@pytest.fixture
def wired(host: Host) -> Path:
    path = host.lab.directory / "lab.yaml"
    path.write_text(LAB.replace("WIRE", str(WIRE)))
    host.netd("topology", "up", path)
    return path


def holds(host: Host, file: Path) -> None:
    done = host.run(NETD, "topology", "check", file)
    assert done.returncode == 0, done.stdout + done.stderr


def ends(host: Host) -> list[str]:
    """The host's sides of all links."""
    names = ("lab-left-1", "lab-router-1", "lab-right-1")
    return [each["host_ifname"] for name in names for each in host.inspect(name)["endpoints"]]


def test_links_carry_what_the_file_says_and_an_edit_changes_only_the_difference(
    host: Host, wired: Path
) -> None:
    holds(host, wired)
    assert "mtu 1400" in host.netd("topology", "exec", "lab", "left", "ip", "link", "show", "up0")
    assert host.netd("topology", "up", wired, "--dry-run") == ""
    before = {each["name"]: each["id"] for each in host.json("ps")}
    text = wired.read_text()
    wired.write_text(text.replace("mtu: 1400}", "mtu: 1400, netem: {rate: 8mbit}}"))
    planned = host.netd("topology", "up", wired, "--dry-run").splitlines()
    assert planned == [f"adjust container lab-{name}-1 in lab_a" for name in ("left", "router")]
    host.netd("topology", "up", wired)
    assert {each["name"]: each["id"] for each in host.json("ps")} == before
    shown = host.output("tc", "qdisc", "show")
    assert shown.count("rate 8Mbit") == 2
    holds(host, wired)
    wired.write_text(
        text.replace('["a->b tcp/80", "a->b icmp"]', '["a->b"]').replace("expect: blocked", "", 1)
    )
    host.netd("topology", "up", wired)
    assert {n for n, id in before.items() if id == host.inspect(n)["id"]} == before.keys() - {"lab-router-1"}
    assert "lab_a" in host.netd("network", "ls")
    holds(host, wired)
    host.netd("topology", "down", wired)


def test_a_frame_that_no_bridge_forwards_arrives(host: Host, wired: Path) -> None:
    netns = host.inspect("lab-router-1")["netns"]
    ear = host.spawn("nsenter", f"--net={netns}", PYTHON, "-ISc", LISTEN)
    assert ear.stdout is not None
    assert ear.stdout.readline() == "ready\n"
    sender = host.inspect("lab-left-1")["netns"]
    host.output("nsenter", f"--net={sender}", PYTHON, "-ISc", SEND)
    assert ear.stdout.readline().startswith("88cc0207")


def test_an_end_that_is_alone_reaches_nobody_and_comes_back(host: Host, wired: Path) -> None:
    host.netd("rm", "-f", "lab-router-1")
    netns = host.inspect("lab-left-1")["netns"]
    # A forger who knows the MAC of the host's side, towards an address of the host.
    forged = ("ip", "neigh", "replace", "10.9.1.2", "lladdr", _mac(host), "dev", "up0")
    host.output("nsenter", f"--net={netns}", *forged)
    for target in ("203.0.113.2", "10.9.1.77"):
        done = host.run("nsenter", f"--net={netns}", "ping", "-n", "-c", "2", "-i", "0.1", "-W", "1", target)
        assert " 0 received" in done.stdout
    answered = host.output("nsenter", f"--net={netns}", "ip", "neigh", "show", "10.9.1.77")
    assert "lladdr" not in answered, "the host answers no ARP there"
    host.output("nsenter", f"--net={netns}", "ip", "neigh", "del", "10.9.1.2", "dev", "up0")
    host.netd("topology", "up", wired)
    holds(host, wired)


def _mac(host: Host) -> str:
    """The MAC of the host's side of left's end, to which a forger would send."""
    return host.output("cat", f"/sys/class/net/{_end(host)}/address").strip()


def _end(host: Host) -> str:
    [endpoint] = host.inspect("lab-left-1")["endpoints"]
    return str(endpoint["host_ifname"])


def test_what_somebody_takes_away_is_put_back_and_a_restart_writes_nothing(host: Host, wired: Path) -> None:
    shown = host.output("tc", "filter", "show", "dev", _end(host), "ingress")
    assert "Egress Redirect" in shown
    host.restart()
    assert host.output("tc", "filter", "show", "dev", _end(host), "ingress") == shown
    assert "repaired" not in host.log.read_text()
    for each in ends(host):
        host.output("tc", "qdisc", "del", "dev", each, "ingress")
    eventually(
        "the wires are mended",
        lambda: all(
            "Egress Redirect" in host.output("tc", "filter", "show", "dev", each, "ingress")
            for each in ends(host)
        ),
    )
    holds(host, wired)


def test_a_third_end_is_refused(host: Host, wired: Path) -> None:
    message = host.refused("run", "-d", "--network", "lab_a", "--", "sleep", "9")
    assert "link 'lab_a' has both its ends already, at lab-left-1 and lab-router-1" in message
    assert host.netd("topology", "graph", wired).count(" ---|") == 2


def test_a_link_is_cut_limited_and_mended_at_either_end(host: Host, wired: Path) -> None:
    def reached() -> bool:
        done = host.run(NETD, "topology", "exec", "lab", "left", "ping", "-n", "-c1", "-W", "1", "10.9.1.2")
        return done.returncode == 0

    host.netd("topology", "link", "down", "lab", "router", "a")
    assert not reached()
    host.netd("topology", "link", "up", "lab", "left", "up0")
    assert reached()
    host.netd("topology", "netem", "lab", "left", "a", "--rate", "3mbit")
    assert host.output("tc", "qdisc", "show").count("rate 3Mbit") == 2
    host.netd("topology", "netem", "lab", "router", "a", "--rate", "0")
    assert "Mbit" not in host.output("tc", "qdisc", "show")
    assert reached()
