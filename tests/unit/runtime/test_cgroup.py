"""Which files are written with what, on directories that only look like cgroupfs.

tests/runtime/test_cgroup.py has the real one.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from netd.errors import Unsupported
from netd.runtime import cgroup
from netd.runtime.spec import Limits

NAME = "netd/0123/abcd"
V2 = "29 23 0:26 / {root} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def v2(tmp_path: Path) -> cgroup.Group:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    for directory in (tmp_path, tmp_path / "netd", tmp_path / "netd/0123", tmp_path / NAME):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.subtree_control").write_text("")
    for name in ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cgroup.procs", "cgroup.kill"):
        (tmp_path / NAME / name).write_text("")
    (tmp_path / "mountinfo").write_text(V2.format(root=tmp_path))
    return cgroup.find(str(tmp_path / "mountinfo")).group(NAME)


def test_limits_on_v2(tmp_path: Path) -> None:
    group = v2(tmp_path)
    group.create(Limits(memory=64 << 20, cpus=1.5, pids=10))
    group.kill()
    written = {path.name: path.read_text() for path in (tmp_path / NAME).iterdir()}
    assert written == {
        "memory.max": "67108864",
        "memory.swap.max": "0",  # swap is part of the limit
        "cpu.max": "150000 100000",
        "pids.max": "10",
        "cgroup.procs": "",
        "cgroup.kill": "1",
        "cgroup.subtree_control": "",
    }
    for above in (tmp_path, tmp_path / "netd", tmp_path / "netd/0123"):
        assert (above / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_without_limits_v2_keeps_its_defaults(tmp_path: Path) -> None:
    group = v2(tmp_path)
    group.create(Limits())
    assert {path.read_text() for path in (tmp_path / NAME).iterdir()} == {""}


def test_the_oom_counter_of_v2(tmp_path: Path) -> None:
    group = v2(tmp_path)
    assert group.oom_kills() == 0
    (tmp_path / NAME / "memory.events").write_text("low 0\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert group.oom_kills() == 1


def test_a_group_that_is_gone_is_killed_and_removed_already(tmp_path: Path) -> None:
    group = cgroup.V2(str(tmp_path)).group(NAME)
    group.kill()
    group.remove()
    group = cgroup.V1({"freezer": str(tmp_path), "memory": str(tmp_path), "pids": str(tmp_path)}).group(NAME)
    group.kill()
    group.remove()


def test_v2_wins_if_it_has_the_controllers(tmp_path: Path) -> None:
    one = "".join(
        f"3{n} 31 0:3{n} / {tmp_path}/{name} rw - cgroup cgroup rw,{name}\n"
        for n, name in enumerate(["cpu,cpuacct", "memory", "pids", "freezer"])
    )
    mounts = tmp_path / "mountinfo"
    (tmp_path / "cgroup.controllers").write_text("\n")
    mounts.write_text(V2.format(root=tmp_path) + one)
    found = cgroup.find(str(mounts))
    assert isinstance(found, cgroup.V1)
    assert found._mounts["cpu"] == f"{tmp_path}/cpu,cpuacct"
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    assert isinstance(cgroup.find(str(mounts)), cgroup.V2)


def test_v1_without_cpu_refuses_a_quota(tmp_path: Path) -> None:
    group = cgroup.V1({name: str(tmp_path) for name in ("memory", "pids", "freezer")}).group(NAME)
    with pytest.raises(Unsupported, match="--cpus"):
        group.create(Limits(cpus=1))


def test_children_and_empty_parents(tmp_path: Path) -> None:
    hierarchy = cgroup.V2(str(tmp_path))
    assert hierarchy.children("netd/0123") == set()
    for name in ("a", "b"):
        (tmp_path / "netd/0123" / name / "made by the container").mkdir(parents=True)
    assert hierarchy.children("netd/0123") == {"a", "b"}
    hierarchy.group("netd/0123/a").remove()
    assert hierarchy.children("netd/0123") == {"b"}
    hierarchy.group("netd/0123/b").remove()
    assert not (tmp_path / "netd").exists()
