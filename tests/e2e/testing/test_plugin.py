"""The plugin itself: workers side by side, and what it says when it cannot begin."""

from __future__ import annotations

from tests.e2e.testing.runs import Runs


def test_labs_do_not_meet(runs: Runs) -> None:
    """Two workers, each with the same topology."""
    runs.passes(
        """
        @pytest.mark.parametrize("number", range(4))
        def test_it(lab, number):
            assert lab["web"].sr1(IP(dst=lab.ip("api", "front")) / ICMP()) is not None
        """,
        "-p",
        "xdist",
        "-n",
        "2",
    )


def test_without_a_daemon_or_a_topology(runs: Runs) -> None:
    text = """
        def test_it(lab):
            pass
        """
    runs.write(text)
    done = runs.run("--netd-socket=/nowhere/netd.sock")
    assert "cannot reach the daemon at /nowhere/netd.sock" in done.stdout
    assert "--netd-socket or NETD_SOCKET" in done.stdout
    (runs.directory / "test_it.py").write_text("def test_it(lab):\n    pass\n")
    assert "needs @pytest.mark.topology" in runs.run().stdout
    (runs.directory / "test_it.py").write_text(
        "import pytest\n\n@pytest.mark.topology('none.yaml')\ndef test_it(lab):\n    pass\n"
    )
    assert "none.yaml cannot be read" in runs.run().stdout
