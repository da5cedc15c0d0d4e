"""Batching, splitting and reading back, without nftables. (tests/kernel/test_nft.py has the real one.)"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import pytest

from netd.errors import AlreadyExists, Invalid, Unavailable
from netd.kernel import fastnl, nft, nftget
from netd.kernel.libnft import Context
from netd.objects import Add, Change, Element, Remove, Up

NAT = Element("inet", "nat", ("nd-1",))
WEB = Element("inet", "any4", ("tcp", 8080), (IPv4Address("10.89.0.2"), 80))


class Library:
    """libnftables as far as elements go: a transaction adds and deletes them, or none of them."""

    def __init__(self) -> None:
        self.elements: dict[str, str] = {}
        self.transactions: list[list[str]] = []
        self.threads: set[int] = set()
        self.entered = threading.Event()
        self.hold = threading.Event()
        self.hold.set()

    def set_json_output(self, val: bool) -> bool:
        """Accepted; only the rules, which always are as they should be, are asked for in JSON here."""
        return val

    set_terse_output = set_json_output

    def cmd(self, command: str) -> tuple[int, str, str]:
        """Carry out one buffer of commands."""
        self.threads.add(threading.get_ident())
        if command.startswith("list table"):
            return 0, '{"nftables": []}', ""
        if command.startswith("get"):
            key = command.partition("element ")[2].partition(" }")[0]
            if key not in self.elements:
                return 1, "", "Error: Could not process rule: No such file or directory"
            return 0, f"elements = {{ {key.partition('{ ')[2]}{self.elements[key]} }}", ""
        self.entered.set()
        self.hold.wait(5)
        self.transactions.append(command.split("\n"))
        return self._transact(command.split("\n"))

    def _transact(self, commands: list[str]) -> tuple[int, str, str]:
        before = dict(self.elements)
        for command in commands:
            verb, _, rest = command.partition(" element ")
            key, _, value = rest.removesuffix(" }").partition(" : ")
            value = f" : {value}" if value else ""
            if verb == "add" and self.elements.get(key, value) == value:
                self.elements[key] = value
            elif verb == "delete" and key in self.elements:
                del self.elements[key]
            else:
                self.elements = before
                reason = errno.EEXIST if verb == "add" else errno.ENOENT
                words = {errno.EEXIST: "File exists", errno.ENOENT: "No such file or directory"}[reason]
                return 1, "", f"Error: Could not process rule: {words}\n{command}\n^^^^"
        return 0, "", ""


def with_nft(monkeypatch: pytest.MonkeyPatch, test: Callable[[nft.Nft, Library], Awaitable[None]]) -> Library:
    library = Library()
    monkeypatch.setattr("nftables.Nftables", lambda: library)
    monkeypatch.setattr(Context, "write", lambda context, ops: False)
    monkeypatch.setattr(nftget, "generation", lambda socket: len(library.transactions))
    monkeypatch.setattr(nft, "in_new_namespace", lambda work: {})

    async def body() -> None:
        tables = nft.Nft(lambda number: None)
        await tables.start()
        try:
            await test(tables, library)
        finally:
            await tables.close()

    asyncio.run(body())
    return library


def element(number: int) -> Element:
    return Element("inet", "any4", ("udp", 1000 + number), (IPv4Address("10.89.0.2"), 53))


def test_what_waits_while_a_transaction_runs_goes_together_in_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(tables: nft.Nft, library: Library) -> None:
        library.hold.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(tables.apply([Add(NAT)]))
            await asyncio.to_thread(library.entered.wait, 5)
            for number in range(64):
                group.create_task(tables.apply([Add(element(number))]))
            await asyncio.sleep(0)
            library.hold.set()

    library = with_nft(monkeypatch, test)
    assert [len(transaction) for transaction in library.transactions] == [1, 64]
    assert len(library.threads) == 1


def test_a_guilty_request_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    thief = Element("inet", "any4", WEB.item, (IPv4Address("10.89.0.9"), 80))

    async def test(tables: nft.Nft, library: Library) -> None:
        await tables.apply([Add(WEB)])
        calls = [tables.apply([Add(element(number))]) for number in range(9)]
        calls.insert(5, tables.apply([Add(NAT), Add(thief)]))
        results = await asyncio.gather(*calls, return_exceptions=True)
        (failure,) = [result for result in results if result is not None]
        assert failure is results[5]
        assert isinstance(failure, AlreadyExists)
        assert "8080" in str(failure)
        assert "10.89.0.2 . 80" in str(failure)

    library = with_nft(monkeypatch, test)
    assert len(library.elements) == 10, "the guilty request changed nothing, its neighbours all they asked"


def test_deleting_what_is_not_there_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: nft.Nft, library: Library) -> None:
        await tables.apply([Add(WEB)])
        await tables.apply([Remove(NAT), Remove(WEB), Remove(element(1)), Add(element(2))])

    library = with_nft(monkeypatch, test)
    assert list(library.elements) == ["inet netd any4 { udp . 1002"]


def test_a_change_is_one_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    new = Element("inet", "any4", WEB.item, (IPv4Address("10.89.0.3"), 81))

    async def test(tables: nft.Nft, library: Library) -> None:
        await tables.apply([Add(WEB)])
        await tables.apply([Change(WEB, new)])

    library = with_nft(monkeypatch, test)
    assert library.transactions[-1] == [
        "delete element inet netd any4 { tcp . 8080 }",
        "add element inet netd any4 { tcp . 8080 : 10.89.0.3 . 81 }",
    ]


def test_a_bad_element_never_reaches_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: nft.Nft, library: Library) -> None:
        with pytest.raises(Invalid):
            await tables.apply([Add(Element("inet", "nat", ('" }; flush ruleset; {',)))])

    assert with_nft(monkeypatch, test).transactions == []


def test_a_batch_is_bounded_but_a_request_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "BATCH", 3)

    async def test(tables: nft.Nft, library: Library) -> None:
        wanted = [
            [Add(element(10 * number + n)) for n in range(size)] for number, size in enumerate([2, 2, 7])
        ]
        await asyncio.gather(*(tables.apply(ops) for ops in wanted))

    assert [len(each) for each in with_nft(monkeypatch, test).transactions] == [2, 2, 7]


def test_a_cancelled_caller_waits_for_its_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: nft.Nft, library: Library) -> None:
        library.hold.clear()
        async with asyncio.TaskGroup() as group:
            caller = group.create_task(tables.apply([Add(NAT)]))
            await asyncio.to_thread(library.entered.wait, 5)
            caller.cancel()
            await asyncio.sleep(0)
            assert not caller.done()
            library.hold.set()
            await asyncio.wait([caller])
            assert caller.cancelled()
        assert list(library.elements) == ['inet netd nat { "nd-1"']

    with_nft(monkeypatch, test)


def test_after_close_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: nft.Nft, library: Library) -> None:
        await tables.close()
        with pytest.raises(Unavailable):
            await tables.apply([Add(NAT)])
        with pytest.raises(Unavailable):
            await tables.elements()

    with_nft(monkeypatch, test)


def test_only_elements_are_taken() -> None:
    with pytest.raises(TypeError):
        list(nft.commands(Add(Up("eth0"))))


def test_without_descriptors_for_the_generation_transactions_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(socket: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def test(tables: nft.Nft, library: Library) -> None:
        monkeypatch.setattr(nftget, "generation", exhausted)
        await tables.apply([Add(element(1))])
        await tables.apply([Remove(element(1))])
        assert not library.elements

    assert with_nft(monkeypatch, test).transactions


def test_transactions_close_no_netlink_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each close would wait until the kernel has freed what the transaction before it deleted."""
    closed: list[fastnl.Socket] = []
    close = fastnl.Socket.close

    def counted(socket: fastnl.Socket) -> None:
        closed.append(socket)
        close(socket)

    monkeypatch.setattr(fastnl.Socket, "close", counted)
    seen: list[int] = []

    async def test(tables: nft.Nft, library: Library) -> None:
        for number in range(5):
            await tables.apply([Add(element(number))])
            await tables.apply([Remove(element(number))])
        assert await tables.intact()
        seen.append(len(closed))

    with_nft(monkeypatch, test)
    assert seen == [0]
    assert len(closed) == 2, "the writer's and the reader's, at the end"
