"""nftables: the constant rule set, and the elements of its sets and maps.

One task owns the tables. Requests that arrive while a transaction is under way wait and then go
together in the next one, so that sixty-four simultaneous attachments cost one or two commits. When
a transaction fails it is split in halves until the guilty request stands alone; the others get
through. A request itself is all or nothing.

Writing and listing have a thread and a libnftables context each, because listing everything takes
tens of milliseconds and no attachment should wait behind it. What an attachment writes goes to the kernel
by hand (`netd.kernel.nftput`); the rest, and what the kernel refuses, to the library as text, which costs
two thirds of JSON and whose every component `netd.firewall.element_text` has checked by type.

The rules are part of what is observed. An outsider may flush a chain and leave all elements, which
then protect nobody. So what is listed is compared with what the kernel makes of the rule set in a
namespace of its own, and where they differ no element counts as observed: everything is asked for
again, and the next transaction brings the rules along with the elements, both or neither. Listing the
rules costs as much as listing all elements, so it is not done again while nobody else wrote any.

Between a flush and its repair nothing is isolated, so this one repair does not wait for a comparison
of the whole host. Every element that was written or seen is remembered here, and `restore` puts rules
and elements back within milliseconds: in a first transaction the rules and the elements that say which
networks there are, which is little and closes everything, then the endpoints (ADR 18).
What began meanwhile is established to conntrack; the rules believe nothing of that until it is
forgotten (`trust`).

libnftables before 1.0.8 has no `destroy`, and `delete` fails on a missing element. So a request is
first tried as it stands, and only when it failed is each element that it deletes looked up.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netd import firewall
from netd.errors import AlreadyExists, KernelError, NetdError, Unavailable
from netd.kernel.libnft import Context, elements_of, errno_of, one_line, rules_of
from netd.kernel.netns import in_new_namespace, settled
from netd.objects import Add, Change, Element, Op, Remove
from netd.tasks import spawn

log = logging.getLogger(__name__)

Rules = dict[str, tuple[str, ...]]
BATCH = 4000
"""Requests are joined up to this many commands: a transaction is one buffer in the kernel."""
OF_EACH = ("hairpin", "detour", "group_detour", "bind", "connlimit")
OF_ENDPOINTS = frozenset(
    {
        *(f"{name}{family}" for name in OF_EACH for family in (4, 6)),
        *firewall.PUBLISHING,
    }
)
"""The sets of `inet` that grow with the endpoints; without their elements less passes, not more;
but for limits of connections, which nobody's isolation hangs on."""


def commands(op: Op) -> Iterator[str]:
    """The libnftables commands of one operation on an element. Raises `Invalid` as `element_text`."""
    match op:
        case Add(Element() as wanted):
            yield firewall.element_text("add", wanted)
        case Change(Element() as old, Element() as new):
            yield firewall.element_text("delete", old)
            yield firewall.element_text("add", new)
        case Remove(Element() as unwanted):
            yield firewall.element_text("delete", unwanted)
        case _:
            raise TypeError(f"{op} is not about an nft element")


@dataclass(eq=False, slots=True)
class Request:
    """What one caller wants done in one transaction, and where it waits for it."""

    ops: tuple[Op, ...]
    text: tuple[str, ...]
    answer: asyncio.Future[None] = field(repr=False)


