"""What a process finds inside: its PID 1, its rights, its descriptors, its user."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from netd.errors import Invalid
from netd.runtime import capabilities
from netd.runtime.spec import Process, Volume
from tests.runtime.box import Box, eventually


def _status(text: str) -> dict[str, str]:
    """/proc/PID/status as a mapping."""
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _capabilities(box: Box, **options: Any) -> dict[str, int]:
    found = _status(box.run("cat /proc/self/status", **options).stdout)
    return {key: int(found[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def test_namespaces_are_all_its_own(box: Box) -> None:
    names = ("pid", "net", "ipc", "mnt", "uts", "cgroup")
    inside = box.run("cd /proc/self/ns; readlink " + " ".join(names)).stdout.split()
    outside = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in names]
    assert len(inside) == len(names)
    assert not set(inside) & set(outside)


def test_the_network_is_the_one_that_was_given(box: Box) -> None:
    found = os.fstat(box.network.fd)
    assert box.run("readlink /proc/self/ns/net").stdout == f"net:[{found.st_ino}]\n"


def test_with_the_host_s_network_ping_groups_are_left_alone(box: Box) -> None:
    script = "cat /proc/sys/net/ipv4/ping_group_range; readlink /proc/self/ns/net"
    own = box.run(script, netns="", netns_inode=0).stdout.split("\n")
    assert own[0] == "1\t0"  # the kernel's default: nobody
    assert own[1] != f"net:[{os.fstat(box.network.fd).st_ino}]"


def test_hostname(box: Box) -> None:
    assert box.run("hostname; cat /etc/hostname", hostname="web.example").stdout == "web.example\n" * 2


def test_pid_1_reaps_orphans(box: Box) -> None:
    id = box.start("(sleep 0.05 & exec sleep 0.01) & wait; echo ready; sleep 60")
    box.says(id, "ready")
    eventually("no zombie", lambda: "defunct" not in box.exec(id, "ps ax").stdout)
    assert "netd-init" in box.exec(id, "ps ax").stdout
    box.remove(id)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2, signal.SIGWINCH, signal.SIGRTMIN]
)
def test_pid_1_forwards_signals(box: Box, number: signal.Signals) -> None:
    """Those that somebody on the host sends to it, without asking netd."""
    id = box.start(f"trap 'echo got it; exit 4' {int(number)}; echo ready; while :; do sleep 0.05; done")
    box.says(id, "ready")
    os.kill(box.do(box.runtime.status(id)).pid, number)
    assert box.do(box.runtime.wait(id)).exit_code == 4
    box.remove(id)


def test_pid_1_is_out_of_reach(box: Box) -> None:
    """Its executable, memory and descriptors are the host's Python (CVE-2019-5736)."""
    script = """
        for name in exe root cwd; do readlink /proc/1/$name && echo "reached $name"; done
        ls -A /proc/1/fd
        ls -A /proc/1/map_files 2>/dev/null
        cat /proc/1/environ /proc/1/maps /proc/1/mem 2>/dev/null && echo reached memory
        tr -d '\\0' </proc/1/cmdline
    """
    assert box.run(script).stdout == "netd-init"


def test_pid_1_cannot_be_written_to_even_with_ptrace(box: Box) -> None:
    """Its executable is a read-only mount; and while it runs, which is always, it is busy."""
    code = """
import os
executable = os.open("/proc/1/exe", os.O_RDONLY)
print(os.read(executable, 4), bool(os.fstatvfs(executable).f_flag & os.ST_RDONLY))
for path in ("/proc/1/exe", f"/proc/self/fd/{executable}"):
    try:
        os.open(path, os.O_WRONLY)
    except OSError as error:
        print(error.strerror)
"""
    result = box.python(code, cap_add=("SYS_PTRACE",))
    assert result.stdout == "b'\\x7fELF' True\nText file busy\nText file busy\n", result.stderr


