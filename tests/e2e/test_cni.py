"""The CNI plugin as runtimes meet it: libcni's own cnitool, a chain of reference plugins, podman, crashes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.host import HOST, INTERNET, ROOT, Host, Lab, end, eventually
from tests.e2e.monitors import written_during

REFERENCE = Path("/usr/lib/cni")
CNITOOL = "github.com/containernetworking/cni/cnitool@v1.3.0"

needs_reference = pytest.mark.skipif(
    not REFERENCE.exists(), reason="needs Debian's containernetworking-plugins"
)
needs_podman = pytest.mark.skipif(
    not (shutil.which("podman") and shutil.which("runc")), reason="needs podman and runc"
)


class Runtime:
    """A directory to install into, and pods to attach, on a host with a daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.directory = host.lab.directory
        self.bin, self.conf = self.directory / "bin", self.directory / "conf"
        self.pods: list[str] = []

    def install(self, *options: str) -> None:
        """`netd cni install` below the test's own directory."""
        self.host.netd("cni", "install", "--bin-dir", self.bin, "--conf-dir", self.conf, *options)

    def pod(self, name: str) -> str:
        """A namespace; its path."""
        self.host.sh(f"ip netns add {name} && ip -n {name} link set lo up")
        self.pods.append(name)
        return f"/run/netns/{name}"

    def conflist(self, *plugins: dict[str, Any], name: str = "pods", version: str = "1.0.0") -> None:
        """Write a configuration by hand."""
        self.conf.mkdir(exist_ok=True)
        found = {"cniVersion": version, "name": name, "plugins": plugins}
        (self.conf / f"10-{name}.conflist").write_text(json.dumps(found))

    def plugin(
        self, command: str, pod: str, config: dict[str, Any], **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Execute the plugin directly."""
        given = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": f"/run/netns/{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.bin}:{REFERENCE}",
            **variables,
        }
        words = [f"{key}={value}" for key, value in given.items()]
        return self.host.run("env", *words, self.bin / "netd", input=json.dumps(config))

    def endpoints(self, network: str = "pods") -> list[dict[str, Any]]:
        """What netd has attached to a network; none where there is no such network."""
        found = [each for each in self.host.json("network", "ls") if each["name"] == network]
        endpoints: list[dict[str, Any]] = found[0]["endpoints"] if found else []
        return endpoints

    def links(self) -> list[str]:
        """netd's ends of pairs on the host."""
        names = [each["ifname"] for each in json.loads(self.host.output("ip", "-j", "link"))]
        return [name for name in names if name.startswith("ve-")]

    def close(self) -> None:
        """Remove the pods' namespaces."""
        for name in self.pods:
            self.host.run("ip", "netns", "del", name)


@pytest.fixture
def runtime(host: Host) -> Iterator[Runtime]:
    runtime = Runtime(host)
    yield runtime
    runtime.close()


@pytest.fixture(scope="session")
def cnitool() -> Path:
    """libcni's own command; built once where there is a Go toolchain."""
    if found := shutil.which("cnitool"):
        return Path(found)
    built = ROOT / "build" / "bin" / "cnitool"
    if not built.exists():
        go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
        if go is None:
            pytest.skip("no cnitool and no Go toolchain to build it with")
        environment = {**os.environ, "GOBIN": str(built.parent), "GOFLAGS": "-mod=mod"}
        done = subprocess.run(
            [go, "install", CNITOOL], env=environment, capture_output=True, text=True, timeout=110
        )
        if done.returncode:
            pytest.skip(f"cnitool could not be built: {done.stderr.strip()[-200:]}")
    return built


Tool = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tool(runtime: Runtime, cnitool: Path) -> Tool:
    """`cnitool COMMAND NETWORK NETNS` on what is installed."""

    def run(
        command: str, netns: str, *, network: str = "pods", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        words = [f"CNI_PATH={runtime.bin}:{REFERENCE}", f"NETCONFPATH={runtime.conf}"]
        words += [f"{key}={value}" for key, value in variables.items()]
        return runtime.host.run("env", *words, cnitool, command, network, netns)

    return run


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_libcni_drives_every_verb(runtime: Runtime, tool: Tool) -> None:
    runtime.install("--name", "pods", "--subnet", "10.70.0.0/24", "--subnet", "fd00:70::/64")
    netns = runtime.pod("one")
    succeeded(tool("status", netns))
    result = json.loads(succeeded(tool("add", netns)))
    assert result["cniVersion"] == "1.1.0"  # the highest that both know
    assert [ip["address"] for ip in result["ips"]] == ["10.70.0.2/24", "fd00:70::2/64"]
    succeeded(tool("check", netns))
    runtime.host.sh("ip -n one addr del 10.70.0.2/24 dev eth0")
    done = tool("check", netns)
    assert done.returncode != 0 or "10.70.0.2" in runtime.host.output("ip", "-n", "one", "addr")  # mended
    assert runtime.host.run("ip", "netns", "exec", "one", "ping", "-c1", "-W2", "fd00:70::1").returncode == 0
    second = runtime.pod("two")
    succeeded(tool("add", second))
    assert len(runtime.endpoints()) == 2
    succeeded(tool("del", netns))
    assert [each["addresses"] for each in runtime.endpoints()] == [["10.70.0.3/24", "fd00:70::3/64"]]
    # cnitool's gc names no valid attachments. libcni sends DEL for what it has in its cache, and a GC
    # without the list, which must not be taken for an empty one.
    done = tool("gc", second)
    assert done.returncode == 1
    assert "cni.dev/valid-attachments is missing" in done.stderr
    assert runtime.endpoints() == []


@needs_reference
def test_reference_plugins_may_follow(runtime: Runtime, tool: Tool) -> None:
    runtime.install("--name", "other")
    runtime.conflist(
        {"type": "netd", "subnets": ["10.70.0.0/24"]},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400},
        {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000},
        {"type": "firewall"},
    )
    netns = runtime.pod("one")
    ports = {"portMappings": [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]}
    variables = {"CAP_ARGS": json.dumps(ports)}
    result = json.loads(succeeded(tool("add", netns, **variables)))
    assert "eth0" in [each["name"] for each in result["interfaces"]]
    server = runtime.host.spawn("ip", "netns", "exec", "one", "/usr/bin/python3", "-m", "http.server", "80")
    eventually("it is served", lambda: _fetch(runtime, f"http://{HOST[0]}:8088/"))
    end(server)
    succeeded(tool("del", netns, **variables))
    assert runtime.links() == []
    # Portmap and firewall leave their tables behind.
    for table in ("ip nat", "ip filter", "ip6 nat", "ip6 filter"):
        runtime.host.run("nft", "delete", "table", *table.split())


def _fetch(runtime: Runtime, url: str) -> bool:
    return runtime.host.lab.client.run("curl", "-sf", "--max-time", "2", url).returncode == 0


def test_a_port_is_published_to_the_lan_and_to_loopback(runtime: Runtime) -> None:
    runtime.install()
    runtime.pod("one")
    ports = [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "netd", "runtimeConfig": {"portMappings": ports}}
    succeeded(runtime.plugin("ADD", "one", config))
    server = runtime.host.spawn("ip", "netns", "exec", "one", "/usr/bin/python3", "-m", "http.server", "80")
    eventually("it is served", lambda: _fetch(runtime, f"http://{HOST[0]}:8088/"))
    loopback = ["curl", "-sf", "--max-time", "2", "http://127.0.0.1:8088/"]
    eventually("it is served on loopback", lambda: runtime.host.run(*loopback).returncode == 0)
    end(server)
    succeeded(runtime.plugin("DEL", "one", config))
    assert not _fetch(runtime, f"http://{HOST[0]}:8088/")


def test_pods_know_each_other_by_name(runtime: Runtime) -> None:
    runtime.install()
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "netd", "subnets": ["10.70.0.0/24"]}
    for pod, args in (("one", "K8S_POD_NAME=web;K8S_POD_NAMESPACE=prod"), ("two", "")):
        runtime.pod(pod)
        runtime_config = {"aliases": ["www"]} if pod == "one" else {}
        config_of = {**config, "runtimeConfig": runtime_config}
        result = json.loads(succeeded(runtime.plugin("ADD", pod, config_of, CNI_ARGS=args)))
        assert result["dns"] == {"nameservers": ["10.70.0.1"]}
    for name in ("web.prod", "www"):
        ask = ["ip", "netns", "exec", "two", "busybox", "nslookup", "-type=a", name, "10.70.0.1"]
        assert "10.70.0.2" in runtime.host.output(*ask)
    for pod in ("one", "two"):
        succeeded(runtime.plugin("DEL", pod, config))


