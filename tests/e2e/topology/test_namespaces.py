"""What a topology does inside the namespaces of its containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.host import NETD, ROOT, Host, eventually

PAIR = """\
name: pair
services:
  a: {networks: {n: {x-netd: {netem: {rate: 2mbit}}}}}
  b: {networks: {n: {ipv4_address: 10.78.0.9}}}
networks: {n: {ipam: {config: [{subnet: 10.78.0.0/24}]}}}
"""


@pytest.fixture
def pair(host: Host) -> Path:
    path = host.lab.directory / "pair.yaml"
    path.write_text(PAIR)
    host.netd("topology", "up", path)
    return path


def answered(host: Host, count: int = 5) -> int:
    """How many of `count` echoes from a to b are answered."""
    ping = ["ping", "-n", "-q", "-i", "0.02", "-W", "0.2", "-c", str(count), "10.78.0.9"]
    done = host.run(NETD, "topology", "exec", "pair", "a", *ping)
    return int(done.stdout.split(" packets transmitted, ")[1].split()[0])


def test_a_link_is_cut_and_mended(host: Host, pair: Path) -> None:
    assert answered(host) == 5
    host.netd("topology", "link", "down", "pair", "a", "n")
    assert answered(host) == 0
    host.netd("topology", "link", "up", pair, "a", "n")
    eventually("all are answered again", lambda: answered(host) == 5)  # ARP asks but once a second
    assert "it is in: n" in host.refused("topology", "link", "down", "pair", "a", "lan")


def test_loss_is_a_share_and_the_files_word_counts_again(host: Host, pair: Path) -> None:
    host.netd("topology", "netem", "pair", "b", "eth0", "--loss", "30%")
    # 100 echoes that each pass twice come back with a chance of 0.49; six standard deviations are 30.
    assert 19 <= answered(host, 100) <= 79
    host.netd("topology", "netem", "pair", "b", "eth0")
    assert answered(host) == 5
    assert "'much'" in host.refused("topology", "netem", "pair", "b", "n", "--loss", "much")


def test_a_loss_in_the_file_is_there_from_the_start_and_an_edit_changes_it(host: Host, pair: Path) -> None:
    before = {each["name"]: each["id"] for each in host.json("ps")}
    pair.write_text(PAIR.replace("rate: 2mbit", "loss: 100%"))
    host.netd("topology", "up", pair)
    assert answered(host) == 0
    pair.write_text(PAIR)
    host.netd("topology", "up", pair)
    eventually("all are answered", lambda: answered(host) == 5)  # ARP asks but once a second
    assert {each["name"]: each["id"] for each in host.json("ps")} == before


def test_a_rate_is_a_bucket_on_the_hosts_side(host: Host, pair: Path) -> None:
    [endpoint] = host.inspect("pair-a-1")["endpoints"]
    assert "rate 2Mbit" in host.output("tc", "qdisc", "show", "dev", endpoint["host_ifname"])


def test_a_delay_is_there_or_refused_before_anything_is_begun(host: Host) -> None:
    path = host.lab.directory / "slow.yaml"
    path.write_text(PAIR.replace("rate: 2mbit", "rate: 2mbit, delay: 20ms"))
    if (
        host.run(
            "unshare", "-n", "tc", *["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]
        ).returncode
        == 0
    ):
        host.netd("topology", "up", path)
        wrote = host.netd("topology", "exec", "pair", "a", "ping", "-n", "-c", "3", "10.78.0.9")
        assert float(wrote.rpartition(" = ")[2].split("/")[0]) >= 40, "20 ms each way"
        host.netd("topology", "down", path)
        return
    before = host.census()
    message = host.refused("topology", "up", path)
    assert "network 'pair_n'" in message
    assert "modprobe sch_netem" in message
    assert host.census() == before
    path.write_text(PAIR)
    host.netd("topology", "up", path)
    assert "modprobe sch_netem" in host.refused("topology", "netem", "pair", "a", "n", "--delay", "20ms")
    host.netd("topology", "netem", "pair", "a", "n")
    assert answered(host) == 5


def test_a_router_forwards_only_behind_its_filter(host: Host) -> None:
    file = ROOT / "topologies" / "router.yaml"
    host.netd("topology", "up", file)
    netns = host.inspect("router-router-1")["netns"]
    listed = host.output("nsenter", f"--net={netns}", "nft", "list", "ruleset")
    assert "policy drop" in listed
    assert 'iifname "office0" oifname "servers0" tcp dport 80 accept' in listed
    done = host.netd("topology", "exec", "router", "router", "cat", "/proc/sys/net/ipv4/ip_forward")
    assert done == "1\n"
    desk = host.netd("topology", "exec", "router", "desk", "cat", "/proc/sys/net/ipv4/ip_forward")
    assert desk == "0\n"


def test_without_leave_to_route_the_packets_of_others_are_dropped(host: Host) -> None:
    """The same file with its router's leave taken away: what it forwards is forged, to the host."""
    text = (ROOT / "topologies" / "router.yaml").read_text()
    plain = text.replace("    x-netd:\n      forward:", "    x-note:\n      forward:")
    path = host.lab.directory / "plain.yaml"
    path.write_text(plain)
    host.netd("topology", "up", path)
    netns = host.inspect("router-router-1")["netns"]
    host.output("nsenter", f"--net={netns}", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    target = host.address("router-web-1")
    done = host.run(NETD, "topology", "exec", "router", "desk", "ping", "-n", "-c", "2", "-W", "1", target)
    assert " 0 received" in done.stdout
