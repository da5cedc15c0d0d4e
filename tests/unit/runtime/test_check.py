from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from netd.errors import Invalid
from netd.runtime import check
from netd.runtime.spec import ContainerSpec, Limits, Process, Volume

GOOD = ContainerSpec(id="0a1b", process=Process(argv=("true",)), hostname="web", netns="/run/netd/netns/web")


def test_what_is_good_passes(tmp_path: Path) -> None:
    check.container(GOOD)
    check.container(
        msgspec.structs.replace(
            GOOD,
            hostname="a.very-long.Name9",
            rootfs=str(tmp_path),
            volumes=(Volume(source="/etc", target="/a/b"), Volume(source="/etc/passwd", target="/proc2")),
            limits=Limits(memory=6 << 20, cpus=0.01, pids=1),
            cap_add=("ALL",),
            sysctls={"net.ipv4.conf.eth0/100.forwarding": "1", "kernel.shm_rmid_forced": "1"},
        )
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": ""}, "container id ''"),
        ({"id": "../x"}, "container id"),
        ({"id": "A"}, "container id 'A'"),
        ({"hostname": ""}, "hostname ''"),
        ({"hostname": "-a"}, "hostname '-a'"),
        ({"hostname": "a" * 65}, "hostname"),
        ({"hostname": "a b"}, "hostname"),
        ({"rootfs": "relative"}, "rootfs 'relative' must be an absolute path"),
        ({"rootfs": "/nosuch"}, "rootfs '/nosuch' is not a directory"),
        ({"rootfs": "/etc/passwd"}, "is not a directory"),
        ({"rootfs": "/"}, "use host, which hides them"),
        ({"rootfs": "/usr/.."}, "use host, which hides them"),
        ({"volumes": (Volume(source="x", target="/x"),)}, "source 'x' must be an absolute path"),
        ({"volumes": (Volume(source="/etc", target="x"),)}, "target 'x' must be an absolute path"),
        ({"volumes": (Volume(source="/nosuch", target="/x"),)}, "the source does not exist"),
        ({"volumes": (Volume(source="/etc", target="/"),)}, "for / use --rootfs"),
        ({"volumes": (Volume(source="/etc", target="/a/../.."),)}, "below /"),
        ({"volumes": (Volume(source="/etc", target="/proc/sys"),)}, "nothing can be mounted"),
        ({"volumes": (Volume(source="/etc", target="//dev/"),)}, "nothing can be mounted"),
        ({"volumes": (Volume(source="/etc", target="/a/../sys"),)}, "below /"),
        (
            {"volumes": (Volume(source="/etc", target="/x"), Volume(source="/var", target="//x/"))},
            "two volumes",
        ),
        ({"cap_drop": ("FLY",)}, "--cap-drop 'FLY'"),
        ({"sysctls": {"kernel.hostname": "x"}}, "--sysctl kernel.hostname"),
        ({"netns": "", "sysctls": {"net.ipv4.ip_forward": "1"}}, "would change the host"),
        ({"limits": Limits(memory=1000)}, "--memory 1000"),
        ({"limits": Limits(memory=-1)}, "--memory -1"),
        ({"limits": Limits(cpus=0.001)}, "--cpus 0.001"),
        ({"limits": Limits(cpus=-1)}, "--cpus -1"),
        ({"limits": Limits(pids=-1)}, "a limit of -1"),
        ({"log_bytes": 10}, "a log of 10 bytes"),
        ({"hide": ("x",)}, "hidden path 'x'"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check.container(msgspec.structs.replace(GOOD, **change))


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (Process(argv=()), "no command"),
        (Process(argv=("",)), "no command"),
        (Process(argv=("a\0b",)), "NUL"),
        (Process(argv=("a",), env={"A=B": "c"}), "environment variable 'A=B'"),
        (Process(argv=("a",), env={"": "c"}), "environment variable ''"),
        (Process(argv=("a",), env={"A": "\0"}), "NUL"),
        (Process(argv=("a",), workdir="x"), "working directory 'x'"),
    ],
)
def test_processes(process: Process, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check.process(process)


@pytest.mark.parametrize(
    "key",
    [
        *("net..ipv4", "net.", "net", "net./etc", "net.ipv4/../../x", "net.ipv4.conf.a//b", "vm.swappiness"),
        *(
            "kernel.shmmaxx",
            "kernel.shm",
            "fs.mqueue",
            "fs.mqueue.",
            "fs.file-max",
            "network.x",
            "net.a b",
            "net.a\n",
        ),
        *("kernel/shmmax", "net.ipv4.conf./x"),
    ],
)
def test_sysctls_that_are_not_the_container_s(key: str) -> None:
    with pytest.raises(Invalid, match="--sysctl"):
        check.container(msgspec.structs.replace(GOOD, sysctls={key: "1"}))
