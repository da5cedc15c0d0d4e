"""The command line: how it finds the daemon, how it answers, how it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess

import pytest

from tests.e2e.host import NETD, Host, Lab, end, eventually, eventually_equal


def test_help_is_instant() -> None:
    """Under 150 ms (issue 2), counted in CPU time: how busy the machine is says nothing about netd."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([NETD, "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "network" in done.stdout
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(once() for _ in range(5)) < 0.150


COMMANDS = "daemon network run ps stop kill rm exec logs wait inspect port events doctor version"


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run([NETD, command, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: netd " + command)


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["network"],
        ["run"],
        ["network", "create"],
        ["ps", "--frob"],
        ["run", "--memory", "lots", "--", "true"],
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str]) -> None:
    done = subprocess.run([NETD, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr


def test_without_a_daemon_every_command_says_so_and_exits_with_125(lab: Lab) -> None:
    for arguments in (["ps"], ["network", "ls"], ["run", "--", "true"], ["version"], ["events"], ["rm", "x"]):
        message = lab.host.refused(*arguments, status=125)
        assert "/run/netd/netd.sock" in message
        assert message.count("\n") == 0


def test_the_socket_is_found_by_flag_then_environment_then_default(host: Host) -> None:
    nowhere, there = "/run/netd/nowhere.sock", "/run/netd/netd.sock"
    assert host.run(NETD, "ps").returncode == 0
    assert host.run("env", f"NETD_SOCKET={nowhere}", NETD, "ps").returncode == 125
    assert host.run("env", f"NETD_SOCKET={nowhere}", NETD, "--socket", there, "ps").returncode == 0
    assert host.run("env", f"NETD_SOCKET={nowhere}", NETD, "ps", "--socket", there).returncode == 0
    assert host.run(NETD, "--socket", nowhere, "ps").returncode == 125


def completions(host: Host, line: str, *flags: str) -> list[str]:
    """What bash is offered for the last word of a command line."""
    words = line.split(" ")
    variables = [f"COMP_WORDS={line}", f"COMP_CWORD={len(words) - 1}", "_NETD_COMPLETE=bash_complete"]
    done = host.run("env", *variables, *flags, NETD)
    assert (done.returncode, done.stderr) == (0, "")
    return [offer.removeprefix("plain,") for offer in done.stdout.split()]


def test_the_shell_completes_commands_options_and_names(host: Host) -> None:
    for name in ("front", "back"):
        host.netd("network", "create", name)
    host.netd("run", "-d", "--name", "web", "--network", "front", "--", "sleep", "1000")
    assert completions(host, "netd netw") == ["network"]
    assert completions(host, "netd network create --sub") == ["--subnet"]
    assert completions(host, "netd rm w") == ["web"]
    assert completions(host, "netd network rm ") == ["back", "front"]
    assert completions(host, "netd run --network f") == ["front"]
    assert completions(host, "netd network connect back ") == ["web"]
    assert completions(host, "netd --socket /run/nowhere.sock rm ") == []
    assert completions(host, "netd rm ", "NETD_SOCKET=/run/nowhere.sock") == []


def test_directories_are_flags(lab: Lab) -> None:
    lab.host.start("--state-dir", "/run/elsewhere/state", "--run-dir", "/run/elsewhere/run")
    socket = "/run/elsewhere/run/netd.sock"
    version = json.loads(lab.host.netd("--socket", socket, "version", "--json"))["daemon"]
    assert version["state_dir"] == "/run/elsewhere/state"
    assert version["run_dir"] == "/run/elsewhere/run"
    assert lab.host.stop() == 0
    assert lab.host.sh("ls /run/netd /var/lib/netd 2>&1 || true").count("No such file") == 2


def test_configuration_comes_from_a_file(lab: Lab) -> None:
    config = lab.directory / "netd.toml"
    config.write_text('[[pools]]\nbase = "10.200.0.0/16"\nsize = 26\n')
    lab.host.start("--config", str(config))
    lab.host.netd("network", "create", "front")
    assert lab.host.network("front")["subnets"][0]["cidr"] == "10.200.0.0/26"
    lab.host.stop()
    config.write_text("colour = 1\n")
    message = lab.host.refused("daemon", "--config", str(config))
    assert str(config) in message
    assert "colour" in message


def test_a_second_daemon_on_the_same_directory_refuses(host: Host) -> None:
    message = host.refused("daemon")
    assert "/run/netd" in message
    message = host.refused("daemon", "--state-dir", "/run/other-state")
    assert "/run/netd" in message
    host.netd("ps")


def test_a_second_daemon_with_directories_of_its_own_does_not_take_down_the_first(host: Host) -> None:
    host.netd("network", "create", "front")
    host.serve("web", "--network", "front", "-p", "8080:80")
    before = host.census()
    message = host.refused("daemon", "--state-dir", "/run/other/state", "--run-dir", "/run/other/run")
    assert message.splitlines()[-1].startswith("netd: another netd daemon (pid ")
    assert "network namespace" in message
    assert eventually_equal(before, host.census) == before
    assert host.answer("tcp,203.0.113.2,8080").startswith("web")
    host.sh("rm -r /run/other")
    host.kill()
    host.start()  # its lock died with it


def test_the_socket_is_for_root_and_its_group_only(host: Host) -> None:
    assert host.sh("stat -c %a /run/netd/netd.sock").strip() == "660"
    assert host.sh("stat -c %a /run/netd").strip() in ("750", "700")
    assert host.sh("stat -c %a /var/lib/netd").strip() == "700"
    done = host.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", NETD, "ps")
    assert done.returncode == 125, done.stderr


def test_logs_are_text_or_json(lab: Lab) -> None:
    lab.host.start("--log-format", "json")
    lab.host.stop()
    lines = [json.loads(line) for line in lab.host.log.read_text().splitlines()]
    assert lines
    assert all({"time", "level", "message"} <= line.keys() for line in lines), lines[0]
    lab.host.log.write_text("")
    lab.host.start()
    lab.host.stop()
    assert "ready" in lab.host.log.read_text()
    assert not lab.host.log.read_text().startswith("{")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_daemon_in_good_order(lab: Lab, signum: signal.Signals) -> None:
    lab.host.start()
    os.kill(lab.host.daemon_pid, signum)
    assert lab.host.gone() == 0


def test_version_tells_what_runs(host: Host) -> None:
    both = host.json("version")
    version = both["daemon"]
    assert both["client"]["version"] == version["version"]
    assert version["api"] == "v1"
    assert version["run_dir"] == "/run/netd"
    assert {"pyroute2", "grpcio"} <= version["libraries"].keys()
    assert version["version"] in host.netd("version")


def test_listings_have_stable_keys(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6", "--label", "tier=web")
    host.serve("web", "--network", "front", "-p", "8080:80")
    (network,) = host.json("network", "ls")
    # Keys are only ever added: a program that reads these must find them in every later version.
    assert network.keys() >= {
        *("id", "name", "driver", "subnets", "internal", "icc", "gateway_mode", "mtu", "dns", "labels"),
        *("options", "created", "bridge", "endpoints", "status"),
    }
    assert network["labels"] == {"tier": "web"}
    assert network["status"] == "ready"
    assert network["subnets"][0].keys() >= {
        "cidr",
        "gateway",
        "ip_range",
        "aux_addresses",
        "used",
        "capacity",
    }
    (container,) = host.json("ps")
    assert container.keys() >= {
        *("id", "name", "command", "state", "exit_code", "created", "started", "finished", "pid"),
        *("endpoints", "ports", "hostname", "rootfs", "labels", "netns", "log_path"),
    }
    assert container["endpoints"][0].keys() >= {
        *("id", "network", "network_id", "container", "container_id", "ifname", "mac", "addresses"),
        *("gateways", "aliases", "gw_priority", "default_route", "host_ifname", "labels"),
    }
    assert container["ports"] == [{"host_ip": "", "host_port": 8080, "container_port": 80, "proto": "tcp"}]


def test_listings_are_tables_otherwise(host: Host) -> None:
    host.netd("network", "create", "front", "--subnet", "10.7.0.0/24")
    host.serve("web", "--network", "front", "-p", "8080:80")
    headings, row = host.netd("network", "ls").splitlines()
    assert headings.split()[:2] == ["NETWORK", "ID"]
    assert "front" in row
    assert "10.7.0.0/24" in row
    headings, row = host.netd("ps").splitlines()
    assert "NAME" in headings
    assert "web" in row
    assert "8080->80/tcp" in row
    assert "8080" in host.netd("port", "web")


def test_things_are_found_by_name_id_and_unique_prefix(host: Host) -> None:
    id = host.netd("network", "create", "front").strip()
    for ref in ("front", id, id[:12]):
        assert json.loads(host.netd("network", "inspect", ref))[0]["name"] == "front"
    container = host.serve("web", "--network", "front")
    for ref in ("web", container, container[:12]):
        assert host.inspect(ref)["name"] == "web"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["network", "create", "a b"], ["'a b'", "letter or digit"]),
        (["network", "create", "x", "--driver", "warp"], ["warp", "bridge"]),
        (["network", "create", "x", "--subnet", "10.0.0.0/33"], ["10.0.0.0/33"]),
        (["network", "create", "x", "--subnet", "10.0.0.1/24"], ["10.0.0.1/24", "10.0.0.0/24"]),
        (["network", "create", "x", "--subnet", "10.0.0.0/24", "--gateway", "10.1.0.1"], ["10.1.0.1"]),
        (["network", "create", "x", "--subnet", "10.0.0.0/24", "--ip-range", "10.1.0.0/25"], ["10.1.0.0/25"]),
        (["network", "create", "x", "--subnet", "203.0.113.0/25"], ["203.0.113.0/25", "eth0"]),
        (["network", "create", "x", "--mtu", "20"], ["20"]),
        (["network", "rm", "nowhere"], ["nowhere", "does not exist"]),
        (["network", "inspect", "nowhere"], ["nowhere"]),
        (["network", "connect", "nowhere", "nobody"], ["nobody"]),
        (["run", "--network", "nowhere", "--", "true"], ["nowhere"]),
        (["run", "--network", "front,ip=10.99.0.5", "--", "true"], ["10.99.0.5", "front"]),
        (["run", "--network", "front,ip=10.89.0.1", "--", "true"], ["10.89.0.1"]),
        (["run", "--network", "front,mac=zz", "--", "true"], ["zz"]),
        (["run", "--network", "front,mac=01:00:5e:00:00:01", "--", "true"], ["01:00:5e:00:00:01"]),
        (["run", "--network", "front,ifname=far/too/long", "--", "true"], ["far/too/long"]),
        (["run", "--network", "front", "-p", "99999:80", "--", "true"], ["99999"]),
        (["run", "--network", "front", "-p", "80-90:80-95", "--", "true"], ["80-90:80-95"]),
        (["run", "--network", "front", "-p", "8080:80/icmp", "--", "true"], ["icmp"]),
        (["run", "--network", "front", "-p", "198.51.100.7:80:80", "--", "true"], ["198.51.100.7"]),
        (["run", "--name", "../evil", "--", "true"], ["../evil"]),
        (["run", "--network", "front", "--rootfs", "/nowhere", "--", "true"], ["/nowhere"]),
        (["run", "--network", "front", "--cap-add", "FLYING", "--", "true"], ["FLYING"]),
        (["run", "--network", "front", "-u", "nobody-at-all", "--", "true"], ["nobody-at-all"]),
        (["run", "--network", "front", "--sysctl", "kernel.panic=1", "--", "true"], ["kernel.panic"]),
        (["rm", "nobody"], ["nobody"]),
        (["exec", "nobody", "--", "true"], ["nobody"]),
        (["port", "add", "nobody", "80:80"], ["nobody"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_requests_are_refused_in_one_line_and_leave_nothing(
    refusing: Host, arguments: list[str], says: list[str]
) -> None:
    before = refusing.census()
    message = refusing.refused(*arguments)
    for word in says:
        assert word in message
    assert refusing.census() == before
    assert refusing.json("ps", "-a") == []
    assert [network["name"] for network in refusing.json("network", "ls")] == ["front"]


@pytest.fixture(scope="module")
def refusing(shared_host: Host) -> Host:
    shared_host.netd("network", "create", "front", "--subnet", "10.89.0.0/24")
    return shared_host


def test_events_tell_what_happens(host: Host) -> None:
    watcher = host.spawn(NETD, "events", "--json")
    assert watcher.stdout is not None
    # The stream begins some time after the process: make noise until the first event is seen.
    host.netd("network", "create", "warm-up")
    os.set_blocking(watcher.stdout.fileno(), False)
    seen: list[dict[str, object]] = []

    def read() -> list[dict[str, object]]:
        while line := watcher.stdout.readline() if watcher.stdout else "":
            seen.append(json.loads(line))
        return seen

    def warm() -> bool:
        host.netd("network", "rm", "warm-up")
        host.netd("network", "create", "warm-up")
        return bool(read())

    eventually("an event arrives", warm)
    host.netd("network", "create", "front")
    host.serve("web", "--network", "front", "-p", "8080:80")
    host.netd("network", "connect", "warm-up", "web")
    host.netd("network", "disconnect", "warm-up", "web")
    host.netd("rm", "-f", "web")
    host.netd("network", "rm", "front")
    wanted = {
        ("network", "create", "front"),
        ("network", "remove", "front"),
        ("container", "start", "web"),
        ("container", "exit", "web"),
        ("container", "remove", "web"),
        ("endpoint", "connect", "web"),
        ("endpoint", "disconnect", "web"),
        ("port", "publish", "web"),
        ("port", "unpublish", "web"),
    }
    found: set[tuple[object, ...]] = set()

    def complete() -> bool:
        found.update((event["type"], event["action"], event["name"]) for event in read())
        return wanted <= found

    try:
        eventually("every event arrives", complete, seconds=5)
    except AssertionError:
        raise AssertionError(f"missing {wanted - found} in {found}") from None
    assert all(event.keys() >= {"time", "type", "action", "id", "name", "attributes"} for event in seen)
    end(watcher)


def test_doctor_is_content_with_a_healthy_host(host: Host) -> None:
    checks = host.json("doctor")
    assert checks
    assert all(check.keys() == {"name", "level", "detail", "remedy"} for check in checks)
    assert [check for check in checks if check["level"] == "failure"] == []
    assert all(check["remedy"] for check in checks if check["level"] != "ok")


def test_doctor_names_another_table_that_drops(host: Host) -> None:
    host.output(
        *("nft", "-f", "-"),
        input="add table inet strict\n"
        "add chain inet strict forward { type filter hook forward priority 10; policy drop; }\n",
    )
    done = host.run(NETD, "doctor")
    assert done.returncode == 1, "a failing check is a failing command"
    assert "strict" in done.stdout
    assert "forward" in done.stdout
    host.sh("nft delete table inet strict")
    assert host.run(NETD, "doctor").returncode == 0
