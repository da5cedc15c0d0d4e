"""A host for netd to run on, with a network around it, all of it in namespaces of its own.

::

                         router: 198.51.100.1, 2001:db8:f::1 on lo stand for the internet
                           │ lan (bridge) 203.0.113.1, 2001:db8:1::1
              ┌────────────┴───────────┐
        eth0 .2, ::2               eth0 .10, ::10
    host (netd runs here)       client (a neighbour on the LAN)

The host is a new network, mount, PID, IPC and UTS namespace, in which /run and /var/lib are private,
so netd runs with its default directories; router and client are network namespaces inside it. Nothing
of the machine's own network is seen or changed. `init.py` explains how everything ends with us.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NETD = ROOT / ".venv" / "bin" / "netd"
PYTHON = "/usr/bin/python3"
WIRE = HERE / "wire.py"

HOST = ("203.0.113.2", "2001:db8:1::2")
CLIENT = ("203.0.113.10", "2001:db8:1::10")
ROUTER = ("203.0.113.1", "2001:db8:1::1")
INTERNET = ("198.51.100.1", "2001:db8:f::1")

# Two ends of a veth pair that happen to have the same index in their two namespaces do not look like a
# pair to the kernel, which then takes up to a second to see the carrier (linkwatch_urgent_event in
# net/core/link_watch.c); hence the indexes.
_HOST = """
link set lo up
netns add router
netns add client
link add eth0 index 20 type veth peer name host netns router
addr add 203.0.113.2/24 dev eth0
addr add 2001:db8:1::2/64 dev eth0 nodad
link set eth0 up
route add default via 203.0.113.1
route add ::/0 via 2001:db8:1::1
"""
_ROUTER = """
link set lo up
addr add 198.51.100.1/32 dev lo
addr add 2001:db8:f::1/128 dev lo nodad
link add lan type bridge
addr add 203.0.113.1/24 dev lan
addr add 2001:db8:1::1/64 dev lan nodad
link set lan up
link set host master lan up
link add client index 30 type veth peer name eth0 netns client
link set client master lan up
"""
_CLIENT = """
link set lo up
addr add 203.0.113.10/24 dev eth0
addr add 2001:db8:1::10/64 dev eth0 nodad
link set eth0 up
route add default via 203.0.113.1
route add ::/0 via 2001:db8:1::1
"""


def eventually(what: str, condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true value of `condition`, asked again until then; fails naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def inside(process: subprocess.Popen[str]) -> int:
    """The pid, as seen from here, of the program that `Node.spawn` started: nsenter is its parent."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def end(process: subprocess.Popen[str]) -> None:
    """Kill a program that `Node.spawn` started, if it has not ended by itself."""
    if process.poll() is None:
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(inside(process), signal.SIGKILL)
    process.wait(30)


class Failed(AssertionError):
    """A command that should have succeeded did not; says what it wrote."""


