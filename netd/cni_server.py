"""Brings CNI calls in: the socket that the entrypoint speaks to, and the spool that it leaves behind.

`cni/netd_cni/main.py` describes the frame. One connection is one call; the namespace comes with the
first byte as a descriptor, of which only the identity is kept. Whoever speaks here can put interfaces
into any namespace, so the socket is root's alone and each peer is asked who it is.

DELs that were spooled while no daemon ran are carried out before the socket appears, so that an ADD
never meets what should be gone. One that cannot be carried out stays for the next start, and is
not let in anybody's way: the runtime has been told that it is done.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from netd.cni import config, spec
from netd.cni.spec import CniError
from netd.cni.verbs import Verbs
from netd.errors import NetdError, used_up
from netd.listening import peers
from netd.tasks import spawn

log = logging.getLogger(__name__)

MAGIC = b"NCN1"
LIMIT = 4 << 20
"""Bytes of a frame; the entrypoint's limit too."""

READING = 10.0
"""Seconds that a peer has to send its frame."""

SWEEP = 30.0
"""Seconds between looks for attachments that are gone but whose addresses another plugin still holds."""

SPOOL = "cni-spool"
NSFS_MAJOR = 0


class CniServer:
    """Listens once started; every call is a task of its own."""

    def __init__(self, verbs: Verbs, path: Path, state_dir: Path) -> None:
        self._verbs = verbs
        self._path = path
        self._spool = state_dir / SPOOL
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Drain the spool, then listen. A socket that a killed daemon left is replaced in one step."""
        await self._drain()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.unlink(missing_ok=True)
        listener.bind(str(beside))
        beside.chmod(0o600)
        listener.listen(1024)
        beside.rename(self._path)
        self._socket = listener
        self._begin(self._accept(listener), "cni accept")
        self._begin(self._sweep(), "cni sweep")

    async def stop(self, grace: float) -> None:
        """Take no more calls; give running ones `grace` seconds. What the engine began goes on to its end."""
        self._path.unlink(missing_ok=True)
        endless = {task for task in self._tasks if task.get_name() in ("cni accept", "cni sweep")}
        for task in endless:
            task.cancel()
        if running := self._tasks - endless:
            _, late = await asyncio.wait(running, timeout=grace)
            for task in late:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._socket:
            self._socket.close()

    def _begin(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = spawn(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        async for peer in peers(listener):
            self._begin(self._serve(peer), "cni call")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            await self._verbs.sweep()

    # --- one call ---------------------------------------------------------------------------------

    async def _serve(self, peer: socket.socket) -> None:
        with peer:
            peer.setblocking(False)
            try:
                async with asyncio.timeout(READING):
                    body, namespace = await receive(peer)
                if _uid(peer) != 0:
                    raise CniError(spec.INVALID_ENVIRONMENT, "only root may ask for CNI attachments")
                status, output = await self.answer(body, namespace)
                reply = MAGIC + struct.pack("!II", status, len(output)) + output
                await asyncio.get_running_loop().sock_sendall(peer, reply)
            except (OSError, TimeoutError, CniError) as error:
                # The runtime has gone, or it is no runtime. DEL is what it will ask next.
                log.info("a CNI call ended without an answer: %s", error)

    async def answer(self, body: bytes, namespace: tuple[int, int] | None) -> tuple[int, bytes]:
        """Exit code and standard output for the body of a frame."""
        variables, text = split(body)
        subject = f"{variables.get('CNI_CONTAINERID', '')[:12]}/{variables.get('CNI_IFNAME', '')}"
        command = variables.get("CNI_COMMAND", "")
        try:
            return 0, await self._verbs.answer(spec.call(variables, text, namespace))
        except NetdError as error:
            log.info("CNI %s %s refused: code %d: %s", command, subject, error.cni, error)
            return 1, spec.error_object(error, config.version_of(text))
        except Exception as error:
            inside: NetdError | None = used_up(error)
            if inside:
                log.error("CNI %s %s: %s", command, subject, error)
            else:
                log.exception("CNI %s %s failed", command, subject)
                inside = CniError(100, "internal error of netd; its log has the details")
            return 1, spec.error_object(inside, config.version_of(text))

    # --- the spool --------------------------------------------------------------------------------

    async def _drain(self) -> None:
        if not self._spool.is_dir():
            return
        for path in sorted(self._spool.iterdir()):
            if path.suffix == ".new":  # its writer was killed, and reported nothing
                path.unlink(missing_ok=True)
                continue
            try:
                frame = path.read_bytes()
                if frame[:4] != MAGIC or len(frame) != 8 + int.from_bytes(frame[4:8], "big"):
                    raise CniError(spec.DECODING_FAILURE, "it is no frame")
                status, output = await self.answer(frame[8:], None)
            except (OSError, CniError) as error:
                log.error("spooled DEL %s cannot be read: %s", path.name, error)
                continue
            if status:
                log.error("spooled DEL %s stays: %s", path.name, output.decode(errors="replace").strip())
                continue
            path.unlink(missing_ok=True)
        if not any(self._spool.iterdir()):
            self._spool.rmdir()


def split(body: bytes) -> tuple[dict[str, str], bytes]:
    """Variables and configuration of a frame's body."""
    variables, _, text = body.partition(b"\0\0")
    found = {}
    for pair in filter(None, variables.split(b"\0")):
        key, _, value = pair.decode(errors="replace").partition("=")
        found[key] = value
    return found, text


async def receive(peer: socket.socket) -> tuple[bytes, tuple[int, int] | None]:
    """The body of a frame and the identity of the namespace that came with it."""
    data, namespace = await _first(peer)
    loop = asyncio.get_running_loop()
    while len(data) < 8 or len(data) < 8 + int.from_bytes(data[4:8], "big"):
        if data[:4] != MAGIC[: len(data)] or (len(data) >= 8 and int.from_bytes(data[4:8], "big") > LIMIT):
            raise OSError("this is no frame")
        piece = await loop.sock_recv(peer, 65536)
        if not piece:
            raise OSError("the frame is cut off")
        data += piece
    return data[8:], namespace


async def _first(peer: socket.socket) -> tuple[bytes, tuple[int, int] | None]:
    """The first bytes, with the descriptor that comes along; asyncio itself has no call for that."""
    await _readable(peer)
    data, descriptors, flags, _ = socket.recv_fds(peer, 65536, 8)
    identity = None
    for descriptor in descriptors:
        found = os.fstat(descriptor)
        os.close(descriptor)
        # Namespaces are files of nsfs, which like all such systems has no device of a major number.
        if stat.S_ISREG(found.st_mode) and os.major(found.st_dev) == NSFS_MAJOR:
            identity = (found.st_dev, found.st_ino)
    if flags & socket.MSG_CTRUNC:  # the path alone may lead to another one by now
        raise OSError(errno.EMFILE, "no descriptor is left for the namespace")
    return data, identity


async def _readable(peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(peer, note)
    try:
        await ready
    finally:
        loop.remove_reader(peer)


def _uid(peer: socket.socket) -> int:
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)
