"""Accepting goes on after descriptors have run out, for real: the limit of this process is lowered."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from netd.listening import peers
from netd.tasks import spawn
from tests.unit.host import until


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_came_while_there_were_no_descriptors_is_served_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netd.listening.PAUSE", 0.001)

    async def story() -> None:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            listener.setblocking(False)
            listener.bind(str(tmp_path / "door"))
            listener.listen(8)
            client.connect(str(tmp_path / "door"))
            served: list[str] = []

            async def serve() -> None:
                async for peer in peers(listener):
                    with peer:
                        peer.sendall(b"welcome")
                        served.append("client")

            with no_more_descriptors():
                serving = spawn(serve(), name="serve")
                await until(lambda: "clients have to wait" in caplog.text)
                for _ in range(100):
                    await asyncio.sleep(0)
                assert not served
            await until(lambda: served == ["client"])
            assert client.recv(16) == b"welcome"
            serving.cancel()

    asyncio.run(story())
    assert caplog.text.count("clients have to wait") == 1, "said once, not a thousand times a second"


def test_a_socket_that_is_of_no_use_ends_it() -> None:
    async def story() -> None:
        with socket.socket(socket.AF_UNIX) as deaf:  # does not listen
            deaf.setblocking(False)
            async for _ in peers(deaf):
                pass

    with pytest.raises(OSError, match="Invalid argument"):
        asyncio.run(story())
