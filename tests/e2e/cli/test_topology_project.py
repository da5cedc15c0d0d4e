"""Where a topology keeps things, and who shares a network with whom."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.host import NETD, PYTHON, Host, eventually

WIRE = Path(__file__).parents[1] / "wire.py"
KEPT = """\
name: kept
services: {a: {command: [sh, -c, "echo x >/data/f; sleep 100"], volumes: ["data:/data"]}}
volumes: {data: }
"""
POD = """\
name: pod
services:
  web:
    command: /usr/bin/python3 -IS /wire.py serve web tcp:80
    volumes: [WIRE:/wire.py:ro]
    networks: [n]
    ports: ["8080:80", "8081:81"]
  log:
    network_mode: service:web
    command: /usr/bin/python3 -IS /wire.py serve log tcp:81
    volumes: [WIRE:/wire.py:ro]
  other: {networks: [n]}
networks: {n: }
x-netd:
  checks:
    - {from: other, to: "web:81"}
    - {from: other, to: "log:81"}
    - {from: log, to: other/icmp}
"""


def answers(host: Host, who: str) -> None:
    """Port 8081 of the host is answered by `who`, as soon as that listens."""
    target = "tcp,203.0.113.2,8081"
    eventually(f"{who} answers", lambda: (host.lab.client.ask(target)[target] or "").startswith(who))


def test_volumes_are_in_the_daemons_state_directory(host: Host) -> None:
    path = host.lab.directory / "kept.yaml"
    path.write_text(KEPT)
    elsewhere = host.lab.directory / "state"
    host.stop()
    host.start("--state-dir", str(elsewhere))
    host.netd("topology", "up", path)
    assert (elsewhere / "volumes" / "kept_data").is_dir()
    assert "kept_data" not in host.sh("ls /var/lib/netd; ls /var/lib/netd/volumes 2>/dev/null || true")
    host.netd("topology", "down", path, "--volumes")
    assert not (elsewhere / "volumes").exists()
    host.stop()
    host.start()


def test_a_service_in_anothers_network(host: Host) -> None:
    path = host.lab.directory / "pod.yaml"
    path.write_text(POD.replace("WIRE", str(WIRE)))
    host.netd("topology", "up", path)
    done = host.run(NETD, "topology", "check", path)
    assert done.returncode == 0, done.stdout
    answers(host, "log")
    assert host.netd("topology", "up", path, "--dry-run") == ""
    web, log = host.inspect("pod-web-1"), host.inspect("pod-log-1")
    assert (log["netns"], log["hostname"], log["endpoints"]) == (web["netns"], web["hostname"], [])
    assert host.netd("exec", "pod-log-1", "cat", "/etc/hosts") == host.netd(
        "exec", "pod-web-1", "cat", "/etc/hosts"
    )
    # The one whose network it is ends: the other goes on, with nothing but its loopback.
    host.netd("stop", "-t", "0", "pod-web-1")
    assert host.inspect("pod-log-1")["state"] == "running"
    assert host.netd("exec", "pod-log-1", "ls", "/sys/class/net").split() == ["lo"]
    host.restart()
    assert host.inspect("pod-log-1")["state"] == "running"
    planned = host.netd("topology", "up", path, "--dry-run").splitlines()
    assert planned == ["replace container pod-web-1", "replace container pod-log-1"]
    host.netd("topology", "up", path)
    answers(host, "log")
    host.netd("topology", "down", "pod")


def test_run_in_anothers_network_and_what_is_refused(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    host.serve("web", "--network", "front")
    asked = host.netd(
        "run", "--rm", "--network", "container:web", "-v", f"{WIRE}:/wire.py:ro", "--", PYTHON, "-IS",
        "/wire.py", "ask", "2", "tcp,127.0.0.1,80",
    )  # fmt: skip
    assert "web" in asked
    for flags, named in (
        (("-p", "80"), "--publish '80'"),
        (("--hostname", "x"), "--hostname 'x'"),
        (("--network", "front"), "stands alone"),
        (("--sysctl", "net.ipv4.ip_forward=1"), "--sysctl 'net.ipv4.ip_forward'"),
    ):
        assert named in host.refused("run", "--network", "container:web", *flags, "--", "true")
    assert "'nobody' does not exist" in host.refused("run", "--network", "container:nobody", "--", "true")
