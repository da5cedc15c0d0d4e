"""/proc, /sys and the sysctls that are a container's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from netd.errors import Invalid
from netd.runtime.spec import ContainerSpec
from tests.runtime.box import Box


def test_proc_shows_the_container_s_processes_only(box: Box) -> None:
    assert box.run("cd /proc; ls -d [0-9]*").stdout.split()[:2] == ["1", "2"]


def test_masked_files_are_empty(box: Box) -> None:
    masked = "kcore keys timer_list sysrq-trigger interrupts sched_debug latency_stats timer_stats"
    result = box.run(f"for f in {masked}; do test -e /proc/$f && head -c 100 /proc/$f; done; true")
    assert (result.stdout, result.stderr) == ("", "")
    result = box.run(
        "for d in /proc/acpi /proc/scsi /proc/asound /sys/firmware; do test -d $d && ls -A $d; done; true"
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert Path("/proc/timer_list").exists()
    assert Path("/sys/firmware").is_dir()


def test_masks_cannot_be_used_to_write(box: Box) -> None:
    assert (
        "denied" in box.run("echo b >/proc/sysrq-trigger; rm /proc/acpi/x").stderr.lower()
        or not Path("/proc/sysrq-trigger").exists()
    )


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/hostname", "/proc/sys/vm/swappiness", "/proc/irq/default_smp_affinity"]
)
def test_read_only_parts(box: Box, path: str) -> None:
    if not Path(path).exists():
        pytest.skip("not on this kernel")
    assert "Read-only file system" in box.run(f"cat {path} && echo 1 >{path}").stderr


def test_sys_is_read_only_and_of_this_network(box: Box) -> None:
    result = box.run("ls /sys/class/net; echo x >/sys/kernel/uevent_helper; rmdir /sys/class")
    assert result.stdout == "lo\n"
    assert result.stderr.count("Read-only file system") == 2


def test_no_control_group_can_be_reached_for_writing(box: Box) -> None:
    """release_agent of cgroup v1 runs a program on the host (CVE-2022-0492)."""
    result = box.run(
        "find / -xdev -name release_agent 2>/dev/null; find /sys -name release_agent -o -name cgroup.procs"
    )
    assert result.stdout == ""
    result = box.run("mount -t cgroup -o memory none /tmp; unshare -C true; cat /proc/self/cgroup")
    assert all(line.endswith(":/") for line in result.stdout.splitlines())
    assert result.stderr.count("ermission denied") + result.stderr.count("not permitted") == 2


def test_sysctls_of_its_namespaces(box: Box) -> None:
    sysctls = {
        "net.ipv4.ip_unprivileged_port_start": "1000",
        "kernel.shmmax": "12345678",
        "fs.mqueue.msg_max": "20",
    }
    script = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shmmax fs/mqueue/msg_max"
    before = [Path("/proc/sys", key.replace(".", "/")).read_text() for key in sysctls]
    assert box.run(script, sysctls=sysctls).stdout.split() == ["1000", "12345678", "20"]
    assert [Path("/proc/sys", key.replace(".", "/")).read_text() for key in sysctls] == before


def test_ping_groups(box: Box) -> None:
    assert box.run("cat /proc/sys/net/ipv4/ping_group_range").stdout.split() == ["0", "2147483647"]
    own = box.run("cat /proc/sys/net/ipv4/ping_group_range", sysctls={"net.ipv4.ping_group_range": "5 6"})
    assert own.stdout.split() == ["5", "6"]


def test_sysctls_of_an_interface_whose_name_has_a_dot(box: Box) -> None:
    with pytest.raises(Invalid, match="no such setting"):
        box.run("true", sysctls={"net.ipv4.conf.eth0/100.forwarding": "1"})
    assert (
        box.run(
            "cat /proc/sys/net/ipv4/conf/lo/forwarding", sysctls={"net.ipv4.conf.lo.forwarding": "1"}
        ).stdout
        == "1\n"
    )


def test_a_refused_value_is_told(box: Box) -> None:
    spec: ContainerSpec = box.spec("true", sysctls={"kernel.shmmax": "many"})
    with pytest.raises(Invalid, match=r"--sysctl kernel\.shmmax=many: the kernel refuses .*: Invalid"):
        box.do(box.runtime.create(spec))
    spec = box.spec("true", sysctls={"net.ipv4.nope": "1"})
    with pytest.raises(Invalid, match=r"--sysctl net\.ipv4\.nope: a container has no such setting"):
        box.do(box.runtime.create(spec))
