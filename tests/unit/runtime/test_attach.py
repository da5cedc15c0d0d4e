from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from netd.errors import InUse
from netd.runtime import wire
from netd.runtime.attach import Connection, Ended
from netd.runtime.spec import Frame


def listener(directory: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(directory / wire.SOCKET_NAME))
    sock.listen(1)
    return sock


def test_frames_until_the_exit() -> None:
    async def talk() -> list[Frame]:
        ours, theirs = wire.pair()
        connection = Connection(ours)
        with theirs:
            for frame in (Frame("stdout", b"x"), Frame("exit", code=3), Frame("stdout", b"late")):
                wire.send(theirs, frame)
            seen = [frame async for frame in connection]
        await connection.close()
        return seen

    assert asyncio.run(talk()) == [Frame("stdout", b"x"), Frame("exit", code=3)]


def test_a_monitor_that_goes_without_a_word_counts_as_killed() -> None:
    async def talk() -> list[Frame]:
        ours, theirs = wire.pair()
        connection = Connection(ours)
        theirs.close()
        seen = [frame async for frame in connection]
        await connection.send(Frame("stdin", b"nobody hears this"))
        await connection.close()
        return seen

    assert asyncio.run(talk()) == [Frame("exit", code=137)]


def test_long_data_goes_in_pieces_and_in_order() -> None:
    async def talk() -> bytes:
        ours, theirs = wire.pair()
        connection = Connection(ours)
        data = bytes(range(256)) * 4000

        def read() -> bytes:
            received = b""
            while len(received) < len(data):
                frame = wire.receive(theirs)
                assert frame is not None
                assert frame.kind == "stdin"
                received += frame.data
            return received

        with theirs:
            reading = asyncio.get_running_loop().run_in_executor(None, read)
            half = len(data) // 2
            await connection.send(Frame("stdin", data[:half]))
            await connection.send(Frame("stdin", data[half:]))
            received = await reading
        await connection.close()
        assert received == data
        return received

    assert asyncio.run(talk())


def test_expectations() -> None:
    async def talk() -> None:
        ours, theirs = wire.pair()
        connection = Connection(ours)
        wire.send(theirs, Frame("ready"))
        wire.send(theirs, wire.refusal(InUse("it runs")))
        wire.send(theirs, Frame("stdout"))
        theirs.close()
        assert await connection.expect("ready", "error") == Frame("ready")
        with pytest.raises(InUse, match="it runs"):
            await connection.expect("ready")
        with pytest.raises(ConnectionResetError):
            await connection.expect("ready")
        with pytest.raises(ConnectionResetError):
            await connection.expect("ready")
        await connection.close()

    asyncio.run(talk())


def test_a_monitor_is_found_by_its_directory_however_deep(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()

    async def talk() -> None:
        with pytest.raises(FileNotFoundError):
            await Connection.open(directory, "wait")
        with listener(directory) as sock:
            deep = tmp_path / ("x" * 100) / ("y" * 100)
            deep.parent.mkdir()
            directory.rename(deep)
            connection = await Connection.open(deep, "wait")
            peer, _ = sock.accept()
            with peer:
                assert wire.receive(peer) == Frame("wait")
            await connection.close()
        with pytest.raises(ConnectionRefusedError):
            await Connection.open(deep, "wait")

    asyncio.run(talk())


def test_what_has_ended() -> None:
    async def talk() -> list[Frame]:
        ended = Ended(7)
        await ended.send(Frame("stdin", b"x"))
        seen = [frame async for frame in ended]
        await ended.close()
        return seen

    assert asyncio.run(talk()) == [Frame("exit", code=7)]
