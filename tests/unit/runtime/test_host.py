from __future__ import annotations

from pathlib import Path

import pytest

from netd.runtime.host import Hidden, View, _outermost


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (
        "usr/bin",
        "etc/ssl/private",
        "var/lib/dpkg",
        "var/lib/docker",
        "var/log",
        "root",
        "srv",
        "work",
        "opt",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/ssl/private").chmod(0o710)
    (tmp_path / "etc/ssl/private/key").write_text("x")
    (tmp_path / "etc/passwd").write_text("x")
    (tmp_path / "etc/shadow").write_text("x")
    (tmp_path / "etc/shadow").chmod(0o640)
    (tmp_path / "etc/ssl/host_key").write_text("x")
    (tmp_path / "etc/ssl/host_key").chmod(0o600)
    (tmp_path / "etc/mtab").symlink_to("/proc/mounts")
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "swapfile").write_text("x")
    (tmp_path / "strange").symlink_to("/etc/shadow")
    return tmp_path


def test_what_is_hidden(root: Path) -> None:
    assert set(View(str(root)).hidden(())) == {
        Hidden("work", gone=True),
        Hidden("swapfile", gone=True),
        Hidden("strange", gone=True),
        Hidden("root", gone=False),
        Hidden("srv", gone=False),
        Hidden("var/log", gone=False),
        Hidden("var/lib/docker", gone=False),
        Hidden("etc/shadow", gone=True),
        Hidden("etc/ssl/private", gone=False),
        Hidden("etc/ssl/host_key", gone=True),
    }


def test_what_is_asked_for_is_hidden_too(root: Path) -> None:
    view = View(str(root))
    more = set(view.hidden(("/etc/passwd", "/opt", "/nosuch", "/", "/root/x"))) - set(view.hidden(()))
    assert more == {Hidden("etc/passwd", gone=True), Hidden("opt", gone=False)}


def test_only_the_outermost_counts() -> None:
    paths = [
        Hidden("a/b", True),
        Hidden("a", False),
        Hidden("a/b/c", True),
        Hidden("ab", True),
        Hidden("a", False),
    ]
    assert _outermost(paths) == [Hidden("a", False), Hidden("ab", True)]


def test_a_scan_is_repeated_after_a_while(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("netd.runtime.host.time.monotonic", lambda: clock[0])
    view = View(str(root))
    view.hidden(())
    (root / "etc/new").write_text("x")
    (root / "etc/new").chmod(0o600)
    clock[0] += 60
    assert Hidden("etc/new", gone=True) in view.hidden(())