def test_pid_1_has_no_descriptors_and_hardly_any_rights(box: Box) -> None:
    id = box.start("sleep 60")
    pid = box.do(box.runtime.status(id)).pid
    eventually("no descriptors", lambda: not list(Path(f"/proc/{pid}/fd").iterdir()))

    def filtered() -> dict[str, str]:
        found = _status(Path(f"/proc/{pid}/status").read_text())
        return found if found["Seccomp"] == "2" else {}

    status = eventually("the filter", filtered)
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == capabilities.mask({"KILL"})
    assert status["NoNewPrivs"] == "1"
    box.remove(id)


def test_default_capabilities(box: Box) -> None:
    found = _capabilities(box)
    wanted = capabilities.mask(capabilities.DEFAULT)
    assert found == {"CapInh": 0, "CapPrm": wanted, "CapEff": wanted, "CapBnd": wanted, "CapAmb": 0}


def test_capabilities_are_added_and_dropped(box: Box) -> None:
    found = _capabilities(box, cap_add=("NET_RAW",), cap_drop=("CHOWN",))
    wanted = capabilities.mask((capabilities.DEFAULT | {"NET_RAW"}) - {"CHOWN"})
    assert found["CapEff"] == found["CapBnd"] == wanted
    assert _capabilities(box, cap_drop=("ALL",))["CapBnd"] == 0
    everything = _capabilities(box, cap_add=("ALL",))
    assert everything["CapEff"] == capabilities.possible() == everything["CapBnd"]


def test_a_user_without_root_has_no_capabilities(box: Box) -> None:
    found = _capabilities(box, user="1000:1000")
    assert (found["CapPrm"], found["CapEff"], found["CapInh"], found["CapAmb"]) == (0, 0, 0, 0)


def test_a_set_user_id_program_gives_nothing(box: Box, tmp_path: Path) -> None:
    shutil.copy("/bin/busybox", tmp_path / "busybox")
    (tmp_path / "busybox").chmod(0o4755)
    tmp_path.chmod(0o755)
    result = box.run(
        "/v/busybox id -u; grep NoNewPrivs /proc/self/status",
        user="1000:1000",
        volumes=(Volume(source=str(tmp_path), target="/v"),),
    )
    assert result.stdout.split() == ["1000", "NoNewPrivs:", "1"]


def test_only_the_three_standard_descriptors_are_open(box: Box) -> None:
    assert box.run("ls /proc/self/fd; ls -l /proc/self/fd >&2").stdout.split() == [
        "0",
        "1",
        "2",
        "3",
    ]  # 3: ls's own


def test_an_exec_has_only_the_three_standard_descriptors(box: Box) -> None:
    id = box.start("sleep 60")
    assert box.exec(id, "ls /proc/self/fd").stdout.split() == ["0", "1", "2", "3"]
    box.remove(id)


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        ("", "0 0 0"),
        ("54321", "54321 0 0"),
        ("1000:2000", "1000 2000 2000"),
        ("daemon", "1 1 1"),
        ("daemon:games", "1 60 60"),
        ("2147483647", "2147483647 0 0"),
    ],
)
def test_users(box: Box, user: str, wanted: str) -> None:
    result = box.run("echo $(id -u) $(id -g) $(id -G)", user=user)
    assert result.stdout.strip() == wanted


def test_the_container_s_own_user_names_count(box: Box, busybox: Path) -> None:
    result = box.run("id; echo $HOME", user="ann", rootfs=str(busybox))
    assert result.stdout == "uid=1000(ann) gid=1000(ann) groups=10(wheel),1000(ann)\n/home/ann\n"


def test_a_user_can_reopen_its_standard_output(box: Box) -> None:
    assert box.run("echo one >/dev/stdout; echo two >/proc/self/fd/1", user="1000").stdout == "one\ntwo\n"