def test_attachments_survive_a_restart(runtime: Runtime) -> None:
    runtime.install()
    runtime.pod("one")
    ports = {"runtimeConfig": {"portMappings": [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]}}
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", **ports}
    result = json.loads(succeeded(runtime.plugin("ADD", "one", config)))
    before = runtime.endpoints()
    runtime.host.kill()
    runtime.host.start()
    assert runtime.endpoints() == before
    succeeded(runtime.plugin("CHECK", "one", {**config, "prevResult": result}))
    done = runtime.plugin("ADD", "one", config)
    assert json.loads(done.stdout)["code"] == 102
    succeeded(runtime.plugin("DEL", "one", config))
    assert runtime.endpoints() == []


def test_a_vanished_namespace_is_let_go_without_being_told(runtime: Runtime) -> None:
    runtime.install()
    runtime.pod("one")
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "netd"}
    succeeded(runtime.plugin("ADD", "one", config))
    assert len(runtime.endpoints()) == 1
    runtime.host.sh("ip netns del one")
    eventually("it is let go", lambda: runtime.endpoints() == [])
    succeeded(runtime.plugin("DEL", "one", config))


@pytest.mark.parametrize("again", [False, True])
def test_a_del_without_the_daemon_is_made_good(runtime: Runtime, again: bool) -> None:
    runtime.install()
    runtime.pod("one")
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd"}
    succeeded(runtime.plugin("ADD", "one", config))
    runtime.host.kill()
    for command, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        done = runtime.plugin(command, "one", config)
        assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code)
    succeeded(runtime.plugin("DEL", "one", config))
    if again:
        succeeded(runtime.plugin("DEL", "one", config))
    runtime.host.start()
    assert runtime.endpoints() == []
    assert runtime.links() == []
    assert runtime.host.run("ip", "-n", "one", "link", "show", "eth0").returncode != 0


