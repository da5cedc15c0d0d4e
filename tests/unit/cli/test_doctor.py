from __future__ import annotations

import json

import pytest

from netd.api import netd_pb2 as pb
from tests.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Cli

FINE = pb.Check(name="nftables", level=pb.Check.OK, detail="1.0.6")
ODD = pb.Check(name="firewall", level=pb.Check.WARNING, detail="table inet x drops", remedy="allow it")
BAD = pb.Check(name="sysctl", level=pb.Check.FAILURE, detail="is 0", remedy="sysctl -w x=1")


@pytest.mark.parametrize(("checks", "code"), [([], 0), ([FINE], 0), ([FINE, ODD], 0), ([FINE, BAD, ODD], 1)])
def test_only_a_failure_fails(cli: Cli, daemon: FakeDaemon, checks: list[pb.Check], code: int) -> None:
    daemon.checks = checks
    assert cli("doctor").code == code


def test_each_failing_line_says_how_to_mend_it(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.checks = [FINE, ODD, BAD]
    assert cli("doctor").out.splitlines() == [
        "ok    nftables: 1.0.6",
        "warn  firewall: table inet x drops",
        "      allow it",
        "FAIL  sysctl: is 0",
        "      sysctl -w x=1",
    ]


def test_json(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.checks = [ODD]
    wanted = {"name": "firewall", "level": "warning", "detail": "table inet x drops", "remedy": "allow it"}
    assert json.loads(cli("doctor", "--json").out) == [wanted]


@pytest.mark.root
def test_without_a_daemon_the_host_is_checked_all_the_same(cli: Cli) -> None:
    done = cli("doctor", "--socket", "/nowhere/netd.sock", "--json")
    checks = {check["name"]: check for check in json.loads(done.out)}
    assert {
        "permissions",
        "bridge",
        "veth",
        "cgroups",
        "libnftables",
        "other nftables tables",
    } <= checks.keys()
    assert "records" not in checks
    missing = checks.pop("daemon")
    assert missing["level"] == "failure"
    assert "/nowhere/netd.sock" in missing["detail"]
    others = [check for check in checks.values() if check["level"] == "failure"]
    assert done.code == (1 if others else 125)
