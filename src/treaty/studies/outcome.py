"""Outcome of the registered evaluation: figures from the opened histogram, as canonical bytes.

Everything is integers, in parts per million, a pure function of the plan and the sum. The
histogram itself is never part of the outcome (docs/spec/studies.md, section 3).
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, Int53, Record
from treaty.errors import VerificationError
from treaty.evaluation.comparison import compare
from treaty.evaluation.metrics import ModelFigures, ScoreSums, calibration_table, figures_from_sums
from treaty.ids import Digest
from treaty.privacy.terms import NoisedTerms
from treaty.studies.plan import Plan

__all__ = ["CalibrationPoint", "EvaluationOutcome", "FigureRecord", "outcome_from_sums"]


class FigureRecord(Record):
    """One model's pooled figures on the holdouts, in parts per million."""

    rows: Count
    positives: Count
    accuracy: Count
    brier: Count
    auc: Count | None
    auc_half_width: Count | None
    auc_error: Count | None

    @staticmethod
    def of(figures: ModelFigures) -> "FigureRecord":
        """Return the record of `figures`."""
        return FigureRecord(
            rows=figures.rows,
            positives=figures.positives,
            accuracy=figures.accuracy,
            brier=figures.brier,
            auc=figures.auc,
            auc_half_width=figures.auc_half_width,
            auc_error=figures.auc_error,
        )


class CalibrationPoint(Record):
    """A group of adjacent score bins: from, to, observed share, all in parts per million."""

    lower: Count
    upper: Count
    observed: Count
    rows: Count


class EvaluationOutcome(Record):
    """The registered evaluation's result.

    `alone` pools each site's own model on its own holdout. `auc_difference` and `auc_margin` are
    federated minus alone and its 95 % bound, where both areas exist; `verdict` is
    ``superior``, ``inferior`` or ``inconclusive``. Under noised training there is no `alone`, and
    the verdict is ``not-compared``.
    """

    format: Literal["treaty.evaluation/v1"] = "treaty.evaluation/v1"
    sites: Count
    federated: FigureRecord
    alone: FigureRecord | None
    auc_difference: Int53 | None
    auc_margin: Count | None
    verdict: Literal["superior", "inferior", "inconclusive", "not-compared"]
    calibration: tuple[CalibrationPoint, ...]

    def digest(self) -> Digest:
        """Return the SHA-256 of the canonical bytes."""
        return canonical.digest_of(self)


def outcome_from_sums(
    plan: Plan, sums: Mapping[str, NDArray[np.int64]], *, rows: int, sites: int
) -> EvaluationOutcome:
    """Return the outcome of an opened evaluation sum over `sites` sites and `rows` rows.

    Raises `VerificationError` (codes ``sum-implausible``, ``no-rows``) when no data could give it.
    """
    threshold = plan.evaluation.threshold_permille
    federated = _scores(sums, "federated")
    if federated.rows != rows:
        raise VerificationError(
            f"the histogram counts {federated.rows} rows, the sum is over {rows}",
            code="sum-implausible",
        )
    figures = figures_from_sums(federated, threshold_permille=threshold)
    comparison = None
    if not isinstance(plan.privacy, NoisedTerms):
        others = figures_from_sums(_scores(sums, "alone"), threshold_permille=threshold)
        comparison = compare(figures, others)
    return EvaluationOutcome(
        sites=sites,
        federated=FigureRecord.of(figures),
        alone=None if comparison is None else FigureRecord.of(comparison.alone),
        auc_difference=None if comparison is None else comparison.auc,
        auc_margin=None if comparison is None else comparison.auc_margin,
        verdict="not-compared" if comparison is None else comparison.verdict.value,
        calibration=tuple(
            CalibrationPoint(
                lower=round(row.lower * 1_000_000),
                upper=round(row.upper * 1_000_000),
                observed=row.observed,
                rows=row.rows,
            )
            for row in calibration_table(federated)
        ),
    )


def _scores(sums: Mapping[str, NDArray[np.int64]], model: str) -> ScoreSums:
    return ScoreSums(
        negative=tuple(int(count) for count in sums[f"{model}.negative"]),
        positive=tuple(int(count) for count in sums[f"{model}.positive"]),
        correct=int(sums[f"{model}.correct"][0]),
        residual=int(sums[f"{model}.residual"][0]),
    )
