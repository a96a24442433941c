"""Lines and JSON: what is printed is what was meant, and steers no terminal.

Planted and caught: control characters passed through, ``--format`` behind ``--`` obeyed, colour on
a file, colour in spite of NO_COLOR, columns of unequal width.
"""

import io
import json

import pytest

from treaty.cli.output import (
    Format,
    aligned,
    emit,
    print_error,
    printable,
    wants_json,
)
from treaty.errors import (
    FormatError,
    PeerError,
    PolicyError,
    ResourceError,
    TreatyError,
    UsageError,
    VerificationError,
    code_of,
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Spital Zürich, 3 °C", "Spital Zürich, 3 °C"),
        ("\x1b[2J", "\\x1b[2J"),
        ("one\ntwo\r", "one\\ntwo\\r"),
        ("\u202egnirts", "\\u202egnirts"),
    ],
)
def test_nothing_that_steers_a_terminal_is_printed(text: str, shown: str) -> None:
    """Letters of any language stay; the rest is shown escaped."""
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["a", "--format", "json"], True),
        (["--format=json", "a"], True),
        (["a", "--format", "table"], False),
        (["a", "--format"], False),
        (["a", "json"], False),
        (["a", "--", "--format", "json"], False),
        ([], False),
    ],
)
def test_json_is_recognised_before_anything_is_parsed(words: list[str], wanted: bool) -> None:
    """A mistake in the rest of the line must be JSON as well."""
    assert wants_json(words) is wanted


def test_columns_are_equally_wide() -> None:
    """Headings stand over what they name; nothing trails."""
    assert aligned([("a", 1), ("long", 22)], ("name", "n")) == ["name  n", "a     1", "long  22"]
    assert aligned([]) == []


def test_a_result_is_printed_once_in_the_form_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JSON is canonical, one value on one line."""
    emit(Format.JSON, {"b": [1], "a": "é"}, ["not this"])
    assert capsys.readouterr().out == '{"a":"é","b":[1]}\n'
    emit(Format.TABLE, {"b": 1}, ["this", "\x07"])
    assert capsys.readouterr().out == "this\n\\x07\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("x"), "usage"),
        (PeerError("x"), "peer"),
        (FormatError("x"), "format"),
        (VerificationError("x", code="sum-mismatch"), "sum-mismatch"),
        (PolicyError("x", code="sub-quorum"), "sub-quorum"),
        (ResourceError("x"), "resource"),
        (TreatyError("x"), "treaty"),
    ],
)
def test_every_error_has_a_code_for_programs(error: TreatyError, code: str) -> None:
    """Its own where it has one."""
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("terminal", "variable", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colour_is_for_terminals_only(
    terminal: bool, variable: str, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nowhere where NO_COLOR says no."""
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setenv("TERM", "xterm")
    print_error("two\nlines", code="usage", exit_code=2, as_json=False)
    assert ("\x1b[31m" in stream.getvalue()) is coloured
    assert stream.getvalue().endswith(" two lines\n")


def test_a_failure_as_json_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """With code and exit code."""
    print_error("bad \x1b", code="usage", exit_code=2, as_json=True)
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out) == {"code": "usage", "error": "bad \\x1b", "exit_code": 2}
