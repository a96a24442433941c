"""Rates, areas and their intervals: how sure a measured attack is.

Guarantees (docs/spec/privacy.md, section 10.3):
  * `binomial_interval` is that of Clopper and Pearson: it covers the true rate at least as often
    as its confidence says, whatever the rate and however few the trials.
  * `operating_point` never calls more than the asked share of outsiders members, and reports
    how many it did call, so that a bound can be taken at a rate that is surely not below it.

Needs numpy and `math` alone. Left to others: where scores come from, and what they may reach.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError

__all__ = [
    "CONFIDENCE",
    "Area",
    "OperatingPoint",
    "Rate",
    "area",
    "binomial_interval",
    "operating_point",
]

Scores = NDArray[np.float64]

CONFIDENCE = 0.99
"""Of every interval of an assessment: what is gated by them should seldom fail by chance."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its interval, all in 0 .. 1; `trials` is what the interval counts on."""

    value: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True, slots=True)
class Area:
    """The area under a ROC curve with its interval, in 0 .. 1."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What an attack reaches when it may accuse at most `asked` of the outsiders.

    `hits` is the share of members found, `alarms` that of outsiders accused.
    """

    asked: float
    hits: Rate
    alarms: Rate


def binomial_interval(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Rate:
    """Return successes / trials with the interval of Clopper and Pearson.

    Guarantee: the interval holds the true rate with at least `confidence` for independent
    trials. Raises `UsageError` unless 0 <= successes <= trials, trials >= 1 and the confidence
    lies between 0 and 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"confidence must be between 0 and 1, got {confidence}")
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if successes == 0 else _beta_quantile(tail, successes, trials - successes + 1)
    high = 1.0
    if successes < trials:
        high = _beta_quantile(1.0 - tail, successes + 1, trials - successes)
    return Rate(successes / trials, low, high, trials)


def area(inside: Scores, outside: Scores, *, repeats: int = 1) -> Area:
    """Return the area under the ROC curve of scores (n,) of members and of outsiders.

    Ties count half. The interval (99 %) is DeLong's; `repeats` says how many scores each person
    has, and the interval is widened as if one of them counted: scores of one person against
    several models are not independent. Raises `UsageError` without scores or for NaN.
    """
    _check(inside, outside)
    sorted_out, sorted_in = np.sort(outside), np.sort(inside)
    above = 0.5 * (
        np.searchsorted(sorted_out, inside, "left") + np.searchsorted(sorted_out, inside, "right")
    )
    below = 0.5 * (
        np.searchsorted(sorted_in, outside, "left") + np.searchsorted(sorted_in, outside, "right")
    )
    of_members, of_outsiders = above / len(outside), 1.0 - below / len(inside)
    value = float(of_members.mean())
    # DeLong's variance is zero for a perfect order; half a pair keeps the interval open there.
    least = 0.25 / (len(inside) * len(outside))
    variance = sum(
        float(part.var(ddof=1)) / len(part) for part in (of_members, of_outsiders) if len(part) > 1
    )
    margin = 2.575829 * math.sqrt(max(variance, least) * repeats)
    return Area(value, max(0.0, value - margin), min(1.0, value + margin))


def operating_point(
    inside: Scores, outside: Scores, share: Fraction, *, repeats: int = 1
) -> OperatingPoint:
    """Return hits and alarms of the lowest threshold that accuses at most `share` of outsiders.

    Ties are never split: everybody at one score is treated alike. `repeats` as in `area`: the
    intervals count persons. Raises `UsageError` without scores, for NaN, or a share outside 0 .. 1.
    """
    _check(inside, outside)
    if not 0 <= share <= 1:
        raise UsageError(f"the share of alarms must be in 0 .. 1, got {share}")
    allowed = int(share * len(outside))
    ordered = np.sort(outside)[::-1]
    if allowed >= len(outside):
        hits, alarms = len(inside), len(outside)
    else:
        # Everybody strictly above the first outsider that may not be accused.
        hits = int(np.count_nonzero(inside > ordered[allowed]))
        alarms = int(np.count_nonzero(outside > ordered[allowed]))
    return OperatingPoint(
        float(share),
        _per_person(hits, len(inside), repeats),
        _per_person(alarms, len(outside), repeats),
    )


def _per_person(count: int, total: int, repeats: int) -> Rate:
    """Return the rate with an interval that counts each person once; bounds round outward."""
    if repeats == 1:
        return binomial_interval(count, total)
    trials = max(1, total // repeats)
    low = binomial_interval(min(trials, count * trials // total), trials).low
    high = binomial_interval(min(trials, -(-count * trials // total)), trials).high
    return Rate(count / total, low, high, trials)


def _check(inside: Scores, outside: Scores) -> None:
    if not len(inside) or not len(outside):
        raise UsageError("expected scores of members and of outsiders, got none of one kind")
    if np.isnan(inside).any() or np.isnan(outside).any():
        raise UsageError("expected scores without NaN")


def _beta_quantile(probability: float, first: int, second: int) -> float:
    """Return the quantile of a beta distribution, by bisection on its distribution function."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if _beta_cdf(middle, first, second) < probability:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def _beta_cdf(value: float, first: int, second: int) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (Lentz)."""
    if value <= 0.0 or value >= 1.0:
        return float(value >= 1.0)
    if value > (first + 1) / (first + second + 2):
        return 1.0 - _beta_cdf(1.0 - value, second, first)
    front = math.exp(
        math.lgamma(first + second)
        - math.lgamma(first)
        - math.lgamma(second)
        + first * math.log(value)
        + second * math.log1p(-value)
    )
    tiny = 1e-300
    c, d = 1.0, 1.0 - (first + second) * value / (first + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for step in range(1, 10_000):
        even = step * (second - step) * value / ((first + 2 * step - 1) * (first + 2 * step))
        odd = -(first + step) * (first + second + step) * value
        odd /= (first + 2 * step) * (first + 2 * step + 1)
        change = 1.0
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            change = c * d
            result *= change
        if abs(change - 1.0) < 1e-14:
            break
    return front * result / first
