#!/usr/bin/python3 -IS
"""The CNI plugin as a runtime sees it: a program that hands its question to the daemon and is gone.

It lives in one file that runs without anything installed, and imports next to nothing: a bare
interpreter takes 6 ms, `socket` would add 6 and `json` another 6, so it speaks through `_socket` and
touches JSON only when it must answer by itself. `shim.c` is its twin, statement for statement; the
same tests run against both.

The frame
---------
Question, one stream of bytes to the unix socket RUN_DIR/cni.sock::

    "NCN1"   4 bytes     magic and version of the frame
    length   u32, big    bytes that follow
    NAME=VALUE\\0 ...     the CNI variables, and those of a trace
    \\0                   an empty one ends them
    configuration        standard input as it came, to the end of the frame

The namespace of CNI_NETNS, if it could be opened, comes along as a descriptor (SCM_RIGHTS) with the
first byte: what a path means may have changed by the time the daemon looks. Answer::

    "NCN1"   4 bytes
    status   u32, big    the exit code
    length   u32, big    bytes that follow
    output               for standard output

Without the daemon
------------------
VERSION, and errors in the variables, are answered here in any case: a runtime probes for them. If the
daemon cannot be reached, ADD, CHECK and GC fail with code 11 (try again later) and STATUS with 50.
DEL succeeds, since pods must be torn down whatever happens: its frame is put, synced, into
STATE_DIR/cni-spool, under a name that sorts by time, and the daemon drains that when it starts.

RUN_DIR is /run/netd and STATE_DIR /var/lib/netd, or the values of NETD_RUN_DIR and NETD_STATE_DIR.
"""

import _socket
import posix
import sys
import time

MAGIC = b"NCN1"
VERSIONS = (b"0.1.0", b"0.2.0", b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
TRACE = (b"TRACEPARENT", b"TRACESTATE", b"BAGGAGE")
REQUIRED = {
    b"ADD": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
    b"CHECK": (b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME"),
    b"DEL": (b"CNI_CONTAINERID", b"CNI_IFNAME"),
    b"GC": (b"CNI_PATH",),
    b"STATUS": (),
    b"VERSION": (),
}
ALNUM = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
LIMIT = 4 << 20
"""Bytes of a frame."""

TIMEOUT = 90
"""Seconds that the daemon has for an answer; a runtime gives up after 120 or more."""

INVALID_ENVIRONMENT, IO_FAILURE, DECODING_FAILURE, TRY_AGAIN, NOT_AVAILABLE = 4, 5, 6, 11, 50


class Refusal(Exception):
    """An error object of the specification, but for its cniVersion."""

    def __init__(self, code: int, message: bytes, details: bytes = b"") -> None:
        self.code, self.message, self.details = code, message, details


def main() -> int:
    """One question; answers the exit code."""
    environment = posix.environ.items()
    variables = {key: value for key, value in environment if key.startswith(b"CNI_") or key in TRACE}
    command = variables.get(b"CNI_COMMAND", b"")
    if not command:
        write(2, b"netd: a CNI plugin, versions " + b", ".join(VERSIONS) + b"; see docs/cni.md\n")
        return 0
    config = b""
    try:
        config = read_all(0)
        check_variables(command, variables)
        if command == b"VERSION":
            return answer(0, version_result(config))
        return ask(command, variables, config)
    except Refusal as refusal:
        return answer(1, error_object(refusal, config))


def check_variables(command: bytes, variables: dict[bytes, bytes]) -> None:
    """The specification's rules for the variables of each verb; all that are missing are named."""
    if command not in REQUIRED:
        raise Refusal(INVALID_ENVIRONMENT, b"unknown CNI_COMMAND: " + command)
    missing = [name for name in REQUIRED[command] if not variables.get(name)]
    if missing:
        raise Refusal(INVALID_ENVIRONMENT, b"required env variables missing: " + b", ".join(missing))
    if b"CNI_CONTAINERID" in REQUIRED[command]:
        check_names(variables[b"CNI_CONTAINERID"], variables[b"CNI_IFNAME"])


def check_names(container: bytes, ifname: bytes) -> None:
    """The characters that a container id and an interface name may have."""
    if container[0] not in ALNUM or container.strip(ALNUM + b"_.-"):
        raise Refusal(INVALID_ENVIRONMENT, b"invalid characters in CNI_CONTAINERID", container)
    if len(ifname) > 15 or ifname in (b".", b"..") or any(char in b"/: \t\n\v\f\r" for char in ifname):
        raise Refusal(INVALID_ENVIRONMENT, b"CNI_IFNAME is no interface name", ifname)


def ask(command: bytes, variables: dict[bytes, bytes], config: bytes) -> int:
    """Let the daemon answer; without it, answer what the specification allows."""
    namespace = open_namespace(command, variables.get(b"CNI_NETNS", b""))
    body = b"".join(key + b"=" + value + b"\0" for key, value in sorted(variables.items())) + b"\0" + config
    frame = MAGIC + len(body).to_bytes(4, "big") + body
    if len(frame) >= LIMIT:
        raise Refusal(IO_FAILURE, b"standard input is larger than 4 MiB")
    path = posix.environ.get(b"NETD_RUN_DIR", b"/run/netd") + b"/cni.sock"
    try:
        status, output = exchange(path, frame, namespace)
    except OSError as error:
        reason = path + b": " + why(error)
        return answer_alone(command, frame, config, reason)
    return answer(status, output)


def why(error: OSError) -> bytes:
    """The reason alone, without number and path."""
    return (error.strerror or str(error)).encode()


def open_namespace(command: bytes, path: bytes) -> int | None:
    """The namespace, by descriptor. For DEL it may be gone."""
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_NONBLOCK | posix.O_CLOEXEC) if path else None
    except OSError as error:
        if command == b"DEL":
            return None
        details = path + b": " + why(error)
        raise Refusal(INVALID_ENVIRONMENT, b"CNI_NETNS cannot be opened", details) from None


def exchange(path: bytes, frame: bytes, namespace: int | None) -> tuple[int, bytes]:
    """Send a frame and its descriptor, and wait for the answer. Raises OSError where none comes."""
    daemon = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    daemon.settimeout(TIMEOUT)
    daemon.connect(path)
    rights = []
    if namespace is not None:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, namespace.to_bytes(4, sys.byteorder))]
    sent = daemon.sendmsg([frame], rights)
    if sent < len(frame):
        daemon.sendall(frame[sent:])
    head = receive(daemon, 12)
    if head[:4] != MAGIC:
        raise OSError("what answered is not netd")
    return int.from_bytes(head[4:8], "big"), receive(daemon, int.from_bytes(head[8:], "big"))


