"""The root of a container: private, made of what was asked, and no way out of it for a hostile one."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from netd.errors import Invalid
from netd.runtime import syscalls
from netd.runtime.spec import Frame, Volume
from tests.runtime.box import Box


@pytest.fixture
def rootfs(busybox: Path, tmp_path: Path) -> Path:
    """A busybox of the test's own, to be made hostile."""
    return Path(shutil.copytree(busybox, tmp_path / "rootfs", symlinks=True))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that nothing may reach."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("secret")
    return path


def tree(path: Path) -> dict[str, Any]:
    """Everything below a directory: names, kinds, contents."""
    return {
        str(entry.relative_to(path)): (entry.lstat().st_mode, entry.read_bytes() if entry.is_file() else b"")
        for entry in path.rglob("*")
    }


def test_writes_stay_in_the_container(box: Box, rootfs: Path) -> None:
    before = tree(rootfs)
    script = "echo x >/new; echo x >>/etc/passwd; rm -r /tmp; mkdir /dir; cat /new"
    assert box.run(script.replace("rm", "busybox rm"), rootfs=str(rootfs)).stdout == "x\n"
    assert tree(rootfs) == before
    assert box.run("test -e /new || echo fresh", rootfs=str(rootfs)).stdout == "fresh\n"


def test_writes_to_the_host_s_root_stay_in_the_container(box: Box) -> None:
    mark = "/usr/netd-runtime-test"
    assert box.run(f"echo x >{mark}; cat {mark}").stdout == "x\n"
    assert not Path(mark).exists()


def test_the_host_is_not_mounted_anywhere(box: Box) -> None:
    """Of the host's mounts only the root, as the overlay's lower layer, and the three files remain."""
    points = [line.split()[1] for line in box.run("cat /proc/mounts").stdout.splitlines()]
    assert points[0] == "/etc/hosts" or points[0] == "/"
    assert not [p for p in points if p != "/" and not p.startswith(("/etc/", "/dev", "/proc", "/sys"))]


@pytest.mark.parametrize("kind", ["host", "busybox"])
def test_read_only(box: Box, busybox: Path, kind: str) -> None:
    rootfs = "host" if kind == "host" else str(busybox)
    script = "touch /new /etc/new; echo x >/dev/shm/x && cat /dev/shm/x; mkdir -p /a/b"
    result = box.run(script, rootfs=rootfs, read_only=True, workdir="/made")
    assert result.stdout == "x\n"
    assert result.stderr.count("Read-only file system") == 3


def test_the_three_files_are_the_container_directory_s(box: Box) -> None:
    spec = box.spec(
        "/bin/sh",
        "-c",
        "cat /etc/hosts /etc/hostname /etc/resolv.conf; read _; cat /etc/hosts",
        interactive=True,
    )
    directory = box.runtime.directory(spec.id)
    directory.mkdir()
    (directory / "hosts").write_text("10.0.0.1 web\n")
    (directory / "resolv.conf").write_text("nameserver 10.0.0.1\n")
    box.do(box.runtime.create(spec))
    box.do(box.runtime.run(spec.id))
    box.says(spec.id, "10.0.0.1 web\nbox\nnameserver 10.0.0.1\n")
    with (directory / "hosts").open("w") as file:  # in place, as their owner does
        file.write("10.0.0.2 db\n")

    async def go_on() -> None:
        attached = await box.runtime.attach(spec.id)
        await attached.send(Frame("stdin", b"\n"))
        await attached.close()
        await box.runtime.wait(spec.id)

    denied = box.exec(spec.id, "echo x >/etc/hosts; rm /etc/hosts; chmod 777 /etc/hosts").stderr
    assert denied.count("Read-only file system") == 2
    assert "busy" in denied
    box.do(go_on())
    assert box.logged(spec.id).endswith("nameserver 10.0.0.1\n10.0.0.2 db\n")
    box.remove(spec.id)


