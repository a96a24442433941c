"""Outcome of the registered evaluation: figures from the opened histogram, as canonical bytes.

Everything is integers, in parts per million, a pure function of the plan and the sum. The
histogram itself is never part of the outcome (docs/spec/studies.md, section 3).
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, Int53, Record
from treaty.errors import UsageError, VerificationError
from treaty.evaluation.comparison import compare
from treaty.evaluation.metrics import ModelFigures, ScoreSums, calibration_table, figures_from_sums
from treaty.evaluation.noised_figures import NoisedCounts, NoisedFigures, noised_figures
from treaty.ids import Digest
from treaty.privacy.certificate import Cohort
from treaty.privacy.terms import HOLDOUT_CLIP, NoisedTerms, holdout_sum
from treaty.studies.noise import noise_terms
from treaty.studies.plan import Plan

__all__ = [
    "CalibrationPoint",
    "EvaluationOutcome",
    "FigureRecord",
    "NoisedErrors",
    "noised_note",
    "outcome_from_noised",
    "outcome_from_sums",
]


class NoisedErrors(Record):
    """Of figures from a noised histogram: standard errors of sampling and noise together.

    Those of counts in persons, of noise alone; the others in parts per million.
    `brier_half_width` bounds the effect of binning.
    """

    rows: Count
    positives: Count
    accuracy: Count
    brier: Count
    brier_half_width: Count


class FigureRecord(Record):
    """One model's pooled figures on the holdouts, in parts per million.

    With `noised` they are estimates from a noised histogram, in persons, and `auc_error` holds the
    noise too.
    """

    rows: Count
    positives: Count
    accuracy: Count
    brier: Count
    auc: Count | None
    auc_half_width: Count | None
    auc_error: Count | None
    noised: NoisedErrors | msgspec.UnsetType = msgspec.UNSET

    @staticmethod
    def of(figures: ModelFigures | NoisedFigures) -> "FigureRecord":
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


def outcome_from_noised(
    plan: Plan, sums: Mapping[str, NDArray[np.int64]], cohort: Cohort, *, sites: int
) -> EvaluationOutcome:
    """Return the outcome of an opened noised histogram over `sites` sites of the group `cohort`.

    There is no calibration table: cells as small as its rows are mostly noise. Raises
    `VerificationError` (``sum-implausible``).
    """
    asked = holdout_sum(noise_terms(plan), cohort)
    if asked is None:
        raise UsageError("the plan's holdout is exact")
    counts = NoisedCounts(
        negative=tuple(int(count) for count in sums["federated.negative"]),
        positive=tuple(int(count) for count in sums["federated.positive"]),
        unit=HOLDOUT_CLIP.units,
        variance=sites * asked.share_variance,
    )
    found = noised_figures(counts, threshold_permille=plan.evaluation.threshold_permille)
    record = msgspec.structs.replace(
        FigureRecord.of(found),
        positives=min(found.positives, found.rows),
        noised=NoisedErrors(
            rows=found.rows_error,
            positives=found.positives_error,
            accuracy=found.accuracy_error,
            brier=found.brier_error,
            brier_half_width=found.brier_half_width,
        ),
    )
    return EvaluationOutcome(
        sites=sites,
        federated=record,
        alone=None,
        auc_difference=None,
        auc_margin=None,
        verdict="not-compared",
        calibration=(),
    )


def noised_note(figures: FigureRecord) -> str:
    """Return what figures from a noised histogram are worth, empty for exact ones."""
    errors = figures.noised
    if isinstance(errors, msgspec.UnsetType):
        return ""
    area = "" if figures.auc_error is None else f", AUC {figures.auc_error / 1e6:.3f}"
    return (
        f"Federated: estimates from a noised histogram of about {figures.rows} persons. One "
        f"standard error, sampling and noise together: accuracy {errors.accuracy / 1e6:.3f}{area}, "
        f"Brier {errors.brier / 1e6:.3f}."
    )


def _scores(sums: Mapping[str, NDArray[np.int64]], model: str) -> ScoreSums:
    return ScoreSums(
        negative=tuple(int(count) for count in sums[f"{model}.negative"]),
        positive=tuple(int(count) for count in sums[f"{model}.positive"]),
        correct=int(sums[f"{model}.correct"][0]),
        residual=int(sums[f"{model}.residual"][0]),
    )
