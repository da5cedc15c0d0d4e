"""Limits that hold, on the control groups of this very machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from netd.runtime import cgroup
from netd.runtime.spec import Limits, Process
from tests.runtime.box import Box, collect, eventually

MIB = 1024 * 1024

EAT = """
import sys
print("start", flush=True)
blocks = []
for n in range(int(sys.argv[1])):
    blocks.append(b"x" * 1048576)
print("survived", flush=True)
"""


def test_a_process_is_killed_at_the_memory_limit(box: Box) -> None:
    argv = ("/usr/bin/python3", "-I", "-S", "-c", EAT)
    result = box.run_argv(*argv, "200", limits=Limits(memory=64 * MIB))
    assert result.stdout == "start\n"
    assert (result.code, result.status.oom_killed) == (137, True)
    result = box.run_argv(*argv, "20", limits=Limits(memory=64 * MIB))
    assert result.stdout == "start\nsurvived\n"
    assert (result.code, result.status.oom_killed) == (0, False)


def test_files_written_count_as_memory(box: Box) -> None:
    result = box.run("head -c 200000000 /dev/zero >/big; echo $?", limits=Limits(memory=32 * MIB))
    assert result.status.oom_killed
    assert result.stdout != "0\n"


def test_the_smallest_memory_suffices_to_start(box: Box) -> None:
    assert box.run("echo ok", limits=Limits(memory=6 * MIB)).stdout == "ok\n"


def test_a_fork_is_refused_at_the_pids_limit(box: Box) -> None:
    """The shell and two more; netd's own PID 1 is not the user's to count."""
    code = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError as error:
    print(made, error.strerror)
"""
    result = box.python(code, limits=Limits(pids=3))
    assert result.stdout == "2 Resource temporarily unavailable\n"
    assert box.run("echo alone", limits=Limits(pids=1)).stdout == "alone\n"


def test_an_exec_counts_too(box: Box) -> None:
    id = box.start("sleep 60 & sleep 60 & wait", limits=Limits(pids=4, memory=64 * MIB))
    assert box.exec(id, "echo fits").stdout == "fits\n"
    assert "annot fork" in box.exec(id, "sleep 1 & wait").stderr
    eaten = box.do(box.runtime.exec(id, Process(argv=("/usr/bin/python3", "-I", "-S", "-c", EAT, "200"))))

    async def rest() -> int:
        return (await collect(eaten))[2]

    assert box.do(rest()) == 137
    box.remove(id)


def test_the_cpu_quota_holds(box: Box) -> None:
    """Half a CPU: half the time at most, whatever else this machine does."""
    code = """
import time
begin, used = time.monotonic(), time.process_time()
while time.monotonic() - begin < 1.5:
    pass
print((time.process_time() - used) / (time.monotonic() - begin))
"""
    share = float(box.python(code, limits=Limits(cpus=0.25)).stdout)
    assert 0.02 < share < 0.32


def test_without_limits_there_are_none(box: Box) -> None:
    id = box.start("sleep 60")
    tops = list(Path("/sys/fs/cgroup").glob(f"*/{box.group}/{id}"))
    if tops:
        by_controller = {path.parents[2].name: path for path in tops}
        assert (by_controller["pids"] / "pids.max").read_text() == "max\n"
        assert int((by_controller["memory"] / "memory.limit_in_bytes").read_text()) > 1 << 60
        assert (by_controller["cpu"] / "cpu.cfs_quota_us").read_text() == "-1\n"
    box.remove(id)


def test_the_container_s_processes_are_in_the_group_and_netd_s_are_not(box: Box) -> None:
    """Its PID 1, the largest by far, would be the first that the memory limit kills."""
    id = box.start("sleep 60 & sleep 60")
    box.exec(id, "sleep 60 >/dev/null 2>&1 &")
    eventually("just these", lambda: box.names(id) == ["sh", "sleep", "sleep", "sleep"])
    box.remove(id)


def test_removing_waits_until_the_group_is_empty(box: Box) -> None:
    hierarchy = cgroup.find()
    id = box.start("for n in $(seq 50); do sleep 1000 & done; sleep 1000")
    box.remove(id)
    assert id not in hierarchy.children(box.group)


@pytest.mark.parametrize("text", ["", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"])
def test_a_host_without_usable_groups_is_refused(tmp_path: Path, text: str) -> None:
    mounts = tmp_path / "mountinfo"
    (tmp_path / "cgroup.controllers").write_text("io\n")
    mounts.write_text(text.replace("/sys/fs/cgroup", str(tmp_path)))
    with pytest.raises(Exception, match="no usable control groups"):
        cgroup.find(str(mounts))
