"""The process that stays with a container: what it holds, and what it does not."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from netd.runtime import record, wire
from netd.runtime.attach import Connection
from netd.runtime.record import Record
from netd.runtime.spec import Frame, Process
from tests.runtime.box import Box, collect, eventually, within


def _state(box: Box, id: str) -> Record:
    return record.read(box.runtime.directory(id))


def test_it_is_adopted_and_in_a_session_of_its_own(box: Box) -> None:
    id = box.start("sleep 60")
    monitor = _state(box, id).monitor.pid
    parent, group, session = Path(f"/proc/{monitor}/stat").read_text().rpartition(")")[2].split()[1:4]
    assert int(parent) not in (os.getpid(), box.runtime._launcher)
    assert int(session) not in (os.getsid(0), os.getsid(box.runtime._launcher))
    assert group == session
    title = Path(f"/proc/{monitor}/cmdline").read_bytes().rstrip(b"\0").decode()
    assert title == f"netd-monitor {id}"
    box.remove(id)


def test_it_holds_what_it_needs_and_nothing_else(box: Box) -> None:
    """Above all none of the daemon's or the launcher's sockets, nor the terminal they were started from."""
    id = box.start("sleep 60", interactive=True)
    monitor = _state(box, id).monitor.pid
    directory = str(box.runtime.directory(id))

    def held() -> list[str]:
        links = [str(path.readlink()) for path in Path(f"/proc/{monitor}/fd").iterdir()]
        return sorted(re.sub(":.*", "", link).replace(directory, "DIR") for link in links)

    streams = ["pipe"] * 3
    sockets = ["socket"]  # it listens; nobody is attached
    polled = ["anon_inode"] * 3  # the selector and two processes
    files = ["/dev/null", "/dev/null", "DIR", "DIR/log", "DIR/monitor.log"]
    wanted = sorted([*streams, *sockets, *polled, *files])
    eventually("just these", lambda: held() == wanted)
    assert Path(directory, "monitor.log").read_text() == ""
    box.remove(id)


def test_signals_of_clients_go_to_the_command(box: Box) -> None:
    async def life() -> None:
        script = "trap 'echo got it; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
        spec = box.spec("/bin/sh", "-c", script)
        await box.runtime.create(spec)
        attached = await box.runtime.attach(spec.id)
        await box.runtime.run(spec.id)
        seen = b""
        async for frame in attached:
            seen += frame.data
            if frame.data == b"ready\n":
                await attached.send(Frame("signal", code=signal.SIGUSR1))
            if frame.kind == "exit":
                assert frame.code == 3
        assert seen == b"ready\ngot it\n"
        await attached.close()
        await box.runtime.remove(spec.id)

    box.do(within(life()))


def test_several_clients_see_the_same_and_all_may_type(box: Box) -> None:
    async def life() -> None:
        spec = box.spec("/bin/cat", interactive=True)
        await box.runtime.create(spec)
        await box.runtime.run(spec.id)
        clients = [await box.runtime.attach(spec.id) for _ in range(3)]
        for number, client in enumerate(clients):
            await client.send(Frame("stdin", b"%d\n" % number))
        typed = b""
        while len(typed) < 6:
            typed += (await anext(aiter(clients[0]))).data
        await clients[0].send(Frame("eof"))
        assert sorted(typed.split()) == [b"0", b"1", b"2"]
        for client in clients[1:]:
            assert await collect(client) == (typed, b"", 0)
        await clients[0].close()
        await box.runtime.remove(spec.id)

    box.do(within(life()))


def test_a_client_that_leaves_does_not_disturb(box: Box) -> None:
    async def life() -> None:
        spec = box.spec("/bin/sh", "-c", "read _; seq 1 100000; echo end", interactive=True)
        await box.runtime.create(spec)
        await box.runtime.run(spec.id)
        leaving, staying = await box.runtime.attach(spec.id), await box.runtime.attach(spec.id)
        await leaving.send(Frame("stdin", b"\n"))
        await leaving.close()
        out, _, code = await collect(staying)
        assert code == 0
        assert out.endswith(b"100000\nend\n")
        await box.runtime.remove(spec.id)

    box.do(within(life()))


def test_nonsense_from_a_client_is_ignored(box: Box) -> None:
    # What is said early by one that is attached already counts, and must not end the container.
    id = box.start('while read line && [ "$line" != late ]; do :; done; echo "$line"', interactive=True)

    async def talk() -> None:
        for packet in (b"\x00", b"x" * 100, wire.pack(Frame("stdin", b"early\n")), wire.pack(Frame("exit"))):
            connection = await Connection.open(box.runtime.directory(id), "attach")
            connection._socket.setblocking(True)
            connection._socket.send(packet)
            await connection.close()
        attached = await box.runtime.attach(id)
        await attached.send(Frame("resize", code=5))
        await attached.send(Frame("signal", code=999))
        await attached.send(Frame("stdin", b"late\n"))
        _, _, code = await collect(attached)
        assert code == 0

    box.do(within(talk()))
    box.says(id, "late")
    box.remove(id)


def test_a_process_that_closes_its_input_loses_the_rest(box: Box) -> None:
    result = box.run("exec 0<&-; echo closed; sleep 0.2; echo alive", stdin=b"x" * 3_000_000)
    assert result.stdout == "closed\nalive\n"


def test_the_monitor_of_an_exec_goes_with_its_process(box: Box) -> None:
    id = box.start("sleep 60")
    attached = box.do(box.runtime.exec(id, Process(argv=("sleep", "1000"))))
    eventually("its monitor", lambda: f"netd-exec {id}" in box.processes())
    box.do(attached.close())
    assert f"netd-exec {id}" in box.processes()  # detached from, it goes on
    box.exec(id, "pkill -x sleep -n; kill -9 $(pgrep -x sleep | tail -1)")
    eventually("its end", lambda: f"netd-exec {id}" not in box.processes())
    box.remove(id)


def test_output_after_the_end_of_an_exec_is_not_waited_for(box: Box) -> None:
    id = box.start("sleep 60")
    assert box.exec(id, "sleep 1000 & echo started").stdout == "started\n"
    box.remove(id)
