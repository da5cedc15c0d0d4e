"""The conventions of the house, as tests: what may import what, and what every file must have.

`docs/architecture.md` says why. A rule that is only prose is broken within a month; one that is
a test is either kept or argued about in review. Exceptions are listed here, each with its reason.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$")

VALUES = {
    "dirs",
    "errors",
    "keys",
    "later",
    "logs",
    "model",
    "names",
    "objects",
    "settings",
    "shared",
    "tasks",
}
"""The vocabulary; everybody may import these, and they import only each other."""

CONTRACTS = {"kernel.ports", "runtime.spec", "store.base"}
"""Protocols that somebody below implements and somebody above is given."""

FLOORS: tuple[set[str], ...] = (
    VALUES,
    CONTRACTS,
    {
        "dns_feed",
        "dns_filter",
        "dns_lookup",
        "dns_process",
        "events",
        "flows",
        "listening",
        "locks",
        "pipes",
        "relay",
        "runtime",
        "store",
    },
    {"addresses", "compile", "drivers", "etcfiles", "firewall", "ipam", "launch", "nicknames", "plan"}
    | {"cluster.ports", "ports", "requests", "ruleset", "subnets", "tunnels", "view", "wanted"},
    {"cluster", "kernel"},
    {
        "changes",
        "engine",
        "forwarding",
        "news",
        "operations",
        "overlay",
        "promises",
        "publishing",
        "reconcile",
    }
    | {"announcements", "encryption", "recovery", "room"},
    {"cni", "cni_server", "container_files", "containers", "doctor", "packets", "registry", "tracing"},
    {"api.generated"},
    {"api"},
    {"app"},
)
"""The daemon from the ground up. A room may import its own floor and those beneath it."""

SEALED = {"cluster": {"app"}, "kernel": {"app"}, "runtime": {"app"}, "store": {"app"}}
"""Implementations: only the composition root knows them, everybody else their contract."""

PLANNING = FLOORS[3]
"""Values in, values out: these may import values, contracts and each other, and nothing that acts."""

TOPOLOGY_COMMANDS = VALUES | {"api.client", "api.generated", "cli", "cli.topology_project"}
TOPOLOGY_COMMANDS |= {
    "cli.topology_wires",
    "topology",
    "topology.check",
    "topology.hosts",
    "topology.namespaces",
}

CLIENTS: dict[str, set[str]] = {
    "api.client": VALUES | {"api.generated"},
    "topology": VALUES | {"api.client", "api.generated", "topology.namespaces"},
    "topology.hosts": VALUES | {"api.client", "api.generated", "kernel", "runtime", "topology"},
    "topology.namespaces": VALUES | {"api.generated", "capture", "kernel", "topology"},
    "topology.check": VALUES | {"api.client", "api.generated", "kernel", "topology", "topology.namespaces"},
    "capture": VALUES,
    "testing": VALUES
    | {
        "api.client",
        "api.generated",
        "capture",
        "kernel",
        "topology",
        "topology.hosts",
        "topology.namespaces",
    },
    "cli": VALUES | {"api.client", "api.generated", "capture"},
    "cli.daemon": VALUES | {"app", "cli"},
    "cli.doctor": VALUES | {"cli", "doctor", "kernel"},
    "cli.topology": TOPOLOGY_COMMANDS,
    "cli.topology_project": TOPOLOGY_COMMANDS,
    "cli.topology_wires": TOPOLOGY_COMMANDS | {"capture"},
}
"""What runs in other processes than the daemon, and the few rooms that it may import."""

ONLY_IN = {
    "pyroute2": {"kernel"},
    "nftables": {"kernel"},
    "ctypes": {"capture", "kernel", "runtime"},
    "pyseccomp": {"dns_filter", "runtime"},
    "sqlite3": {"store"},
    "grpc": {"api", "api.client", "api.generated", "cluster"},
    "click": {
        "cli",
        "cli.daemon",
        "cli.doctor",
        "cli.topology",
        "cli.topology_project",
        "cli.topology_wires",
    },
    "rich": {"cli"},
    "scapy": {"testing"},
    "dnslib": {"dns_lookup"},
    "subprocess": {"testing"},
}
"""Which rooms of netd may import a library whose use is somebody's business in particular."""

TOOLS = {"ip", "nft", "iptables", "bridge", "conntrack", "sysctl", "tc", "ss", "nsenter", "unshare", "mount"}
"""Programs that the product must not run: it speaks to the kernel itself."""

TOP_LEVEL = {".ci", ".gitignore", "LICENSE", "Makefile", "README.md", "cni", "dns", "docs", "netd"}
TOP_LEVEL |= {"pyproject.toml", "tests", "topologies", "typings"}

LONG_FILES: dict[str, str] = {}
"""Modules of more than 500 lines, and why each is not two."""

LONG_FUNCTIONS: dict[str, str] = {}
"""Functions of more than 80 lines, and why each is not two."""

