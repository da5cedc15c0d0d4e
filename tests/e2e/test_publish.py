"""Published ports: from where they are reached, as whom, and when not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.e2e.host import (
    CLIENT,
    HOST,
    NETD,
    PYTHON,
    ROUTER,
    WIRE,
    Flood,
    Host,
    Lab,
    end,
    eventually,
    serving,
)

KINDS = ("tcp", "udp")


def front(host: Host, *flags: str) -> None:
    host.netd("network", "create", "front", "--ipv6", *flags)


def at(address: str, port: int = 8080, kinds: tuple[str, ...] = KINDS) -> list[str]:
    return [f"{kind},{address},{port}" for kind in kinds]


BOTH = ("-p", "8080:80", "-p", "8080:80/udp")


def test_the_lan_reaches_it_and_keeps_its_address(host: Host) -> None:
    front(host)
    host.serve("web", "--network", "front", *BOTH)
    for family in (0, 1):
        for target in at(HOST[family]):
            assert host.lab.client.answer(target) == f"web {CLIENT[family]}"
            assert host.lab.router.answer(target) == f"web {ROUTER[family]}"


def test_the_host_reaches_it_by_any_of_its_addresses(host: Host) -> None:
    front(host)
    host.serve("web", "--network", "front", *BOTH)
    gateways = [subnet["gateway"] for subnet in host.network("front")["subnets"]]
    targets = [t for address in ("127.0.0.1", "::1", *HOST, *gateways) for t in at(address)]
    answers = host.ask(*targets, seconds=5)
    assert {target: answer and answer.split(" ")[0] for target, answer in answers.items()} == dict.fromkeys(
        targets, "web"
    )


def test_containers_reach_it_through_the_hosts_address(host: Host) -> None:
    """The container itself (hairpin), its neighbour, and one of another network."""
    front(host)
    host.netd("network", "create", "back", "--ipv6")
    host.serve("web", "--network", "front", *BOTH)
    host.serve("api", "--network", "front")
    host.serve("db", "--network", "back")
    targets = [target for address in HOST for target in at(address)]
    for asker in ("web", "api", "db"):
        answers = host.container_ask(asker, *targets, seconds=5)
        assert {t: a and a.split(" ")[0] for t, a in answers.items()} == dict.fromkeys(targets, "web"), asker
    unpublished = [f"tcp,{host.address('web', family=family)},80" for family in (4, 6)]
    assert set(host.container_ask("db", *unpublished).values()) == {None}


@pytest.mark.parametrize("bridge_nf", ["0", "1"])
def test_it_holds_with_and_without_br_netfilter(host: Host, bridge_nf: str) -> None:
    names = ("iptables", "ip6tables", "arptables")
    host.sh(f"sysctl -qw {' '.join(f'net.bridge.bridge-nf-call-{name}={bridge_nf}' for name in names)}")
    front(host)
    host.serve("web", "--network", "front", *BOTH)
    targets = [target for address in HOST for target in at(address)]
    assert None not in host.lab.client.ask(*targets, seconds=5).values()
    assert None not in host.container_ask("web", *targets, seconds=5).values()
    assert None not in host.ask(*targets, *at("127.0.0.1"), *at("::1"), seconds=5).values()


@pytest.mark.parametrize("bridge_nf", ["0", "1"])
def test_two_ports_of_no_icc_network_are_still_published_to_each_other(host: Host, bridge_nf: str) -> None:
    """By the relay: with br_netfilter on, a translated frame would meet the isolated port."""
    names = ("iptables", "ip6tables", "arptables")
    host.sh(f"sysctl -qw {' '.join(f'net.bridge.bridge-nf-call-{name}={bridge_nf}' for name in names)}")
    front(host, "--no-icc")
    host.serve("web", "--network", "front", *BOTH)
    host.serve("api", "--network", "front")
    direct = [f"{kind},{host.address('web', family=f)},80" for f in (4, 6) for kind in KINDS]
    assert set(host.container_ask("api", *direct).values()) == {None}
    published = [*at(HOST[0]), *at(HOST[1])]
    assert None not in host.lab.client.ask(*published, seconds=5).values()
    for asker in ("api", "web"):
        assert None not in host.container_ask(asker, *published, seconds=5).values(), asker


def test_a_port_of_one_address_answers_there_only(host: Host) -> None:
    host.sh("ip addr add 203.0.113.3/24 dev eth0; ip addr add 2001:db8:1::3/64 dev eth0 nodad")
    front(host)
    host.serve("web", "--network", "front", "-p", "203.0.113.2:8080:80", "-p", "[2001:db8:1::2]:8080:80")
    host.serve("api", "--network", "front", "-p", "203.0.113.3:8080:80", "-p", "[2001:db8:1::3]:8080:80")
    client = host.lab.client
    for address, name in (
        ("203.0.113.2", "web"),
        ("2001:db8:1::2", "web"),
        ("203.0.113.3", "api"),
        ("2001:db8:1::3", "api"),
    ):
        assert client.answer(f"tcp,{address},8080").split(" ")[0] == name
        assert host.answer(f"tcp,{address},8080").split(" ")[0] == name
    assert set(host.ask("tcp,127.0.0.1,8080", "tcp,::1,8080").values()) == {None}
    host.sh("ip addr del 203.0.113.3/24 dev eth0; ip addr del 2001:db8:1::3/64 dev eth0")


def test_a_loopback_port_is_for_the_host_alone(host: Host) -> None:
    """Also not for a neighbour that forges the destination (moby #45610), nor for other containers."""
    front(host)
    ports = [f"{address}:8080:80{kind}" for address in ("127.0.0.1", "[::1]") for kind in ("", "/udp")]
    host.serve("web", "--network", "front", *(word for port in ports for word in ("-p", port)))
    host.serve("api", "--network", "front")
    answers = host.ask(*at("127.0.0.1"), *at("::1"), seconds=5)
    assert None not in answers.values(), answers

    client = host.lab.client
    outside = [target for address in HOST for target in at(address)]
    assert set(client.ask(*outside).values()) == {None}
    assert set(host.container_ask("api", *outside).values()) == {None}

    host_mac = json.loads(host.sh("ip -j link show eth0"))[0]["address"]
    client_mac = json.loads(client.sh("ip -j link show eth0"))[0]["address"]
    frames = [
        Ether(src=client_mac, dst=host_mac) / network / transport / Raw(b"forged")
        for network in (
            IP(src=CLIENT[0], dst="127.0.0.1"),
            IP(src="127.0.0.1", dst="127.0.0.1"),
            IPv6(src=CLIENT[1], dst="::1"),
            IP(src=CLIENT[0], dst=host.address("web")),
            IPv6(src=CLIENT[1], dst=host.address("web", family=6)),
        )
        for transport in (TCP(sport=7777, dport=8080, flags="S"), UDP(sport=7777, dport=8080))
    ]
    last = Ether(src=client_mac, dst=host_mac) / IP(src=CLIENT[0], dst=HOST[0]) / UDP(dport=9) / Raw(b"last")
    netns = f"--net={host.inspect('web')['netns']}"
    inside = host.spawn("nsenter", netns, PYTHON, "-IS", WIRE, "listen", "eth0", "20")
    assert inside.stdout is not None
    assert inside.stdout.readline() == "ready\n"
    arriving = host.talker("listen", "eth0", "20")
    answering = client.talker("listen", "eth0", "20")
    client.output(PYTHON, "-IS", WIRE, "send", "eth0", *(bytes(frame).hex() for frame in [*frames, last]))

    seen: list[bytes] = []

    def arrived() -> bool:
        assert arriving.stdout is not None
        seen.append(bytes.fromhex(arriving.stdout.readline()))
        return b"last" in seen[-1]

    eventually("the frames arrive at the host", arrived)
    assert sum(b"forged" in frame for frame in seen) == len(frames), "the wire carried the forgeries"
    # An answer to the sender comes after what it answers: an honest exchange now would follow it.
    assert client.run("ping", "-c1", "-W2", HOST[0]).returncode == 0
    for ear in (inside, answering):
        output, _ = ear.communicate(timeout=20)
        heard = [bytes.fromhex(line) for line in output.splitlines()]
        assert not [frame for frame in heard if b"forged" in frame]
        replies = [Ether(frame) for frame in heard]
        assert not [reply for reply in replies if reply.haslayer(TCP) and reply[TCP].dport == 7777]
    arriving.communicate(timeout=20)


def route_through(host: Host) -> None:
    """Behind the router lies a network to which the client goes by way of the host."""
    lab = host.lab
    lab.router.sh("ip addr add 192.0.2.80/32 dev lo; ip addr add 2001:db8:80::80/128 dev lo")
    lab.router.talker("serve", "elsewhere", "tcp:8080", "udp:8080")
    host.sh("ip route add 192.0.2.0/24 via 203.0.113.1; ip route add 2001:db8:80::/64 via 2001:db8:1::1")
    lab.client.sh(
        "sysctl -qw net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.eth0.accept_redirects=0 "
        "net.ipv6.conf.all.accept_redirects=0 net.ipv6.conf.eth0.accept_redirects=0;"
        "ip route add 192.0.2.0/24 via 203.0.113.2; ip route add 2001:db8:80::/64 via 2001:db8:1::2"
    )


def stop_routing(host: Host) -> None:
    host.sh("ip route del 192.0.2.0/24; ip route del 2001:db8:80::/64")


def test_transit_traffic_is_left_alone(lab: Lab) -> None:
    """Port 8080 of somebody else, reached through this host as a router (CVE-2025-67499)."""
    lab.host.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    with serving(lab) as host:
        route_through(host)
        front(host)
        host.serve("web", "--network", "front", *BOTH)
        for target in (*at("192.0.2.80"), *at("2001:db8:80::80")):
            assert lab.client.answer(target).split(" ") == ["elsewhere", CLIENT[":" in target]]
        stop_routing(host)


def test_a_host_that_was_no_router_does_not_become_one(host: Host) -> None:
    """Containers need the host to forward; its neighbours on the LAN must not get that too."""
    route_through(host)
    front(host)
    host.serve("web", "--network", "front", *BOTH)
    assert host.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").split() == ["1", "1"]
    targets = [*at("192.0.2.80"), *at("2001:db8:80::80")]
    assert set(host.lab.client.ask(*targets).values()) == {None}
    assert None not in host.ask(*targets, seconds=5).values(), "only transit is closed"
    stop_routing(host)
    host.remove_everything()
    assert host.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").split() == ["0", "0"]


def test_a_container_reaches_somebody_elses_port_of_the_same_number(host: Host) -> None:
    front(host)
    host.lab.client.talker("serve", "client", "tcp:8080", "udp:8080")
    host.serve("web", "--network", "front", *BOTH)
    for family in (0, 1):
        for target in at(CLIENT[family]):
            answer = host.container_ask("web", target, seconds=5)[target]
            assert answer is not None, target
            assert answer.startswith("client ")


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_udp_flows_follow_the_port_at_once(host: Host, family: int) -> None:
    """A flow that was tracked before the port was published, or moved, must not keep its old way
    (moby #8795, #53384: what counts is the host's port, here another number than the container's)."""
    front(host)
    for name in ("web", "api"):
        host.serve(name, "--network", "front")
    host.serve("anchor", "--network", "front", "-p", "5353:80/udp")  # connection tracking is in use
    flood = Flood(host.lab.client, "udp", HOST[family], 8053)
    tracked = f"conntrack -f ipv{'46'[family]} -L -p udp --orig-port-dst 8053 2>/dev/null || true"
    eventually("the flow is tracked", lambda: "8053" in host.sh(tracked))
    host.netd("port", "add", "web", "8053:80/udp")
    assert flood.answered_by() == "web"
    host.netd("port", "rm", "web", "8053:80/udp")
    assert "8053" not in "".join(line for line in host.sh(tracked).splitlines() if "sport=80 " in line)
    host.netd("port", "add", "api", "8053:80/udp")
    assert flood.answered_by() == "api"
    host.netd("rm", "-f", "api")
    host.netd("port", "add", "web", "8053:80/udp")
    assert flood.answered_by() == "web"
    flood.end()


def test_ranges(host: Host) -> None:
    front(host)
    ports = [f"tcp:{port}" for port in range(80, 85)]
    host.serve("web", "--network", "front", "-p", "9000-9004:80-84", ports=ports)
    targets = [f"tcp,{address},{port}" for address in (*HOST, "127.0.0.1") for port in range(9000, 9005)]
    assert None not in host.ask(*targets, seconds=5).values()
    lan = [target for target in targets if "127" not in target]
    assert None not in host.lab.client.ask(*lan, seconds=5).values()
    assert len(host.inspect("web")["ports"]) == 5
    host.serve("first-free", "--network", "front", "-p", "9003-9010:80")
    assert [port["host_port"] for port in host.inspect("first-free")["ports"]] == [9005]


def test_a_port_is_chosen_where_none_is_given(host: Host) -> None:
    front(host)
    host.serve("web", "--network", "front", "-p", "80", "-p", "80/udp", "-p", "127.0.0.1::80")
    low, high = map(int, host.sh("sysctl -n net.ipv4.ip_local_port_range").split())
    ports = host.inspect("web")["ports"]
    assert len(ports) == 3
    assert all(low <= port["host_port"] <= high for port in ports)
    (everywhere,) = (port for port in ports if port["proto"] == "tcp" and not port["host_ip"])
    assert host.lab.client.answer(f"tcp,{HOST[0]},{everywhere['host_port']}").startswith("web")
    assert str(everywhere["host_port"]) in host.netd("port", "web")


def test_two_hundred_ports_need_no_process(host: Host) -> None:
    front(host)

    def processes() -> int:
        return int(host.sh("ls -d /proc/[0-9]* | wc -l"))

    before = processes()
    host.serve("web", "--network", "front", "-p", "20000-20199:80-279", ports=["tcp:80", "tcp:279"])
    assert processes() - before < 20, "a container has a handful of processes, however many its ports"
    for port in (20000, 20199):
        for address in HOST:
            assert host.lab.client.answer(f"tcp,{address},{port}").startswith("web")
        assert host.answer(f"tcp,127.0.0.1,{port}").startswith("web")


def test_ports_come_and_go_on_a_running_container(host: Host) -> None:
    front(host)
    host.serve("web", "--network", "front")
    target = f"tcp,{HOST[0]},8080"
    assert host.lab.client.ask(target) == {target: None}
    host.netd("port", "add", "web", "8080:80")
    assert host.lab.client.answer(target) == f"web {CLIENT[0]}"
    assert host.answer("tcp,::1,8080").startswith("web")
    assert "8080" in host.netd("port", "web")
    host.netd("port", "rm", "web", "8080:80")
    assert host.lab.client.ask(target) == {target: None}
    assert host.ask("tcp,127.0.0.1,8080", "tcp,::1,8080") == {
        "tcp,127.0.0.1,8080": None,
        "tcp,::1,8080": None,
    }
    assert "8080" not in host.netd("port", "web")
    assert "8080" in host.refused("port", "rm", "web", "8080:80")


def test_a_port_is_free_again_when_its_container_has_ended(host: Host) -> None:
    front(host)
    for name in ("one", "two", "three"):
        host.serve(name, "--network", "front", "-p", "8080:80")
        assert host.lab.client.answer(f"tcp,{HOST[0]},8080").startswith(name)
        assert host.answer("tcp,127.0.0.1,8080").startswith(name)
        host.netd("rm", "-f", name)
    host.serve("short", "--network", "front", "-p", "8080:80")
    host.netd("stop", "--time", "0", "short")
    host.serve("after", "--network", "front", "-p", "8080:80")
    assert host.lab.client.answer(f"tcp,{HOST[1]},8080").startswith("after")


CONFLICTS = [
    ("8080:80", "8080:80", True),
    ("8080:80", "203.0.113.2:8080:81", True),
    ("203.0.113.2:8080:80", "8080:81", True),
    ("127.0.0.1:8080:80", "8080:80", True),
    ("0.0.0.0:8080:80", "203.0.113.2:8080:80", True),
    ("[::]:8080:80", "[2001:db8:1::2]:8080:80", True),
    ("8000-8100:80", "8000:80", True),
    ("8080:80", "8080:80/udp", False),
    ("127.0.0.1:8080:80", "203.0.113.2:8080:80", False),
    ("0.0.0.0:8080:80", "[::]:8080:80", False),
    ("127.0.0.1:8080:80", "127.0.0.2:8080:80", False),
]


@pytest.fixture(scope="module")
def crowd(shared_host: Host) -> Host:
    front(shared_host)
    for name in ("web", "api"):
        shared_host.serve(name, "--network", "front")
    return shared_host


@pytest.mark.parametrize(("first", "second", "conflict"), CONFLICTS)
def test_a_published_port_is_refused_naming_its_holder(
    crowd: Host, first: str, second: str, conflict: bool
) -> None:
    crowd.netd("port", "add", "web", first)
    try:
        if conflict:
            message = crowd.refused("port", "add", "api", second)
            assert "web" in message
            assert re.search(r"80[08]0", message)
            assert crowd.inspect("api")["ports"] == []
        else:
            crowd.netd("port", "add", "api", second)
    finally:
        for name in ("web", "api"):
            for port in crowd.inspect(name)["ports"]:
                address = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
                spec = f"{port['host_port']}:{port['container_port']}/{port['proto']}"
                crowd.netd("port", "rm", name, f"{address}:{spec}" if address else spec)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_of_another_program_is_refused_naming_the_program(host: Host, kind: str) -> None:
    front(host)
    other = host.talker("serve", "other", f"{kind}:8080")
    message = host.refused(
        "run", "--name", "web", "--network", "front", "-p", f"8080:80/{kind}", "--", "true"
    )
    assert "python3" in message
    assert "8080" in message
    assert host.json("ps", "-a") == []
    end(other)

    def published() -> bool:
        done = host.run(
            NETD, "run", "-d", "--name", "web", "--network", "front", "-p", "8080:80", "--", "sleep", "60"
        )
        return done.returncode == 0

    eventually("the port is free when the program has ended", published)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_port_cannot_be_taken_by_another_program(host: Host, kind: str) -> None:
    front(host)
    host.serve("web", "--network", "front", "-p", f"8080:80/{kind}")
    style = "SOCK_STREAM" if kind == "tcp" else "SOCK_DGRAM"
    for family, address in (("AF_INET", "0.0.0.0"), ("AF_INET", HOST[0]), ("AF_INET6", HOST[1])):
        taking = f"import socket; socket.socket(socket.{family}, socket.{style}).bind(({address!r}, 8080))"
        done = host.run(PYTHON, "-c", taking)
        assert "Address already in use" in done.stderr, (family, address)


def test_a_range_with_one_port_taken_is_refused_whole(host: Host) -> None:
    front(host)
    host.serve("web", "--network", "front", "-p", "9002:80")
    before = host.census()
    spec = "9000-9004:80-84"
    message = host.refused("run", "--name", "api", "--network", "front", "-p", spec, "--", "true")
    assert "9002" in message
    assert "web" in message
    assert host.census() == before
    assert set(host.ask("tcp,127.0.0.1,9000", "tcp,127.0.0.1,9004").values()) == {None}


def test_the_mapping_follows_the_default_route(host: Host) -> None:
    """A container on two networks keeps its port when the one it is published through is taken away."""
    front(host)
    host.netd("network", "create", "back", "--ipv6")
    host.serve("web", "--network", "front", "--network", "back,gw-priority=9", "-p", "8080:80")
    for step in ("both", "front only", "both again"):
        for family in (0, 1):
            answer = host.lab.client.answer(f"tcp,{HOST[family]},8080")
            assert answer == f"web {CLIENT[family]}", step
        if step == "both":
            host.netd("network", "disconnect", "back", "web")
        elif step == "front only":
            host.netd("network", "connect", "back", "web", "--gw-priority", "9")
            assert host.inspect("web")["endpoints"][1]["default_route"] == [4, 6]


def test_a_port_of_an_ipv4_only_network_answers_over_ipv6_too(host: Host) -> None:
    """The kernel cannot translate between the families; the relay can, at the price of the source."""
    host.netd("network", "create", "four")
    host.serve("web", "--network", "four", "-p", "8080:80")
    assert host.lab.client.answer(f"tcp,{HOST[0]},8080") == f"web {CLIENT[0]}"
    gateway = host.network("four")["subnets"][0]["gateway"]
    assert host.lab.client.answer(f"tcp,{HOST[1]},8080") == f"web {gateway}"
    assert host.answer("tcp,::1,8080") == f"web {gateway}"


def test_the_relay_carries_much_and_closes_properly(host: Host, tmp_path: Path) -> None:
    """Loopback traffic passes a user-space relay: bulk both ways, half-close, and no connection left."""
    front(host)
    script = "import socket as s; l = s.create_server(('', 80), family=s.AF_INET6, dualstack_ipv6=True)\n" + (
        "print('ready', flush=True)\n"
        "while True:\n    c, _ = l.accept(); n = 0\n"
        "    while d := c.recv(65536): n += len(d)\n"
        "    c.sendall(b'%d' % n + b'x' * n); c.close()\n"
    )
    host.netd("run", "-d", "--name", "web", "--network", "front", "-p", "8080:80", "--", PYTHON, "-c", script)
    eventually("web serves", lambda: "ready" in host.netd("logs", "web"))
    size = 8_000_000
    asking = (
        f"import socket as s, sys; c = s.create_connection((sys.argv[1], 8080)); c.sendall(b'y' * {size});"
        "c.shutdown(s.SHUT_WR); print(sum(map(len, iter(lambda: c.recv(65536), b''))))"
    )
    for address in ("127.0.0.1", "::1", HOST[0]):
        assert int(host.output(PYTHON, "-c", asking, address)) == size + len(str(size))
    established = "ss -Htn state established '( sport = :8080 or dport = :8080 )'"
    eventually("no connection is left", lambda: host.sh(established) == "")


def test_names_of_what_is_published_survive_in_listings(host: Host) -> None:
    front(host)
    host.serve(
        "web", "--network", "front", "-p", "127.0.0.1:8080:80", "-p", "[::1]:8081:80/udp", "-p", "8082:80"
    )
    ports: list[dict[str, Any]] = host.inspect("web")["ports"]
    assert sorted((port["host_ip"], port["host_port"], port["proto"]) for port in ports) == [
        ("", 8082, "tcp"),
        ("127.0.0.1", 8080, "tcp"),
        ("::1", 8081, "udp"),
    ]