class Node:
    """One machine of the lab: a network namespace in which commands run."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name

    def _enter(self) -> list[str]:
        root = f"/proc/{self.lab.pid}"
        net = f"{root}/ns/net" if self.name == "host" else f"{root}/root/run/netns/{self.name}"
        return [
            "nsenter",
            f"--target={self.lab.pid}",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--cgroup",
            f"--net={net}",
        ]

    def run(
        self, *argv: str | Path, input: str = "", timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, whatever its exit status."""
        return subprocess.run(
            [*self._enter(), *map(str, argv)],
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
            env=self.lab.environment,
            check=False,
        )

    def output(self, *argv: str | Path, input: str = "", timeout: float = 60.0) -> str:
        """What a program writes; `Failed` unless it exits with 0."""
        done = self.run(*argv, input=input, timeout=timeout)
        if done.returncode:
            raise Failed(
                f"{self.name}: {' '.join(map(str, argv))}: exit {done.returncode}\n{done.stderr}{done.stdout}"
            )
        return done.stdout

    def sh(self, script: str, timeout: float = 60.0) -> str:
        """What a shell script writes; `Failed` unless it exits with 0."""
        return self.output("/bin/sh", "-ec", script, timeout=timeout)

    def spawn(
        self,
        *argv: str | Path,
        stdin: int = subprocess.PIPE,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program; it ends with the lab at the latest."""
        process = subprocess.Popen(
            [*self._enter(), *map(str, argv)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            cwd="/",
            env={**self.lab.environment, **(environment or {})},
        )
        self.lab.processes.append(process)
        return process

    def talker(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `wire.py` with `arguments` and return when it is ready."""
        process = self.spawn(PYTHON, "-IS", WIRE, *arguments)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ask(self, *targets: str, seconds: float = 1.0) -> dict[str, str | None]:
        """Who answers at each "tcp,ADDRESS,PORT", as "NAME CLIENT PORT"; None where nobody does.

        `seconds` is how long silence is waited for; an answer comes at once.
        """
        wrote = self.output(PYTHON, "-IS", WIRE, "ask", str(seconds), *targets)
        answers: dict[str, str | None] = json.loads(wrote)
        return answers

    def answer(self, target: str, seconds: float = 5.0) -> str:
        """The answer of one target, which must come; a name and the client's address."""
        answer = self.ask(target, seconds=seconds)[target]
        assert answer is not None, f"{self.name}: no answer from {target}"
        return answer.rsplit(" ", 1)[0]


class Flood:
    """A conversation that goes on while something is done to the host; see `wire.py flood`."""

    def __init__(self, node: Node, kind: str, address: str, port: int) -> None:
        self.what = f"{kind} from {node.name} to {address} port {port}"
        self._process = node.talker("flood", kind, address, str(port))

    def answered_by(self) -> str:
        """Wait until somebody else than before answers, and return their name."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip().removeprefix("from ")

    def end(self) -> dict[str, float]:
        """Hang up; how much was sent and answered, and the longest wait in seconds."""
        output, _ = self._process.communicate(timeout=30)
        result: dict[str, float] = json.loads(output.splitlines()[-1])
        return result

    def end_unharmed(self) -> None:
        """Hang up and insist that every message was answered."""
        result = self.end()
        assert result["sent"] > 0
        assert result["answered"] == result["sent"], f"{self.what}: {result}"


class Host(Node):
    """The machine that netd runs on."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, "host")
        self.daemon: subprocess.Popen[str] | None = None
        self.program: tuple[str | Path, ...] = (NETD, "daemon")
        self.log = lab.directory / "daemon.log"
        self._systemd: socket.socket | None = None

    def start(self, *flags: str, seconds: float = 30.0) -> float:
        """Start the daemon; returns, in seconds, how long it took until it said that it is ready."""
        assert self.daemon is None, "the daemon runs already"
        address = self.lab.directory / "notify"
        address.unlink(missing_ok=True)
        notify = self._systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(address))
        notify.settimeout(0.2)
        began = time.monotonic()
        with self.log.open("a") as log:
            self.daemon = self.spawn(
                *self.program,
                *flags,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                environment={"NOTIFY_SOCKET": str(address)},
            )
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in notify.recv(4096).split(b"\n"):
                        return time.monotonic() - began
                if (status := self.daemon.poll()) is not None:
                    self.daemon = None
                    raise Failed(f"netd daemon: exit {status}\n{self.log.read_text()}")
                assert time.monotonic() < began + seconds, f"netd daemon: not ready\n{self.log.read_text()}"

    @property
    def daemon_pid(self) -> int:
        """The daemon's pid, as this side of the namespaces sees it."""
        assert self.daemon is not None
        return inside(self.daemon)

    def stop(self) -> int:
        """SIGTERM the daemon; returns its exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL the daemon: nothing of it can tidy up."""
        self._end(signal.SIGKILL)

    def _end(self, signum: int) -> int:
        os.kill(self.daemon_pid, signum)
        return self.gone()

    def gone(self) -> int:
        """Wait for the end of a daemon that is about to end; returns its exit status."""
        assert self.daemon is not None
        status = self.daemon.wait(30)
        self.daemon = None
        self.deafen()
        return status

    def deafen(self) -> None:
        """Close the socket on which the daemon says what systemd would want to know."""
        if self._systemd:
            self._systemd.close()

    def restart(self) -> float:
        """Stop and start the daemon; returns how long the start took."""
        self.stop()
        return self.start()

    def netd(self, *arguments: str | Path, input: str = "", timeout: float = 60.0) -> str:
        """What `netd ...` prints; `Failed` unless it exits with 0."""
        return self.output(NETD, *arguments, input=input, timeout=timeout)

    def json(self, *arguments: str) -> Any:
        """What `netd ... --json` prints, decoded."""
        return json.loads(self.netd(*arguments, "--json"))

    def inspect(self, container: str) -> Any:
        """One container in full, decoded."""
        (found,) = json.loads(self.netd("inspect", container))
        return found

    def network(self, name: str) -> Any:
        """One network in full, decoded."""
        (found,) = json.loads(self.netd("network", "inspect", name))
        return found

    def refused(self, *arguments: str | Path, status: int = 1) -> str:
        """What `netd ...` writes when it is refused: one line."""
        done = self.run(NETD, *arguments)
        assert done.returncode == status, (
            f"netd {arguments}: exit {done.returncode}: {done.stderr}{done.stdout}"
        )
        message = done.stderr.strip()
        assert message, "a refusal says why"
        if status == 1 and arguments[0] != "daemon":  # which logs as well
            assert "\n" not in message, f"a refusal is one line: {message}"
        return message

    def serve(self, name: str, *flags: str, ports: Sequence[str] = ("tcp:80", "udp:80")) -> str:
        """Run a container that answers on `ports` in the background; returns its id."""
        command = [PYTHON, "-IS", "/wire.py", "serve", name, *ports]
        volume = f"{WIRE}:/wire.py:ro"
        id = self.netd("run", "-d", "--name", name, *flags, "-v", volume, "--", *command).strip()
        eventually(f"{name} serves", lambda: "ready" in self.netd("logs", name))
        return id

    def container_ask(self, container: str, *targets: str, seconds: float = 1.0) -> dict[str, str | None]:
        """As `ask`, from inside a container made by `serve`."""
        command = [PYTHON, "-IS", "/wire.py", "ask", str(seconds), *targets]
        answers: dict[str, str | None] = json.loads(self.netd("exec", container, "--", *command))
        return answers

    def address(self, container: str, network: str = "", family: int = 4) -> str:
        """The address of a container, without its prefix length."""
        for endpoint in self.inspect(container)["endpoints"]:
            for address in endpoint["addresses"]:
                if network in ("", endpoint["network"]) and (":" in address) == (family == 6):
                    return str(address).partition("/")[0]
        raise AssertionError(f"{container} has no IPv{family} address in {network or 'any network'}")

    def census(self) -> str:
        """Everything in the kernel and on disk that netd could have left behind, one thing a line."""
        lines = self.output(sys.executable, "-m", "netd.testing.census", "/run/netd", "/var/lib/netd")
        # SQLite's index of its write-ahead log stays behind a crash and is used again; it is no leftover.
        return "".join(line for line in lines.splitlines(keepends=True) if not line.endswith(".db-shm\n"))

    def remove_everything(self) -> None:
        """Remove every container and every network, as a person would."""
        names = [container["name"] for container in self.json("ps", "-a")]
        if names:
            self.netd("rm", "-f", *names)
        networks = [network["name"] for network in self.json("network", "ls")]
        if networks:
            self.netd("network", "rm", *networks)


