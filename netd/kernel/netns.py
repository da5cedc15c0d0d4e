"""Network namespaces: made, identified, entered, let go.

A namespace is known by (device, inode) of its nsfs file, and by its cookie, because inodes are used
again; a path is only where to look for it, and what is found there is compared before it is used.
Nothing here holds a namespace open between two calls, and no socket inside one is kept: a socket keeps
its namespace alive, so a cache of them would keep dead containers' interfaces alive too, to save the
0.1 ms that entering costs.

Only short-lived threads change namespace (`inside`). The thread ends afterwards, so that no thread
of the process ever does later work in the wrong place. What such a thread may use: its own
sockets, /proc/sys/net and /proc/thread-self/net, which the kernel resolves by the calling thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from concurrent.futures import Future
from fcntl import ioctl
from functools import partial
from pathlib import Path
from socket import AF_UNIX, SOL_SOCKET, if_nametoindex, socket
from typing import TypeVar

from netd.errors import AlreadyExists, Invalid, KernelError, NotFound
from netd.kernel import fastnl, sysctl, threads
from netd.kernel.threads import CLONE_NEWNET as CLONE_NEWNET
from netd.kernel.threads import OWN as OWN
from netd.model import Netns
from netd.objects import Sysctl

NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h
NS_GET_ID = 0x8008B70D  # the same, since 6.18: _IOR(0xb7, 13, __u64)
SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h
SIOCGSKNS = 0x894C  # include/uapi/linux/sockios.h
MS_BIND, MNT_DETACH, UMOUNT_NOFOLLOW = 0x1000, 0x2, 0x8  # include/linux/mount.h
LABEL = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise KernelError(ctypes.get_errno(), what)


def identify(path: str, label: str) -> Netns:
    """The namespace that `path` leads to now. Raises `NotFound`, or `Invalid` if it is not one."""
    descriptor = _open(path, label)
    try:
        found = os.fstat(descriptor)
        number = cookie(descriptor)
    finally:
        os.close(descriptor)
    own = Path(OWN).stat()
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
        raise Invalid(f"{path!r} is the host's own network namespace; give that of a container")
    return Netns(label=label, path=path, device=found.st_dev, inode=found.st_ino, cookie=number)


def cookie(namespace: int) -> int:
    """What the kernel gives to no other network namespace in this boot; 0 before Linux 5.14.

    Linux 6.18 tells it of the descriptor; before, a socket inside has to be asked.
    """
    number = bytearray(8)
    try:
        ioctl(namespace, NS_GET_ID, number)
    except OSError:

        def body() -> bytes:
            _check(_libc.setns(namespace, CLONE_NEWNET), "enter a network namespace")
            with socket(AF_UNIX) as inside:
                return inside.getsockopt(SOL_SOCKET, SO_NETNS_COOKIE, 8)

        try:
            return int.from_bytes(blocking(body, "cookie"), sys.byteorder)
        except OSError:
            return 0
    return int.from_bytes(number, sys.byteorder)


def _open(path: str, label: str) -> int:
    # O_NONBLOCK: opening a FIFO that somebody put there must not wait for its writer.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError) as error:
        raise NotFound(f"network namespace {label!r} is gone: nothing at {path!r}") from error
    except OSError as error:
        raise Invalid(f"network namespace {label!r}: cannot open {path!r}: {error.strerror}") from error
    try:
        if ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET:
            return descriptor
    except OSError:
        pass  # ENOTTY and friends: not a namespace of any kind
    os.close(descriptor)
    raise Invalid(f"{path!r} is not a network namespace")


def open_checked(netns: Netns) -> int:
    """A descriptor of exactly this namespace. Raises `NotFound` if the path is or leads elsewhere."""
    try:
        descriptor = _open(netns.path, netns.label)
    except Invalid as error:
        raise NotFound(f"network namespace {netns.label!r} is gone: {error}") from error
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) != (netns.device, netns.inode):
        os.close(descriptor)
        raise NotFound(
            f"network namespace {netns.label!r} is gone: {netns.path!r} leads to another one "
            f"({found.st_dev}:{found.st_ino} instead of {netns.device}:{netns.inode})"
        )
    if netns.cookie and cookie(descriptor) != netns.cookie:
        os.close(descriptor)
        raise NotFound(
            f"network namespace {netns.label!r} is gone: {netns.path!r} leads to another one "
            f"that has its inode {netns.inode} now"
        )
    return descriptor


def alive(netns: Netns) -> bool:
    """Whether the path still leads to this very namespace."""
    try:
        os.close(open_checked(netns))
    except NotFound:
        return False
    return True


async def on_thread(work: Callable[[], T], name: str) -> T:
    """Run `work` on a thread of its own that ends with it, and give what it returned or raised.

    Not a pool: the thread may have changed its namespace. A cancelled caller still waits for the
    work to end, so that nothing is written to the kernel after the caller has gone on.
    """
    return await settled(asyncio.wrap_future(_begin(work, name)))


def blocking(work: Callable[[], T], name: str) -> T:
    """As `on_thread`, for callers without an event loop: wait for the thread here."""
    return _begin(work, name).result()


def _begin(work: Callable[[], T], name: str) -> Future[T]:
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()  # from here on it has begun, and ends

    def body() -> Callable[[], None]:
        try:
            return partial(done.set_result, work())
        except BaseException as error:  # the thread has nobody else to tell
            return partial(done.set_exception, error)

    threads.begin(body, name)
    return done


def in_new_namespace(work: Callable[[], T]) -> T:
    """What `work()` gives in a namespace that is made for it, on a thread that is, and end with it."""

    def body() -> T:
        _check(_libc.unshare(CLONE_NEWNET), "create a network namespace")
        return work()

    return blocking(body, "netns")


async def settled(future: asyncio.Future[T]) -> T:
    """Await `future` to its end even if the caller is cancelled meanwhile; then be cancelled."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.cancelled():
            await asyncio.wait([future])
            future.exception()  # seen: nobody is left to be told
        raise


