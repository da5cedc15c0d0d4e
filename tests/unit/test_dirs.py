from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netd import dirs
from netd.errors import Denied, InUse


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_made_with_exactly_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o177)
    try:
        dirs.make(tmp_path / "run", 0o750)
    finally:
        os.umask(before)
    assert mode(tmp_path / "run") == 0o750


def test_a_directory_that_was_too_readable_is_tightened(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o755)
    dirs.make(path, 0o700)
    assert mode(path) == 0o700


@pytest.mark.parametrize("wrong", [0o770, 0o702, 0o777])
def test_a_directory_writable_by_others_is_refused_and_left(tmp_path: Path, wrong: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(wrong)
    with pytest.raises(Denied, match="writable by others"):
        dirs.make(path, 0o700)
    assert mode(path) == wrong


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(Denied, match="symbolic link"):
        dirs.make(tmp_path / "link", 0o700)


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(Denied, match="not a directory"):
        dirs.make(tmp_path / "state", 0o700)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(Denied, match="belongs to user 12345"):
        dirs.make(path, 0o700)


def test_no_such_group_is_none() -> None:
    assert dirs.group_id("no-such-group-here") is None


HOLD = """
import pathlib, sys
from netd.dirs import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_is_refused_by_pid_and_let_in_when_the_first_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUse, match=rf"pid {holder.pid}"):
            dirs.Lock(tmp_path).acquire()
        holder.kill()
    lock = dirs.Lock(tmp_path)
    lock.acquire()
    assert (tmp_path / "netd.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_released_means_free(tmp_path: Path) -> None:
    first, second = dirs.Lock(tmp_path), dirs.Lock(tmp_path)
    first.acquire()
    with pytest.raises(InUse):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


HOLD_HOST = """
import os, pathlib, sys
from netd.dirs import HostLock
lock = HostLock(pathlib.Path(sys.argv[1]))
lock.acquire()
os.setuid(int(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def host_holder(path: Path, user: int) -> Iterator[int]:
    """A process of `user` that has the host's lock; its pid."""
    argv = [sys.executable, "-c", HOLD_HOST, str(path), str(user)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder.pid
        holder.kill()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_host_has_one_daemon_until_that_is_killed(tmp_path: Path) -> None:
    namespace = tmp_path / "net"
    namespace.touch()
    lock = dirs.HostLock(namespace)
    with (
        host_holder(namespace, 0) as pid,
        pytest.raises(InUse, match=rf"pid {pid}.*network namespace"),
    ):
        lock.acquire()
    lock.acquire()
    lock.release()
    lock.acquire()
    lock.release()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nobody_but_root_keeps_a_daemon_from_its_host(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    namespace = tmp_path / "net"
    namespace.touch()
    with host_holder(namespace, 65534) as pid:
        lock = dirs.HostLock(namespace)
        lock.acquire()
        lock.release()
    assert f"pid {pid}" in caplog.text
