"""Runs the clauses against one plugin and tells how each came out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.clauses import CLAUSES, Clause
from tests.conformance.rig import VERSIONS, Breach, Rig, at_least, bench

BASE = "1.0.0"
"""The version in which clauses are tried that do not depend on it."""


@dataclass(frozen=True)
class Verdict:
    """How one clause came out. `version` is the one it was tried in; `breach` is empty if it was kept."""

    clause: Clause
    version: str
    breach: str

    @property
    def name(self) -> str:
        """Which trial this was."""
        return f"{self.clause.id}@{self.version}" if self.clause.each else self.clause.id


def supported(plugin: Path) -> list[str]:
    """The versions that the plugin says it supports, of those that there are. Raises ValueError."""
    question, variables = b'{"cniVersion": "1.0.0"}', {"CNI_COMMAND": "VERSION"}
    done = subprocess.run([plugin], input=question, env=variables, capture_output=True, timeout=30)
    try:
        told = json.loads(done.stdout)["supportedVersions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{plugin} does not answer VERSION: {done.stdout + done.stderr!r}") from error
    return [version for version in VERSIONS if version in told]


def trials(versions: list[str], pattern: str = "") -> Iterator[tuple[Clause, str]]:
    """Every clause with each version that it is tried in; what the plugin does not support is left out."""
    for clause in CLAUSES:
        fitting = [version for version in versions if at_least(version, clause.since)]
        if not clause.each:
            fitting = [version for version in fitting if version == max(BASE, clause.since)] or fitting[:1]
        for version in fitting:
            if pattern in f"{clause.id}@{version}":
                yield clause, version


def judge(
    plugin: Path, delegates: Path, template: Mapping[str, Any], versions: list[str], pattern: str = ""
) -> Iterator[Verdict]:
    """Try all clauses, one after the other."""
    for number, (clause, version) in enumerate(trials(versions, pattern)):
        with bench(Rig(plugin, version, delegates, template, number)) as rig:
            try:
                clause.function(rig)
                breach = ""
            except Breach as error:
                breach = str(error)
            except subprocess.CalledProcessError as error:
                breach = f"{' '.join(map(str, error.cmd))}: {(error.stderr or '').strip()}"
            except (KeyError, IndexError, TypeError) as error:
                breach = f"the result has not the shape of one: {error!r}"
        yield Verdict(clause, version, breach)
