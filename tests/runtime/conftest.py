"""Fixtures for tests that run real containers; `box.py` says where."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.box import Box, eventually

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes containers: needs root"))


@pytest.fixture(scope="session")
def shared_box() -> Iterator[Box]:
    with Box() as box:
        yield box


@pytest.fixture
def box(shared_box: Box) -> Iterator[Box]:
    """Where containers run. A test must leave nothing: no process, group, mount, file or descriptor."""
    before = shared_box.census()
    yield shared_box
    eventually("everything of the test's containers gone", lambda: not shared_box.census() - before)
    assert not before - shared_box.census()
    shared_box.ids.clear()


@pytest.fixture
def fresh_box() -> Iterator[Box]:
    """A box with a launcher of its own, for tests that end it."""
    with Box() as box:
        yield box
        assert not box.do(box.runtime.containers())


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with nothing but busybox; copied before it is changed."""
    root = tmp_path_factory.mktemp("busybox") / "rootfs"
    for name in ("bin", "etc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("busybox-static is not installed")
    shutil.copy(program, root / "bin" / "busybox")
    for applet in ("sh", "cat", "ls", "id", "mount", "mkdir", "readlink", "touch", "stat", "true", "sleep"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nann:x:1000:\nwheel:x:10:ann\n")
    return root
