"""The feed and the server it supervises, asked by dig from namespaces on real bridges."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest

from netd import dns_feed, dns_lookup, dns_process
from netd.dns_feed import describe
from netd.errors import AlreadyExists, Unavailable
from netd.model import Network, Proto, RemoteEndpoint
from netd_dns import control
from tests.descriptors import descriptors
from tests.kernel.dnslab import bridge, client, feeding, network, run, sandbox, server_pid

FRONT, BACK = network("front", 1), network("back", 2)


async def ask(
    name: str, server: str = "10.99.1.1", rtype: str = "A", timeout: float = 3.0
) -> dns.message.Message:
    """Ask from the host itself."""
    question = dns.message.make_query(name, rtype)
    return await dns.asyncquery.udp(question, server, timeout=timeout)


async def interpreter_start() -> float:
    """How long Python takes here and now to start and do nothing, in seconds; 0.02 is what it should."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        await run(sys.executable, "-I", "-S", "-c", "pass")
        times.append(time.monotonic() - began)
    return sorted(times)[2]


async def eventually(what: str, condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.005)


async def test_a_container_asks_over_both_families_and_transports(tmp_path: Path) -> None:
    async with feeding(tmp_path, FRONT) as feed:
        web, db = sandbox("web", (FRONT, 2), aliases=("www", "*.app")), sandbox("db", (FRONT, 3))
        await feed.start([FRONT], [web, db])
        async with client(web[1], [FRONT]) as box:
            for server in ("@10.99.1.1", "@fd99:1::1"):
                for transport in ("+notcp", "+tcp"):
                    assert await box.short(server, transport, "db", "A") == ["10.99.1.3"]
                    assert await box.short(server, transport, "DB.front", "AAAA") == ["fd99:1::3"]
            assert await box.short("@10.99.1.1", "x.y.app") == ["10.99.1.2"]
            assert await box.short("@10.99.1.1", "-x", "10.99.1.3") == ["db.front."]
            assert await box.short("@10.99.1.1", "-x", "fd99:1::3") == ["db.front."]
            assert await box.short("@10.99.1.1", web[0].id[:12]) == ["10.99.1.2"]
            assert await box.status("@10.99.1.1", "nobody") == "NXDOMAIN"
            assert await box.status("@10.99.1.1", "db", "HTTPS") == "NOERROR"


async def test_networks_do_not_see_each_other(tmp_path: Path) -> None:
    async with feeding(tmp_path, FRONT, BACK) as feed:
        web, db, both = (
            sandbox("web", (FRONT, 2)),
            sandbox("db", (BACK, 2)),
            sandbox("both", (FRONT, 9), (BACK, 9)),
        )
        await feed.start([FRONT, BACK], [web, db, both])
        async with client(web[1], [FRONT]) as box:
            assert await box.status("@10.99.1.1", "db") == "NXDOMAIN"
            assert await box.short("@10.99.1.1", "both") == ["10.99.1.9"]
            # Across the host, at the other network's gateway: nobody it would serve.
            for server in ("@10.99.2.1", "@fd99:2::1"):
                assert await box.status(server, "db") == "REFUSED"
                assert await box.status(server, "web") == "REFUSED"
        async with client(both[1], [FRONT, BACK]) as box:
            for server in ("@10.99.1.1", "@10.99.2.1", "@fd99:1::1", "@fd99:2::1"):
                assert await box.short(server, "db") == ["10.99.2.2"]
                assert await box.short(server, "web") == ["10.99.1.2"]
                assert await box.short(server, "both") == ["10.99.1.9", "10.99.2.9"]
        # The host sees the network that it asks.
        assert (await ask("web")).answer
        assert (await ask("db")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask("db", "fd99:2::1")).answer


async def test_a_change_is_in_force_when_the_call_returns(tmp_path: Path) -> None:
    async with feeding(tmp_path, FRONT) as feed:
        await feed.start([FRONT], [])
        for number in range(2, 30):
            web, endpoints = sandbox("web", (FRONT, number))
            await feed.sandbox_changed(web, endpoints)
            assert str((await ask("web")).answer[0][0]) == f"10.99.1.{number}"
            await feed.sandbox_changed(web, ())
            assert (await ask("web")).rcode() == dns.rcode.NXDOMAIN


