"""Starting, finding and ending the server process; and the link to it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from netd import dns_process
from netd.dns_process import ControlSocket, Link
from netd.errors import Unavailable
from netd_dns import control
from tests.kernel.dnslab import network


async def test_sockets_are_opened_before_the_addresses_exist() -> None:
    """The bridge may be repaired, and its addresses with it, while the server listens."""
    opened = dns_process.open_sockets(network("front", 1))
    try:
        assert set(opened) == {
            (kind, address) for kind in ("udp", "tcp") for address in ("10.99.1.1", "fd99:1::1")
        }
        assert all(sock.getsockname()[1] == 53 for sock in opened.values())
        assert not any(sock.get_inheritable() for sock in opened.values())
    finally:
        for sock in opened.values():
            sock.close()


async def test_starts_answers_and_stops(tmp_path: Path) -> None:
    lost: list[Link] = []
    place = ControlSocket(tmp_path)
    link = place.start_server("code", b"", lost.append)
    assert (await link.call({"op": "hello"}))["code"] == "code"
    assert (tmp_path / "dns.sock").stat().st_mode & 0o777 == 0o600
    second = place.connect(lost.append)
    assert second is not None
    hello, descriptors = await second.call_for_descriptors({"op": "hello"})
    assert hello["pid"] == int((tmp_path / "dns.pid").read_text())
    for descriptor in descriptors:
        os.close(descriptor)
    await second.call({"op": "stop"})
    await place.ended()
    second.close()
    assert lost == [link, second], "the first learned that the second took over"
    place.close()
    assert ControlSocket(tmp_path).connect(lost.append) is None


async def test_kills_the_server_and_nobody_else(tmp_path: Path) -> None:
    place = ControlSocket(tmp_path)
    await place.kill_server()  # there is none
    (tmp_path / "dns.pid").write_text("junk")
    await place.kill_server()
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    (tmp_path / "dns.pid").write_text(str(bystander.pid))
    await place.kill_server()
    assert bystander.returncode is None
    bystander.terminate()
    assert await bystander.wait() == -15
    link = place.start_server("code", b"", lambda _: None)
    await link.call({"op": "ping"})
    await place.kill_server()
    await place.ended()
    link.close()
    place.close()


async def test_a_request_that_is_not_answered_ends_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_process, "ANSWER_TIME", 0.05)
    ours, theirs = control.pair()
    lost: list[Link] = []
    link = Link(ours, lost.append)
    other = link.request({"op": "other"})
    with pytest.raises(Unavailable, match="did not answer"):
        await link.call({"op": "ping"})
    assert lost == [link]
    with pytest.raises(Unavailable):
        await other
    with pytest.raises(Unavailable):
        await link.call({"op": "ping"})
    theirs.close()


async def test_a_refusal_is_the_servers_own_words() -> None:
    ours, theirs = control.pair()
    link = Link(ours, lambda _: None)
    future = link.request({"op": "x"})
    message, _ = control.receive(theirs)
    control.send(theirs, control.encode({"seq": message["seq"], "error": "ValueError: no"}))
    with pytest.raises(Unavailable, match="ValueError: no"):
        await future
    link.close()
    theirs.close()


async def test_more_than_fits_is_sent_as_there_is_room() -> None:
    ours, theirs = control.pair()
    theirs.setblocking(False)
    link = Link(ours, lambda _: None)
    reading, writing = os.pipe()
    pending = [link.request({"n": n, "text": "x" * 50_000}, [writing]) for n in range(40)]
    os.close(writing)  # the link has its own copies
    seen = 0
    while seen < 40:
        try:
            message, descriptors = control.receive(theirs)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        assert message["n"] == seen
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(theirs, control.encode({"seq": message["seq"]}))
        seen += 1
    await asyncio.gather(*pending)
    assert os.read(reading, 1) == b"", "every copy must be closed"
    os.close(reading)
    link.close()
    theirs.close()


async def test_code_has_a_version_that_follows_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dns_process.code_version()
    assert dns_process.code_version() == before
    (tmp_path / "wire.py").write_text("x = 1\n")
    monkeypatch.setattr(dns_process, "_HOME", tmp_path)
    first = dns_process.code_version()
    (tmp_path / "wire.py").write_text("x = 2\n")
    assert len({before, first, dns_process.code_version()}) == 3


async def test_nobody_listens_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    place = ControlSocket(tmp_path)
    with pytest.raises(Unavailable, match="could not be started"):
        place.start_server("code", b"", lambda _: None)
    place.close()


async def test_adopted_sockets_keep_their_names() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        adopted = dns_process.adopt_sockets([["udp", "10.0.0.1"]], [os.dup(sock.fileno())])
        (key,) = adopted
        assert key == ("udp", "10.0.0.1")
        assert adopted[key].getsockname() == sock.getsockname()
        adopted[key].close()
