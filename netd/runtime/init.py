"""What happens inside: from a fresh namespace to the execution of the command.

Two stories share their end. `first_process` is PID 1 of a container: it makes the world inside, forks the
command and from then on only reaps and forwards signals. `further_process` is an exec: it enters a world
that exists. Both end in `_command`, which gives up every right that is not wanted, says "ready", waits
for "run" and executes.

PID 1 is this very program, forked and never exec'd again, and not the command itself, because a PID 1
has duties that most commands neglect: without a handler it ignores signals (SIGTERM would do nothing), and
orphans that it does not reap stay forever. It is made of the host's Python, so it is kept out of reach
(CVE-2019-5736): not dumpable, hence /proc/1/{exe,fd,mem} closed to everyone without CAP_SYS_PTRACE; no
descriptor open; of the capabilities only KILL; under the same filter as the command; and its executable
is a read-only mount (see `launcher`).

Nothing may be imported after the root has changed: the modules' paths are the container's by then. The
launcher empties the import system before it forks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import termios
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

import msgspec

from netd.errors import Exhausted, Invalid
from netd.runtime import capabilities, cgroup, devices, host, procfs, rootfs, syscalls, user, wire
from netd.runtime.spec import ContainerSpec, Frame, Process

FAILED = 125
"""Exit code of a process that could not be set up, as of `docker run`."""

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_OPEN_FILES = (1024, 524288)
"""RLIMIT_NOFILE, soft and hard, as systemd gives it: programs that go through all numbers up to the soft
limit stay quick, those that need more can ask. A limit is lowered where it is higher, never raised:
raising needs CAP_SYS_RESOURCE, which not even every root has."""

_PING_GROUPS = ("net.ipv4.ping_group_range", f"0 {user.HIGHEST_ID}")
"""ping without NET_RAW: ICMP echo sockets for everyone (Linux 3.0)."""

_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGSYS,
}


class Confinement(msgspec.Struct, frozen=True):
    """The rights of a container's processes, computed once by the launcher."""

    capabilities: int
    highest: int
    filter: bytes


class Streams(NamedTuple):
    """Our ends of the standard streams: descriptors, -1 for none. With a terminal all are -1."""

    stdin: int = -1
    stdout: int = -1
    stderr: int = -1


def first_process(
    spec: ContainerSpec,
    directory: str,
    hidden: list[host.Hidden],
    confinement: Confinement,
    door: cgroup.Door,
    channel: socket.socket,
    streams: Streams,
) -> NoReturn:
    """Be PID 1 of a container. Called in a new PID namespace; tells the monitor over `channel`."""
    try:
        # Should the monitor die, nobody would know the exit code or read the output: the container ends too.
        syscalls.die_with_parent(signal.SIGKILL)
        syscalls.not_dumpable()
        syscalls.set_title("netd-init")
        os.setsid()
        terminal, root = _make_world(spec, directory, hidden)
        command = forked(door.fork)
        if command == 0:
            door.enter()
            os.setsid()
            _limited_view(door, root)
            _command(spec.process, confinement, channel, streams, terminal, create_workdir=root.overlay)
    except BaseException as error:
        wire.send(channel, wire.refusal(_explained(error)))
        os._exit(FAILED)
    try:
        _attend(command, confinement)
    finally:
        os._exit(FAILED)


def further_process(
    pidfd: int,
    process: Process,
    confinement: Confinement,
    door: cgroup.Door,
    channel: socket.socket,
    streams: Streams,
) -> NoReturn:
    """Be another process of the container whose command is `pidfd`; its PID namespace is ours already."""
    try:
        door.enter()
        syscalls.not_dumpable()
        os.setsid()
        syscalls.setns(
            pidfd,
            syscalls.CLONE_NEWNS
            | syscalls.CLONE_NEWIPC
            | syscalls.CLONE_NEWUTS
            | syscalls.CLONE_NEWNET
            | syscalls.CLONE_NEWCGROUP,
        )
        terminal = None
        if process.tty:
            terminal = devices.open_terminal(devices.container_pts(), process.rows, process.columns)
        _command(process, confinement, channel, streams, terminal)
    except BaseException as error:
        wire.send(channel, wire.refusal(_explained(error)))
        os._exit(FAILED)


