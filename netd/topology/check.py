"""Who reaches whom: the assertions of a file, and the whole matrix.

The questions are asked with sockets opened inside the containers' namespaces, so nothing needs to be
installed in a container, and an answer is what a program in it would get. Where source and target
share a network the target's name is looked up as the source would, and its having none is a
failure; across networks, where names do not reach, its addresses are used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from netd.api import netd_pb2 as pb
from netd.errors import Invalid, NetdError, NotFound
from netd.kernel import inner
from netd.model import IPAddress
from netd.names import SHARED
from netd.topology import probe, values
from netd.topology.compose import Check, Ping
from netd.topology.daemon import Daemon
from netd.topology.namespaces import door
from netd.topology.probe import Answer, Target
from netd.topology.project import Project

HOST = "host"
"""As `from`: the machine itself, beside all containers."""

PARALLEL = 64
"""Questions that are asked at once; each waits, rather than works."""

SILENCE = 1.0
"""Seconds after which no answer counts as none."""

PAUSE = 0.05
"""Seconds between two attempts at something that is not open yet."""

_TARGET = re.compile(
    r"(?P<name>\[[^]]+\]|[^:/\s]+)(?::(?P<port>\d{1,5})(?:/(?P<proto>tcp|udp))?)?(?P<icmp>/icmp)?"
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An assertion and what was found; `detail` says why it does not hold, empty where it does."""

    source: str
    target: str
    expect: str
    found: str
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Whether the assertion holds."""
        return not self.detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A `Check` whose `to` has been read."""

    source: str
    name: str
    proto: str
    port: int
    expect: str
    within: float
    via: tuple[str, ...]
    ping: Ping
    family: int

    def __str__(self) -> str:
        return f"{self.name}/icmp" if self.proto == "icmp" else f"{self.name}:{self.port}/{self.proto}"


def questions(project: Project) -> list[Question]:
    """The assertions of a file. Raises `Invalid` naming the one that cannot be read."""
    return [_question(each, f"x-netd.checks[{n}]", project) for n, each in enumerate(project.checks)]


def _question(check: Check, path: str, project: Project) -> Question:
    found = _TARGET.fullmatch(check.to)
    icmp = bool(check.ping) or bool(found and found["icmp"])
    if not found or icmp == bool(found["port"]):
        raise Invalid(f"{path}.to: {check.to!r} must be NAME:PORT, NAME:PORT/udp, or NAME/icmp")
    port = int(found["port"] or 0)
    if not icmp and not 0 < port < 65536:
        raise Invalid(f"{path}.to: {check.to!r} has no possible port")
    for what, name in (("from", check.source), *(("via", name) for name in check.via)):
        kind, _, key = name.rpartition(":")
        if what == "via" and kind == "network":
            if key not in project.networks:
                raise values.unknown("network", key, project.networks, f"{path}.via")
        elif name != HOST:
            try:
                project.container(name)
            except Invalid as error:
                raise Invalid(f"{path}.{what}: {error}") from None
    return Question(
        source=check.source,
        name=found["name"],
        proto="icmp" if icmp else found["proto"] or "tcp",
        port=port,
        expect=check.expect,
        within=values.seconds(check.within, f"{path}.within"),
        via=tuple(check.via),
        ping=check.ping if isinstance(check.ping, Ping) else Ping(),
        family=check.family,
    )


