"""Names, asked with dnspython, dig and the C library from inside real containers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import pytest

from tests.e2e.host import HOST, PYTHON, ROUTER, Host, Lab, eventually, serving

HERE = Path(__file__).parent
ORACLE = Path(dns.message.__file__).parent
FLAGS = ("-v", f"{ORACLE}:/oracle/dns:ro", "-v", f"{HERE / 'dns_ask.py'}:/ask.py:ro")


class Town:
    """The host, its containers, and the world's DNS servers on the router."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.log = host.lab.directory / "asked"
        self.log.touch()

    def upstream(self, address: str, mark: int) -> None:
        """Start a server on the router, or on the host if the address is the host's loopback."""
        node = self.host if address.startswith("127.") else self.host.lab.router
        process = node.spawn(PYTHON, "-IS", HERE / "dns_upstream.py", address, str(mark), self.log)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def run(self, name: str, *flags: str) -> str:
        """A container that can ask."""
        return self.host.netd("run", "-d", "--name", name, *flags, *FLAGS, "--", "sleep", "3600").strip()

    def ask(self, container: str, *questions: dict[str, Any] | str) -> list[dict[str, Any]]:
        """All answers to all questions of one container."""
        whole = [{"name": q} if isinstance(q, str) else q for q in questions]
        command = ["exec", "-i", container, "--", PYTHON, "-I", "/ask.py"]
        answers: list[dict[str, Any]] = json.loads(self.host.netd(*command, input=json.dumps(whole)))
        return answers

    def told(self, container: str, name: str, rtype: str = "A", **more: Any) -> list[str]:
        """The data of the records."""
        (answer,) = self.ask(container, {"name": name, "type": rtype, **more})
        assert answer["rcode"] == "NOERROR", answer
        records: list[str] = answer["records"]
        return records

    def rcode(self, container: str, name: str, rtype: str = "A", **more: Any) -> str:
        (answer,) = self.ask(container, {"name": name, "type": rtype, **more})
        return str(answer.get("rcode") or answer["error"])

    def asked(self) -> list[str]:
        """What the world has been asked so far."""
        return self.log.read_text().splitlines()

    def addresses(self, container: str, network: str = "") -> tuple[str, str]:
        return self.host.address(container, network), self.host.address(container, network, 6)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """front and back (both families), cage (internal); web, api, db, hermit.

    web    front            alias www and *.app, hostname shop, publishes 8080:80, exposes 514/udp
    api    front and back   alias backend
    db     back             alias backend
    hermit cage
    """
    with Lab() as lab, serving(lab) as host:
        made = Town(host)
        made.upstream(ROUTER[0], 1)
        for name, *flags in (["front"], ["back"], ["cage", "--internal"]):
            host.netd("network", "create", name, "--ipv6", *flags)
        made.run(
            "web",
            "--network",
            "front,alias=www,alias=*.app",
            "-h",
            "shop",
            "-p",
            "8080:80",
            "--expose",
            "514/udp",
        )
        made.run("api", "--network", "front,alias=backend", "--network", "back,alias=backend")
        made.run("db", "--network", "back,alias=backend")
        made.run("hermit", "--network", "cage")
        yield made


def test_resolv_conf_names_the_gateways(town: Town) -> None:
    subnets = {name: [s["gateway"] for s in town.host.network(name)["subnets"]] for name in ("front", "back")}
    text = town.host.netd("exec", "web", "--", "cat", "/etc/resolv.conf")
    assert text.splitlines() == [
        *(f"nameserver {g}" for g in subnets["front"]),
        "search front",
        "options ndots:0",
    ]
    text = town.host.netd("exec", "api", "--", "cat", "/etc/resolv.conf")
    assert "search" not in text
    assert all(gateway in text for gateways in subnets.values() for gateway in gateways)