def test_a_daemon_killed_in_the_middle_leaves_nothing_that_del_does_not_remove(runtime: Runtime) -> None:
    runtime.install()
    config = {"cniVersion": "1.0.0", "name": "pods", "type": "netd"}
    pods = [f"p{number}" for number in range(20)]
    for pod in pods:
        runtime.pod(pod)
    script = 'for p in $PODS; do CNI_CONTAINERID=$p CNI_NETNS=/run/netns/$p "$PLUGIN" <"$CONFIG" & done; wait'
    (runtime.directory / "config").write_text(json.dumps(config))
    adding = runtime.host.spawn(
        "/bin/sh",
        "-c",
        script,
        environment={
            "PODS": " ".join(pods),
            "PLUGIN": str(runtime.bin / "netd"),
            "CONFIG": str(runtime.directory / "config"),
            "CNI_COMMAND": "ADD",
            "CNI_IFNAME": "eth0",
        },
    )
    eventually("some are attached", lambda: len(runtime.links()) >= 3)
    runtime.host.kill()
    adding.communicate(timeout=30)
    runtime.host.start()
    for pod in pods:
        succeeded(runtime.plugin("DEL", pod, config))
        done = runtime.plugin("ADD", pod, config)
        succeeded(done)
    assert len(runtime.endpoints()) == len(pods)
    for pod in pods:
        succeeded(runtime.plugin("DEL", pod, config))
    assert runtime.endpoints() == []


