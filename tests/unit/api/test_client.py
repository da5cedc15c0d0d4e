from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from netd import errors
from netd.api import client, netd_pb2
from tests.fake_daemon import FakeDaemon, network


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(tmp_path / "netd.sock")
    yield fake
    fake.close()


@pytest.fixture
def connected(daemon: FakeDaemon) -> Iterator[client.Client]:
    found = client.connect(str(daemon.path))
    yield found
    found.close()


def test_a_request_is_answered(daemon: FakeDaemon, connected: client.Client) -> None:
    daemon.networks = {"front": network("front", 1)}
    assert [each.name for each in connected.networks()] == ["front"]
    assert connected.version().version == "9.9"


def test_path_may_hold_characters_that_a_uri_gives_a_meaning(tmp_path: Path) -> None:
    odd = tmp_path / "a b%20#?é"
    odd.mkdir()
    fake = FakeDaemon(tmp_path / "netd.sock")
    (odd / "n.sock").symlink_to(fake.path)
    try:
        found = client.connect(f"{odd}/n.sock")
        assert found.version().api == "v1"
        found.close()
    finally:
        fake.close()


def test_relative_path(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(daemon.path.parent)
    found = client.connect("netd.sock")
    assert found.version().api == "v1"
    found.close()


def nothing(path: Path) -> None:
    """No socket at all."""


def plain_file(path: Path) -> None:
    path.write_text("")


def left_over(path: Path) -> None:
    """The socket of a daemon that was killed."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))


@pytest.mark.parametrize("make", [nothing, plain_file, left_over])
def test_nobody_there(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    make(path)
    with pytest.raises(errors.Unreachable) as error:
        client.connect(str(path))
    assert error.value.exit_code == 125
    assert str(path) in str(error.value)
    assert "netd daemon" in str(error.value)


def test_path_too_long(tmp_path: Path) -> None:
    with pytest.raises(errors.Unreachable, match="too long"):
        client.connect(f"/tmp/{'x' * 200}")


@pytest.mark.parametrize("name", [*errors.BY_GRPC, "INTERNAL"])
def test_refusals_come_back_as_what_the_daemon_raised(
    daemon: FakeDaemon, connected: client.Client, name: str
) -> None:
    daemon.refusal = (name, f"no\n{name}")
    with pytest.raises(errors.NetdError) as error:
        connected.network("x")
    assert type(error.value) is errors.BY_GRPC.get(name, errors.NetdError)
    assert str(error.value) == f"no {name}"
    assert error.value.exit_code == 1


def test_exit_code_of_a_refused_command(daemon: FakeDaemon, connected: client.Client) -> None:
    request = netd_pb2.StreamInput(run=netd_pb2.RunRequest(command=["missing"]))
    with pytest.raises(errors.Invalid) as error:
        list(connected.run([request]))
    assert error.value.exit_code == 127


def test_daemon_that_dies_in_the_middle(daemon: FakeDaemon, connected: client.Client) -> None:
    daemon.events.put(netd_pb2.Event(name="one"))
    events = connected.watch()
    assert next(events).name == "one"
    daemon.close()
    with pytest.raises(errors.Unreachable, match="lost the daemon"):
        list(events)


def test_daemon_that_does_not_answer(tmp_path: Path) -> None:
    """Stopped, or its loop stuck: it accepts, and says nothing."""
    path = tmp_path / "mute.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        found = client.connect(str(path))
        with pytest.raises(errors.Unreachable, match=r"did not answer within 0.2 seconds"):
            found._call(netd_pb2.VersionReply, found._stub.Version, netd_pb2.VersionRequest(), 0.2)
        found.close()


def test_stream_that_is_dropped_is_cancelled(daemon: FakeDaemon, connected: client.Client) -> None:
    request = netd_pb2.StreamInput(run=netd_pb2.RunRequest(command=["trap"]))
    outputs = connected.run([request])
    assert next(outputs).HasField("started")
    assert next(outputs).stdout == b"ready\n"
    outputs.close()  # type: ignore[attr-defined]
    assert daemon.cancelled.wait(10)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_client_does_without_asyncio() -> None:
    assert run("import sys, netd.api.client; print('asyncio' in sys.modules, 'grpc.aio' in sys.modules)") == (
        "False False"
    )


def test_grpc_aio_still_works_after_the_client(tmp_path: Path) -> None:
    """As in a test, or in a program that uses the client and an asyncio server."""
    code = f"""
import netd.api.client
import asyncio, grpc.aio
from netd.api import netd_pb2 as pb, netd_pb2_grpc

class Service(netd_pb2_grpc.NetdServicer):
    async def Version(self, request, context):
        return pb.VersionReply(version="aio")

async def main():
    server = grpc.aio.server()
    netd_pb2_grpc.add_NetdServicer_to_server(Service(), server)
    server.add_insecure_port("unix:{tmp_path}/aio.sock")
    await server.start()
    async with grpc.aio.insecure_channel("unix:{tmp_path}/aio.sock") as channel:
        print((await netd_pb2_grpc.NetdStub(channel).Version(pb.VersionRequest())).version)
    await server.stop(None)

asyncio.run(main())
"""
    assert run(code) == "aio"


def test_grpc_that_is_there_already_is_left_alone() -> None:
    code = "import grpc, sys; aio = sys.modules['grpc.aio']; import netd.api.client; print(grpc.aio is aio)"
    assert run(code) == "True"


def test_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(13, os.strerror(13))
    text = client._why_unreachable("/run/netd/netd.sock", error)
    assert "run as root, or join the group" in text


def test_grpc_says_nothing_on_stderr() -> None:
    assert grpc.__version__
    assert os.environ["GRPC_VERBOSITY"] == "NONE"
