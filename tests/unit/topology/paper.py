"""Projects from text, without files and without a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from netd.topology.project import Project, read


def project(text: str, files: Mapping[str, str] | None = None, **given: Any) -> Project:
    """The project of `text` as if it stood in /lab/t.yaml; `files` are the env files it may name."""
    options: dict[str, Any] = {
        "directory": PurePosixPath("/lab"),
        "variables": {},
        "project": "",
        "images": {},
        "profiles": (),
        "lenient": False,
        "state_dir": "/state",
        **given,
    }
    return read(text, "t.yaml", file=lambda path: (files or {})[str(path)], **options)
