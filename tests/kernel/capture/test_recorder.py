"""Several points at once, and that draining waits for exactly what was sent before."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest

from netd.capture.points import Point
from netd.capture.recorder import Recorder
from netd.capture.ring import Frame
from netd.errors import KernelError, Unavailable
from tests.descriptors import descriptors
from tests.kernel.capture.test_ring import HEAD, on_a_pair, send

Shell = Callable[[str], str]


def point(ifname: str, *, marked: bool = True) -> Point:
    ear, mouth = (socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2))
    if not marked:
        mouth.close()
    return Point(f"web:{ifname}", ifname, ear, mouth if marked else None)


@pytest.mark.parametrize("marked", [True, False], ids=["by markers", "by deafening"])
@on_a_pair
async def test_everything_sent_before_is_there_after_draining(sh: Shell, marked: bool) -> None:
    frames: list[Frame] = []
    recorder = Recorder([point("one", marked=marked), point("two", marked=marked)], frames.append)
    for round in range(1, 6 if marked else 2):
        send("one", *(HEAD + bytes([round, number]) for number in range(200)))
        await asyncio.to_thread(recorder.drain)
        assert len(frames) == 400 * round, "markers are not among them"
        assert [frame.data[14:] for frame in frames if frame.point == "web:two"][-1] == bytes([round, 199])
    assert recorder.drops() == {}
    assert recorder.counts() == {"web:one": len(frames) // 2, "web:two": len(frames) // 2}
    assert recorder.close() == {}


@on_a_pair
async def test_losses_are_told_by_point(sh: Shell) -> None:
    frames: list[Frame] = []
    reading = threading.Event()

    def slowly(frame: Frame) -> None:
        reading.wait()
        frames.append(frame)

    recorder = Recorder([point("two")], slowly)
    send("one", *(HEAD + bytes(1400) for _ in range(12000)))
    reading.set()
    send("one", HEAD + b"last")
    await asyncio.to_thread(recorder.drain)
    lost = recorder.close()
    assert lost["web:two"] + len(frames) == 12001


@on_a_pair
async def test_markers_that_do_not_come_back_are_an_error(sh: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netd.capture.recorder.MARKED_WITHIN", 0.1)
    recorder = Recorder([point("one"), point("two")], lambda frame: None)
    deaf, listening = recorder.rings
    deaf.deafen()
    with pytest.raises(Unavailable, match=r"markers do not come back at web:one$"):
        await asyncio.to_thread(recorder.drain)
    assert listening.seen == 0
    recorder.close()


@on_a_pair
async def test_an_interface_that_is_down_has_nothing_under_way(sh: Shell) -> None:
    recorder = Recorder([point("one")], lambda frame: None)
    sh("ip link set one down")
    await asyncio.to_thread(recorder.drain)
    before = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - before < 0.1, "nor does anybody spin"
    recorder.close()


@on_a_pair
async def test_what_a_sink_raises_is_raised_to_whoever_drains(sh: Shell) -> None:

    def refuse(frame: Frame) -> None:
        raise ValueError("the disk is full")

    recorder = Recorder([point("two")], refuse)
    send("one", HEAD)
    with pytest.raises(ValueError, match="the disk is full"):
        await asyncio.to_thread(recorder.drain)
    recorder.close()


@on_a_pair
async def test_one_point_that_cannot_be_armed_closes_all(sh: Shell) -> None:
    before = len(descriptors())
    with pytest.raises(KernelError, match="web:none"):
        Recorder([point("one"), point("none"), point("two")], lambda frame: None)
    assert len(descriptors()) == before
