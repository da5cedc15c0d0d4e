"""Which sysctl paths and values are let through. (Writing is tested in tests/kernel/test_links.py.)"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netd.errors import Invalid, KernelError
from netd.kernel import sysctl
from netd.objects import Sysctl
from tests.descriptors import descriptors


def test_a_path_is_below_proc_sys_net() -> None:
    path = ("net", "ipv6", "conf", "eth0.100", "accept_ra")
    assert sysctl.path_of(path) == "/proc/sys/net/ipv6/conf/eth0.100/accept_ra"


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("net",),
        ("kernel", "core_pattern"),
        ("net", "..", "kernel", "core_pattern"),
        ("net", ".", "ipv4"),
        ("net", "../kernel/core_pattern"),
        ("net", "ipv4/../../kernel/core_pattern"),
        ("net", "", "ipv4"),
        ("net", "ipv4\n"),
        ("net", "ipv4\0"),
        ("net", "x" * 65),
    ],
)
def test_anything_else_is_refused(path: tuple[str, ...]) -> None:
    with pytest.raises(Invalid, match="net/"):
        sysctl.path_of(path)


@pytest.mark.parametrize("value", ["", "1\n2", "1;reboot", "x" * 300, "\0"])
def test_odd_values_are_refused_before_anything_is_opened(value: str) -> None:
    with pytest.raises(Invalid, match="net/ipv4/no_such_sysctl"):
        sysctl.write(Sysctl(("net", "ipv4", "no_such_sysctl"), value))


def test_a_kernel_without_ipv6_has_it_disabled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "net" / "ipv4" / "conf" / "eth0").mkdir(parents=True)
    monkeypatch.setattr(sysctl, "ROOT", str(tmp_path))
    disabled = ("net", "ipv6", "conf", "eth0", "disable_ipv6")
    sysctl.write(Sysctl(disabled, "1"))
    assert sysctl.read(disabled) == "1"
    for path, value in ((disabled, "0"), (("net", "ipv6", "conf", "eth0", "accept_ra"), "0")):
        with pytest.raises(KernelError, match="ipv6"):
            sysctl.write(Sysctl(path, value))
    (tmp_path / "net" / "ipv6").mkdir()
    assert sysctl.read(disabled) is None
    with pytest.raises(KernelError):
        sysctl.write(Sysctl(disabled, "1"))


def test_what_does_not_exist_reads_as_none() -> None:
    assert sysctl.read(("net", "ipv4", "no_such_sysctl")) is None


def test_blanks_in_a_value_are_normalised() -> None:
    value = sysctl.read(("net", "ipv4", "ip_local_port_range"))
    assert value is not None
    first, last = value.split(" ")
    assert int(first) < int(last)


def test_a_writer_looks_a_directory_up_once_and_closes_what_it_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "net" / "ipv4" / "conf" / "eth0"
    directory.mkdir(parents=True)
    monkeypatch.setattr(sysctl, "ROOT", str(tmp_path))
    for name in ("a", "b"):
        (directory / name).write_text("0")
    opened = []
    real = os.open

    def counted(path: str, flags: int, **more: int) -> int:
        opened.append(path)
        return real(path, flags, **more)

    monkeypatch.setattr(os, "open", counted)
    before = len(descriptors())
    with sysctl.Writer() as writer:
        for name in ("a", "b", "a"):
            writer.write(Sysctl(("net", "ipv4", "conf", "eth0", name), "1"))
        with pytest.raises(KernelError):
            writer.write(Sysctl(("net", "ipv4", "conf", "eth0", "c"), "1"))
    assert opened == [str(directory), "a", "b", "a", "c"]
    assert ((directory / "a").read_text(), (directory / "b").read_text()) == ("1", "1")
    assert len(descriptors()) == before


@pytest.mark.parametrize("allowed", [True, False])
def test_directories_are_opened_in_a_procfs_that_has_not_seen_many(
    monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    made: list[int] = []
    make = sysctl._procfs

    def procfs() -> int:
        made.append(make() if allowed else -1)
        return made[-1]

    monkeypatch.setattr(sysctl, "_procfs", procfs)
    fresh = sysctl._Fresh()
    for _ in range(2 * fresh.MANY + 1):
        descriptor = fresh.open("/proc/sys/net/ipv4/conf/lo")
        try:
            assert Path(f"/proc/self/fd/{descriptor}/forwarding").exists()
        finally:
            os.close(descriptor)
    assert len(made) == 3
    if not allowed:
        return
    if made[0] < 0:
        pytest.skip("this process may not have a procfs of its own")
    assert fresh._procfs == made[-1]
    with pytest.raises(FileNotFoundError):
        fresh.open("/proc/sys/net/ipv4/conf/no-such-link")
    fresh.close()
    assert fresh._procfs < 0
