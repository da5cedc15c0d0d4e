"""Keeps the kernel what it should be: observe, plan, apply, and wait for the next surprise.

Everything that netd wants of the host follows from the view, and everything of netd's on the host
can be observed, so one function serves the start, the repair of what somebody damaged, and the rest
of what a change left undone: compare all with all and apply the difference. A round that finds
nothing writes nothing. A round that did something says so in one sentence and in one event for each
object.

When to look. The kernel tells what changes (`Kernel.watch`), but it also tells what netd itself
changes, and a look at everything costs time that grows with the host. So a round runs at once when
netd was idle, and otherwise when it has been quiet for a moment, or busy for too long.

A look while a change is under way would see half of it and take it for damage. So the first look is
free, and only when it finds something, or when it never gets quiet, the others are asked to wait while
it is looked again.

What cannot be repaired is tried again later and later, and the networks concerned are `degraded` in
the view meanwhile. As long as the store holds records that could not be read, nothing is removed that
nobody claims: it may be theirs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from netd import tasks, wanted
from netd.errors import NetdError, NotFound
from netd.events import Events
from netd.forwarding import Forwarding
from netd.kernel.ports import ApplyError, Kernel
from netd.locks import Gate, Locks
from netd.objects import Add, Change, Element, KernelObject, Op, Remove, Sysctl, Veth
from netd.plan import plan
from netd.store.base import Attached
from netd.view import View

log = logging.getLogger(__name__)

DEBOUNCE = 0.02
"""Seconds from the first event to the look: one cause often makes several events."""
QUIET, STEP, PATIENCE = 0.5, 0.1, 30.0
"""Seconds without a change of netd's own before it looks; how often it asks; how long it waits at most."""
SHARE, LONGEST_QUIET = 10, 3.0
"""A look grows with the host, so where it takes long it is taken seldom: after a change of netd's own it
waits ten times as long as the last one took, at most this many seconds."""
FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds between attempts to repair what failed: doubled each time, with a jitter of a quarter."""
INSIDE_AT_ONCE = 8
"""How many namespaces are looked into at the same time."""


class Subject(Protocol):
    """Whose wishes are to be true: the engine."""

    view: View

    @property
    def leaving(self) -> Collection[str]:
        """Ids of networks and sandboxes that are being removed."""

    def families(self) -> set[int]:
        """The families in which the host must forward."""

    def elsewhere(self) -> frozenset[KernelObject]:
        """What must exist to reach the rest of a cluster."""

    async def detach(self, sandbox_id: str) -> None:
        """Take a sandbox out whose namespace is gone."""


class Reconciler:
    """The loop, and what it remembers between rounds."""

    def __init__(
        self,
        subject: Subject,
        kernel: Kernel,
        gate: Gate,
        locks: Locks,
        forwarding: Forwarding,
        events: Events,
    ) -> None:
        self._subject = subject
        self._kernel = kernel
        self._gate = gate
        self._locks = locks
        self._forwarding = forwarding
        self._events = events
        self._asked = asyncio.Event()
        self._looking = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._failures = 0
        self._begun = False
        self._forget_again = False
        self._took = 0.0
        """Seconds that the last look took."""

    # --- when -------------------------------------------------------------------------------------

    async def begin(self, suspects: Iterable[str]) -> None:
        """The first comparison, before anything else runs: the host, and the inside of `suspects`.

        Listening begins before it, so that nothing falls between the two.
        """
        self._tasks.append(tasks.spawn(self._listen(), name="kernel events"))
        await asyncio.sleep(0)
        await self._round()
        self._begun = True
        for sandbox_id in suspects:
            if attached := self._subject.view.attached(sandbox_id):
                await self._verify(attached)

    def watch(self) -> None:
        """From now on, repair what is damaged."""
        self._tasks.append(tasks.spawn(self._loop(), name="reconcile"))

    def look_inside(self) -> None:
        """Look once into every sandbox, in the background."""
        self._looking += 1
        self._tasks.append(tasks.spawn(self._verify_all(), name="verify sandboxes"))

    def request(self) -> None:
        """Something may be wrong: look soon."""
        self._asked.set()

    @property
    def busy(self) -> bool:
        """Whether there is something that was not looked at yet, or is being looked at."""
        return self._asked.is_set() or self._looking > 0

    async def close(self) -> None:
        """Stop; a repair under way is finished."""
        async with self._gate.alone():
            for task in self._tasks:
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _listen(self) -> None:
        async for drift in self._kernel.watch():
            log.debug("drift: %s %s", drift.what, drift.name)
            if drift.what in ("rules", "overflow"):
                await self._restore_rules()
            self.request()

    async def _restore_rules(self) -> None:
        """The one repair that waits for nothing: without its rules nothing on the host is isolated."""
        try:
            if await self._kernel.restore_rules():
                await self._forget_flows()
                self._forget_again = True
                log.warning("the host: somebody changed netd's nft rule set; it was loaded again")
                self._events.emit("repair", "add", "", "nft rule set", where="the host")
        except (NetdError, OSError) as error:
            log.error("the nft rule set cannot be loaded again: %s", error)
        except Exception:
            log.exception("the nft rule set cannot be loaded again")

    async def _forget_flows(self) -> None:
        """Whatever began while somebody was not protected is no longer established, but new."""
        view = self._subject.view
        theirs = {a.ip for each in view.endpoints.values() for a in each.addresses}
        gateways = {g for each in view.networks.values() for family in (4, 6) for g in each.gateways(family)}
        await self._kernel.forget_untranslated(theirs | gateways)

    async def _forget_late_answers(self) -> None:
        """A program of the host that was asked in between, and took its time, has begun a flow of its own."""
        if self._forget_again:
            await self._forget_flows()
            self._forget_again = False

    async def _loop(self) -> None:
        while True:
            await self._wait_until_asked()
            await self._wait_until_quiet()
            self._looking += 1
            self._asked.clear()
            began = asyncio.get_running_loop().time()
            try:
                await self._round()
                await self._forget_late_answers()
            except (NetdError, OSError) as error:
                self._failures += 1
                log.error("could not compare the host with what it should be: %s", error)
            except Exception:  # whoever repairs goes on after that, too
                self._failures += 1
                log.exception("could not compare the host with what it should be")
            finally:
                self._looking -= 1
                self._took = asyncio.get_running_loop().time() - began

    async def _wait_until_asked(self) -> None:
        retry = None
        if self._failures:
            delay = min(FIRST_RETRY * 2 ** (self._failures - 1), LAST_RETRY)
            retry = delay * random.uniform(0.75, 1.25)
        try:
            await asyncio.wait_for(self._asked.wait(), retry)
        except TimeoutError:
            log.debug("trying again to repair what failed before")

    async def _wait_until_quiet(self) -> None:
        await asyncio.sleep(DEBOUNCE)
        for _ in range(round(PATIENCE / STEP)):
            if self._gate.quiet_for(max(QUIET, min(SHARE * self._took, LONGEST_QUIET))):
                return
            await asyncio.sleep(STEP)

    # --- the host ---------------------------------------------------------------------------------

    async def _round(self) -> None:
        """Compare the host with what it should be, and repair the difference."""
        for switch in await self._forwarding.ensure(self._subject.families()):
            self._events.emit("repair", "change", "", str(switch), where="the host")
        if not self._subject.view.quarantined:
            await self._forwarding.release(self._subject.families)
        if self._gate.quiet_for(QUIET):
            ops = await self._difference()
            if not ops and not self._subject.view.degraded:
                self._failures = 0
                return
            await self._bury(ops)
        async with self._gate.alone():
            failed = await self._repair(await self._difference(), "the host")
        self._failures = self._failures + 1 if failed else 0
        self._blame(failed)

    async def _difference(self) -> tuple[Op, ...]:
        """How the host differs from what it should be.

        Values in, values out, but tenths of a second of them where there are a thousand endpoints: a
        thread does it, so that the loop goes on serving.
        """
        view, leaving = self._subject.view, frozenset(self._subject.leaving)
        desired = await asyncio.to_thread(wanted.everything, view, leaving) | self._forwarding.closed()
        desired |= self._subject.elsewhere()
        sysctls = [item.path for item in desired if isinstance(item, Sysctl) and item.netns is None]
        observed = await self._kernel.observe(sysctls)
        ops = await asyncio.to_thread(wanted.difference, desired, observed)
        if view.quarantined:
            return tuple(op for op in ops if not isinstance(op, Remove))
        return ops

    async def _bury(self, ops: Iterable[Op]) -> None:
        """Detach sandboxes whose links are missing because their namespace is."""
        missing = [op.object.netns for op in ops if isinstance(op, Add) and isinstance(op.object, Veth)]
        dead = {netns for netns in missing if not await self._kernel.netns_alive(netns)}
        for sandbox in list(self._subject.view.sandboxes.values()):
            if sandbox.netns in dead and sandbox.id not in self._subject.leaving:
                log.info("the namespace of %r is gone: it is detached", sandbox.name)
                await self._subject.detach(sandbox.id)

    async def _repair(self, ops: Sequence[Op], where: str) -> dict[Op, NetdError]:
        """Apply `ops`, all that can be; returns those that cannot, and why. Tell what was done."""
        if not ops:
            return {}
        failed: dict[Op, NetdError] = {}
        try:
            await self._kernel.apply(ops)
        except ApplyError as error:
            # One at a time, so that what is impossible does not keep the rest from being repaired.
            for op in [op for op in ops if op not in set(error.done)]:
                try:
                    await self._kernel.apply([op])
                except ApplyError as single:
                    failed[op] = single.cause
        done = [op for op in ops if op not in failed]
        if any(isinstance(op, Add) and isinstance(op.object, Element) for op in done):
            await self._forget_flows()
        for op in done:
            log.debug("repaired: %s", op)
            self._events.emit("repair", _verb(op), "", _object(op), where=where)
        for op, reason in failed.items():
            log.debug("not repaired: %s: %s", op, reason)
        if self._begun or failed or not all(isinstance(op, Add) for op in ops):
            log.warning("%s: %s", where, _sentence("repaired what differed", done, failed))
        else:  # nothing is there after a boot, and nothing was damaged
            log.info("%s: %s", where, _sentence("made what was not there yet", done, failed))
        return failed

    def _blame(self, failed: Mapping[Op, NetdError]) -> None:
        """Say in the view which networks are not what they should be, and in an event when that changes."""
        view = self._subject.view
        owners = wanted.owners(view)
        degraded: dict[str, str] = {}
        for op, reason in failed.items():
            for id in wanted.owners_of(owners, op.new if isinstance(op, Change) else op.object):
                degraded.setdefault(id, f"{_object(op)} cannot be repaired: {reason}")
        self._subject.view = view.with_degraded(degraded)
        for id, network in view.networks.items():
            if id in degraded and id not in view.degraded:
                self._events.emit("network", "degraded", id, network.name, reason=degraded[id])
            elif id in view.degraded and id not in degraded:
                self._events.emit("network", "ready", id, network.name)

    # --- inside sandboxes -------------------------------------------------------------------------

    async def _verify_all(self) -> None:
        """Look into every sandbox once. What the last daemon had finished is not waited for."""
        at_once = asyncio.Semaphore(INSIDE_AT_ONCE)

        async def verify(sandbox_id: str) -> None:
            async with at_once, self._gate.shared(), self._locks.hold(("sandbox", sandbox_id)):
                attached = self._subject.view.attached(sandbox_id)
                if attached and sandbox_id not in self._subject.leaving:
                    await self._verify(attached)

        try:
            async with asyncio.TaskGroup() as group:
                for sandbox_id in list(self._subject.view.sandboxes):
                    group.create_task(verify(sandbox_id))
        finally:
            self._looking -= 1

    async def _verify(self, attached: Attached) -> None:
        """Compare the inside of one sandbox with what it should be, and repair the difference."""
        sandbox = attached.sandbox
        desired = wanted.inside(attached, self._subject.view)
        links = {endpoint.ifname for endpoint in attached.endpoints}
        sysctls = [item.path for item in desired if isinstance(item, Sysctl)]
        try:
            observed = await self._kernel.observe_sandbox(sandbox.netns, links, sysctls)
            await self._repair(plan(desired, observed), f"container {sandbox.name!r}")
        except NotFound:
            self.request()  # the namespace went away just now: the next round sees to it
        except (NetdError, OSError) as error:
            log.error("could not look into the namespace of %r: %s", sandbox.name, error)
        except Exception:  # the others are looked into all the same
            log.exception("could not look into the namespace of %r", sandbox.name)


def _object(op: Op) -> str:
    return " ".join(str(op.new if isinstance(op, Change) else op.object).split())


def _verb(op: Op) -> str:
    return type(op).__name__.lower()


def _sentence(what: str, done: Sequence[Op], failed: Mapping[Op, NetdError]) -> str:
    """What a round did, for the log: how much of what, and the first of it by name."""
    counts = Counter(_verb(op) for op in done)
    parts = [
        f"{counts[verb]} {participle}"
        for verb, participle in (("add", "added"), ("change", "changed"), ("remove", "removed"))
        if counts[verb]
    ]
    text = f"{what}: {', '.join(parts)} ({_object(done[0])}...)" if done else ""
    if failed:
        op, reason = next(iter(failed.items()))
        text += f"{'; ' if text else ''}{len(failed)} cannot be repaired ({_object(op)}: {reason})"
    return text
