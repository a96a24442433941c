"""Outcome: integers from the opened histogram, or a refusal.

Planted and caught: rows not compared with the histogram; the two models' rows not compared; the
alone figures taken from the federated segments; the threshold of the plan ignored; the
margin's sign turned.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worlds import refused, small_charter, small_contract, small_plan
from treaty.crypto import canonical
from treaty.studies.outcome import EvaluationOutcome, outcome_from_sums
from treaty.studies.plan import EvaluationSettings, Plan

BITS = 32
Sums = dict[str, NDArray[np.int64]]


def plan(bins: int = 4, threshold_permille: int = 500) -> Plan:
    settings = EvaluationSettings(bins=bins, threshold_permille=threshold_permille)
    return small_plan(small_charter(), small_contract(), evaluation=settings)


def part(
    model: str, negative: list[int], positive: list[int], correct: int, residual: float
) -> Sums:
    return {
        f"{model}.negative": np.array(negative),
        f"{model}.positive": np.array(positive),
        f"{model}.correct": np.array([correct]),
        f"{model}.residual": np.array([int(residual * 2**BITS)]),
    }


GOOD = part("federated", [30, 10, 5, 5], [5, 5, 10, 30], 80, 15.0)
WEAK = part("alone", [20, 10, 10, 10], [10, 10, 10, 20], 60, 25.0)
SUMS = GOOD | WEAK


def outcome(
    sums: Sums, rows: int = 100, sites: int = 4, made: Plan | None = None
) -> EvaluationOutcome:
    return outcome_from_sums(made or plan(), sums, rows=rows, sites=sites)


def test_the_figures_are_those_of_the_counts() -> None:
    found = outcome(SUMS)
    assert (found.sites, found.federated.rows, found.federated.positives) == (4, 100, 50)
    assert (found.federated.accuracy, found.alone.accuracy) == (800_000, 600_000)
    assert (found.federated.brier, found.alone.brier) == (150_000, 250_000)
    # By hand: wins of 30*(5+5+10+30)... plus half the ties, over 2,500 pairs.
    wins = 0.0
    negative, positive = [30, 10, 5, 5], [5, 5, 10, 30]
    for low, count in enumerate(negative):
        for high, other in enumerate(positive):
            wins += count * other * (1.0 if high > low else 0.5 if high == low else 0.0)
    assert found.federated.auc == round(wins / 2500 * 1e6)
    assert found.auc_difference is not None
    assert found.alone.auc is not None
    assert found.auc_difference == found.federated.auc - found.alone.auc > 0


def test_the_verdict_follows_from_difference_and_margin() -> None:
    better = outcome(SUMS)
    assert better.auc_margin is not None
    assert better.auc_difference is not None
    assert (better.verdict == "superior") == (better.auc_difference > better.auc_margin)
    right, wrong = ([50, 0, 0, 0], [0, 0, 0, 50], 100, 0.0), ([0, 0, 0, 50], [50, 0, 0, 0], 0, 99.0)
    assert outcome(part("federated", *right) | part("alone", *wrong)).verdict == "superior"
    assert outcome(part("federated", *wrong) | part("alone", *right)).verdict == "inferior"
    same = GOOD | {name.replace("federated", "alone"): values for name, values in GOOD.items()}
    assert outcome(same).verdict == "inconclusive"
    assert outcome(same).auc_difference == 0


@pytest.mark.parametrize("rows", [0, 99, 101])
def test_the_rows_of_the_sum_are_those_of_the_histogram(rows: int) -> None:
    with refused("sum-implausible"):
        outcome(SUMS, rows=rows)


@pytest.mark.parametrize(
    "change",
    [
        part("alone", [21, 10, 10, 10], [10, 10, 10, 20], 60, 25.0),
        part("alone", [21, 10, 10, 10], [9, 10, 10, 20], 61, 25.0),
        part("federated", [31, 10, 5, 4], [5, 5, 10, 30], 80, 15.0),
        part("federated", [31, 10, 5, 5], [5, 5, 10, 30], 81, 15.0),
        part("federated", [-1, 41, 5, 5], [5, 5, 10, 30], 80, 15.0),
        part("federated", [30, 10, 5, 5], [5, 5, 10, 30], 101, 15.0),
        part("federated", [30, 10, 5, 5], [5, 5, 10, 30], 80, 101.0),
        part("federated", [30, 10, 5, 5], [5, 5, 10, 30], 80, -1.0),
    ],
)
def test_counts_that_no_data_could_give_are_refused(change: Sums) -> None:
    with refused("sum-implausible"):
        outcome(SUMS | change)


def test_an_empty_holdout_has_no_outcome() -> None:
    empty = {name: values * 0 for name, values in SUMS.items()}
    with refused("no-rows"):
        outcome(empty, rows=0)


def test_one_class_has_no_area_and_no_verdict() -> None:
    sums = part("federated", [0] * 4, [0, 0, 10, 30], 40, 4.0) | part(
        "alone", [0] * 4, [10, 10, 10, 10], 20, 9.0
    )
    found = outcome(sums, rows=40)
    assert (found.federated.auc, found.alone.auc) == (None, None)
    assert (found.auc_difference, found.auc_margin) == (None, None)
    assert found.verdict == "inconclusive"


def test_the_threshold_is_the_plans() -> None:
    sums = part("federated", [30, 10, 5, 5], [5, 5, 10, 30], 75, 15.0) | part(
        "alone", [20, 10, 10, 10], [10, 10, 10, 20], 60, 25.0
    )
    with refused("sum-implausible"):
        outcome(sums)
    with refused("sum-implausible"):
        outcome(SUMS, made=plan(threshold_permille=750))
    assert outcome(sums, made=plan(threshold_permille=750)).federated.accuracy == 750_000


def test_the_outcome_is_canonical_bytes_and_holds_no_histogram() -> None:
    found = outcome(SUMS)
    data = canonical.encode(found)
    assert canonical.decode(data, EvaluationOutcome) == found
    assert found.digest() == canonical.sha256(data) == outcome(SUMS).digest()
    assert outcome(SUMS, sites=3).digest() != found.digest()
    assert all(point.rows >= 10 for point in found.calibration)
    assert sum(point.rows for point in found.calibration) == 100
