"""`netd capture` as a person types it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP
from scapy.utils import PcapNgReader

from tests.e2e.host import NETD, Host, inside


@pytest.fixture
def pair(host: Host) -> Host:
    host.netd("network", "create", "front")
    for name in ("web", "api"):
        host.netd("run", "-d", "--name", name, "--network", "front", "--", "sleep", "1000")
    return host


def begin(host: Host, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start `netd capture` and return when it records."""
    process = host.spawn(NETD, "capture", *arguments, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("recording "), line + process.stderr.read()
    return process


def ping(host: Host, count: int = 1) -> None:
    host.netd("exec", "web", "--", "ping", "-qc", str(count), "-i", "0.01", host.address("api"))


def test_a_file_with_a_block_for_each_point(pair: Host) -> None:
    path = pair.lab.directory / "it.pcapng"
    process = begin(pair, "web:eth0,network:front", "-w", path, "icmp", "and", "icmp[0]", "=", "8")
    ping(pair, 3)
    _, complaint = ended(process)
    assert complaint == "6 packets recorded, 0 lost\n"
    with PcapNgReader(str(path)) as reader:
        packets = list(reader)
    assert [packet.sniffed_on for packet in packets].count("web:eth0") == 3
    assert {packet.sniffed_on for packet in packets} == {"web:eth0", "network:front"}
    assert {packet[ICMP].type for packet in packets} == {8}
    assert path.read_bytes().count(b"netd ") == 1


def test_lines_as_they_happen_and_an_end_by_count(pair: Host) -> None:
    process = begin(pair, "web", "-c", "2", "icmp")
    ping(pair)
    output, complaint = process.communicate(timeout=30)
    assert process.returncode == 0
    web, api = pair.address("web"), pair.address("api")
    first, second = output.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{6}} web:eth0 > {web} {api} icmp type 8 code 0 98 bytes", first)
    assert f"web:eth0 < {api} {web} icmp type 0" in second
    assert complaint == "2 packets recorded, 0 lost\n"


def test_a_reader_that_leaves_ends_it(pair: Host) -> None:
    process = pair.spawn("sh", "-c", f"{NETD} capture web -w -; echo exit $? >&2", stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline().startswith("recording ")
    process.stdout.close()
    ping(pair, 3)
    assert process.stderr.read().endswith("recorded, 0 lost\nexit 141\n")
    process.wait(30)


def test_refusals(pair: Host) -> None:
    assert "'nobody' does not exist" in pair.refused("capture", "nobody")
    assert "filter 'tcp prot 80'" in pair.refused("capture", "web", "tcp", "prot", "80")
    assert "cannot write '/nowhere/x'" in pair.refused("capture", "web", "-w", "/nowhere/x")
    assert "must be CONTAINER" in pair.refused("capture", "web:")


def test_the_captured_container_may_go(pair: Host) -> None:
    process = begin(pair, "web", "icmp")
    ping(pair)
    pair.netd("rm", "-f", "web")
    output, complaint = ended(process)
    assert len(output.splitlines()) == 2
    assert complaint == "2 packets recorded, 0 lost\n"


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Ctrl-C; what it wrote."""
    os.kill(inside(process), signal.SIGINT)
    output, complaint = process.communicate(timeout=30)
    assert process.returncode == 0
    return output, complaint
