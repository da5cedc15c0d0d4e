"""Bringing topologies up, changing them and taking them down, with the real daemon."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.host import Flood, Host

SHOP = """\
name: shop
services:
  web:
    command: /usr/bin/python3 -IS /wire.py serve web tcp:80 udp:80
    volumes: [WIRE:/wire.py:ro, data:/data]
    networks: {front: {aliases: [www]}, back: }
    ports: ["8080:80"]
    healthcheck: {test: [CMD, /usr/bin/python3, -IS, /wire.py, ask, "1", "tcp,127.0.0.1,80"]}
  db:
    depends_on: {web: {condition: service_healthy}}
    networks: [back]
networks: {front: , back: {internal: true}}
volumes: {data: }
"""
JOB = """\
services:
  a: {command: 'true'}
  b: {depends_on: {a: {condition: service_completed_successfully}}}
"""


def written(host: Host, text: str, name: str = "shop.yaml") -> Path:
    path = host.lab.directory / name
    path.write_text(text.replace("WIRE", str(Path(__file__).parents[1] / "wire.py")))
    return path


def topology(host: Host, *arguments: str | Path) -> str:
    return host.netd("topology", *arguments)


def ids(host: Host) -> dict[str, str]:
    return {each["name"]: each["id"] for each in host.json("ps", "-a")}


def test_up_again_edited_and_down(host: Host) -> None:
    path = written(host, SHOP)
    topology(host, "up", path)
    assert host.lab.client.answer("tcp,203.0.113.2,8080").startswith("web")
    assert topology(host, "up", path, "--dry-run") == ""
    before = ids(host)
    assert before.keys() == {"shop-web-1", "shop-db-1"}

    flood = Flood(host.lab.client, "tcp", "203.0.113.2", 8080)
    edited = SHOP.replace("networks: [back]", "networks: [front, back]")
    written(host, edited.replace('["8080:80"]', '["8080:80", "9090:80"]'))
    topology(host, "up", path)
    flood.end_unharmed()
    assert ids(host) == before, "nothing had to be made anew"
    assert host.lab.client.answer("tcp,203.0.113.2,9090").startswith("web")
    assert {e["network"] for e in host.inspect("shop-db-1")["endpoints"]} == {"shop_front", "shop_back"}

    topology(host, "down", path, "--volumes")
    assert host.json("ps", "-a") == []
    assert host.json("network", "ls") == []


LAN = """\
name: lan
services:
  early: {networks: [lan], scale: 1}
  late:
    depends_on: {early: {condition: service_started}}
    networks: {lan: {ipv4_address: 10.77.0.2, ipv6_address: "fd77::2"}}
networks: {lan: {ipam: {config: [{subnet: 10.77.0.0/24}, {subnet: "fd77::/64"}]}}}
"""


def lan_of(host: Host, name: str) -> set[str]:
    (endpoint,) = host.inspect(name)["endpoints"]
    return {address.partition("/")[0] for address in endpoint["addresses"]}


def test_an_address_of_the_file_is_there_for_whom_it_was_given(host: Host) -> None:
    """However late he starts, and though others get theirs before: at first, by scale, after an edit."""
    path = written(host, LAN)
    topology(host, "up", path)
    assert lan_of(host, "lan-late-1") == {"10.77.0.2", "fd77::2"}
    assert lan_of(host, "lan-early-1") == {"10.77.0.3", "fd77::3"}

    text = LAN.replace("scale: 1", "scale: 4")
    later = """\
  later: {depends_on: [late], networks: {lan: {ipv4_address: 10.77.0.3, ipv6_address: "fd77::5"}}}
networks"""
    path = written(host, text.replace("networks: {lan: {ipam", later + ": {lan: {ipam"))
    before = ids(host)
    topology(host, "up", path)
    assert lan_of(host, "lan-later-1") == {"10.77.0.3", "fd77::5"}
    promised = {"10.77.0.2", "10.77.0.3", "fd77::2", "fd77::5"}
    for n in range(1, 5):
        assert lan_of(host, f"lan-early-{n}").isdisjoint(promised)
    assert ids(host).items() >= before.items(), "who gave way was not made anew"
    assert topology(host, "up", path, "--dry-run") == ""
    topology(host, "down", path)


def test_two_projects_of_one_file(host: Host) -> None:
    path = written(host, SHOP.replace('["8080:80"]', '["80"]'))
    for name in ("one", "two"):
        topology(host, "up", path, "-p", name)
    assert len(host.json("ps")) == 4
    asked = topology(
        host,
        "exec",
        "one",
        "web",
        "--",
        "/usr/bin/python3",
        "-c",
        "import socket; print(socket.gethostbyname('db'))",
    )
    assert asked.strip() == host.address("one-db-1", "one_back")
    topology(host, "down", path, "-p", "one", "-v")
    assert {each["project"] for each in json.loads(topology(host, "ps", "--json"))} == {"two"}
    topology(host, "down", path, "-p", "two", "-v")


def test_a_failure_leaves_nothing(host: Host) -> None:
    before = host.census()
    sick = SHOP.replace(
        'test: [CMD, /usr/bin/python3, -IS, /wire.py, ask, "1", "tcp,127.0.0.1,80"]',
        "interval: 50ms, test: 'echo sick; false'",
    )
    message = host.refused("topology", "up", written(host, sick), "-q")
    assert "'shop-web-1' is not healthy" in message
    assert "sick" in message
    assert host.json("ps", "-a") == []
    assert host.census() == before


def test_a_service_that_ends_is_told_with_its_last_words(host: Host) -> None:
    text = JOB.replace("'true'", "[sh, -c, 'echo no luck; exit 3']")
    message = host.refused("topology", "up", written(host, text), "-q")
    assert "'shop-a-1' has ended with exit code 3: no luck" in message
    assert host.json("ps", "-a") == []


def test_a_failed_replacement_says_what_is_gone(host: Host) -> None:
    text = "services: {a: {command: sleep 100}}"
    path = written(host, text)
    topology(host, "up", path)
    written(host, text.replace("sleep", "nothing-of-this-name"))
    message = host.refused("topology", "up", path, "-q")
    assert "nothing-of-this-name" in message
    assert "removed: shop-a-1" in message
    written(host, text)
    topology(host, "up", path)
    assert [each["name"] for each in host.json("ps")] == ["shop-a-1"]
    topology(host, "down", path)


def test_a_job_runs_once(host: Host) -> None:
    path = written(host, JOB)
    topology(host, "up", path)
    first = ids(host)
    topology(host, "up", path)
    assert ids(host) == first
    topology(host, "down", path)
