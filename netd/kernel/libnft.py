"""libnftables: contexts on threads, words turned into errnos, listings turned into values.

A libnftables context works in the network namespace of the thread that created it, and is not safe for
several threads. So each `Context` lives on a thread of its own. Nor are two contexts on two threads safe
from each other: the library keeps the names of interfaces for the whole process (src/iface.c) and takes
names of types apart with strtok (src/json.c), so two listings at once end in a crash. So whatever it is
told, it is told by `command`, one at a time.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import nftables

from netd import firewall
from netd.errors import KernelError, NetdError, Unsupported
from netd.kernel import fastnl, nftget, nftput, threads
from netd.kernel.netns import settled
from netd.objects import Atom, Element, Op

T = TypeVar("T")
FAMILIES = ("inet", "bridge", "arp")
_one_at_a_time = threading.Lock()

SPARE = 4
"""Descriptors that must be left for what may need one."""


def command(library: nftables.Nftables, text: str) -> tuple[int, str, str]:
    """(status, output, errors) of a command, once no other thread has one under way."""
    with _one_at_a_time:
        code, output, errors = library.cmd(text)
    return code, output, errors


def library() -> nftables.Nftables:
    """A new context. Raises `KernelError`, and `OSError` where the library is missing."""
    check_descriptors()
    return nftables.Nftables()


def check_descriptors() -> None:
    """Raise `KernelError` where there is hardly a descriptor left.

    For a new context, and to know interfaces by their indexes (`iif`), libnftables opens a socket, and where
    it cannot it ends the process: exit(3) in netlink_open_error and netlink_init_error. netd's own rules
    know interfaces by name for that reason: writing and listing them needs no descriptor.
    """
    taken: list[int] = []
    try:
        for _ in range(SPARE):
            taken.append(os.dup(2))
    except OSError as error:
        raise KernelError(error.errno or 0, "use nftables") from error
    finally:
        for each in taken:
            os.close(each)


class Context:
    """One libnftables context on the one thread that may use it; made when it is first needed."""

    def __init__(self, name: str) -> None:
        self._thread = threads.pool(1, name)
        self._nft: nftables.Nftables | None = None
        self._asking: fastnl.Socket | None = None

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` on this context's thread and give its result."""
        return await settled(asyncio.wrap_future(self._thread.submit(work, *arguments)))

    async def close(self) -> None:
        """Free the context, after what is under way, and end the thread."""
        await self.run(self.free)
        self._thread.shutdown(wait=False)

    def free(self) -> None:
        """On the thread only, as all that follows."""
        self._nft = None  # its finaliser frees the context
        if self._asking:
            self._asking.close()
        self._asking = None

    def text(self, text: str) -> tuple[int, str, str]:
        """(status, output, errors) of a command, with text output."""
        return command(self._library(), text)

    def json(self, text: str, *, terse: bool = False) -> tuple[int, str, str]:
        """The same with JSON output; `terse` leaves the elements of sets out."""
        library = self._library()
        library.set_json_output(True)
        library.set_terse_output(terse)
        try:
            return command(library, text)
        finally:
            library.set_json_output(False)
            library.set_terse_output(False)

    def listing(self, family: str, table: str) -> str:
        """A table as text with its rules' handles and without elements; "" where there is none.

        Raises `KernelError`.
        """
        check_descriptors()  # these may be anybody's rules
        library = self._library()
        library.set_handle_output(True)
        library.set_terse_output(True)
        try:
            code, listed, _ = command(library, f"list table {family} {table}")
        finally:
            library.set_handle_output(False)
            library.set_terse_output(False)
        return listed if code == 0 else ""

    def tables(self, *, terse: bool = False) -> dict[str, str]:
        """The JSON listing of each of netd's tables that exists, by family. Raises `KernelError`."""
        found = {}
        for family in FAMILIES:
            code, listed, problem = self.json(f"list table {family} netd", terse=terse)
            if code == 0:
                found[family] = listed
            elif errno_of(problem) != errno.ENOENT:
                raise KernelError(errno_of(problem), f"list nft table {family} netd", one_line(problem))
        return found

    def generation(self) -> int | None:
        """What `nftget.generation` says; None where it cannot be asked, for want of descriptors: undoing must
        go on."""
        try:
            return nftget.generation(self._socket())
        except (OSError, NetdError):
            return None

    def write(self, ops: Sequence[Op]) -> bool:
        """Do `ops`, about elements, in one transaction past the library. False where it failed:
        nothing has been changed, and the library can say why."""
        try:
            return self._socket().batch(lambda sequence: nftput.transaction(ops, sequence))
        except OSError:
            return False

    def _socket(self) -> fastnl.Socket:
        if self._asking is None:
            self._asking = fastnl.Socket(fastnl.NETLINK_NETFILTER)
        return self._asking

    def _library(self) -> nftables.Nftables:
        if self._nft is None:
            try:
                self._nft = library()
            except OSError as error:
                raise Unsupported(f"libnftables cannot be loaded ({error}); install libnftables1") from error
        return self._nft


_ERRNO = {os.strerror(code): code for code in errno.errorcode}


def errno_of(problem: str) -> int:
    """The errno behind the words of libnftables, which gives nothing else: "Error: Could not process
    rule: File exists"."""
    for line in problem.splitlines():
        if "Error:" in line:
            return _ERRNO.get(line.rsplit(": ", 1)[-1].strip(), errno.EINVAL)
    return errno.EINVAL


def one_line(problem: str) -> str:
    """An error message of libnftables on one line, without the marks beneath the culprit."""
    return " / ".join(line.strip() for line in problem.splitlines() if line.strip(" ^~"))[:300]


# Listings -----------------------------------------------------------------------------------------


def rules_of(listed: str) -> dict[str, tuple[str, ...]]:
    """What is fixed in a JSON listing of a table, by name: each set without its elements, each chain
    with its rules in their order. Handles, which differ from one load to the next, are left out."""
    fixed: dict[str, tuple[str, ...]] = {}
    for item in json.loads(listed)["nftables"]:
        for kind, content in item.items():
            fields = {key: value for key, value in content.items() if key not in ("handle", "elem")}
            owner = f"chain {content['chain']}" if kind == "rule" else f"{kind} {content.get('name')}"
            if kind in ("set", "map", "chain", "rule"):
                fixed[owner] = (*fixed.get(owner, ()), json.dumps(fields, sort_keys=True))
    return fixed


def elements_of(listed: str) -> Iterator[Element]:
    """The elements in a JSON listing, as they were asked for. Foreign sets and odd elements are left
    out: what netd cannot have written is not netd's."""
    for item in json.loads(listed)["nftables"]:
        content = item.get("set") or item.get("map")
        if content and content["table"] == "netd" and (content["family"], content["name"]) in firewall.SETS:
            yield from _of_set(content["family"], content["name"], content.get("elem", ()))


def _of_set(family: str, name: str, listed: Iterable[Any]) -> Iterator[Element]:
    kind = firewall.SETS[family, name]
    for entry in listed:
        try:
            if kind.value == firewall.COUNT:
                item, value = entry, entry["elem"]["ct count"]["val"]
            else:
                item, value = entry if kind.value else (entry, ())
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