async def test_endpoints_of_other_hosts_have_names_too(tmp_path: Path) -> None:
    far = RemoteEndpoint(
        id="far",
        network=FRONT.id,
        node="h2",
        sandbox="c" * 64,
        name="db",
        hostname="db1",
        aliases=("*.db",),
        mac="02:42:00:00:00:09",
        addresses=(ip_interface("10.99.1.9/24"), ip_interface("fd99:1::9/64")),
        services=((Proto.TCP, 5432),),
    )
    async with feeding(tmp_path, FRONT) as feed:
        await feed.remotes_changed([far])
        web = sandbox("web", (FRONT, 2))
        await feed.start([FRONT], [web])
        async with client(web[1], [FRONT]) as box:
            for name in ("db", "db1", "db.front", "x.db", "c" * 12):
                assert await box.short("@10.99.1.1", name) == ["10.99.1.9"]
            assert await box.short("@10.99.1.1", "db", "AAAA") == ["fd99:1::9"]
            assert await box.short("@10.99.1.1", "-x", "10.99.1.9") == ["db.front."]
            assert await box.short("@10.99.1.1", "_5432._tcp.db", "SRV")
            await feed.remotes_changed([replace(far, name="", hostname="", aliases=())])
            assert await box.status("@10.99.1.1", "db") == "NXDOMAIN"
            assert await box.short("@10.99.1.1", "c" * 12) == ["10.99.1.9"]
            moved = replace(far, addresses=(ip_interface("10.99.1.10/24"),))
            await feed.remotes_changed([moved])
            assert await box.short("@10.99.1.1", "db") == ["10.99.1.10"]
            pid = server_pid(tmp_path)
            os.kill(pid, signal.SIGKILL)
            await eventually("it is back", lambda: server_pid(tmp_path) != pid and feed._link is not None)
            assert await box.short("@10.99.1.1", "db") == ["10.99.1.10"]
            await feed.remotes_changed([], [moved])
            assert await box.status("@10.99.1.1", "db") == "NXDOMAIN"


async def test_a_remote_endpoint_has_a_name_once_its_network_is_there(tmp_path: Path) -> None:
    many = [
        RemoteEndpoint(
            id=str(number),
            network=BACK.id,
            node="h2",
            sandbox="s",
            name=f"c{number}",
            mac="02:42:00:00:00:09",
            addresses=(ip_interface(f"10.99.2.{number}/24"),),
        )
        for number in range(2, 250)
    ]
    async with feeding(tmp_path, FRONT) as feed, bridge(BACK):
        await feed.start([FRONT], [])
        await feed.remotes_changed(many)
        await feed.network_added(BACK)
        await feed.remotes_changed(many)
        answer = await ask("c249", "10.99.2.1")
        assert str(answer.answer[0][0]) == "10.99.2.249"
        await feed.network_removed(BACK)


async def test_networks_come_and_go(tmp_path: Path) -> None:
    async with feeding(tmp_path) as feed:
        await feed.start([], [])
        for _ in range(2):
            async with bridge(FRONT):
                await feed.network_added(FRONT)
                web, endpoints = sandbox("web", (FRONT, 2))
                await feed.sandbox_changed(web, endpoints)
                assert (await ask("web")).answer
                await feed.sandbox_changed(web, ())
                await feed.network_removed(FRONT)
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    with socket.socket(socket.AF_INET, kind) as sock:
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        sock.bind(("10.99.1.1", 53))  # nobody has it


async def test_a_port_that_is_taken_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    async with feeding(tmp_path, FRONT) as feed:
        await feed.start([], [])
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as other:
            other.bind(("fd99:1::1", 53))
            other.listen()
            before = len(descriptors())
            with pytest.raises(
                AlreadyExists, match=r"network front: port 53 of its gateway fd99:1::1 is taken"
            ):
                await feed.network_added(FRONT)
            assert len(descriptors()) == before
        await feed.network_added(FRONT)


async def test_a_port_that_is_taken_does_not_keep_the_daemon_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dns_feed, "PING_EVERY", 0.05)
    web, db = sandbox("web", (FRONT, 2)), sandbox("db", (BACK, 2))
    async with feeding(tmp_path, FRONT, BACK) as feed:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("10.99.1.1", 53))
            await feed.start([FRONT, BACK], [web, db])
            assert (await ask("db", "10.99.2.1")).answer
            tried = 0
            real = dns_process.open_sockets

            def counted(net: Network) -> dict[dns_process.Listen, socket.socket]:
                nonlocal tried
                tried += 1
                return real(net)

            monkeypatch.setattr(dns_process, "open_sockets", counted)
            await eventually("it is tried again and again", lambda: tried > 2)
        await eventually("the port is taken over", lambda: FRONT.id in feed._sockets)
        assert (await ask("web", "fd99:1::1")).answer
        assert caplog.text.count("port 53 of its gateway 10.99.1.1 is taken") == 1