def test_every_kind_of_name_with_and_without_its_network(town: Town) -> None:
    id = town.host.inspect("web")["id"]
    four, six = town.addresses("web")
    names = ["web", "www", "shop", id[:12], "x.app", "x.y.app"]
    names += [f"{name}.front" for name in names]
    questions = [{"name": name, "type": rtype} for name in [*names, "WeB.fRONT"] for rtype in ("A", "AAAA")]
    for question, answer in zip(questions, town.ask("api", *questions), strict=True):
        assert answer["records"] == [four if question["type"] == "A" else six], question
        assert answer["question"] == f"{question['name']}.", "the question's case is echoed"
        assert answer["ttl"] <= 5
        assert {"QR", "AA", "RA"} <= set(answer["flags"])


def test_an_alias_of_several_answers_with_all_in_turn(town: Town) -> None:
    both = sorted([town.host.address("api", "back"), town.host.address("db")])
    assert town.told("db", "backend") == both
    heads = [town.host.netd("exec", "db", "--", "dig", "+short", "backend").split()[0] for _ in range(4)]
    assert set(heads) == set(both)
    assert town.told("web", "backend") == [town.host.address("api", "front")]


def test_pointers_of_both_families(town: Town) -> None:
    for address in town.addresses("web"):
        wrote = town.host.netd("exec", "api", "--", "dig", "+short", "-x", address)
        assert wrote == "web.front.\n"


def test_services_of_published_and_exposed_ports(town: Town) -> None:
    assert town.told("api", "_80._tcp.web", "SRV") == ["0 0 80 web.front."]
    assert town.told("api", "_514._udp.web.front", "SRV") == ["0 0 514 web.front."]
    assert town.told("api", "_80._tcp.x.app", "SRV") == ["0 0 80 web.front."]
    assert town.rcode("api", "_8080._tcp.web", "SRV") == "NXDOMAIN"


def test_any_is_minimal(town: Town) -> None:
    assert town.told("api", "web", "ANY") == [town.host.address("web")]


def test_the_c_library_finds_names(town: Town) -> None:
    four, six = town.addresses("api", "front")
    wrote = town.host.netd("exec", "web", "--", "getent", "ahosts", "api")
    assert {line.split()[0] for line in wrote.splitlines()} == {four, six}
    wrote = town.host.netd("exec", "web", "--", "getent", "hosts", four)
    assert "api.front" in wrote


def test_udp_and_tcp_on_the_gateways_of_both_families(town: Town) -> None:
    gateways = [subnet["gateway"] for subnet in town.host.network("front")["subnets"]]
    assert len(gateways) == 2
    questions = [{"name": "api", "server": g, "tcp": tcp} for g in gateways for tcp in (False, True)]
    for answer in town.ask("web", *questions):
        assert answer["records"] == [town.host.address("api", "front")]


def test_networks_keep_their_names_to_themselves(town: Town) -> None:
    assert town.rcode("web", "db") == "NXDOMAIN"
    assert town.rcode("db", "web") == "NXDOMAIN"
    assert town.rcode("hermit", "web") == "NXDOMAIN"
    for asker, name in (
        ("web", "db.back"),
        ("web", "nobody.back"),
        ("db", "web.front"),
        ("hermit", "web.front"),
    ):
        assert town.rcode(asker, name) == "NXDOMAIN"
    assert not [line for line in town.asked() if line.split()[0].endswith(("back", "front"))]
    assert town.told("api", "db") == [town.host.address("db")]
    assert town.told("api", "web") == [town.host.address("web")]
    back = town.host.network("back")["subnets"][0]["gateway"]
    # At another network's gateway: no answer, or a refusal, but never the name.
    assert town.rcode("web", "db", server=back) in ("REFUSED", "Timeout", "ConnectionRefusedError")


