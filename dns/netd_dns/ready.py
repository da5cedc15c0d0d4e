"""Finished answers: question bytes in, answer bytes out, without a look inside either.

Clients can spell a name in endless ways, and an alias of many containers has a long answer in many
orders, so what is kept is counted in bytes, over all tables together. When it is too much all of it
goes: it comes back by itself, and nobody's flood can push out only the others.
"""

from __future__ import annotations

BYTES_MOST = 32 * 1024 * 1024
_OVERHEAD = 250
"""What an entry costs beside its bytes: two objects and a place in a table."""


class Turns:
    """Answers to one question that differ in the order of addresses, given in turn."""

    __slots__ = ("_answers", "_next")

    def __init__(self, answers: tuple[bytes, ...]) -> None:
        self._answers = answers
        self._next = 0

    def next(self) -> bytes:
        """The next one."""
        self._next = (self._next + 1) % len(self._answers)
        return self._answers[self._next]

    def __len__(self) -> int:
        return sum(map(len, self._answers))


class Budget:
    """The tables that share the memory."""

    def __init__(self, most: int = BYTES_MOST) -> None:
        self.used = 0
        self._most = most
        self._tables: dict[int, Ready] = {}

    def table(self) -> Ready:
        """A new table."""
        made = Ready(self)
        self._tables[id(made)] = made
        return made

    def drop(self, table: Ready) -> None:
        """A table is not needed any more."""
        table.clear()
        self._tables.pop(id(table), None)

    def spend(self, size: int) -> None:
        """Another `size` bytes are kept."""
        if self.used + size > self._most:
            for table in self._tables.values():
                table.clear()
        self.used += size


class Ready(dict[bytes, bytes | Turns]):
    """One view's finished answers, by the question from its third byte on. Get them as from any dict."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self._budget = budget
        self._size = 0

    def keep(self, question: bytes, answer: bytes | Turns) -> None:
        """Answer `question` with `answer` from now on."""
        size = len(question) + len(answer) + _OVERHEAD
        self._budget.spend(size)
        self._size += size
        self[question] = answer

    def clear(self) -> None:
        """Forget all: something that they say has changed."""
        self._budget.used -= self._size
        self._size = 0
        super().clear()
