from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable

from netd.api import netd_pb2 as pb
from netd.cli.render import timestamp
from tests.fake_daemon import STARTED, FakeDaemon
from tests.unit.cli.conftest import Cli

Spawn = Callable[..., "subprocess.Popen[bytes]"]
EVENT = pb.Event(
    time=STARTED, type="network", action="create", id="ab" * 32, name="front", attributes={"k": "v\n"}
)


def test_each_event_is_a_line_at_once(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("events")
    assert process.stdout is not None
    daemon.events.put(EVENT)
    line = process.stdout.readline().decode()  # while the stream is still open
    assert line == f"{timestamp(STARTED)} network create front (abababababab) k=v\\n\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130


def test_json_lines(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("events", "--json")
    assert process.stdout is not None
    daemon.events.put(EVENT)
    found = json.loads(process.stdout.readline())
    assert found["attributes"] == {"k": "v\n"}
    assert set(found) == {field.name for field in pb.Event.DESCRIPTOR.fields}


def test_the_daemon_goes_away(spawn: Spawn, daemon: FakeDaemon) -> None:
    process = spawn("events")
    assert process.stdout is not None
    daemon.events.put(EVENT)
    process.stdout.readline()
    daemon._server.stop(None)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 125
    assert err.startswith(b"netd: lost the daemon at ")


def test_the_daemon_stops_in_good_order(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.events.put(EVENT)
    daemon.events.put(None)
    answer = cli("events")
    assert (answer.code, answer.out.count("\n")) == (125, 1)
    assert answer.err == f"netd: the daemon at {daemon.path} has stopped\n"
