from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netd.errors import Invalid
from netd.runtime import user
from netd.runtime.user import User, resolve

PASSWD = """root:x:0:0:root:/root:/bin/sh
ann:x:1000:1000::/home/ann:/bin/sh
7:x:1007:1007::/seven:/bin/sh
broken:x:many:1::/:/bin/sh
short:x:1
huge:x:99999999999:1::/:/bin/sh
"""
GROUP = """root:x:0:
ann:x:1000:
wheel:x:10:ann,root
disk:x:6:ann
broken:x:many:ann
huge:x:4294967295:ann
"""


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", User(0, 0, (0, 10), "/root")),
        ("root", User(0, 0, (0, 10), "/root")),
        ("ann", User(1000, 1000, (6, 10, 1000), "/home/ann")),
        ("1000", User(1000, 1000, (6, 10, 1000), "/home/ann")),
        ("ann:wheel", User(1000, 10, (), "/home/ann")),
        ("ann:77", User(1000, 77, (), "/home/ann")),
        ("4242", User(4242, 0, (0,), "/")),
        ("4242:4343", User(4242, 4343, (), "/")),
        ("7", User(1007, 1007, (1007,), "/seven")),  # a name first, then a number
        ("2147483647:2147483647", User(2147483647, 2147483647, (), "/")),
    ],
)
def test_who(text: str, wanted: User) -> None:
    assert resolve(text, PASSWD, GROUP) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bob", "no user 'bob'"),
        ("ann:nobody", "no group 'nobody'"),
        ("broken", "no user 'broken'"),
        ("short", "no user 'short'"),
        ("huge", "no user 'huge'"),
        ("-1", "no user '-1'"),
        ("2147483648", "2147483648 is too large"),
        ("0:4294967296", "4294967296 is too large"),
        ("9" * 5000, "is too large"),
        ("ann:", "no group ''"),
        (":5", "no user ''"),
    ],
)
def test_whom_there_is_not(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        resolve(text, PASSWD, GROUP)


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=20))
def test_no_file_makes_it_wild(passwd: str, group: str, who: str) -> None:
    try:
        found = resolve(who, passwd, group)
    except Invalid:
        return
    assert all(0 <= number <= user.HIGHEST_ID for number in (found.uid, found.gid, *found.groups))


def test_files_are_read_with_caution(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_PATH)
    (tmp_path / "etc").mkdir()
    assert user.lookup("5", root) == User(5, 0, (0,), "/")
    (tmp_path / "etc" / "passwd").write_bytes(b"\xff\xfe\nann:x:3:4::/x:/bin/sh\n")
    assert user.lookup("ann", root) == User(3, 4, (4,), "/x")
    (tmp_path / "etc" / "group").symlink_to("/etc/group")  # in here, not on the host
    assert user.lookup("ann:5", root).gid == 5
    with pytest.raises(Invalid):
        user.lookup("ann:root", root)
    (tmp_path / "etc" / "passwd").unlink()
    os.mkfifo(tmp_path / "etc" / "passwd")
    assert user.lookup("6", root).uid == 6
    os.close(root)
