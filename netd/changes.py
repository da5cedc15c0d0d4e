"""Carries one change through: intent, kernel, names, commit. The law that makes netd safe to kill.

Making and changing go forward step by step and, when a step fails, back over exactly the steps that
were done, so that the caller finds what was there before. Removing only goes forward: a removal that
failed half way is finished by repeating it, by the reconciler or by the next start, never taken back,
since what was removed first (a name, a published port) may already belong to somebody else.

Whatever step the process dies at, the intent tells the next one what was under way (`netd.recovery`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from netd import compile
from netd.dns_feed import NameFeed
from netd.errors import NetdError
from netd.kernel.ports import ApplyError, Kernel
from netd.model import Network, PortMapping
from netd.objects import Change, HostLink, KernelObject, Op, Remove
from netd.plan import plan, undo
from netd.publishing import Publishing
from netd.store.base import Attached, Delete, Intent, Put, Store, Table, Write
from netd.view import View

log = logging.getLogger(__name__)


class Undo:
    """The steps that were done, and how to take each back; last first."""

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]] = []

    def push(self, step: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Remember that `step(*arguments)` takes back what has just been done."""
        self._steps.append((step, arguments))

    async def run(self) -> bool:
        """Take everything back. False where that failed: then the earlier steps, the intent among
        them, are left as they are for the next start to deal with."""
        while self._steps:
            step, arguments = self._steps.pop()
            try:
                await step(*arguments)
            except NetdError as error:
                log.error("could not undo a failed change: %s; the next repair or start will", error)
                return False
            except Exception:
                log.exception("could not undo a failed change; the next repair or start will")
                return False
        return True


class Changes:
    """Changes networks and attachments. Knows the order of steps, not who may ask for what.

    `damaged` is called when the kernel may hold something that it should not.
    """

    def __init__(
        self,
        kernel: Kernel,
        store: Store,
        feed: NameFeed,
        publishing: Publishing,
        damaged: Callable[[], None],
    ) -> None:
        self._kernel = kernel
        self._store = store
        self._feed = feed
        self._publishing = publishing
        self._damaged = damaged

    async def make_network(self, network: Network) -> None:
        """From nothing to a committed network whose bridge stands and whose DNS answers."""
        steps = Undo()
        try:
            await self._intend(network.id, Intent(network_after=network), steps)
            await self._apply(compile.network(network), frozenset(), steps)
            steps.push(self._feed.network_removed, network)
            await self._feed.network_added(network)
            await self._store.define(Put(Table.NETWORK, network.id, network))
        except Exception:
            await self._back(steps)
            raise
        try:
            await self._store.live(Delete(Table.INTENT, network.id))
        except NetdError as error:
            # The network is committed by now; an intent that stays behind is seen to be fulfilled.
            log.warning("the intent to make network %r stays behind: %s", network.name, error)

    async def remove_network(self, network: Network, also: frozenset[KernelObject] = frozenset()) -> None:
        """To nothing, with what else there is in it, or an error after which the same can be asked again."""
        await self._store.live(Put(Table.INTENT, network.id, Intent(network_before=network)))
        await self._feed.network_removed(network)
        await self._take_down(compile.network(network) | also)
        await self._store.define(Delete(Table.NETWORK, network.id))
        await self._store.live(Delete(Table.INTENT, network.id))

    async def make(
        self, before: Attached | None, after: Attached, view: View, also: Sequence[Write] = ()
    ) -> None:
        """A new attachment, or another state of one. `also` commits with it.

        The ports that are new in `after` must have been taken; they are led to the container here.
        """
        name = after.sandbox.id
        steps = Undo()
        try:
            await self._intend(name, Intent(before=before, after=after), steps)
            await self._apply(objects(after, view), objects(before, view), steps)
            await self._publishing.flush(_moved(before, after))
            old = before or Attached(after.sandbox)
            steps.push(self._feed.sandbox_changed, old.sandbox, old.endpoints)
            await self._feed.sandbox_changed(after.sandbox, after.endpoints)
            await self._store.live(*_writes(before, after), *also, Delete(Table.INTENT, name))
        except Exception:
            await self._back(steps)
            raise
        self._publishing.lead(after, view.networks)
        gone = [port for port in before.sandbox.ports if port not in after.sandbox.ports] if before else []
        await self._forget(after, gone)

    async def remove(self, before: Attached, view: View) -> None:
        """To nothing, or an error after which the same can be asked again."""
        await self._store.live(Put(Table.INTENT, before.sandbox.id, Intent(before=before)))
        await self._feed.sandbox_changed(before.sandbox, ())
        await self._take_down(objects(before, view))
        await self._store.live(*_erased(before), Delete(Table.INTENT, before.sandbox.id))
        await self._forget(before, before.sandbox.ports)

    async def _intend(self, key: str, intent: Intent, steps: Undo) -> None:
        steps.push(self._store.live, Delete(Table.INTENT, key))
        await self._store.live(Put(Table.INTENT, key, intent))

    async def _apply(self, new: frozenset[KernelObject], old: frozenset[KernelObject], steps: Undo) -> None:
        ops = plan(new, old)
        try:
            await self._kernel.apply(ops)
        except ApplyError as error:
            steps.push(self._kernel.apply, _way_back(old, new, ops, error.done))
            raise error.cause from error
        steps.push(self._kernel.apply, _way_back(old, new, ops, ops))

    async def _take_down(self, present: frozenset[KernelObject]) -> None:
        try:
            await self._kernel.apply(plan((), present))
        except ApplyError as error:
            self._damaged()
            raise error.cause from error

    async def _back(self, steps: Undo) -> None:
        if not await steps.run():
            self._damaged()

    async def _forget(self, attached: Attached, ports: Sequence[PortMapping]) -> None:
        """Give ports back. What conntrack still knows of them costs a stray datagram, not the change."""
        self._publishing.release(attached.sandbox, ports)
        try:
            await self._publishing.flush(ports)
        except NetdError as error:
            log.warning("old UDP flows of ports of %r may linger: %s", attached.sandbox.name, error)


