"""The command line as a whole: help, versions, and how failures look.

Planted and caught: the message of an unexpected exception printed, JSON errors on standard error,
exit code 1 for a mistake on the command line, numpy imported at the top of a command module, a
closed pipe reported as a bug, colour without a terminal.
"""

import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from tests.unit.cli.conftest import Command
from treaty.cli.main import app, main, run

PROGRAM = "from treaty.cli.main import main; main()"


def _leaves() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found.append(path)
        for name, child in (children or {}).items():
            walk(child, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


LEAVES = _leaves()


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_explains_itself_and_every_option(
    path: tuple[str, ...], treaty: Command
) -> None:
    """Help exits with 0, and no option is left without a word."""
    shown = treaty(*path, "--help")
    assert shown.code == 0
    assert shown.err == ""
    assert "Usage: treaty" in shown.out
    lines = shown.out.splitlines()
    for place, line in enumerate(lines):
        if line.startswith("  --"):
            words = line.split("  ")
            following = lines[place + 1] if place + 1 < len(lines) else ""
            assert len([word for word in words if word]) > 1 or following.startswith("    "), line


def test_every_command_prints_json_where_it_is_asked_to() -> None:
    """`--format` is everywhere."""
    for path in LEAVES:
        command: object = typer.main.get_command(app)
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]  # a group has them
        options = {option for one in command.params for option in one.opts}  # type: ignore[attr-defined]  # whichever click
        assert "--format" in options, path


def test_the_parser_and_the_runner_agree() -> None:
    """The tree works under typer's own test runner too."""
    assert CliRunner().invoke(app, ["--version"]).output == f"treaty {version('treaty')}\n"


def test_without_arguments_help_is_shown(treaty: Command) -> None:
    """Somebody who only types the name learns what there is."""
    bare, asked = treaty(), treaty("--help")
    assert (bare.code, asked.code) == (0, 0)
    assert bare.out == asked.out
    for group in ("key", "charter", "contract", "data", "plan"):
        assert f"\n  {group} " in bare.out


MISUSES = {
    "no such command": ["nothing"],
    "no such option": ["charter", "check", "x.toml", "--nothing"],
    "a group alone": ["charter"],
    "a missing argument": ["charter", "check"],
    "a missing option": ["key", "new", "log"],
    "a role that is none": ["key", "new", "root", "--out", "x"],
    "a format that is none": ["charter", "check", "x.toml", "--format", "xml"],
    "a number that is none": ["charter", "new", "a", "--member", "b", "--max-colluders", "x"],
}


@pytest.mark.parametrize("case", MISUSES)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_2(
    case: str, treaty: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is printed but the line, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    shown = treaty(*MISUSES[case])
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelling", [["--format", "json"], ["--format=json"]])
def test_with_json_a_failure_is_an_object_on_standard_output(
    spelling: list[str], treaty: Command
) -> None:
    """Programs read one value, whatever happened."""
    missing = treaty("charter", "check", "absent.toml", *spelling)
    assert (missing.code, missing.err) == (5, "")
    found = json.loads(missing.out)
    assert (found["code"], found["exit_code"]) == ("resource", 5)
    assert "absent.toml" in found["error"]
    misuse = treaty("charter", "nothing", *spelling)
    assert (misuse.code, misuse.err) == (2, "")
    assert json.loads(misuse.out)["code"] == "usage"


class Broken(io.StringIO):
    """A stream with a bug whose message would tell something."""

    def write(self, text: str) -> int:
        raise ValueError("tell-tale")


def test_an_unexpected_exception_is_one_line_without_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, desk: Path
) -> None:
    """A bug says how to see more. Its own words might hold anything, so they are not shown."""
    monkeypatch.delenv("TREATY_TRACEBACK", raising=False)
    monkeypatch.setattr("sys.stdout", Broken())
    assert run(["key", "show", str(desk / "log.key")]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("error: unexpected ValueError")
    assert "TREATY_TRACEBACK=1" in shown
    assert "tell-tale" not in shown


def test_a_traceback_is_shown_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, desk: Path
) -> None:
    """The variable opens the view, still on standard error and still exit 1."""
    monkeypatch.setenv("TREATY_TRACEBACK", "1")
    monkeypatch.setattr("sys.stdout", Broken())
    assert run(["key", "show", str(desk / "log.key")]) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.splitlines()[-1].startswith("error: unexpected ValueError")


def test_main_ends_the_process_with_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `run` returns is what the shell sees."""
    monkeypatch.setattr(sys, "argv", ["treaty", "charter", "nothing"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_failure(unbuffered: str, desk: Path) -> None:
    """`treaty charter show | head` ends quietly, whenever the loss is noticed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "charter", "show", str(desk / "charter.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_help_loads_no_numerical_library() -> None:
    """Not even numpy: what a command needs it imports when it runs."""
    report = "import sys; print(sorted({'numpy','msgspec','cryptography'} & set(sys.modules)))"
    program = f"from treaty.cli.main import run; assert run(['--help']) == 0; {report}"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_a_demonstration_is_not_run_in_a_file(treaty: Command, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"kept")
    shown = treaty("demo", "--out", tmp_path / "out")
    assert shown.code == 2
    assert "is a file: name a new directory" in shown.err
    assert (tmp_path / "out").read_bytes() == b"kept"


def test_a_command_that_is_shown_can_be_pasted(treaty: Command, tmp_path: Path) -> None:
    """Also where a directory has a space in its name."""
    (tmp_path / "my demo" / "bundle").mkdir(parents=True)
    shown = treaty("demo", "--out", tmp_path / "my demo")
    assert f"`treaty verify '{tmp_path}/my demo/bundle' --anchor HEX`" in shown.err
