from __future__ import annotations

from netd import nicknames
from netd.names import NAME


def test_every_name_is_a_valid_container_name() -> None:
    for adjective in nicknames.ADJECTIVES:
        for person in nicknames.PEOPLE:
            assert NAME.fullmatch(f"{adjective}_{person}")


def test_a_taken_name_is_not_given_again() -> None:
    taken: set[str] = set()
    for _ in range(200):
        name = nicknames.generate(taken)
        assert name not in taken
        taken.add(name)


def test_it_ends_even_when_everything_is_taken() -> None:
    class Everything:
        def __contains__(self, name: object) -> bool:
            return True

    name = nicknames.generate(Everything())
    assert NAME.fullmatch(name)