def test_nothing_of_netds_is_ever_asked_outside(town: Town) -> None:
    names = ["api", "api.front", "www", "x.app", "nobody", "nobody.front", "_80._tcp.web", "_9._tcp.web"]
    names += ["_80._tcp.nobody"]
    types = ["A", "AAAA", "MX", "TXT", "HTTPS", "SVCB", "NS", "SOA", "CAA", "DS", "PTR", "SRV", "ANY"]
    questions = [{"name": name, "type": rtype} for name in names for rtype in types]
    for question, answer in zip(questions, town.ask("web", *questions), strict=True):
        missing = question["name"].endswith(("nobody", "nobody.front", "_9._tcp.web"))
        assert answer["rcode"] == ("NXDOMAIN" if missing else "NOERROR"), question
        assert answer["records"] or answer["authority"] == ["SOA"], question
    asked = [line.split()[0] for line in town.asked()]
    leaked = [name for name in asked if "." not in name or name.endswith(("front", "app", "web", "nobody"))]
    assert not leaked


def test_names_of_elsewhere_are_forwarded_and_kept(town: Town) -> None:
    assert town.told("web", "a.example.com") == ["192.0.2.1"]
    count = len(town.asked())
    assert town.told("api", "A.example.com", tcp=True) in (["192.0.2.1"],)
    assert len(town.asked()) <= count + 1, "api's networks may forward elsewhere, but ask once"
    assert town.told("web", "a.example.com") == ["192.0.2.1"]


def test_an_internal_network_hears_nothing_from_outside(town: Town) -> None:
    before = len(town.asked())
    assert town.rcode("hermit", "secret.example.com") == "REFUSED"
    assert town.rcode("hermit", "secret.example.com", "TXT", tcp=True) == "REFUSED"
    assert town.told("hermit", "hermit") == [town.host.address("hermit")]
    assert len(town.asked()) == before
    town.host.netd("network", "connect", "front", "hermit")
    assert town.told("hermit", "public.example.com") == ["192.0.2.1"]
    town.host.netd("network", "disconnect", "front", "hermit")
    assert town.rcode("hermit", "again.example.com") == "REFUSED"


def test_dns_of_a_network_and_of_a_container(town: Town) -> None:
    town.upstream("127.0.0.77", 77)
    town.upstream("127.0.0.78", 78)
    town.host.netd("network", "create", "special", "--dns", "127.0.0.77")
    town.run("guest", "--network", "special")
    town.run("picky", "--network", "special", "--dns", "127.0.0.78")
    assert town.told("guest", "b.example.com") == ["192.0.2.77"]
    assert town.told("picky", "b.example.com") == ["192.0.2.78"]
    town.host.netd("rm", "-f", "guest", "picky")
    town.host.netd("network", "rm", "special")


def test_the_hosts_resolv_conf_is_followed(town: Town) -> None:
    town.upstream("127.0.0.53", 53)  # as systemd-resolved has it
    assert town.told("web", "c1.example.com") == ["192.0.2.1"]
    town.host.sh("echo nameserver 127.0.0.53 > /run/resolv.conf")
    numbers = iter(range(1000))
    eventually(
        "the new server is used",
        lambda: town.told("web", f"d{next(numbers)}.example.com") == ["192.0.2.53"],
    )
    town.host.sh(f"echo nameserver {ROUTER[0]} > /run/resolv.conf")
    eventually(
        "the old one is used again",
        lambda: town.told("web", f"e{next(numbers)}.example.com") == ["192.0.2.1"],
    )


def test_extra_hosts_are_the_containers_own(town: Town) -> None:
    extra = ["oracle:192.0.2.200", "api:192.0.2.201", "oracle:2001:db8::200"]
    town.run("dave", "--network", "front", *(word for text in extra for word in ("--add-host", text)))
    assert town.told("dave", "oracle") == ["192.0.2.200"]
    assert town.told("dave", "oracle", "AAAA") == ["2001:db8::200"]
    assert town.told("dave", "api") == ["192.0.2.201"]
    assert town.rcode("web", "oracle") == "NXDOMAIN"
    town.host.netd("rm", "-f", "dave")


