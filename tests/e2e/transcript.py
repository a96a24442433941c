"""Transcripts: commands, what they print, and their input files, in one text.

A line ``$ command`` runs; the lines below it, up to the next ``$`` or ``#``, are what it must
print, standard output first. ``[exit N]`` is the exit code where it is not 0. In expected lines:

* ``[..]`` stands for any text within a line, a line ``...`` for any number of lines;
* ``<name>`` stands for one word: the first time it is remembered, afterwards it must be the same.
  It can be used in commands and files too.

``-- name --`` begins an input file. The commands are ``treaty`` (in this process),
``replace FILE OLD NEW`` (its first occurrence, which must exist) and ``chmod MODE FILE``.
"""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from treaty.cli.main import run

__all__ = ["Step", "Transcript", "matches", "parse", "play"]

_FILE = re.compile(r"-- (\S+) --\Z")
_MARK = re.compile(r"\[\.\.\]|<([a-z][a-z0-9-]*)>")


@dataclass(frozen=True)
class Step:
    """One command, where it stands, and what it must print."""

    line: int
    command: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Transcript:
    """The steps in order, and the input files."""

    steps: tuple[Step, ...]
    files: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Transcript:
    """Return the transcript that `text` spells."""
    steps: list[Step] = []
    files: dict[str, list[str]] = {}
    command, start, printed = "", 0, list[str]()
    current: list[str] | None = None

    def close() -> None:
        if command:
            while printed and not printed[-1]:
                printed.pop()
            steps.append(Step(start, command, tuple(printed)))

    for number, line in enumerate(text.splitlines(), 1):
        if found := _FILE.match(line):
            current = files.setdefault(found[1], [])
        elif current is not None:
            current.append(line)
        elif line.startswith(("$ ", "#")):
            close()
            command, start, printed = line[2:] if line[0] == "$" else "", number, []
        else:
            assert command or not line, f"line {number} belongs to no command"
            printed.append(line)
    close()
    return Transcript(
        tuple(steps), {name: "\n".join(lines) + "\n" for name, lines in files.items()}
    )


def play(transcript: Transcript, folder: Path, known: dict[str, str] | None = None) -> None:
    """Run every step in `folder`; fail with the first that prints something else.

    `known` holds the words remembered so far, and gets the new ones.
    """
    for name, text in transcript.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    known = {} if known is None else known
    with contextlib.chdir(folder):
        for step in transcript.steps:
            command = _MARK.sub(lambda found: known.get(found[1] or "", found[0]), step.command)
            printed = _perform(shlex.split(command))
            assert matches(list(step.expected), printed, known), (
                f"line {step.line}: $ {command}\nprinted:\n" + "\n".join(printed)
            )


def _perform(words: list[str]) -> list[str]:
    match words:
        case ["treaty", *arguments]:
            return list(_captured(arguments))
        case ["replace", name, old, new]:
            text = Path(name).read_text(encoding="utf-8")
            assert old in text, f"{name} does not hold {old!r}"
            Path(name).write_text(text.replace(old, new, 1), encoding="utf-8")
            return []
        case ["chmod", mode, name]:
            Path(name).chmod(int(mode, 8))
            return []
        case _:
            raise AssertionError(f"no such command: {words}")


def _captured(arguments: list[str]) -> Iterator[str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    yield from out.getvalue().rstrip("\n").splitlines()
    yield from err.getvalue().rstrip("\n").splitlines()
    if code:
        yield f"[exit {code}]"


def matches(expected: list[str], printed: list[str], known: dict[str, str]) -> bool:
    """Match line by line; new words enter `known` only when everything matches."""
    if not expected:
        return not printed
    first, rest = expected[0], expected[1:]
    if first == "...":
        return any(matches(rest, printed[skip:], known) for skip in range(len(printed) + 1))
    if not printed:
        return False
    words = _match_line(first, printed[0], known)
    if words is None:
        return False
    learnt = known | words
    if not matches(rest, printed[1:], learnt):
        return False
    known |= learnt
    return True


def _match_line(expected: str, printed: str, known: dict[str, str]) -> dict[str, str] | None:
    pattern, place, names = "", 0, set[str]()
    for found in _MARK.finditer(expected):
        pattern += re.escape(expected[place : found.start()])
        name = found[1]
        if name is None:
            pattern += ".*"
        elif name in known:
            pattern += re.escape(known[name])
        elif name in names:
            pattern += f"(?P={_group(name)})"
        else:
            names.add(name)
            pattern += rf"(?P<{_group(name)}>\S+)"
        place = found.end()
    match = re.fullmatch(pattern + re.escape(expected[place:]), printed)
    return None if match is None else {name: match[_group(name)] for name in names}


def _group(name: str) -> str:
    return name.replace("-", "_")
