"""What the documentation shows is typed here, and answered as it says.

A block of kind `console` is a session: `# ` before a command of the host, `lan# ` before one of its
neighbour, below it the answer. Ids, ages and generated addresses may differ. A page whose commands
have no answers is only run: every one of them must succeed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.host import HOST, INTERNET, NETD, ROOT, Host, Lab, Node, end

PAGES = ("docs/networks.md", "docs/publishing.md", "docs/runtime.md")
OPERATIONS = ROOT / "docs/operations.md"
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"(lan)?# (.*)")


class Step(NamedTuple):
    """One command, and what the page says that it answers."""

    on_lan: bool
    command: str
    answer: str


def steps(page: Path) -> Iterator[Step]:
    for block in BLOCK.findall(page.read_text()):
        found: list[tuple[bool, str, list[str]]] = []
        for line in block.splitlines():
            if prompt := PROMPT.fullmatch(line):
                found.append((bool(prompt[1]), prompt[2], []))
            else:
                found[-1][2].append(line)
        for on_lan, command, answer in found:
            yield Step(on_lan, command, "\n".join(answer))


def timeless(text: str) -> str:
    """`text` with everything that differs from one run to the next in a fixed form."""
    for pattern, fixed in (
        (r"\b[0-9a-f]{32}\b|\b[0-9a-f]{12}\b", "ID"),
        (r"\bfd[0-9a-f:]+", "ULA"),
        (r"\b(Up )?\d+ seconds?( ago)?", "AGE"),
        (r"\d+ milliseconds", "MS"),
        (r"[ \t]+", " "),
    ):
        text = re.sub(pattern, fixed, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def typed(node: Node, command: str) -> str:
    return node.run("/bin/sh", "-c", f"{command} 2>&1").stdout


def test_the_tour_of_the_readme(host: Host) -> None:
    tour = list(steps(ROOT / "README.md"))
    assert len(tour) > 15
    for step in tour:
        if host.daemon is None and not step.on_lan:
            host.start()
        node = host.lab.client if step.on_lan else host
        answer = typed(node, step.command)
        if "kill -9" in step.command:
            host.gone()
        for _ in range(20 if "curl" in step.command else 0):
            if timeless(answer) == timeless(step.answer):
                break
            answer = typed(node, step.command)  # its server may take a moment to listen
        assert timeless(answer) == timeless(step.answer), step.command


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(host: Host, page: str) -> None:
    commands = [step.command for step in steps(ROOT / page)]
    assert commands, "a page without a session does not belong here"
    for command in commands:
        host.sh(command)


def scripts(page: Path, title: str) -> list[str]:
    """The blocks of kind `sh` below a title of `page`."""
    section = page.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def test_the_rules_for_a_host_whose_firewall_drops(host: Host) -> None:
    host.netd("network", "create", "front", "--ipv6")
    host.serve("web", "--network", "front", "-p", "8080:80")
    drop = "chain inet filter forward { type filter hook forward priority 10; policy drop; }"
    host.output("nft", "-f", "-", input=f"add table inet filter\nadd {drop}\n")
    published = [f"tcp,{address},8080" for address in HOST]
    assert set(host.lab.client.ask(*published).values()) == {None}
    [rules] = scripts(OPERATIONS, "Doctor")
    host.sh(rules)
    assert all(answer and answer.startswith("web ") for answer in host.lab.client.ask(*published).values())
    router = host.lab.router.talker("serve", "internet", "tcp:80")
    for internet in INTERNET:
        assert host.container_ask("web", f"tcp,{internet},80")[f"tcp,{internet},80"] is not None
    assert host.run(NETD, "doctor").returncode == 0
    end(router)
    host.sh("nft delete table inet filter")


def test_what_removes_netd_from_a_host_leaves_nothing(lab: Lab) -> None:
    host = lab.host
    before = host.census()
    host.start()
    host.netd("network", "create", "front", "--ipv6")
    host.serve("web", "--network", "front", "-p", "8080:80")
    [script] = scripts(OPERATIONS, "Remove it")
    first, stop, rest = script.partition("systemctl stop netd\n")
    assert stop, "the page stops the daemon before it removes what the daemon keeps"
    host.sh(first)
    assert host.stop() == 0
    host.sh(rest)
    assert host.census() == before
    assert host.output("nft", "list", "ruleset") == ""
    assert not host.sh("ls -d /run/netd /var/lib/netd 2>/dev/null || true")


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
