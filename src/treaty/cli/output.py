"""Output: what a command prints, for people or for programs.

Guarantees:
  * ``--format json`` prints one canonical JSON value on standard output and nothing else there,
    errors included; ``table`` prints lines.
  * No character of a file can steer a terminal: what is not printable is shown escaped.
  * Colour only on a terminal, and never where ``NO_COLOR`` is set.

Left to the commands: what is said. Nothing here reads a file, or loads the parser of command lines:
a party that serves does without.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import TextIO

__all__ = [
    "Format",
    "aligned",
    "emit",
    "escape_unencodable",
    "print_error",
    "printable",
    "verify_command",
    "wants_json",
]

_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"


class Format(StrEnum):
    """How a command prints its result."""

    TABLE = "table"
    JSON = "json"


def emit(form: Format, record: object, lines: Iterable[str]) -> None:
    """Print `record` as canonical JSON, or `lines` for people."""
    if form is Format.JSON:
        from treaty.crypto import canonical

        sys.stdout.write(canonical.encode(record).decode() + "\n")
        return
    for line in lines:
        sys.stdout.write(printable(line) + "\n")


def escape_unencodable() -> None:
    """Let this process print what its streams cannot encode: escaped, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def aligned(rows: Sequence[Sequence[object]], headings: Sequence[str] = ()) -> list[str]:
    """Return `rows` as lines with columns of equal width, under `headings` where there are any."""
    cells = [[str(cell) for cell in row] for row in rows]
    if headings and cells:
        cells.insert(0, list(headings))
    if not cells:
        return []
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """Return `text` on one line, with everything that is not printable escaped."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def verify_command(bundle: Path, anchor: str) -> str:
    """Return what checks `bundle` on a command line; it can be pasted whatever the path holds."""
    return f"treaty verify {quote(str(bundle))} --anchor {anchor}"


def wants_json(arguments: Sequence[str]) -> bool:
    """Say whether `arguments` ask for JSON; also before they have been understood."""
    for place, word in enumerate(arguments):
        if word == "--":
            return False
        if word == "--format=json" or (
            word == "--format" and arguments[place + 1 :][:1] == ["json"]
        ):
            return True
    return False


def print_error(message: str, *, code: str, exit_code: int, as_json: bool) -> None:
    """Print one failure: a line on standard error, or a JSON object on standard output."""
    text = printable(" ".join(message.split("\n")))
    if as_json:
        emit(Format.JSON, {"code": code, "error": text, "exit_code": exit_code}, ())
    else:
        label = f"{_RED}error:{_PLAIN}" if _has_colour(sys.stderr) else "error:"
        sys.stderr.write(f"{label} {text}\n")


def _has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
