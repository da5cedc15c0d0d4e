"""Whoever dies or whatever fails at whatever moment: a container is whole or can be removed without trace."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from netd.errors import NetdError
from netd.runtime import record
from netd.runtime.spec import Volume
from tests.runtime.box import PYTHON, Box, eventually

ROOT = Path(__file__).parents[2]


def test_a_daemon_that_is_killed_at_any_moment_leaves_what_the_next_one_can_remove(box: Box) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)

    async def start() -> subprocess.Popen[bytes]:
        script = [sys.executable, str(ROOT / "tests/runtime/daemon.py"), str(box.run_dir)]
        return subprocess.Popen(  # noqa: ASYNC220
            [*script, box.network.spec["netns"]],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    for _ in range(12):
        daemon = box.do(start())  # in the box's namespaces
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        threading.Event().wait(chance.uniform(0, 0.08))
        daemon.kill()
        daemon.wait()
        daemon.stdout.close()
        # What was being made when the daemon died may be finished only now, by a launcher that has not
        # heard of it yet: so more than one look.
        eventually("all groups and monitors gone", lambda: removed(box) and not box.processes())


def removed(box: Box) -> bool:
    """Remove every container there is; true where there was none."""
    ids = box.do(box.runtime.containers())
    for id in ids:
        box.ids.append(id)
        box.remove(id)
    return not ids


@pytest.mark.parametrize("victim", ["monitor", "init", "command"])
@pytest.mark.parametrize("moment", ["created", "running"])
def test_whichever_process_is_killed_the_container_has_ended(box: Box, victim: str, moment: str) -> None:
    spec = box.spec("sleep", "1000")
    box.do(box.runtime.create(spec))
    if moment == "running":
        box.do(box.runtime.run(spec.id))
    state = record.read(box.runtime.directory(spec.id))
    waiting = box.submit(box.runtime.wait(spec.id))
    os.kill(getattr(state, victim).pid, signal.SIGKILL)
    status = waiting.result(20)
    assert (status.state, status.exit_code) == ("exited", 137)
    eventually("nothing lives", lambda: not state.init.alive() and not state.command.alive())
    box.remove(spec.id)


CALLS = (
    *("open_tree", "fsopen", "fsconfig", "fsmount", "move_mount", "mount_setattr", "pivot_root", "umount2"),
    *("mount", "unshare", "setns", "openat2", "mkdirat", "mknodat", "symlinkat", "fsetxattr"),
    *("sethostname", "capset", "setgroups", "setresuid", "prlimit64", "pipe2", "socketpair"),
)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_refuses_the_container_and_leaves_nothing(fresh_box: Box, call: str) -> None:
    """Each call of the making, one occurrence after the other, until one is never reached."""
    for occurrence in itertools.count(1):
        log = _made_with_failure(fresh_box, call, occurrence)
        if "INJECTED" not in log:
            assert occurrence > 1, f"never called: {log}"
            return


def _made_with_failure(box: Box, call: str, occurrence: int) -> str:
    """Make a container while one call fails in each process that comes to it; returns the trace."""
    inject = f"inject={call}:error=ENOMEM:when={occurrence}"
    tracer = subprocess.Popen(
        ["strace", "-f", "-e", f"trace={call}", "-e", inject, "-p", str(box.runtime._launcher)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    assert "attached" in tracer.stderr.readline()
    spec = box.spec("true", tty=occurrence % 2 == 0, read_only=True)
    try:
        box.do(box.runtime.create(spec))
    except NetdError as refusal:
        print(call, occurrence, refusal)
    else:
        # An occurrence may be one that nothing depends on; then the container must work.
        box.do(box.runtime.run(spec.id))
        assert box.do(box.runtime.wait(spec.id)).exit_code == 0
        box.remove(spec.id)
    tracer.terminate()
    log = tracer.communicate()[1]
    assert spec.id not in box.do(box.runtime.containers())
    eventually("no process left", lambda: not box.processes())
    return log


def test_a_volume_that_changes_under_the_mounting(box: Box, tmp_path: Path) -> None:
    """A container swaps a directory of a shared volume for a link while others are mounted below it."""
    shared, outside, mine = tmp_path / "shared", tmp_path / "outside", tmp_path / "mine"
    for path in (shared, outside, mine):
        path.mkdir()
    (mine / "mark").write_text("x")
    code = f"""
import os
os.mkdir("/s/dir")
os.symlink("{outside}", "/s/link")
os.symlink("/proc/self/root/../../../../../..{outside}", "/s/other")
print("ready", flush=True)
while True:
    for name in ("link", "other"):
        os.rename("/s/dir", "/s/aside")
        os.rename("/s/" + name, "/s/dir")
        os.rename("/s/dir", "/s/" + name)
        os.rename("/s/aside", "/s/dir")
"""
    volumes = (Volume(source=str(shared), target="/s"),)
    (tmp_path / "race.py").write_text(code)
    script = (Volume(source=str(tmp_path / "race.py"), target="/race.py"),)
    id = box.start(f"exec {PYTHON} -I -S /race.py", volumes=volumes + script)
    box.says(id, "ready")
    done = refused = 0
    for _ in range(60):
        target = Volume(source=str(mine), target="/s/dir/below")
        try:
            result = box.run(f"cat {outside}/*; cat /s/dir/below/mark", volumes=(*volumes, target))
        except NetdError:
            refused += 1
        else:
            done += 1
            assert result.stdout in ("x", "")
    print(f"{done} made, {refused} refused")
    assert done
    assert not list(outside.iterdir())
    box.remove(id)
