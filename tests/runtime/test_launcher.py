"""The launcher itself: what it is made of, and what it does not let in."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from tests.runtime.box import Box


def test_it_runs_from_a_read_only_mount(box: Box) -> None:
    executable = os.open(f"/proc/{box.runtime._launcher}/exe", os.O_RDONLY)
    try:
        assert os.fstatvfs(executable).f_flag & os.ST_RDONLY
    finally:
        os.close(executable)


def test_it_has_one_thread_and_one_connection(box: Box) -> None:
    process = Path(f"/proc/{box.runtime._launcher}")
    assert len(list((process / "task").iterdir())) == 1
    kinds = [str(path.readlink()).split(":")[0] for path in (process / "fd").iterdir()]
    assert kinds.count("socket") == 2  # as standard input and as what is spoken through


def test_its_environment_holds_no_secret_of_the_daemon_s(box: Box) -> None:
    names = {
        v.split(b"=")[0].decode()
        for v in Path(f"/proc/{box.runtime._launcher}/environ").read_bytes().split(b"\0")
        if v
    }
    assert names <= {"PATH", "LD_LIBRARY_PATH", "LC_ALL"}


def test_it_never_sees_what_is_the_container_s_own(box: Box) -> None:
    """Its memory is inherited by the PID 1 of every container."""
    secret = secrets.token_hex(20)
    box.run("true", env={"PASSWORD": secret}, hostname=f"h{secret}"[:60])
    pid = box.runtime._launcher
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(number, 16) for number in area.split("-"))
            memory.seek(start)
            assert secret.encode() not in memory.read(end - start), line


def test_it_keeps_nothing_of_a_container(box: Box) -> None:
    process = Path(f"/proc/{box.runtime._launcher}")
    before = len(list((process / "fd").iterdir()))
    for _ in range(3):
        box.run("true")
    assert len(list((process / "fd").iterdir())) == before
    assert not (process / "task" / str(box.runtime._launcher) / "children").read_text()


def test_nothing_is_imported_from_the_container(box: Box, busybox: Path, tmp_path: Path) -> None:
    """A root file system that has modules where the host's interpreter would look for its own."""
    import shutil
    import sys

    root = Path(shutil.copytree(busybox, tmp_path / "rootfs", symlinks=True))
    for path in sys.path:
        if path.startswith("/"):
            place = root / path.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            for name in ("encodings", "stringprep", "linecache", "traceback", "ctypes", "pwd", "grp"):
                (place / f"{name}.py").write_text("open('/pwned', 'w').write('x')\n")
    result = box.run("ls /pwned; id -un", rootfs=str(root), user="ann")
    assert "/pwned" not in result.stdout
