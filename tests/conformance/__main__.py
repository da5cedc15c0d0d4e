"""A conformance suite for CNI plugins that make an interface: `python -m tests.conformance PLUGIN`.

It executes the plugin as a runtime does, in a network namespace of its own with a private
/run/netns, and looks at the kernel afterwards. Any plugin that takes the reference bridge plugin's
configuration can be judged; --template replaces or removes keys of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.suite import judge, supported

DELEGATES = "/usr/lib/cni"


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge one plugin; the exit code is 1 if it breaks a clause."""
    parser = argparse.ArgumentParser(prog="conformance", description=__doc__)
    parser.add_argument("plugin", type=Path, help="the executable")
    parser.add_argument("--delegates", type=Path, default=Path(DELEGATES), help="where host-local is")
    parser.add_argument(
        "--template", type=json.loads, default={}, help="JSON object of changes to the configuration"
    )
    parser.add_argument("--only", default="", help="part of a clause's name")
    parser.add_argument("--here", action="store_true", help="in the namespaces it is started in")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    if not options.here:
        return _isolated(sys.argv[1:] if arguments is None else arguments)
    plugin = options.plugin.absolute()
    try:
        versions = supported(plugin)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    kept = broken = 0
    for verdict in judge(plugin, options.delegates, options.template, versions, options.only):
        kept, broken = kept + (not verdict.breach), broken + bool(verdict.breach)
        if options.json:
            line = {"clause": verdict.name, "text": verdict.clause.text, "breach": verdict.breach}
            print(json.dumps(line), flush=True)
        else:
            print(
                f"{'FAIL' if verdict.breach else 'pass'}  {verdict.name:16}  {verdict.clause.text}",
                flush=True,
            )
            if verdict.breach:
                print(f"                        {verdict.breach[:300]}", flush=True)
    if not options.json:
        print(f"{plugin.name}: {kept} kept, {broken} broken, in versions {', '.join(versions)}")
    return int(broken > 0)


PREPARE = """
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; }
ip link set lo up
exec "$@"
"""


def _isolated(arguments: Sequence[str]) -> int:
    if os.geteuid() != 0:
        print("conformance: makes namespaces: run it as root", file=sys.stderr)
        return 2
    inside = [sys.executable, "-m", "tests.conformance", "--here", *arguments]
    unshare = ["unshare", "--net", "--mount", "--propagation", "private", "--kill-child", "--fork"]
    return subprocess.run([*unshare, "sh", "-ec", PREPARE, "sh", *inside], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
