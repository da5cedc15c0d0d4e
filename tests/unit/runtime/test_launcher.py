from __future__ import annotations

from pathlib import Path

import pytest

from netd.runtime import launcher


@pytest.mark.parametrize(("before", "after"), [("-500\n", "0"), ("0\n", "0\n"), ("200\n", "200\n")])
def test_the_daemons_protection_from_the_oom_killer_is_not_handed_on(
    tmp_path: Path, before: str, after: str
) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text(before)
    launcher.give_up_protection(score)
    assert score.read_text() == after
