"""`netd topology netem`, `capture` and `trace` as a person types them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.e2e.host import NETD, Host, inside

PAIR = """\
name: pair
services:
  a: {networks: {n: {x-netd: {netem: {rate: 2mbit}}}}}
  b: {networks: [n]}
networks: {n: {enable_ipv6: true}}
x-netd: {capture: [{on: "b:eth0", filter: icmp}, {on: "network:n", filter: icmp6}]}
"""


@pytest.fixture
def pair(host: Host) -> Path:
    path = host.lab.directory / "pair.yaml"
    path.write_text(PAIR)
    host.netd("topology", "up", path)
    return path


def rates(host: Host) -> list[str]:
    return [
        line.split("rate ")[1].split()[0] for line in host.output("tc", "qdisc").splitlines() if "tbf" in line
    ]


def test_a_rate_changes_while_packets_pass_and_the_files_word_counts_again(host: Host, pair: Path) -> None:
    assert rates(host) == ["2Mbit", "2Mbit"]
    host.netd("topology", "netem", "pair", "a", "n", "--rate", "5mbit")
    assert rates(host) == ["5Mbit", "5Mbit"]
    host.netd("topology", "netem", "pair", "a", "n", "--loss", "0%")
    assert rates(host) == ["5Mbit", "5Mbit"], "only what is named changes"
    host.restart()
    assert rates(host) == ["5Mbit", "5Mbit"]
    assert host.netd("topology", "up", pair, "--dry-run") == "adjust container pair-a-1 in pair_n\n"
    host.netd("topology", "netem", "pair", "a", "n")
    assert rates(host) == ["2Mbit", "2Mbit"]
    host.netd("topology", "netem", "pair", "b", "n", "--rate", "64kbit")
    host.netd("topology", "netem", "pair", "b", "n", "--rate", "0")
    assert rates(host) == ["2Mbit", "2Mbit"]
    assert "'fast'" in host.refused("topology", "netem", "pair", "a", "n", "--rate", "fast")


def test_capture_records_the_points_of_the_file(host: Host, pair: Path) -> None:
    file = host.lab.directory / "seen.pcapng"
    with (host.lab.directory / "said").open("w+") as said:
        recorder = host.spawn(NETD, "topology", "capture", pair, "-w", file, stderr=said)
        while "Ctrl-C" not in Path(said.name).read_text():
            assert recorder.poll() is None
        b = {family: host.address("pair-b-1", family=family) for family in (4, 6)}
        for address in b.values():
            host.netd("topology", "exec", "pair", "a", "ping", "-n", "-c", "1", address)
        os.kill(inside(recorder), signal.SIGINT)
        assert recorder.wait(30) == 0
    text = Path(said.name).read_text()
    assert text.startswith("recording b:eth0, network:n;")
    assert ", 0 lost" in text
    data = file.read_bytes()
    assert b"b:eth0" in data
    assert b"network:n" in data


def test_trace_names_what_the_file_names(host: Host, pair: Path) -> None:
    assert host.netd("topology", "trace", pair, "a", "tcp", "b", "80").splitlines()[-1].startswith("verdict")
    for family in ("", "-6"):
        told = json.loads(host.netd("topology", "trace", pair, "a", "icmp", "b", "--json", *family.split()))
        assert {step["iif"] for step in told["steps"]} >= {"a:eth0"}
        assert told["route"][0] == "a:eth0"
    assert "needs a PORT" in host.refused("topology", "trace", pair, "a", "tcp", "b", status=2)
    assert "c" in host.refused("topology", "trace", pair, "a", "icmp", "c")