GROUP = "netd-lab-"
"""What the control groups of labs are called; the pid of the owner follows."""


def lab_groups() -> Iterator[Path]:
    """The labs' own groups in every hierarchy, wherever in it they are."""
    for directory, below, _ in os.walk("/sys/fs/cgroup"):
        found = [name for name in below if name.startswith(GROUP)]
        below[:] = [name for name in below if name not in found]
        yield from (Path(directory, name) for name in found)


def remove_groups(name: str) -> None:
    """Remove the group `name` of every hierarchy and what is below it. Its processes are dead."""
    for group in lab_groups():
        if group.name == name:
            for directory, _, _ in os.walk(group, topdown=False):
                eventually(f"{directory} is empty", lambda: removed(Path(directory)))  # noqa: B023


def removed(group: Path) -> bool:
    """Remove an empty group; False as long as its last processes are still ending."""
    try:
        group.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def sweep() -> None:
    """Remove what labs left whose owner was killed: neither groups nor files end with a namespace."""
    directories = {path.name: path for path in Path("/tmp").glob(f"{GROUP}*-*")}
    for name in {path.name for path in lab_groups()} | directories.keys():
        owner = name.removeprefix(GROUP).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            remove_groups(name)
            if name in directories:
                shutil.rmtree(directories[name], ignore_errors=True)


