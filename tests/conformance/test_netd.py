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

BRIDGE: dict[str, object] = {}
PTP: dict[str, object] = {"mode": "ptp", "bridge": None}


@pytest.fixture(params=[("c", BRIDGE), ("python", BRIDGE), ("c", PTP)], ids=["c", "python", "c ptp"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The entrypoint, installed under the plugin's name, and what else is in its configuration."""
    entrypoint, template = request.param
    return _installed(entrypoint, tmp_path), json.dumps(template)


def _installed(entrypoint: str, tmp_path: Path) -> Path:
    installed = tmp_path / "netd"
    if entrypoint == "python":
        shutil.copy(ROOT / "cni" / "netd_cni" / "main.py", installed)
    elif shutil.which("cc"):
        subprocess.run(["cc", "-O2", "-static", "-o", installed, ROOT / "cni" / "shim.c"], check=True)
    else:
        pytest.skip("no C compiler here")
    return installed


@pytest.mark.timeout(300)
def test_every_clause_is_kept(case: tuple[Path, str]) -> None:
    plugin, template = case
    with Lab() as lab, serving(lab) as host:
        command = [sys.executable, "-m", "tests.conformance", "--here", "--json", "--template", template]
        done = host.run("env", f"PYTHONPATH={ROOT}", *command, str(plugin), timeout=240)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        broken = {each["clause"]: each["breach"] for each in found if each["breach"]}
        assert len(found) > 80, done.stderr
        assert not broken, f"{json.dumps(broken, indent=4)}\n{host.log.read_text()[-3000:]}"
        host.remove_everything()