async def test_a_server_that_dies_is_back_with_all_names_within_200_ms(tmp_path: Path) -> None:
    many = [sandbox(f"c{number}", (FRONT, number)) for number in range(2, 252)]
    async with feeding(tmp_path, FRONT) as feed:
        await feed.start([FRONT], many)
        gaps = []
        for round in range(5):
            pid = server_pid(tmp_path)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            # One packet, never repeated: it waits in the socket that the daemon holds open.
            answer = await ask(f"c{200 + round}", timeout=5)
            gaps.append(time.monotonic() - began)
            assert str(answer.answer[0][0]) == f"10.99.1.{200 + round}"
            await eventually("the successor is known", lambda pid=pid: server_pid(tmp_path) != pid)  # type: ignore[misc]
            await eventually("it is told everything", lambda: feed._link is not None)
        # On a machine that is busy with other tests everything takes longer, a bare interpreter too.
        assert min(gaps) < 0.2 * max(1.0, await interpreter_start() / 0.02), gaps
        assert feed.restarts == 5


async def test_a_change_during_a_restart_is_not_lost(tmp_path: Path) -> None:
    async with feeding(tmp_path, FRONT) as feed:
        gone, new = sandbox("gone", (FRONT, 2)), sandbox("new", (FRONT, 3))
        await feed.start([FRONT], [gone])
        for delay in (0.0, 0.01, 0.03, 0.06):
            os.kill(server_pid(tmp_path), signal.SIGKILL)
            await asyncio.sleep(delay)
            await feed.sandbox_changed(gone[0], ())
            await feed.sandbox_changed(*new)
            assert (await ask("new")).answer
            assert (await ask("gone")).rcode() == dns.rcode.NXDOMAIN
            await feed.sandbox_changed(*gone)
            await feed.sandbox_changed(new[0], ())
            await eventually("back", lambda: feed._link is not None)


async def test_a_server_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_process, "ANSWER_TIME", 2.0)
    async with feeding(tmp_path, FRONT) as feed:
        web = sandbox("web", (FRONT, 2))
        await feed.start([FRONT], [web])
        os.kill(server_pid(tmp_path), signal.SIGSTOP)
        await feed.sandbox_changed(*sandbox("new", (FRONT, 3)))
        assert (await ask("new")).answer
        assert (await ask("web")).answer


async def test_the_server_outlives_the_daemon_and_is_adopted(tmp_path: Path) -> None:
    web, db, gone = sandbox("web", (FRONT, 2)), sandbox("db", (FRONT, 3)), sandbox("gone", (BACK, 4))
    async with feeding(tmp_path, FRONT, BACK) as first:
        await first.start([FRONT, BACK], [web, gone])
        pid = server_pid(tmp_path)
        await first.close()
        assert (await ask("web")).answer, "it must go on answering with what it knows"
        async with feeding(tmp_path) as second:
            await second.start([FRONT], [web, db])
            assert server_pid(tmp_path) == pid
            assert (await ask("db")).answer
            assert not [row async for row in dns_lookup.dump(second) if row.network == "back"]
            # The sockets came back too, so a death meets no closed port.
            os.kill(pid, signal.SIGKILL)
            assert (await ask("web")).answer
            await eventually("back", lambda: second._link is not None)


async def test_a_server_of_other_code_is_replaced_without_a_question_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = sandbox("web", (FRONT, 2))
    async with feeding(tmp_path, FRONT) as first:
        await first.start([FRONT], [web])
        pid = server_pid(tmp_path)
        await first.close()
        monkeypatch.setattr(dns_process, "code_version", lambda: "another")
        lost = 0
        stop = asyncio.Event()

        async def go_on_asking() -> int:
            asked = 0
            while not stop.is_set():
                assert (await ask("web", timeout=2)).answer
                asked += 1
            return asked

        asking = asyncio.get_running_loop().create_task(go_on_asking())
        async with feeding(tmp_path) as second:
            await second.start([FRONT], [web])
            assert server_pid(tmp_path) != pid
            await eventually("the old one ends", lambda: not Path(f"/proc/{pid}").exists())
            stop.set()
            assert await asking > 0
            assert not lost


async def test_an_old_server_that_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_process, "ANSWER_TIME", 2.0)
    web = sandbox("web", (FRONT, 2))
    async with feeding(tmp_path, FRONT) as first:
        await first.start([FRONT], [web])
        pid = server_pid(tmp_path)
        await first.close()
        os.kill(pid, signal.SIGSTOP)
        async with feeding(tmp_path) as second:
            await second.start([FRONT], [web])
            assert server_pid(tmp_path) != pid
            assert (await ask("web")).answer


