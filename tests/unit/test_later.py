"""Stand-ins for modules that nobody has used yet."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from netd.later import StandIn, later, real

NAME = "module_of_a_test"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that can be imported and is not."""
    (tmp_path / f"{NAME}.py").write_text("value = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    return NAME


def test_it_turns_into_the_module_on_first_use(module: str) -> None:
    with later(module) as stand_ins:
        found = __import__(module)
        assert found is stand_ins[module]
    assert module not in sys.modules
    assert found.value == 7
    loaded = sys.modules[module]
    assert not isinstance(loaded, StandIn)
    loaded.value = 8  # type: ignore[attr-defined]
    assert found.value == 8, "not a copy"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        found.nothing  # noqa: B018


def test_it_may_be_used_while_the_block_runs(module: str) -> None:
    with later(module):
        assert __import__(module).value == 7
        assert real(module) is sys.modules[module]
    assert not isinstance(sys.modules[module], StandIn)


def test_whoever_imports_it_afterwards_gets_the_module(module: str) -> None:
    with later(module):
        __import__(module)
    assert not isinstance(__import__(module), StandIn)


def test_what_is_there_already_stays(module: str) -> None:
    before = __import__(module)
    with later(module) as stand_ins:
        assert __import__(module) is before
    assert stand_ins == {}
    assert sys.modules[module] is before


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_rests_and_is_then_as_it_was(module: str, collecting: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with later(module):
            assert not gc.isenabled()
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if was else gc.disable)()


UNWANTED = "inspect asyncio calendar pkgutil traceback google.protobuf.text_format pathlib json"
A_REQUEST = f"""
import sys
from netd.cli import main
code = main.run(["--socket", "/nowhere", "network", "rm", "x"])
import netd.api.client
print(code, *[name for name in {UNWANTED.split()} if name in sys.modules])
"""


def test_a_request_imports_none_of_what_it_does_not_use() -> None:
    command = [sys.executable, "-IS", "-c", f"import sys; sys.path += {sys.path!r}\n{A_REQUEST}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "125"


def test_help_texts_are_tidied_all_the_same() -> None:
    code = """
import click
from netd import cli

@click.command()
@click.option("--one", help="  One line.")
@click.option("--two", help='''Two
    lines.''')
def command():
    '''What it does.

        And why.
    '''

command(["--help"])
"""
    command = [sys.executable, "-c", f"import sys; sys.path += {sys.path!r}; import netd.cli\n{code}"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "  What it does.\n\n  And why.\n" in lines
    assert "--one TEXT  One line." in lines
    assert "--two TEXT  Two lines." in lines
