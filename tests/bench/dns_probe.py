"""How long single questions take: asks SERVER for NAME, COUNT times, some milliseconds apart.

Prints JSON: milliseconds p50, p99, and how many were lost. Standard library only.
"""

import json
import socket
import sys
import time


def main(server: str, name: str, count: int) -> None:
    """Ask and print."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((server, 53))
    sock.settimeout(1.0)
    tail = (
        b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
        + bytes([len(name)])
        + name.encode()
        + b"\x00\x00\x01\x00\x01"
    )
    taken, lost = [], 0
    for number in range(count):
        asked = number.to_bytes(2, "big") + tail
        began = time.perf_counter()
        sock.send(asked)
        try:
            while sock.recv(2048)[:2] != asked[:2]:
                pass
            taken.append((time.perf_counter() - began) * 1e3)
        except TimeoutError:
            lost += 1
        time.sleep(0.002)
    taken.sort()
    if not taken:
        taken = [float("inf")]
    result = {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100], "lost": lost}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
