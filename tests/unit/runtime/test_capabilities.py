from __future__ import annotations

import pytest

from netd.errors import Invalid, Unsupported
from netd.runtime import capabilities
from netd.runtime.capabilities import DEFAULT, NUMBERS, mask, resolve


def test_numbers_are_the_kernel_s() -> None:
    """linux/capability.h, at a few places of the list."""
    wanted = {
        "CHOWN": 0,
        "KILL": 5,
        "NET_RAW": 13,
        "SYS_ADMIN": 21,
        "MKNOD": 27,
        "SETFCAP": 31,
        "CHECKPOINT_RESTORE": 40,
    }
    assert {name: NUMBERS[name] for name in wanted} == wanted
    assert capabilities.last() >= 40


def test_the_default_lacks_what_reaches_the_network_the_devices_and_the_audit_log() -> None:
    assert resolve((), ()) == DEFAULT
    assert not DEFAULT & {
        "NET_RAW",
        "NET_ADMIN",
        "MKNOD",
        "AUDIT_WRITE",
        "SYS_ADMIN",
        "SYS_PTRACE",
        "DAC_READ_SEARCH",
    }
    assert len(DEFAULT) == 11


@pytest.mark.parametrize(
    ("add", "drop", "wanted"),
    [
        (("NET_RAW",), (), DEFAULT | {"NET_RAW"}),
        (("cap_net_raw",), (), DEFAULT | {"NET_RAW"}),
        ((), ("KILL", "CAP_CHOWN"), DEFAULT - {"KILL", "CHOWN"}),
        ((), ("ALL",), set()),
        (("NET_ADMIN",), ("all",), {"NET_ADMIN"}),
        (("ALL",), ("SYS_ADMIN",), set(NUMBERS) - {"SYS_ADMIN"}),
        (("KILL",), ("KILL",), DEFAULT - {"KILL"}),
        (("ALL",), ("ALL",), set()),
    ],
)
def test_add_and_drop(add: tuple[str, ...], drop: tuple[str, ...], wanted: set[str]) -> None:
    assert resolve(add, drop) == wanted


@pytest.mark.parametrize(("add", "drop", "flag"), [(("FLY",), (), "--cap-add"), ((), ("",), "--cap-drop")])
def test_unknown_names_are_refused_with_their_flag(
    add: tuple[str, ...], drop: tuple[str, ...], flag: str
) -> None:
    with pytest.raises(Invalid, match=flag):
        resolve(add, drop)


def test_what_the_daemon_lacks_it_cannot_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "possible", lambda: mask({"KILL", "CHOWN"}))
    capabilities.check_possible(("ALL", "kill"))
    with pytest.raises(Unsupported, match="--cap-add SYS_TIME"):
        capabilities.check_possible(("KILL", "SYS_TIME"))


def test_mask() -> None:
    assert mask({"CHOWN", "KILL"}) == 0b100001
    assert mask(()) == 0
