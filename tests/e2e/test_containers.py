"""The runtime as its user sees it: run, exec, logs, stop, and the walls around a container."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.host import NETD, Host, eventually


@pytest.fixture(scope="module")
def front(shared_host: Host) -> Host:
    shared_host.netd("network", "create", "front", "--ipv6")
    return shared_host


def run(host: Host, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    """`netd run --rm` on network front."""
    return host.run(NETD, "run", "--rm", "--network", "front", *arguments, input=input)


def test_output_and_exit_code_are_the_commands_own(front: Host) -> None:
    done = run(front, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)
    assert run(front, "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert run(front, "--", "sh", "-c", "kill -15 $$").returncode == 143
    assert front.json("ps", "-a") == []


def test_a_command_that_is_not_there_or_cannot_run(front: Host) -> None:
    done = run(front, "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr
    assert run(front, "--", "/etc/hostname").returncode == 126
    assert front.json("ps", "-a") == []


def test_standard_input(front: Host) -> None:
    assert run(front, "-i", "--", "cat", input="hello\nworld\n").stdout == "hello\nworld\n"
    assert run(front, "--", "cat", input="unheard").stdout == "", "without -i there is no input"


def test_large_output_arrives_whole(front: Host) -> None:
    done = run(front, "--", "sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x")
    assert len(done.stdout) == 5_000_000


def test_environment_workdir_hostname_and_user(front: Host) -> None:
    script = "echo $COLOUR; pwd; hostname; id -u; id -g"
    flags = ("-e", "COLOUR=blue", "-w", "/usr", "--hostname", "shop", "-u", "1000:1001")
    done = run(front, *flags, "--", "sh", "-c", script)
    assert done.stdout.split() == ["blue", "/usr", "shop", "1000", "1001"], done.stderr
    assert run(front, "-u", "nobody", "--", "id", "-un").stdout.strip() == "nobody"


def test_its_own_files_name_it(front: Host) -> None:
    done = run(
        *(front, "--name", "web", "--add-host", "printer:192.0.2.9", "--dns", "192.0.2.53"),
        *("--dns-search", "corp.example", "--dns-option", "timeout:1"),
        *("--", "cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"),
    )
    assert "127.0.0.1" in done.stdout
    assert "192.0.2.9" in done.stdout
    assert "printer" in done.stdout
    assert "web" in done.stdout
    assert "nameserver" in done.stdout
    assert "search corp.example\noptions ndots:0 timeout:1\n" in done.stdout
    on_the_host = ("run", "--rm", "--network", "host", "--dns-search", "lab", "--")
    assert front.netd(*on_the_host, "tail", "-n1", "/etc/resolv.conf") == "search lab\n"


def test_it_sees_only_itself(front: Host) -> None:
    done = run(front, "--", "sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm")
    assert int(done.stdout.split()[1]) <= 4
    first = run(front, "--", "readlink", "/proc/self/ns/pid", "/proc/self/ns/mnt", "/proc/self/ns/net").stdout
    own = front.sh("readlink /proc/self/ns/pid /proc/self/ns/mnt /proc/self/ns/net")
    assert not set(first.split()) & set(own.split())
    assert run(front, "--", "sh", "-c", "ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]


def test_the_hosts_secrets_are_hidden(front: Host) -> None:
    for directory in ("/root", "/home", "/run/netd", "/var/lib/netd"):
        done = run(front, "--", "sh", "-c", f"ls -A {directory} 2>/dev/null || true")
        assert done.stdout == "", directory
    done = run(front, "--", "sh", "-c", "cat /etc/shadow")
    assert done.returncode != 0 or ":" not in done.stdout


def test_what_it_writes_stays_with_it(front: Host) -> None:
    done = run(front, "--", "sh", "-c", "echo secret > /etc/netd-was-here; cat /etc/netd-was-here")
    assert done.stdout == "secret\n"
    assert not Path("/etc/netd-was-here").exists()
    assert run(front, "--", "test", "-e", "/etc/netd-was-here").returncode == 1
    assert run(front, "--read-only", "--", "sh", "-c", "echo > /etc/x").returncode != 0


def test_proc_and_sys_cannot_be_used_against_the_host(front: Host) -> None:
    for path in ("/proc/sys/kernel/panic", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"):
        done = run(front, "--", "sh", "-c", f"echo 0 > {path}")
        assert done.returncode != 0, path
    assert run(front, "--", "mount", "-t", "tmpfs", "none", "/mnt").returncode != 0
    assert run(front, "--", "unshare", "--mount", "true").returncode != 0
    status = run(front, "--", "grep", "-E", "^(CapEff|NoNewPrivs|Seccomp):", "/proc/self/status").stdout
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    capabilities = int(fields["CapEff"], 16)
    for name, bit in (
        ("NET_RAW", 13),
        ("NET_ADMIN", 12),
        ("SYS_ADMIN", 21),
        ("SYS_PTRACE", 19),
        ("SYS_MODULE", 16),
    ):
        assert not capabilities >> bit & 1, name
    assert capabilities >> 10 & 1, "NET_BIND_SERVICE is in docker's default set"


def test_capabilities_can_be_added_and_dropped(front: Host) -> None:
    def effective(*flags: str) -> int:
        done = run(front, *flags, "--", "grep", "CapEff", "/proc/self/status")
        return int(done.stdout.split()[1], 16)

    assert effective("--cap-add", "NET_RAW") >> 13 & 1
    assert not effective("--cap-drop", "CHOWN") >> 0 & 1
    assert effective("--cap-drop", "ALL") == 0


def test_ping_works_without_raw_sockets(front: Host) -> None:
    for target in ("203.0.113.1", "2001:db8:1::1"):
        done = run(front, "--", "ping", "-c1", "-W3", target)
        assert done.returncode == 0, done.stdout + done.stderr


def test_volumes(front: Host, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("from the host\n")
    volume = f"{tmp_path}:/data"
    assert run(front, "-v", volume, "--", "cat", "/data/note").stdout == "from the host\n"
    run(front, "-v", volume, "--", "sh", "-c", "echo back > /data/reply")
    assert (tmp_path / "reply").read_text() == "back\n"
    assert run(front, "-v", f"{volume}:ro", "--", "sh", "-c", "echo no > /data/note").returncode != 0
    assert (tmp_path / "note").read_text() == "from the host\n"


def test_a_root_file_system_of_ones_own(front: Host, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    busybox = tmp_path / "bin" / "busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    flags = ("--rootfs", str(tmp_path), "--", "/bin/busybox", "sh", "-c")
    script = "busybox ls /; echo new > /file; busybox cat /file; busybox cat /etc/hostname; busybox ls /dev"
    done = run(front, "--hostname", "lean", *flags, script.replace("busybox", "/bin/busybox"))
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert {"bin", "dev", "etc", "proc", "sys", "new", "lean", "null", "urandom", "shm"} <= set(words)
    assert not (tmp_path / "file").exists(), "the directory itself is only read"


def test_memory_limit(front: Host) -> None:
    script = "x = bytearray(); [x.extend(b'x' * 2**20) for _ in range(256)]"
    front.netd(
        *("run", "-d", "--name", "hog", "--network", "front", "--memory", "32m", "--"),
        "/usr/bin/python3",
        "-c",
        script,
    )
    try:
        assert front.netd("wait", "hog").strip() == "137"
        assert front.inspect("hog")["oom_killed"] is True
    finally:
        front.netd("rm", "-f", "hog")


def test_pids_limit(front: Host) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 5 & done; echo all"
    done = run(front, "--pids-limit", "6", "--", "sh", "-c", script)
    assert "all" not in done.stdout
    assert "fork" in done.stderr.lower()


def test_sysctls_of_its_own_namespace(front: Host) -> None:
    path = "/proc/sys/net/ipv4/tcp_keepalive_time"
    assert run(front, "--sysctl", "net.ipv4.tcp_keepalive_time=77", "--", "cat", path).stdout.strip() == "77"


def test_logs_are_kept_and_followed(front: Host) -> None:
    script = "echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo three"
    front.netd("run", "-d", "--name", "talker", "--network", "front", "--", "sh", "-c", script)
    try:
        eventually("both lines are logged", lambda: front.run(NETD, "logs", "talker").stdout == "one\n")
        done = front.run(NETD, "logs", "talker")
        assert (done.stdout, done.stderr) == ("one\n", "two\n")
        follower = front.spawn(NETD, "logs", "-f", "talker")
        front.netd("exec", "talker", "--", "touch", "/tmp/go")
        output, _ = follower.communicate(timeout=20)
        assert output == "one\nthree\n"
        assert follower.returncode == 0
        assert front.netd("logs", "--tail", "1", "talker") == "three\n"
        stamped = front.netd("logs", "--timestamps", "talker").splitlines()
        assert len(stamped[0].split()) == 2
        assert stamped[0].startswith("20")
    finally:
        front.netd("rm", "-f", "talker")


def test_exec_enters_the_container(front: Host) -> None:
    namespaces = "for n in pid net ipc mnt uts cgroup; do readlink /proc/self/ns/$n; done"
    front.netd(
        *("run", "-d", "--name", "box", "--hostname", "boxed", "--network", "front", "--"),
        *("sh", "-c", f"{namespaces}; sleep 600"),
    )
    try:
        assert front.netd("exec", "box", "--", "hostname") == "boxed\n"
        assert front.netd("exec", "-i", "box", "--", "cat", input="typed") == "typed"
        assert front.run(NETD, "exec", "box", "--", "sh", "-c", "exit 9").returncode == 9
        assert front.run(NETD, "exec", "box", "--", "missing").returncode == 127
        assert front.netd("exec", "box", "--", "sh", "-c", namespaces) == front.netd("logs", "box")
        told = front.netd(
            "exec", "-e", "COLOUR=red", "-w", "/usr", "box", "--", "sh", "-c", "echo $COLOUR; pwd"
        )
        assert told == "red\n/usr\n"
    finally:
        front.netd("rm", "-f", "box")
    assert "box" in front.refused("exec", "box", "--", "true")


def test_stop_asks_first_and_kills_then(front: Host) -> None:
    polite = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    front.netd("run", "-d", "--name", "polite", "--network", "front", "--", "sh", "-c", polite)
    eventually("polite is up", lambda: "up" in front.netd("logs", "polite"))
    front.netd("stop", "polite")
    container = front.inspect("polite")
    assert (container["state"], container["exit_code"]) == ("exited", 5)
    assert front.netd("logs", "polite") == "up\nbye\n"
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    front.netd("run", "-d", "--name", "stubborn", "--network", "front", "--", "sh", "-c", stubborn)
    eventually("stubborn is up", lambda: "up" in front.netd("logs", "stubborn"))
    began = time.monotonic()
    front.netd("stop", "--time", "1", "stubborn")
    assert time.monotonic() - began >= 0.9
    assert front.inspect("stubborn")["exit_code"] == 137
    front.netd("rm", "polite", "stubborn")


def test_kill_sends_any_signal(front: Host) -> None:
    script = "trap 'echo usr1' USR1; echo up; while :; do sleep 0.05; done"
    front.netd("run", "-d", "--name", "box", "--network", "front", "--", "sh", "-c", script)
    eventually("box is up", lambda: "up" in front.netd("logs", "box"))
    front.netd("kill", "--signal", "USR1", "box")
    eventually("the signal arrived", lambda: "usr1" in front.netd("logs", "box"))
    assert "box" in front.refused("rm", "box"), "a running container needs -f"
    front.netd("kill", "box")
    assert front.netd("wait", "box").strip() == "137"
    front.netd("rm", "box")


def test_the_first_process_reaps_orphans(front: Host) -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0.05 &) ; done; echo up; while :; do sleep 0.05; done"
    front.netd("run", "-d", "--name", "box", "--network", "front", "--", "sh", "-c", script)
    try:
        eventually("box is up", lambda: "up" in front.netd("logs", "box"))
        count = "ps -eo stat= | grep -c Z || true"
        eventually(
            "no zombie is left", lambda: front.netd("exec", "box", "--", "sh", "-c", count).strip() == "0"
        )
    finally:
        front.netd("rm", "-f", "box")


def test_a_whole_family_of_processes_dies_with_its_container(front: Host) -> None:
    script = "setsid sleep 4242 & nohup sleep 4242 & trap '' TERM; sleep 4242"
    front.netd("run", "-d", "--name", "clan", "--network", "front", "--", "sh", "-c", script)
    eventually(
        "the clan lives", lambda: front.sh("ps -eo args= | grep -c '^sleep 4242' || true").strip() == "3"
    )
    front.netd("rm", "-f", "clan")
    assert front.sh("ps -eo args= | grep -c '^sleep 4242' || true").strip() == "0"


def test_a_terminal(front: Host) -> None:
    """-it gives a terminal of the size of ours, and what is typed arrives."""
    ours, theirs = pty.openpty()
    script = "tty; stty size; read line; echo got:$line"
    process = subprocess.Popen(
        [*front._enter(), str(NETD), "run", "--rm", "-it", "--network", "front", "--", "sh", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=front.lab.environment,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""

    def read_until(wanted: bytes) -> None:
        nonlocal seen
        deadline = time.monotonic() + 20
        while wanted not in seen:
            assert time.monotonic() < deadline, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 4096)

    read_until(b"/dev/pts/")
    os.write(ours, b"typed\r")
    read_until(b"got:typed")
    assert process.wait(20) == 0
    os.close(ours)


def test_names_are_invented_where_none_is_given(front: Host) -> None:
    ids = [front.netd("run", "-d", "--network", "front", "--", "sleep", "600").strip() for _ in range(2)]
    names = {container["name"] for container in front.json("ps")}
    assert len(names) == 2
    assert "all" not in names
    front.netd("rm", "-f", *ids)
    assert front.json("ps", "-a") == []
