"""The filter of the DNS server's system calls; what it refuses is tried in netd_dns/test_confine.py."""

from __future__ import annotations

import sys

import pytest

from netd import dns_filter


def test_a_program_is_short_and_always_the_same() -> None:
    made = dns_filter.program()
    assert 0 < len(made) // 8 < 400, "instructions; the kernel takes 4096"
    assert made == dns_filter.compile()


def test_without_the_library_there_is_a_warning_and_no_filter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert dns_filter.program() == b""
    assert "apt install libseccomp2" in caplog.text
