from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from netd.topology.surroundings import Surroundings


@pytest.mark.parametrize(
    ("written", "absolute"),
    [("x", "/lab/x"), ("./x/y", "/lab/x/y"), ("../x", "/x"), ("../../../x", "/x"), ("/srv/./x/..", "/srv")],
)
def test_a_path_is_seen_from_where_the_file_is(written: str, absolute: str) -> None:
    around = Surroundings(
        project="shop",
        directory=PurePosixPath("/lab"),
        networks={},
        volumes={},
        images={},
        variables={},
        read=str,
        services={},
        impairments={},
        promised={},
    )
    assert around.absolute(written) == absolute
