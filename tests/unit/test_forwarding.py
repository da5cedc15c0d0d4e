"""The host's own switches: turned on when needed, noted before, and put back as they were."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from netd.drivers import bridge
from netd.errors import KernelError
from netd.firewall import closed
from netd.forwarding import FACT, REDIRECTS, SWITCHES, Forwarding, families
from netd.kernel.fake import FakeKernel
from netd.names import bridge_name
from netd.objects import Add, Bridge, Sysctl
from netd.store.sqlite import SqliteStore
from tests.unit.test_view import BACK, FRONT, network

ACCEPT_RA = ("net", "ipv6", "conf", "eth0", "accept_ra")


class Stage:
    """A kernel whose switches are off, a store, and the one who switches."""

    def __init__(self, directory: Path) -> None:
        self.kernel = FakeKernel()
        self.kernel.sysctls.update({SWITCHES[4]: "0", SWITCHES[6]: "0", REDIRECTS: "0", ACCEPT_RA: "1"})
        self.kernel.networks = {
            ("eth0", ip_address("2001:db8::"), 64),
            ("eth1", ip_address("2001:db8:1::"), 64),
            ("lo", ip_address("127.0.0.0"), 8),
        }
        self.store = SqliteStore(directory / "state", directory / "run", boot_id="boot")
        self.kept_off: list[tuple[str, ...]] = []
        self.forwarding = Forwarding(self.kernel, self.store, lambda: self.kept_off)

    async def values(self) -> list[str]:
        return [await self.kernel.sysctl(path) for path in (SWITCHES[4], SWITCHES[6], REDIRECTS, ACCEPT_RA)]

    async def facts(self) -> dict[str, str]:
        return dict((await self.store.load()).facts)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def play(stage: Stage, story: Coroutine[Any, Any, None]) -> None:
    async def whole() -> None:
        await stage.kernel.start()
        await stage.store.open()
        try:
            await story
        finally:
            await stage.store.close()

    asyncio.run(whole())


def test_internal_networks_need_nothing() -> None:
    assert families([FRONT]) == {4, 6}
    assert families([BACK]) == {4}
    inner = network("x", "x", "10.9.0.0/24", internal=True)
    assert families([inner]) == set()
    # Without a bridge it is the host that carries packets from one of its containers to the next.
    assert families([replace(inner, driver="ptp")]) == {4}
    assert families([replace(inner, driver="ptp", icc=False)]) == set()


def test_on_with_a_lock_and_back_as_it_was(stage: Stage) -> None:
    async def story() -> None:
        await stage.forwarding.ensure({4, 6})
        assert await stage.values() == ["1", "1", "0", "2"]
        assert {closed(4), closed(6)} <= stage.kernel.objects
        assert stage.forwarding.closed() == {closed(4), closed(6)}
        assert await stage.facts() == {
            FACT + "/".join(path): value
            for path, value in ((SWITCHES[4], "0"), (SWITCHES[6], "0"), (REDIRECTS, "0"), (ACCEPT_RA, "1"))
        }
        # The kernel, on its own account, softens this one when IPv4 forwarding goes off (devinet.c).
        stage.kernel.sysctls[REDIRECTS] = "1"
        await stage.forwarding.release(lambda: {4})
        assert await stage.values() == ["1", "0", "1", "1"]
        await stage.forwarding.release(set)
        assert await stage.values() == ["0", "0", "0", "1"]
        assert not {closed(4), closed(6)} & stage.kernel.objects
        assert stage.forwarding.closed() == set()
        assert await stage.facts() == {}

    play(stage, story())


def test_what_is_on_already_is_left_alone_and_open(stage: Stage) -> None:
    async def story() -> None:
        stage.kernel.sysctls |= {SWITCHES[4]: "1", SWITCHES[6]: ""}  # and a kernel without IPv6
        await stage.forwarding.ensure({4, 6})
        assert stage.kernel.writes == 0
        assert stage.forwarding.closed() == set()
        await stage.forwarding.release(set)
        assert stage.kernel.writes == 0

    play(stage, story())


def test_a_later_daemon_knows_whose_doing_it_was(stage: Stage) -> None:
    async def story() -> None:
        await stage.forwarding.ensure({4, 6})
        later = Forwarding(stage.kernel, stage.store, list)
        later.recall({**await stage.facts(), "something else": "x"})
        assert later.closed() == {closed(4), closed(6)}
        assert set(later.switched()) == {"/".join(p) for p in (*SWITCHES.values(), REDIRECTS, ACCEPT_RA)}
        writes = stage.kernel.writes
        await later.ensure({4, 6})
        assert stage.kernel.writes == writes
        await later.release(set)
        assert await stage.values() == ["0", "0", "0", "1"]

    play(stage, story())


def test_what_somebody_else_set_since_is_kept(stage: Stage) -> None:
    async def story() -> None:
        await stage.forwarding.ensure({6})
        stage.kernel.tamper(Sysctl(ACCEPT_RA, "2"), Sysctl(ACCEPT_RA, "0"))
        await stage.forwarding.release(set)
        assert await stage.kernel.sysctl(ACCEPT_RA) == "0"

    play(stage, story())


def test_a_switch_that_is_turned_off_by_others_is_turned_on_again(stage: Stage) -> None:
    async def story() -> None:
        await stage.forwarding.ensure({4})
        stage.kernel.tamper(Sysctl(SWITCHES[4], "1"), Sysctl(SWITCHES[4], "0"))
        await stage.forwarding.ensure({4})
        assert await stage.kernel.sysctl(SWITCHES[4]) == "1"

    play(stage, story())


def test_a_kernel_that_refuses_is_quoted_and_asked_again(stage: Stage) -> None:
    async def story() -> None:
        stage.kernel.fail(lambda op: "ip_forward" in str(op), KernelError(errno.EROFS, "ip_forward"))
        with pytest.raises(KernelError, match="ip_forward: Read-only"):
            await stage.forwarding.ensure({4})
        await stage.forwarding.ensure({4})
        assert await stage.kernel.sysctl(SWITCHES[4]) == "1"
        await stage.forwarding.release(set)
        assert await stage.facts() == {}

    play(stage, story())


def test_what_must_not_forward_does_not_with_the_rest(stage: Stage) -> None:
    """The real switch turns on each interface; here both bridges have been turned on by it."""

    async def story() -> None:
        inward, outward = (("net", "ipv4", "conf", bridge_name(n), "forwarding") for n in (BACK, FRONT))
        other = ("net", "ipv6", "conf", bridge_name(BACK), "forwarding")
        stage.kept_off = [inward, ("net", "ipv4", "conf", "gone", "forwarding"), other]
        bridges = [item for n in (FRONT, BACK) for item in bridge.network(n) if isinstance(item, Bridge)]
        await stage.kernel.apply([Add(each) for each in bridges])
        stage.kernel.sysctls |= {inward: "1", outward: "1", other: "1"}
        await stage.forwarding.ensure({4})
        assert [await stage.kernel.sysctl(path) for path in (inward, outward, other)] == ["0", "1", "1"]

    play(stage, story())
