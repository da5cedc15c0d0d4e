"""WireGuard devices and peers: made, seen again, changed, repaired and removed; on paper and on a host.

The kernel of the test machines has no WireGuard, so on the host it is wireguard-go, which the adapter
starts. What differs with the kernel's own is the two messages of generic netlink, which are compared
with pyroute2's in tests/unit/kernel/test_wireguard.py.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path

import pytest

from netd import keys
from netd.kernel import uapi
from netd.kernel.fake import FakeKernel
from netd.kernel.host import HostKernel
from netd.keys import KeyFile
from netd.names import WIREGUARD
from netd.objects import Address, KernelObject, Remove, WireGuard, WireGuardPeer
from netd.plan import plan

Shell = Callable[[str], str]
Either = FakeKernel | HostKernel
GO = shutil.which("wireguard-go") or ""
pytestmark = pytest.mark.skipif(not GO, reason="needs wireguard-go (a package of Debian 12)")

PRIVATE, OTHER = keys.new(), keys.new()
DEVICE = WireGuard(WIREGUARD, "netd:wireguard", "netd-wireguard-0a1b2c", 1440, 51820, keys.public_of(PRIVATE))
INSIDE = Address(WIREGUARD, ip_interface("fdb4:8a1c:e95d::1/64"))
FOUR = WireGuardPeer(
    WIREGUARD, keys.public_of(keys.new()), IPv6Address("fdb4:8a1c:e95d::2"), IPv4Address("192.0.2.2"), 51820
)
SIX = WireGuardPeer(
    WIREGUARD, keys.public_of(keys.new()), IPv6Address("fdb4:8a1c:e95d::3"), IPv6Address("2001:db8::3"), 51821
)
ALL: frozenset[KernelObject] = frozenset({DEVICE, INSIDE, FOUR, SIX})


@pytest.fixture(params=["fake", "host"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Either:
    """As the fixture of that name, with a key and somebody who does WireGuard."""
    key_file = KeyFile(tmp_path / "key")
    key_file.keep(PRIVATE)
    if request.param == "fake":
        return FakeKernel()
    return HostKernel(tmp_path, key_file=key_file, wireguard_go=GO)


@asynccontextmanager
async def sockets_of_its_own(kernel: Either, sh: Shell) -> AsyncIterator[None]:
    """Where wireguard-go puts its sockets is fixed, and this test is not the only one."""
    if isinstance(kernel, FakeKernel):
        yield
        return
    sh("mount -t tmpfs tmpfs /run")
    try:
        yield
    finally:
        for item in await kernel.observe():
            if isinstance(item, WireGuard):
                await kernel.apply([Remove(item)])
        await gone(WIREGUARD)
        sh("umount -l /run")


async def gone(name: str) -> None:
    """Wait until the process behind a device has ended."""
    deadline = time.monotonic() + 10
    while uapi.alive(name):
        assert time.monotonic() < deadline, "the process goes on without its device"
        await asyncio.sleep(0.02)


async def test_what_was_made_is_seen_as_it_was_asked_for(kernel: Either, sh: Shell) -> None:
    async with sockets_of_its_own(kernel, sh):
        assert await kernel.wireguard_lack() == ""
        await kernel.apply(plan(ALL, ()))
        assert await kernel.observe() == ALL
        writes = kernel.writes
        await kernel.apply(plan(ALL, await kernel.observe()))
        assert kernel.writes == writes
        await kernel.apply(plan((), await kernel.observe()))
        assert await kernel.observe() == frozenset()
