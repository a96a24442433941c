"""Figures of a binary classifier from a noised histogram of scores, with error bars.

Every cell is a count of persons plus noise of known variance; some are below zero. Nothing is cut
off at zero and nothing is smoothed: cut cells would pull the area towards one half, and counts that
look like counts would hide what is not known (docs/spec/training.md, section 9).

Guarantees:
  * From the sums on, everything is integers and fractions, rounded once to parts per million: all
    who hold the sum get the same figures. Errors are rounded up.
  * The numerator of the area is free of bias: noise of different cells is independent.
  * `*_error` is one standard error of both: that of sampling persons, and that of the noise, of
    which the second order is counted for the area. Where so few persons are counted that noise
    could be all of them, there is no area, and the other errors are the whole range.

The standard error of sampling is that of Hanley and McNeil (1982) for the area, and for shares and
squared residuals, which lie in 0 .. 1, mean times one less mean over the persons.
The noise is that of every share that was drawn, colluders' too: none of it is taken off.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from treaty.errors import UsageError
from treaty.evaluation.metrics import parts_per_million, require_bins, root_up

__all__ = ["NoisedCounts", "NoisedFigures", "noised_figures"]

_MILLION = 10**6
_SURE = 3
"""Persons of a class must be this many standard errors of their noise above none."""


@dataclass(frozen=True, slots=True)
class NoisedCounts:
    """Noised counts of persons by bin of the score, ascending, for both labels.

    All in units of which `unit` are one person; `variance` is that of the noise in each cell, in
    units squared. Raises `VerificationError` (``sum-implausible``) for bins that differ in number.
    """

    negative: tuple[int, ...]
    positive: tuple[int, ...]
    unit: int
    variance: int

    def __post_init__(self) -> None:
        require_bins(self.negative, self.positive)
        if self.unit < 1 or self.variance < 0:
            raise UsageError("expected a positive unit and a variance")


@dataclass(frozen=True, slots=True)
class NoisedFigures:
    """One model's figures and their standard errors; counts in persons, all else in ppm.

    `rows` and `positives` are rounded and not below zero. `auc_half_width` and `brier_half_width`
    bound the effect of binning, apart from noise. The area is None where a class is not sure.
    """

    rows: int
    positives: int
    rows_error: int
    positives_error: int
    accuracy: int
    accuracy_error: int
    brier: int
    brier_error: int
    brier_half_width: int
    auc: int | None
    auc_half_width: int | None
    auc_error: int | None


def noised_figures(counts: NoisedCounts, *, threshold_permille: int) -> NoisedFigures:
    """Return the figures. Raises `UsageError` where the threshold is no edge of a bin."""
    bins = len(counts.negative)
    first, rest = divmod(threshold_permille * bins, 1000)
    if rest:
        raise UsageError(
            f"the threshold {threshold_permille}/1000 is no edge of {bins} bins of equal width"
        )
    noise = Fraction(counts.variance, counts.unit**2)
    negative = [Fraction(count, counts.unit) for count in counts.negative]
    positive = [Fraction(count, counts.unit) for count in counts.positive]
    # One weight a cell: what share of its persons is decided rightly, and their squared residual
    # at the middle of the bin.
    right = [Fraction(place < first) for place in range(bins)]
    right += [Fraction(place >= first) for place in range(bins)]
    middles = [Fraction(2 * place + 1, 2 * bins) for place in range(bins)]
    residuals = [middle**2 for middle in middles] + [(1 - middle) ** 2 for middle in middles]
    cells = negative + positive
    accuracy, brier = _share(cells, right, noise), _share(cells, residuals, noise)
    area = _area(negative, positive, noise)
    return NoisedFigures(
        rows=max(0, round(sum(cells))),
        positives=max(0, round(sum(positive))),
        rows_error=root_up(noise * 2 * bins, 1),
        positives_error=root_up(noise * bins, 1),
        accuracy=parts_per_million(accuracy[0]),
        accuracy_error=_error(accuracy[1]),
        brier=parts_per_million(brier[0]),
        brier_error=_error(brier[1]),
        # A residual d from the middle's m: |(m + d)^2 - m^2| <= d (2 m + d), d half a bin, m < 1.
        brier_half_width=math.ceil(
            max(_slack(residual, bins) for residual in residuals) * _MILLION
        ),
        auc=None if area is None else parts_per_million(area[0]),
        auc_half_width=None if area is None else math.ceil(area[1] * _MILLION),
        auc_error=None if area is None else _error(area[2]),
    )


def _share(
    cells: Sequence[Fraction], weights: Sequence[Fraction], noise: Fraction
) -> tuple[Fraction, Fraction]:
    """Return the mean weight of a person, in 0 .. 1, and its variance."""
    total = sum(cells, Fraction(0))
    if not _is_sure(total, noise * len(cells)):
        return Fraction(1, 2), Fraction(1)
    mean = sum((cell * weight for cell, weight in zip(cells, weights, strict=True)), Fraction(0))
    mean = min(max(mean / total, Fraction(0)), Fraction(1))
    sampling = mean * (1 - mean) / total
    drawn = noise * sum(((weight - mean) ** 2 for weight in weights), Fraction(0)) / total**2
    return mean, min(sampling + drawn, Fraction(1))


def _area(
    negative: Sequence[Fraction], positive: Sequence[Fraction], noise: Fraction
) -> tuple[Fraction, Fraction, Fraction] | None:
    """Return area, half-width and variance, or None where a class is not sure."""
    bins = len(negative)
    negatives, positives = sum(negative, Fraction(0)), sum(positive, Fraction(0))
    if not (_is_sure(negatives, noise * bins) and _is_sure(positives, noise * bins)):
        return None
    pairs = negatives * positives
    below = [Fraction(0)]
    for count in negative:
        below.append(below[-1] + count)
    lower = [below[place] + negative[place] / 2 for place in range(bins)]
    above = Fraction(0)
    upper = [Fraction(0)] * bins
    for place in reversed(range(bins)):
        upper[place] = above + positive[place] / 2
        above += positive[place]
    raw = sum((count * won for count, won in zip(positive, lower, strict=True)), Fraction(0))
    area = min(max(raw / pairs, Fraction(0)), Fraction(1))
    # Moving one cell of one label moves the area by what it wins less what is won on average.
    moved = sum(((won - area * negatives) ** 2 for won in lower), Fraction(0))
    moved += sum(((won - area * positives) ** 2 for won in upper), Fraction(0))
    # Noise times noise: one term for each pair of cells, a quarter within a bin, and that of the
    # area's own share of all pairs.
    second = Fraction(bins * (bins - 1), 2) + Fraction(bins, 4) + area**2 * bins**2
    drawn = (noise * moved + noise**2 * second) / pairs**2
    tied = sum((_kept(n) * _kept(p) for n, p in zip(negative, positive, strict=True)), Fraction(0))
    width = min(tied / (2 * pairs), Fraction(1))
    return area, width, min(_hanley_mcneil(area, negatives, positives) + drawn, Fraction(1))


def _hanley_mcneil(area: Fraction, negatives: Fraction, positives: Fraction) -> Fraction:
    """Return the variance of an area by sampling (Hanley and McNeil, 1982)."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area)
    spread += max(positives - 1, Fraction(0)) * (first - area**2)
    spread += max(negatives - 1, Fraction(0)) * (second - area**2)
    return max(spread / (negatives * positives), Fraction(0))


def _is_sure(total: Fraction, variance: Fraction) -> bool:
    return total > 0 and total**2 > _SURE**2 * variance


def _kept(count: Fraction) -> Fraction:
    return count if count > 0 else Fraction(0)


def _slack(residual: Fraction, bins: int) -> Fraction:
    half = Fraction(1, 2 * bins)
    numerator, denominator = residual.numerator, residual.denominator
    # The middles are fractions of 2 bins, so that their squares have whole roots.
    middle = Fraction(math.isqrt(numerator), math.isqrt(denominator))
    return half * (2 * middle + half)


def _error(variance: Fraction) -> int:
    return root_up(variance, _MILLION)
