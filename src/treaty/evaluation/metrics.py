"""Figures of a binary classifier from sums of score histograms, in exact arithmetic.

Every site counts its holdout rows by label and by equal-width bin of the predicted probability;
the secure sum of these counts, of the correct decisions and of the squared residuals gives every
figure here (docs/spec/training.md, section 6).

Guarantees:
  * From the sums on, everything is integers and fractions, rounded once to parts per million, ties
    to even: all who hold the sum get the same figures.
  * The area under the curve of the unbinned scores lies within `auc` plus or minus
    `auc_half_width`: only pairs that share a bin are uncertain, and each counts one half.
  * Accuracy is exact at the threshold. Brier is exact up to the fixed point of the residuals.

The standard error is that of DeLong, DeLong and Clarke-Pearson (1988), with bins as tied scores.
It covers the sampling of patients within these sites, not other sites.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from treaty.errors import UsageError, VerificationError

__all__ = [
    "DEFAULT_BINS",
    "RESIDUAL_SCALE_BITS",
    "CalibrationRow",
    "ModelFigures",
    "ScoreSums",
    "area_under_curve",
    "calibration_table",
    "exact_figures",
    "figures_from_sums",
    "local_cells",
    "local_histogram",
    "local_sums",
    "parts_per_million",
    "require_bins",
    "root_up",
]

DEFAULT_BINS = 64
RESIDUAL_SCALE_BITS = 32

_MILLION = 10**6
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoreSums:
    """Counts of one model on one or many holdouts.

    `negative` and `positive` count rows by bin, ascending; `correct` counts decisions that the
    label confirms at the threshold; `residual` is the sum of squared residuals times
    2^`residual_scale_bits`. Raises `VerificationError` (code ``sum-implausible``) for counts that
    no data could have.
    """

    negative: tuple[int, ...]
    positive: tuple[int, ...]
    correct: int
    residual: int
    residual_scale_bits: int = RESIDUAL_SCALE_BITS

    def __post_init__(self) -> None:
        require_bins(self.negative, self.positive)
        # A squared residual is at most one, and sites round their sum no further than that.
        most = self.rows << self.residual_scale_bits
        if (
            min(self.negative) < 0
            or min(self.positive) < 0
            or not 0 <= self.correct <= self.rows
            or not 0 <= self.residual <= most
        ):
            raise VerificationError("no holdout has these counts", code="sum-implausible")

    @property
    def rows(self) -> int:
        """The number of rows counted."""
        return sum(self.negative) + sum(self.positive)


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model's figures, in parts per million.

    `auc`, its guaranteed `auc_half_width` and its standard error `auc_error`, both rounded up, are
    absent when a class is absent, the error also when a class has a single row.
    """

    rows: int
    positives: int
    accuracy: int
    brier: int
    auc: int | None
    auc_half_width: int | None
    auc_error: int | None


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """Rows whose score lies from `lower` to `upper`, and how many of them are positive."""

    lower: Fraction
    upper: Fraction
    rows: int
    positives: int

    @property
    def observed(self) -> int:
        """The share of positives, in parts per million."""
        return parts_per_million(Fraction(self.positives, self.rows))


