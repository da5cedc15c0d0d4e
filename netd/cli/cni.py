"""`netd cni install` and `uninstall`: put the CNI plugin where runtimes look for it, and take it away.

A runtime may look at any moment, so each file appears whole, by a rename, and in an order in which
every half is harmless: the executable before the configuration that names it, and the other way
round. Files that are not netd's are neither replaced nor removed.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import click

from netd.cli.options import complain
from netd.errors import AlreadyExists, Invalid, NetdError, NotFound

TYPE = "netd"
"""The name of the executable, and so the `type` in configurations."""

MARK = b"netd: a CNI plugin"
"""What every build of the executable contains: the text that it says when it is run by hand."""

VERSION = "1.0.0"
VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""What a runtime of today takes the highest of; one that does not know the key takes VERSION."""

CAPABILITIES = ("portMappings", "ips", "mac", "dns", "ipRanges", "aliases", "bandwidth")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")

bin_option = click.option(
    "--bin-dir", default="/opt/cni/bin", show_default=True, metavar="DIR", help="Where runtimes find plugins."
)
conf_option = click.option(
    "--conf-dir",
    default="/etc/cni/net.d",
    show_default=True,
    metavar="DIR",
    help="Where runtimes find configurations.",
)
name_option = click.option(
    "--name", default="netd", show_default=True, metavar="N", help="What the runtime calls the network."
)


@click.group(short_help="Plug netd into Kubernetes, containerd, CRI-O or podman.")
def cni() -> None:
    """Plug netd into Kubernetes, containerd, CRI-O or podman."""


@cni.command(short_help="Install the plugin and a configuration.")
@bin_option
@conf_option
@name_option
@click.option("--network", metavar="NAME", help="Attach pods to this network of netd's.")
@click.option(
    "--subnet", multiple=True, metavar="CIDR", help="Or define one with this subnet; may be repeated."
)
@click.option(
    "--priority",
    type=click.IntRange(0, 99),
    default=10,
    show_default=True,
    help="Number of the file; runtimes take the first.",
)
@click.option(
    "--python", is_flag=True, help="Install the Python executable even where there is a compiled one."
)
def install(
    bin_dir: str,
    conf_dir: str,
    name: str,
    network: str | None,
    subnet: Sequence[str],
    priority: int,
    python: bool,
) -> None:
    """Install the executable, then a configuration that names it.

    Without --network and --subnet the network is made on first use, with a subnet that nobody uses. The
    pods' requests are served by `netd daemon`, which must be running then.
    """
    if network and subnet:
        raise click.UsageError("--network names a network that has its subnets: leave out --subnet")
    if not NAME.fullmatch(name):
        raise click.UsageError(f"--name {name!r} must be letters, digits, '_', '.' and '-'")
    _check_subnets(subnet)
    configuration = Path(conf_dir) / f"{priority:02}-{name}.conflist"
    try:
        if configuration.exists() and not _is_ours(configuration):
            raise AlreadyExists(f"{configuration} is not netd's: choose another --name or --priority")
        program = Path(bin_dir) / TYPE
        if program.exists() and MARK not in program.read_bytes():
            raise AlreadyExists(f"{program} is not netd's: choose another --bin-dir")
        for other in _configurations(conf_dir, name):
            if other != configuration:
                raise AlreadyExists(
                    f"{other} defines {name!r} already: `netd cni uninstall --name {name}` first"
                )
        _place(program, source(python=python).read_bytes(), 0o755)
        text = json.dumps(conflist(name, network, subnet), indent=4) + "\n"
        _place(configuration, text.encode(), 0o644)
    except OSError as error:
        raise NetdError(f"cannot install: {error}") from error
    click.echo(f"{program}\n{configuration}")
    if earlier := _first(conf_dir, configuration):
        complain(f"{earlier} comes before {configuration.name}: runtimes will take that")


@cni.command(short_help="Take the plugin and its configuration away.")
@bin_option
@conf_option
@name_option
def uninstall(bin_dir: str, conf_dir: str, name: str) -> None:
    """Remove the configuration, and the executable if no other configuration needs it.

    Pods that run keep their network; their runtime can no longer tear it down. Drain the node first.
    """
    removed = []
    try:
        for configuration in _configurations(conf_dir, name):
            configuration.unlink()
            removed.append(configuration)
        program = Path(bin_dir) / TYPE
        if not any(_configurations(conf_dir)) and program.exists() and MARK in program.read_bytes():
            program.unlink()
            removed.append(program)
    except OSError as error:
        raise NetdError(f"cannot uninstall: {error}") from error
    if not removed:
        raise NotFound(f"nothing of netd's called {name!r} is installed in {conf_dir} and {bin_dir}")
    click.echo("\n".join(map(str, removed)))


def conflist(name: str, network: str | None, subnets: Sequence[str]) -> dict[str, Any]:
    """The configuration that is installed."""
    plugin: dict[str, Any] = {"type": TYPE}
    if network:
        plugin["network"] = network
    elif subnets:
        plugin["subnets"] = list(subnets)
    plugin["capabilities"] = dict.fromkeys(CAPABILITIES, True)
    return {"cniVersion": VERSION, "cniVersions": list(VERSIONS), "name": name, "plugins": [plugin]}


def source(*, python: bool) -> Path:
    """The executable to install: the compiled one where it has been built, else the Python one."""
    import netd_cni

    package = Path(netd_cni.__file__).parent
    for compiled in (package / "netd-cni", package.parent / "netd-cni"):
        if compiled.exists() and not python:
            return compiled
    return package / "main.py"


def _check_subnets(subnets: Sequence[str]) -> None:
    for text in subnets:
        try:
            ip_network(text)
        except ValueError as error:
            raise Invalid(f"--subnet {text!r}: {error}") from error


def _configurations(conf_dir: str, name: str | None = None) -> Iterator[Path]:
    """Our configurations, or those of one name."""
    for path in sorted(Path(conf_dir).glob("*.conflist")):
        if _is_ours(path) and (name is None or json.loads(path.read_bytes()).get("name") == name):
            yield path


def _is_ours(path: Path) -> bool:
    try:
        plugins = json.loads(path.read_bytes())["plugins"]
        return any(plugin["type"] == TYPE for plugin in plugins)
    except (ValueError, KeyError, TypeError):
        return False


def _first(conf_dir: str, ours: Path) -> Path | None:
    """The file that a runtime takes instead of ours, by name, as go-cni and ocicni do."""
    suffixes = (".conf", ".conflist", ".json")
    first = min(path for path in Path(conf_dir).iterdir() if path.suffix in suffixes)
    return first if first != ours else None


def _place(path: Path, data: bytes, mode: int) -> None:
    """Make a file appear whole, and be there after a power failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