class Nft:
    """netd's tables. `wrote(n)` is called with the number of commands sent in each transaction."""

    def __init__(self, wrote: Callable[[int], None]) -> None:
        self._wrote = wrote
        self._rules: Mapping[str, Rules] = {}
        self._known: dict[Hashable, Element] = {}  # the writer's thread only
        self._damaged = False
        self._mended = False
        self._doubtful = False  # whether what conntrack knows began under no rules
        self._seen_intact: int | None = None  # the generation at which the rules were as they should be
        self._waiting: list[Request] = []
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open libnftables and load the rule set if it is missing, damaged or not of this version.

        Raises `Unsupported` where the library is missing, `KernelError` where the kernel refuses the rules.
        """
        self._writer, self._reader = Context("nft-write"), Context("nft-read")
        self._closing = False
        try:
            self._rules = await asyncio.to_thread(in_new_namespace, _as_the_kernel_lists_them)
            await self._writer.run(self._load)
        except NetdError:
            await self._free()
            raise
        self._task = spawn(self._write(), name="nft writer")

    def _load(self) -> None:
        if self._still_intact(self._writer):
            return
        _load(self._writer)
        self._wrote(1)

    def _intact(self, tables: Mapping[str, str]) -> bool:
        """Whether each set, chain and rule of ours is there, as it should be. What else is in the tables
        is an administrator's, or an earlier version's and empty."""
        found = {family: rules_of(listed) for family, listed in tables.items()}
        return all(wanted.items() <= found.get(family, {}).items() for family, wanted in self._rules.items())

    def _still_intact(self, context: Context) -> bool:
        """The same, looked at only if anybody but this process has written since it was so."""
        now = context.generation()
        if now is None or now != self._seen_intact:
            if not self._intact(context.tables(terse=True)):
                return False
            self._seen_intact = now
        return True

    async def close(self) -> None:
        """Let what was asked for end, then free both contexts; the tables stay."""
        if self._task is None:
            return
        self._closing = True
        self._wake.set()
        await self._task
        self._task = None
        await self._free()

    async def _free(self) -> None:
        for context in (self._writer, self._reader):
            await context.close()

    async def apply(self, ops: Sequence[Op]) -> None:
        """Carry out `ops` as one transaction, all or nothing. Raises `NetdError`.

        An element that is there already with the same value is success, with another value it is
        `AlreadyExists`; deleting a missing one is success.
        """
        self._check_running()
        text = tuple(command for op in ops for command in commands(op))
        request = Request(tuple(ops), text, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._wake.set()
        await settled(request.answer)

    async def elements(self) -> frozenset[Element]:
        """All elements of all of netd's sets and maps; none where the rules are not as they should be."""
        self._check_running()
        found = await self._reader.run(self._observe)
        await self._writer.run(self._learn, found)
        return found

    async def intact(self) -> bool:
        """Whether the rules are as they should be; where not, no element protects anybody."""
        self._check_running()
        return await self._reader.run(self._look)

    async def restore(self) -> bool:
        """Put rules and known elements back if the rules are not as they should be.

        Whether that was needed since the last call; a transaction that met the damage may have done it. What
        this process has neither written nor seen is not put back, so a comparison must follow.
        """
        self._check_running()
        return await self._writer.run(self._restored)

    async def trust(self) -> None:
        """What conntrack knows has been looked through: from now on the rules believe it again."""
        self._check_running()
        await self._writer.run(self._trust)

    def _check_running(self) -> None:
        if self._task is None or self._closing:
            raise Unavailable("netd's nftables writer is not running; the daemon is starting or ending")

    def _look(self) -> bool:
        if self._still_intact(self._reader):
            return True
        self._damaged = True
        return False

    def _observe(self) -> frozenset[Element]:
        tables = self._reader.tables()
        if not self._intact(tables):
            self._damaged = True
            return frozenset()
        return frozenset(element for listed in tables.values() for element in elements_of(listed))

    async def _write(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._next_batch():
                await self._commit(batch)

    def _next_batch(self) -> list[Request]:
        batch: list[Request] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].text) <= BATCH):
            batch.append(self._waiting.pop(0))
            size += len(batch[-1].text)
        return batch

    async def _commit(self, batch: list[Request]) -> None:
        outcome: Sequence[BaseException | None]
        try:
            outcome = await self._writer.run(self._transact, batch)
        except BaseException as error:  # whatever it is, each caller gets it and the writer goes on
            outcome = [error] * len(batch)
        for request, problem in zip(batch, outcome, strict=True):
            if problem is None:
                request.answer.set_result(None)
            else:
                request.answer.set_exception(problem)

    # On the writer's thread ------------------------------------------------------------------------

    def _learn(self, elements: Iterable[Element]) -> None:
        """Remember elements that were there before this process was."""
        for element in elements:
            self._known.setdefault(element.key, element)

    def _note(self, ops: Iterable[Op]) -> None:
        """Remember what was written, forget what was removed."""
        for op in ops:
            match op:
                case Add(Element() as item) | Change(_, Element() as item):
                    self._known[item.key] = item
                case Remove(item):
                    self._known.pop(item.key, None)

    def _restored(self) -> bool:
        self._restore()
        mended, self._mended = self._mended, False
        return mended

    def _trust(self) -> None:
        if self._doubtful and self._send([firewall.MENDED]) is None:
            self._doubtful = False

    def _restore(self) -> None:
        if self._still_intact(self._writer):
            return
        self._damaged = True
        few: list[str] = []
        many: list[str] = []
        for element in self._known.values():
            small = element.family == "inet" and element.set not in OF_ENDPOINTS
            (few if small else many).append(firewall.element_text("add", element))
        if problem := self._send(few, even_empty=True):
            raise problem
        for start in range(0, len(many), BATCH):
            if problem := self._send(many[start : start + BATCH]):
                log.warning("not every nft element could be put back at once: %s", problem)

    def _transact(self, batch: list[Request]) -> list[Exception | None]:
        """Try the batch as one transaction; the outcome of each request, None for success."""
        ops = [op for request in batch for op in request.ops]
        if self._send([command for request in batch for command in request.text], ops) is None:
            self._note(ops)
            return [None] * len(batch)
        if len(batch) == 1:
            return [self._alone(batch[0])]
        middle = len(batch) // 2
        return self._transact(batch[:middle]) + self._transact(batch[middle:])

    def _send(
        self, text: Sequence[str], ops: Sequence[Op] = (), *, even_empty: bool = False
    ) -> KernelError | None:
        """Commit `text`, together with the rule set if that is damaged. `ops` are the same without words, for
        the fast way."""
        if not text and not even_empty:
            return None
        repairing = self._damaged
        self._wrote(len(text) + repairing)
        before = self._writer.generation()
        code, problem = 0, ""
        if repairing or not ops or not self._writer.write(ops):
            whole = [firewall.RULESET, firewall.MENDING, *text] if repairing else text
            code, _, problem = self._writer.text("\n".join(whole))
        after = self._writer.generation()
        if before is not None and before == self._seen_intact and after in (before, before + 1):
            self._seen_intact = after  # nobody else's was in between
        if code:
            return KernelError(errno_of(problem), "nft transaction", one_line(problem))
        if repairing:
            self._damaged, self._mended, self._doubtful = False, True, True
            log.warning("somebody changed the nft rule set of netd; it was loaded again")
        return None

    def _alone(self, request: Request) -> Exception | None:
        """Once more, without deleting what is not there; then say which element was refused and why."""
        self._restore()
        text: list[str] = []
        for op in request.ops:
            for command in commands(op):
                if command.startswith("delete") and not self._listed(command):
                    continue
                text.append(command)
        if (refusal := self._send(text)) is None:
            self._note(request.ops)
            return None
        return self._guilty(request, refusal)

    def _guilty(self, request: Request, refusal: KernelError) -> NetdError:
        for op in request.ops:
            if isinstance(op, Add) and isinstance(op.object, Element) and op.object.value:
                found = self._listed(firewall.element_text("delete", op.object))
                if found and found not in firewall.element_text("add", op.object):
                    return AlreadyExists(f"{op.object}: its place is taken by {found}")
        more = f" and {len(request.ops) - 1} more" if len(request.ops) > 1 else ""
        return KernelError(refusal.errno, f"{request.ops[0]}{more}", refusal.hint)

    def _listed(self, deletion: str) -> str:
        """The element that a `delete` command names, as text; empty where there is none.

        As text, because libnftables 1.0.6 answers `get element` with text even when asked for JSON.
        """
        code, listed, _ = self._writer.text(deletion.replace("delete", "get", 1))
        found = _GOT.search(listed) if code == 0 else None
        return " ".join(found[1].split()) if found else ""


_GOT = re.compile(r"elements = \{(.*?)\}", re.DOTALL)


def _load(context: Context) -> None:
    code, _, problem = context.text(firewall.RULESET)
    if code:
        raise KernelError(errno_of(problem), "load the nft rule set of netd", one_line(problem))


def _as_the_kernel_lists_them() -> Mapping[str, Rules]:
    """What the tables look like when nobody has touched them, by family. In a new namespace only.

    Not compared as text with the rule set: the kernel and the library word it differently from version
    to version, and both sides of this comparison come from the same ones.
    """
    context = Context("rules")
    _load(context)
    tables = context.tables(terse=True)
    context.free()
    return {family: rules_of(listed) for family, listed in tables.items()}
