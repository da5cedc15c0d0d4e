"""Both ends of a TCP connection that is measured; runs in a container's network namespace.

    stream.py serve                        listen on port 5201 for ever; says "ready"
    stream.py pour ADDRESS SECONDS         print how many bytes a second arrived at the other end
    stream.py pingpong ADDRESS SECONDS     print how many times a second one byte went there and back
    stream.py replay ADDRESS SECONDS       print how often a second one frame could be sent again
    stream.py until NAME PORT SECONDS      connect over and over; print the time (CLOCK_MONOTONIC) of success

Behind a rate stands how many nanoseconds of processor time both ends took for each byte or round trip:
what the kernel does for a packet is done in the sender's time or the receiver's, and other programs that
run meanwhile hardly change it. Standard library only.
"""

import socket
import sys
import threading
import time

PORT = 5201
POUR, ECHO = b"p", b"e"
CHUNK = 1 << 18
ETH_P_ALL, ACK = 3, 0x10
"""linux/if_ether.h; the one flag of a TCP header (RFC 9293, 3.1)."""
BATCH = 500


def answer(peer: socket.socket) -> None:
    """Swallow all, or send each byte back; at the end say how much it was a second, and the time it took."""
    with peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        verb, buffer, count = peer.recv(1), bytearray(CHUNK), 0
        began, busy = time.perf_counter(), time.thread_time()
        while size := peer.recv_into(buffer):
            count += size
            if verb == ECHO:
                peer.sendall(buffer[:size])
        took, used = time.perf_counter() - began, time.thread_time() - busy
        peer.sendall(f"{count} {count / took} {used}".encode())


def serve() -> None:
    with socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print("ready", flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=answer, args=(peer,), daemon=True).start()


def measured(verb: bytes, address: str, seconds: str) -> None:
    with socket.create_connection((address, PORT), 10) as out:
        out.settimeout(None)
        out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        out.sendall(verb)
        data = bytes(CHUNK if verb == POUR else 1)
        busy, end = time.thread_time(), time.perf_counter() + float(seconds)
        while time.perf_counter() < end:
            out.sendall(data)
            if verb == ECHO:
                out.recv(1)
        busy = time.thread_time() - busy
        out.shutdown(socket.SHUT_WR)
        count, rate, used = map(float, out.makefile().read().split())
        print(rate, (busy + used) / count * 1e9)


def pour(address: str, seconds: str) -> None:
    measured(POUR, address, seconds)


def pingpong(address: str, seconds: str) -> None:
    measured(ECHO, address, seconds)


def replay(address: str, seconds: str) -> None:
    """Only processor time counts, so the rate says little of a wire and all of what a frame costs: it is an
    acknowledgement that the other end has had, which takes it in and says nothing, in the sender's time."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ear:
        ear.bind(("eth0", ETH_P_ALL))
        ear.settimeout(10)
        with socket.create_connection((address, PORT), 10):
            while True:
                frame, where = ear.recvfrom(2048)
                if where[2] == socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00" and frame[47] == ACK:
                    break
            ear.close()  # it would hear each of them
            mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            mouth.bind(("eth0", 0))
            count, busy, end = 0, time.thread_time(), time.perf_counter() + float(seconds)
            while time.perf_counter() < end:
                for _ in range(BATCH):
                    mouth.send(frame)
                count += BATCH
            busy = time.thread_time() - busy
    print(count / busy, busy / count * 1e9)


def until(name: str, port: str, seconds: str) -> None:
    print("ready", flush=True)
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        try:
            with socket.create_connection((name, int(port)), 0.5):
                print(time.monotonic())
                return
        except OSError:
            time.sleep(0.001)
    sys.exit(f"{name} did not answer within {seconds} s")


if __name__ == "__main__":
    VERBS = {"serve": serve, "pour": pour, "pingpong": pingpong, "replay": replay, "until": until}
    VERBS[sys.argv[1]](*sys.argv[2:])  # type: ignore[operator]
