"""A DNS server of the outside world, which remembers what it was asked. Standard library only.

    dns_upstream.py ADDRESS MARK LOG

Answers every A question with 192.0.2.MARK, everything else with "no data", and writes each question's
name and type to LOG, a line each, with "edns" behind it if it came with an OPT record. Names that begin
with "big" have 100 addresses, which only TCP is told.
"""

import socket
import sys
import threading
from pathlib import Path
from typing import IO

A = b"\x00\x01\x00\x01"


def answer(data: bytes, mark: int, file: IO[str], udp: bool) -> bytes:
    """The answer to one message, which is noted in `file`."""
    position, labels = 12, []
    while data[position]:
        labels.append(data[position + 1 : position + 1 + data[position]].decode())
        position += data[position] + 1
    question = data[12 : position + 5]
    edns = " edns" if data[11] else ""
    file.write(f"{'.'.join(labels)} {int.from_bytes(question[-4:-2], 'big')}{edns}\n")
    big = labels[0].startswith("big")
    marks = range(100) if big else [mark]
    records = [b"\xc0\x0c" + A + b"\x00\x00\x01\x2c\x00\x04\xc0\x00\x02" + bytes([m]) for m in marks]
    if not question.endswith(A) or (big and udp):
        records = []
    flags = b"\x83\x80" if big and udp else b"\x81\x80"
    head = data[:2] + flags + b"\x00\x01" + len(records).to_bytes(2, "big") + b"\x00\x00\x00\x00"
    return head + question + b"".join(records)


def over_tcp(listener: socket.socket, mark: int, file: IO[str]) -> None:
    """One question a connection."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            size = int.from_bytes(stream.read(2), "big")
            message = answer(stream.read(size), mark, file, udp=False)
            connection.sendall(len(message).to_bytes(2, "big") + message)


def main(address: str, mark: int, log: Path) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    listener = socket.create_server((address, 53), family=family)
    with log.open("a", buffering=1) as file:
        threading.Thread(target=over_tcp, args=(listener, mark, file), daemon=True).start()
        print("ready", flush=True)
        while True:
            data, peer = sock.recvfrom(4096)
            sock.sendto(answer(data, mark, file, udp=True), peer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
