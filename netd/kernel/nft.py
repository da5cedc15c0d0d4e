"""nftables through libnftables: the constant rule set, and the elements of its sets and maps.

One task owns the tables. Requests that arrive while a transaction is under way wait and then go
together in the next one, so that sixty-four simultaneous attachments cost one or two commits. When
a transaction fails it is split in halves until the guilty request stands alone; the others get
through. A request itself is all or nothing.

A libnftables context works in the network namespace of the thread that created it and is not safe
for several threads, so each context here lives on a thread of its own: one that writes, one that
lists. (Listing everything takes tens of milliseconds; no attachment should wait behind it.) Writing
uses text, which costs two thirds of JSON and whose every component `netd.firewall.element_text` has
checked by type; reading uses JSON.

libnftables before 1.0.8 has no `destroy`, and `delete` fails on a missing element. So a request is
first tried as it stands, and only when it failed is each element that it deletes looked up.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import nftables

from netd import firewall
from netd.errors import AlreadyExists, KernelError, NetdError, Unavailable, Unsupported
from netd.kernel.netns import settled
from netd.objects import Add, Atom, Change, Element, Op, Remove
from netd.tasks import spawn

T = TypeVar("T")
FAMILIES = ("inet", "bridge")
BATCH = 4000
"""Requests are joined up to this many commands: a transaction is one buffer in the kernel."""


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
        self._writer: _Context | None = None
        self._reader: _Context | None = None
        self._waiting: list[Request] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open libnftables and load the rule set if it is missing or not of this version.

        Raises `Unsupported` where the library is missing, `KernelError` where the kernel refuses the rules.
        """
        self._writer, self._reader = _Context("nft-write"), _Context("nft-read")
        await self._writer.run(self._load, self._writer)
        self._task = spawn(self._write(), name="nft writer")

    def _load(self, context: _Context) -> None:
        if all(_loaded_version(context, family) == firewall.VERSION for family in FAMILIES):
            return
        code, _, problem = context.text(firewall.RULESET)
        if code:
            raise KernelError(_errno(problem), "load the nft rule set of netd", _one_line(problem))
        self._wrote(1)

    async def close(self) -> None:
        """Let what is under way end; refuse what still waits; free both contexts."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for request in self._waiting:
            if not request.answer.done():
                request.answer.set_exception(Unavailable("netd is shutting down"))
        self._waiting.clear()
        for context in (self._writer, self._reader):
            if context:
                await context.close()
        self._writer = self._reader = self._task = None

    async def apply(self, ops: Sequence[Op]) -> None:
        """Carry out `ops` as one transaction, all or nothing. Raises `NetdError`.

        An element that is there already with the same value is success, with another value it is
        `AlreadyExists`; deleting a missing one is success.
        """
        if self._task is None or self._task.done():
            raise Unavailable("the nft writer is not running")
        text = tuple(command for op in ops for command in commands(op))
        request = Request(tuple(ops), text, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._wake.set()
        await settled(request.answer)

    async def elements(self) -> frozenset[Element]:
        """All elements of all of netd's sets and maps. Empty where the tables are missing."""
        if self._reader is None:
            raise Unavailable("the nft reader is not running")
        return await self._reader.run(_elements, self._reader)

    async def _write(self) -> None:
        while True:
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
        assert self._writer is not None
        outcome: Sequence[Exception | None]
        try:
            outcome = await self._writer.run(self._transact, batch)
        except Exception as error:  # each caller gets it
            outcome = [error] * len(batch)
        for request, problem in zip(batch, outcome, strict=True):
            if request.answer.done():
                continue
            if problem is None:
                request.answer.set_result(None)
            else:
                request.answer.set_exception(problem)

    # On the writer's thread ------------------------------------------------------------------------

    def _transact(self, batch: list[Request]) -> list[Exception | None]:
        """Try the batch as one transaction; the outcome of each request, None for success."""
        if self._send([command for request in batch for command in request.text]) is None:
            return [None] * len(batch)
        if len(batch) == 1:
            return [self._alone(batch[0])]
        middle = len(batch) // 2
        return self._transact(batch[:middle]) + self._transact(batch[middle:])

    def _send(self, text: Sequence[str]) -> KernelError | None:
        assert self._writer is not None
        if not text:
            return None
        self._wrote(len(text))
        code, _, problem = self._writer.text("\n".join(text))
        return KernelError(_errno(problem), "nft transaction", _one_line(problem)) if code else None

    def _alone(self, request: Request) -> Exception | None:
        """Once more, without deleting what is not there; then say which element was refused and why."""
        assert self._writer is not None
        text: list[str] = []
        for op in request.ops:
            for command in commands(op):
                if command.startswith("delete") and not self._listed(command):
                    continue
                text.append(command)
        if (refusal := self._send(text)) is None:
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
        assert self._writer is not None
        code, listed, _ = self._writer.text(deletion.replace("delete", "get", 1))
        found = _GOT.search(listed) if code == 0 else None
        return " ".join(found[1].split()) if found else ""