CONTAINERS_CONF = """
[network]
network_backend="cni"
cni_plugin_dirs=["{bin}", "/usr/lib/cni"]
network_config_dir="{conf}"
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
runtime="runc"
[containers]
default_ulimits=["nofile=1024:1024", "nproc=1024:1024"]
"""


@needs_podman
def test_podman_runs_a_container_on_a_netd_network(runtime: Runtime, lab: Lab) -> None:
    runtime.install("--name", "pods", "--subnet", "10.70.0.0/24", "--subnet", "fd00:70::/64")
    root = runtime.directory / "rootfs"
    for name in ("bin", "www", "etc", "proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    (root / "www" / "index.html").write_text("hello\n")
    settings = runtime.directory / "containers.conf"
    settings.write_text(CONTAINERS_CONF.format(bin=runtime.bin, conf=runtime.conf))
    place = [f"--{what}={runtime.directory}/{what}" for what in ("root", "runroot", "tmpdir")]
    podman = ["env", f"CONTAINERS_CONF={settings}", "podman", *place]
    command = ["--rootfs", str(root), "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
    options = ["run", "-d", "--name", "web", "--network", "pods", "-p", "8088:80"]
    succeeded(runtime.host.run(*podman, *options, *command))
    try:
        [endpoint] = runtime.endpoints()
        assert endpoint["labels"]["K8S_POD_NAME"] == "web"
        for address in (HOST[0], f"[{HOST[1]}]"):
            url = f"http://{address}:8088/"
            assert lab.client.output("curl", "-sf", "--max-time", "5", url) == "hello\n"
        assert runtime.host.output("curl", "-sf", "--max-time", "5", "http://10.70.0.2/") == "hello\n"
    finally:
        succeeded(runtime.host.run(*podman, "rm", "-f", "-t", "0", "web"))
        # What conmon starts when its container ends mounts podman's storage as well, at its own time.
        late = ("pgrep", "-f", f"{runtime.directory}/root")  # conmon says "--root", a blank, and this
        eventually("podman is done", lambda: runtime.host.run(*late).returncode == 1)
        while runtime.host.run("umount", f"{runtime.directory}/root/overlay").returncode == 0:
            pass  # two that run at once mount it twice
    assert runtime.endpoints() == []


def _speed(done: subprocess.CompletedProcess[str]) -> float:
    """Bits a second of one download by curl."""
    return float(succeeded(done)) * 8


def test_bandwidth_is_limited_in_both_directions(runtime: Runtime) -> None:
    runtime.install()
    netns = runtime.pod("one")
    limits = {"ingressRate": 8_000_000, "ingressBurst": 2**31 - 1, "egressRate": 16_000_000}
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "subnets": ["10.70.0.0/24"]}
    limited = {**config, "runtimeConfig": {"bandwidth": limits}}
    result = json.loads(succeeded(runtime.plugin("ADD", "one", limited)))
    inside = ["ip", "netns", "exec", "one"]
    (runtime.directory / "www").mkdir()
    (runtime.directory / "www" / "data").write_bytes(bytes(2_000_000))
    serve = ["/usr/bin/python3", "-m", "http.server", "-d", str(runtime.directory / "www")]
    servers = [runtime.host.spawn(*serve, "8001"), runtime.host.spawn(*inside, *serve, "8002")]
    fetch = ["curl", "-sf", "-o", "/dev/null", "-w", "%{speed_download}", "--max-time", "20"]
    into, out = [*inside, *fetch, "http://10.70.0.1:8001/data"], [*fetch, "http://10.70.0.2:8002/data"]
    eventually("the host serves", lambda: runtime.host.run(*into).returncode == 0)
    eventually("the pod serves", lambda: runtime.host.run(*out).returncode == 0)
    assert 0.7 * 8e6 < _speed(runtime.host.run(*into)) < 1.15 * 8e6
    assert 0.7 * 16e6 < _speed(runtime.host.run(*out)) < 1.15 * 16e6
    # What is sent on by another device is still judged as the pod's.
    runtime.host.sh("ip -n one addr add 10.70.0.77/24 dev eth0")
    ping = ["ping", "-c1", "-W1", "10.70.0.1", "-I"]
    assert runtime.host.run(*inside, *ping, "10.70.0.2").returncode == 0
    assert runtime.host.run(*inside, *ping, "10.70.0.77").returncode == 1
    for server in servers:
        end(server)
    # A restart writes nothing, damage is mended, and nothing is left behind.
    runtime.host.kill()
    before = runtime.host.output("tc", "qdisc")
    runtime.host.start()
    assert runtime.host.output("tc", "qdisc") == before
    told = {**limited, "prevResult": result}
    succeeded(runtime.plugin("CHECK", "one", told))
    [veth] = runtime.links()
    runtime.host.sh(f"tc qdisc del dev {veth} root")
    eventually("it is mended", lambda: runtime.host.output("tc", "qdisc") == before)
    runtime.host.sh(f"ip netns del {netns.rpartition('/')[2]}")
    eventually("it is let go", lambda: "ifb" not in runtime.host.output("ip", "-d", "link"))
    succeeded(runtime.plugin("DEL", "one", limited))


@pytest.mark.parametrize("entrypoint", ["compiled", "python"])
def test_pods_without_a_bridge(runtime: Runtime, entrypoint: str) -> None:
    """Mode ptp, through a whole life: all ways in and out, a restart, damage, and nothing left behind."""
    runtime.install()
    if entrypoint == "python":
        shutil.copy(ROOT / "cni" / "netd_cni" / "main.py", runtime.bin / "netd")
    before = runtime.host.output("ip", "addr") + runtime.host.output("ip", "route")
    subnets = ["10.70.0.0/24", "fd00:70::/64"]
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "mode": "ptp", "subnets": subnets}
    ports = [{"hostPort": 8088, "containerPort": 80, "protocol": "tcp"}]
    published = {**config, "runtimeConfig": {"portMappings": ports, "aliases": ["www"]}}
    for pod in ("one", "two"):
        runtime.pod(pod)
    result = json.loads(succeeded(runtime.plugin("ADD", "one", published)))
    succeeded(runtime.plugin("ADD", "two", config))
    assert [each["name"] for each in result["interfaces"]] == [runtime.links()[0], "eth0"]
    assert [ip["address"] for ip in result["ips"]] == ["10.70.0.2/24", "fd00:70::2/64"]
    assert "nd-" not in runtime.host.output("ip", "link")
    serve = ["ip", "netns", "exec", "one", "/usr/bin/python3", "-m", "http.server", "--bind", "::", "80"]
    server = runtime.host.spawn(*serve)
    inside = ("ip", "netns", "exec", "two")
    fetch = ("curl", "-sf", "-o", "/dev/null", "--max-time", "5")

    def reached() -> None:
        for address in (HOST[0], f"[{HOST[1]}]"):
            url = f"http://{address}:8088/"
            eventually("the LAN is served", lambda url=url: _fetch(runtime, url))  # type: ignore[misc]
            for who in ((), inside, ("ip", "netns", "exec", "one")):
                succeeded(runtime.host.run(*who, *fetch, url))
        for url in ("http://10.70.0.2/", "http://[fd00:70::2]/", "http://10.70.0.1:8088/"):
            succeeded(runtime.host.run(*inside, *fetch, url))
        for address in INTERNET:
            succeeded(runtime.host.run(*inside, "ping", "-c1", "-W5", address))

    reached()
    loopback = "http://127.0.0.1:8088/"
    eventually("loopback is served", lambda: runtime.host.run(*fetch, loopback).returncode == 0)
    for server_address in ("10.70.0.1", "fd00:70::1"):
        ask = (*inside, "busybox", "nslookup", "-type=a", "www", server_address)
        assert "10.70.0.2" in runtime.host.output(*ask)

    # A restart writes nothing, and CHECK agrees with all of it.
    assert written_during(runtime.host, runtime.host.restart) == []
    told = {**published, "prevResult": result}
    succeeded(runtime.plugin("CHECK", "one", told))
    reached()

    # Without rules, and nobody to put them back, nothing gets in (ADR 24).
    runtime.host.kill()
    runtime.host.sh("nft flush ruleset")
    for url in ("http://10.70.0.2/", "http://[fd00:70::2]/"):
        for who in ((), inside):
            assert runtime.host.run(*who, "curl", "-s", "--max-time", "1", url).returncode == 28  # a timeout
    runtime.host.start()
    reached()

    # What somebody takes away comes back.
    link = result["interfaces"][0]["name"]
    state = [("ip", "addr", "show", "dev", link), ("ip", "route"), ("ip", "-6", "route")]

    def seen() -> list[list[str]]:
        return [sorted(runtime.host.output(*words).splitlines()) for words in state]

    whole = seen()
    group = runtime.host.output("ip", "link", "show", link).partition(" group ")[2].split()[0]
    damage = f"ip addr flush dev {link}; ip link set {link} group 9"  # the route goes with the address
    runtime.host.sh(damage)
    eventually("it is mended", lambda: f"group {group}" in runtime.host.output("ip", "link", "show", link))
    eventually("all of it", lambda: seen() == whole)
    reached()
    end(server)

    # GC takes what is not valid, a namespace that ends takes its own, DEL the rest.
    valid = [{"containerID": "one", "ifname": "eth0"}]
    succeeded(runtime.plugin("GC", "", {**config, "cni.dev/valid-attachments": valid}))
    assert len(runtime.endpoints()) == 1
    runtime.host.sh("ip netns del one")
    eventually("it is let go", lambda: runtime.endpoints() == [])
    succeeded(runtime.plugin("DEL", "one", told))
    succeeded(runtime.plugin("DEL", "two", config))
    succeeded(runtime.plugin("GC", "", {**config, "cni.dev/valid-attachments": []}))
    assert runtime.host.output("ip", "addr") + runtime.host.output("ip", "route") == before