def test_names_are_there_when_run_returns_and_gone_when_the_container_is(town: Town) -> None:
    for number in range(3):
        town.run("fleeting", "--network", f"front,alias=f{number}")
        address = [town.host.address("fleeting")]
        assert town.told("web", "fleeting") == address
        assert town.told("web", f"f{number}") == address
        if number:
            town.host.netd("rm", "-f", "fleeting")
        else:
            town.host.netd("stop", "-t", "0", "fleeting")
        assert town.rcode("web", "fleeting") == "NXDOMAIN"
        assert town.rcode("web", f"f{number}") == "NXDOMAIN"
        if not number:
            town.host.netd("rm", "fleeting")


def test_connect_and_disconnect_are_in_force_at_once(town: Town) -> None:
    for _ in range(3):
        town.host.netd("network", "connect", "back", "web")
        assert town.told("db", "web") == [town.host.address("web", "back")]
        assert town.told("web", "db") == [town.host.address("db")]
        town.host.netd("network", "disconnect", "back", "web")
        assert town.rcode("db", "web") == "NXDOMAIN"
        assert town.rcode("web", "db") == "NXDOMAIN"


def test_a_rename_is_in_force_at_once(town: Town) -> None:
    id = town.run("moving", "--network", "front,alias=stays", "--network", "back")
    four, six = town.addresses("moving", "front")
    back = town.host.address("moving", "back")
    assert sorted(town.told("api", "moving")) == sorted([four, back])
    assert town.host.netd("rename", "moving", "moved").strip() == "moved"
    for name in ("moved", "stays", id[:12]):
        assert four in town.told("api", name), "the aliases and the host name stay"
    assert town.told("api", "moved.front", "AAAA") == [six]
    assert town.told("db", "moved") == [back]
    for name in ("moving", "moving.front", "moving.back"):
        assert town.rcode("api", name) == "NXDOMAIN"
    pointer = ".".join(reversed(four.split("."))) + ".in-addr.arpa"
    assert town.told("web", pointer, "PTR") == ["moved.front."]
    dug = town.host.netd("exec", "web", "--", "dig", "+short", "moved")
    assert dug.split() == [four]
    inside = town.host.netd("exec", "moved", "--", "cat", "/etc/hosts", "/etc/hostname")
    assert f"{four}\t{id[:12]} moved\n" in inside
    assert "moving" not in inside
    links = town.host.sh("ip link show")
    assert "moved@back" in links
    assert "moved.eth0@front" in links
    assert "moving@" not in links
    assert "moving.eth" not in links
    assert "'web' is taken" in town.host.refused("rename", "moved", "web")

    # The old name is free for somebody else, with the namespace of the first one still there.
    town.run("moving", "--network", "front")
    assert town.told("api", "moving") == [town.host.address("moving")]
    town.host.kill()
    town.host.start()
    assert town.told("web", "moved") == [four]
    town.host.netd("rm", "-f", "moved", "moving")
    assert {town.rcode("api", name) for name in ("moved", "moving")} == {"NXDOMAIN"}


def test_the_host_and_containers_on_its_network_may_ask_too(town: Town) -> None:
    gateways = [subnet["gateway"] for subnet in town.host.network("front")["subnets"]]
    for gateway in gateways:
        assert town.host.output("dig", "+short", f"@{gateway}", "web").strip() == town.host.address("web")
    assert town.host.output("dig", "+short", "-b", "203.0.113.2", f"@{gateways[0]}", "web").strip()
    town.run("roommate", "--network", "host")
    assert town.told("roommate", "web", server=gateways[0]) == [town.host.address("web")]
    assert town.rcode("roommate", "db", server=gateways[0]) == "NXDOMAIN"
    town.host.netd("rm", "-f", "roommate")


def test_a_stranger_whose_packets_are_routed_here_is_no_client(town: Town) -> None:
    gateway = town.host.network("front")["subnets"][0]["gateway"]
    client = town.host.lab.client
    client.sh(f"ip route add {gateway}/32 via 203.0.113.2")
    done = client.run("dig", "+time=1", "+tries=1", f"@{gateway}", "web")
    client.sh(f"ip route del {gateway}/32")
    assert "REFUSED" in done.stdout or "timed out" in done.stdout, done.stdout


