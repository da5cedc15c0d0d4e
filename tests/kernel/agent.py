"""One machine of a packet laboratory: a process in a network namespace of its own that does as told.

Started under `unshare --net`. Reads one JSON request a line, answers each with one line, and ends,
and with it the namespace, when its standard input does. Standard library only.

    run ARGV INPUT            a program; answers its output, or raises
    write PATH TEXT           a sysctl
    serve NAME PORTS          answer "NAME CLIENT-ADDRESS" on each (protocol, port), in both families
    ask TARGETS SECONDS       ask all (protocol, address, port) at once; the answers, null for silence
    send IFNAME FRAMES        raw frames, hex
    tell ADDRESS PORT TEXT    a datagram
    capture IFNAME            from now on, remember what arrives there
    captured IFNAME MARK SECONDS    what arrived there up to a frame that contains MARK, hex
"""

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PACKET_OUTGOING = 4
_captures: dict[str, tuple[socket.socket, list[bytes]]] = {}


def run(argv: list[str], input: str = "") -> str:
    done = subprocess.run(argv, input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()} {done.stdout.strip()}")
    return done.stdout


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


def serve(name: str, ports: list[tuple[str, int]]) -> None:
    for kind, port in ports:
        stream = kind == "tcp"
        where = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        where.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        where.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where.bind(("::", port))
        if stream:
            where.listen(64)
        else:
            # The answer must leave from the address that was asked.
            where.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        threading.Thread(target=_accept if stream else _echo, args=(where, name), daemon=True).start()


def _accept(where: socket.socket, name: str) -> None:
    while True:
        connection, peer = where.accept()
        with connection:
            connection.sendall(f"{name} {peer[0].removeprefix('::ffff:')}".encode())


def _echo(where: socket.socket, name: str) -> None:
    while True:
        data, ancillary, _, peer = where.recvmsg(2048, 256)
        pktinfo = [item for item in ancillary if item[:2] == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)]
        answer = f"{name} {peer[0].removeprefix('::ffff:')}".encode()
        where.sendmsg([answer + data.removeprefix(b"?")], pktinfo, 0, peer)


def ask(targets: list[tuple[str, str, int]], seconds: float) -> list[str | None]:
    answers: list[str | None] = [None] * len(targets)

    def one(index: int, kind: str, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            if kind == "icmp":
                answers[index] = _ping(family, address, seconds)
                return
            with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as s:
                s.settimeout(seconds)
                s.connect(socket.getaddrinfo(address, port, family)[0][4])  # minds a zone, "%eth0"
                if kind == "udp":
                    s.sendall(b"?")
                answers[index] = s.recv(2048).decode() or None
        except OSError:
            pass

    threads = [threading.Thread(target=one, args=(i, *target)) for i, target in enumerate(targets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def _ping(family: int, address: str, seconds: float) -> str | None:
    protocol, kind = (socket.IPPROTO_ICMP, 8) if family == socket.AF_INET else (socket.IPPROTO_ICMPV6, 128)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as s:
        s.settimeout(seconds)
        s.connect((address, 0))
        s.sendall(bytes([kind, 0, 0, 0, 0, 0, 0, 1]) + b"ping")
        return "pong" if s.recv(2048)[8:] == b"ping" else None


def send(ifname: str, frames: list[str]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind((ifname, 0))
        for frame in frames:
            s.send(bytes.fromhex(frame))


def tell(address: str, port: int, text: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), (address, port))


def capture(ifname: str) -> None:
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind((ifname, 0))
    _captures[ifname] = s, []


def captured(ifname: str, mark: str, seconds: float) -> list[str]:
    s, frames = _captures.pop(ifname)
    deadline = time.monotonic() + seconds
    with s:
        while time.monotonic() < deadline:
            s.settimeout(max(0.01, deadline - time.monotonic()))
            data, where = s.recvfrom(65536)
            if where[2] != PACKET_OUTGOING:
                frames.append(data)
                if mark.encode() in data:
                    return [frame.hex() for frame in frames]
    raise TimeoutError(f"no frame with {mark!r} within {seconds:g} s")


def main() -> None:
    verbs: dict[str, Any] = {
        verb.__name__: verb for verb in (run, write, serve, ask, send, tell, capture, captured)
    }
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
    print(json.dumps({"ok": Path("/proc/self").readlink().name}), flush=True)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            answer = {"ok": verbs[verb](*arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