def forked(fork: Callable[[], int]) -> int:
    """What `fork()` gives. Raises `Exhausted` where there is no process to be had."""
    try:
        return fork()
    except OSError as error:
        raise Exhausted(f"no process can be started: {error.strerror}") from error


def _make_world(
    spec: ContainerSpec, directory: str, hidden: list[host.Hidden]
) -> tuple[tuple[int, int] | None, rootfs.Root]:
    """Everything that the command finds; returns its terminal, if it gets one, and its root."""
    sysctls = dict(spec.sysctls)
    if spec.netns:
        sysctls = dict([_PING_GROUPS]) | sysctls
        _join_network(spec)
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS)
    syscalls.make_private()
    socket.sethostname(spec.hostname)
    root = rootfs.enter(spec, directory, hidden)
    for name in ("proc", "sys", "dev"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=root.overlay)
    dev, pts = devices.populate(root.overlay, root.nodes)
    proc = procfs.mount_proc(root.overlay)
    procfs.set_sysctls(proc, sysctls)
    procfs.restrict(proc, dev)
    procfs.mount_sys(root.overlay, dev)
    terminal = None
    if spec.process.tty:
        terminal = devices.open_terminal(pts, spec.process.rows, spec.process.columns)
        devices.console(dev, pts, terminal[1])
    if spec.read_only:
        # Its working directory is made before, if it is missing.
        os.close(rootfs.make_directories(root.overlay, spec.process.workdir))
        syscalls.mount_setattr(root.overlay, syscalls.RDONLY)
    return terminal, root


def _join_network(spec: ContainerSpec) -> None:
    """Enter the network namespace at the path, if it still is the one that was meant."""
    try:
        fd = os.open(spec.netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"network namespace {spec.netns}: {error.strerror}") from error
    found = os.fstat(fd)
    if spec.netns_inode and (found.st_dev, found.st_ino) != (spec.netns_device, spec.netns_inode):
        raise Invalid(f"network namespace {spec.netns} is another one than the container was given")
    syscalls.setns(fd, syscalls.CLONE_NEWNET)
    os.close(fd)


def _limited_view(door: cgroup.Door, root: rootfs.Root) -> None:
    """Show the container its own control group as the only one: a namespace begins where its maker is."""
    syscalls.unshare(syscalls.CLONE_NEWCGROUP)
    if door.version == 2:
        procfs.mount_cgroup(root.overlay)


def _command(
    process: Process,
    confinement: Confinement,
    channel: socket.socket,
    streams: Streams,
    terminal: tuple[int, int] | None,
    create_workdir: int | None = None,
) -> NoReturn:
    """Become the command, as far as that goes; then wait for "run" and execute it."""
    try:
        _set_streams(streams, terminal)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        who = user.lookup(process.user, root)
        _own_streams(who)
        _change_directory(process.workdir, create_workdir)
        _limit_resources()
        environment = {"HOME": who.home} | dict(process.env)
        _confine(who, confinement)
        wire.send(channel, Frame("ready"), terminal or ())
        syscalls.close_all_but((0, 1, 2, channel.fileno()))
        frame = wire.receive(channel)
        if frame is None or frame.kind != "run":
            os._exit(FAILED)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        code, message = _execute(process.argv, environment)
        wire.send(channel, Frame("error", message.encode(errors="replace"), code))
        os._exit(code)
    except BaseException as error:
        wire.send(channel, wire.refusal(_explained(error)))
        os._exit(FAILED)


def _set_streams(streams: Streams, terminal: tuple[int, int] | None) -> None:
    if terminal is not None:
        fcntl.ioctl(terminal[1], termios.TIOCSCTTY, 0)
        sources = (terminal[1],) * 3
    else:
        stdin = streams.stdin if streams.stdin >= 0 else _null()
        sources = (stdin, streams.stdout, streams.stderr)
    # None of the sources is below 3: the monitor's own three are /dev/null and its error log.
    for number, fd in enumerate(sources):
        os.dup2(fd, number)


