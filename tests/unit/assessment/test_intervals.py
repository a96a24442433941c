"""Intervals and operating points: exact coverage, ties, and what a share of alarms means.

Planted and caught: one tail for both ends of the interval, a threshold that accuses one outsider
too many, ties counted as hits in the area, the interval counting repeated scores as persons.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from treaty.assessment.intervals import area, binomial_interval, operating_point
from treaty.errors import UsageError


def _pmf(trials: int, rate: float) -> list[float]:
    return [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]


@pytest.mark.parametrize("trials", [1, 2, 7, 30, 200])
def test_the_interval_covers_every_rate_often_enough(trials: int) -> None:
    """Clopper-Pearson, summed over all outcomes: coverage is never below 95 %, each tail 2.5 %."""
    intervals = [binomial_interval(k, trials, confidence=0.95) for k in range(trials + 1)]
    for rate in np.linspace(0.003, 0.997, 71):
        mass = _pmf(trials, float(rate))
        above = sum(m for m, one in zip(mass, intervals, strict=True) if one.high < rate)
        below = sum(m for m, one in zip(mass, intervals, strict=True) if one.low > rate)
        assert above <= 0.025 + 1e-9
        assert below <= 0.025 + 1e-9


def test_the_interval_is_tight_at_its_ends() -> None:
    """At an end of the interval the outcome has probability of one tail exactly."""
    found = binomial_interval(17, 60, confidence=0.95)
    assert sum(_pmf(60, found.low)[17:]) == pytest.approx(0.025, rel=1e-6)
    assert sum(_pmf(60, found.high)[:18]) == pytest.approx(0.025, rel=1e-6)
    assert binomial_interval(0, 60).low == 0.0
    assert binomial_interval(60, 60).high == 1.0
    assert binomial_interval(0, 60).high == pytest.approx(1 - 0.005 ** (1 / 60), rel=1e-9)


def test_the_area_is_the_share_of_ordered_pairs() -> None:
    """Compared with every pair, ties counted half."""
    generator = np.random.default_rng(3)
    inside = generator.integers(0, 6, 40).astype(float)
    outside = generator.integers(0, 6, 55).astype(float)
    pairs = [float(a > b) + 0.5 * float(a == b) for a in inside for b in outside]
    assert area(inside, outside).value == pytest.approx(np.mean(pairs))
    assert area(np.ones(5), np.zeros(5)).value == 1.0


def test_the_areas_interval_covers_the_truth() -> None:
    """Of 400 draws at most 2.5 % miss the true area (99 %, asymptotic)."""
    generator = np.random.default_rng(4)
    truth = 0.5 * math.erfc(-0.5 / 2)
    missed = 0
    for _ in range(400):
        found = area(generator.standard_normal(150) + 0.5, generator.standard_normal(150))
        missed += not found.low <= truth <= found.high
    assert missed <= 10


@pytest.mark.parametrize("share", [Fraction(1, 100), Fraction(1, 10), Fraction(1, 1000)])
def test_no_more_outsiders_are_accused_than_allowed(share: Fraction) -> None:
    """Also with many ties, compared with every threshold tried in turn."""
    generator = np.random.default_rng(5)
    inside = np.round(generator.standard_normal(300) + 1, 1)
    outside = np.round(generator.standard_normal(400), 1)
    point = operating_point(inside, outside, share)
    best = max(
        float(np.mean(inside > t))
        for t in [*outside, outside.max() + 1]
        if np.mean(outside > t) <= float(share)
    )
    assert point.alarms.value <= float(share)
    assert point.hits.value == best


def test_repeated_scores_of_a_person_do_not_narrow_the_interval() -> None:
    """Eight scores of each of 50 persons count as 50."""
    generator = np.random.default_rng(6)
    inside, outside = generator.standard_normal(400), generator.standard_normal(400)
    once = operating_point(inside, outside, Fraction(1, 10))
    counted = operating_point(inside, outside, Fraction(1, 10), repeats=8)
    assert counted.hits.trials == 50
    assert counted.hits.low < once.hits.low
    assert counted.hits.high > once.hits.high
    assert area(inside, outside, repeats=8).high > area(inside, outside).high


def test_what_is_no_count_or_score_is_refused() -> None:
    """Bad input gets an error that says what was expected."""
    for successes, trials in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(UsageError, match="expected 0 <= successes"):
            binomial_interval(successes, trials)
    with pytest.raises(UsageError, match="without NaN"):
        area(np.array([np.nan]), np.zeros(3))
    with pytest.raises(UsageError, match="got none"):
        operating_point(np.empty(0), np.zeros(3), Fraction(1, 100))
