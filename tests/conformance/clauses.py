"""The clauses: what the specification asks of a plugin that makes an interface, one function each.

The identifiers name the verb; the texts follow SPEC.md of CNI 1.1.0, its conventions, and what the
reference runtimes rely on. A clause that is not the specification's but a runtime's or the reference
library's says so. `each` clauses are tried in every version that the plugin supports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.conformance.rig import (
    VERSIONS,
    Breach,
    Pod,
    Rig,
    at_least,
    expect,
    host_state,
    look,
    run,
)

Function = Callable[[Rig], None]


@dataclass(frozen=True)
class Clause:
    """One thing that a plugin must do. `since` is the version that it applies from."""

    id: str
    text: str
    function: Function
    since: str
    each: bool


CLAUSES: list[Clause] = []


def clause(id: str, text: str, *, since: str = "0.3.1", each: bool = False) -> Callable[[Function], Function]:
    """Put a function into the table."""

    def note(function: Function) -> Function:
        CLAUSES.append(Clause(id, text, function, since, each))
        return function

    return note


# --- VERSION ------------------------------------------------------------------------------------------


@clause("VERSION-1", "VERSION answers cniVersion and supportedVersions")
def _(rig: Rig) -> None:
    answer = rig.execute("VERSION", {"cniVersion": rig.version}, {}).result
    expect("cniVersion" in answer, "no cniVersion")
    supported = answer.get("supportedVersions", [])
    expect(supported and set(supported) <= set(VERSIONS), f"supportedVersions {supported!r}")


@clause("VERSION-2", "VERSION answers in the version that it was asked in")
def _(rig: Rig) -> None:
    for version in ("0.4.0", "1.0.0"):
        answer = rig.execute("VERSION", {"cniVersion": version}, {}).result
        expect(answer["cniVersion"] == version, f"asked in {version}, answered in {answer['cniVersion']}")


@clause("VERSION-3", "VERSION does not look at the other variables (libcni sends dummies)")
def _(rig: Rig) -> None:
    dummies = {"CNI_NETNS": "dummy", "CNI_IFNAME": "dummy/:", "CNI_PATH": "dummy"}
    rig.execute("VERSION", {"cniVersion": rig.version}, dummies).succeeded()


# --- errors -------------------------------------------------------------------------------------------


def _without(rig: Rig, command: str, *names: str) -> dict[str, Any]:
    variables = rig.variables(rig.pod(), **dict.fromkeys(names))
    outcome = rig.execute(command, rig.config(), variables)
    outcome.failed(4)
    return outcome.error


@clause("ERROR-1", "a missing variable is error 4, and named")
def _(rig: Rig) -> None:
    needed = {"ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "DEL": ("CNI_CONTAINERID", "CNI_IFNAME")}
    for command, names in needed.items():
        for name in names:
            error = _without(rig, command, name)
            expect(
                name in error["msg"] + error.get("details", ""), f"{command} without {name}: {error['msg']!r}"
            )


@clause("ERROR-2", "all missing variables are named at once")
def _(rig: Rig) -> None:
    error = _without(rig, "ADD", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME")
    for name in ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"):
        expect(name in error["msg"] + error.get("details", ""), f"{name} is not in {error['msg']!r}")


@clause("ERROR-3", "an unknown CNI_COMMAND is error 4")
def _(rig: Rig) -> None:
    rig.execute("NONSENSE", rig.config(), rig.variables(rig.pod())).failed(4)


@clause("ERROR-4", "a container id with other characters than [A-Za-z0-9_.-] is error 4")
def _(rig: Rig) -> None:
    for id in ("../x", "a/b", "a b", "-a", "ä"):
        rig.execute("ADD", rig.config(), rig.variables(rig.pod(), CNI_CONTAINERID=id)).failed(4)


@clause("ERROR-5", "what is no interface name is error 4")
def _(rig: Rig) -> None:
    for name in ("x" * 16, ".", "..", "a/b", "a:b", "a b"):
        rig.execute("ADD", rig.config(), rig.variables(rig.pod(), CNI_IFNAME=name)).failed(4)


@clause("ERROR-6", "a configuration that is no JSON is error 6")
def _(rig: Rig) -> None:
    for text in (b"{", b"nonsense", b""):
        rig.execute("ADD", text, rig.variables(rig.pod())).failed(6)


@clause("ERROR-7", "a version that is not supported is error 1")
def _(rig: Rig) -> None:
    for version in ("99.0.0", "0.9.9"):
        rig.execute("ADD", {**rig.config(), "cniVersion": version}, rig.variables(rig.pod())).failed(1)


@clause("ERROR-8", "a configuration without a name, or with a wrong one, is error 7")
def _(rig: Rig) -> None:
    for name in (None, "", "a b", "-a", "a/b"):
        rig.execute("ADD", rig.config(name=name), rig.variables(rig.pod())).failed(7)


@clause(
    "ERROR-9",
    "an error is an object with cniVersion, code and msg, in the configuration's version",
    each=True,
)
def _(rig: Rig) -> None:
    error = rig.execute("ADD", rig.config(), rig.variables(rig.pod(), CNI_NETNS="/nowhere")).error
    expect(error.get("cniVersion") == rig.version, f"cniVersion {error.get('cniVersion')!r}")
    expect(isinstance(error.get("code"), int) and error["code"] > 0, f"code {error.get('code')!r}")
    expect(error.get("msg"), "no msg")


@clause("ERROR-10", "ADD into a namespace that is not there fails")
def _(rig: Rig) -> None:
    rig.execute("ADD", rig.config(), rig.variables(rig.pod(), CNI_NETNS="/run/netns/absent")).failed()


@clause("ERROR-11", "ADD into the host's own namespace is error 8 (reference library)")
def _(rig: Rig) -> None:
    before = host_state()
    outcome = rig.execute("ADD", rig.config(), rig.variables(rig.pod(), CNI_NETNS="/proc/self/ns/net"))
    outcome.failed(8)
    expect(host_state() == before, "and something was left on the host")


@clause("ERROR-12", "CNI_ARGS with an unknown key is refused, unless IgnoreUnknown=1 (conventions)")
def _(rig: Rig) -> None:
    rig.add(rig.pod(), CNI_ARGS="Nonsense=1").failed()
    rig.add(rig.pod(), CNI_ARGS="IgnoreUnknown=1;Nonsense=1;K8S_POD_NAME=web").succeeded()


@clause("ERROR-13", "CNI_ARGS that are not K=V;K=V are refused")
def _(rig: Rig) -> None:
    for arguments in ("IgnoreUnknown", "IgnoreUnknown=1;=x;", "a=b=c"):
        rig.add(rig.pod(), CNI_ARGS=arguments).failed()


# --- ADD ----------------------------------------------------------------------------------------------


@clause("ADD-1", "the result is in the configuration's version, and has its shape", since="0.1.0", each=True)
def _(rig: Rig) -> None:
    result = rig.add(rig.pod()).result
    expect(result.get("cniVersion") == rig.version, f"cniVersion {result.get('cniVersion')!r}")
    if not at_least(rig.version, "0.3.0"):
        expect("ip4" in result and "ip" in result["ip4"], f"no ip4.ip in {sorted(result)}")
        expect("ips" not in result and "interfaces" not in result, f"{sorted(result)}")
        return
    expect(result.get("interfaces") and result.get("ips"), f"no interfaces or ips in {sorted(result)}")
    has_version = at_least("0.4.0", rig.version)
    for ip in result["ips"]:
        expect(("version" in ip) == has_version, f"version of ips[]: {ip}")


@clause("ADD-2", "the interface is there, up, and the only new one", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).result  # noqa: B018  (a breach unless ADD succeeded)
    names = [each["ifname"] for each in look(pod.netns, "link")]
    expect(sorted(names) == ["eth0", "lo"], f"interfaces: {names}")
    expect(look(pod.netns, "link", "show", "eth0")[0]["operstate"] == "UP", "eth0 is not up")


def _own(result: dict[str, Any], pod: Pod) -> tuple[int, dict[str, Any]]:
    for index, interface in enumerate(result.get("interfaces", ())):
        if interface.get("sandbox"):
            expect(interface["name"] == pod.ifname, f"interface {interface} is not {pod.ifname}")
            return index, interface
    raise Breach(f"no interface with a sandbox in {result.get('interfaces')}")


@clause("ADD-3", "the result names the interface, its MAC as it is, and CNI_NETNS verbatim", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    _, interface = _own(rig.add(pod).result, pod)
    expect(interface["sandbox"] == pod.path, f"sandbox {interface['sandbox']!r}")
    link = rig.link(pod)
    expect(link and interface.get("mac") == link["address"], f"mac {interface.get('mac')!r}, not {link}")


@clause("ADD-4", "interfaces of the host have no sandbox, exist, and are not called like the container's")
def _(rig: Rig) -> None:
    pod = rig.pod()
    here = rig.add(pod).result["interfaces"]
    existing = {each["ifname"] for each in look(None, "link")}
    for interface in here:
        if not interface.get("sandbox"):
            expect(interface["name"] in existing, f"{interface['name']} does not exist")
            expect(interface["name"] != pod.ifname, "an interface of the host is called like the container's")


@clause("ADD-5", "each address of the result belongs to the interface, by index and in the kernel", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    result = rig.add(pod).result
    index, _ = _own(result, pod)
    expect(
        all(ip.get("interface") == index for ip in result["ips"]), f"indexes of {result['ips']}, not {index}"
    )
    told = {ip["address"] for ip in result["ips"]}
    expect(told == rig.addresses(pod), f"told {sorted(told)}, there are {sorted(rig.addresses(pod))}")


@clause("ADD-6", "each route of the result is there")
def _(rig: Rig) -> None:
    pod = rig.pod()
    routes = {route["dst"] for route in rig.add(pod).result.get("routes", ())}
    expect(routes >= {"0.0.0.0/0", "::/0"}, f"routes {sorted(routes)}")
    expect(routes <= rig.routes(pod), f"missing: {sorted(routes - rig.routes(pod))}")


@clause("ADD-7", "no address is tentative when ADD returns (no wait for duplicate address detection)")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    link = rig.link(pod)
    infos = link["addr_info"] if link else []
    waiting = [each["local"] for each in infos if each.get("tentative") and each["scope"] != "link"]
    expect(not waiting, f"tentative: {waiting}")


@clause("ADD-8", "gateways of the result answer")
def _(rig: Rig) -> None:
    pod = rig.pod()
    gateways = {ip.get("gateway") for ip in rig.add(pod).result["ips"]}
    expect(None not in gateways and "" not in gateways, f"gateways {gateways}")
    for gateway in gateways:
        run("ip", "netns", "exec", pod.netns, "ping", "-c", "1", "-W", "5", gateway)


@clause("ADD-9", "the result tells the interface's MTU", since="1.1.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    _, interface = _own(rig.add(pod).result, pod)
    link = rig.link(pod)
    expect(link and interface.get("mtu") == link["mtu"], f"mtu {interface.get('mtu')!r}")


@clause("ADD-10", "different containers get different addresses")
def _(rig: Rig) -> None:
    found = [ip["address"] for _ in range(3) for ip in rig.add(rig.pod()).result["ips"]]
    expect(len(found) == len(set(found)) == 6, f"{found}")


@clause("ADD-11", "a container may have several interfaces")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    rig.add(pod.second("eth1"), rig.config(network=1)).succeeded()
    expect(rig.link(pod) and rig.link(pod, "eth1"), "one is missing")


@clause("ADD-12", "a second ADD of the same attachment fails and leaves the live one as it was")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    before = (rig.link(pod), rig.routes(pod))
    rig.add(pod).failed()
    expect((rig.link(pod), rig.routes(pod)) == before, "the live attachment has changed")


@clause("ADD-13", "an interface that exists already is an error, and nothing is left behind")
def _(rig: Rig) -> None:
    pod = rig.pod()
    run("ip", "-n", pod.netns, "link", "add", "eth0", "type", "bridge")
    before = host_state()
    rig.add(pod, rig.tiny()).failed()
    expect(host_state() == before, f"left: {sorted(host_state() ^ before)}")
    expect(rig.link(pod), "the interface that was there is gone")
    rig.delete(pod, rig.tiny()).succeeded()
    rig.add(rig.pod(), rig.tiny()).succeeded()


@clause("ADD-14", "an exhausted pool is an error, and nothing is left behind")
def _(rig: Rig) -> None:
    rig.add(rig.pod(), rig.tiny()).succeeded()
    before = host_state()
    pod = rig.pod()
    rig.add(pod, rig.tiny()).failed()
    expect(host_state() == before, f"left: {sorted(host_state() ^ before)}")
    expect(not rig.link(pod), "the interface is there")


@clause("ADD-15", "dns of the configuration is in the result")
def _(rig: Rig) -> None:
    dns = {
        "nameservers": ["10.0.0.53"],
        "domain": "example.org",
        "search": ["a.example.org"],
        "options": ["ndots:2"],
    }
    found = rig.add(rig.pod(), rig.config(dns=dns)).result.get("dns")
    expect(found == dns, f"dns {found}")


@clause("ADD-16", "the runtime's choice of MAC is honoured (capability mac)")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, rig.config(runtimeConfig={"mac": "02:00:5e:10:00:07"})).succeeded()
    link = rig.link(pod)
    expect(link and link["address"] == "02:00:5e:10:00:07", f"{link and link['address']}")


@clause("ADD-17", "the runtime's choice of addresses is honoured (capability ips)")
def _(rig: Rig) -> None:
    pod = rig.pod()
    config = rig.config()
    wanted = config["ipam"]["ranges"][0][0]["subnet"].replace(".0/24", ".77/24")
    rig.add(pod, {**config, "runtimeConfig": {"ips": [wanted]}}).succeeded()
    expect(wanted in rig.addresses(pod), f"{sorted(rig.addresses(pod))}")


@clause("ADD-18", "a left-over key `capabilities` is tolerated (libcni leaves it)")
def _(rig: Rig) -> None:
    rig.add(rig.pod(), rig.config(capabilities={"portMappings": True, "mac": True})).succeeded()


@clause("ADD-19", "what a previous plugin of the chain reported stays in the result")
def _(rig: Rig) -> None:
    before = {
        "cniVersion": rig.version,
        "interfaces": [{"name": "other0", "mac": "02:00:00:00:00:09"}],
        "ips": [],
        "dns": {"nameservers": ["10.9.9.9"]},
    }
    pod = rig.pod()
    result = rig.add(pod, rig.config(prevResult=before)).result
    names = [interface["name"] for interface in result["interfaces"]]
    expect("other0" in names, f"interfaces {names}")
    index, _ = _own(result, pod)
    expect(all(ip["interface"] == index for ip in result["ips"]), f"indexes of {result['ips']}")


@clause("ADD-20", "twenty containers at once are all attached, each with its own addresses")
def _(rig: Rig) -> None:
    pods = [rig.pod() for _ in range(20)]
    running = [rig.start("ADD", rig.config(), pod) for pod in pods]
    done = [process.communicate(timeout=60) for process in running]
    bad = [out for process, (out, _) in zip(running, done, strict=True) if process.returncode]
    expect(not bad, f"{len(bad)} failed: {bad[:1]}")
    found = [address for pod in pods for address in rig.addresses(pod)]
    expect(len(found) == len(set(found)) == 40, f"{len(set(found))} different addresses")


@clause("ADD-21", "standard output holds the result and nothing else")
def _(rig: Rig) -> None:
    outcome = rig.add(rig.pod())
    expect(outcome.result and outcome.stdout.strip().endswith("}"), outcome.stdout[-100:])


# --- CHECK --------------------------------------------------------------------------------------------


@clause("CHECK-1", "CHECK of a healthy attachment succeeds and writes nothing", since="0.4.0", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    outcome = rig.check(pod, rig.add(pod).result)
    outcome.succeeded()
    expect(not outcome.stdout.strip(), f"wrote {outcome.stdout!r}")


@clause("CHECK-2", "CHECK without a prevResult fails", since="0.4.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    rig.execute("CHECK", rig.config(), rig.variables(pod)).failed()


@clause("CHECK-3", "CHECK before 0.4.0 is error 1")
def _(rig: Rig) -> None:
    pod = rig.pod()
    config = {**rig.config(), "cniVersion": "0.3.1"}
    result = rig.add(pod, config).result
    rig.check(pod, result, config).failed(1)


def _check_after(rig: Rig, *change: str) -> None:
    pod = rig.pod()
    result = rig.add(pod).result
    run("ip", "-n", pod.netns, *change)
    rig.check(pod, result).failed()


@clause("CHECK-4", "CHECK finds that the interface is gone", since="0.4.0")
def _(rig: Rig) -> None:
    _check_after(rig, "link", "del", "eth0")


@clause("CHECK-5", "CHECK finds that an address is gone", since="0.4.0")
def _(rig: Rig) -> None:
    _check_after(rig, "-4", "addr", "flush", "dev", "eth0")
    _check_after(rig, "-6", "addr", "flush", "dev", "eth0", "scope", "global")


@clause("CHECK-6", "CHECK finds that a route is gone", since="0.4.0")
def _(rig: Rig) -> None:
    _check_after(rig, "route", "del", "default")
    _check_after(rig, "-6", "route", "del", "default")


@clause("CHECK-7", "CHECK finds that the MAC is another", since="0.4.0")
def _(rig: Rig) -> None:
    _check_after(rig, "link", "set", "eth0", "address", "02:00:00:00:00:66")


@clause("CHECK-8", "CHECK ignores what later plugins and others have added", since="0.4.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    result = rig.add(pod).result
    run("ip", "-n", pod.netns, "addr", "add", "192.0.2.1/24", "dev", "eth0")
    run("ip", "-n", pod.netns, "route", "add", "198.51.100.0/24", "dev", "eth0")
    run("ip", "-n", pod.netns, "link", "add", "later0", "type", "bridge")
    later = [*result["interfaces"], {"name": "later0", "sandbox": pod.path}]
    rig.check(pod, {**result, "interfaces": later}).succeeded()


@clause("CHECK-9", "CHECK finds an address that never was", since="0.4.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    result = rig.add(pod).result
    index, _ = _own(result, pod)
    extra = {"address": "192.0.2.9/24", "interface": index, "version": "4"}
    rig.check(pod, {**result, "ips": [*result["ips"], extra]}).failed()


@clause("CHECK-10", "CHECK of what was never added fails", since="0.4.0")
def _(rig: Rig) -> None:
    pod, other = rig.pod(), rig.pod()
    rig.check(other, rig.add(pod).result).failed()


# --- DEL ----------------------------------------------------------------------------------------------


@clause("DEL-1", "DEL removes the interface and what was made for it, and writes nothing", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    first = rig.pod()
    rig.add(first).succeeded()  # so that what stays with the network is there already
    before = host_state()
    result = rig.add(pod).result
    outcome = rig.delete(pod, result=result)
    outcome.succeeded()
    expect(not outcome.stdout.strip(), f"wrote {outcome.stdout!r}")
    expect(not rig.link(pod), "the interface is still there")
    expect(host_state() == before, f"left: {sorted(host_state() ^ before)}")


@clause("DEL-2", "DEL may be repeated")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    for _ in range(3):
        rig.delete(pod).succeeded()


@clause("DEL-3", "DEL without any ADD succeeds")
def _(rig: Rig) -> None:
    rig.delete(rig.pod()).succeeded()


@clause("DEL-4", "DEL without a prevResult does the whole work", each=True)
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, rig.tiny()).succeeded()
    rig.delete(pod, rig.tiny()).succeeded()
    expect(not rig.link(pod), "the interface is still there")
    rig.add(rig.pod(), rig.tiny()).succeeded()


@clause("DEL-5", "DEL succeeds and frees the address when the namespace is gone")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, rig.tiny()).succeeded()
    rig.remove_namespace(pod)
    rig.delete(pod, rig.tiny()).succeeded()
    rig.add(rig.pod(), rig.tiny()).succeeded()


@clause("DEL-6", "DEL succeeds and frees the address when CNI_NETNS is empty, or left out")
def _(rig: Rig) -> None:
    for value in ("", None):
        pod = rig.pod()
        rig.add(pod, rig.tiny()).succeeded()
        rig.delete(pod, rig.tiny(), CNI_NETNS=value).succeeded()
        later = rig.pod()
        rig.add(later, rig.tiny()).succeeded()
        rig.delete(later, rig.tiny()).succeeded()


@clause("DEL-7", "DEL succeeds and frees the address when the interface is gone")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, rig.tiny()).succeeded()
    run("ip", "-n", pod.netns, "link", "del", "eth0")
    rig.delete(pod, rig.tiny()).succeeded()
    rig.add(rig.pod(), rig.tiny()).succeeded()


@clause("DEL-8", "DEL of one attachment leaves the container's others alone")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    other = pod.second("eth1")
    rig.add(other, rig.config(network=1)).succeeded()
    rig.delete(pod).succeeded()
    expect(rig.link(other), "eth1 is gone too")


@clause("DEL-9", "DEL takes the masquerade rules back, also without the namespace")
def _(rig: Rig) -> None:
    config = rig.config(ipMasq=True)
    first = rig.pod()
    rig.add(first, config).succeeded()
    before = host_state()
    for gone in (False, True):
        pod = rig.pod()
        rig.add(pod, config).succeeded()
        if gone:
            rig.remove_namespace(pod)
        rig.delete(pod, config, CNI_NETNS="" if gone else pod.path).succeeded()
        _settle(rig, before)


def _settle(rig: Rig, before: set[str]) -> None:
    # The kernel takes a namespace's links down in its own time; rules do not go by themselves.
    left = {line for line in host_state() ^ before if not line.startswith("link")}
    expect(not left, f"left: {sorted(left)}")


@clause("DEL-10", "DEL does not mind a prevResult of an older plugin chain", since="0.4.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    rig.delete(pod, result={"cniVersion": rig.version, "interfaces": [], "ips": []}).succeeded()
    expect(not rig.link(pod), "the interface is still there")


# --- GC -----------------------------------------------------------------------------------------------


@clause("GC-1", "GC keeps the valid attachments and removes the others with their addresses", since="1.1.0")
def _(rig: Rig) -> None:
    kept, stale = rig.pod(), rig.pod()
    rig.add(kept).succeeded()
    rig.add(stale).succeeded()
    outcome = rig.collect([kept])
    outcome.succeeded()
    expect(rig.link(kept), "a valid attachment was removed")
    expect(not rig.link(stale), "a stale attachment is still there")


@clause("GC-2", "GC frees the address of a stale attachment whose namespace is gone", since="1.1.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod, rig.tiny()).succeeded()
    rig.remove_namespace(pod)
    rig.collect([], rig.tiny()).succeeded()
    rig.add(rig.pod(), rig.tiny()).succeeded()


@clause("GC-3", "GC touches no attachment of another network", since="1.1.0")
def _(rig: Rig) -> None:
    here, there = rig.pod(), rig.pod()
    rig.add(here).succeeded()
    rig.add(there, rig.config(network=1)).succeeded()
    rig.collect([]).succeeded()
    expect(rig.link(there), "an attachment of another network was removed")


@clause("GC-4", "GC without the list of valid attachments is an error and removes nothing", since="1.1.0")
def _(rig: Rig) -> None:
    pod = rig.pod()
    rig.add(pod).succeeded()
    rig.collect(None).failed()
    expect(rig.link(pod), "an attachment was removed")


@clause("GC-5", "GC before 1.1.0 is error 1", since="1.1.0")
def _(rig: Rig) -> None:
    rig.collect([], {**rig.config(), "cniVersion": "1.0.0"}).failed(1)


@clause("GC-6", "GC may be repeated, and there may be nothing to do", since="1.1.0")
def _(rig: Rig) -> None:
    for _ in range(2):
        outcome = rig.collect([])
        outcome.succeeded()
        expect(not outcome.stdout.strip(), f"wrote {outcome.stdout!r}")


# --- STATUS -------------------------------------------------------------------------------------------


@clause("STATUS-1", "STATUS of a plugin that can serve ADD succeeds and writes nothing", since="1.1.0")
def _(rig: Rig) -> None:
    outcome = rig.status()
    outcome.succeeded()
    expect(not outcome.stdout.strip(), f"wrote {outcome.stdout!r}")


@clause("STATUS-2", "STATUS before 1.1.0 is error 1", since="1.1.0")
def _(rig: Rig) -> None:
    rig.status({**rig.config(), "cniVersion": "1.0.0"}).failed(1)


@clause("STATUS-3", "STATUS says 50 when ADD would fail because no address is left", since="1.1.0")
def _(rig: Rig) -> None:
    rig.add(rig.pod(), rig.tiny()).succeeded()
    rig.status(rig.tiny()).failed(50)


@clause("STATUS-4", "STATUS says 50 when the IPAM plugin is not there", since="1.1.0")
def _(rig: Rig) -> None:
    config = rig.config()
    config["ipam"] = {"type": "absent-ipam"}
    rig.status(config).failed()
