"""What is wrong with this host, and how to mend it: judgements over the facts of `netd.kernel.survey`.

Pure, so every judgement has a test. A failure keeps some feature of netd from working, a warning may
under circumstances; both say what to type. What netd copes with by itself is said too, as OK, because
whoever runs the doctor wonders about just that.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from netd import dirs
from netd.kernel.ports import Chain, Survey
from netd.model import Network
from netd.settings import Settings


class Level(IntEnum):
    """How bad it is; the numbers are those of the API."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `remedy` is what to do, empty when OK."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What the doctor has to know of the daemon.

    `switched` are the sysctls of the host, by path, that netd changed and will change back; `aside`
    records of the store that could not be understood; `degraded` says by name of a network what could
    not be repaired, `problems` what keeps networks of the cluster from being whole. Without a `daemon`
    nothing is known of these, and who asks is whoever typed it.
    """

    settings: Settings
    daemon: bool = True
    networks: Collection[Network] = ()
    endpoints: int = 0
    switched: Collection[str] = ()
    aside: Collection[str] = ()
    degraded: Mapping[str, str] = field(default_factory=dict)
    problems: Collection[str] = ()


def examine(host: Survey, here: Circumstances) -> list[Check]:
    """All checks, in the order in which one would mend things."""
    examinations: list[Callable[[Survey, Circumstances], Iterator[Check]]] = [
        _permissions,
        _kernel,
        _cgroups,
        _libraries,
        _directories,
        _records,
        _networks,
        _forwarding,
        _sysctls,
        _tables,
        _firewalls,
        _neighbours,
        _dns,
    ]
    return [check for examination in examinations for check in examination(host, here)]


def _ok(name: str, detail: str) -> Check:
    return Check(name, Level.OK, detail)


def _warning(name: str, detail: str, remedy: str) -> Check:
    return Check(name, Level.WARNING, detail, remedy)


def _failure(name: str, detail: str, remedy: str) -> Check:
    return Check(name, Level.FAILURE, detail, remedy)


def _permissions(host: Survey, here: Circumstances) -> Iterator[Check]:
    if host.lacking:
        missing = ", ".join(sorted(host.lacking))
        if here.daemon:
            detail, remedy = f"the daemon lacks {missing}", "run it as root with these capabilities"
        else:
            detail, remedy = f"you lack {missing}", "run `netd doctor`, and the daemon, as root"
        yield _failure("permissions", detail, remedy)
    else:
        yield _ok("permissions", "root, with every capability that netd needs")


def _kernel(host: Survey, here: Circumstances) -> Iterator[Check]:
    modules = {
        "bridge": "bridge",
        "veth": "veth",
        "nftables rules": "nf_tables nft_fib_inet nft_masq nft_nat",
    }
    # What may not be tried says nothing about the kernel.
    for name, problem in () if host.lacking else host.tried.items():
        if not problem:
            yield _ok(name, "the kernel can")
        elif name == "latch":
            detail = f"the kernel says: {problem}; while the rules are flushed, everybody reaches everybody"
            yield _warning(name, detail, "modprobe -a sch_ingress cls_bpf, then restart netd")
        elif name in modules:
            yield _failure(name, f"the kernel says: {problem}", f"modprobe -a {modules[name]}")
        else:
            yield _failure(name, f"the kernel says: {problem}", "sysctl -w user.max_net_namespaces=10000")
    lacking = sorted({"cgroup", "ipc", "mnt", "net", "pid", "uts"} - host.namespaces)
    if lacking:
        remedy = "use a kernel built with CONFIG_NAMESPACES and its kinds"
        yield _failure("namespaces", f"the kernel has no {', '.join(lacking)} namespaces", remedy)
    else:
        yield _ok("namespaces", "every kind that a container needs")
    if "overlay" in host.filesystems:
        yield _ok("overlayfs", "the kernel can")
    else:
        remedy = "modprobe overlay, and write `overlay` to /etc/modules-load.d/netd.conf"
        yield _warning("overlayfs", "not loaded: containers have no root file system without it", remedy)


def _cgroups(host: Survey, here: Circumstances) -> Iterator[Check]:
    missing = sorted({"cpu", "memory", "pids"} - host.controllers.keys())
    found = ", ".join(f"{name} (v{version})" for name, version in host.controllers.items())
    if missing:
        yield _warning(
            "cgroups",
            f"controllers not available: {', '.join(missing)}; found: {found or 'none'}",
            "boot without cgroup_disable=, and with cgroup_enable=memory on boards that need it",
        )
    else:
        yield _ok("cgroups", found)


def _libraries(host: Survey, here: Circumstances) -> Iterator[Check]:
    packages = {"libnftables": "libnftables1", "libseccomp": "libseccomp2"}
    for name, found in host.libraries.items():
        if found:
            yield _ok(name, found)
        else:
            yield _failure(name, "cannot be loaded", f"apt install {packages[name]}")


def _directories(host: Survey, here: Circumstances) -> Iterator[Check]:
    for path, wanted in ((here.settings.run, dirs.RUN_MODE), (here.settings.state, dirs.STATE_MODE)):
        if here.daemon or path.exists():
            yield _directory(path, wanted)
        else:
            yield _ok(f"directory {path}", "the daemon makes it")


def _records(host: Survey, here: Circumstances) -> Iterator[Check]:
    if not here.daemon:
        return
    if here.aside:
        detail = (
            f"{len(here.aside)} cannot be understood and {'is' if len(here.aside) == 1 else 'are'} set aside"
        )
        remedy = f"start the netd that wrote them, or remove them from its files: {'; '.join(here.aside)}"
        yield _failure("records", detail, remedy)
    else:
        yield _ok("records", "all that netd remembers makes sense")


def _networks(host: Survey, here: Circumstances) -> Iterator[Check]:
    for name, problem in here.degraded.items():
        yield _failure(f"network {name}", problem, "remove what is in the way; netd tries again by itself")
    for problem in here.problems:
        yield _failure("cluster", problem, "mend it on the node that is named; `netd node ls` shows all")


def _directory(path: Path, wanted: int) -> Check:
    name = f"directory {path}"
    if reason := dirs.fault(path):
        return _failure(name, reason, f"move it away; netd makes a new one with mode {wanted:04o}")
    try:
        found = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return _failure(name, "is gone", "restart netd: what it holds is lost")
    if found & ~wanted:
        return _failure(name, f"is open to others (mode {found:04o})", f"chmod {wanted:04o} {path}")
    return _ok(name, f"mode {found:04o}")


def _forwarding(host: Survey, here: Circumstances) -> Iterator[Check]:
    for family, path in ((4, "net/ipv4/ip_forward"), (6, "net/ipv6/conf/all/forwarding")):
        name = f"sysctl {path.replace('/', '.')}"
        value = host.sysctls.get(path)
        if value is None:
            yield _warning(
                name, f"this kernel has no IPv{family}", f"boot with IPv{family} for such networks"
            )
        elif value == "0" and any(family in n.families for n in here.networks if not n.internal):
            remedy = f"sysctl -w {path.replace('/', '.')}=1"
            yield _failure(name, "0, so no container reaches anything outside", remedy)
        elif path in here.switched:
            yield _ok(
                name, f"{value}; netd turned it on and turns it off with the last network that needs it"
            )
        else:
            off = "; netd turns it on with the first network that needs it" if value == "0" else ""
            yield _ok(name, f"{value}{off}")
    if host.sysctls.get("net/ipv6/conf/all/disable_ipv6") == "1":
        yield _warning(
            "sysctl net.ipv6.conf.all.disable_ipv6",
            "1, so networks with IPv6 cannot work",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        )


def _sysctls(host: Survey, here: Circumstances) -> Iterator[Check]:
    bridged = {p: v for p, v in host.sysctls.items() if p.startswith("net/bridge/")}
    values = " ".join(f"{path.rpartition('/')[2]}={value}" for path, value in bridged.items())
    yield _ok("bridge netfilter", f"{values or 'not loaded'}; netd's rules hold either way")
    if host.sysctls.get("net/ipv4/conf/all/rp_filter") == "1":
        yield _warning(
            "sysctl net.ipv4.conf.all.rp_filter",
            "1 (strict): on a host with several uplinks, packets for a published port may be dropped",
            "sysctl -w net.ipv4.conf.all.rp_filter=2",
        )
    count = int(host.sysctls.get("net/netfilter/nf_conntrack_count", "0"))
    most = int(host.sysctls.get("net/netfilter/nf_conntrack_max", "0"))
    name = "sysctl net.netfilter.nf_conntrack_max"
    if most and count >= most * 0.8:
        detail = f"{count} of {most} connections are tracked; beyond that new ones are dropped"
        yield _warning(name, detail, f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}")
    elif most:
        yield _ok(name, f"{count} of {most} connections are tracked")


def _neighbours(host: Survey, here: Circumstances) -> Iterator[Check]:
    for path in ("net/ipv4/neigh/default/gc_thresh3", "net/ipv6/neigh/default/gc_thresh3"):
        most = int(host.sysctls.get(path, "0"))
        if most and here.endpoints > most * 0.8:
            name = path.replace("/", ".")
            yield _warning(
                f"sysctl {name}",
                f"{most} neighbours at most, and there are {here.endpoints} endpoints",
                f"sysctl -w {name}={max(4096, here.endpoints * 4)}",
            )


# --- other people's rules -------------------------------------------------------------------------

HARM = {
    "prerouting": "nothing reaches a container",
    "forward": "containers reach nothing outside and nobody reaches their published ports",
    "postrouting": "nothing leaves a container",
    "input": "containers cannot ask the DNS of netd",
    "output": "the host cannot reach its containers",
}


def _tables(host: Survey, here: Circumstances) -> Iterator[Check]:
    relevant = [chain for chain in host.chains if chain.hook in HARM and not chain.spares]
    for chain in relevant:
        name = f"nftables {chain}"
        if chain.policy == "drop":
            detail = f"policy drop at hook {chain.hook}, with no exception for netd: {HARM[chain.hook]}"
            yield _failure(name, detail, _exception(chain))
        elif chain.drops:
            listed = ", ".join(chain.drops[:3]) + (" and more" if len(chain.drops) > 3 else "")
            detail = f"drops at hook {chain.hook} ({listed}); if one fits, {HARM[chain.hook]}"
            yield _warning(name, detail, _exception(chain))
    if not any(chain.policy == "drop" or chain.drops for chain in relevant):
        yield _ok("other nftables tables", "none drops what concerns netd")
    for table in host.xtables:
        yield _warning(
            f"legacy table {table}",
            "in use, and netd cannot read it",
            f"look for drops with `{table} -S`, or move it to nftables with iptables-restore-translate",
        )


def _exception(chain: Chain) -> str:
    """What to type so that this chain lets netd's traffic through. It opens nothing: netd's own table
    still decides, because every table of a hook has its say."""
    if chain.table == "firewalld":
        return "firewall-cmd --permanent --zone=trusted --add-source=SUBNET for each network; then --reload"
    inward = chain.hook in ("prerouting", "forward", "input")
    outward = chain.hook in ("forward", "postrouting", "output")
    if chain.family in ("ip", "ip6") and chain.name.isupper():  # made by iptables-nft, which rewrites it
        program = "iptables" if chain.family == "ip" else "ip6tables"
        target = "DOCKER-USER" if any(d.startswith("DOCKER") for d in chain.drops) else chain.name
        port = " -p udp --dport 53" if chain.hook == "input" else ""
        rules = [
            f"{program} -I {target} {way} nd-+{port} -j ACCEPT" for way in _ways(inward, outward, "-i", "-o")
        ]
    else:
        links = "ve-*" if chain.family == "bridge" else "nd-*"
        port = " meta l4proto { tcp, udp } th dport 53" if chain.hook == "input" else ""
        rules = [
            f'nft insert rule {chain.family} {chain.table} {chain.name} {way} "{links}"{port} accept'
            for way in _ways(inward, outward, "iifname", "oifname")
        ]
    return "; ".join(rules)


def _ways(inward: bool, outward: bool, into: str, out: str) -> list[str]:
    return [way for wanted, way in ((inward, into), (outward, out)) if wanted]


def _firewalls(host: Survey, here: Circumstances) -> Iterator[Check]:
    for name in sorted(host.services & {"docker", "firewalld", "ufw"}):
        yield _ok(name, "runs here too; netd's own nftables table stands beside its rules, untouched by it")
    if "systemd-networkd" not in host.services:
        return
    keys = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules")
    wrong = [key for key in keys if host.networkd.get(key, "yes").lower() not in ("no", "false", "0", "off")]
    if wrong:
        yield _warning(
            "systemd-networkd",
            "removes routes and rules that it did not make when it is restarted",
            "write `[Network]`, " + ", ".join(f"`{key}=no`" for key in wrong) + " to "
            "/etc/systemd/networkd.conf.d/netd.conf and restart it",
        )
    else:
        yield _ok("systemd-networkd", "leaves what it did not make alone")


def _dns(host: Survey, here: Circumstances) -> Iterator[Check]:
    if host.resolvers:
        yield _failure(
            "port 53",
            f"{'; '.join(host.resolvers)}: a new network cannot have its DNS",
            "let it listen on its own addresses only (dnsmasq: bind-interfaces, unbound: interface:)",
        )
    else:
        yield _ok("port 53", "free on the gateways of networks")
