"""The pytest plugin: the `lab` fixture and its options; `docs/packet-testing.md` teaches it by example.

It is loaded into every pytest run of an environment that has netd, so it imports nothing but pytest
until a test asks for a lab.

A lab is one topology under a project name of its own, so several runs share a daemon without meeting.
Where no daemon is named, each run, and each worker of pytest-xdist, starts its own (`private`).
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from netd.api.client import Client
    from netd.testing.lab import Lab
    from netd.testing.private import PrivateDaemon
    from netd.testing.reaper import Reaper
    from netd.topology.project import Project

REUSE = ("function", "module")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("netd", "packet tests on netd")
    group.addoption(
        "--netd-socket",
        metavar="PATH",
        help="a running daemon (else NETD_SOCKET); without, each worker starts one of its own",
    )
    group.addoption(
        "--update-golden", action="store_true", help="write the golden captures instead of comparing them"
    )
    group.addoption(
        "--netd-pcap",
        choices=("never", "on-failure"),
        default="never",
        help="what a failed test recorded, as pcapng, with the host's decisions, in the report and below "
        "--netd-pcap-dir",
    )
    group.addoption(
        "--netd-pcap-dir", metavar="DIR", default="netd-pcap", help="where they are kept (default: netd-pcap)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "topology(source, reuse='function', images={'*': 'host'}): the topology file, or its text, that the "
        "fixture `lab` brings up; reuse='module' keeps it up for all tests of the module that name the same",
    )


@dataclass(frozen=True, slots=True)
class Ground:
    """What the labs of a session stand on: a daemon, `private` unless it was named, and who ends them."""

    client: Client
    private: PrivateDaemon | None
    reaper: Reaper

    def watch(self, project: Project) -> None:
        """Have a lab taken down, if it would outlive a session that is killed."""
        if self.private is None or project.hosts:
            socket = "" if project.hosts else self.client.path
            self.reaper.watch(project.name, socket, [*project.volumes.values()])

    def forget(self, project: Project) -> None:
        """It has been taken down."""
        self.reaper.forget(project.name)


@pytest.fixture(scope="session")
def netd_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    """The daemon that was named, else one that lives as long as the session."""
    from netd.api.client import connect
    from netd.errors import NetdError
    from netd.testing.private import PrivateDaemon
    from netd.testing.reaper import Reaper

    with ExitStack() as stack:
        reaper = stack.enter_context(Reaper())
        try:
            named = request.config.getoption("--netd-socket") or os.environ.get("NETD_SOCKET")
            private = None if named else stack.enter_context(PrivateDaemon())
            client = connect(str(private.socket if private else named))
        except NetdError as error:
            pytest.fail(f"{error} (--netd-socket or NETD_SOCKET name another daemon)", pytrace=False)
        stack.callback(client.close)
        yield Ground(client, private, reaper)


@pytest.fixture(scope="session")
def netd_client(netd_ground: Ground) -> Client:
    """The API of that daemon."""
    return netd_ground.client


@pytest.fixture(scope="module")
def netd_module_labs(netd_ground: Ground) -> Iterator[dict[Any, Lab]]:
    """Labs that stay up for the tests of a module."""
    labs: dict[Any, Lab] = {}
    yield labs
    for lab in labs.values():
        _down(netd_ground, lab)


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, netd_ground: Ground, netd_module_labs: dict[Any, Lab]
) -> Iterator[Lab]:
    """The topology that `@pytest.mark.topology` names, up and healthy; gone after the test."""
    marker = request.node.get_closest_marker("topology")
    if marker is None:
        pytest.fail("the fixture `lab` needs @pytest.mark.topology('FILE') or its text", pytrace=False)
    source, reuse, images = _arguments(request, *marker.args, **marker.kwargs)
    if reuse == "function":
        lab = _up(netd_ground, source, images)
        try:
            yield _for_test(lab, request)
        finally:
            _down(netd_ground, lab)
        return
    known = (source, tuple(sorted(images.items())))
    if known not in netd_module_labs:
        netd_module_labs[known] = _up(netd_ground, source, images)
    lab = netd_module_labs[known]
    yield _for_test(lab, request)
    lab.close()


def _for_test(lab: Lab, request: pytest.FixtureRequest) -> Lab:
    if request.config.getoption("--netd-pcap") == "on-failure":
        lab.record()
    lab.golden_in = request.path.parent / "golden"
    lab.update_golden = bool(request.config.getoption("--update-golden"))
    return lab


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """No packet was drawn yet."""
    if strategies := sys.modules.get("netd.testing.strategies"):
        strategies.last.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --netd-pcap=on-failure, keep what a failed test recorded while its lab is still up."""
    report = yield
    if item.config.getoption("--netd-pcap") == "on-failure" and report.when == "call" and report.failed:
        from netd.testing.lab import Lab
        from netd.testing.report import keep, keep_packet

        directory = item.config.rootpath / item.config.getoption("--netd-pcap-dir")
        lab = getattr(item, "funcargs", {}).get("lab")
        if isinstance(lab, Lab):
            report.sections += keep(lab, directory, item.nodeid)
        report.sections += keep_packet(directory, item.nodeid)
    return report


def _arguments(
    request: pytest.FixtureRequest,
    source: str,
    *,
    reuse: str = "function",
    images: dict[str, str] | None = None,
) -> tuple[str, str, dict[str, str]]:
    if reuse not in REUSE:
        pytest.fail(f"topology(reuse={reuse!r}) must be one of {', '.join(REUSE)}", pytrace=False)
    if "\n" not in source:
        # Beside the test first, as for its data, else from where pytest was started.
        beside = request.path.parent / source
        source = str(beside if beside.exists() else request.config.rootpath / source)
    return source, reuse, {"*": "host", **(images or {})}


def _up(ground: Ground, source: str, images: dict[str, str]) -> Lab:
    from netd.errors import NetdError
    from netd.testing.lab import Lab
    from netd.topology import hosts, load, up
    from netd.topology.daemon import Daemon
    from netd.topology.project import STATE_DIR

    worker = os.environ.get("PYTEST_XDIST_WORKER", "t")
    # What the private daemon's guardian removes holds the volumes, too.
    state_dir = str(ground.private.directory / "state") if ground.private else STATE_DIR
    try:
        name = f"{worker}-{secrets.token_hex(4)}"
        project = load(source, project=name, images=images, state_dir=state_dir)
        ground.watch(project)
        daemon: Daemon = hosts.start(project) if project.hosts else ground.client
        try:
            up(daemon, project)
        except BaseException:
            hosts.down(project)
            ground.forget(project)
            raise
    except NetdError as error:
        pytest.fail(f"topology: {error}", pytrace=False)
    return Lab(daemon, project)


def _down(ground: Ground, lab: Lab) -> None:
    from netd.topology import down, hosts

    lab.close()
    if lab.project.hosts:
        hosts.down(lab.project, volumes=True)
    else:
        down(lab.client, lab.project, volumes=True)
    ground.forget(lab.project)
