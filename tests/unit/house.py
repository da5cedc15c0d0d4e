"""A daemon of paper for tests of the life of containers, and the next one on the same host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from netd.containers import Containers
from netd.events import Events, Watcher
from netd.launch import Attachment, Request
from netd.model import NetworkRequest
from netd.settings import Settings
from tests.unit.paper import PaperEngine, PaperKernel, PaperRuntime, PaperStore


class House:
    """A daemon of paper, and the same host when the next daemon starts on it."""

    def __init__(self, path: Path) -> None:
        self.kernel = PaperKernel()
        self.runtime = PaperRuntime(path)
        self.engine = PaperEngine()
        self.store = PaperStore()
        self.open()

    def open(self) -> None:
        self.engine.store = self.store
        self.events = Events()
        self.watcher: Watcher = self.events.subscribe()
        self.containers = Containers(
            kernel=self.kernel,  # type: ignore[arg-type]
            runtime=self.runtime,
            engine=self.engine,  # type: ignore[arg-type]
            store=self.store,  # type: ignore[arg-type]
            events=self.events,
            settings=Settings(),
        )

    async def restart(self) -> None:
        await self.containers.close()
        self.open()
        await self.containers.start()

    async def crash(self) -> None:
        """The daemon dies in the middle of things, and the next one starts."""
        for watcher in self.containers._watchers:
            watcher.cancel()
        self.open()
        await self.containers.start()

    async def run(self, name: str = "web", **fields: Any) -> str:
        request = Request(**{"name": name, "command": ("true",), **fields})
        return (await self.containers.run(request, attach=False)).record.id

    def happened(self) -> list[tuple[str, str]]:
        self.events.close()
        return [(event.action, event.name) for event in self.watcher._unread if event.type == "container"]

    def is_empty(self) -> bool:
        return not (
            self.kernel.namespaces
            or self.runtime.specs
            or self.engine.view.sandboxes
            or self.store.records
            or self.containers.list(all=True)
        )


def run(path: Path, story: Callable[[House], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            house = House(path)
            await house.engine.create_network(NetworkRequest(name="front"))
            await house.containers.start()
            await story(house)
            await house.containers.close()

    asyncio.run(main())


FRONT = (Attachment(network="front"),)
