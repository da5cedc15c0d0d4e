"""docs/cli.md is the reference: it has every command, every option and every key, and no others.

README.md names every command too, and where it leads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from netd.api import netd_pb2 as pb
from netd.cli import main

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "cli.md").read_text()
README = (ROOT / "README.md").read_text()
SECTION = re.compile(r"^### `(netd [^`]+)`\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
COMMON = {"--socket", "--help"}


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


COMMANDS = dict(commands(main.cli, "netd"))
SECTIONS: dict[str, str] = dict(SECTION.findall(TEXT))


def words(heading: str) -> str:
    """The command of a heading: what comes before its first argument."""
    return re.split(r" (?=[\[A-Z])", heading, maxsplit=1)[0]


def test_every_command_has_its_section_and_every_section_its_command() -> None:
    assert sorted(map(words, SECTIONS)) == sorted(COMMANDS)


def test_the_readme_names_every_command() -> None:
    table = README.split("\n## Commands\n")[1].split("\n## ")[0]
    named = {
        word
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for word in re.findall(r"[a-z]+", row)
    }
    assert named - {"netd"} == set(main.cli.list_commands(click.Context(main.cli)))


def test_the_readme_leads_to_every_page() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"\]\(docs/([\w-]+\.md)", README))


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_section_has_the_options_of_its_command(heading: str) -> None:
    told = {
        frozenset(re.findall(r"`(--?[a-z0-9-]+)`", row.split(" | ")[0]))
        for row in SECTIONS[heading].splitlines()
        if row.startswith("| `-")
    }
    real = {
        frozenset((*option.opts, *option.secondary_opts))
        for option in COMMANDS[words(heading)].params
        if isinstance(option, click.Option) and not COMMON & set(option.opts)
    }
    assert told == real


@pytest.mark.parametrize("heading", SECTIONS)
def test_a_heading_has_the_arguments_of_its_command(heading: str) -> None:
    command = COMMANDS[words(heading)]
    context = click.Context(command)
    wanted = [each.make_metavar(context) for each in command.params if isinstance(each, click.Argument)]
    shown = (
        heading.removeprefix(words(heading))
        .replace(" [OPTIONS]", "")
        .replace("SPEC", "[IP:][HOST:]CTR[/PROTO]")
    )
    assert shown.split() == " ".join(wanted).split()


@pytest.mark.parametrize(
    "message",
    [
        pb.Network,
        pb.Subnet,
        pb.Endpoint,
        pb.Container,
        pb.RunRequest,
        pb.Attachment,
        pb.PublishedPort,
        pb.Event,
        pb.Check,
        pb.VersionReply,
    ],
)
def test_every_key_is_told(message: type[pb.Network]) -> None:
    rows = [set(re.findall(r"`(\w+)`", line)) for line in TEXT.splitlines() if line.startswith("|")]
    keys = {field.name for field in message.DESCRIPTOR.fields}
    assert any(keys <= row for row in rows)
