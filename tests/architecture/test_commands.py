"""The page of commands and the program agree: docs/cli.md is the source.

Planted and caught: a row without a command, a command without a row, an exit code left out.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

import typer.main

from tests.architecture.sources import ROOT
from treaty.errors import PeerError, PolicyError, ResourceError, UsageError

PAGE = ROOT / "docs" / "cli.md"
ROW = re.compile(r"^\| *`treaty((?: [a-z][a-z0-9-]*)+)")


class Command(Protocol):
    """What this test needs of a command, whichever click typer brings."""

    hidden: bool


def _documented() -> list[str]:
    """The first cell of each row, without arguments and options."""
    rows = map(ROW.match, PAGE.read_text(encoding="utf-8").splitlines())
    return [row.group(1).strip() for row in rows if row]


def _offered(command: Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every leaf of the command tree that is not hidden."""
    children: Mapping[str, Command] | None = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path)
        return
    for name, child in children.items():
        if not child.hidden:
            yield from _offered(child, (*path, name))


def test_every_command_has_its_row_and_every_row_its_command() -> None:
    """Neither the page nor the program promises more than the other."""
    from treaty.cli.main import app

    documented = _documented()
    assert sorted(documented) == sorted(set(documented))
    assert set(documented) == set(_offered(typer.main.get_command(app)))


def test_the_page_lists_every_exit_code() -> None:
    """A script can tell the four remedies apart."""
    text = PAGE.read_text(encoding="utf-8")
    for error in (UsageError, PeerError, PolicyError, ResourceError):
        assert re.search(rf"^\| *`?{error.exit_code}`? *\|", text, re.MULTILINE), error.__name__
