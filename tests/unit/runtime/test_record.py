from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from netd.errors import NotFound
from netd.runtime import record
from netd.runtime.record import Record, Task
from netd.runtime.spec import Status


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    state = Record(
        state="exited", monitor=Task(1, 2), exit_code=3, oom_killed=True, started=4.5, finished=5.5
    )
    record.write(fd, record.STATUS, Record())
    record.write(fd, record.STATUS, state)
    os.close(fd)
    assert record.read(tmp_path) == state
    assert [path.name for path in tmp_path.iterdir()] == [record.STATUS]
    assert state.status() == Status(state="exited", exit_code=3, oom_killed=True, started=4.5, finished=5.5)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=tmp_path.name):
        record.read(tmp_path)
    with pytest.raises(NotFound):
        record.read_spec(tmp_path)


def test_a_task_is_a_pid_and_its_start() -> None:
    me = Task.of(os.getpid())
    assert me.alive()
    assert not Task(me.pid, me.started + 1).alive()  # the number was used again
    assert not Task(me.pid, 0).alive()
    assert not Task().alive()
    assert Task.of(2**22 + 1).started == 0


def test_a_signal_reaches_only_the_very_process() -> None:
    process = subprocess.Popen(["sleep", "60"])
    task = Task.of(process.pid)
    Task(task.pid, task.started + 1).signal(signal.SIGKILL)
    assert process.poll() is None
    task.signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    task.signal(signal.SIGKILL)
    assert not task.alive()


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen(["true"])
    task = Task.of(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not task.alive()
    process.wait()


def test_a_name_with_parentheses_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    process = subprocess.Popen([program, "60"])
    assert Task.of(process.pid).alive()
    process.kill()
    process.wait()


def test_a_container_without_monitor_and_first_process_is_lost() -> None:
    lost = Record(state="running", monitor=Task(2**22 + 1, 5), init=Task(2**22 + 2, 5), started=7.0)
    assert lost.status() == Status(state="exited", exit_code=137, started=7.0)
    running = Record(state="running", monitor=Task.of(os.getpid()), init=Task(42, 5))
    assert running.status() == Status(state="running", pid=42)
