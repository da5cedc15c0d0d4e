"""pytest runs of their own with the plugin, as its users have them, against a real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.e2e.host import ROOT, Host

HEAD = '''
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

TOPOLOGY = """
services:
  web: {networks: [front]}
  api: {networks: [front, back]}
  db: {networks: [back]}
networks:
  front: {enable_ipv6: true}
  back: {internal: true}
"""
pytestmark = pytest.mark.topology(TOPOLOGY, reuse="module")
'''


class Runs:
    """Runs of pytest in a directory of their own, outside the namespaces that the daemon is in."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.directory = directory
        self._host = host
        self._socket = f"/proc/{host.lab.pid}/root/run/netd/netd.sock"

    def write(self, text: str, name: str = "test_it.py") -> Path:
        path = self.directory / name
        path.write_text(HEAD + dedent(text))
        return path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on what was written."""
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-p",
                "no:cacheprovider",
                "-p",
                "netd.testing.plugin",
                *arguments,
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "NETD_SOCKET": self._socket,
                "COLUMNS": "200",
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def passes(self, text: str, *arguments: str) -> str:
        """What pytest writes about tests that all pass."""
        self.write(text)
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fails(self, text: str, *arguments: str) -> str:
        """What pytest writes about a test that fails."""
        self.write(text)
        done = self.run(*arguments)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout

    def passes_on_the_host(self, text: str) -> None:
        """As `passes`, from where the daemon is: some things need the same namespaces."""
        self.write(text)
        host = self._host
        argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "netd.testing.plugin"]
        done = host.run(
            *("env", "-u", "PYTHONWARNINGS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1", f"PYTHONPATH={ROOT}"),
            "NETD_SOCKET=/run/netd/netd.sock",
            *argv,
            *("--rootdir", self.directory, self.directory),
        )
        assert done.returncode == 0, done.stdout + done.stderr
