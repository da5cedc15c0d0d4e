"""What only a host with a thousand links would show. (The rest is in tests/kernel/test_links.py.)"""

from __future__ import annotations

import errno

import pytest

from netd.errors import Exhausted
from netd.kernel.fastnl import Refused
from netd.kernel.links import Links
from netd.objects import BridgePort


def test_a_bridge_that_is_full_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    links = Links(None, lambda: None, on_host=True)  # type: ignore[arg-type]

    def full(message: bytes) -> None:
        raise Refused(errno.EXFULL)

    monkeypatch.setattr(links, "_send", full)
    with pytest.raises(Exhausted, match="bridge nd-front has 1,023 ports"):
        links._enslave(7, 3, BridgePort("ve-web", "nd-front", False, True))
