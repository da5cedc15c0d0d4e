"""Both ends of a conversation, for containers and for the machines around the host.

Standard library only: it runs under any Python 3.11, in a container that sees nothing but this file.

    wire.py serve NAME tcp:80 udp:53 ...        answer "NAME CLIENT-ADDRESS CLIENT-PORT"
    wire.py ask SECONDS tcp,ADDRESS,PORT ...    ask all at once; print JSON {target: answer or null}
    wire.py flood tcp|udp ADDRESS PORT          a numbered message each 10 ms until standard input ends;
                                                print who answers whenever that changes ("from NAME"),
                                                last JSON {sent, answered, longest_gap}
    wire.py send INTERFACE HEX ...              put raw frames on the wire
    wire.py listen INTERFACE SECONDS            print frames as hex until the time is over or stdin ends;
                                                fail if one was missed
"""

import contextlib
import json
import selectors
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

# asm-generic/socket.h (the first asks for CAP_NET_ADMIN), linux/socket.h, linux/if_packet.h
SO_RCVBUFFORCE, SOL_PACKET, PACKET_STATISTICS = 33, 263, 6


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def until_stdin_ends() -> threading.Event:
    """Set once whoever holds the other end of standard input lets go of it."""
    over = threading.Event()

    def read() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=read, daemon=True).start()
    return over


def serve(name: str, *ports: str) -> None:
    """Listen on every port in both families (IPv4 only where the namespace has no IPv6)."""
    events = selectors.DefaultSelector()
    for port in ports:
        kind, _, number = port.partition(":")
        stream = kind == "tcp"
        where = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        where.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        where.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not stream:
            # So that the answer leaves from the address that was asked, as a real server's would.
            where.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            if kind == "patient-udp":  # who waits for a processor is to lose nothing, however late it answers
                where.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)
        where.bind(("::", int(number)))
        if stream:
            where.listen(128)
        events.register(where, selectors.EVENT_READ, stream)
    print("ready", flush=True)
    while True:
        for key, _ in events.select():
            where = key.fileobj  # type: ignore[assignment]
            if key.data:
                connection, peer = where.accept()
                threading.Thread(target=_converse, args=(name, connection, peer), daemon=True).start()
            else:
                data, ancillary, _, peer = where.recvmsg(2048, 256)
                pktinfo = [a for a in ancillary if a[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
                where.sendmsg([_answer(name, peer) + data], pktinfo, 0, peer)


def _answer(name: str, peer: tuple) -> bytes:  # type: ignore[type-arg]
    return f"{name} {peer[0].removeprefix('::ffff:')} {peer[1]} ".encode()


def _converse(name: str, connection: socket.socket, peer: tuple) -> None:  # type: ignore[type-arg]
    with connection:
        while data := connection.recv(2048):
            connection.sendall(_answer(name, peer) + data)


def ask(seconds: str, *targets: str) -> None:
    """Ask every target at once; an answer, or null for a refusal or silence."""
    answers: dict[str, str | None] = dict.fromkeys(targets)

    def one(target: str) -> None:
        kind, address, port = target.split(",")
        stream = kind == "tcp"
        try:
            with socket.socket(family(address), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as s:
                s.settimeout(float(seconds))
                s.connect((address, int(port)))
                s.sendall(b"?")
                answers[target] = s.recv(2048).decode().removesuffix("?").strip()
        except OSError:
            pass

    threads = [threading.Thread(target=one, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


def flood(kind: str, address: str, port: str) -> None:
    """One conversation that must never break: a connection that is lost ends it."""
    s = socket.socket(family(address), socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(2)
    s.connect((address, int(port)))
    over = until_stdin_ends()
    sent = answered = 0
    longest = 0.0
    last = ""
    print("ready", flush=True)
    while not over.is_set():
        began = time.monotonic()
        sent += 1
        try:
            s.sendall(b"%08d" % sent)
            received = s.recv(2048)
            answered += received.endswith(b"%08d" % sent)
            if (name := received.decode().split(" ")[0]) != last:
                last = name
                print(f"from {name}", flush=True)
        except OSError:
            if kind == "tcp":
                break
        longest = max(longest, time.monotonic() - began)
        over.wait(0.01)
    print(json.dumps({"sent": sent, "answered": answered, "longest_gap": longest}), flush=True)


def send(interface: str, *frames: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((interface, 0))
        for frame in frames:
            s.send(bytes.fromhex(frame))


def listen(interface: str, seconds: str) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as s:
        with contextlib.suppress(PermissionError):  # a container does with what it gets
            s.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        s.bind((interface, 0))
        s.settimeout(0.05)
        over = until_stdin_ends()
        deadline = time.monotonic() + float(seconds)
        print("ready", flush=True)
        while time.monotonic() < deadline:
            try:
                data, where = s.recvfrom(65536)
            except TimeoutError:
                if over.is_set():
                    break
                continue
            if where[2] != 4:  # PACKET_OUTGOING: what this side sends itself
                print(data.hex(), flush=True)
        _, lost = struct.unpack("II", s.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        if lost:
            sys.exit(f"{lost} frames were not heard")


if __name__ == "__main__":
    VERBS: dict[str, Callable[..., None]] = {
        "serve": serve,
        "ask": ask,
        "flood": flood,
        "send": send,
        "listen": listen,
    }
    VERBS[sys.argv[1]](*sys.argv[2:])