def test_a_resolv_conf_that_is_a_link_is_replaced(box: Box, rootfs: Path, outside: Path) -> None:
    """systemd's hosts have one, into a /run that is empty here."""
    (rootfs / "etc" / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (rootfs / "etc" / "hosts").symlink_to(outside / "secret")
    result = box.run("cat /etc/hostname; readlink /etc/resolv.conf /etc/hosts", rootfs=str(rootfs))
    assert result.stdout == "box\n"
    assert (outside / "secret").read_text() == "secret"


def test_volumes(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    result = box.run(
        "cat /data/file /etc/one; echo x >/data/new; echo x >>/read-only/file; ls /deep/er",
        volumes=(
            Volume(source=str(tmp_path), target="/data"),
            Volume(source=str(tmp_path), target="/read-only", read_only=True),
            Volume(source=str(tmp_path), target="/deep/er"),
            Volume(source=str(tmp_path / "file"), target="/etc/one"),
        ),
    )
    assert result.stdout == "from the host\nfrom the host\nfile\nnew\n"
    assert "Read-only file system" in result.stderr
    assert (tmp_path / "new").read_text() == "x\n"


def test_mounts_made_inside_do_not_come_out(box: Box, tmp_path: Path) -> None:
    script = "mount -t tmpfs none /v && touch /v/inside && ls /v"
    volumes = (Volume(source=str(tmp_path), target="/v"),)
    assert box.run(script, volumes=volumes, cap_add=("SYS_ADMIN",)).stdout == "inside\n"
    assert not list(tmp_path.iterdir())


def test_a_read_only_volume_is_so_below_as_well(box: Box, tmp_path: Path) -> None:
    """A mount below the source would stay writable by a plain `ro` bind mount."""
    for name in ("top", "below"):
        (tmp_path / name).mkdir()
    (tmp_path / "top" / "point").mkdir()

    async def mount(make: bool) -> None:
        point = tmp_path / "top" / "point"
        if not make:
            syscalls._checked(syscalls._libc.umount2(str(point).encode(), 2), "umount2")
            return
        source = syscalls.open_tree(syscalls.AT_FDCWD, str(tmp_path / "below"))
        target = syscalls.openat2(syscalls.AT_FDCWD, str(point), 0o10000000, 0)
        syscalls.move_mount(source, target)
        for fd in (source, target):
            os.close(fd)

    # Made in the box's namespace, of which the launcher of a fresh box would have a copy.
    box.do(mount(True))
    try:
        volume = Volume(source=str(tmp_path / "top"), target="/v", read_only=True)
        result = box.run("touch /v/x; touch /v/point/x; ls -d /v/point", volumes=(volume,))
    finally:
        box.do(mount(False))
    assert result.stderr.count("Read-only file system") == 2


def test_device_nodes_of_a_root_file_system_or_volume_do_not_work(
    box: Box, rootfs: Path, tmp_path: Path
) -> None:
    for directory in (rootfs, tmp_path):
        os.mknod(directory / "node", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    script = "cat /node; cat /v/node; head -c 1 /dev/zero | wc -c"
    volumes = (Volume(source=str(tmp_path), target="/v"),)
    result = box.run(
        script.replace("head", "busybox head").replace("wc", "busybox wc"),
        rootfs=str(rootfs),
        volumes=volumes,
    )
    assert result.stderr.count("Permission denied") == 2
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_system_directory_that_is_a_link_is_refused(
    box: Box, rootfs: Path, outside: Path, name: str
) -> None:
    (rootfs / name).symlink_to(outside)
    with pytest.raises(Exception, match="cannot set up the container"):
        box.run("true", rootfs=str(rootfs))
    assert list(outside.iterdir()) == [outside / "secret"]


LINKS = (
    "{outside}",
    "/..{outside}",
    "../../../../../../../../../..{outside}",
    "/proc/self/root{outside}",
    "/proc/1/cwd",
)


@pytest.mark.parametrize("link", LINKS)
def test_hostile_links_lead_nowhere(box: Box, rootfs: Path, outside: Path, tmp_path: Path, link: str) -> None:
    """In every place that netd resolves a path in: targets, /etc, the working directory, passwd."""
    target = link.format(outside=outside)
    source = tmp_path / "source"
    source.mkdir()
    (source / "inside").write_text("volume")
    (rootfs / "v").symlink_to(target)
    (rootfs / "w").symlink_to(target)
    before = tree(outside)
    try:
        result = box.run(
            f"ls /v; pwd; ls {outside} 2>/dev/null; cat /v/secret 2>/dev/null",
            rootfs=str(rootfs),
            workdir="/w/made",
            volumes=(Volume(source=str(source), target="/v"),),
        )
    except Invalid as refusal:
        assert "leads nowhere inside the container" in str(refusal)  # noqa: PT017
    else:
        assert "secret" not in result.stdout
    assert tree(outside) == before


def test_hostile_etc_leads_nowhere(box: Box, rootfs: Path, outside: Path) -> None:
    shutil.rmtree(rootfs / "etc")
    (rootfs / "etc").symlink_to(outside)
    before = tree(outside)
    with pytest.raises(Invalid, match="/etc is a link that leads nowhere inside the container"):
        box.run("true", rootfs=str(rootfs))
    (rootfs / "etc").unlink()
    (rootfs / "etc").symlink_to("/../tmp")
    result = box.run("cat /etc/hostname; ls /tmp", rootfs=str(rootfs))
    assert result.stdout == "box\nhostname\nhosts\nresolv.conf\n"
    assert tree(outside) == before


def test_hostile_passwd_is_not_waited_for(box: Box, rootfs: Path, outside: Path) -> None:
    (rootfs / "etc" / "passwd").unlink()
    os.mkfifo(rootfs / "etc" / "passwd")
    assert "Uid:\t5\t" in box.run("cat /proc/self/status", rootfs=str(rootfs), user="5").stdout
    (rootfs / "etc" / "passwd").unlink()
    (outside / "passwd").write_text("ann:x:77:77::/:/bin/sh\n")
    (rootfs / "etc" / "passwd").symlink_to(outside / "passwd")
    with pytest.raises(Invalid, match="no user 'ann'"):
        box.run("true", rootfs=str(rootfs), user="ann")


def test_a_volume_target_in_another_hostile_volume(box: Box, tmp_path: Path, outside: Path) -> None:
    evil, good = tmp_path / "evil", tmp_path / "good"
    evil.mkdir()
    good.mkdir()
    (evil / "sub").symlink_to(outside)
    before = tree(outside)
    volumes = (Volume(source=str(evil), target="/e"), Volume(source=str(good), target="/e/sub"))
    with pytest.raises(Invalid, match="/e/sub is a link that leads nowhere inside the container"):
        box.run("true", volumes=volumes)
    (evil / "sub").unlink()
    (evil / "sub").symlink_to("/etc")  # the container's own, wherever it leads on the host
    (good / "mark").write_text("x")
    assert box.run("ls /etc", volumes=volumes).stdout == "hostname\nhosts\nmark\nresolv.conf\n"
    assert tree(outside) == before
    assert not Path("/etc/mark").exists()


def test_what_a_file_cannot_be_mounted_on(box: Box, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Invalid, match="is a directory inside the container"):
        box.run("true", volumes=(Volume(source=str(tmp_path / "file"), target="/usr"),))
    with pytest.raises(Invalid, match="mount target '/etc/passwd/x'"):
        box.run("true", volumes=(Volume(source=str(tmp_path / "file"), target="/etc/passwd/x"),))


def test_a_program_with_file_capabilities_can_be_executed(box: Box, tmp_path: Path) -> None:
    """ping of Debian carries NET_RAW; outside the bounding set that is EPERM at execve, but for nosuid."""
    program = tmp_path / "program"
    shutil.copy("/bin/busybox", program)
    # VFS_CAP_REVISION_2 with the effective bit; permitted: NET_RAW (13). linux/capability.h
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    volumes = (Volume(source=str(program), target="/usr/local/bin/busybox"),)
    result = box.run("/usr/local/bin/busybox grep CapEff /proc/self/status", volumes=volumes, user="1000")
    assert int(result.stdout.split()[1], 16) == 0


def test_awkward_names(box: Box, busybox: Path, tmp_path: Path) -> None:
    """An overlay's option string has no way to say these; descriptors have."""
    root = Path(shutil.copytree(busybox, tmp_path / "a:b,c=d\\e f", symlinks=True))
    source = tmp_path / "v:w,x"
    source.mkdir()
    (source / "f").write_text("ok")
    volumes = (Volume(source=str(source), target="/x,y:z w"),)
    assert box.run("cat '/x,y:z w/f'", rootfs=str(root), volumes=volumes).stdout == "ok"


def test_a_rootfs_without_anything(box: Box, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match="was not found"):
        box.run("true", rootfs=str(tmp_path / "empty"))
    assert not list((tmp_path / "empty").iterdir())