WITHOUT_TEST = {
    "netd/cluster/ports.py": "Protocols and the values they speak of; tests/unit/test_overlay.py uses both",
    "netd/kernel/unlinking.py": "tests/kernel/test_links.py deletes what it makes, and what is not netd's",
    "netd/room.py": "tests/unit/test_overlay.py makes room as the engine does",
    "netd/kernel/ports.py": "Protocols and the values they speak of; tests/kernel holds both kernels to them",
    "netd/runtime/spec.py": "values and a Protocol; every runtime test is about them",
    "netd/store/base.py": "a Protocol; tests/unit/store is about its implementation",
    "netd/topology/daemon.py": "a Protocol; tests/unit/topology/test_fleet.py is about its implementation",
    "netd/__main__.py": "two lines",
    "dns/netd_dns/__main__.py": "a main function; tests/kernel/test_dns_feed.py starts it in every test",
}
"""Modules without a test module of their own, and why."""


@cache
def product() -> tuple[Path, ...]:
    """Every hand-written module of the product, by path relative to the checkout."""
    roots = (ROOT / "netd", ROOT / "cni" / "netd_cni", ROOT / "dns" / "netd_dns")
    found = (path.relative_to(ROOT) for root in roots for path in root.rglob("*.py"))
    return tuple(sorted(path for path in found if not GENERATED.search(path.name)))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), str(path))


def dotted(path: Path) -> str:
    """The import name of a module: netd/kernel/nft.py is netd.kernel.nft."""
    parts = path.with_suffix("").parts
    if parts[0] in ("cni", "dns"):
        parts = parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms() -> set[str]:
    return {*CLIENTS, *(name for floor in FLOORS for name in floor)}


def room(module: str) -> str:
    """The room that a module of netd belongs to; the finest one that the tables know."""
    names = module.split(".")[1:]
    if names[:1] == ["api"] and len(names) > 1 and "_pb2" in names[1]:
        return "api.generated"
    fine = ".".join(names[:2])
    return fine if fine in rooms() else ".".join(names[:1])


def may_import(here: str) -> set[str]:
    """The rooms that `here` may import beside itself."""
    if here in CLIENTS:
        return CLIENTS[here]
    if here in PLANNING:
        return VALUES | CONTRACTS | PLANNING
    floor = next(number for number, floor in enumerate(FLOORS) if here in floor)
    below = {name for beneath in FLOORS[: floor + 1] for name in beneath}
    return {name for name in below if here in SEALED.get(name, {here})}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import, also those inside functions."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = dotted(path).split(".")
                package = package if path.name == "__init__.py" else package[:-1]
                base = ".".join(package[: len(package) - node.level + 1] + ([base] if base else []))
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if is_module(whole) else base


def is_module(name: str) -> bool:
    relative = Path(*name.split("."))
    return any((ROOT / root / relative).with_suffix(".py").exists() for root in (".", "cni", "dns")) or any(
        (ROOT / root / relative / "__init__.py").exists() for root in (".", "cni", "dns")
    )


def report(breaches: list[str]) -> None:
    assert not breaches, "\n" + "\n".join(breaches)


def test_imports_run_downwards() -> None:
    breaches = []
    for path in product():
        if path.parts[0] != "netd" or path in (Path("netd/__main__.py"), Path("netd/__init__.py")):
            continue
        here = room(dotted(path))
        if here not in rooms():
            breaches.append(f"{path}: a new room; say in FLOORS or CLIENTS where it stands")
            continue
        for line, module in imports(path):
            there = room(module) if module.startswith("netd.") else here
            if there.partition(".")[0] != here and there not in may_import(here) | {here}:
                breaches.append(f"{path}:{line}: {here} must not import {module}")
    report(breaches)


def test_cni_entrypoint_imports_the_standard_library_only() -> None:
    report(
        [
            f"{path}:{line}: imports {module}"
            for path in product()
            if path.parts[0] == "cni"
            for line, module in imports(path)
            if module.split(".")[0] not in sys.stdlib_module_names | {"netd_cni"}
        ]
    )


def test_dns_server_stands_alone() -> None:
    """It is a process of its own that shares no code with the daemon but the wire between them."""
    report(
        [
            f"{path}:{line}: imports {module}"
            for path in product()
            if path.parts[0] == "dns"
            for line, module in imports(path)
            if module.startswith("netd.") and room(module) not in VALUES
        ]
    )


def test_libraries_stay_in_their_rooms() -> None:
    breaches = []
    for path in product():
        if path.parts[0] != "netd":
            continue
        here = room(dotted(path))
        for line, module in imports(path):
            library = module.split(".")[0]
            if here not in ONLY_IN.get(library, {here}):
                breaches.append(f"{path}:{line}: {library} belongs in {ONLY_IN[library] or 'netd_dns'}")
    report(breaches)