def test_lookup_and_dump_say_what_and_why(town: Town) -> None:
    four, six = town.addresses("web")
    wrote = town.host.netd("dns", "lookup", "web", "--from", "api")
    assert wrote.splitlines() == [
        f"web 5 A {four}",
        f"web 5 AAAA {six}",
        "web is a container: web on network front; sees front, back",
    ]
    wrote = town.host.netd("dns", "lookup", "e.example.com", "--from", "hermit", "--type", "A")
    assert wrote.splitlines()[0] == "A: REFUSED"
    assert "internal" in wrote
    wrote = town.host.netd("dns", "lookup", "f.example.com", "--from", "web", "--type", "A")
    assert "192.0.2.1" in wrote
    assert f"forwarded to {ROUTER[0]}" in wrote
    rows = {
        (row["network"], row["name"], row["address"], row["container"])
        for row in town.host.json("dns", "dump")
    }
    assert {("front", "*.app", four, "web"), ("back", "db.back", town.host.address("db"), "db")} <= rows
    assert "netd_dns_answers_total" in town.host.netd("dns", "metrics")
    assert "'nobody'" in town.host.refused("dns", "lookup", "web", "--from", "nobody")


def test_names_resolve_while_the_daemon_is_away(lab: Lab) -> None:
    with serving(lab) as host:
        town = Town(host)
        host.netd("network", "create", "front")
        town.run("web", "--network", "front")
        gateway = host.network("front")["subnets"][0]["gateway"]
        address = host.address("web")
        dig = ["dig", "+short", "+tries=1", "+time=2", f"@{gateway}", "web"]
        for end in (host.stop, host.kill):
            end()
            assert host.output(*dig).strip() == address
            asked = host.spawn("sh", "-c", f"for i in $(seq 200); do {' '.join(dig)} || echo lost; done")
            host.start()
            output, _ = asked.communicate(timeout=60)
            assert set(output.split()) == {address}, "no question may be lost while the daemon starts"
            town.run("new", "--network", "front")
            assert town.told("web", "new") == [host.address("new")]
            host.netd("rm", "-f", "new")
            assert town.rcode("web", "new") == "NXDOMAIN"


def test_a_server_that_dies_is_back(lab: Lab) -> None:
    with serving(lab) as host:
        town = Town(host)
        host.netd("network", "create", "front")
        town.run("web", "--network", "front")
        gateway = host.network("front")["subnets"][0]["gateway"]
        pid = host.sh("cat /run/netd/dns.pid").strip()
        host.sh(f"kill -9 {pid}")
        began = time.monotonic()
        wrote = host.output("dig", "+short", "+tries=1", "+time=2", f"@{gateway}", "web")
        assert wrote.strip() == host.address("web")
        assert time.monotonic() - began < 1.0
        eventually("another server runs", lambda: host.sh("cat /run/netd/dns.pid").strip() != pid)


def test_no_network_no_names(lab: Lab) -> None:
    with serving(lab) as host:
        host.netd("run", "-d", "--name", "alone", "--network", "none", "--", "sleep", "60")
        assert "on no network" in host.refused("dns", "lookup", "web", "--from", "alone")


def test_a_container_that_publishes_port_53_keeps_nobody_from_names(town: Town) -> None:
    complaint = town.host.refused("run", "-d", "--network", "front", "-p", "53:53/udp", "--", "sleep", "9")
    assert "port *:53/udp is in use by" in complaint
    assert "netd's own DNS" in complaint
    ports = [word for address in (HOST[0], f"[{HOST[1]}]") for word in ("-p", f"{address}:53:53/udp")]
    town.host.serve("server", "--network", "front", *ports, ports=("udp:53",))
    for address in HOST:
        assert town.host.lab.client.answer(f"udp,{address},53").startswith("server ")
    assert town.told("web", "api.front") == [town.host.address("api", "front")]
    town.host.netd("rm", "-f", "server")
