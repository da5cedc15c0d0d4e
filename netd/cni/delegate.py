"""Running somebody else's IPAM plugin, as the specification lets a plugin do.

It is found in the runtime's CNI_PATH, gets our variables and our configuration, and speaks its own
newest version where that is older than the configuration's: host-local of many distributions knows
nothing after 1.0.0. What it refuses is handed on with its code.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from netd.cni import spec
from netd.cni.spec import CniError

log = logging.getLogger(__name__)

TIMEOUT = 60.0
"""Seconds that a plugin has; the dhcp plugin waits for a server."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")


class Delegates:
    """Runs IPAM plugins, and remembers which versions each of them knows."""

    def __init__(self) -> None:
        self._versions: dict[tuple[Path, int], tuple[str, ...]] = {}

    async def run(
        self,
        command: str,
        type: str,
        path: tuple[str, ...],
        variables: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """What the plugin `type` answers to `command`; {} where it writes nothing.

        A verb that it does not know yet (GC, STATUS, CHECK) is passed over. Raises `CniError`.
        """
        program = find(type, path)
        known = await self._known(program, variables)
        version = config.get("cniVersion") or "0.1.0"
        if version not in known:
            version = max((each for each in known if each in spec.VERSIONS), key=spec.VERSIONS.index)
        if not spec.at_least(version, spec.SINCE.get(command, "0.1.0")):
            return {}
        text = json.dumps({**config, "cniVersion": version}).encode()
        code, output = await _execute(program, {**variables, "CNI_COMMAND": command}, text)
        found = _decoded(program, command, output) if output.strip() else {}
        if code:
            reason = found.get("msg") or f"exit code {code}"
            raise CniError(
                int(found.get("code") or 100), f"{type}: {reason}", str(found.get("details") or "")
            )
        return found

    async def _known(self, program: Path, variables: Mapping[str, str]) -> tuple[str, ...]:
        key = program, program.stat().st_mtime_ns
        if key not in self._versions:
            question = b'{"cniVersion": "1.0.0"}'
            _, output = await _execute(program, {**variables, "CNI_COMMAND": "VERSION"}, question)
            told = _decoded(program, "VERSION", output).get("supportedVersions") or ["0.1.0", "0.2.0"]
            fitting = tuple(version for version in told if version in spec.VERSIONS)
            if not fitting:
                raise CniError(spec.INCOMPATIBLE_VERSION, f"{program}: supports none of our versions: {told}")
            self._versions[key] = fitting
        return self._versions[key]


def find(type: str, path: tuple[str, ...]) -> Path:
    """The executable of a plugin. Raises `CniError` where there is none."""
    if not NAME.fullmatch(type):
        raise CniError(spec.INVALID_CONFIG, f"ipam.type {type!r} is not the name of a plugin")
    for directory in path:
        program = Path(directory) / type
        if program.is_file() and os.access(program, os.X_OK):
            return program
    where = ":".join(path) or "nothing"
    raise CniError(spec.INVALID_CONFIG, f"ipam.type {type!r}: no such plugin in CNI_PATH ({where})")


def _decoded(program: Path, command: str, output: bytes) -> dict[str, Any]:
    try:
        found = json.loads(output)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise CniError(100, f"{program}: answered {command} with {output[:100]!r}")
    return found


async def _execute(program: Path, variables: Mapping[str, str], text: bytes) -> tuple[int, bytes]:
    environment = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), **variables}
    process = await asyncio.create_subprocess_exec(
        program, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, cwd="/"
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate(text)
    except TimeoutError:
        raise CniError(spec.TRY_AGAIN, f"{program}: no answer within {TIMEOUT:g} seconds") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if errors.strip():
        log.info("%s: %s", program.name, errors.decode(errors="replace").strip())
    assert process.returncode is not None
    return process.returncode, output