def objects(attached: Attached | None, view: View) -> frozenset[KernelObject]:
    """All that an attachment needs of the kernel, beside the others of `view`; nothing for none."""
    if attached is None:
        return frozenset()
    own = compile.sandbox(attached.sandbox, attached.endpoints, view.networks)
    return own | compile.wires(attached.endpoints, view)


def _way_back(
    old: frozenset[KernelObject], new: frozenset[KernelObject], ops: Sequence[Op], done: Sequence[Op]
) -> tuple[Op, ...]:
    """What takes `done`, the beginning of `ops`, back from `new` to `old`.

    Where a link was removed, `undo` brings it back bare. What it took along was no operation of its
    own: it is that part of `old` which is neither in `new` nor was removed or changed by name.
    """
    back = undo(done)
    if not any(isinstance(op, Remove) and isinstance(op.object, HostLink) for op in done):
        return back
    named = {op.old if isinstance(op, Change) else op.object for op in ops}
    return (*back, *plan(old, {item for item in old if item in new or item in named}))


def _erased(attached: Attached) -> list[Write]:
    """The writes after which the store does not know an attachment."""
    return [
        Delete(Table.SANDBOX, attached.sandbox.id),
        *(Delete(Table.ENDPOINT, endpoint.id) for endpoint in attached.endpoints),
    ]


def _writes(before: Attached | None, after: Attached) -> list[Write]:
    """The writes that turn what the store knows from `before` into `after`."""
    old = {endpoint.id: endpoint for endpoint in before.endpoints} if before else {}
    kept = {endpoint.id for endpoint in after.endpoints}
    writes: list[Write] = [Put(Table.SANDBOX, after.sandbox.id, after.sandbox)]
    writes += [Delete(Table.ENDPOINT, id) for id in old if id not in kept]
    writes += [Put(Table.ENDPOINT, e.id, e) for e in after.endpoints if old.get(e.id) != e]
    return writes


def _moved(before: Attached | None, after: Attached) -> tuple[PortMapping, ...]:
    """The ports that may lead elsewhere in `after`: new ones, and all where the endpoints changed."""
    ports = after.sandbox.ports
    if before is None or before.endpoints != after.endpoints:
        return ports
    return tuple(port for port in ports if port not in before.sandbox.ports)
