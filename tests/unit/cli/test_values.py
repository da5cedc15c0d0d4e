from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from netd.cli import values


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("64m", 64 << 20),
        ("64M", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5g", 3 << 29),
        ("2kb", 2048),
        ("7b", 7),
        ("1t", 1 << 40),
        ("1 g", 1 << 30),
    ],
)
def test_size(text: str, size: int) -> None:
    assert values.Size().convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "m", "64q", "-1", "64mm", "1e3", "0x10", "64m "[::-1] + "x"])
def test_wrong_size_is_named(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size") as error:
        values.Size().convert(text, None, None)
    assert repr(text) in str(error.value)


def test_pairs_keep_later_separators_and_let_the_last_win() -> None:
    assert values.pairs("--label", ["a=1", "b=x=y", "c=", "a=2"]) == {"a": "2", "b": "x=y", "c": ""}


def test_extra_hosts_may_have_several_addresses() -> None:
    texts = ["db:10.0.0.3", "me:host-gateway", "db:fd00::1"]
    assert values.extra_hosts(texts) == {"db": "10.0.0.3,fd00::1", "me": "host-gateway"}
    with pytest.raises(click.UsageError, match="--add-host 'db' must have the form NAME:IP"):
        values.extra_hosts(["db"])


@pytest.mark.parametrize("text", ["a", "=b", ""])
def test_wrong_pair_names_option_and_value(text: str) -> None:
    with pytest.raises(click.UsageError) as error:
        values.pairs("--label", [text])
    assert error.value.format_message() == f"--label {text!r} must have the form KEY=VALUE"


def test_environment_comes_from_files_options_and_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# remark\n\nA=file\n  B=two words \nHOME\nABSENT\n")
    found = values.environment(["A=option", "PATH", "GONE"], [str(file)], {"HOME": "/root", "PATH": "/bin"})
    assert found == {"A": "option", "B": "two words ", "HOME": "/root", "PATH": "/bin"}


def test_wrong_variable_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="'=x'"):
        values.environment(["=x"], [])
    with pytest.raises(click.UsageError, match="'A B=x'"):
        values.environment(["A B=x"], [])
    with pytest.raises(click.UsageError, match=f"{tmp_path}/none"):
        values.environment([], [f"{tmp_path}/none"])


def test_volume_source_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert values.volume("data:/data") == f"{tmp_path}/data:/data"
    assert values.volume("./a/../b:/data:ro") == f"{tmp_path}/b:/data:ro"
    assert values.volume("/a:/b:rw") == "/a:/b"


@pytest.mark.parametrize("text", ["", "a", "a:", "a:b", ":/b", "a:/b:xx", "a:/b:ro:ro"])
def test_wrong_volume_is_named(text: str) -> None:
    with pytest.raises(click.UsageError) as error:
        values.volume(text)
    assert repr(text) in error.value.format_message()


def test_rootfs_is_host_or_an_absolute_directory() -> None:
    assert values.rootfs("host") == "host"
    assert values.rootfs("./host") == f"{os.getcwd()}/host"  # noqa: PTH109


def test_attachment() -> None:
    plain = values.attachment("front")
    assert (plain.network, plain.ip, plain.gw_priority) == ("front", "", 0)
    text = "front,ip=10.0.0.2,ip6=fd00::2,mac=02:00:00:00:00:01,alias=a,alias=b,ifname=lan0,gw-priority=-3"
    full = values.attachment(text)
    assert (full.ip, full.ip6, full.mac) == ("10.0.0.2", "fd00::2", "02:00:00:00:00:01")
    assert (list(full.aliases), full.ifname, full.gw_priority) == (["a", "b"], "lan0", -3)
    assert values.attachment("front,connlimit=50").options == {"connlimit": "50"}
    assert values.attachment("name=front,ip=10.0.0.2").network == "front"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("ip=1.2.3.4", "'ip=1.2.3.4'"),
        (",ip=1.2.3.4", "begin with the network's name"),
        ("front,ip", "'ip'"),
        ("front,ip=", "'ip='"),
        ("front,color=red", "'color=red'"),
        ("front,gw-priority=high", "'high'"),
        ("front,gw-priority=99999999999", "'99999999999'"),
    ],
)
def test_wrong_attachment_is_named(text: str, named: str) -> None:
    with pytest.raises(click.UsageError) as error:
        values.attachment(text)
    assert named in error.value.format_message()
