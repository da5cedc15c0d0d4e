"""The protocol of WireGuard processes, word for word as described, and with one that misbehaves."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from netd import keys
from netd.errors import KernelError, Unavailable
from netd.kernel import uapi
from netd.kernel.fastnl import Refused
from netd.objects import WireGuardPeer

PRIVATE = keys.text_of(bytes(range(32)))
PUBLIC = keys.text_of(bytes(range(100, 132)))
PEER = WireGuardPeer("wg0", PUBLIC, IPv6Address("fd00::2"), IPv4Address("192.0.2.2"), 51820)


def test_what_is_said() -> None:
    private, public = bytes(range(32)).hex(), bytes(range(100, 132)).hex()
    assert uapi.request([("get", "1")]) == b"get=1\n\n"
    assert uapi.request(uapi.device(PRIVATE, 51820)).decode() == (
        f"set=1\nprivate_key={private}\nlisten_port=51820\n\n"
    )
    assert uapi.request(uapi.peer_add(PEER, 25)).decode() == (
        f"set=1\npublic_key={public}\nendpoint=192.0.2.2:51820\nreplace_allowed_ips=true\n"
        "allowed_ip=fd00::2/128\npersistent_keepalive_interval=25\n\n"
    )
    six = WireGuardPeer("wg0", PUBLIC, IPv6Address("fd00::2"), IPv6Address("2001:db8::2"), 51820)
    assert ("endpoint", "[2001:db8::2]:51820") in uapi.peer_add(six, 25)
    assert uapi.request(uapi.peer_remove(PUBLIC)).decode() == f"set=1\npublic_key={public}\nremove=true\n\n"


ANSWER = f"""private_key={bytes(range(32)).hex()}
listen_port=51820
public_key={bytes(range(100, 132)).hex()}
preshared_key={"0" * 64}
protocol_version=1
endpoint=192.0.2.2:51820
last_handshake_time_sec=0
tx_bytes=148
persistent_keepalive_interval=65535
allowed_ip=fd00::2/128
public_key={bytes(range(60, 92)).hex()}
endpoint=[2001:db8::3]:4000
allowed_ip=fd00::3/128
allowed_ip=10.0.0.0/8
public_key={bytes(range(61, 93)).hex()}
errno=0

"""


def test_what_is_answered() -> None:
    public, port, peers = uapi.described("wg0", uapi.parse(ANSWER.encode()))
    assert public == keys.public_of(PRIVATE)
    assert port == 51820
    assert peers == [
        PEER,
        WireGuardPeer("wg0", keys.text_of(bytes(range(60, 92))), None, IPv6Address("2001:db8::3"), 4000),
        WireGuardPeer("wg0", keys.text_of(bytes(range(61, 93))), None, None, 0),
    ]
    assert uapi.described("wg0", uapi.parse(b"errno=0\n\n")) == ("", 0, [])


def test_a_refusal_has_its_number() -> None:
    with pytest.raises(Refused) as refused:
        uapi.parse(b"errno=-98\n\n")
    assert refused.value.errno == 98


@contextmanager
def process(answer: Callable[[bytes], bytes]) -> Iterator[list[bytes]]:
    """Somebody at the socket of wg0; gives what it was told."""
    told: list[bytes] = []
    uapi.SOCKETS.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(uapi.path_of("wg0")))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                told.append(connection.recv(4096))
                connection.sendall(answer(told[-1]))

        thread = threading.Thread(target=serve)
        thread.start()
        yield told
        thread.join()


@pytest.fixture(autouse=True)
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "SOCKETS", tmp_path / "wireguard")


def test_a_question() -> None:
    assert not uapi.alive("wg0")
    with process(lambda _: ANSWER.encode()) as told:
        assert uapi.ask("wg0", [("get", "1")]) == uapi.parse(ANSWER.encode())
    assert told == [b"get=1\n\n"]


def test_one_that_hangs_up_or_is_not_there_is_named() -> None:
    with process(lambda _: b"listen_port=1\n"), pytest.raises(Unavailable, match=r"'wg0'.*hung up"):
        uapi.ask("wg0", [("get", "1")])
    with pytest.raises(Unavailable, match=r"wireguard/wg0\.sock does not answer"):
        uapi.ask("wg0", [("get", "1")])


def test_what_cannot_be_started_is_named() -> None:
    with pytest.raises(KernelError, match="/nonexistent/go"):
        uapi.start("/nonexistent/go", "wg0")
    with pytest.raises(Unavailable, match="/bin/false ended at once"):
        uapi.start("/bin/false", "wg0")