def enter(netns: Netns) -> None:
    """Move the calling thread into `netns`. Only for threads that end soon. Raises `NotFound`."""
    descriptor = open_checked(netns)
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter network namespace {netns.label!r}")
    finally:
        os.close(descriptor)


def enter_with(door: int, label: str) -> None:
    """Move the calling thread into the namespace that the socket `door` belongs to; see `enter`.

    Needs no path, so it also works from another mount namespace than the daemon's (SIOCGSKNS, Linux 4.10).
    Raises `KernelError`.
    """
    try:
        descriptor = ioctl(door, SIOCGSKNS)
    except OSError as error:
        raise KernelError(error.errno or 0, f"find the network namespace of {label!r}") from error
    try:
        _check(_libc.setns(descriptor, CLONE_NEWNET), f"enter network namespace {label!r}")
    finally:
        os.close(descriptor)


async def inside(netns: Netns, work: Callable[[], T]) -> T:
    """What `work()` gives on a short-lived thread inside `netns`. Raises `NotFound` if it is gone."""

    def body() -> T:
        enter(netns)
        return work()

    return await on_thread(body, f"netns {netns.label}"[:15])


async def create(directory: Path, label: str) -> Netns:
    """Make a namespace with `lo` up, held by a bind mount at `directory`/`label`.

    Raises `Invalid` for a label that cannot be a file name, `AlreadyExists` if it is taken.
    """
    if not LABEL.fullmatch(label):
        raise Invalid(
            f"network namespace label {label!r} is not valid: use letters, digits, '_', '.' and '-'"
        )
    path = directory / label
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    _discard_stale(path)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o444))
    except FileExistsError as error:
        raise AlreadyExists(f"network namespace {label!r} exists already at {path}") from error

    def body() -> None:
        _check(_libc.unshare(CLONE_NEWNET), f"create network namespace {label!r}")
        with fastnl.Socket() as link:
            link.request(fastnl.link_change(if_nametoindex("lo"), up=True))
        # A new namespace inherits the first one's IPv4 settings (devinet_init_net), and a host forwards.
        sysctl.write(Sysctl(("net", "ipv4", "ip_forward"), "0"))
        mounted = _libc.mount(OWN.encode(), os.fsencode(path), None, MS_BIND, None)
        _check(mounted, f"hold network namespace {label!r} at {path}")

    try:
        await on_thread(body, f"new {label}"[:15])
        return identify(str(path), label)
    except BaseException:
        delete(path)
        raise


def _discard_stale(path: Path) -> None:
    """Remove an empty regular file: what remains of a creation that died before its mount."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_dev == path.parent.stat().st_dev and found.st_size == 0:
        path.unlink(missing_ok=True)


def release(netns: Netns) -> None:
    """Let go of a namespace that `create` made, unless another one is held at its path by now.

    An inode of 0 stands for "whichever is there": its maker died before it could write down more
    than the path.
    """
    path = Path(netns.path)
    try:
        found = path.lstat()
        held = found.st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return
    if held and netns.inode and (found.st_dev, found.st_ino) != (netns.device, netns.inode):
        return
    delete(path)


def delete(path: Path) -> None:
    """Undo the bind mount and remove its file. Either may be gone already.

    Detached lazily: a process that has the file open must not be able to refuse us (EBUSY). The
    namespace itself lives until its last process and its last descriptor are gone.
    """
    while _libc.umount2(os.fsencode(path), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        pass  # a crash between mount and commit may have left it mounted twice
    if (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOENT):
        raise KernelError(code, f"unmount {path}")
    path.unlink(missing_ok=True)
