"""Failpoints: a `Fuse` counts the steps that leave a trace, and burns at the Nth.

What stands between a daemon and its surroundings is wrapped here so that each of its steps is counted:
every kernel operation, every commit, every word to the DNS, to the runtime, to the cluster and to
another plugin. What happens whole or not at all is one step before it and, where the daemon is to die,
another one after it: done, but nobody lives who knows.

After a death every further step dies too, as nothing can happen after SIGKILL, whoever would like to tidy
up.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from netd.errors import KernelError, NetdError
from netd.kernel.fake import FakeKernel
from netd.kernel.ports import ApplyError
from netd.objects import Op
from netd.store.base import Store
from tests.unit.host import Feed

ERRORS = (errno.ENOMEM, errno.EBUSY, errno.EPERM, errno.EEXIST, errno.ENOSPC)
"""What a step may fail with, in turn from one step to the next."""


class Crash(BaseException):
    """The process dies. No code of the product catches it."""


class Fuse:
    """Burns at the Nth step after `arm`: `kills`, or lets that step fail with one of `ERRORS`."""

    def __init__(self, *, kills: bool = True) -> None:
        self.kills = kills
        self._left = 0
        self._number = 0
        self.burnt = False
        """Whether the step was reached for which it was armed last."""
        self.dead = asyncio.Event()

    def arm(self, number: int) -> None:
        """Burn at step `number` from here; 0 never does."""
        self._left = self._number = number
        self.burnt = False
        self.dead.clear()

    def step(self, what: str) -> None:
        """Something is about to happen."""
        if self.dead.is_set():
            raise Crash(what)
        if self._left:
            self._left -= 1
            if not self._left:
                self.burnt = True
                if self.kills:
                    self.dead.set()
                    raise Crash(what)
                raise KernelError(ERRORS[self._number % len(ERRORS)], what)

    async def around(self, what: str, deed: Awaitable[Any]) -> Any:
        """A deed that happens whole or not at all."""
        try:
            self.step(what)
        except BaseException:
            if isinstance(deed, Coroutine):
                deed.close()
            raise
        result = await deed
        if self.kills:
            self.step(what)
        return result

    async def survived(self, request: Coroutine[Any, Any, object]) -> bool:
        """Run `request` until it ends or the daemon dies of it; whether it lived. Raises what it raises.

        Afterwards the fuse burns no more, but who is dead stays so until it is armed again."""
        asked = asyncio.get_running_loop().create_task(request)
        death = asyncio.get_running_loop().create_task(self.dead.wait())
        await asyncio.wait([asked, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        self._left = 0
        if self.dead.is_set():
            asked.cancel()
            await asyncio.wait([asked])
            asked.cancelled() or asked.exception()
            return False
        await asked
        return True


class Fused:
    """Anything of which only the methods `deeds` leave a trace."""

    deeds: frozenset[str] = frozenset()

    def __init__(self, what: Any, fuse: Fuse) -> None:
        self._what = what
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._what, name)
        if name not in self.deeds:
            return found

        async def deed(*arguments: Any, **options: Any) -> Any:
            return await self._fuse.around(name, found(*arguments, **options))

        return deed


class FusedKernel(Fused):
    """A kernel in which each operation is a step."""

    deeds = frozenset({"netns_create", "netns_delete", "flush_udp"})
    _what: FakeKernel

    async def apply(self, ops: Sequence[Op]) -> None:
        done: list[Op] = []
        for op in ops:
            try:
                self._fuse.step("kernel")
                await self._what.apply([op])
            except NetdError as error:
                cause = error.cause if isinstance(error, ApplyError) else error
                raise ApplyError(cause, done) from error
            done.append(op)


class FusedStore(Fused):
    """A store in which each commit is a step."""

    deeds = frozenset({"define", "live"})
    _what: Store


class FusedRuntime(Fused):
    """A runtime in which whatever makes, starts or ends a process is a step."""

    deeds = frozenset({"create", "run", "attach", "kill", "remove"})


class FusedCluster(Fused):
    """A cluster in which each agreement and each announcement is a step."""

    deeds = frozenset({"create_network", "remove_network", "grow", "place"})


class FusedDelegates(Fused):
    """Plugins of others, whose every call is a step."""

    deeds = frozenset({"run"})


class FusedFeed(Feed):
    """A name feed in which each word is a step."""

    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self._fuse = fuse

    async def network_added(self, network: Any) -> None:
        self._fuse.step("feed")
        await super().network_added(network)

    async def network_removed(self, network: Any) -> None:
        self._fuse.step("feed")
        await super().network_removed(network)

    async def sandbox_changed(self, sandbox: Any, endpoints: Any) -> None:
        self._fuse.step("feed")
        await super().sandbox_changed(sandbox, endpoints)

    async def remotes_changed(self, known: Any, gone: Any = ()) -> None:
        self._fuse.step("feed")
        await super().remotes_changed(known, gone)
