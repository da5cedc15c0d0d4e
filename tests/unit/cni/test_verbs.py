"""The verbs on the real engine with a fake kernel; `tests/conformance` has them on a real one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from netd import compile, dns_lookup
from netd.cni import spec, wishes
from netd.cni.spec import CniError
from netd.cni.verbs import Verbs
from netd.dns_lookup import Answer, Lookup, Record
from netd.errors import AlreadyExists, Exhausted, KernelError, NetdError, NotFound
from netd.model import NetworkRequest
from netd.objects import Address, Element, Remove, Route
from netd_dns.control import Message
from tests.unit.host import Host, running

CONFIG = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "subnets": ["10.1.0.0/24", "fd00:1::/64"]}

IPAM = """#!{python} -IS
import json, os, pathlib, sys
given = pathlib.Path({given!r})
command, id = os.environ["CNI_COMMAND"], os.environ.get("CNI_CONTAINERID", "")
config = json.load(sys.stdin)
version = config.get("cniVersion", "1.0.0")
if command == "VERSION":
    print(json.dumps({{"cniVersion": version, "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}}))
elif command == "ADD":
    given.mkdir(exist_ok=True)
    (given / id).write_text("")
    ip = {{"address": "10.7.0." + str(9 + len(list(given.iterdir()))) + "/24", "gateway": "10.7.0.1"}}
    print(json.dumps({{"cniVersion": version, "ips": [ip], "routes": [{{"dst": "0.0.0.0/0"}}]}}))
elif command == "DEL":
    (given / id).unlink(missing_ok=True)
elif command == "CHECK" and not (given / id).exists():
    print(json.dumps({{"cniVersion": version, "code": 100, "msg": "not given"}}))
    sys.exit(1)
elif command == "STATUS" and (given / "full").exists():
    print(json.dumps({{"cniVersion": version, "code": 50, "msg": "full"}}))
    sys.exit(1)
"""


class Node:
    """A host, the verbs on it, and a runtime that calls them."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.verbs = Verbs(host.engine, host.kernel)

    def pod(self, name: str) -> str:
        """A container with a namespace; its id."""
        self.host.kernel.add_namespace(f"/run/netns/{name}")
        return name

    async def call(
        self, command: str, pod: Any = "", ifname: Any = "eth0", args: Any = "", **keys: Any
    ) -> dict[str, Any]:
        """One call; what it writes, {} for nothing. A key that is None is left out.

        (Texts are Any, because mypy takes a key with a dash, `**{"a-b": 1}`, for any of them.)
        """
        config = {key: value for key, value in {**CONFIG, **keys}.items() if value is not None}
        variables = {"CNI_COMMAND": command, "CNI_PATH": str(self.directory), "CNI_ARGS": args}
        if pod:
            variables |= {"CNI_CONTAINERID": pod, "CNI_NETNS": f"/run/netns/{pod}", "CNI_IFNAME": ifname}
        output = await self.verbs.answer(spec.call(variables, json.dumps(config).encode(), None))
        return json.loads(output) if output else {}

    def ipam(self) -> dict[str, Any]:
        """An IPAM plugin, as a configuration names it."""
        program = self.directory / "ipam"
        program.write_text(IPAM.format(python=sys.executable, given=str(self.directory / "given")))
        program.chmod(0o755)
        return {"ipam": {"type": "ipam"}, "subnets": None}

    def given(self) -> list[str]:
        """Whom the IPAM plugin has given an address."""
        return sorted(each.name for each in (self.directory / "given").glob("*"))

    def vanish(self, pod: str) -> None:
        """The pod's namespace ends."""
        [sandbox] = [
            each for each in self.host.engine.view.sandboxes.values() if each.id.startswith(f"{pod}/")
        ]
        self.host.kernel.vanish(sandbox.netns)


@asynccontextmanager
async def node(directory: Path) -> AsyncIterator[Node]:
    async with running(directory) as host:
        yield Node(host, directory)


Story = Callable[[Node], Awaitable[None]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Story], None]:
    """Run a story on a node of its own, after which the kernel holds what the view wants."""

    def run(story: Story) -> None:
        async def whole() -> None:
            async with node(tmp_path) as it:
                await story(it)
                it.host.assert_as_wanted()

        asyncio.run(whole())

    return run


Tell = Callable[[Story], None]


def test_add_and_del(tell: Tell) -> None:
    async def story(it: Node) -> None:
        empty = it.host.left_over()
        answer = await it.call("ADD", it.pod("a"), args="K8S_POD_NAME=web")
        assert [ip["address"] for ip in answer["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
        assert answer["interfaces"][2]["sandbox"] == "/run/netns/a"
        assert answer["dns"] == {"nameservers": ["10.1.0.1", "fd00:1::1"]}
        assert {route["dst"] for route in answer["routes"]} == {"0.0.0.0/0", "::/0"}
        [sandbox] = it.host.engine.view.sandboxes.values()
        assert (sandbox.id, sandbox.name) == ("a/eth0", "web")
        assert sandbox.labels == {"K8S_POD_NAME": "web", wishes.NETWORK: "pods"}
        for _ in range(2):
            assert await it.call("DEL", "a") == {}
        assert not it.host.engine.view.sandboxes
        await it.call("GC", **{"cni.dev/valid-attachments": []})
        assert it.host.left_over() == empty

    tell(story)


def test_a_second_add_is_refused_and_changes_nothing(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.call("ADD", it.pod("a"), **it.ipam())
        before = it.host.engine.view.endpoints
        with pytest.raises(AlreadyExists, match="attached already"):
            await it.call("ADD", "a", **it.ipam())
        assert it.host.engine.view.endpoints == before
        assert it.given() == ["a"]

    tell(story)


def test_what_is_left_of_a_dead_namespace_is_in_nobodys_way(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.call("ADD", it.pod("a"))
        it.vanish("a")
        it.pod("a")
        assert (await it.call("ADD", "a"))["ips"]

    tell(story)


def test_the_hosts_own_namespace_has_code_8(tell: Tell) -> None:
    async def story(it: Node) -> None:
        found = os.stat("/proc/self/ns/net")  # noqa: PTH116
        variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_NETNS": "/x", "CNI_IFNAME": "eth0"}
        call = spec.call(variables, json.dumps(CONFIG).encode(), (found.st_dev, found.st_ino))
        with pytest.raises(CniError) as caught:
            await it.verbs.answer(call)
        assert caught.value.cni == 8

    tell(story)


def test_a_namespace_that_is_another_for_the_daemon_is_refused(tell: Tell) -> None:
    async def story(it: Node) -> None:
        it.pod("a")
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": "a",
            "CNI_NETNS": "/run/netns/a",
            "CNI_IFNAME": "e",
        }
        call = spec.call(variables, json.dumps(CONFIG).encode(), (1, 2))
        with pytest.raises(CniError, match="another namespace") as caught:
            await it.verbs.answer(call)
        assert caught.value.cni == 4

    tell(story)


def test_a_failed_add_leaves_neither_network_nor_address(tell: Tell) -> None:
    async def story(it: Node) -> None:
        empty = it.host.left_over()
        for keys in ({"runtimeConfig": {"ips": ["10.99.0.1"]}}, {"runtimeConfig": {"mac": "nonsense"}}):
            with pytest.raises(NetdError):
                await it.call("ADD", it.pod("a"), **keys)
            assert it.host.left_over() == empty
            assert not it.host.engine.view.networks
        with pytest.raises(NetdError):
            await it.call("ADD", "a", **it.ipam(), runtimeConfig={"mac": "nonsense"})
        assert it.given() == []

    tell(story)


def test_only_the_first_interface_of_a_container_has_the_default_route(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.call("ADD", it.pod("a"))
        other = {"name": "others", "subnets": ["10.2.0.0/24"]}
        assert (await it.call("ADD", "a", "eth1", **other))["routes"] == []
        await it.call("DEL", "a", "eth1", **other)
        await it.call("DEL", "a")
        assert (await it.call("ADD", "a", "eth1", **other))["routes"] != []

    tell(story)


def test_an_existing_network_is_joined_by_name(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.host.engine.create_network(NetworkRequest(name="front", subnets=("10.5.0.0/24",)))
        answer = await it.call("ADD", it.pod("a"), network="front", subnets=None)
        assert answer["ips"][0]["address"] == "10.5.0.2/24"
        await it.call("DEL", "a", network="front", subnets=None)
        await it.call("GC", network="front", subnets=None, **{"cni.dev/valid-attachments": []})
        assert [each.name for each in it.host.engine.view.networks.values()] == ["front"]
        with pytest.raises(NotFound):
            await it.call("ADD", "a", network="back", subnets=None)

    tell(story)


def test_a_network_that_somebody_made_by_hand_is_not_taken_for_ours(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.host.engine.create_network(NetworkRequest(name="pods"))
        with pytest.raises(CniError, match='"network": "pods"') as caught:
            await it.call("ADD", it.pod("a"))
        assert caught.value.cni == 7

    tell(story)


def test_a_changed_configuration_waits_until_nobody_uses_the_old(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.call("ADD", it.pod("a"))
        changed = {"subnets": ["10.2.0.0/24"]}
        with pytest.raises(CniError, match="has 1 attachments") as caught:
            await it.call("ADD", it.pod("b"), **changed)
        assert caught.value.cni == 7
        await it.call("DEL", "a")
        assert (await it.call("ADD", "b", **changed))["ips"][0]["address"] == "10.2.0.2/24"

    tell(story)


def test_many_at_once_make_one_network(tell: Tell) -> None:
    async def story(it: Node) -> None:
        pods = [it.pod(f"p{number}") for number in range(30)]
        answers = await asyncio.gather(*(it.call("ADD", pod) for pod in pods))
        assert len({answer["ips"][0]["address"] for answer in answers}) == 30
        assert len(it.host.engine.view.networks) == 1
        await asyncio.gather(*(it.call("DEL", pod) for pod in pods))
        assert not it.host.engine.view.sandboxes

    tell(story)


def test_verbs_of_one_container_take_turns(tell: Tell) -> None:
    async def story(it: Node) -> None:
        it.pod("a")
        results = await asyncio.gather(
            *(it.call(command, "a") for command in ("ADD", "DEL", "ADD", "DEL", "ADD")),
            return_exceptions=True,
        )
        assert not [each for each in results if isinstance(each, BaseException)]
        assert len(it.host.engine.view.sandboxes) == 1

    tell(story)


def test_published_ports_come_and_go(tell: Tell) -> None:
    async def story(it: Node) -> None:
        ports = {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}
        await it.call("ADD", it.pod("a"), **ports)
        with pytest.raises(AlreadyExists, match="8080/tcp"):
            await it.call("ADD", it.pod("b"), **ports)
        await it.call("DEL", "a")
        await it.call("ADD", "b", **ports)

    tell(story)


# --- IPAM of others -----------------------------------------------------------------------------------


def test_another_plugin_gives_the_addresses(tell: Tell) -> None:
    async def story(it: Node) -> None:
        answer = await it.call("ADD", it.pod("a"), **it.ipam())
        assert answer["ips"] == [{"address": "10.7.0.10/24", "gateway": "10.7.0.1", "interface": 2}]
        assert (await it.call("ADD", it.pod("b"), **it.ipam()))["ips"][0]["address"] == "10.7.0.11/24"
        await it.call("CHECK", "a", **it.ipam(), prevResult=answer)
        await it.call("DEL", "a", **it.ipam())
        assert it.given() == ["b"]

    tell(story)


def test_gc_gives_back_what_another_plugin_gave(tell: Tell) -> None:
    async def story(it: Node) -> None:
        for pod in ("a", "b"):
            await it.call("ADD", it.pod(pod), **it.ipam())
        valid = [{"containerID": "b", "ifname": "eth0"}]
        await it.call("GC", **it.ipam(), **{"cni.dev/valid-attachments": valid})
        assert (list(it.host.engine.view.sandboxes), it.given()) == (["b/eth0"], ["b"])

    tell(story)


@pytest.mark.parametrize("daemon", ["runs", "restarts before", "restarts after"])
def test_sweeping_gives_back_what_a_vanished_pod_was_given(tell: Tell, daemon: str) -> None:
    async def story(it: Node) -> None:
        for pod in ("a", "b"):
            await it.call("ADD", it.pod(pod), **it.ipam())
        if daemon == "restarts before":
            it.verbs = Verbs(await it.host.restart(), it.host.kernel)
        it.vanish("a")
        if daemon == "restarts after":
            it.verbs = Verbs(await it.host.restart(), it.host.kernel)
        else:
            await it.host.engine.detach("a/eth0")  # as the engine itself does when it sees it
        assert it.given() == ["a", "b"]
        await it.verbs.sweep()
        assert (list(it.host.engine.view.sandboxes), it.given()) == (["b/eth0"], ["b"])

    tell(story)


# --- CHECK, GC, STATUS --------------------------------------------------------------------------------


async def checked(it: Node, answer: dict[str, Any]) -> str:
    """What CHECK complains of; empty where it does not."""
    try:
        await it.call("CHECK", "a", prevResult=answer)
    except CniError as error:
        return error.details
    return ""


def test_check_names_what_differs(tell: Tell) -> None:
    async def story(it: Node) -> None:
        ports = {"runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}}
        answer = await it.call("ADD", it.pod("a"), **ports)
        assert await checked(it, answer) == ""
        kernel, view = it.host.kernel, it.host.engine.view
        needed = compile.sandbox(view.sandboxes["a/eth0"], view.endpoints_of("a/eth0"), view.networks)
        victims = [
            next(each for each in needed if isinstance(each, kind)) for kind in (Address, Route, Element)
        ]
        for victim in victims:
            await kernel.apply([Remove(victim)])
            found = await checked(it, answer)
            assert str(victim) in found
        lie = {**answer, "ips": [{"address": "10.1.0.99/24", "interface": 2}]}
        assert "10.1.0.99/24 was never given" in await checked(it, lie)
        with pytest.raises(NotFound):
            await it.call("CHECK", it.pod("b"), prevResult=answer)
        with pytest.raises(CniError, match="prevResult"):
            await it.call("CHECK", "a")
        await it.call("DEL", "a")

    tell(story)


def test_check_asks_the_dns(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {
        "web": {"A": ["10.1.0.2", "10.1.0.7"], "AAAA": ["fd00:1::2"]},
        "www": {"A": ["10.1.0.2"], "AAAA": ["fd00:1::2"]},
    }

    async def lookup(names: object, sandbox: str, name: str) -> Lookup:
        assert sandbox == "a/eth0"
        answers = tuple(
            Answer(kind, "NOERROR", tuple(Record(name, 5, kind, data) for data in told))
            for kind, told in records[name].items()
        )
        return Lookup(name, answers, "", (), (), ())

    async def story(it: Node) -> None:
        answer = await it.call("ADD", it.pod("a"), args="K8S_POD_NAME=web", aliases=["www", "*.www"])
        monkeypatch.setattr(dns_lookup, "lookup", lookup)
        it.verbs = Verbs(it.host.engine, it.host.kernel, NoNames())
        assert await checked(it, answer) == ""
        records["www"]["AAAA"] = []
        assert await checked(it, answer) == "DNS: www does not lead to fd00:1::2 but to 10.1.0.2"

    tell(story)


class NoNames:
    """A DNS that is not to be asked."""

    async def ask(self, message: Message) -> Message:
        raise AssertionError(message)


def test_gc_needs_a_list_and_looks_at_its_own_network_only(tell: Tell) -> None:
    async def story(it: Node) -> None:
        other = {"name": "others", "subnets": ["10.2.0.0/24"]}
        await it.call("ADD", it.pod("a"))
        await it.call("ADD", it.pod("b"), **other)
        with pytest.raises(CniError) as caught:
            await it.call("GC")
        assert caught.value.cni == 7
        assert len(it.host.engine.view.sandboxes) == 2
        await it.call("GC", **{"cni.dev/valid-attachments": []})
        assert list(it.host.engine.view.sandboxes) == ["b/eth0"]
        assert [each.name for each in it.host.engine.view.networks.values()] == ["others"]

    tell(story)


def test_gc_goes_on_after_an_error_and_reports_it(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(it: Node) -> None:
        for pod in ("a", "b", "c"):
            await it.call("ADD", it.pod(pod))
        detach = it.host.engine.detach

        async def fails_for_b(sandbox_id: str) -> None:
            if sandbox_id == "b/eth0":
                raise Exhausted("no more")
            await detach(sandbox_id)

        monkeypatch.setattr(it.host.engine, "detach", fails_for_b)
        with pytest.raises(CniError, match="1 of 3 could not be collected") as caught:
            await it.call("GC", **{"cni.dev/valid-attachments": []})
        assert "b/eth0: no more" in caught.value.details
        assert list(it.host.engine.view.sandboxes) == ["b/eth0"]

    tell(story)


def test_status(tell: Tell) -> None:
    async def story(it: Node) -> None:
        assert await it.call("STATUS") == {}
        small = {"subnets": ["10.1.0.0/30"]}
        await it.call("ADD", it.pod("a"), **small)
        for keys, named in (
            (small, "no IPv4 address left"),
            ({"network": "absent", "subnets": None}, "'absent' does not exist"),
            ({"ipam": {"type": "absent"}, "subnets": None, "name": "x"}, "no such plugin"),
        ):
            with pytest.raises(CniError, match=named) as caught:
                await it.call("STATUS", **keys)
            assert caught.value.cni == 50
        await it.call("STATUS", **it.ipam(), name="x")
        (it.directory / "given").mkdir()
        (it.directory / "given" / "full").write_text("")
        with pytest.raises(CniError, match="ipam: full") as caught:
            await it.call("STATUS", **it.ipam(), name="x")
        assert caught.value.cni == 50

    tell(story)


def test_status_looks_whether_nftables_can_be_used(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(it: Node) -> None:
        async def broken() -> bool:
            raise KernelError(95, "rule set")

        monkeypatch.setattr(it.host.kernel, "restore_rules", broken)
        with pytest.raises(CniError, match="rule set") as caught:
            await it.call("STATUS")
        assert caught.value.cni == 50

    tell(story)


def test_a_degraded_network_is_not_available(tell: Tell) -> None:
    async def story(it: Node) -> None:
        await it.call("ADD", it.pod("a"))
        [network] = it.host.engine.view.networks
        it.host.engine.view = replace(it.host.engine.view, degraded={network: "its bridge"})
        with pytest.raises(CniError, match="degraded") as caught:
            await it.call("STATUS")
        assert (caught.value.cni, caught.value.details) == (50, "its bridge")

    tell(story)
