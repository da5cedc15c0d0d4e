"""/dev and terminals."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from netd.errors import Invalid
from netd.runtime.spec import Attached, Frame, Process
from tests.runtime.box import Box, eventually, within

NODES = ("full", "null", "random", "tty", "urandom", "zero")


def test_dev_has_what_programs_expect_and_nothing_else(box: Box) -> None:
    names = box.run("ls /dev").stdout.split()
    assert names == sorted([*NODES, "fd", "mqueue", "ptmx", "pts", "shm", "stdin", "stdout", "stderr"])
    kinds = box.run("cd /dev; stat -c '%n %t:%T %a' " + " ".join(NODES)).stdout.splitlines()
    assert kinds == [
        "full 1:7 666",
        "null 1:3 666",
        "random 1:8 666",
        "tty 5:0 666",
        "urandom 1:9 666",
        "zero 1:5 666",
    ]


def test_the_devices_work(box: Box) -> None:
    script = """
        echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c
        head -c 1 /dev/zero >/dev/full; echo x >/dev/shm/y; cat /dev/shm/y
        echo out >/dev/stdout; echo err >/dev/stderr
        test -d /dev/mqueue; echo $?
    """
    result = box.run(script)
    assert result.stdout.split() == ["3", "3", "x", "out", "0"]
    assert "No space left on device" in result.stderr
    assert result.stderr.endswith("err\n")


def test_the_devices_are_not_the_host_s(box: Box) -> None:
    before = Path("/dev/null").stat().st_mode
    assert box.run("chmod 600 /dev/null; stat -c %a /dev/null").stdout == "600\n"
    assert Path("/dev/null").stat().st_mode == before


def test_no_further_device_can_be_opened(box: Box) -> None:
    script = "for f in /dev/x /x /dev/shm/x; do mknod $f c 1 5 && cat $f; done"
    assert box.run(script).stderr.count("Operation not permitted") == 3
    assert box.run(script, cap_add=("MKNOD",)).stderr.count("Permission denied") == 3


class Terminal:
    """Types into an attached process and waits for what it shows."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._frames = attached.__aiter__()
        self.screen = ""

    async def type(self, text: str) -> None:
        await self._attached.send(Frame("stdin", text.encode()))

    async def resize(self, rows: int, columns: int) -> None:
        await self._attached.send(Frame("resize", code=rows << 16 | columns))

    async def shows(self, text: str) -> None:
        async def read() -> None:
            while text not in self.screen:
                frame = await anext(self._frames)
                assert frame.kind == "stdout", (
                    f"{frame.kind} {frame.code} before {text!r}; shown: {self.screen!r}"
                )
                self.screen += frame.data.decode()

        await within(read())

    async def end(self) -> int:
        async def read() -> int:
            async for frame in self._frames:
                if frame.kind == "exit":
                    return frame.code
                self.screen += frame.data.decode()
            raise AssertionError("no exit frame")

        code = await within(read())
        await self._attached.close()
        return code


async def _container(box: Box, *argv: str) -> tuple[str, Terminal]:
    spec = box.spec(*argv, tty=True, interactive=True, rows=30, columns=100)
    await box.runtime.create(spec)
    terminal = Terminal(await box.runtime.attach(spec.id))
    await box.runtime.run(spec.id)
    return spec.id, terminal


def test_a_terminal(box: Box) -> None:
    async def session() -> None:
        id, terminal = await _container(box, "/bin/sh")
        await terminal.type("tty; stty size; ls -l /dev/console | wc -l; echo mark$((1+1))\n")
        await terminal.shows("mark2\r\n")
        assert "/dev/pts/0\r\n" in terminal.screen
        assert "30 100\r\n" in terminal.screen
        await terminal.resize(40, 120)
        await terminal.type("stty size; echo mark$((1+2))\n")
        await terminal.shows("mark3\r\n")
        assert "40 120\r\n" in terminal.screen
        await terminal.type("echo to-console >/dev/console; echo to-tty >/dev/tty; echo mark$((2+2))\n")
        await terminal.shows("mark4\r\n")
        assert "to-console\r\n" in terminal.screen
        assert "to-tty\r\n" in terminal.screen
        await terminal.type("exit 3\n")
        assert await terminal.end() == 3
        await box.runtime.remove(id)

    box.do(session())


def test_a_resize_is_told_to_the_program(box: Box) -> None:
    async def session() -> None:
        script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
        id, terminal = await _container(box, "/bin/sh", "-c", script)
        await terminal.shows("ready")
        await terminal.resize(11, 22)
        await terminal.shows("11 22")
        await terminal._attached.close()
        await box.runtime.remove(id)

    box.do(session())


def test_control_c_interrupts_the_foreground(box: Box) -> None:
    async def session() -> None:
        id, terminal = await _container(box, "/bin/sh")
        await terminal.type("sleep 1000; echo woken $?\n")
        await asyncio.to_thread(eventually, "asleep", lambda: "sleep" in box.names(id))
        await terminal.type("\x03")
        await terminal.type("echo mark$((3+3))\n")
        await terminal.shows("mark6")
        await terminal._attached.send(Frame("eof"))  # ^D at the prompt ends the shell
        assert await terminal.end() in (0, 130)
        await box.runtime.remove(id)

    box.do(session())


def test_control_c_ends_a_command_that_is_alone(box: Box) -> None:
    async def session() -> None:
        id, terminal = await _container(box, "/bin/sh", "-c", "echo ready; exec sleep 1000")
        await terminal.shows("ready")
        await terminal.type("\x03")
        assert await terminal.end() == 130
        await box.runtime.remove(id)

    box.do(session())


def test_all_output_of_a_terminal_arrives(box: Box) -> None:
    async def session() -> None:
        id, terminal = await _container(box, "/bin/sh", "-c", "seq 1 5000; printf end")
        assert await terminal.end() == 0
        assert terminal.screen.split() == [*map(str, range(1, 5001)), "end"]
        log = b"".join([entry.data async for entry in box.runtime.logs(id, follow=False, tail=0)])
        assert log.decode() == terminal.screen
        await box.runtime.remove(id)

    box.do(session())


def test_a_terminal_of_an_exec(box: Box) -> None:
    id = box.start("sleep 60")

    async def session() -> None:
        process = Process(argv=("/bin/sh",), tty=True, interactive=True, rows=5, columns=50, user="1000")
        terminal = Terminal(await box.runtime.exec(id, process))
        await terminal.type("tty; stty size; stat -c %u $(tty); echo mark$((1+1))\n")
        await terminal.shows("mark2\r\n")
        assert "/dev/pts/0\r\n5 50\r\n1000\r\n" in terminal.screen.replace("\x1b[?2004l\r", "")
        await terminal.resize(6, 60)
        await terminal.type("stty size; exit 4\n")
        assert await terminal.end() == 4
        assert "6 60\r\n" in terminal.screen

    box.do(session())
    box.remove(id)


def test_a_terminal_of_an_exec_is_not_taken_from_a_forged_dev(box: Box) -> None:
    """With the right to mount, a container may put anything under /dev/pts (CVE-2025-52565)."""
    script = "umount /dev/pts && mkdir -p /dev/pts && echo ready; sleep 60"
    id = box.start(script, cap_add=("SYS_ADMIN",))
    box.says(id, "ready")
    with pytest.raises(Invalid, match="/dev/pts of the container is no devpts"):
        box.do(box.runtime.exec(id, Process(argv=("/bin/sh",), tty=True)))
    box.remove(id)