def _null() -> int:
    fd = os.open("/dev/null", os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if os.fstat(fd).st_rdev != os.makedev(1, 3):
        raise Invalid("/dev/null of the container is not the null device any more")  # CVE-2025-31133
    os.set_blocking(fd, True)
    return fd


def _own_streams(who: user.User) -> None:
    """Give the streams to the user, or /dev/stdout could not be opened; the null device stays root's."""
    for fd in (0, 1, 2):
        mode = os.fstat(fd).st_mode
        if who.uid and (stat.S_ISFIFO(mode) or os.isatty(fd)):
            os.fchown(fd, who.uid, -1)


def _change_directory(path: str, create: int | None) -> None:
    try:
        if create is not None:
            os.close(rootfs.make_directories(create, path))
        os.chdir(path)
    except OSError as error:
        raise Invalid(f"working directory {path!r}: {error.strerror}") from error
    if not os.getcwd().startswith("/"):  # "(unreachable)": outside the root (CVE-2024-21626)  # noqa: PTH109
        raise Invalid(f"working directory {path!r} is not inside the container")


def _limit_resources() -> None:
    for which, (soft, hard) in ((resource.RLIMIT_NOFILE, _OPEN_FILES), (resource.RLIMIT_CORE, (0, 0))):
        _, most = resource.getrlimit(which)
        highest = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(which, (min(soft, highest), highest))


def _confine(who: user.User, confinement: Confinement) -> None:
    """Give up what is not wanted, in the one order in which each step is still allowed."""
    syscalls.no_new_privileges()
    capabilities.cut_bounding(confinement.capabilities, confinement.highest)
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)
    capabilities.limit_to(confinement.capabilities if who.uid == 0 else 0)
    syscalls.not_dumpable()  # setresuid has reset it to what fs.suid_dumpable says
    syscalls.seccomp_filter(confinement.filter)


def _execute(argv: tuple[str, ...], environment: Mapping[str, str]) -> tuple[int, str]:
    """Execute; returns only on failure, with the exit code of a shell and what to tell."""
    name = argv[0]
    directories = environment.get("PATH", DEFAULT_PATH).split(":")
    candidates = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in directories]
    worst = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if "/" in name and os.path.lexists(candidate):
                # The file is there: it is its interpreter or its loader that is not.
                return 127, f"command {name!r}: the interpreter that it names does not exist"
            worst = worst if worst.errno != errno.ENOENT else error
        except OSError as error:
            worst = error
    if isinstance(worst, (FileNotFoundError, NotADirectoryError)):
        where = "" if "/" in name else " in $PATH"
        return 127, f"command {name!r} was not found{where} in the container"
    return 126, f"command {name!r} cannot be executed: {worst.strerror}"


def _attend(command: int, confinement: Confinement) -> NoReturn:
    """The rest of PID 1's life: reap every orphan, forward every signal, end with the command's status."""
    syscalls.close_all_but(())
    everything = signal.valid_signals() - _FAULTS
    signal.pthread_sigmask(signal.SIG_SETMASK, everything)
    syscalls.no_new_privileges()
    kill = capabilities.mask({"KILL"})
    capabilities.cut_bounding(kill, confinement.highest)
    capabilities.limit_to(kill)
    syscalls.not_dumpable()
    syscalls.seccomp_filter(confinement.filter)
    while True:
        while (ended := _reap()) is not None:
            pid, status = ended
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)
        received = signal.sigwait(everything)
        if received != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                os.kill(command, received)


def _reap() -> tuple[int, int] | None:
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, status) if pid else None


def _explained(error: BaseException) -> Exception:
    """An error of the kernel during the setup, in words; refusals are in words already."""
    if isinstance(error, OSError):
        return RuntimeError(f"cannot set up the container: {error.strerror}")
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
