"""Sockets opened inside a namespace and used from outside of it."""

from __future__ import annotations

import pytest

from netd.errors import NotFound
from netd.kernel.host import HostKernel
from netd.kernel.ports import PacketKind


async def test_a_socket_belongs_to_its_namespace(host_kernel: HostKernel) -> None:
    kernel = host_kernel
    netns = await kernel.netns_create("web")
    ear = await kernel.packet_socket(netns, PacketKind.FRAMES, "lo")
    mouth = await kernel.packet_socket(netns, PacketKind.IPV4)
    with ear, mouth:
        ear.settimeout(5)
        ear.bind(("lo", 3))
        mouth.sendto(bytes.fromhex("4500001400010000401100007f0000017f000001"), ("127.0.0.1", 0))
        data, where = ear.recvfrom(2048)
    assert where[0] == "lo"
    assert data[14 + 12 :] == bytes.fromhex("7f0000017f000001")
    await kernel.netns_delete(netns)


async def test_what_is_made_is_deaf(host_kernel: HostKernel) -> None:
    netns = await host_kernel.netns_create("web")
    with await host_kernel.packet_socket(netns, PacketKind.FRAMES, "lo") as ear:
        with await host_kernel.packet_socket(netns, PacketKind.IPV6) as mouth:
            loopback = (15 * b"\0") + b"\1"
            mouth.sendto(bytes.fromhex("6000000000003b40") + loopback * 2, ("::1", 0))
        ear.setblocking(False)
        with pytest.raises(BlockingIOError):
            ear.recv(2048)
    await host_kernel.netns_delete(netns)


async def test_what_is_not_there(host_kernel: HostKernel) -> None:
    netns = await host_kernel.netns_create("web")
    for place, where in ((netns, "network namespace 'web'"), (None, "this host")):
        with pytest.raises(NotFound, match=f"no interface 'eth7' in {where}"):
            await host_kernel.packet_socket(place, PacketKind.FRAMES, "eth7")
    await host_kernel.netns_delete(netns)
    with pytest.raises(NotFound, match="'web' is gone"):
        await host_kernel.packet_socket(netns, PacketKind.FRAMES, "lo")
