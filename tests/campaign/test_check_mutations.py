"""Mutation campaign: disable the checks of what peers send in turn; a test must notice each.

`tools/mutate_checks.py` says what a mutant is and which mutants are redundant, and why.
`TREATY_CAMPAIGN=ci` judges two dozen, chosen by a seed; ``full`` judges all and writes the outcome
to `tests/campaign/results/check_mutations.json`, which a quick test compares with the sources. A
row says of which source it is (`of`); rows without that are older, and their checks have not
changed their names since.

Planted in the tool, each seen to fail here: alternatives left out; `and` taken for `or`; a nested
function's checks counted twice; errors that are returned left out; columns counted in characters;
a row that asks only for presence divided.
"""

import json
import os
from pathlib import Path

import pytest
from tools.mutate_checks import (
    MODULES,
    REDUNDANT,
    STORED,
    campaign,
    mutants,
    noticed_by,
    path_of,
    report,
    sample,
    today,
)

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = STORED
CHOSEN = 24
SAMPLE = """
def outer(a, b):
    def inner():
        if not (a and b):
            raise
    if a or b == "—" or not b:
        raise Refused("gone", code="gone")
    if a and b:
        return LateError("late")
    if a is None or b is None:
        raise Refused("there", code="there")
    check_all(a)
    return inner if a else b
"""
SEED = 20_261_123


def test_every_module_has_checks_and_every_check_a_name() -> None:
    found = mutants()
    assert {one.module for one in found} == set(MODULES)
    assert len({one.name for one in found}) == len(found) > 100
    assert set(REDUNDANT) <= {one.name for one in found}


def test_of_a_row_of_alternatives_each_is_taken_out_by_itself(tmp_path: Path) -> None:
    """Errors that are returned count, what a nested function checks counts once."""
    path = tmp_path / path_of("sample")
    path.parent.mkdir(parents=True)
    path.write_text(SAMPLE, encoding="utf-8")
    found = [(one.name, one.condition, one.instead) for one in mutants(tmp_path, ["sample"])]
    assert found == [
        ("sample.outer[gone]|1", "a", "False"),
        ("sample.outer[gone]|2", 'b == "—"', "False"),
        ("sample.outer[gone]|3", "not b", "False"),
        ("sample.outer[LateError]", "a and b", "False"),
        ("sample.outer[there]", "a is None or b is None", "False"),
        ("sample.outer[check_all]", "check_all(a)", "None"),
        ("sample.inner[raise]|1", "a", "True"),
        ("sample.inner[raise]|2", "b", "True"),
    ]


def test_the_stored_outcome_is_of_these_checks_and_none_survived_unexplained() -> None:
    """A new check makes the full campaign necessary again."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    outcomes = {row["mutant"]: row for row in stored["outcomes"]}
    assert {one.name for one in mutants()} == set(outcomes)
    assert {name for name, row in outcomes.items() if not row["killed"]} == set(REDUNDANT)


@pytest.mark.timeout(0 if FULL else 400)
def test_a_disabled_check_is_noticed() -> None:
    chosen = mutants()
    if not FULL:
        candidates = [one for one in chosen if one.name not in REDUNDANT]
        chosen = sample(candidates, CHOSEN, SEED)
    outcomes = campaign(chosen, before=noticed_by(RESULTS))
    if FULL:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(report(outcomes, today()), encoding="utf-8")
    survived = {one.mutant for one in outcomes if not one.killed}
    assert survived == (set(REDUNDANT) if FULL else set())
