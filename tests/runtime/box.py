"""A place to run containers in: a thread with an event loop, in network and mount namespaces of its own.

Whatever is started from that thread is started in its namespaces, the launcher above all; the machine's
own interfaces and mounts are out of reach. The run directory, and with it the name of the control groups,
is new for every test run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from netd.runtime import syscalls
from netd.runtime.local import LocalRuntime
from netd.runtime.spec import Attached, ContainerSpec, Frame, LogEntry, Process, Status

T = TypeVar("T")
PYTHON = "/usr/bin/python3"
"""An interpreter that a container with the host's root file system sees."""

_PROCESS = {"env", "workdir", "user", "tty", "interactive", "rows", "columns"}


def eventually(what: str, condition: Callable[[], T], seconds: float = 10.0) -> T:
    """The first true value of `condition`, asked again until then; fails naming `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)
    return value


@dataclass
class Result:
    """What a container did."""

    status: Status
    stdout: str
    stderr: str
    log: list[LogEntry] = field(default_factory=list)

    @property
    def code(self) -> int:
        return self.status.exit_code


@dataclass
class Network:
    """A network namespace of its own, held by the descriptor that `path` leads to."""

    fd: int

    @property
    def spec(self) -> dict[str, Any]:
        found = os.fstat(self.fd)
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        return {"netns": path, "netns_device": found.st_dev, "netns_inode": found.st_ino}


class Box:
    """Runs coroutines in its thread, and containers with them."""

    def __init__(self) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="netd-runtime-"))
        self.ids: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.network = Network(-1)
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._live, name="box", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._running.wait(10)
        self.runtime = LocalRuntime(self.run_dir)
        self.do(self.runtime.start())
        self.group = self.runtime._groups
        guard = Path(__file__).with_name("guard.py")
        self._guard = subprocess.Popen(
            [sys.executable, str(guard), self.group, str(self.run_dir)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self.runtime.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        os.close(self.network.fd)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(30)

    def _live(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        # Without the host's network there is this one: containers of most tests need none of their own.
        self.network.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.unshare(syscalls.CLONE_NEWNET | syscalls.CLONE_NEWNS)
        syscalls.make_private()
        self._running.set()
        self.loop.run_forever()

    def do(self, what: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """The result of a coroutine, run in the box."""
        future = self.submit(what)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise

    def submit(self, what: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to run a coroutine in the box."""
        return asyncio.run_coroutine_threadsafe(what, self.loop)

    # Containers.

    def spec(self, *argv: str, **options: Any) -> ContainerSpec:
        """A container of the box's second network, or of what `options` say; process options go along."""
        id = options.pop("id", "") or secrets.token_hex(8)
        self.ids.append(id)
        process = {key: options.pop(key) for key in _PROCESS & options.keys()}
        defaults = self.network.spec | {"hostname": "box"}
        return ContainerSpec(id=id, process=Process(argv=argv, **process), **(defaults | options))

    def run(self, script: str, *, stdin: bytes = b"", **options: Any) -> Result:
        """Run a shell script in a container to its end, and remove it."""
        return self.run_argv("/bin/sh", "-c", script, stdin=stdin, **options)

    def python(self, code: str, **options: Any) -> Result:
        """Likewise a Python program."""
        return self.run_argv(PYTHON, "-I", "-S", "-c", code, **options)

    def run_argv(self, *argv: str, stdin: bytes = b"", **options: Any) -> Result:
        """Likewise a command."""
        return self.do(self._whole_life(self.spec(*argv, interactive=bool(stdin), **options), stdin))

    async def _whole_life(self, spec: ContainerSpec, stdin: bytes) -> Result:
        await self.runtime.create(spec)
        attached = await self.runtime.attach(spec.id)
        try:
            await self.runtime.run(spec.id)
            if stdin:
                await attached.send(Frame("stdin", stdin))
                await attached.send(Frame("eof"))
            out, err, _ = await collect(attached)
            status = await self.runtime.wait(spec.id)
            log = [entry async for entry in self.runtime.logs(spec.id, follow=False, tail=0)]
        finally:
            await attached.close()
            await self.runtime.remove(spec.id)
        return Result(status, out.decode(errors="replace"), err.decode(errors="replace"), log)

    def start(self, script: str, **options: Any) -> str:
        """Start a container that goes on; the test removes it."""
        spec = self.spec("/bin/sh", "-c", script, **options)
        self.do(self.runtime.create(spec))
        self.do(self.runtime.run(spec.id))
        return spec.id

    def exec(self, id: str, script: str, **options: Any) -> Result:
        """Run a shell script in a running container."""
        process = Process(argv=("/bin/sh", "-c", script), **options)

        async def whole() -> Result:
            out, err, code = await collect(await self.runtime.exec(id, process))
            status = Status(state="exited", exit_code=code)
            return Result(status, out.decode(errors="replace"), err.decode(errors="replace"))

        return self.do(whole())

    def logged(self, id: str) -> str:
        """The log so far."""

        async def read() -> bytes:
            return b"".join([entry.data async for entry in self.runtime.logs(id, follow=False, tail=0)])

        return self.do(read()).decode()

    def says(self, id: str, text: str) -> str:
        """Wait until `text` is in the log; returns the log."""
        return eventually(f"{text!r} in the log", lambda: log if text in (log := self.logged(id)) else "")

    def names(self, id: str) -> list[str]:
        """What runs in a container's control group, sorted."""
        tops = [
            *Path("/sys/fs/cgroup").glob(f"pids/{self.group}/{id}"),
            Path("/sys/fs/cgroup", self.group, id),
        ]
        names = []
        for pid in (tops[0] / "cgroup.procs").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                names.append(Path(f"/proc/{pid}/comm").read_text().strip())
        return sorted(names)

    def remove(self, *ids: str) -> None:
        for id in ids:
            self.do(self.runtime.remove(id))

    # What is left.

    def census(self) -> Counter[str]:
        """Everything that this box's containers can leave: nothing of it may."""
        found: Counter[str] = Counter()
        found.update(f"directory {path}" for path in (self.run_dir / "containers").iterdir() if path.is_dir())
        for top in [*Path("/sys/fs/cgroup").glob(f"*/{self.group}"), Path("/sys/fs/cgroup", self.group)]:
            found.update(f"cgroup {path}" for path, _, _ in os.walk(top))
        found.update(f"process {title}" for title in self.processes())
        found.update(f"descriptor {name}" for name in _descriptors(os.getpid()))
        found.update(f"mount {line}" for line in self.do(_mounts()))
        return found

    def processes(self) -> list[str]:
        """Titles of the monitors that keep containers of this box, living or not yet reaped."""
        titles = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                title = path.read_bytes().split(b"\0")[0].decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith("netd-") and any(title.endswith(id) for id in self.ids):
                titles.append(title)
        return titles


async def _mounts() -> list[str]:
    return Path("/proc/thread-self/mountinfo").read_text().splitlines()


def _descriptors(pid: int) -> list[str]:
    names = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(str(path.readlink()).split(":[")[0])
        except FileNotFoundError:
            continue
    return names


async def collect(attached: Attached) -> tuple[bytes, bytes, int]:
    """Everything that an attached process writes until its end: stdout, stderr, exit code."""
    out, code = {"stdout": bytearray(), "stderr": bytearray()}, -1
    async for frame in attached:
        if frame.kind == "exit":
            code = frame.code
        else:
            out[frame.kind] += frame.data
    await attached.close()
    return bytes(out["stdout"]), bytes(out["stderr"]), code


async def within(what: Awaitable[T], seconds: float = 20.0) -> T:
    """`what`, with a deadline."""
    return await asyncio.wait_for(what, seconds)
