"""The calls that need no privilege and no namespace; the others are under test in tests/runtime."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from netd.runtime import syscalls


def test_openat2_stays_in_its_root(tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "name").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "name").write_text("outside")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "etc")
    (tmp_path / "root" / "up").symlink_to("../../../../etc")
    root = os.open(tmp_path / "root", os.O_PATH)
    fd = syscalls.openat2(root, "up/name", os.O_RDONLY, syscalls.RESOLVE_IN_ROOT)
    assert os.read(fd, 100) == b"inside"
    os.close(fd)
    with pytest.raises(FileNotFoundError):
        syscalls.openat2(root, "link/name", os.O_RDONLY, syscalls.RESOLVE_IN_ROOT)
    with pytest.raises(OSError, match="openat2") as caught:
        syscalls.openat2(root, "up", os.O_RDONLY, syscalls.RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == errno.ELOOP
    os.close(root)


def test_close_all_but() -> None:
    """In a process of its own, which has something to lose."""
    code = """
import os
from netd.runtime import syscalls
fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
kept = (0, 1, 2, fds[3], fds[7], fds[8])
syscalls.close_all_but(kept)
print([fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{fd}")] == sorted(kept))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_title() -> None:
    code = """
from pathlib import Path
from netd.runtime import syscalls
for title in ("short", "x" * 10000):
    syscalls.set_title(title)
    line = Path("/proc/self/cmdline").read_bytes().rstrip(b"\\0").decode()
    print(title.startswith(line), len(line) > 4, Path("/proc/self/comm").read_text().strip() == title[:15])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True True\n" * 2


def test_file_system_types() -> None:
    fd = os.open("/proc", os.O_RDONLY)
    assert syscalls.filesystem_type(fd) == 0x9FA0  # PROC_SUPER_MAGIC
    os.close(fd)


def test_errors_name_the_call() -> None:
    with pytest.raises(OSError, match="setns: Bad file descriptor"):
        syscalls.setns(-1, 0)