class _Context:
    """One libnftables context on the one thread that may use it."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._nft: nftables.Nftables | None = None

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on this context's thread and give its result."""
        return await settled(asyncio.wrap_future(self._thread.submit(work, *arguments)))

    async def close(self) -> None:
        await self.run(self._drop)
        self._thread.shutdown(wait=False)

    def _drop(self) -> None:
        self._nft = None  # its finaliser frees the context

    def text(self, command: str) -> tuple[int, str, str]:
        """(status, output, errors) of a command, with text output. On this context's thread only."""
        return self._library().cmd(command)

    def json(self, command: str) -> tuple[int, str, str]:
        """The same with JSON output."""
        library = self._library()
        library.set_json_output(True)
        try:
            return library.cmd(command)
        finally:
            library.set_json_output(False)

    def _library(self) -> nftables.Nftables:
        if self._nft is None:
            try:
                self._nft = nftables.Nftables()
            except OSError as error:
                raise Unsupported(f"libnftables cannot be loaded ({error}); install libnftables1") from error
        return self._nft


# Reading ------------------------------------------------------------------------------------------


def _loaded_version(context: _Context, family: str) -> str:
    """The digest in the `version` set of one table, empty where there is none."""
    code, listed, _ = context.json(f"list set {family} netd version")
    if code:
        return ""
    for item in json.loads(listed)["nftables"]:
        elements = item.get("set", {}).get("elem", [])
        if elements:
            return str(elements[0])
    return ""


def _elements(context: _Context) -> frozenset[Element]:
    found: set[Element] = set()
    for family in FAMILIES:
        code, listed, problem = context.json(f"list table {family} netd")
        if code == 0:
            found.update(parse(listed))
        elif _errno(problem) != errno.ENOENT:
            raise KernelError(_errno(problem), f"list nft table {family} netd", _one_line(problem))
    return frozenset(found)


def parse(listed: str) -> Iterator[Element]:
    """The elements in a JSON listing, as they were asked for. Foreign sets and odd elements are left
    out: what netd cannot have written is not netd's."""
    for item in json.loads(listed)["nftables"]:
        for content in (item.get("set"), item.get("map"), item.get("element")):
            if content is None or content.get("table", "netd") != "netd":
                continue
            family, name = content["family"], content["name"]
            if (family, name) in firewall.SETS:
                yield from _of_set(family, name, content.get("elem", ()))


def _of_set(family: str, name: str, listed: Iterable[Any]) -> Iterator[Element]:
    kind = firewall.SETS[family, name]
    for entry in listed:
        item, value = entry if kind.value else (entry, ())
        try:
            yield Element(family, name, _atoms(item, kind.key), _atoms(value, kind.value))
        except (ValueError, TypeError, KeyError):
            continue


def _atoms(listed: Any, kinds: tuple[str, ...]) -> tuple[Atom, ...]:
    if not kinds:
        return ()
    if isinstance(listed, dict) and "elem" in listed:
        listed = listed["elem"]["val"]  # an element with a comment or a counter
    parts = listed["concat"] if isinstance(listed, dict) else [listed]
    return tuple(firewall.atom_of(kind, part) for kind, part in zip(kinds, parts, strict=True))


_GOT = re.compile(r"elements = \{(.*?)\}", re.DOTALL)

# Errors -------------------------------------------------------------------------------------------

_ERRNO = {os.strerror(code): code for code in errno.errorcode}


def _errno(problem: str) -> int:
    """libnftables gives words only: "Error: Could not process rule: File exists"."""
    for line in problem.splitlines():
        if line.startswith("Error:") or "Error:" in line:
            return _ERRNO.get(line.rsplit(": ", 1)[-1].strip(), errno.EINVAL)
    return errno.EINVAL


def _one_line(problem: str) -> str:
    return " / ".join(line.strip() for line in problem.splitlines() if line.strip(" ^~"))[:300]
