"""The federated model beside the models alone.

Planted faults that these tests caught: half-widths left out of the margin; difference taken the
other way round; small classes shown; different rows compared.
"""

from dataclasses import replace

import pytest

from treaty.errors import VerificationError
from treaty.evaluation.comparison import Verdict, compare, site_table
from treaty.evaluation.metrics import ModelFigures

ALONE = ModelFigures(
    rows=100,
    positives=40,
    accuracy=700_000,
    brier=200_000,
    auc=750_000,
    auc_half_width=1_000,
    auc_error=10_000,
)


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (41_201, Verdict.SUPERIOR),
        (41_200, Verdict.INCONCLUSIVE),
        (0, Verdict.INCONCLUSIVE),
        (-41_200, Verdict.INCONCLUSIVE),
        (-41_201, Verdict.INFERIOR),
    ],
)
def test_the_verdict_needs_more_than_sampling_and_binning(
    difference: int, verdict: Verdict
) -> None:
    comparison = compare(replace(ALONE, auc=750_000 + difference), ALONE)
    assert comparison.auc == difference
    assert comparison.auc_margin == 41_200
    assert comparison.verdict is verdict


def test_differences_are_federated_minus_alone() -> None:
    comparison = compare(replace(ALONE, accuracy=710_000, brier=190_000), ALONE)
    assert (comparison.accuracy, comparison.brier) == (10_000, -10_000)


@pytest.mark.parametrize("missing", ["auc", "auc_error", "auc_half_width"])
def test_without_an_area_or_its_error_nothing_is_concluded(missing: str) -> None:
    comparison = compare(replace(ALONE, auc=999_999), replace(ALONE, **{missing: None}))
    assert comparison.verdict is Verdict.INCONCLUSIVE
    assert comparison.auc_margin is None


def test_figures_of_different_rows_are_not_compared() -> None:
    for other in (replace(ALONE, rows=99), replace(ALONE, positives=41)):
        with pytest.raises(VerificationError):
            compare(other, ALONE)


def test_the_site_table_withholds_what_is_small() -> None:
    def pair(rows: int, positives: int) -> tuple[ModelFigures, ModelFigures]:
        one = replace(ALONE, rows=rows, positives=positives)
        return replace(one, auc=760_000), one

    table = site_table(
        {
            "d": pair(9, 4),
            "c": pair(100, 91),
            "b": pair(100, 9),
            "a": pair(20, 10),
        }
    )
    assert [(row.site, row.auc) for row in table] == [("a", 10_000), ("b", None), ("c", None)]
