"""The life of a container as the daemon sees it: made, run, signalled, killed, found again, removed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from netd.errors import AlreadyExists, Corrupt, InUse, Invalid, NotFound
from netd.runtime import record
from netd.runtime.local import LocalRuntime
from netd.runtime.spec import Frame, Limits, Process
from netd.runtime.streams import BACKLOG
from tests.runtime.box import Box, collect, eventually, within


def test_output_exit_code_and_log_of_a_container(box: Box) -> None:
    result = box.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.code) == ("out\n", "err\n", 3)
    assert sorted((entry.stream, entry.data) for entry in result.log) == [
        ("stderr", b"err\n"),
        ("stdout", b"out\n"),
    ]
    assert result.status.state == "exited"
    assert result.status.started <= result.status.finished <= time.time()


@pytest.mark.parametrize(
    ("script", "code"), [("true", 0), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_exit_codes_are_those_of_a_shell(box: Box, script: str, code: int) -> None:
    assert box.run(script).code == code


def test_states_from_created_to_removed(box: Box) -> None:
    async def life() -> None:
        runtime, spec = box.runtime, box.spec("/bin/cat", interactive=True)
        with pytest.raises(NotFound):
            await runtime.status(spec.id)
        await runtime.create(spec)
        created = await runtime.status(spec.id)
        assert (created.state, created.pid, created.started) == ("created", 0, 0.0)
        with pytest.raises(AlreadyExists):
            await runtime.create(spec)
        with pytest.raises(InUse):
            await runtime.exec(spec.id, Process(argv=("true",)))
        running = await runtime.run(spec.id)
        assert running.state == "running"
        assert Path(f"/proc/{running.pid}/comm").read_text() == "netd-init\n"
        with pytest.raises(InUse):
            await runtime.run(spec.id)
        assert spec.id in await runtime.containers()
        attached = await runtime.attach(spec.id)
        await attached.send(Frame("eof"))
        assert (await within(runtime.wait(spec.id))).exit_code == 0
        assert await collect(attached) == (b"", b"", 0)
        with pytest.raises(InUse):
            await runtime.kill(spec.id, signal.SIGTERM)
        with pytest.raises(InUse):
            await runtime.run(spec.id)
        assert await collect(await runtime.attach(spec.id)) == (b"", b"", 0)
        await runtime.remove(spec.id)
        await runtime.remove(spec.id)
        with pytest.raises(NotFound):
            await runtime.status(spec.id)

    box.do(life())


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("nosuch",), 127, "command 'nosuch' was not found in $PATH"),
        (("/nosuch",), 127, "command '/nosuch' was not found"),
        (("/etc/passwd",), 126, "command '/etc/passwd' cannot be executed: Permission denied"),
        (("/etc",), 126, "command '/etc' cannot be executed: Permission denied"),
    ],
)
def test_a_command_that_cannot_be_executed_is_refused_by_run(
    box: Box, argv: tuple[str, ...], code: int, words: str
) -> None:
    spec = box.spec(*argv)
    box.do(box.runtime.create(spec))
    with pytest.raises(Invalid, match=words.replace("$", r"\$")):
        box.do(box.runtime.run(spec.id))
    status = box.do(box.runtime.status(spec.id))
    assert (status.state, status.exit_code) == ("exited", code)
    box.remove(spec.id)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "nobody-here"}, "no user 'nobody-here'"),
        ({"rootfs": "/nosuch"}, "rootfs '/nosuch' is not a directory"),
        ({"cap_add": ("FLY",)}, "'FLY' is no capability"),
        ({"netns": "/nosuch"}, "network namespace /nosuch"),
        ({"netns_inode": 1}, "is another one than the container was given"),
        ({"netns": "/etc/passwd", "netns_inode": 0}, "Invalid argument"),
        ({"sysctls": {"kernel.panic": "1"}}, "--sysctl kernel.panic"),
        ({"sysctls": {"net.ipv4.nosuch": "1"}}, "--sysctl net.ipv4.nosuch: a container has no such setting"),
        ({"workdir": "/etc/passwd"}, "working directory '/etc/passwd'"),
    ],
)
def test_what_is_refused_leaves_nothing(box: Box, options: dict[str, Any], words: str) -> None:
    spec = box.spec("true", **options)
    with pytest.raises(Exception, match=words):
        box.do(box.runtime.create(spec))
    assert spec.id not in box.do(box.runtime.containers())


def test_a_signal_reaches_the_command(box: Box) -> None:
    id = box.start("trap 'echo got it; exit 7' USR1; echo ready; while :; do sleep 0.05; done")
    box.says(id, "ready")
    box.do(box.runtime.kill(id, signal.SIGUSR1))
    assert box.do(box.runtime.wait(id)).exit_code == 7
    assert "got it" in box.logged(id)
    box.remove(id)


def test_a_stopped_command_goes_on_at_cont(box: Box) -> None:
    id = box.start("echo ready; sleep 60")
    box.says(id, "ready")
    command = record.read(box.runtime.directory(id)).command.pid

    def state() -> str:
        return Path(f"/proc/{command}/stat").read_text().rpartition(")")[2].split()[0]

    box.do(box.runtime.kill(id, signal.SIGSTOP))
    eventually("stopped", lambda: state() == "T")
    box.do(box.runtime.kill(id, signal.SIGCONT))
    eventually("going on", lambda: state() == "S")
    box.remove(id)


def test_a_command_without_handlers_dies_of_sigterm(box: Box) -> None:
    """As PID 1 of its namespace it would not: the kernel ignores signals without a handler there."""
    id = box.start("exec sleep 60")
    box.do(box.runtime.kill(id, signal.SIGTERM))
    assert box.do(within(box.runtime.wait(id))).exit_code == 143
    box.remove(id)


def test_sigkill_ends_everything_inside_at_once(box: Box) -> None:
    """Even what forks as fast as it can and ignores every signal."""
    # A shell that may not fork gives up, so the first process does not, and the limit is out of reach.
    bomb = (
        "trap '' TERM INT HUP; grow() { while :; do sleep 0.01 & done; }; grow & grow & echo ready;"
        " while :; do :; done"
    )
    id = box.start(bomb, limits=Limits(pids=1000))
    box.says(id, "ready")
    box.do(box.runtime.kill(id, signal.SIGKILL))
    assert box.do(within(box.runtime.wait(id))).exit_code == 137
    for procs in Path("/sys/fs/cgroup").glob(f"*/{box.group}/{id}/cgroup.procs"):
        assert procs.read_text() == ""
    box.remove(id)


def test_remove_ends_a_running_container(box: Box) -> None:
    id = box.start("sleep 1000 & sleep 1000")
    box.remove(id)
    assert id not in box.do(box.runtime.containers())


def test_remove_ends_a_container_that_was_never_run(box: Box) -> None:
    spec = box.spec("true")
    box.do(box.runtime.create(spec))
    box.remove(spec.id)


def test_remove_does_not_wait_for_a_client_that_does_not_read(box: Box) -> None:
    async def life() -> None:
        spec = box.spec("/bin/sh", "-c", "yes")
        await box.runtime.create(spec)
        attached = await box.runtime.attach(spec.id)
        await box.runtime.run(spec.id)
        await _written(box, spec.id)
        await within(box.runtime.remove(spec.id), 8)
        await attached.close()

    box.do(life())


def test_nothing_is_lost_when_a_client_reads_slowly(box: Box) -> None:
    """The container is held back instead."""

    async def life() -> None:
        spec = box.spec("/bin/sh", "-c", "head -c 20000000 /dev/zero")
        await box.runtime.create(spec)
        attached = await box.runtime.attach(spec.id)
        await box.runtime.run(spec.id)
        await _written(box, spec.id)
        assert (await box.runtime.status(spec.id)).state == "running"
        out, _, code = await within(collect(attached), 30)
        assert (len(out), code) == (20_000_000, 0)
        await box.runtime.remove(spec.id)

    box.do(life())


async def _written(box: Box, id: str) -> None:
    """Until a container has written as much as may wait for a client that does not read."""

    def size() -> int:
        return sum(path.stat().st_size for path in box.runtime.directory(id).glob("log*"))

    await asyncio.to_thread(eventually, "a megabyte in the log", lambda: size() > BACKLOG)


def test_large_input_arrives_whole(box: Box) -> None:
    data = os.urandom(3_000_000)
    result = box.run("wc -c; cat", stdin=data)
    assert result.stdout.split()[0] == str(len(data))


def test_without_interactive_the_input_is_empty(box: Box) -> None:
    assert box.run("cat; readlink /proc/self/fd/0").stdout == "/dev/null\n"


def test_a_restarted_daemon_finds_its_containers(box: Box) -> None:
    id = box.start("echo before; read line; echo $line; exit 5", interactive=True)
    box.says(id, "before")

    async def another_daemon() -> None:
        runtime = LocalRuntime(box.run_dir)
        await runtime.start()
        try:
            assert id in await runtime.containers()
            assert (await runtime.status(id)).state == "running"
            attached = await runtime.attach(id)
            await attached.send(Frame("stdin", b"after\n"))
            out, _, code = await within(collect(attached))
            assert (out, code) == (b"after\n", 5)
            assert (await runtime.wait(id)).exit_code == 5
            assert [e.data async for e in runtime.logs(id, follow=True, tail=0)] == [b"before\n", b"after\n"]
            await runtime.remove(id)
        finally:
            await runtime.close()

    box.do(another_daemon())


def test_a_container_outlives_launcher_and_daemon(fresh_box: Box) -> None:
    """Nothing of it is their child, and its end is written down by its own monitor."""
    box = fresh_box
    id = box.start("echo ready; sleep 0.3; exit 9")
    box.says(id, "ready")
    state = record.read(box.runtime.directory(id))
    parent = Path(f"/proc/{state.monitor.pid}/stat").read_text().rpartition(")")[2].split()[1]
    assert int(parent) not in (os.getpid(), box.runtime._launcher)
    box.do(box.runtime.close())
    eventually("its exit status", lambda: record.read(box.runtime.directory(id)).state == "exited")
    assert record.read(box.runtime.directory(id)).exit_code == 9
    box.remove(id)


def test_a_dead_launcher_is_replaced(fresh_box: Box) -> None:
    os.kill(fresh_box.runtime._launcher, signal.SIGKILL)
    os.waitid(os.P_PID, fresh_box.runtime._launcher, os.WEXITED | os.WNOWAIT)
    assert fresh_box.run("echo again").stdout == "again\n"


def test_a_container_whose_monitor_was_killed_has_ended(box: Box) -> None:
    id = box.start("echo ready; sleep 1000")
    box.says(id, "ready")
    state = record.read(box.runtime.directory(id))
    waiting = box.submit(box.runtime.wait(id))
    os.kill(state.monitor.pid, signal.SIGKILL)
    status = waiting.result(20)
    assert (status.state, status.exit_code) == ("exited", 137)
    assert not state.init.alive()
    box.remove(id)


def test_a_control_group_without_a_directory_is_found_and_removed(box: Box) -> None:
    id = box.start("sleep 1000")
    directory = box.runtime.directory(id)
    directory.rename(directory.with_name("ab" * 8))
    box.ids.append("ab" * 8)
    assert id in box.do(box.runtime.containers())
    box.remove(id)
    assert id not in box.do(box.runtime.containers())
    box.remove("ab" * 8)


def test_a_directory_of_a_making_that_was_cut_short(box: Box) -> None:
    directory = box.runtime.directory("cd" * 8)
    directory.mkdir()
    assert "cd" * 8 in box.do(box.runtime.containers())
    (directory / record.SPEC).write_text("{}")
    assert box.do(box.runtime.status("cd" * 8)).state == "exited"
    box.remove("cd" * 8)


def test_cancelling_create_leaves_nothing(box: Box) -> None:
    async def life() -> None:
        for delay in (0, 0.001, 0.002, 0.004, 0.008, 0.012):
            spec = box.spec("true")
            task = asyncio.ensure_future(box.runtime.create(spec))  # noqa: TID251
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if task.cancelled():
                assert spec.id not in await box.runtime.containers()
            await box.runtime.remove(spec.id)

    box.do(life())


def test_many_at_once(box: Box) -> None:
    async def crowd() -> list[int]:
        async def one(number: int) -> int:
            spec = box.spec("/bin/sh", "-c", f"exit {number}")
            await box.runtime.create(spec)
            await box.runtime.run(spec.id)
            status = await box.runtime.wait(spec.id)
            await box.runtime.remove(spec.id)
            return status.exit_code

        return list(await asyncio.gather(*(one(number) for number in range(24))))

    assert box.do(crowd()) == list(range(24))


def test_logs_follow_a_container_to_its_end(box: Box) -> None:
    async def life() -> list[bytes]:
        spec = box.spec(
            "/bin/sh", "-c", "echo one; read _; echo two; echo three; printf end", interactive=True
        )
        await box.runtime.create(spec)
        await box.runtime.run(spec.id)
        seen = []
        async for entry in box.runtime.logs(spec.id, follow=True, tail=0):
            seen.append(entry.data)
            assert abs(entry.time - time.time()) < 60
            if entry.data == b"one\n":
                attached = await box.runtime.attach(spec.id)
                await attached.send(Frame("stdin", b"\n"))
                await attached.close()
        tail = [entry.data async for entry in box.runtime.logs(spec.id, follow=False, tail=2)]
        assert tail == seen[-2:]
        await box.runtime.remove(spec.id)
        return seen

    assert box.do(within(life())) == [b"one\n", b"two\n", b"three\n", b"end"]


def test_the_log_stays_below_its_bound_and_keeps_the_newest(box: Box) -> None:
    bound = 100_000
    spec = box.spec("/bin/sh", "-c", "seq 1 40000", log_bytes=bound)
    box.do(box.runtime.create(spec))
    box.do(box.runtime.run(spec.id))
    box.do(box.runtime.wait(spec.id))
    directory = box.runtime.directory(spec.id)
    sizes = [path.stat().st_size for path in directory.glob("log*")]
    assert bound // 3 < sum(sizes) <= bound
    numbers = [int(line) for line in box.logged(spec.id).split()]
    assert numbers == list(range(numbers[0], 40001))
    box.remove(spec.id)


def test_two_daemons_whose_run_dirs_have_the_same_path_do_not_meet(box: Box, tmp_path: Path) -> None:
    """Each in a mount namespace of its own; the tree of control groups is one for both."""
    id = box.start("sleep 60")
    assert LocalRuntime(box.run_dir)._containers == box.runtime._containers

    async def same_path() -> list[str]:
        aside = tmp_path / "aside"
        box.run_dir.rename(aside)
        try:
            other = LocalRuntime(box.run_dir)
            await other.start()
            try:
                return await other.containers()
            finally:
                await other.close()
                shutil.rmtree(box.run_dir)
        finally:
            aside.rename(box.run_dir)

    assert box.do(same_path()) == []
    box.remove(id)


def test_a_damaged_token_is_refused_and_left(tmp_path: Path) -> None:
    (tmp_path / "containers").mkdir()
    (tmp_path / "containers" / ".group").write_text("../..")
    with pytest.raises(Corrupt, match=r"\.group"):
        asyncio.run(LocalRuntime(tmp_path).start())
    assert (tmp_path / "containers" / ".group").read_text() == "../.."


def test_unknown_containers(box: Box) -> None:
    id = "0" * 16
    with pytest.raises(NotFound):
        box.do(box.runtime.run(id))
    with pytest.raises(NotFound):
        box.do(box.runtime.wait(id))
    with pytest.raises(NotFound):
        box.do(box.runtime.kill(id, 15))
    with pytest.raises(Invalid):
        box.runtime.directory("../escape")
