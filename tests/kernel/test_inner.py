from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from netd.errors import Invalid, KernelError, NotFound
from netd.kernel.inner import inside, load_rules, write_sysctls
from netd.objects import Sysctl


@pytest.fixture
def box() -> Iterator[str]:
    """The path of a namespace that holds nothing but lo."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; read x"], stdin=-1, stdout=-1, text=True
    )
    assert keeper.stdout is not None
    keeper.stdout.readline()
    yield f"/proc/{keeper.pid}/ns/net"
    keeper.communicate("\n", timeout=10)


def seen(box: str, *command: str) -> str:
    return subprocess.run(
        ["nsenter", f"--net={box}", *command], check=True, capture_output=True, text=True
    ).stdout


def test_rules_are_loaded_there_and_only_there(box: str) -> None:
    load_rules(box, "web", "add table inet topology")
    assert "inet topology" in seen(box, "nft", "list", "tables")
    with pytest.raises(KernelError, match="rules of web"):
        load_rules(box, "web", "add rule inet nothing here accept")


def test_sysctls(box: str) -> None:
    write_sysctls(box, "web", [Sysctl(("net", "ipv4", "ip_forward"), "1")])
    assert seen(box, "cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"


def test_work_is_done_inside_and_the_caller_stays_where_it_was(box: str) -> None:
    own = Path("/proc/thread-self/ns/net").stat().st_ino
    there = inside(box, "web", lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert there == Path(box).stat().st_ino != own
    assert Path("/proc/thread-self/ns/net").stat().st_ino == own


def test_what_is_no_container_is_refused() -> None:
    with pytest.raises(NotFound):
        inside("/nowhere", "web", lambda: None)
    with pytest.raises(Invalid, match="host's own"):
        inside("/proc/self/ns/net", "web", lambda: None)
