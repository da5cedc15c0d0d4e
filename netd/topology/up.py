"""Carrying out a plan through the API: as much at once as can be, dependents when theirs is ready.

A failure stops what has not begun. What this call has made is then removed again, so that a project
that was not there is not there. What replaced something stays, since the old is gone; the error says so.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from netd.api import netd_pb2 as pb
from netd.errors import NetdError, NotFound, Unavailable
from netd.topology.daemon import Daemon
from netd.topology.fleet import OVERLAY
from netd.topology.health import last_words, wait_until_healthy
from netd.topology.namespaces import check_queues, furnish
from netd.topology.plan import Existing, Plan, Start, existing, plan, removal
from netd.topology.project import Project
from netd.topology.services import GRACE_LABEL, SERVICE_LABEL, ProjectService

PARALLEL = 32
"""How many requests are under way at once."""

Item = TypeVar("Item")
Tell = Callable[[str], None]


def _silent(step: str) -> None:
    """Tell nobody."""


def look(client: Daemon, project: str) -> Existing:
    """What the daemon has of `project`."""
    return existing(project, client.networks(), client.containers(all=True))


def up(client: Daemon, project: Project, *, tell: Tell = _silent, wait: bool = True) -> Plan:
    """Make `project` what its file says; answers what was done, which may be nothing.

    Returns when every service that has a health check is healthy, or without `wait` when all are started
    and the conditions of `depends_on` are met. `tell` is told of every step that is done. Raises what the
    daemon refuses, `NotFound` for an external network, and `Unavailable` for a service that does not
    become ready; then what was made here is removed again, and the message says what else has changed.
    """
    return carry_out(client, project, plan(project, look(client, project.name)), tell=tell, wait=wait)


def carry_out(client: Daemon, project: Project, planned: Plan, *, tell: Tell, wait: bool) -> Plan:
    """Do what `plan` said; see `up`."""
    check_queues(each for one in project.containers for each in one.request.networks)
    work = _Work(client, project, planned, tell, wait)
    try:
        work.through()
    except BaseException as error:
        remarks = work.undo()
        if isinstance(error, NetdError) and remarks:
            raise Unavailable("; ".join((str(error), *remarks))) from error
        raise
    return planned


def down(client: Daemon, project: str | Project, *, volumes: bool = False, tell: Tell = _silent) -> Plan:
    """Remove all containers and networks of a project; with `volumes`, also its named volumes.

    A project of which nothing is left is success. `volumes` needs the `Project`, since only the file knows
    them. Raises what the daemon refuses, e.g. `InUse` for a network that a foreign container has joined.
    """
    name = project if isinstance(project, str) else project.name
    planned = removal(look(client, name))
    for group in planned.remove:
        _all(group, lambda each: take_down(client, each, tell))
    _all(planned.remove_networks, lambda each: _remove_network(client, each, tell))
    if volumes and isinstance(project, Project):
        remove_volumes(project, tell)
    return planned


def remove_volumes(project: Project, tell: Tell = _silent) -> None:
    """Remove the named volumes of a project."""
    for path in project.volumes.values():
        _remove_volume(Path(path), tell)


def take_down(client: Daemon, container: pb.Container, tell: Tell = _silent) -> None:
    """Stop a container with the grace that its file gives it, and remove it."""
    grace = float(container.labels.get(GRACE_LABEL) or 0)
    try:
        if grace and container.state == "running":
            client.stop_container(container.name, grace)
        client.remove_container(container.name, force=True)
    except NotFound:
        return  # somebody was faster
    tell(f"removed container {container.name}")


def _remove_network(client: Daemon, name: str, tell: Tell) -> None:
    try:
        client.remove_network(name)
    except NotFound:
        return
    tell(f"removed network {name}")


def _remove_volume(path: Path, tell: Tell) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
        tell(f"removed volume {path.name}")
        with suppress(OSError):  # other volumes are in it
            path.parent.rmdir()


def _all(items: Iterable[Item], act: Callable[[Item], Any]) -> None:
    """Do `act` for all items at once; all are tried, and the first failure is raised."""
    listed = list(items)
    if not listed:
        return
    with ThreadPoolExecutor(min(PARALLEL, len(listed))) as pool:
        outcomes = [pool.submit(act, item) for item in listed]
    for outcome in outcomes:
        outcome.result()


def _by_container(pairs: Iterable[tuple[str, Item]]) -> list[list[tuple[str, Item]]]:
    groups: dict[str, list[tuple[str, Item]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0], []).append(pair)
    return list(groups.values())


class _Work:
    """One plan being carried out."""

    def __init__(self, client: Daemon, project: Project, planned: Plan, tell: Tell, wait: bool) -> None:
        self._client = client
        self._project = project
        self._plan = planned
        self._wait = wait
        self._tell = tell
        self._made: list[str] = []
        self._gone = [each.name for group in planned.remove for each in group]
        self._replaced: list[str] = []
        self._networks: list[str] = []
        self._volumes: list[Path] = []
        self._pool: ThreadPoolExecutor | None = None
        self._failed = threading.Event()
        self._gate = threading.Semaphore(PARALLEL)
        self._started: dict[str, Future[None]] = {}
        self._healthy: dict[str, Future[None]] = {}
        self._completed: dict[str, Future[None]] = {}

    def through(self) -> None:
        """All steps, in the order of the plan."""
        client, planned = self._client, self._plan
        for path in map(Path, self._project.volumes.values()):
            if not path.is_dir():
                path.mkdir(parents=True)
                self._volumes.append(path)
        for group in planned.remove:
            _all(group, lambda each: take_down(client, each, self._tell))
        _all(planned.disconnect, self._disconnect)
        _all(planned.unpublish, self._unpublish)
        _all(planned.remove_networks, lambda each: _remove_network(client, each, self._tell))
        # What all hosts of a cluster must have room for comes before what one of them chooses for itself.
        wide = [each for each in planned.create_networks if each.request and each.request.driver == OVERLAY]
        for networks in (wide, [each for each in planned.create_networks if each not in wide]):
            _all(networks, lambda each: self._create(each.request))
        # One after another within a container: what is connected first gets the lower ethN.
        _all(_by_container(planned.connect), self._connect)
        _all(planned.adjust, self._adjust)
        _all(planned.publish, self._publish)
        self._start_services()

    def undo(self) -> list[str]:
        """Remove what was made and replaced nothing; answers, in words, what has changed nevertheless."""
        self._failed.set()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
        kept: list[str] = []
        for what, names, remove in (
            ("container", self._made, lambda name: self._client.remove_container(name, force=True)),
            ("network", self._networks, self._client.remove_network),
        ):
            for name in reversed(names):
                try:
                    remove(name)
                except NotFound:
                    continue
                except NetdError as error:
                    kept.append(f"{what} {name} ({error})")
                else:
                    self._tell(f"undone: {what} {name}")
        for path in self._volumes:
            _remove_volume(path, lambda _: None)
        remarks = {"removed": self._gone, "replaced": self._replaced, "not undone": kept}
        return [f"{word}: {', '.join(names)}" for word, names in remarks.items() if names]

    def _create(self, request: pb.CreateNetworkRequest | None) -> None:
        assert request is not None, "external networks are not planned"
        self._client.create_network(request)
        self._networks.append(request.name)
        self._tell(f"created network {request.name}")

    def _disconnect(self, pair: tuple[str, str]) -> None:
        self._client.detach_network(*pair, force=False)
        self._tell(f"disconnected container {pair[0]} from {pair[1]}")

    def _connect(self, pairs: list[tuple[str, pb.Attachment]]) -> None:
        for name, wanted in pairs:
            self._client.attach_network(name, wanted)
            self._tell(f"connected container {name} to {wanted.network}")
        present = self._client.container(pairs[0][0])
        self._furnish(present, present.labels[SERVICE_LABEL], fresh=False)

    def _adjust(self, change: tuple[str, str, Mapping[str, str]]) -> None:
        name, network, options = change
        self._client.update_endpoint(name, network, options)
        present = self._client.container(name)
        self._furnish(present, present.labels[SERVICE_LABEL], fresh=False)
        self._tell(f"adjusted container {name} in {network}")

    def _unpublish(self, pair: tuple[str, str]) -> None:
        self._client.remove_port(*pair)
        self._tell(f"withdrew port {pair[1]} of container {pair[0]}")

    def _publish(self, pair: tuple[str, str]) -> None:
        self._client.add_port(*pair)
        self._tell(f"published port {pair[1]} of container {pair[0]}")

    # --- services -----------------------------------------------------------------------------------

    def _start_services(self) -> None:
        """One thread a service that has something to do, or is waited for by one that has."""
        starting = self._plan.start.keys()
        awaited = {name for key in starting for name in self._project.services[key].depends_on}
        busy = [each for key, each in self._project.services.items() if key in starting | awaited]
        if not busy:
            return
        for each in busy:
            self._started[each.key], self._healthy[each.key] = Future(), Future()
            self._completed[each.key] = Future()
        with ThreadPoolExecutor(len(busy)) as self._pool:
            outcomes = [self._pool.submit(self._service, each) for each in busy]
        # The first cause, not what waited for it in vain.
        failures = [error for outcome in outcomes if (error := outcome.exception())]
        for error in sorted(failures, key=lambda each: isinstance(each, _Abandoned)):
            raise error

    def _service(self, service: ProjectService) -> None:
        key = service.key
        try:
            self._await_dependencies(service)
            self._start(service)
            self._started[key].set_result(None)
            if service.health and (self._wait or self._needed(key, "service_healthy")):
                _all(service.containers, lambda each: self._until_healthy(each.name, service))
            self._healthy[key].set_result(None)
            if self._needed(key, "service_completed_successfully"):
                _all(service.containers, lambda each: self._until_completed(each.name))
            self._completed[key].set_result(None)
        except BaseException as error:
            essential = self._essential(key)
            if essential:
                self._failed.set()
            for future in (self._started[key], self._healthy[key], self._completed[key]):
                if not future.done():
                    future.set_exception(error)
            if essential:
                raise

    def _essential(self, key: str) -> bool:
        """Whether the whole fails with this service: not if all that depend on it can do without."""
        dependents = [
            each.depends_on[key] for each in self._project.services.values() if key in each.depends_on
        ]
        return not dependents or any(each.required for each in dependents)

    def _needed(self, key: str, condition: str) -> bool:
        return any(
            key in each.depends_on and each.depends_on[key].condition == condition
            for name, each in self._project.services.items()
            if name in self._plan.start
        )

    def _await_dependencies(self, service: ProjectService) -> None:
        for name, dependency in service.depends_on.items():
            if name not in self._started:
                continue
            match dependency.condition:
                case "service_started":
                    future = self._started[name]
                case "service_healthy":
                    future = self._healthy[name]
                case "service_completed_successfully":
                    future = self._completed[name]
            try:
                future.result()
            except NetdError as error:
                if dependency.required:
                    raise _Abandoned(
                        f"service {service.key!r} waited for {name!r} in vain: {error}"
                    ) from error
                self._tell(f"service {service.key} starts although {name} failed: {error}")

    def _start(self, service: ProjectService) -> None:
        steps = self._plan.start.get(service.key, ())
        _all([step for step in steps if not step.replaces], self._run)
        for step in steps:
            if step.replaces:
                self._run(step)
                if service.health:
                    self._until_healthy(step.container.name, service)

    def _run(self, step: Start) -> None:
        name = step.container.name
        with self._gate:
            if self._failed.is_set():
                raise _Abandoned(f"container {name!r} was not started")
            if step.replaces:
                take_down(self._client, self._client.container(name))
                self._gone.append(name)
            outputs = list(self._client.run([pb.StreamInput(run=step.container.request)]))
            if step.replaces:
                self._gone.remove(name)
            (self._replaced if step.replaces else self._made).append(name)
            self._furnish(outputs[0].started, step.container.service, fresh=True)
        self._tell(f"{'replaced' if step.replaces else 'started'} container {name}")

    def _furnish(self, container: pb.Container, service: str, *, fresh: bool) -> None:
        extra = self._project.services[service].file.x_netd
        keys = {net.name: key for key, net in self._project.networks.items()}
        forward = extra.forward if extra else None
        furnish(str(self._client.at(container.name).path), container, forward, keys, fresh=fresh)

    def _until_healthy(self, name: str, service: ProjectService) -> None:
        assert service.health is not None
        wait_until_healthy(self._client, name, service.health, stop=self._failed.is_set)
        if self._failed.is_set():
            raise _Abandoned(f"container {name!r} was no longer waited for")
        self._tell(f"healthy: container {name}")

    def _until_completed(self, name: str) -> None:
        code = self._client.wait_container(name).code
        if code:
            words = last_words(self._client, name)
            raise Unavailable(f"container {name!r} has ended with exit code {code}{words}")
        self._tell(f"completed: container {name}")


class _Abandoned(Unavailable):
    """Not the cause of a failure but its consequence."""
