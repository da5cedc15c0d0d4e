"""Finished answers and the memory they share."""

from __future__ import annotations

from netd_dns.ready import Budget, Turns


def test_turns_go_round() -> None:
    turns = Turns((b"a", b"b", b"c"))
    assert [turns.next() for _ in range(6)] == [b"b", b"c", b"a", b"b", b"c", b"a"]
    assert len(turns) == 3


def test_kept_until_cleared() -> None:
    table = Budget().table()
    table.keep(b"question", b"answer")
    assert table.get(b"question") == b"answer"
    table.clear()
    assert table.get(b"question") is None


def test_all_tables_together_have_one_budget_of_bytes() -> None:
    budget = Budget(most=100_000)
    modest, greedy = budget.table(), budget.table()
    modest.keep(b"question", b"answer")
    for number in range(1000):
        greedy.keep(b"%d" % number, Turns((bytes(500), bytes(500))))
        assert budget.used <= 100_000
    assert not modest, "a full memory is emptied for everybody, not for those who were first"
    assert len(greedy) < 100
    greedy.clear()
    assert budget.used == 0


def test_a_dropped_table_gives_its_memory_back() -> None:
    budget = Budget()
    table = budget.table()
    table.keep(b"question", b"answer")
    budget.drop(table)
    budget.drop(table)
    assert (budget.used, len(table)) == (0, 0)