class Reachability:
    """A topology that is up, as its containers see each other."""

    def __init__(self, client: Daemon, project: Project) -> None:
        self._client = client
        self._project = project
        listed = {each.name: each for each in client.containers(all=False)}
        self._containers = {
            each.name: listed[each.name] for each in project.containers if each.name in listed
        }

    def check(self, asked: Iterable[Question]) -> list[Outcome]:
        """What became of every assertion, in their order."""
        listed = list(asked)
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._judge, listed))

    def matrix(self) -> tuple[list[str], list[str], dict[tuple[str, str], str]]:
        """(sources, targets, answers): every container, and everything that the file knows to listen."""
        sources = [each for each in self._project.services if self._first(each) is not None]
        asked = [
            Question(
                source=source,
                name=name,
                proto=proto,
                port=port,
                expect="open",
                within=SILENCE,
                via=(),
                ping=Ping(),
                family=0,
            )
            for source in sources
            for name in sources
            if name != source
            for proto, port in self._listening(name)
        ]
        with ThreadPoolExecutor(PARALLEL) as pool:
            answers = list(pool.map(self._answer, asked))
        found = {(each.source, str(each)): answer for each, answer in zip(asked, answers, strict=True)}
        return sources, list(dict.fromkeys(str(each) for each in asked)), found

    def _listening(self, service: str) -> Iterator[tuple[str, int]]:
        """An echo, and the ports that the file publishes, exposes or checks."""
        file = self._project.services[service]
        first = file.containers[0]
        ports = {(port.proto, port.container) for port in first.ports}
        for text in first.request.expose:
            number, _, proto = text.partition("/")
            ports.add((proto or "tcp", int(number)))
        names = {service, *(alias for each in first.request.networks for alias in each.aliases)}
        ports |= {(q.proto, q.port) for q in questions(self._project) if q.name in names and q.port}
        yield "icmp", 0
        yield from sorted(ports)

    def _answer(self, asked: Question) -> str:
        try:
            targets = self._targets(asked)
        except NetdError:
            return "no name"
        answers = {self._inside(asked.source, partial(probe.ask, each, SILENCE)) for each in targets}
        return _together(answers)

    def _first(self, service: str) -> pb.Container | None:
        containers = self._project.services[service].containers
        return self._containers.get(containers[0].name) if containers else None

    def way(self, source: str, target: str, family: int = 0) -> tuple[pb.Container, IPAddress]:
        """Whose network `source` is in, and the address that `target` has for it. Raises `NotFound`."""
        return self._container(source), self._named(source, target, family)

    def address(self, target: str, family: int = 0) -> IPAddress:
        """The address of `target` for who is in none of its networks. Raises `NotFound`."""
        return self._named(HOST, target, family)

    def _named(self, source: str, target: str, family: int) -> IPAddress:
        asked = Question(
            source=source,
            name=target,
            proto="icmp",
            port=0,
            expect="open",
            within=SILENCE,
            via=(),
            ping=Ping(),
            family=family,
        )
        return self._targets(asked)[0].address

    # --- one assertion ------------------------------------------------------------------------------

    def _judge(self, asked: Question) -> Outcome:
        deadline = time.monotonic() + asked.within
        while True:
            found, detail = self._try(asked, min(asked.within, SILENCE))
            good = not detail
            if good or asked.expect == "blocked" or time.monotonic() > deadline:
                return Outcome(
                    source=asked.source, target=str(asked), expect=asked.expect, found=found, detail=detail
                )
            time.sleep(PAUSE)

    def _try(self, asked: Question, seconds: float) -> tuple[str, str]:
        try:
            targets = self._targets(asked)
            answers = {
                each: self._inside(asked.source, partial(probe.ask, each, seconds)) for each in targets
            }
            found = _together(answers.values())
            if any(answer != asked.expect for answer in answers.values()):
                return found, "; ".join(f"{each} is {answer}" for each, answer in answers.items())
            return found, "; ".join(self._detours(asked, targets, seconds)) if asked.via else ""
        except NetdError as error:
            return "unknown", str(error)
        except OSError as error:
            return "unknown", f"{asked.source}: {error.strerror or error}"

    def _detours(self, asked: Question, targets: Sequence[Target], seconds: float) -> Iterator[str]:
        """How the way to the targets differs from `via`, in words."""
        for target in targets:
            for distance, name in enumerate(asked.via, 1):
                who = self._inside(asked.source, partial(probe.hop, target.address, distance, seconds))
                if who is None or who not in self._hops(name):
                    yield f"hop {distance} to {target.address} is {who or 'silent'}, not {name}"

    def _targets(self, asked: Question) -> list[Target]:
        make = partial(Target, proto=asked.proto, port=asked.port, size=asked.ping.size, df=asked.ping.df)
        literal = probe.address(asked.name)
        addresses = [literal] if literal else self._find(asked)
        fitting = [each for each in addresses if asked.family in (0, each.version)]
        if not fitting:
            raise NotFound(f"{asked.name} has no address of IPv{asked.family} for {asked.source}")
        return [make(address=each) for each in fitting]

    def _find(self, asked: Question) -> list[IPAddress]:
        """The addresses of a name: as the source is told where they share a network."""
        try:
            target = self._container(asked.name)
        except Invalid:
            target = None  # an alias, or a name from elsewhere
        if asked.source == HOST:
            if target is None:
                raise NotFound(f"the host knows no {asked.name!r}: give a service or an address")
            return self._addresses(target)
        source = self._container(asked.source)
        if target is not None and not {e.network for e in source.endpoints} & {
            e.network for e in target.endpoints
        }:
            return self._addresses(target)
        # "web-2" is how a person says it; the container's name is what the DNS knows. Nor does it know
        # a service that is a guest in another's network.
        own = {key for key, each in self._project.services.items() if not each.file.network_mode}
        name = asked.name if target is None or asked.name in own else target.name
        reply = self._client.dns_lookup(source.id, name, ("A", "AAAA"))
        records = [record for answer in reply.answers for record in answer.records]
        found = [each for record in records if (each := probe.address(record.data))]
        if not found:
            raise NotFound(f"{asked.source} cannot resolve {asked.name!r}: {reply.why}")
        return found

    def _container(self, ref: str) -> pb.Container:
        """The container that runs as `ref`, or the one in whose network it does."""
        container = self._project.container(ref)
        if container.name not in self._containers:
            raise NotFound(f"container {container.name!r} does not run; `netd topology up` starts it")
        for each in container.request.networks:
            if each.network.startswith(SHARED):
                return self._client.container(each.network.removeprefix(SHARED))
        return self._containers[container.name]

    def _addresses(self, container: pb.Container) -> list[IPAddress]:
        texts = [text.partition("/")[0] for each in container.endpoints for text in each.addresses]
        return [found for text in texts if (found := probe.address(text))]

    def _hops(self, name: str) -> list[IPAddress]:
        """The addresses of what `via` names: a container, or the gateways of "network:KEY"."""
        kind, _, key = name.rpartition(":")
        if kind != "network":
            return self._addresses(self._container(name))
        net = self._client.network(self._project.networks[key].name)
        return [found for each in net.subnets if (found := probe.address(each.gateway))]

    def _inside(self, source: str, work: partial[T]) -> T:
        if source == HOST:
            return work()
        container = self._container(source)
        if not container.netns:
            return work()
        with door(str(self._client.at(container.name).path), container.name) as way:
            return inner.inside(way, container.name, work)


def _together(answers: Iterable[Answer]) -> str:
    """Several answers as one word where they agree."""
    distinct = sorted(set(answers))
    return str(distinct[0]) if len(distinct) == 1 else "mixed"
