"""The life of a container, with a runtime and an engine made of paper and faults where they hurt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from netd.errors import AlreadyExists, Exhausted, InUse, Invalid, NetdError, NotFound, Unavailable
from netd.launch import Attachment, Request
from netd.model import NetworkRequest, Want
from netd.registry import Record
from netd.runtime.spec import Status
from tests.unit.house import FRONT, House, run
from tests.unit.paper import PaperStore


def test_a_container_runs_ends_and_is_removed(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT, labels={"a": "b"})
        record = it.containers.find("web")
        assert (record.state, record.pid, record.started) == ("running", 4711, 100.0)
        sandbox = it.engine.view.sandboxes[id]
        assert (sandbox.name, sandbox.netns, sandbox.labels) == ("web", record.netns, {"a": "b"})
        assert it.runtime.specs[id].netns == "/run/netd/netns/web"

        it.runtime.finish(id, 3, oom=True)
        record = await it.containers.wait("web")
        assert (record.state, record.exit_code, record.oom_killed) == ("exited", 3, True)
        assert (record.pid, record.finished, record.netns) == (0, 200.0, None)
        assert not it.engine.view.sandboxes
        assert not it.kernel.namespaces
        assert it.containers.list(all=False) == []
        assert it.containers.list(all=True) == [record]

        await it.containers.remove("web", force=False)
        assert it.is_empty()
        assert it.happened() == [("start", "web"), ("exit", "web"), ("remove", "web")]

    run(tmp_path, story)


def test_without_a_network_it_joins_the_default_one_made_on_first_use(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        first, second = await asyncio.gather(it.run("a"), it.run("b"))
        default = it.engine.network("default")
        assert {e.sandbox for e in it.engine.view.endpoints_in(default.id)} == {first, second}

    run(tmp_path, story)


def test_none_has_a_namespace_and_nothing_in_it(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=(Attachment(network="none"),))
        assert "web" in it.kernel.namespaces
        assert not it.engine.view.sandboxes
        assert (it.runtime.directory(id) / "resolv.conf").read_text() == ""
        with pytest.raises(InUse, match="--network none"):
            await it.containers.connect("web", Want(network="front"))
        await it.containers.remove("web", force=True)
        assert it.is_empty()

    run(tmp_path, story)


def test_host_uses_the_hosts_network_and_files(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=(Attachment(network="host"),), dns=("9.9.9.9",), hosts={"db": "10.1.1.1"})
        assert not it.kernel.namespaces
        assert it.runtime.specs[id].netns == ""
        directory = it.runtime.directory(id)
        assert (directory / "resolv.conf").read_text() == "nameserver 9.9.9.9\n"
        host = Path("/etc/hosts").read_text()
        assert (directory / "hosts").read_text() == host + "10.1.1.1\tdb\n"
        with pytest.raises(InUse, match="--network host"):
            await it.containers.publish("web", "80:80")
        await it.containers.remove("web", force=True)
        assert it.is_empty()

    run(tmp_path, story)


def test_its_files_follow_its_networks(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.engine.create_network(NetworkRequest(name="back"))
        id = await it.run(networks=FRONT, hostname="w", hosts={"me": "host-gateway"})
        directory = it.runtime.directory(id)
        assert (directory / "hostname").read_text() == "w\n"
        assert (directory / "resolv.conf").read_text() == (
            "nameserver 10.9.0.1\nsearch front\noptions ndots:0\n"
        )
        before = (directory / "hosts").stat()
        assert "10.9.0.1\tme\n" in (directory / "hosts").read_text()
        assert before.st_mode & 0o777 == 0o644

        endpoint = await it.containers.connect("web", Want(network="back"))
        assert f"{endpoint.addresses[0].ip}\tw web\n" in (directory / "hosts").read_text()
        assert "nameserver 10.9.1.1\n" in (directory / "resolv.conf").read_text()

        await it.containers.disconnect("web", "front")
        text = (directory / "hosts").read_text()
        assert text.count("\tw web\n") == 1
        assert "10.9.0.1\tme\n" in text
        assert (directory / "resolv.conf").read_text() == (
            "nameserver 10.9.1.1\nsearch back\noptions ndots:0\n"
        )
        assert (directory / "hosts").stat().st_ino == before.st_ino

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("room", "step"),
    [
        ("kernel", "netns_create"),
        ("runtime", "create"),
        ("engine", "attach"),
        ("runtime", "attach"),
        ("runtime", "run"),
    ],
)
def test_a_failure_at_any_step_leaves_nothing(tmp_path: Path, room: str, step: str) -> None:
    async def story(it: House) -> None:
        getattr(it, room).failing[step] = Exhausted("nothing left")
        with pytest.raises(Exhausted, match="nothing left"):
            await it.containers.run(Request(name="web", command=("true",), networks=FRONT), attach=True)
        assert it.is_empty()
        assert all(stream.closed for stream in it.runtime.streams.values())
        await it.run(networks=FRONT)

    run(tmp_path, story)


def test_an_unknown_network_leaves_nothing(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        with pytest.raises(NotFound, match="'nope'"):
            await it.run(networks=(Attachment(network="nope"),))
        assert it.is_empty()

    run(tmp_path, story)


@pytest.mark.parametrize(("room", "step"), [("runtime", "create"), ("engine", "attach"), ("runtime", "run")])
def test_a_caller_that_goes_away_gets_no_container(tmp_path: Path, room: str, step: str) -> None:
    async def story(it: House) -> None:
        faults = getattr(it, room)
        faults.hold(step)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(it.run(networks=FRONT))
            await faults.reached[step].wait()
            running.cancel()
            await asyncio.sleep(0)
            faults.holding.pop(step).set()
            with pytest.raises(asyncio.CancelledError):
                await running
        assert it.is_empty()

    run(tmp_path, story)


def test_what_fails_while_undoing_does_not_keep_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(it: House) -> None:
        it.runtime.failing["run"] = Invalid("no such command")
        it.engine.failing["detach"] = NetdError("kernel is cross")
        with pytest.raises(Invalid, match="no such command"):
            await it.run(networks=FRONT)
        assert not it.kernel.namespaces
        assert not it.runtime.specs
        assert not it.store.records
        assert "kernel is cross" in caplog.text

    run(tmp_path, story)


def test_of_many_who_want_a_name_one_gets_it(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        outcomes = await asyncio.gather(*(it.run(networks=FRONT) for _ in range(64)), return_exceptions=True)
        assert sum(isinstance(outcome, str) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 63
        removals = (it.containers.remove("web", force=True) for _ in range(64))
        removed = await asyncio.gather(*removals, return_exceptions=True)
        assert sum(not isinstance(outcome, BaseException) for outcome in removed) == 1
        assert it.is_empty()

    run(tmp_path, story)


def test_rm_when_it_ends(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        started = await it.containers.run(
            Request(name="web", command=("true",), networks=FRONT, remove=True), attach=False
        )
        it.runtime.finish(started.record.id, 7)
        assert (await started.end()).exit_code == 7
        assert it.is_empty()
        assert it.happened() == [("start", "web"), ("exit", "web"), ("remove", "web")]

    run(tmp_path, story)


def test_removing_by_force_what_removes_itself(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT, remove=True)
        await it.containers.remove("web", force=True)
        assert it.is_empty()
        assert it.happened().count(("remove", "web")) == 1

    run(tmp_path, story)


def test_a_running_container_is_not_removed_without_force(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT)
        with pytest.raises(InUse, match=r"is running: `netd stop web`"):
            await it.containers.remove("web", force=False)
        assert it.containers.find("web").state == "running"

    run(tmp_path, story)


def test_stop_asks_first(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT)
        record = await it.containers.stop("web", 30)
        assert (record.state, record.exit_code) == ("exited", 143)
        assert it.runtime.signals == [15]
        assert (await it.containers.stop("web", 30)).exit_code == 143

    run(tmp_path, story)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.deaf = True
        await it.run(networks=FRONT)
        assert (await it.containers.stop("web", 0.05)).exit_code == 137
        assert it.runtime.signals == [15, 9]

    run(tmp_path, story)


def test_stop_without_patience_kills_at_once(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT)
        await it.containers.stop("web", 0)
        assert it.runtime.signals == [9]

    run(tmp_path, story)


def test_ports_are_added_and_withdrawn_by_what_is_given(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT, publish=("8080:80",))
        added = await it.containers.publish("web", "127.0.0.1:9090:80")
        assert [port.host_port for port in added] == [8080, 9090]
        with pytest.raises(NotFound, match="'8081:80'"):
            await it.containers.unpublish("web", "8081:80")
        left = await it.containers.unpublish("web", "127.0.0.1:9090:80")
        assert [port.host_port for port in left] == [8080]
        assert await it.containers.unpublish("web", "80") == ()

    run(tmp_path, story)


def test_exec_needs_a_running_container(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        it.runtime.finish(id, 0)
        await it.containers.wait("web")
        with pytest.raises(InUse, match="'web' is not running, it is exited"):
            await it.containers.exec("web", it.runtime.specs[id].process)

    run(tmp_path, story)


def test_the_next_daemon_takes_over(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        alive = await it.run("alive", networks=FRONT)
        ended = await it.run("ended", networks=FRONT)
        gone = await it.run("gone", networks=FRONT, remove=True)
        lost = await it.run("lost", networks=FRONT)
        old = await it.run("old", networks=FRONT)
        it.runtime.finish(old, 1)
        await it.containers.wait("old")
        await it.containers.close()
        it.runtime.finish(ended, 5)
        it.runtime.finish(gone, 6)
        del it.runtime.statuses[lost], it.runtime.specs[lost]

        await it.restart()
        states = {r.name: (r.state, r.exit_code) for r in it.containers.list(all=True)}
        assert states == {
            "alive": ("running", 0),
            "ended": ("exited", 5),
            "lost": ("exited", 255),
            "old": ("exited", 1),
        }
        assert set(it.engine.view.sandboxes) == {alive}
        assert set(it.kernel.namespaces) == {"alive"}
        assert (await it.containers.wait("old")).exit_code == 1
        it.runtime.finish(alive, 9)
        assert (await it.containers.wait("alive")).exit_code == 9

    run(tmp_path, story)


@pytest.mark.parametrize("step", ["create", "run"])
def test_the_next_daemon_undoes_what_was_being_made(tmp_path: Path, step: str) -> None:
    async def story(it: House) -> None:
        it.runtime.hold(step)
        abandoned = asyncio.ensure_future(it.run(networks=FRONT))  # noqa: TID251 (held by this test)
        await it.runtime.reached[step].wait()
        frozen = dict(it.store.records)
        assert frozen
        it.store = PaperStore(frozen)  # the old daemon, dead, writes no more
        del it.runtime.holding[step]
        await it.crash()
        assert it.is_empty()
        abandoned.cancel()

    run(tmp_path, story)


def test_the_next_daemon_finds_a_namespace_that_was_not_written_down(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.hold("create")
        abandoned = asyncio.ensure_future(it.run(networks=FRONT))  # noqa: TID251 (held by this test)
        await it.runtime.reached["create"].wait()
        (key, raw), *_ = it.store.records.items()
        record = msgspec.msgpack.decode(raw, type=Record)
        early = msgspec.msgpack.encode(msgspec.structs.replace(record, netns=None))
        it.store = PaperStore({key: early})
        del it.runtime.holding["create"]
        assert it.kernel.namespaces
        await it.crash()
        assert it.is_empty()
        abandoned.cancel()

    run(tmp_path, story)


def test_what_belongs_to_no_record_is_removed(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        await it.run(networks=FRONT)
        it.store.records.clear()
        await it.restart()
        assert not it.runtime.specs
        assert not it.engine.view.sandboxes

    run(tmp_path, story)


def test_a_container_whose_record_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        id = await it.run(networks=FRONT)
        it.store.records[id] = b"of a newer daemon"
        await it.restart()
        assert it.containers.list(all=True) == []
        assert id in it.runtime.specs
        assert id in it.engine.view.sandboxes
        assert it.store.records[id] == b"of a newer daemon"

    run(tmp_path, story)


def test_waiting_for_a_container_that_is_undone_ends(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.hold("run")
        it.runtime.failing["run"] = Invalid("no such command")
        running = asyncio.gather(it.run(networks=FRONT), return_exceptions=True)
        await it.runtime.reached["run"].wait()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(it.containers.wait("web"))
            await asyncio.sleep(0)
            it.runtime.holding.pop("run").set()
            assert (await waiting).exit_code == 255
        assert isinstance((await running)[0], Invalid)

    run(tmp_path, story)


def test_what_cannot_be_forgotten_can_be_removed_later(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.hold("create")
        it.runtime.failing["create"] = Exhausted("no memory")
        running = asyncio.gather(it.run(networks=FRONT), return_exceptions=True)
        await it.runtime.reached["create"].wait()
        it.store.full = True
        it.runtime.holding.pop("create").set()
        assert isinstance((await running)[0], Exhausted)
        assert it.containers.find("web").state == "exited"
        it.store.full = False
        await it.containers.remove("web", force=False)
        assert it.is_empty()

    run(tmp_path, story)


def test_a_wait_that_ends_before_the_container_is_repeated(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        waits = 0
        wait = it.runtime.wait

        async def cut_off(id: str) -> Status:
            nonlocal waits
            waits += 1
            return await (it.runtime.status(id) if waits == 1 else wait(id))

        it.runtime.wait = cut_off  # type: ignore[method-assign]
        id = await it.run(networks=FRONT)
        while waits < 2:  # noqa: ASYNC110 (a counter)
            await asyncio.sleep(0.01)
        assert it.containers.find("web").state == "running"
        it.runtime.finish(id, 4)
        assert (await it.containers.wait("web")).exit_code == 4

    run(tmp_path, story)


def test_a_stopping_daemon_finishes_what_it_began_and_begins_nothing(tmp_path: Path) -> None:
    async def story(it: House) -> None:
        it.runtime.hold("create")
        async with asyncio.TaskGroup() as group:
            running = group.create_task(it.run(networks=FRONT))
            await it.runtime.reached["create"].wait()
            closing = group.create_task(it.containers.close())
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await it.run("other", networks=FRONT)
            assert not closing.done()
            it.runtime.holding.pop("create").set()
            await running
            await closing
        assert it.containers.find("web").state == "running"

    run(tmp_path, story)
