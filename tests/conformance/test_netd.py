"""netd keeps every clause, by its compiled entrypoint and by its Python one, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.host import ROOT, Lab, serving

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root"),
    pytest.mark.skipif(
        not Path("/usr/lib/cni/host-local").exists(), reason="needs containernetworking-plugins"
    ),
]

TEMPLATES: dict[str, dict[str, object]] = {
    "host-local": {},
}


@pytest.fixture(params=["c", "python"])
def plugin(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The entrypoint, installed under the plugin's name."""
    installed = tmp_path / "netd"
    if request.param == "python":
        shutil.copy(ROOT / "cni" / "netd_cni" / "main.py", installed)
    elif shutil.which("cc"):
        subprocess.run(["cc", "-O2", "-static", "-o", installed, ROOT / "cni" / "shim.c"], check=True)
    else:
        pytest.skip("no C compiler here")
    return installed


@pytest.mark.timeout(300)
def test_every_clause_is_kept(plugin: Path) -> None:
    with Lab() as lab, serving(lab) as host:
        command = [sys.executable, "-m", "tests.conformance", "--here", "--json", str(plugin)]
        done = host.run("env", f"PYTHONPATH={ROOT}", *command, timeout=240)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        broken = {each["clause"]: each["breach"] for each in found if each["breach"]}
        assert len(found) > 80, done.stderr
        assert not broken, f"{json.dumps(broken, indent=4)}\n{host.log.read_text()[-3000:]}"
        host.remove_everything()
