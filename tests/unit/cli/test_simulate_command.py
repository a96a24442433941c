"""``treaty simulate``: page and JSON are written, wishes out of range are one clear line.

Planted and caught: the page written before the sweep ended, persons taken for sites.
"""

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command

FEW = ("--repeats", 2, "--rounds", 4, "--epsilon", "1,8", "--persons", "80")


def test_a_rehearsal_writes_a_page_and_says_the_same_as_json(treaty: Command, desk: Path) -> None:
    contract, out = desk / "contract.toml", desk / "what-if"
    shown = treaty("simulate", "--contract", contract, *FEW, "--out", out)
    assert shown.code == 0, shown.err
    assert "sites share the noise, as chartered" in shown.out
    assert (out / "forecast.html").read_text().startswith("<!DOCTYPE html>")
    stored = json.loads((out / "forecast.json").read_text())
    again = treaty("simulate", "--contract", contract, *FEW, "--out", out, "--format", "json")
    assert json.loads(again.out) == stored
    assert [len(stored["sites"]), stored["sites"][0]] == [4, ["site-001", 80]]


def test_one_sum_of_statistics_is_rehearsed(treaty: Command, desk: Path) -> None:
    few = ("--repeats", 2, "--epsilon", "1,8", "--persons", "80", "--one-round")
    shown = treaty("simulate", "--contract", desk / "contract.toml", *few)
    assert shown.code == 0, shown.err
    assert "one noised sum of statistics, from which the model follows" in shown.out
    data = json.loads(
        treaty("simulate", "--contract", desk / "contract.toml", *few, "--format", "json").out
    )
    assert (data["rounds"], data["learning_rate_milli"]) == (1, None)
    assert data["clip_milli"] == 1414


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "either --contract or --data"),
        (("--data", "nowhere"), "expected one of heart"),
        (("--sites", "2"), "3 to 128 sites"),
        (("--sites", "a,a,b"), "distinct site names"),
        (("--persons", "1,2"), "one for each of 4 sites"),
        (("--persons", "many"), "expected numbers"),
        (("--epsilon", "1,0.5"), "rising epsilons"),
        (("--epsilon", "-1"), "positive numbers"),
        (("--clip", "0"), "clip must be positive"),
        (("--colluders", "0"), "max_colluders of at least 1"),
        (("--area", "0.4"), "expected area"),
        (("--repeats", "0"), "repeats must be"),
        (("--jobs", "0"), "jobs must be"),
        (("--one-round", "--rounds", "5"), "leave --rounds and --learning-rate out"),
        (("--one-round", "--learning-rate", "5"), "leave --rounds and --learning-rate out"),
        (("--one-round", "--clip", "0"), "clip must be positive"),
    ],
)
def test_a_wish_out_of_range_is_one_line_and_writes_nothing(
    treaty: Command, desk: Path, words: tuple[str, ...], message: str
) -> None:
    out = desk / "what-if"
    source = () if not words or words[0] == "--data" else ("--contract", desk / "contract.toml")
    shown = treaty("simulate", *source, *words, "--out", out)
    assert shown.code in (2, 4)
    assert message in shown.err and shown.err.count("\n") == 1
    assert not out.exists()
