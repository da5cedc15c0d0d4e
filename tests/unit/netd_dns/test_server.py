"""What the daemon can tell the server, and what becomes of it; over real sockets on the loopback."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest

from netd_dns import control, server
from netd_dns.server import Server
from tests.unit.netd_dns.stub import until
from tests.unit.netd_dns.world import endpoint


class Daemon:
    """The other end of the control socket."""

    def __init__(self, path: Path) -> None:
        self.directory = path
        self.home = os.open(path, os.O_PATH | os.O_DIRECTORY)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(str(path / "dns.sock"))
        listening.listen()
        self.server = Server(listening, self.home, "code", str(path / "resolv.conf"))
        self.sockets: dict[str, socket.socket] = {}
        self.connection = self.connect()
        self._listening = listening
        self._seq = 0

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.connect(str(self.directory / "dns.sock"))
        connection.setblocking(False)
        self.server.loop.turn(0)
        return connection

    def tell(
        self, op: str, descriptors: Sequence[int] = (), **fields: Any
    ) -> tuple[dict[str, Any], list[int]]:
        self._seq += 1
        control.send(self.connection, control.encode({"op": op, "seq": self._seq, **fields}), descriptors)
        answers: list[tuple[dict[str, Any], list[int]]] = []

        def answered() -> bool:
            try:
                answers.append(control.receive(self.connection))
            except BlockingIOError:
                return False
            return True

        until(self.server.loop, answered)
        assert answers[0][0].pop("seq") == self._seq
        return answers[0]

    def network(self, name: str, subnet: str = "127.0.0.0/8", **fields: Any) -> None:
        """A network whose gateway is the loopback."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        stream = socket.create_server(sock.getsockname())
        if name in self.sockets:
            self.sockets[name].close()
        self.sockets[name] = sock
        value = {
            "id": f"{name}-id",
            "name": name,
            "internal": False,
            "subnets": [subnet],
            "dns": [],
            **fields,
        }
        listen = [["udp", "127.0.0.1"], ["tcp", "127.0.0.1"]]
        assert self.tell("network", [sock.fileno(), stream.fileno()], listen=listen, **value) == ({}, [])
        stream.close()

    def sandboxes(self, *values: dict[str, Any]) -> dict[str, Any]:
        whole = [{"name": v["id"], "hosts": [], "dns": [], "services": [], **v} for v in values]
        return self.tell("sandboxes", sandboxes=whole)[0]

    def ask(self, network: str, name: str) -> dns.message.Message | None:
        """The answer over UDP; None if nobody listens."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as client:
            client.connect(self.sockets[network].getsockname())
            client.send(dns.message.make_query(name, "A").to_wire())
            for _ in range(20):
                self.server.loop.turn(0.005)
                try:
                    return dns.message.from_wire(client.recv(4096))
                except BlockingIOError:
                    continue
        return None

    def close(self) -> None:
        self.connection.close()
        for sock in self.sockets.values():
            sock.close()
        for id in list(self.server._listeners):
            self.server._remove(id)
        if self.server._daemon is not None:
            self.server._orphaned()
        self._listening.close()
        os.close(self.home)
        self.server.loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


def web(address: str = "127.0.0.2", network: str = "front-id", **fields: Any) -> dict[str, Any]:
    return {"id": "web", "endpoints": [endpoint(network, "web", address)], **fields}


def test_says_who_it_is_and_hands_its_control_socket_on(daemon: Daemon) -> None:
    daemon.network("front")
    hello, descriptors = daemon.tell("hello")
    assert (hello["version"], hello["code"], hello["pid"]) == (control.VERSION, "code", os.getpid())
    assert hello["networks"] == 1
    with socket.socket(fileno=descriptors[0]) as listening:
        assert listening.getsockname() == str(daemon.directory / "dns.sock")


def test_gives_sockets_back(daemon: Daemon) -> None:
    daemon.network("front")
    answer, descriptors = daemon.tell("sockets", place=0)
    assert answer["id"] == "front-id"
    assert answer["listen"] == [["tcp", "127.0.0.1"], ["udp", "127.0.0.1"]]
    for descriptor in descriptors:
        with socket.socket(fileno=descriptor) as sock:
            assert sock.getsockname() == daemon.sockets["front"].getsockname()


def test_what_is_told_is_answered(daemon: Daemon) -> None:
    daemon.network("front")
    assert daemon.sandboxes(web()) == {}
    answer = daemon.ask("front", "web")
    assert answer is not None
    assert str(answer.answer[0][0]) == "127.0.0.2"
    daemon.sandboxes({"id": "web", "endpoints": []})
    answer = daemon.ask("front", "web")
    assert answer is not None
    assert answer.rcode() == dns.rcode.NXDOMAIN
    daemon.tell("network_removed", id="front-id")
    assert daemon.ask("front", "web") is None


def test_questions_wait_until_a_snapshot_is_whole(daemon: Daemon) -> None:
    daemon.tell("begin")
    daemon.network("front")
    assert daemon.ask("front", "web") is None
    daemon.sandboxes(web())
    assert daemon.ask("front", "web") is None
    assert daemon.tell("end")[0] == {"networks": 1, "sandboxes": 1}
    answer = daemon.ask("front", "web")
    assert answer is not None
    assert answer.rcode() == dns.rcode.NOERROR


def test_a_snapshot_sweeps_what_it_does_not_name(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.network("back", subnet="10.0.1.0/24")
    daemon.sandboxes(web(), {"id": "old", "endpoints": [endpoint("front-id", "old", "127.0.0.3")]})
    daemon.tell("begin")
    daemon.network("front")
    daemon.sandboxes(web())
    assert daemon.tell("end")[0] == {"networks": 1, "sandboxes": 1}
    assert daemon.server.zone.sandboxes.keys() == {"web"}
    assert daemon.ask("back", "web") is None


def test_who_was_known_is_looked_up_again_after_a_change(daemon: Daemon) -> None:
    """The client's address was nobody's and becomes the sandbox of another view."""
    daemon.network("front")
    daemon.sandboxes(web())
    assert daemon.ask("front", "oracle").rcode() == dns.rcode.NXDOMAIN  # type: ignore[union-attr]
    me = {
        "id": "me",
        "endpoints": [endpoint("front-id", "me", "127.0.0.1")],
        "hosts": [["oracle", "192.0.2.1"]],
    }
    daemon.sandboxes(me)
    assert daemon.ask("front", "oracle").rcode() == dns.rcode.NOERROR  # type: ignore[union-attr]


def test_a_bad_message_is_answered_with_what_is_wrong(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    assert "error" in daemon.tell("nonsense")[0]
    assert "error" in daemon.tell("network", id="x")[0]
    assert "10.0.0" in daemon.sandboxes(web("10.0.0"))["error"]
    assert "not an IP address" in daemon.tell("configure", upstreams=["example.com"])[0]["error"]
    assert daemon.tell("ping")[0] == {}


def test_a_new_daemon_takes_over_from_the_old(daemon: Daemon) -> None:
    old, daemon.connection = daemon.connection, daemon.connect()
    assert daemon.tell("ping")[0] == {}
    assert old.recv(100) == b""
    old.close()


def test_a_daemon_that_dies_is_not_missed(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.sandboxes(web())
    daemon.connection.close()
    assert daemon.ask("front", "web") is not None
    daemon.connection = daemon.connect()
    assert daemon.tell("ping")[0] == {}


def test_junk_on_the_control_socket_ends_the_connection(daemon: Daemon) -> None:
    daemon.connection.send(b"junk")
    daemon.server.loop.turn(0.1)
    assert daemon.server._daemon is None


def test_an_orphan_goes_when_its_directory_does(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(daemon.server.loop, "stop", lambda: stopped.append(True))
    (daemon.directory / "dns.sock").unlink()
    daemon.directory.rmdir()
    daemon.server._look_around()
    assert not stopped, "not while the daemon lives"
    daemon.connection.close()
    daemon.server.loop.turn(0.1)
    daemon.server._look_around()
    assert stopped
    daemon.directory.mkdir()


def test_explains(daemon: Daemon) -> None:
    daemon.network("front", dns=["192.0.2.53"])
    daemon.sandboxes(web())
    answer, _ = daemon.tell("explain", sandbox="web", name="WEB.front")
    assert answer["kind"] == "HOST"
    assert answer["hosts"] == [{"sandbox": "web", "network": "front"}]
    assert answer["networks"] == ["front"]
    answer, _ = daemon.tell("explain", sandbox="web", name="example.com")
    assert (answer["kind"], answer["upstreams"]) == ("FOREIGN", ["192.0.2.53"])
    assert daemon.tell("explain", sandbox="nobody", name="web")[0]["kind"] is None


def test_answers_as_a_sandbox_would_be_answered(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.sandboxes(web())
    question = base64.b64encode(dns.message.make_query("web", "A").to_wire()).decode()
    answer, _ = daemon.tell("ask", sandbox="web", question=question)
    assert str(dns.message.from_wire(base64.b64decode(answer["answer"])).answer[0][0]) == "127.0.0.2"


def test_dumps_in_pieces_what_there_was_at_its_beginning(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ROWS", 2)
    daemon.network("front")
    daemon.sandboxes(
        {"id": "web", "endpoints": [endpoint("front-id", "web", "127.0.0.2", wildcards=["app"])]}
    )
    rows: list[list[str]] = []
    while page := daemon.tell("dump", dump=7)[0]["rows"]:
        assert len(page) == 2
        rows += page
        daemon.sandboxes({"id": "late", "endpoints": [endpoint("front-id", f"n{len(rows)}", "127.0.0.3")]})
    names = ["*.app", "*.app.front", "web", "web.front"]
    assert sorted(rows) == [["front", name, "127.0.0.2", "web"] for name in names]
    for number in range(50):
        daemon.tell("dump", dump=100 + number)
    assert len(daemon.server._dumps) <= server.DUMPS_MOST


def test_what_is_told_again_changes_nothing(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.sandboxes(web())
    daemon.ask("front", "web")
    finished = daemon.server.zone.shared("front-id").ready
    assert len(finished) == 1
    daemon.tell("begin")
    daemon.network("front")
    daemon.sandboxes(web())
    daemon.tell("end")
    assert daemon.server.zone.shared("front-id").ready is finished
    assert len(finished) == 1
    daemon.sandboxes(web("127.0.0.9"))
    assert not finished
    daemon.sandboxes({"id": "web", "endpoints": []}, web("127.0.0.9"))
    assert daemon.ask("front", "web").rcode() == dns.rcode.NOERROR  # type: ignore[union-attr]


def test_answers_that_do_not_fit_wait_and_so_do_further_requests(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            message = {"op": "sockets", "place": 0, "seq": sent}
            control.send(daemon.connection, control.encode(message))
            sent += 1
            daemon.server.loop.turn(0)
    got = 0
    while got < sent:
        daemon.server.loop.turn(0)
        try:
            answer, descriptors = control.receive(daemon.connection)
        except BlockingIOError:
            continue
        assert answer["seq"] == got
        for descriptor in descriptors:
            os.close(descriptor)
        got += 1
    assert daemon.server._daemon is not None
    assert sent > 100


def test_metrics(daemon: Daemon) -> None:
    daemon.network("front")
    daemon.sandboxes(web())
    daemon.ask("front", "web")
    daemon.ask("front", "nobody")
    metrics = daemon.tell("metrics")[0]["metrics"]
    assert metrics["udp"] == 2
    assert metrics["answers"]["NOERROR"] == metrics["answers"]["NXDOMAIN"] == 1
    assert metrics["failures"] == 0


def test_an_address_of_the_host_is_known_as_such() -> None:
    assert server.is_local("127.0.0.1")
    assert server.is_local("::1")
    assert not server.is_local("192.0.2.1")
    assert not server.is_local("2001:db8::1")