def local_histogram(
    scores: Vector, labels: Vector, bins: int = DEFAULT_BINS
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the counts of negative and of positive rows by bin, each int64 of shape (bins,).

    Bin k holds scores from k / bins up to, not including, (k + 1) / bins; the last holds 1 too.
    `scores` are probabilities (n,), `labels` 0 or 1 (n,). Raises `UsageError` otherwise.
    """
    counts = np.bincount(local_cells(scores, labels, bins), minlength=2 * bins).astype(np.int64)
    return counts[:bins], counts[bins:]


def local_cells(scores: Vector, labels: Vector, bins: int = DEFAULT_BINS) -> npt.NDArray[np.int64]:
    """Return each row's cell (n,): its bin, and `bins` more for a positive row.

    As `local_histogram`, which counts them. Raises `UsageError`.
    """
    _check(scores, labels)
    if bins < 2 or bins % 2:
        raise UsageError(f"expected an even number of bins from 2 up, got {bins}")
    # Comparing with the edges keeps one half exactly at an edge, as a product might not.
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, scores, side="right")
    cells: npt.NDArray[np.int64] = place.astype(np.int64) + bins * (labels == 1.0)
    return cells


def local_sums(
    scores: Vector,
    labels: Vector,
    *,
    bins: int = DEFAULT_BINS,
    threshold_permille: int = 500,
    residual_scale_bits: int = RESIDUAL_SCALE_BITS,
) -> ScoreSums:
    """Return a site's part of the evaluation; no rows give zeros. Raises `UsageError`.

    A row is decided positive when its score is at least `threshold_permille` / 1000.
    """
    negative, positive = local_histogram(scores, labels, bins)
    decided = scores >= threshold_permille / 1000
    residual = float(np.sum((scores - labels) ** 2))
    scaled = round(Fraction(residual) * 2**residual_scale_bits)
    return ScoreSums(
        negative=tuple(int(count) for count in negative),
        positive=tuple(int(count) for count in positive),
        correct=int(np.count_nonzero(decided == (labels == 1.0))),
        residual=min(scaled, len(scores) << residual_scale_bits),
        residual_scale_bits=residual_scale_bits,
    )


def figures_from_sums(sums: ScoreSums, *, threshold_permille: int = 500) -> ModelFigures:
    """Return the figures of pooled counts.

    Raises `VerificationError` when there are no rows (code ``no-rows``), or when `correct` is not
    what the histogram says although the threshold is an edge of a bin (``sum-implausible``).
    """
    if sums.rows == 0:
        raise VerificationError("expected holdout rows, got none", code="no-rows")
    first, rest = divmod(threshold_permille * len(sums.negative), 1000)
    if rest == 0:
        counted = sum(sums.negative[:first]) + sum(sums.positive[first:])
        if counted != sums.correct:
            raise VerificationError(
                f"the histogram has {counted} correct decisions, the sum says {sums.correct}",
                code="sum-implausible",
            )
    area, variance = area_under_curve(sums), _variance(sums)
    return ModelFigures(
        rows=sums.rows,
        positives=sum(sums.positive),
        accuracy=parts_per_million(Fraction(sums.correct, sums.rows)),
        brier=parts_per_million(Fraction(sums.residual, sums.rows << sums.residual_scale_bits)),
        auc=None if area is None else parts_per_million(area[0]),
        auc_half_width=None if area is None else math.ceil(area[1] * _MILLION),
        auc_error=None if variance is None else root_up(variance, _MILLION),
    )


def area_under_curve(sums: ScoreSums) -> tuple[Fraction, Fraction] | None:
    """Return the area, pairs of one bin counted one half, and its guaranteed half-width.

    None when a class is absent.
    """
    pairs = sum(sums.negative) * sum(sums.positive)
    if pairs == 0:
        return None
    below = twice = tied = 0
    for negative, positive in zip(sums.negative, sums.positive, strict=True):
        twice += positive * (2 * below + negative)
        tied += positive * negative
        below += negative
    return Fraction(twice, 2 * pairs), Fraction(tied, 2 * pairs)


def require_bins(negative: Sequence[int], positive: Sequence[int]) -> None:
    """Raise `VerificationError` (``sum-implausible``) unless both labels have as many bins."""
    if len(negative) != len(positive) or not negative:
        raise VerificationError(
            f"expected as many bins of both labels, got {len(negative)} and {len(positive)}",
            code="sum-implausible",
        )


def calibration_table(
    sums: ScoreSums, *, groups: int = 10, least: int = 10
) -> tuple[CalibrationRow, ...]:
    """Return observed shares by score: adjacent bins merged to about `groups` rows of equal width.

    A row of fewer than `least` rows is merged with its neighbour, so that no small cell is shown;
    the table is empty when there are fewer than `least` rows in all.
    """
    if groups < 1 or least < 1:
        raise UsageError(f"expected positive groups and least rows, got {groups} and {least}")
    bins = len(sums.negative)
    if sums.rows < least:
        return ()
    table: list[CalibrationRow] = []
    start = rows = positives = 0
    for place in range(bins):
        rows += sums.negative[place] + sums.positive[place]
        positives += sums.positive[place]
        whole_group = (place + 1) * groups // bins > place * groups // bins
        if whole_group and rows >= least:
            table.append(
                CalibrationRow(Fraction(start, bins), Fraction(place + 1, bins), rows, positives)
            )
            start, rows, positives = place + 1, 0, 0
    if start < bins:
        # The remainder is too small to stand alone; there is a row to join, as rows >= least.
        last = table.pop()
        table.append(
            CalibrationRow(last.lower, Fraction(1), last.rows + rows, last.positives + positives)
        )
    return tuple(table)


def exact_figures(scores: Vector, labels: Vector, *, threshold_permille: int = 500) -> ModelFigures:
    """Return a site's own figures without bins; the half-width of the area is zero.

    Raises `UsageError` without rows, or for scores and labels as in `local_histogram`.
    """
    _check(scores, labels)
    if len(scores) == 0:
        raise UsageError("expected holdout rows, got none")
    # Distinct scores are the bins: ties count one half, as they should.
    values, place = np.unique(scores, return_inverse=True)
    positive = labels == 1.0
    sums = ScoreSums(
        negative=tuple(int(n) for n in np.bincount(place[~positive], minlength=len(values))),
        positive=tuple(int(n) for n in np.bincount(place[positive], minlength=len(values))),
        correct=int(np.count_nonzero((scores >= threshold_permille / 1000) == positive)),
        residual=0,
    )
    area, variance = area_under_curve(sums), _variance(sums)
    brier = sum((Fraction(float(item)) ** 2 for item in scores - labels), Fraction(0))
    return ModelFigures(
        rows=sums.rows,
        positives=sum(sums.positive),
        accuracy=parts_per_million(Fraction(sums.correct, sums.rows)),
        brier=parts_per_million(brier / sums.rows),
        auc=None if area is None else parts_per_million(area[0]),
        auc_half_width=None if area is None else 0,
        auc_error=None if variance is None else root_up(variance, _MILLION),
    )


def parts_per_million(value: Fraction) -> int:
    """Return `value` times a million, rounded to nearest, ties to even."""
    return round(value * _MILLION)


def root_up(value: Fraction, scale: int) -> int:
    """Return the square root of `value` times `scale`, rounded up."""
    scaled = value * scale**2
    root = math.isqrt(math.floor(scaled))
    return root if root * root == scaled else root + 1


def _check(scores: Vector, labels: Vector) -> None:
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise UsageError(f"expected a score for every label, got {scores.shape}, {labels.shape}")
    if not np.all((scores >= 0) & (scores <= 1)):
        raise UsageError("expected scores from 0 to 1")
    if not np.all(np.isin(labels, (0.0, 1.0))):
        raise UsageError("expected labels 0 and 1")


def _variance(sums: ScoreSums) -> Fraction | None:
    """Return DeLong's variance of the area, or None where a class has fewer than two rows."""
    negatives, positives = sum(sums.negative), sum(sums.positive)
    area = area_under_curve(sums)
    if area is None or negatives < 2 or positives < 2:
        return None
    # Twice the number of wins keeps the halves of ties whole.
    twice_wins = 2 * area[0] * negatives * positives
    of_positives = of_negatives = 0
    below, above = 0, positives
    for negative, positive in zip(sums.negative, sums.positive, strict=True):
        above -= positive
        of_positives += positive * (2 * below + negative) ** 2
        of_negatives += negative * (2 * above + positive) ** 2
        below += negative
    first = (of_positives - twice_wins**2 / positives) / (4 * negatives**2 * (positives - 1))
    second = (of_negatives - twice_wins**2 / negatives) / (4 * positives**2 * (negatives - 1))
    return first / positives + second / negatives