def receive(daemon: _socket.socket, size: int) -> bytes:
    """Exactly `size` bytes."""
    found = b""
    while len(found) < size:
        piece = daemon.recv(size - len(found))
        if not piece:
            raise OSError("the daemon went away")
        found += piece
    return found


def answer_alone(command: bytes, frame: bytes, config: bytes, reason: bytes) -> int:
    """What can be said while the daemon is away."""
    decode(config)
    if command == b"STATUS":
        raise Refusal(NOT_AVAILABLE, b"the netd daemon cannot be reached", reason)
    if command != b"DEL":
        raise Refusal(TRY_AGAIN, b"the netd daemon cannot be reached: try again later", reason)
    try:
        spool(frame)
    except OSError as error:
        raise Refusal(TRY_AGAIN, b"DEL could not be written to the spool", why(error)) from None
    return 0


def spool(frame: bytes) -> None:
    """Keep a DEL for the daemon's next start: whole, on the disk, and only then under its name."""
    state = posix.environ.get(b"NETD_STATE_DIR", b"/var/lib/netd")
    directory = state + b"/cni-spool"
    make_directory(state)
    make_directory(directory)
    name = b"%s/%016x-%d.del" % (directory, time.time_ns(), posix.getpid())
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
    file = posix.open(name + b".new", flags, 0o600)
    write(file, frame)
    posix.fsync(file)
    posix.close(file)
    posix.rename(name + b".new", name)
    directory_file = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY)
    posix.fsync(directory_file)


def make_directory(path: bytes) -> None:
    """A directory for root alone, if it is not there."""
    try:
        posix.mkdir(path, 0o700)
    except FileExistsError:
        return


def decode(config: bytes) -> bytes:
    """The cniVersion of a configuration; what is no JSON object is refused with code 6."""
    import json

    try:
        found = json.loads(config)
        version: bytes = (found.get("cniVersion", "") or "0.1.0").encode("ascii")
        return version
    except (ValueError, AttributeError, RecursionError) as error:
        message = b"the network configuration is no JSON object with a cniVersion"
        raise Refusal(DECODING_FAILURE, message, str(error).encode()) from None


def version_result(config: bytes) -> bytes:
    """The answer to VERSION; without a configuration it tells the newest version."""
    version = decode(config) if config.strip() else VERSIONS[-1]
    supported = b", ".join(quoted(each) for each in VERSIONS)
    return b'{"cniVersion": %s, "supportedVersions": [%s]}\n' % (quoted(version), supported)


def error_object(refusal: Refusal, config: bytes) -> bytes:
    """An error as the specification shapes it, in the configuration's version where it has one."""
    try:
        version = decode(config)
    except Refusal:
        version = VERSIONS[-1]
    text = b'{"cniVersion": %s, "code": %d, "msg": %s' % (
        quoted(version),
        refusal.code,
        quoted(refusal.message),
    )
    if refusal.details:
        text += b', "details": %s' % quoted(refusal.details)
    return text + b"}\n"


def quoted(text: bytes) -> bytes:
    """A JSON string. Bytes that are no printable ASCII become question marks: they came from outside."""
    plain = bytes(char if 32 <= char < 127 else 63 for char in text)
    return b'"' + plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def read_all(descriptor: int) -> bytes:
    """Everything up to the end."""
    found = b""
    try:
        while piece := posix.read(descriptor, 65536):
            found += piece
    except OSError as error:
        raise Refusal(IO_FAILURE, b"standard input cannot be read", why(error)) from None
    return found


def write(descriptor: int, data: bytes) -> None:
    """All of `data`."""
    while data:
        data = data[posix.write(descriptor, data) :]


def answer(status: int, output: bytes) -> int:
    """Print an answer and hand on its exit code."""
    write(1, output)
    return status


if __name__ == "__main__":
    # Without taking the interpreter apart: there is nothing to close.
    posix._exit(main())