def test_the_environment_is_what_was_given(box: Box) -> None:
    result = box.run_argv("/usr/bin/env", env={"PATH": "/bin", "A": "b=c\nd"})
    assert sorted(result.stdout.split("\n")) == ["", "A=b=c", "HOME=/root", "PATH=/bin", "d"]


def test_the_path_of_the_environment_is_searched(box: Box) -> None:
    assert box.run_argv("busybox", "echo", "x", env={"PATH": "/nosuch:/bin"}).stdout == "x\n"
    with pytest.raises(Invalid, match="not found in \\$PATH"):
        box.run_argv("busybox", env={"PATH": "/nosuch"})


def test_working_directory(box: Box) -> None:
    assert box.run("pwd", workdir="/usr/lib").stdout == "/usr/lib\n"
    assert box.run("pwd; stat -c %u:%a .", workdir="/made/for/it").stdout == "/made/for/it\n0:755\n"


def test_limits_of_resources(box: Box) -> None:
    assert box.run("ulimit -Sn; ulimit -Sc; ulimit -Hc").stdout.split() == ["1024", "0", "0"]
    assert int(box.run("ulimit -Hn").stdout) <= 524288


def test_signals_are_as_a_program_expects_them(box: Box) -> None:
    status = _status(box.run("cat /proc/self/status").stdout)
    internal = 1 << 31 | 1 << 32  # 32 and 33: posix_spawn of the C library ignores these two of its own
    assert (int(status["SigBlk"], 16), int(status["SigIgn"], 16) & ~internal) == (0, 0)


def test_exec_is_inside_in_every_respect(box: Box) -> None:
    id = box.start("echo ready; sleep 60", hostname="inner", env={"PATH": "/bin"})
    box.says(id, "ready")
    names = "pid net ipc mnt uts cgroup"
    namespaces = f"cd /proc/self/ns; readlink {names}; cd /proc/2/ns; readlink {names}"
    found = box.exec(id, namespaces).stdout.split()
    assert found[:6] == found[6:]
    status = _status(box.exec(id, "cat /proc/self/status").stdout)
    first = _status(box.exec(id, "cat /proc/2/status").stdout)
    for key in (
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapInh",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "SigIgn",
        "SigBlk",
    ):
        assert status[key] == first[key], key
    assert box.exec(id, "cat /proc/self/cgroup").stdout == box.exec(id, "cat /proc/2/cgroup").stdout
    assert box.exec(id, "pwd; hostname; ulimit -Sn").stdout.split() == ["/", "inner", "1024"]
    box.remove(id)


def test_exec_s_options(box: Box) -> None:
    id = box.start("sleep 60")
    assert box.exec(id, "exit 6").code == 6
    assert box.exec(id, "kill -9 $$").code == 137
    assert box.exec(id, "echo x >&2").stderr == "x\n"
    assert (
        box.exec(id, "id -u; pwd; echo $A", user="7", workdir="/tmp", env={"A": "b"}).stdout == "7\n/tmp\nb\n"
    )
    with pytest.raises(Invalid, match="command 'nosuch' was not found"):
        box.do(box.runtime.exec(id, Process(argv=("nosuch",))))
    with pytest.raises(Invalid, match="no user 'nosuch'"):
        box.do(box.runtime.exec(id, Process(argv=("true",), user="nosuch")))
    with pytest.raises(Invalid, match="working directory '/nosuch'"):
        box.do(box.runtime.exec(id, Process(argv=("true",), workdir="/nosuch")))
    box.remove(id)


def test_the_end_of_a_container_ends_what_was_exec_d(box: Box) -> None:
    id = box.start("sleep 60")
    attached = box.do(box.runtime.exec(id, Process(argv=("sleep", "1000"))))

    async def rest() -> list[int]:
        return [frame.code async for frame in attached if frame.kind == "exit"]

    box.do(box.runtime.kill(id, signal.SIGTERM))
    assert box.do(rest()) == [137]
    box.do(attached.close())
    box.remove(id)