async def test_the_server_has_no_rights(tmp_path: Path) -> None:
    async with feeding(tmp_path) as feed:
        await feed.start([], [])
        status = Path(f"/proc/{server_pid(tmp_path)}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
        assert fields["Groups"].split() == []
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2", "its system calls are filtered"
        assert int(fields["CapPrm"], 16) == int(fields["CapEff"], 16) == int(fields["CapInh"], 16) == 0


async def test_the_server_inherits_its_own_descriptors_only(tmp_path: Path) -> None:
    with socket.socket() as leaky:
        leaky.set_inheritable(True)
        async with feeding(tmp_path) as feed:
            await feed.start([], [])
            directory = Path(f"/proc/{server_pid(tmp_path)}/fd")
            targets = {int(entry.name): str(entry.readlink()) for entry in directory.iterdir()}
            assert targets.pop(0) == "/dev/null"
            kinds = [target.partition(":")[0] for number, target in sorted(targets.items()) if number > 2]
            assert kinds == ["socket", str(tmp_path), "socket", "anon_inode"]  # the last one is its epoll


async def test_an_orphan_ends_when_its_run_directory_is_deleted(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    async with feeding(run_dir) as feed:
        await feed.start([], [])
        pid = server_pid(run_dir)
        await feed.close()
        shutil.rmtree(run_dir)
        await eventually("it ends", lambda: not Path(f"/proc/{pid}").exists())


async def test_without_a_server_questions_about_it_are_refused(tmp_path: Path) -> None:
    async with feeding(tmp_path) as feed:
        with pytest.raises(Unavailable):
            await feed.ask({"op": "ping"})


async def test_a_thousand_containers_are_told_in_few_messages(tmp_path: Path) -> None:
    nets = [network(f"n{number}", number) for number in range(1, 5)]
    many = [sandbox(f"c{n}", (nets[n % 4], 2 + n // 4)) for n in range(1000)]
    async with feeding(tmp_path, *nets) as feed:
        await feed.start(nets, many)
        rows = [row async for row in dns_lookup.dump(feed)]
        assert (
            len(rows) == len(set(rows)) == 1000 * 2 * 4
        )  # both addresses under name and id, with and without network
        messages = list(feed._snapshot())
        assert len(messages) < 20
        assert all(len(control.encode(message)) < control.MESSAGE_MOST for message, _ in messages)


async def test_a_thousand_networks_are_adopted(tmp_path: Path) -> None:
    """No bridges here: the sockets do not need the addresses to exist."""
    nets = [network(f"n{number}", number % 250, third=number // 250) for number in range(1000)]
    async with feeding(tmp_path) as first:
        await first.start(nets, [])
        pid = server_pid(tmp_path)
        await first.close()
        async with feeding(tmp_path) as second:
            began = time.monotonic()
            await second.start(nets, [])
            assert time.monotonic() - began < 5
            assert server_pid(tmp_path) == pid
            assert sum(len(sockets) for sockets in second._sockets.values()) == 4000


def test_what_the_server_is_told_of_a_sandbox() -> None:
    web, endpoints = sandbox(
        "web",
        (FRONT, 2),
        aliases=("www", "*.app", "not..a.name"),
        hostname="web1",
        hosts=(("oracle", ip_address("192.0.2.1")), ("bad..name", ip_address("192.0.2.1"))),
        exposed=((Proto.UDP, 514),),
        dns=(ip_address("192.0.2.53"),),
    )
    value = describe(web, endpoints, {FRONT.id: FRONT})
    (endpoint,) = value["endpoints"]
    assert endpoint["names"] == ["web", web.id[:12], "web1", "www"]
    assert endpoint["wildcards"] == ["app"]
    assert endpoint["canonical"] == "web.front"
    assert endpoint["addresses"] == ["10.99.1.2", "fd99:1::2"]
    assert endpoint["silent"][0].startswith("fe80::")
    assert value["hosts"] == [("oracle", "192.0.2.1")]
    assert value["services"] == [("udp", 514)]
    assert value["dns"] == ["192.0.2.53"]


def test_an_endpoint_of_a_network_that_is_gone_is_left_out() -> None:
    nowhere: dict[str, Network] = {}
    assert describe(*sandbox("web", (FRONT, 2)), nowhere)["endpoints"] == []
