"""Options that commands of every kind have."""

from typing import Annotated

import typer

from treaty.cli.output import Format

__all__ = ["FormatOption"]

FormatOption = Annotated[
    Format, typer.Option("--format", help="table for people, json for programs")
]
