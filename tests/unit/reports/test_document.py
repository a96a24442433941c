"""Values that a report cannot be made of.

Planted faults that these tests caught: pooled figures outside a simulation; a verdict without a
margin; parts per million beyond one; more positives than rows; digests that are none; bytes that
are not canonical.
"""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.reports.sample import digest, sample
from treaty.crypto.canonical import sha256
from treaty.errors import UsageError
from treaty.reports.document import (
    CalibrationLine,
    EvaluationResult,
    ModelFigures,
    PooledComparison,
    RoundLine,
    Verdict,
    report_bytes,
    report_digest,
)

FIGURES = ModelFigures(accuracy=800_000, brier=150_000)

BAD: dict[str, tuple[Callable[[], object], str]] = {
    "pooled figures of a real study": (lambda: replace(sample(), simulation=False), "simulation"),
    "accuracy beyond one": (lambda: replace(FIGURES, accuracy=1_000_001), "accuracy"),
    "an area below zero": (lambda: replace(FIGURES, auc=-1), "auc"),
    "more positives than rows": (lambda: replace(FIGURES, rows=3, positives=4), "positives"),
    "a verdict without a margin": (
        lambda: EvaluationResult(
            sites=4, federated=FIGURES, alone=FIGURES, verdict=Verdict.SUPERIOR, auc_difference=1
        ),
        "margin",
    ),
    "a gap below zero": (lambda: PooledComparison(pooled=FIGURES, largest_gap="-1"), "gap"),
    "a gap that is no number": (lambda: PooledComparison(pooled=FIGURES, largest_gap="x"), "gap"),
    "a step that is no number": (
        lambda: RoundLine(number=1, kind="k", survivors=3, step="nan"),
        "step",
    ),
    "fewer than no survivors": (lambda: RoundLine(number=1, kind="k", survivors=-1), "survivors"),
    "an empty bin": (
        lambda: CalibrationLine(lower=5, upper=5, observed=0, rows=1),
        "width",
    ),
    "a short anchor": (lambda: replace(sample(), anchor="ab"), "anchor"),
    "a plan digest with markup": (lambda: replace(sample(), plan_digest="<b>"), "plan_digest"),
}


@pytest.mark.parametrize("which", BAD)
def test_invalid_reports_cannot_be_constructed(which: str) -> None:
    make, word = BAD[which]
    with pytest.raises(UsageError, match=word):
        make()


def test_the_digest_is_of_canonical_bytes_and_changes_with_any_value() -> None:
    data = sample()
    assert sha256(report_bytes(data)) == report_digest(data)
    assert json.loads(report_bytes(data))["format"] == "treaty.report/v1"
    assert report_digest(data) == report_digest(sample())
    assert report_digest(data) != report_digest(replace(data, plan_digest=digest("other")))
    assert report_digest(data) != report_digest(replace(data, halted="decided"))
