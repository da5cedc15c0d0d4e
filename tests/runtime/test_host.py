"""What a container with the host's root file system must not see."""

from __future__ import annotations

import os
from pathlib import Path

from netd.runtime import host, syscalls
from tests.runtime.box import Box


def test_places_of_data_are_empty_and_the_container_s_own(box: Box) -> None:
    empty = "/root /home /run /tmp /srv /mnt /media /var/log /var/tmp /var/spool /var/mail /var/backups"
    script = (
        f"for d in {empty}; do test -d $d || continue; ls -A $d; echo x >$d/x && cat $d/x; done | sort -u"
    )
    result = box.run(script)
    assert (result.stdout, result.stderr) == ("x\n", "")
    assert box.run("stat -c %a /root /tmp").stdout == "700\n1777\n"


def test_secrets_of_etc_are_missing(box: Box) -> None:
    files = "/etc/shadow /etc/gshadow /etc/shadow- /etc/security/opasswd"
    assert box.run(f"for f in {files}; do test -e $f && echo $f; done; ls -A /etc/ssl/private").stdout == ""
    assert "root:" in box.run("cat /etc/passwd").stdout


def test_nothing_that_others_may_not_read_is_left_in_etc(box: Box) -> None:
    found = box.run("find /etc ! -type l ! -perm -004 ! -path /etc/ssl/private").stdout.split()
    hidden_directories = {path for path in found if Path(path).is_dir()}
    assert set(found) == hidden_directories
    for path in hidden_directories:
        assert box.run(f"ls -A {path}").stdout == ""


def test_a_new_secret_is_hidden(box: Box) -> None:
    """Also one in a new directory; and once it can be read by all it is shown."""
    secret = Path(f"/etc/netd-runtime-test-{os.getpid()}")
    secret.mkdir()
    try:
        (secret / "key").write_text("secret")
        (secret / "key").chmod(0o600)
        (secret / "public").write_text("public")
        # A scan is believed for some seconds: what appeared in the meantime is asked for by name.
        shown = box.run(f"ls {secret}", hide=(str(secret / "key"),)).stdout
        assert shown == "public\n"
    finally:
        (secret / "key").unlink()
        (secret / "public").unlink()
        secret.rmdir()


def test_a_secret_that_has_vanished_since_does_no_harm(box: Box) -> None:
    secret = Path(f"/etc/netd-runtime-test-{os.getpid()}")
    (secret / "deep").mkdir(parents=True)
    (secret / "deep" / "key").write_text("secret")
    paths = (str(secret / "deep" / "key"),)
    try:
        view = host.View("/")
        hidden = view.hidden(paths)
    finally:
        (secret / "deep" / "key").unlink()
        (secret / "deep").rmdir()
        secret.rmdir()
    upper = syscalls.new_filesystem("tmpfs", 0)
    host.conceal(upper, hidden, "/")
    names = {path.name for path in Path(f"/proc/self/fd/{upper}/etc").iterdir()}
    os.close(upper)
    assert "shadow" in names
    assert secret.name not in names


def test_state_of_services_is_empty_and_that_of_programs_is_there(box: Box) -> None:
    inside = box.run("cd /var/lib; for d in *; do test -d $d && echo $d $(ls -A $d | wc -l); done").stdout
    counts = dict(line.rsplit(" ", 1) for line in inside.splitlines())
    assert int(counts.pop("dpkg")) > 0
    assert {name for name in counts if counts[name] != "0"} <= {
        "apt",
        "pam",
        "python",
        "ucf",
        "xml-core",
        "sgml-base",
        "ca-certificates-java",
    }


def test_only_the_system_s_directories_are_at_the_top(box: Box) -> None:
    system = (
        "bin boot dev etc home lib lib32 lib64 libx32 media mnt opt proc root run sbin srv sys tmp usr var"
    )
    assert set(box.run("ls -A /").stdout.split()) <= {*system.split(" ")}


def test_the_daemon_s_directories_and_further_paths_are_hidden(box: Box) -> None:
    directory = Path("/opt/netd-runtime-test")
    (directory / "state").mkdir(parents=True)
    try:
        (directory / "state" / "file").write_text("secret")
        (directory / "plain").write_text("secret")
        hide = (str(directory / "state"), str(directory / "plain"), "/nosuch/path")
        result = box.run(f"ls -A {directory} {directory}/state; ls -A {box.run_dir}", hide=hide)
        assert result.stdout.split() == [f"{directory}:", "state", f"{directory}/state:"]
    finally:
        (directory / "state" / "file").unlink()
        (directory / "plain").unlink()
        (directory / "state").rmdir()
        directory.rmdir()


def test_what_is_hidden_cannot_be_uncovered(box: Box) -> None:
    """Not even with the right to mount: it lies in the overlay, not in mounts over it."""
    script = """
        umount -l /root /run /etc/shadow 2>/dev/null
        ls -A /root; cat /etc/shadow; rm -rf /root; mkdir /root; ls -A /root
    """
    result = box.run(script, cap_add=("SYS_ADMIN",))
    assert result.stdout == ""
    assert "/etc/shadow" in result.stderr
