"""Who must wait for whom: one at a time for a name, everyone or one for the whole.

`Locks` makes operations on the same network name or the same sandbox take turns, in the order in
which they came; operations on different ones never meet. `Gate` is for those who change the host
(many at once) and for the one who compares all of it with what it should be, and who would take
half of a change for damage.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Locks:
    """A mutex for each key that somebody holds or waits for, and for no other."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: Hashable) -> AsyncIterator[None]:
        """Have `key` to oneself."""
        lock, users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[key]
            if users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, users - 1)

    def __len__(self) -> int:
        """How many keys are held or waited for."""
        return len(self._locks)


class Gate:
    """Many may be inside together, or one alone; who wants to be alone is not kept waiting by those
    who come later."""

    def __init__(self) -> None:
        self._inside = 0
        self._left = float("-inf")
        self._alone = asyncio.Lock()
        self._empty = asyncio.Event()
        self._empty.set()

    def quiet_for(self, seconds: float) -> bool:
        """Whether nobody has been inside together with others for so long."""
        return self._inside == 0 and asyncio.get_running_loop().time() - self._left >= seconds

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Be inside together with others."""
        async with self._alone:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            self._left = asyncio.get_running_loop().time()
            if self._inside == 0:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Be inside with nobody else."""
        async with self._alone:
            await self._empty.wait()
            yield