class Lab:
    """The namespaces, as a context manager."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"{GROUP}{os.getpid()}-", dir="/tmp"))
        self.processes: list[subprocess.Popen[str]] = []
        self.environment = {
            "PATH": f"{NETD.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "error",
            "COLUMNS": "200",
        }
        sweep()
        self._group = f"{GROUP}{os.getpid()}-{secrets.token_hex(4)}"
        unshare = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        self._init = subprocess.Popen(
            [*unshare, "--propagation=private", PYTHON, "-IS", HERE / "init.py", self._group],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.host = Host(self)
        self.client = Node(self, "client")
        self.router = Node(self, "router")
        try:
            self._furnish()
        except BaseException:
            self.__exit__()
            raise

    def _furnish(self) -> None:
        """Wait for the namespaces and wire them."""
        assert self._init.stdout is not None
        line = self._init.stdout.readline()
        assert line, "the lab's namespaces could not be made; they need root"
        self.pid = int(line)
        for node, batch in ((self.host, _HOST), (self.router, _ROUTER), (self.client, _CLIENT)):
            # No duplicate address detection on these links: what is there must not depend on when one looks.
            node.sh("sysctl -qw net.ipv6.conf.default.accept_dad=0")
            node.output("ip", "-batch", "-", input=batch)
            node.sh("sysctl -qw net.ipv6.conf.default.accept_dad=1")
        self.router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._init.stdin is not None
        self._init.stdin.close()
        self._init.wait(30)
        self.host.deafen()
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()
        if self._init.stdout:
            self._init.stdout.close()
        remove_groups(self._group)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def serving(lab: Lab) -> Iterator[Host]:
    """The host of `lab` with the daemon running and nothing else; the block must leave nothing behind.

    Afterwards everything is removed as a person would, the census must be what it was, the daemon must
    end with 0 and must not have logged an exception.
    """
    host = lab.host
    host.start()
    present = len(lab.processes)
    before = host.census()
    yield host
    if host.daemon is None:
        host.start()
    for process in lab.processes[present:]:
        if process is not host.daemon:
            end(process)
    host.remove_everything()
    after = eventually_equal(before, host.census)
    assert after == before, "left behind:\n" + "\n".join(unified(before, after))
    assert host.stop() == 0
    assert "Traceback" not in host.log.read_text(), "the daemon logged an exception"


def eventually_equal(wanted: str, look: Callable[[], str], seconds: float = 5.0) -> str:
    """What `look` sees once it is `wanted`, or what it sees after `seconds`."""
    deadline = time.monotonic() + seconds
    while (seen := look()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return seen


def unified(before: str, after: str) -> list[str]:
    """The lines that differ, marked as diff does."""
    return list(
        difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", n=0, lineterm="")
    )
