"""A bench for one CNI plugin: pods to attach, a way to execute it, and eyes on what it did.

It looks at the kernel with iproute2 and knows nothing of the plugin but its executable. Everything
it makes is in the network and mount namespace that it is started in, and is gone after each clause.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUBNETS = ("10.250.{}.0/24", "fd00:250:{}::/64")
TIMEOUT = 60


class Breach(AssertionError):
    """The plugin did not keep to a clause; the text says what it did instead."""


def expect(condition: object, text: str) -> None:
    """Fail the clause with `text` unless `condition`."""
    if not condition:
        raise Breach(text)


def at_least(version: str, other: str) -> bool:
    """Whether one version of the specification is not older than another."""
    return VERSIONS.index(version) >= VERSIONS.index(other)


@dataclass(frozen=True)
class Pod:
    """A network namespace with an attachment to be."""

    id: str
    netns: str
    ifname: str = "eth0"

    @property
    def path(self) -> str:
        """CNI_NETNS."""
        return f"/run/netns/{self.netns}"

    def second(self, ifname: str) -> Pod:
        """The same container with another interface."""
        return Pod(self.id, self.netns, ifname)


@dataclass(frozen=True)
class Outcome:
    """What one execution came to."""

    command: str
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """Standard output as an object; anything else is a breach."""
        try:
            found = json.loads(self.stdout)
        except ValueError:
            raise Breach(f"{self.command} wrote no JSON but {self.stdout[:200]!r}") from None
        expect(isinstance(found, dict), f"{self.command} wrote no JSON object but {self.stdout[:200]!r}")
        return found  # type: ignore[no-any-return]

    @property
    def result(self) -> dict[str, Any]:
        """What a verb that succeeded wrote."""
        expect(self.code == 0, f"{self.command} failed: {self.stdout.strip() or self.stderr.strip()}")
        return self.json

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a verb that failed."""
        expect(self.code != 0, f"{self.command} succeeded")
        return self.json

    def succeeded(self) -> None:
        """Fail the clause unless the verb succeeded."""
        expect(self.code == 0, f"{self.command} failed: {self.stdout.strip() or self.stderr.strip()}")

    def failed(self, *codes: int) -> None:
        """Fail the clause unless the verb failed, with one of `codes` if any are given."""
        code = self.error.get("code")
        expect(isinstance(code, int) and code > 0, f"{self.command}: error code {code!r}")
        expect(
            not codes or code in codes,
            f"{self.command}: error code {code}, not {' or '.join(map(str, codes))}",
        )


