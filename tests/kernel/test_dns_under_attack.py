"""What one container does to the DNS must not be felt by its neighbours."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from netd.dns_feed import DnsFeed
from tests.kernel.dnslab import Client, client, feeding, network, sandbox

FRONT = network("front", 1)
FLOOD = Path(__file__).with_name("dns_flood.py")
SERVERS = ["10.99.1.1", "fd99:1::1"]


class Arena:
    """A victim, an attacker, and the server between them."""

    def __init__(self, feed: DnsFeed, victim: Client, attacker: Client) -> None:
        self.feed = feed
        self.victim = victim
        self.attacker = attacker

    @asynccontextmanager
    async def attacked(self, how: str, server: str) -> AsyncIterator[None]:
        """Attack for as long as the block lasts."""
        process = await self.attacker.start(sys.executable, "-I", "-S", str(FLOOD), how, server)
        assert process.stdout is not None
        await process.stdout.readline()
        try:
            yield
            assert process.returncode is None, "the attacker gave up"
        finally:
            process.kill()
            await process.wait()

    async def suffer(self, server: str, count: int = 2000) -> Any:
        """Ask `count` times, one after another; see dns_flood.py."""
        process = await self.victim.start(
            sys.executable, "-I", "-S", str(FLOOD), "victim", server, str(count)
        )
        output, _ = await process.communicate()
        return json.loads(output)


@pytest.fixture
def arena(tmp_path: Path) -> Any:
    @asynccontextmanager
    async def build(**settings: Any) -> AsyncIterator[Arena]:
        victim, attacker = sandbox("victim", (FRONT, 2)), sandbox("attacker", (FRONT, 3))
        async with AsyncExitStack() as stack:
            feed = await stack.enter_async_context(feeding(tmp_path, FRONT, **settings))
            await feed.start([FRONT], [victim, attacker])
            clients = [
                await stack.enter_async_context(client(ends, [FRONT])) for _, ends in (victim, attacker)
            ]
            yield Arena(feed, *clients)
            assert (await feed.ask({"op": "metrics"}))["metrics"]["failures"] == 0
            assert feed.restarts == 0

    return build


@pytest.mark.parametrize("server", SERVERS)
async def test_a_flood_of_good_questions(arena: Any, server: str) -> None:
    async with arena() as it, it.attacked("good", server):
        result = await it.suffer(server)
        assert result["lost"] <= 2, "99.9 % of its answers"
        assert result["p99"] < 0.1


@pytest.mark.parametrize("how", ["junk", "random", "spelled"])
async def test_floods_that_take_the_slow_way(arena: Any, how: str) -> None:
    async with arena() as it, it.attacked(how, SERVERS[0]):
        result = await it.suffer(SERVERS[0])
        assert result["lost"] <= 2


async def test_a_flood_of_names_of_elsewhere_that_nobody_answers(arena: Any) -> None:
    """192.0.2.1 has no route here; 127.0.0.2 has a socket that is never read."""
    async with arena(upstreams=("127.0.0.2#5399",)) as it:
        silent = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.2", 5399)
        )
        async with it.attacked("elsewhere", SERVERS[0]):
            result = await it.suffer(SERVERS[0])
        silent[0].close()
        assert result["lost"] <= 2
        metrics = (await it.feed.ask({"op": "metrics"}))["metrics"]
        assert metrics["dropped"]["quota"] > 0
        assert metrics["forwarded"] > 0


@pytest.mark.parametrize("how", ["connections", "slowloris", "unread"])
async def test_tcp_clients_that_are_in_the_way(arena: Any, how: str) -> None:
    async with arena() as it, it.attacked(how, SERVERS[0]):
        result = await it.suffer(SERVERS[0], 500)
        assert result["lost"] == 0
        assert await it.victim.short("@10.99.1.1", "+tcp", "attacker") == ["10.99.1.3"]