def test_only_the_kernel_room_opens_netlink_sockets_and_only_the_runtime_forks() -> None:
    rooms = {
        "AF_NETLINK": {"kernel"},
        "setns": {"kernel", "runtime"},
        "unshare": {"kernel", "runtime"},
        "fork": {"runtime"},
    }
    breaches = []
    for path in product():
        here = room(dotted(path)) if path.parts[0] == "netd" else path.parts[0]
        for node in ast.walk(tree(path)):
            name = (
                node.attr
                if isinstance(node, ast.Attribute)
                else node.id
                if isinstance(node, ast.Name)
                else ""
            )
            if name in rooms and here not in rooms[name]:
                breaches.append(f"{path}:{node.lineno}: {name} belongs in {rooms[name]}")  # type: ignore[attr-defined]
    report(breaches)


def test_product_runs_no_network_tools() -> None:
    runners = re.compile(
        r"(create_subprocess_\w+|run|call|check_\w+|Popen|exec[lv]\w*|posix_spawnp?|system|popen)$"
    )
    breaches = []
    for path in product():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            callee = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0] if node.args else None
            if isinstance(first, ast.List | ast.Tuple):
                first = first.elts[0] if first.elts else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and runners.match(callee):
                program = first.value.split(" ")[0].rpartition("/")[2]
                if program in TOOLS:
                    breaches.append(f"{path}:{node.lineno}: runs {program}")
    report(breaches)


def test_every_module_has_its_test_module() -> None:
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    breaches = []
    for path in product():
        if path.name == "__init__.py" or str(path) in WITHOUT_TEST:
            continue
        *packages, stem = dotted(path).split(".")[1 if path.parts[0] == "netd" else 0 :]
        wanted = {
            Path(tier, *packages, f"test_{stem}.py") for tier in ("unit", "golden", "kernel", "e2e")
        } | {Path(*packages, f"test_{stem}.py")}
        if not wanted & tests:
            breaches.append(f"{path}: no {Path('tests/unit', *packages, f'test_{stem}.py')}")
    report(breaches)


def test_source_roots_are_not_packages() -> None:
    """An importable top-level package `dns` would break dnspython for everyone who installs netd."""
    assert not [name for name in ("cni", "dns") if (ROOT / name / "__init__.py").exists()]


def test_top_level_holds_only_what_a_reader_expects() -> None:
    ignored = re.compile(r"\.git|\.venv|\.\w+_cache|\.hypothesis|.*\.egg-info|build|dist|__pycache__")
    found = {path.name for path in ROOT.iterdir() if not ignored.fullmatch(path.name)}
    assert found <= TOP_LEVEL


def test_files_can_be_read_in_a_sitting() -> None:
    report(
        [
            f"{path}: {lines} lines"
            for path in product()
            if (lines := len((ROOT / path).read_text().splitlines())) > 500 and str(path) not in LONG_FILES
        ]
    )


def test_functions_tell_one_story() -> None:
    report(
        [
            f"{path}:{node.lineno}: {node.name} has {length} lines"
            for path in product()
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or 0) - node.lineno + 1) > 80
            and f"{path}:{node.name}" not in LONG_FUNCTIONS
        ]
    )


def test_everything_public_says_what_it_is() -> None:
    breaches = []
    for path in product():
        if not ast.get_docstring(tree(path)):
            breaches.append(f"{path}: no docstring")
        for node in tree(path).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if not node.name.startswith("_") and not ast.get_docstring(node):
                breaches.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    report(breaches)


def test_nothing_is_left_for_later() -> None:
    mark = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    report(
        [
            f"{path}:{number}: {line.strip()}"
            for path in product()
            for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
            if mark.search(line)
        ]
    )


def test_tasks_are_held() -> None:
    """`loop.create_task`, which the linter cannot see, has the same flaw as asyncio.create_task."""
    report(
        [
            f"{path}:{node.lineno}: a task outside a TaskGroup; use netd.tasks.spawn"
            for path in product()
            if path != Path("netd/tasks.py")
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("create_task", "ensure_future")
            and not re.search(r"group|tasks|tg", ast.unparse(node.func.value), re.IGNORECASE)
        ]
    )


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("netd/api/netd.proto", "netd/api/netd_pb2.py"),
        ("netd/api/netd.proto", "netd/api/netd_pb2.pyi"),
        ("netd/api/netd.proto", "netd/api/netd_pb2_grpc.py"),
        ("netd/cluster/etcd.proto", "netd/cluster/etcd_pb2.py"),
        ("netd/cluster/etcd.proto", "netd/cluster/etcd_pb2.pyi"),
    ],
)
def test_generated_code_is_fresh(source: str, name: str, tmp_path: Path) -> None:
    options = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *options, source], cwd=ROOT, check=True)
    fresh = (tmp_path / name).read_text()
    assert fresh == (ROOT / name).read_text(), "run `make proto` and commit the result"
