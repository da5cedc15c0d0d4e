from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from socket import socket
from typing import NamedTuple

import pytest

from netd.errors import KernelError
from netd.kernel.inner import inside, load_rules, write_sysctls
from netd.kernel.netns import blocking, enter, enter_with, identify
from netd.objects import Sysctl


class Box(NamedTuple):
    """A namespace: its path, and a socket that belongs to it."""

    path: str
    door: socket


@pytest.fixture
def box() -> Iterator[Box]:
    """A namespace that holds nothing but lo."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1, text=True
    )
    assert keeper.stdout is not None
    keeper.stdout.readline()
    path = f"/proc/{keeper.pid}/ns/net"
    with blocking(lambda: _socket_in(path), "box") as door:
        yield Box(path, door)
    keeper.communicate("\n", timeout=10)


def _socket_in(path: str) -> socket:
    enter(identify(path, "box"))
    return socket()


def seen(box: Box, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net={box.path}", *command], check=True, capture_output=True, text=True
    ).stdout


def test_rules_are_loaded_there_and_only_there(box: Box) -> None:
    load_rules(box.door, "web", "add table inet topology")
    assert "inet topology" in seen(box, "nft", "list", "tables")
    with pytest.raises(KernelError, match="rules of web"):
        load_rules(box.door, "web", "add rule inet nothing here accept")


def test_sysctls(box: Box) -> None:
    write_sysctls(box.door, "web", [Sysctl(("net", "ipv4", "ip_forward"), "1")])
    assert seen(box, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_work_is_done_inside_and_the_caller_stays_where_it_was(box: Box) -> None:
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    there = inside(box.door, "web", lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert there == Path(box.path).stat().st_ino != own
    assert Path("/proc/thread-self/ns/net").stat().st_ino == own


def test_what_is_no_socket_leads_nowhere() -> None:
    refused = pytest.raises(KernelError, match="find the network namespace of 'web'")
    with Path("/dev/null").open() as file, refused:
        enter_with(file.fileno(), "web")
