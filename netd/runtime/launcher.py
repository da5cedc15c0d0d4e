"""The warm process from which containers are forked.

The daemon must not fork: it has threads of gRPC's, and a fork keeps only the calling one, with whatever
locks the others held. Starting a fresh Python for each container would cost 60 ms of imports. So the
daemon execs this program once. It has one thread and everything imported, and forks a monitor for every
request, which answers for itself over a socket that came with the request; the launcher does nothing but
receive and fork, so a hundred requests at once wait for a hundred forks and nothing else.

What must be done once is done here: the seccomp filters are compiled, the control groups found, the host's
secrets listed. It ends when the daemon closes its socket, or dies; the containers' monitors do not notice.

Before anything else it executes itself again from a read-only copy of the mount of its own executable:
what a container may see of its PID 1 under /proc/1/exe can then not be opened for writing, even with
CAP_SYS_PTRACE added (CVE-2019-5736). No byte is copied for that, unlike with a sealed memfd.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from netd.errors import Exhausted, NetdError
from netd.runtime import capabilities, cgroup, host, init, monitor, seccomp, syscalls, wire
from netd.runtime.spec import Frame

_SEALED = "--sealed"


class Launcher:
    """Serves the daemon at the other end of `control`, one request after the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._hierarchy = cgroup.find()
        self._view = host.View(host.root_file_system())
        self._highest = capabilities.last()
        self._possible = capabilities.possible()
        self._filters: dict[frozenset[str], bytes] = {}
        self._confinement((), ())

    def serve(self) -> None:
        """Until the daemon is gone."""
        wire.send(self._control, Frame("ready"))
        while True:
            packet, fds, _, _ = socket.recv_fds(self._control, wire.MAXIMUM, 2)
            if not packet:
                return
            reply, payload = fds
            with socket.socket(fileno=reply) as answer:
                try:
                    self._launch(packet, payload, answer)
                except Exception as error:
                    wire.send(answer, wire.refusal(error))
                finally:
                    os.close(payload)

    def _launch(self, packet: bytes, payload: int, answer: socket.socket) -> None:
        """Fork a monitor for one request, which lies in the file `payload` and is read by it alone."""
        wanted = msgspec.msgpack.decode(packet, type=wire.Preparation)
        confinement = self._confinement(wanted.cap_add, wanted.cap_drop)
        hidden = self._view.hidden(wanted.hide) if wanted.hide is not None else []
        if not self._become_monitor():
            return
        # The monitor, and nothing of it may ever return into the launcher's loop.
        try:
            data = os.pread(payload, os.fstat(payload).st_size, 0)
            request = msgspec.msgpack.decode(data, type=wire.Creation | wire.Entry)
            syscalls.close_all_but((0, 1, 2, answer.fileno()))
            if isinstance(request, wire.Creation):
                monitor.keep_container(request, hidden, confinement, self._hierarchy, answer)
            else:
                monitor.keep_exec(request, confinement, self._hierarchy, answer)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(0)

    def _become_monitor(self) -> bool:
        """Fork a grandchild and forget it: True in the grandchild, which PID 1 adopts, False here."""
        try:
            child = os.fork()
        except OSError as error:
            raise Exhausted(f"no process can be started: {error.strerror}") from error
        if child:
            _, status = os.waitpid(child, 0)
            if status:
                raise Exhausted(
                    f"no process can be started: {os.strerror(os.waitstatus_to_exitcode(status))}"
                )
            return False
        try:
            os.setsid()
            if os.fork():
                os._exit(0)
        except OSError as error:
            os._exit(error.errno or errno.EAGAIN)
        except BaseException:
            os._exit(errno.EAGAIN)
        return True

    def _confinement(self, add: tuple[str, ...], drop: tuple[str, ...]) -> init.Confinement:
        """The rights of a container; filters are compiled once for each set of capabilities."""
        names = capabilities.resolve(add, drop)
        if names not in self._filters:
            self._filters[names] = seccomp.compile(names)
        mask = capabilities.mask(names) & self._possible
        return init.Confinement(mask, self._highest, self._filters[names])


def _seal() -> None:
    """Execute this program again from a read-only mount of the interpreter."""
    executable = syscalls.open_tree(syscalls.AT_FDCWD, os.path.realpath(sys.executable))
    syscalls.mount_setattr(executable, syscalls.RDONLY)
    os.execve(executable, [sys.executable, "-I", "-m", wire.LAUNCHER, _SEALED], os.environ)


def _no_more_imports() -> None:
    """Empty the import system: inside a container the modules' paths hold what the container put there.

    What is loaded stays usable; anything else fails with ImportError (CVE-2019-14271 was a library that
    was loaded after the root had changed).
    """
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def give_up_protection(score: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Be as likely as any process to be chosen when memory runs out, and so will be all that is forked.

    systemd protects the daemon; a container that inherited that would have others killed for its greed.
    Only ever upwards: that needs no capability.
    """
    if int(score.read_text()) < 0:
        score.write_text("0")


def main() -> None:
    """Serve the socket that is standard input."""
    if _SEALED not in sys.argv:
        _seal()
    for number in signal.valid_signals():
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    syscalls.not_dumpable()
    syscalls.set_title("netd-launcher")
    syscalls.close_all_but((0, 1, 2))
    give_up_protection()
    control = socket.socket(fileno=os.dup(0))
    try:
        launcher = Launcher(control)
    except NetdError as error:
        wire.send(control, wire.refusal(error))
        sys.exit(1)
    _no_more_imports()
    gc.freeze()  # what is here stays: no collection of a child should touch, and so copy, its pages
    launcher.serve()


if __name__ == "__main__":
    main()
