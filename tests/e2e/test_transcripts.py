"""Every transcript of this folder plays as written, and the player itself can fail.

Planted and caught: an exit code left out, a line changed, a remembered word that differs, a
command that prints more than expected, `replace` of text that is not there.
"""

from pathlib import Path

import pytest

from tests.e2e.transcript import parse, play

FOLDER = Path(__file__).parent
TEXTS = sorted(path.name for path in FOLDER.glob("*.txt"))


@pytest.mark.parametrize("name", TEXTS)
def test_a_transcript_plays_as_written(name: str, tmp_path: Path) -> None:
    """Each command prints what stands below it."""
    play(parse((FOLDER / name).read_text(encoding="utf-8")), tmp_path)


def test_there_are_transcripts() -> None:
    """An empty folder proves nothing."""
    assert TEXTS


KEY = (
    "$ treaty key new log --out one.key\nrole        log\npublic key  <key>\nfile        one.key\n"
)
SHOWN = "$ treaty key show one.key\nrole        log\npublic key  <key>\n"

WRONG = {
    "exit code": "$ treaty charter check absent.toml\nerror: cannot read absent.toml[..]\n",
    "changed line": KEY.replace("one.key\n", "two.key\n", 1).replace(
        "file        one", "file  one"
    ),
    "another word": KEY + KEY.replace("one.key", "two.key"),
    "too few lines": KEY + SHOWN,
    "too many lines": KEY + SHOWN + "file        one.key\nand more\n",
    "nothing to replace": "$ replace a.txt two three\n-- a.txt --\none\n",
    "stray line": "and now\n" + KEY,
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_transcript_fails(case: str, tmp_path: Path) -> None:
    """The player notices each kind of difference."""
    with pytest.raises(AssertionError):
        play(parse(WRONG[case]), tmp_path)


def test_the_right_one_of_them_passes(tmp_path: Path) -> None:
    """The control for the wrong ones."""
    right = KEY + SHOWN + "file        one.key\n# and a remark\n"
    play(parse(right + "$ replace a.txt one '<key>'\n-- a.txt --\none\n"), tmp_path)
    assert len((tmp_path / "a.txt").read_text(encoding="utf-8")) == 65
