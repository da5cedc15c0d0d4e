"""The suite itself: it passes what is right, and finds what is wrong, in plugins made wrong on purpose."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.clauses import CLAUSES
from tests.conformance.rig import VERSIONS
from tests.conformance.suite import trials

ROOT = Path(__file__).parents[2]
REFERENCE = Path("/usr/lib/cni/bridge")

needs_reference = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root"),
    pytest.mark.skipif(not REFERENCE.exists(), reason="needs Debian's containernetworking-plugins"),
]

WRAPPER = """#!{python}
import json, os, subprocess, sys
command = os.environ.get("CNI_COMMAND", "")
config = sys.stdin.buffer.read()
def ask():
    done = subprocess.run(["{reference}"], input=config, stdout=subprocess.PIPE)
    return done.returncode, done.stdout
code, out = 0, b""
{body}
sys.stdout.buffer.write(out)
sys.exit(code)
"""


def judged(plugin: Path, only: str = "") -> dict[str, str]:
    """What the suite says of a plugin: the breach of each clause, empty where it was kept."""
    line = [sys.executable, "-m", "tests.conformance", str(plugin), "--json", "--only", only]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = [json.loads(each) for each in done.stdout.splitlines()]
    assert done.returncode == int(any(each["breach"] for each in found))
    return {each["clause"]: each["breach"] for each in found}


def test_clauses_have_names_of_their_own_and_versions_that_exist() -> None:
    ids = [clause.id for clause in CLAUSES]
    assert len(ids) == len(set(ids))
    assert {clause.since for clause in CLAUSES} <= set(VERSIONS)
    assert len({id.split("-")[0] for id in ids}) == 7  # six verbs and the errors


def test_trials_leave_out_what_the_plugin_does_not_support() -> None:
    old = {(clause.id, version) for clause, version in trials(["0.4.0", "1.0.0"])}
    assert ("GC-1", "1.1.0") not in old
    assert {version for id, version in old if id == "CHECK-1"} == {"0.4.0", "1.0.0"}
    assert {version for id, version in old if id == "CHECK-2"} == {"1.0.0"}
    new = {(clause.id, version) for clause, version in trials(list(VERSIONS))}
    assert ("GC-1", "1.1.0") in new
    assert {version for id, version in new if id == "ADD-1"} == set(VERSIONS)


class TestReference:
    """Debian's bridge plugin, which runtimes work with, and its known faults."""

    pytestmark = needs_reference

    def test_it_keeps_most_clauses_and_its_faults_are_found(self) -> None:
        found = judged(REFERENCE)
        broken = {name.split("@")[0] for name, breach in found.items() if breach}
        assert len(found) > 60
        # An error without a cniVersion, a veth left by a failed ADD, prevResult dropped (plugins 1.1.1).
        assert {"ERROR-9", "ADD-14", "ADD-19"} <= broken
        assert broken <= {"VERSION-2", "ERROR-9", "ERROR-11", "ADD-14", "ADD-19", "DEL-9"}

    @pytest.mark.parametrize(
        ("only", "body"),
        [
            ("DEL-1@1.0.0", "if command != 'DEL': code, out = ask()"),
            ("DEL-5", "if command != 'DEL' or os.path.exists(os.environ['CNI_NETNS']): code, out = ask()"),
            ("CHECK-4", "if command != 'CHECK': code, out = ask()"),
            ("CHECK-5", "if command != 'CHECK': code, out = ask()"),
            ("CHECK-6", "if command != 'CHECK': code, out = ask()"),
            (
                "ADD-1@0.4.0",
                "code, out = ask(); out = out.replace(b'0.4.0', b'0.3.1') if command == 'ADD' else out",
            ),
            ("ADD-3@1.0.0", "code, out = ask(); out = out.replace(b'/run/netns/', b'/proc/netns/')"),
            ("ADD-5@1.0.0", "code, out = ask(); out = out.replace(b'\"interface\": 2', b'\"interface\": 0')"),
            ("ADD-10", "os.environ['CNI_CONTAINERID'] = 'same'; code, out = ask()"),
            ("ADD-12", "code, out = ask(); (command, code) == ('ADD', 1) and ask(); code = 0"),
            ("ADD-21", "code, out = ask(); out = b'done\\n' + out if command == 'ADD' else out"),
            ("ERROR-3", "code, out = ask(); code = 0"),
            ("ERROR-6", "code, out = ask(); out = out.replace(b'6', b'7')"),
        ],
    )
    def test_a_plugin_made_wrong_is_found(self, only: str, body: str, tmp_path: Path) -> None:
        wrong = tmp_path / "bridge"
        wrong.write_text(WRAPPER.format(python="/usr/bin/python3", reference=REFERENCE, body=body))
        wrong.chmod(0o755)
        assert judged(wrong, only)[only] != ""

    def test_nothing_is_left_on_the_machine(self) -> None:
        def links() -> set[str]:
            listed = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
            return {each["ifname"] for each in listed}

        before = links(), sorted(Path("/run").glob("netns/*")), Path("/proc/mounts").read_text()
        judged(REFERENCE, "ADD-11")
        assert (links(), sorted(Path("/run").glob("netns/*")), Path("/proc/mounts").read_text()) == before
