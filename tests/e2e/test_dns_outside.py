"""Names of elsewhere, and answers of every size, asked from inside real containers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.e2e.host import PYTHON, ROUTER, Lab, serving
from tests.e2e.test_dns import Town

SILENT, ALIVE, RELAY = "127.0.0.91", "127.0.0.92", "127.0.0.93"
OWN = "10.77.0.1"
_SLEEPER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
time.sleep(3600)
"""
_RELAY = """
import socket, sys
here, there = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
here.bind((sys.argv[1], 53))
there.connect((sys.argv[2], 53))
print("ready", flush=True)
with open(sys.argv[3], "a", buffering=1) as log:
    while True:
        data, _ = here.recvfrom(4096)
        log.write("relayed\\n")
        there.send(data)
"""


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """A container `asker-NETWORK` on each of these networks, whose DNS servers are:

    plain    the host's, which answers
    halting  one that never answers, and one that does
    dead     one that never answers
    selfish  its own gateway
    round    a relay that asks its gateway
    """
    with Lab() as lab, serving(lab) as host:
        made = Town(host)
        made.upstream(ROUTER[0], 1)
        made.upstream(ALIVE, 92)
        relayed = lab.directory / "relayed"
        relayed.touch()
        for script in ([_SLEEPER, SILENT], [_RELAY, RELAY, "10.77.1.1", str(relayed)]):
            process = host.spawn(PYTHON, "-IS", "-c", *script)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        many = [word for number in range(1, 101) for word in ("--add-host", f"many:192.0.2.{number}")]
        for network, *flags in (
            ["plain"],
            ["halting", "--dns", SILENT, "--dns", ALIVE],
            ["dead", "--dns", SILENT],
            ["selfish", "--subnet", "10.77.0.0/24", "--dns", OWN],
            ["round", "--subnet", "10.77.1.0/24", "--dns", RELAY],
        ):
            host.netd("network", "create", network, *flags)
            made.run(f"asker-{network}", "--network", network, *many)
        yield made


def dig(town: Town, container: str, *arguments: str) -> str:
    return town.host.netd("exec", container, "--", "dig", "+tries=1", "+time=10", *arguments)


@pytest.mark.parametrize("name", ["many", "big.example.com"])
@pytest.mark.parametrize(
    ("edns", "most"), [(None, 512), (100, 512), (513, 513), (1000, 1000), (1232, 1232), (4096, 1232)]
)
def test_over_udp_an_answer_is_as_long_as_the_client_takes(
    town: Town, name: str, edns: int | None, most: int
) -> None:
    (answer,) = town.ask("asker-plain", {"name": name, "edns": edns})
    assert "TC" in answer["flags"]
    assert answer["size"] <= most
    if name == "many":
        assert answer["size"] > most - 40, "as much as fits"
        assert set(answer["records"]) < set(town.told("asker-plain", name, tcp=True))


@pytest.mark.parametrize("name", ["many", "big.example.com"])
def test_a_client_that_comes_back_over_tcp_hears_everything(town: Town, name: str) -> None:
    assert len(dig(town, "asker-plain", "+short", name).split()) == 100


def test_several_questions_on_one_connection(town: Town) -> None:
    names = ["many", "asker-plain", "a.example.com", "nobody"]
    wrote = dig(town, "asker-plain", "+tcp", "+keepopen", *names)
    assert re.findall("status: ([A-Z]+)", wrote) == ["NOERROR", "NOERROR", "NOERROR", "NXDOMAIN"]


def test_spelling_and_edns_are_passed_on(town: Town) -> None:
    town.ask("asker-plain", "sPeLLed.Example.COM", {"name": "extended.example.com", "edns": 4096})
    asked = town.asked()
    assert "sPeLLed.Example.COM 1" in asked
    assert "extended.example.com 1 edns" in asked


def test_a_server_that_never_answers_is_passed_over(town: Town) -> None:
    assert dig(town, "asker-halting", "+short", "b.example.com").split() == ["192.0.2.92"]


def test_when_no_server_answers_it_is_servfail(town: Town) -> None:
    assert "status: SERVFAIL" in dig(town, "asker-dead", "c.example.com")
    assert town.told("asker-dead", "asker-dead") == [town.host.address("asker-dead")]


def test_a_server_never_asks_itself(town: Town) -> None:
    assert "status: SERVFAIL" in dig(town, "asker-selfish", "d.example.com")
    assert "status: SERVFAIL" in dig(town, "asker-round", "e.example.com")
    # The question and the one that finds the circle out go round once, and may be repeated once.
    relayed = (town.host.lab.directory / "relayed").read_text().splitlines()
    assert 1 <= len(relayed) <= 6
    assert f"DNS server {RELAY} forwards to netd" in town.host.log.read_text()
    assert "status: SERVFAIL" in dig(town, "asker-round", "f.example.com")
    assert len((town.host.lab.directory / "relayed").read_text().splitlines()) == len(relayed)
