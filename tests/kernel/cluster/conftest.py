"""Each asynchronous test here runs in a process of its own.

gRPC keeps threads for the whole process and opens connections from them, and a thread stays in the network
namespace in which it was born. The tests beside these have one namespace each, in one process; a
connection would be opened in the namespace of whichever test used gRPC first.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest

INSIDE = "NETD_TEST_PROCESS"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj) or os.environ.get(INSIDE):
        return None
    path = pyfuncitem.path.relative_to(pyfuncitem.config.rootpath)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "", f"{path}::{pyfuncitem.name}"],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, INSIDE: "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)
    return True