@dataclass
class Rig:
    """One clause's bench. `version` is that of the configurations it writes."""

    plugin: Path
    version: str
    delegates: Path
    template: Mapping[str, Any]
    number: int = 0
    pods: list[Pod] = field(default_factory=list)
    namespaces: set[str] = field(default_factory=set)
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="cni-")))
    _serial: Iterator[int] = field(default_factory=lambda: count(1))

    def config(self, *, network: int = 0, **changes: Any) -> dict[str, Any]:
        """A configuration as the reference bridge plugin takes it, dual stack, host-local addresses.

        `network` tells several networks of one clause apart. A change to None removes the key.
        """
        place = 2 * self.number % 254 + network
        ranges = [[{"subnet": subnet.format(place)}] for subnet in SUBNETS]
        found = {
            "cniVersion": self.version,
            "name": f"conformance-{place}",
            "type": self.plugin.name,
            "bridge": f"cnf{place}",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": ranges,
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                "dataDir": f"{self.directory}/ipam",
            },
            **self.template,
            **changes,
        }
        return {key: value for key, value in found.items() if value is not None}

    def tiny(self, **changes: Any) -> dict[str, Any]:
        """A configuration with a single address to give."""
        config = self.config(**changes)
        subnet = config["ipam"]["ranges"][0][0]["subnet"]
        first = subnet.replace(".0/24", ".2")
        config["ipam"] = {
            **config["ipam"],
            "ranges": [[{"subnet": subnet, "rangeStart": first, "rangeEnd": first}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return config

    def pod(self) -> Pod:
        """A new container with an empty namespace."""
        pod = Pod(
            f"pod{self.number}x{next(self._serial)}-{os.getpid()}", f"ns{self.number}x{next(self._serial)}"
        )
        run("ip", "netns", "add", pod.netns)
        run("ip", "-n", pod.netns, "link", "set", "lo", "up")
        self.namespaces.add(pod.netns)
        return pod

    def remove_namespace(self, pod: Pod) -> None:
        """Take a pod's namespace away under the plugin's feet."""
        run("ip", "netns", "del", pod.netns)
        self.namespaces.discard(pod.netns)

    def variables(self, pod: Pod | None, **changes: str | None) -> dict[str, str]:
        """The CNI variables of a verb about `pod`."""
        found: dict[str, str | None] = {"CNI_PATH": f"{self.plugin.parent}:{self.delegates}"}
        if pod is not None:
            found |= {"CNI_CONTAINERID": pod.id, "CNI_NETNS": pod.path, "CNI_IFNAME": pod.ifname}
        return {key: value for key, value in (found | changes).items() if value is not None}

    def execute(
        self, command: str | None, config: Mapping[str, Any] | bytes, variables: Mapping[str, str]
    ) -> Outcome:
        """Execute the plugin as a runtime does."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CNI_")}
        environment |= variables
        if command is not None:
            environment["CNI_COMMAND"] = command
        text = config if isinstance(config, bytes) else json.dumps(config).encode()
        done = subprocess.run(
            [self.plugin], input=text, env=environment, capture_output=True, timeout=TIMEOUT
        )
        return Outcome(str(command), done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, command: str, config: Mapping[str, Any], pod: Pod) -> subprocess.Popen[bytes]:
        """Execute the plugin without waiting for it."""
        environment = {**os.environ, **self.variables(pod), "CNI_COMMAND": command}
        self.pods.append(pod)
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([self.plugin], env=environment, **streams)  # type: ignore[call-overload]
        process.stdin.write(json.dumps(config).encode())
        process.stdin.close()
        process.stdin = None
        return process  # type: ignore[no-any-return]

    def add(self, pod: Pod, config: Mapping[str, Any] | None = None, **changes: str | None) -> Outcome:
        """ADD."""
        self.pods.append(pod)
        return self.execute("ADD", config or self.config(), self.variables(pod, **changes))

    def check(self, pod: Pod, result: Any, config: Mapping[str, Any] | None = None) -> Outcome:
        """CHECK against the `result` of an ADD."""
        return self.execute("CHECK", {**(config or self.config()), "prevResult": result}, self.variables(pod))

    def delete(
        self, pod: Pod, config: Mapping[str, Any] | None = None, result: Any = None, **changes: str | None
    ) -> Outcome:
        """DEL, with the `result` of the ADD where the runtime has kept it."""
        config = {**(config or self.config()), **({"prevResult": result} if result else {})}
        return self.execute("DEL", config, self.variables(pod, **changes))

    def collect(self, valid: list[Pod] | None, config: Mapping[str, Any] | None = None) -> Outcome:
        """GC, with the attachments that are still valid; None leaves the key out."""
        config = dict(config or self.config())
        if valid is not None:
            entries = [{"containerID": pod.id, "ifname": pod.ifname} for pod in valid]
            config["cni.dev/valid-attachments"] = entries
        return self.execute("GC", config, self.variables(None))

    def status(self, config: Mapping[str, Any] | None = None) -> Outcome:
        """STATUS."""
        return self.execute("STATUS", config or self.config(), self.variables(None))

    def link(self, pod: Pod, ifname: str | None = None) -> dict[str, Any] | None:
        """A pod's interface as the kernel has it, with its addresses; None where there is none."""
        if pod.netns not in self.namespaces:
            return None
        found = [each for each in look(pod.netns, "address") if each["ifname"] == (ifname or pod.ifname)]
        return found[0] if found else None

    def addresses(self, pod: Pod) -> set[str]:
        """A pod's addresses with their prefix lengths, but for link-local ones."""
        link = self.link(pod)
        expect(link, f"{pod.ifname} is not there")
        infos = link["addr_info"] if link else ()
        return {f"{each['local']}/{each['prefixlen']}" for each in infos if each["scope"] != "link"}

    def routes(self, pod: Pod) -> set[str]:
        """Destinations that a pod has routes to."""
        four = [each["dst"] for each in look(pod.netns, "-4", "route")]
        six = [each["dst"] for each in look(pod.netns, "-6", "route")]
        return {*("0.0.0.0/0" if dst == "default" else dst for dst in four)} | {
            *("::/0" if dst == "default" else dst for dst in six)
        }

    def close(self) -> None:
        """Undo what the clause did, with the plugin's own DEL first."""
        for pod in dict.fromkeys(self.pods):
            for network in range(2):
                self.delete(pod, self.config(network=network))
        for network in range(2):  # a plugin with a daemon may remember its networks
            self.collect([], {**self.config(network=network), "cniVersion": "1.1.0"})
        for name in self.namespaces:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        for network in range(2):
            bridge = self.config(network=network).get("bridge", "")
            subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def run(*argv: str) -> str:
    """What a program that must succeed writes."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def look(netns: str | None, *arguments: str) -> list[dict[str, Any]]:
    """`ip -j ...` inside a namespace, or here."""
    inside = ["-n", netns] if netns else []
    return [each for each in json.loads(run("ip", "-j", *inside, *arguments) or "[]") if each]


def host_state() -> set[str]:
    """What a plugin may leave on the host: links but bridges, addresses, routes, firewall rules."""
    found = set()
    for link in look(None, "-d", "link"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        if kind != "bridge":
            found.add(f"link {kind} {link['ifname']}")
    for tool in ("iptables-save", "ip6tables-save"):
        if shutil.which(tool):
            found |= {f"{tool} {line}" for line in run(tool).splitlines() if line.startswith("-A")}
    if shutil.which("nft"):
        found |= {f"nft {line.strip()}" for line in _elements(run("nft", "list", "ruleset"))}
    return found


def _elements(ruleset: str) -> Iterator[str]:
    for line in ruleset.splitlines():
        if "counter packets" not in line:
            yield line


@contextmanager
def bench(rig: Rig) -> Iterator[Rig]:
    """A rig for one clause, cleaned up after it."""
    try:
        yield rig
    finally:
        rig.close()
