"""The census must see what could be left behind, or every test that relies on it proves nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from netd import names
from netd.testing import census

Shell = Callable[[str], str]


def count(*directories: Path) -> census.Census:
    """A census of what is this test's alone: the machine is full of other processes."""
    return census.take(*directories, processes_below=os.getpid(), descriptors_of=os.getpid())


@pytest.mark.parametrize(
    ("leave", "undo", "seen"),
    [
        ("ip link add left type bridge", "ip link del left", "+ link left bridge"),
        ("ip address add 10.1.1.1/24 dev lo", "ip address del 10.1.1.1/24 dev lo", "+ address 10.1.1.1/24"),
        ("ip -6 address add fd00::9 dev lo", "ip -6 address del fd00::9 dev lo", "+ address fd00::9/128"),
        ("ip route add 10.1.0.0/16 dev lo", "ip route del 10.1.0.0/16", '"10.1.0.0/16"'),
        ("ip -6 route add fd01::/64 dev lo", "ip -6 route del fd01::/64", '"fd01::/64"'),
        ("ip rule add from 10.1.1.1 lookup 7", "ip rule del from 10.1.1.1", "+ rule -4"),
        ("ip -6 rule add from fd00::1 lookup 7", "ip -6 rule del from fd00::1", "+ rule -6"),
        (
            "ip neighbour add 127.9.9.9 lladdr 02:00:00:00:00:01 dev left",
            "ip neighbour del 127.9.9.9 dev left",
            "+ neighbour",
        ),
        (
            "bridge fdb add 02:00:00:00:00:01 dev left self local",
            "bridge fdb del 02:00:00:00:00:01 dev left self local",
            "+ fdb",
        ),
        ("nft add table inet left", "nft delete table inet left", "+ nft table"),
        (
            "nft add element inet old s '{ 10.1.1.1 }'",
            "nft delete element inet old s '{ 10.1.1.1 }'",
            '+ nft inet old s "10.1.1.1"',
        ),
        ("nft add rule inet old c drop", "nft flush chain inet old c", "+ nft rule"),
        ("mount -t tmpfs tmpfs DIR/mnt", "umount DIR/mnt", "+ mount"),
        ("touch DIR/netns", "rm DIR/netns", "+ file"),
    ],
)
async def test_what_is_left_is_seen(sh: Shell, tmp_path: Path, leave: str, undo: str, seen: str) -> None:
    (tmp_path / "mnt").mkdir()
    if "dev left" in leave:
        sh("ip link add left type bridge; ip link set left up")
    sh("nft 'table inet old { set s { type ipv4_addr; }; chain c { }; }'")
    before = count(tmp_path)
    sh(leave.replace("DIR", str(tmp_path)))
    after = count(tmp_path)
    assert seen in before.difference(after)
    assert "- " not in before.difference(after)
    assert "- " in after.difference(before)
    sh(undo.replace("DIR", str(tmp_path)))
    assert before.difference(count(tmp_path)) == ""
    if "dev left" in leave:
        sh("ip link del left")
    sh("nft delete table inet old")


async def test_processes_and_descriptors_are_seen() -> None:
    before = count()
    left = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    with socket.socket():
        difference = before.difference(count())
    assert "+ process cat" in difference
    assert "+ descriptor socket" in difference
    await left.communicate(b"")
    assert before.difference(count()) == ""


async def test_the_control_groups_of_a_run_dir_are_seen(tmp_path: Path) -> None:
    hierarchy = next(path for path in map(Path, ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")) if path.is_dir())
    group = hierarchy / "netd" / names.digest(str(tmp_path.resolve()), 12)
    before = count(tmp_path)
    group.mkdir(parents=True)
    try:
        assert before.difference(count(tmp_path)) == f"+ cgroup {group}"
        assert f"cgroup {group}" not in count().lines
    finally:
        group.rmdir()


async def test_counters_and_learned_things_are_not_differences(sh: Shell) -> None:
    sh("nft 'table inet old { chain c { type filter hook input priority 0; counter; }; }'")
    before = count()
    sh("ping -c1 -W1 127.0.0.1")
    assert before.difference(count()) == ""
    sh("nft delete table inet old")


async def test_as_a_command_it_prints_one_thing_a_line(sh: Shell, tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    lines = sh(f"{sys.executable} -m netd.testing.census {tmp_path}").splitlines()
    assert f"file {tmp_path}/left" in lines
    assert lines == sorted(lines)
