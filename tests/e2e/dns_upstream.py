"""A DNS server of the outside world, which remembers what it was asked. Standard library only.

    dns_upstream.py ADDRESS MARK LOG

Answers every A question with 192.0.2.MARK, everything else with "no data", and writes each question's
name and type to LOG, a line each.
"""

import socket
import sys
from pathlib import Path

A = b"\x00\x01\x00\x01"


def main(address: str, mark: int, log: Path) -> None:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    print("ready", flush=True)
    with log.open("a", buffering=1) as file:
        while True:
            data, peer = sock.recvfrom(4096)
            position, labels = 12, []
            while data[position]:
                labels.append(data[position + 1 : position + 1 + data[position]].decode())
                position += data[position] + 1
            question = data[12 : position + 5]
            file.write(f"{'.'.join(labels)} {int.from_bytes(question[-4:-2], 'big')}\n")
            answer = b"\xc0\x0c" + A + b"\x00\x00\x01\x2c\x00\x04\xc0\x00\x02" + bytes([mark])
            body = (1, answer) if question.endswith(A) else (0, b"")
            head = data[:2] + b"\x81\x80\x00\x01" + body[0].to_bytes(2, "big") + b"\x00\x00\x00\x00"
            sock.sendto(head + question + body[1], peer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
