"""Rights are gone for good. Tried in a process of its own, since there is no way back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import netd_dns

TRY = """
import json, os, resource, sys
sys.path.append(sys.argv[1])
from netd_dns import confine
confine.drop_privileges()
def attempt(work):
    try:
        work()
    except OSError as error:
        return error.errno
    return 0
print(json.dumps({
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "root again": attempt(lambda: os.setuid(0)),
    "child": attempt(os.fork) if len(sys.argv) > 2 else 0,
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "data": resource.getrlimit(resource.RLIMIT_DATA),
    "status": open("/proc/self/status").read(),
    "cwd": os.getcwd(),
}))
"""


def confined() -> Any:
    path = str(Path(netd_dns.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRY, path, "fork"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")
def test_root_becomes_nobody_for_good() -> None:
    seen = confined()
    assert seen["uids"] == seen["gids"] == [65534] * 3
    assert seen["groups"] == []
    assert seen["root again"] == 1  # EPERM
    assert seen["child"] == 11  # EAGAIN
    assert "CapEff:\t0000000000000000" in seen["status"]
    assert "CapPrm:\t0000000000000000" in seen["status"]


def test_limits_hold_for_everybody() -> None:
    seen = confined()
    assert "NoNewPrivs:\t1" in seen["status"]
    assert seen["core"] == [0, 0]
    assert seen["data"][1] == 512 * 1024 * 1024
    assert seen["cwd"] == "/"
