"""WireGuard in a process: the protocol by which one is configured, and how one is started.

Where the kernel has no WireGuard, a program such as wireguard-go does it on a TUN device of the wanted
name. It listens at /run/wireguard/NAME.sock for lines of KEY=VALUE; an empty line ends a request and an
answer, and `errno=0` is its last line where all went well (wireguard.com/xplatform). Keys are in hex.

Such a process ends when its device is removed, and its device goes when it ends. It is no part of the
daemon's life: the data path needs no daemon. So one that the daemon started has a session of its own, and
is found again by its socket.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from netd import keys
from netd.errors import KernelError, Unavailable
from netd.kernel import threads
from netd.kernel.fastnl import Refused
from netd.objects import WireGuardPeer

log = logging.getLogger(__name__)

SOCKETS = Path("/run/wireguard")
PATIENCE = 3.0
"""Seconds that a process gets for an answer, or for its first sign of life."""
LONGEST = 1 << 26
"""Bytes of an answer: a hundred thousand peers."""
TUN = Path("/dev/net/tun")

Line = tuple[str, str]


def path_of(name: str) -> Path:
    """Where the process behind device `name` listens."""
    return SOCKETS / f"{name}.sock"


def alive(name: str) -> bool:
    """Whether a process holds the device `name`."""
    try:
        _connect(name).close()
    except OSError:
        return False
    return True


def _connect(name: str) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    link.settimeout(PATIENCE)
    try:
        link.connect(str(path_of(name)))
    except OSError:
        link.close()
        raise
    return link


def request(lines: Iterable[Line]) -> bytes:
    """A request, or an answer, as it travels."""
    return ("".join(f"{key}={value}\n" for key, value in lines) + "\n").encode("ascii")


def parse(data: bytes) -> list[Line]:
    """The lines of an answer but for `errno`. Raises `Refused` with the number that it tells."""
    found: list[Line] = []
    for line in data.decode("ascii", "replace").splitlines():
        key, _, value = line.partition("=")
        if key == "errno":
            if (code := int(value)) != 0:
                raise Refused(abs(code))
        elif key:
            found.append((key, value))
    return found


def ask(name: str, lines: Sequence[Line]) -> list[Line]:
    """One request to the process behind `name`. Raises `Refused`, or `Unavailable` where it is silent."""
    data = b""
    try:
        with _connect(name) as link:
            link.sendall(request(lines))
            while not data.endswith(b"\n\n"):
                part = link.recv(1 << 16)
                if not part or len(data) > LONGEST:
                    raise ConnectionResetError(errno.ECONNRESET, "it hung up in the middle of an answer")
                data += part
    except OSError as error:
        if isinstance(error, Refused):
            raise
        raise Unavailable(
            f"interface {name!r}: the WireGuard process at {path_of(name)} does not answer: "
            f"{error.strerror or error}"
        ) from None
    return parse(data)


def device(private: str, port: int) -> list[Line]:
    """Give the device its key, and the port on which it speaks."""
    return [("set", "1"), ("private_key", keys.raw_of(private).hex()), ("listen_port", str(port))]


def peer_add(peer: WireGuardPeer, keepalive: int) -> list[Line]:
    """Make a peer what it is to be. To be given a `keepalive` makes it shake hands at once."""
    lines = [
        ("set", "1"),
        ("public_key", keys.raw_of(peer.public_key).hex()),
        ("replace_allowed_ips", "true"),
        ("allowed_ip", f"{peer.address}/128"),
        ("persistent_keepalive_interval", str(keepalive)),
    ]
    if peer.endpoint is not None:
        where = f"[{peer.endpoint}]" if peer.endpoint.version == 6 else str(peer.endpoint)
        lines.insert(2, ("endpoint", f"{where}:{peer.port}"))
    return lines


def peer_remove(public_key: str) -> list[Line]:
    """Forget a peer; one that is not there is forgotten too."""
    return [("set", "1"), ("public_key", keys.raw_of(public_key).hex()), ("remove", "true")]


def described(dev: str, lines: Sequence[Line]) -> tuple[str, int, list[WireGuardPeer]]:
    """The public key ("" for none), the port, and the peers, from the answer to `get=1`."""
    public, port = "", 0
    found: list[dict[str, list[str]]] = []
    for key, value in lines:
        if key == "private_key":
            public = keys.public_of(keys.text_of(bytes.fromhex(value)))
        elif key == "listen_port":
            port = int(value)
        elif key == "public_key":
            found.append({key: [value]})
        elif found:
            found[-1].setdefault(key, []).append(value)
    return public, port, [_peer(dev, each) for each in found]


def _peer(dev: str, said: dict[str, list[str]]) -> WireGuardPeer:
    networks = [ip_network(text) for text in said.get("allowed_ip", ())]
    single = len(networks) == 1 and networks[0].prefixlen == networks[0].max_prefixlen
    host, _, port = said.get("endpoint", [":0"])[0].rpartition(":")
    return WireGuardPeer(
        dev,
        keys.text_of(bytes.fromhex(said["public_key"][0])),
        networks[0].network_address if single else None,
        ip_address(host.strip("[]").partition("%")[0]) if host else None,
        int(port),
    )


# The process --------------------------------------------------------------------------------------


def start(program: str, name: str) -> None:
    """Start `program -f NAME` and return when it answers. Raises `KernelError` or `Unavailable`."""
    SOCKETS.mkdir(mode=0o755, parents=True, exist_ok=True)
    # WG_PROCESS_FOREGROUND as well: without it the program advises at length against being used.
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LOG_LEVEL": "error",
        "WG_PROCESS_FOREGROUND": "1",
    }
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        pid = os.posix_spawn(program, [program, "-f", name], environment, file_actions=[nothing], setsid=True)
    except OSError as error:
        raise KernelError(error.errno or 0, f"start {program}") from error
    ended = threading.Event()
    try:
        threading.Thread(target=_collect, args=(pid, name, ended), name="wireguard", daemon=True).start()
    except RuntimeError as error:  # nobody would collect it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise threads.lack() from error
    deadline = time.monotonic() + PATIENCE
    while not alive(name):
        if ended.wait(0.01) or time.monotonic() > deadline:
            why = "ended at once" if ended.is_set() else f"did not answer within {PATIENCE:g} s"
            raise Unavailable(
                f"interface {name!r} cannot be had: {program} {why}; its own words are in the log"
            )
    log.info("interface %r is held by %s, process %d", name, program, pid)


def _collect(pid: int, name: str, ended: threading.Event) -> None:
    """Wait for the end of a process that was started here, on a thread of its own."""
    try:
        _, status = os.waitpid(pid, 0)
        log.info("the process of interface %r ended with %d", name, os.waitstatus_to_exitcode(status))
    except ChildProcessError:  # somebody collected all children
        pass
    ended.set()
