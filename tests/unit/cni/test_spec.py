from __future__ import annotations

import json

import pytest

from netd.cni import spec
from netd.cni.spec import CniError
from netd.errors import Exhausted

POD = {"CNI_CONTAINERID": "pod1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0"}


def refused(variables: dict[str, str]) -> CniError:
    with pytest.raises(CniError) as caught:
        spec.call(variables, b"{}", None)
    return caught.value


def test_a_call_is_read_from_its_variables() -> None:
    given = {
        **POD,
        "CNI_COMMAND": "ADD",
        "CNI_PATH": "/a::/b",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=web",
    }
    call = spec.call(given, b"{}", (4, 7))
    assert (call.sandbox, call.path, call.namespace) == ("pod1/eth0", ("/a", "/b"), (4, 7))
    assert call.args["K8S_POD_NAME"] == "web"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"CNI_COMMAND": "add"}, "unknown CNI_COMMAND: add"),
        ({"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, "missing: CNI_CONTAINERID, CNI_IFNAME"),
        ({"CNI_CONTAINERID": "a/b"}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "x" * 16}, "CNI_IFNAME"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_ARGS": "x"}, "'x'"),
        ({"CNI_ARGS": "a=b=c;IgnoreUnknown=1"}, "'a=b=c'"),
        ({"CNI_ARGS": "Nonsense=1"}, "unknown Nonsense"),
    ],
)
def test_wrong_variables_have_code_4(changes: dict[str, str], named: str) -> None:
    error = refused({**POD, "CNI_COMMAND": "ADD", **changes})
    assert error.cni == 4
    assert named in str(error)


def test_del_needs_no_namespace_and_status_nothing() -> None:
    assert spec.call({**POD, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}, b"", None).netns == ""
    assert spec.call({"CNI_COMMAND": "STATUS"}, b"", None).command == "STATUS"


@pytest.mark.parametrize("allowed", ["1", "true", "True", "t"])
def test_unknown_arguments_pass_if_the_runtime_says_so(allowed: str) -> None:
    assert spec.arguments(f"Nonsense=1;IgnoreUnknown={allowed};")["Nonsense"] == "1"


def test_versions_have_an_order() -> None:
    assert spec.at_least("1.0.0", "0.4.0")
    assert spec.at_least("0.3.1", "0.3.1")
    assert not spec.at_least("0.4.0", "1.1.0")


def test_an_error_is_one_line_of_json() -> None:
    found = spec.error_object(CniError(7, "no\n'x'", "because"), "0.4.0")
    assert found.count(b"\n") == 1
    assert json.loads(found) == {"cniVersion": "0.4.0", "code": 7, "msg": "no 'x'", "details": "because"}
    assert json.loads(spec.error_object(Exhausted("full"), "1.0.0")) == {
        "cniVersion": "1.0.0",
        "code": Exhausted.cni,
        "msg": "full",
    }
