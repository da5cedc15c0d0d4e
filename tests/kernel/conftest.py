"""Every asynchronous test here gets a host of its own: a fresh network and mount namespace.

A test written `async def` runs in a new event loop on a thread that has left the machine's namespaces
by itself, so pytest's own thread stays where it was, a failed assertion arrives as usual, and when
the thread ends, however that comes, the kernel takes everything down. Threads and processes that the
test starts are born inside. Around the test a census is taken, of which nothing may be left or missing.

The fixture `kernel` runs a test once on `FakeKernel` and once on `HostKernel`, started and closed for it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import inspect
import os
import subprocess
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from netd.kernel import sysctl
from netd.kernel.fake import FakeKernel
from netd.kernel.host import HostKernel
from netd.testing import census

HERE = Path(__file__).parent
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
ROOT = os.geteuid() == 0
_libc = ctypes.CDLL(None, use_errno=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and not _on_fake(item):
            item.add_marker(pytest.mark.root)
            if not ROOT:
                item.add_marker(pytest.mark.skip(reason="makes namespaces: needs root"))


def _on_fake(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and _parameter(item, "kernel") == "fake"


def _parameter(item: pytest.Function, fixture: str) -> Any:
    return item.callspec.params.get(fixture) if hasattr(item, "callspec") else None


@pytest.fixture(params=["fake", "host"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> FakeKernel | HostKernel:
    """A kernel adapter, started before the test and closed after it."""
    return FakeKernel() if request.param == "fake" else HostKernel(tmp_path)


@pytest.fixture
def host_kernel(tmp_path: Path) -> HostKernel:
    """The real one, for what only a host can show; started and closed as well."""
    return HostKernel(tmp_path)


@pytest.fixture
def sh() -> Callable[[str], str]:
    """Run a shell command on the test's host, as an administrator would; gives what it printed."""

    def run(command: str) -> str:
        done = subprocess.run(["/bin/sh", "-ec", command], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    kernels = [value for value in arguments.values() if isinstance(value, FakeKernel | HostKernel)]

    async def body() -> None:
        async with AsyncExitStack() as stack:
            for each in kernels:
                await each.start()
                stack.push_async_callback(each.close)
            await function(**arguments)

    if _on_fake(pyfuncitem):
        asyncio.run(body())
    else:
        directory: Any = pyfuncitem.funcargs.get("tmp_path")
        on_a_host_of_its_own(lambda: _counted(lambda: asyncio.run(body()), directory))
    return True


def on_a_host_of_its_own(work: Callable[[], None]) -> None:
    """Run `work` on a thread in a new network and mount namespace; raise what it raised."""
    failure: list[BaseException] = []

    def body() -> None:
        try:
            _leave_the_machine()
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="host", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()


def _leave_the_machine() -> None:
    if _libc.unshare(CLONE_NEWNET | CLONE_NEWNS) < 0:
        raise OSError(ctypes.get_errno(), "unshare")
    if _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) < 0:
        raise OSError(ctypes.get_errno(), "make mounts private")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _counted(work: Callable[[], None], directory: Path | None) -> None:
    """Run `work`; fail if the host is not afterwards as it was before. nft tables are netd's to keep."""

    def count() -> census.Census:
        here = os.getpid()
        gc.collect()  # an earlier test may have left a loop and its descriptors to the collector
        sysctl.close()
        directories = [directory / "netns"] if directory else []
        return census.take(*directories, processes_below=here, descriptors_of=here)

    before = count()
    work()
    for family in ("inet", "bridge", "arp"):
        subprocess.run(["nft", "delete", "table", family, "netd"], stderr=subprocess.DEVNULL)
    assert not (left := before.difference(count())), f"left behind:\n{left}"
