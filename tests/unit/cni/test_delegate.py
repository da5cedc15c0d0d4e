from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from netd.cni import delegate
from netd.cni.delegate import Delegates
from netd.cni.spec import CniError

PLUGIN = """#!{python} -IS
import os, sys, json
text = sys.stdin.read()
command = os.environ["CNI_COMMAND"]
with open({log!r}, "a") as log:
    log.write(json.dumps([command, os.environ.get("CNI_IFNAME"), json.loads(text)]) + "\\n")
if command == "VERSION":
    print(json.dumps({{"cniVersion": "1.0.0", "supportedVersions": {versions!r}}}))
    sys.exit()
{body}
"""
CONFIG = {"cniVersion": "1.1.0", "name": "front", "type": "netd", "ipam": {"type": "ipam"}}


class Plugin:
    """An IPAM plugin made for a test, and what it was asked."""

    def __init__(self, directory: Path, body: str, versions: tuple[str, ...] = ("0.4.0", "1.0.0")) -> None:
        self.path = (str(directory / "empty"), str(directory))
        self.log = directory / "log"
        program = directory / "ipam"
        text = PLUGIN.format(python=sys.executable, log=str(self.log), versions=list(versions), body=body)
        program.write_text(text)
        program.chmod(0o755)

    def asked(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        return [tuple(json.loads(line)) for line in self.log.read_text().splitlines()]


def run(plugin: Plugin, *commands: str) -> list[dict[str, Any]]:
    async def story() -> list[dict[str, Any]]:
        delegates = Delegates()
        variables = {"CNI_IFNAME": "eth0"}
        return [await delegates.run(each, "ipam", plugin.path, variables, CONFIG) for each in commands]

    return asyncio.run(story())


def test_it_is_asked_in_its_own_newest_version(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "print('{\"ips\": []}')")
    assert run(plugin, "ADD", "DEL") == [{"ips": []}, {"ips": []}]
    asked = plugin.asked()
    assert [command for command, _, _ in asked] == ["VERSION", "ADD", "DEL"]  # VERSION is remembered
    assert asked[1][1:] == ("eth0", {**CONFIG, "cniVersion": "1.0.0"})


def test_verbs_that_it_does_not_know_are_passed_over(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "sys.exit(1)")
    assert run(plugin, "GC", "STATUS") == [{}, {}]
    assert [command for command, _, _ in plugin.asked()] == ["VERSION"]


def test_silence_is_an_answer(tmp_path: Path) -> None:
    assert run(Plugin(tmp_path, "pass"), "DEL") == [{}]


def test_its_refusal_keeps_its_code(tmp_path: Path) -> None:
    body = "print(json.dumps({'code': 11, 'msg': 'later', 'details': 'd'})); sys.exit(1)"
    with pytest.raises(CniError) as caught:
        run(Plugin(tmp_path, body), "ADD")
    assert (caught.value.cni, str(caught.value), caught.value.details) == (11, "ipam: later", "d")


@pytest.mark.parametrize("body", ["print('nonsense')", "print('[]')", "sys.exit(3)"])
def test_nonsense_is_an_error(tmp_path: Path, body: str) -> None:
    with pytest.raises(CniError) as caught:
        run(Plugin(tmp_path, body), "ADD")
    assert caught.value.cni == 100


def test_one_that_knows_none_of_our_versions(tmp_path: Path) -> None:
    with pytest.raises(CniError) as caught:
        run(Plugin(tmp_path, "pass", ("7.0.0",)), "ADD")
    assert caught.value.cni == 1


@pytest.mark.parametrize("type", ["absent", "../ipam", "", "a b"])
def test_one_that_is_not_there(tmp_path: Path, type: str) -> None:
    with pytest.raises(CniError) as caught:
        delegate.find(type, (str(tmp_path),))
    assert caught.value.cni == 7
    assert repr(type) in str(caught.value)


def test_one_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin(
        tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); import time; time.sleep(60)"
    )
    monkeypatch.setattr(delegate, "TIMEOUT", 2.0)
    with pytest.raises(CniError, match="no answer within 2 seconds") as caught:
        run(plugin, "ADD")
    assert caught.value.cni == 11
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