def test_networks_of_ipv6_alone_and_of_odd_ranges(runtime: Runtime) -> None:
    runtime.install()
    runtime.pod("one")
    ranges = [[{"subnet": "fd00:70::/64", "rangeStart": "fd00:70::33", "rangeEnd": "fd00:70::35"}]]
    config = {"cniVersion": "1.1.0", "name": "pods", "type": "netd", "ranges": ranges}
    result = json.loads(succeeded(runtime.plugin("ADD", "one", config)))
    assert [ip["address"] for ip in result["ips"]] == ["fd00:70::33/64"]
    assert runtime.host.run("ip", "netns", "exec", "one", "ping", "-c1", "-W2", "fd00:70::1").returncode == 0
    assert "inet " not in runtime.host.output("ip", "-n", "one", "addr", "show", "eth0")
    for number, address in ((2, "fd00:70::34"), (3, "fd00:70::35")):
        runtime.pod(f"p{number}")
        more = json.loads(succeeded(runtime.plugin("ADD", f"p{number}", config)))
        assert more["ips"][0]["address"] == f"{address}/64"
    status = runtime.plugin("STATUS", "one", config)
    assert json.loads(status.stdout)["code"] == 50
    assert "no IPv6 address left" in status.stdout
    for pod in ("one", "p2", "p3"):
        succeeded(runtime.plugin("DEL", pod, config))
