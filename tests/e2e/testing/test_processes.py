"""Programs that a test runs in its containers."""

from __future__ import annotations

from tests.e2e.testing.runs import Runs


def test_programs(runs: Runs) -> None:
    runs.passes("""
        def test_exec(lab):
            done = lab["web"].exec("sh", "-c", "echo out; echo err >&2; exit 3", check=False)
            assert (done.code, done.stdout, done.stderr) == (3, "out\\n", "err\\n")
            with pytest.raises(AssertionError, match="exit 3"):
                lab["web"].exec("sh", "-c", "exit 3")

        def test_popen(lab):
            process = lab["web"].popen("cat")
            process.write("hello\\n")
            assert process.expect("hello") == "hello\\n"
            process.close_stdin()
            assert process.wait().code == 0

        def test_what_does_not_end_is_killed(lab):
            with pytest.raises(AssertionError, match="sleep 99: no end within 0.2 s"):
                lab["web"].popen("sleep", "99").wait(0.2)
            with pytest.raises(AssertionError, match="'yes' not within"):
                lab["web"].popen("echo", "no").expect("yes")
            with pytest.raises(Exception, match="nothing-like-it"):
                lab["web"].exec("nothing-like-it")
        """)
