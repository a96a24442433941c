"""One-run audits: bounds that hold at the true epsilon, bite, and agree with simpler models.

Planted and caught: significance not scaled with the share of guesses, the recursion without its
`least / (guessed - least)` weight, guesses counted as canaries in the pure bound, the delta
term left out, guesses made from the bits, rounding a lower bound up.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from treaty.assessment.auditing import (
    Guesses,
    f_dp_lower_bound,
    guess,
    mu_lower_bound,
    pure_lower_bound,
)
from treaty.errors import UsageError
from treaty.privacy.calibration import gaussian_mu
from treaty.privacy.gaussian import gaussian_epsilon

DELTA = 1e-5


def _played(mu: float, canaries: int, generator: np.random.Generator) -> Guesses:
    inside = generator.random(canaries) < 0.5
    return guess(mu * inside + generator.standard_normal(canaries), inside)


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0, 8.0])
def test_the_bounds_hold_at_the_true_epsilon(epsilon: float) -> None:
    """Of 200 audits of Gaussian noise with few canaries and with many, at most 17 are too high.

    The claim is 5 %: 18 or more of 200 have probability below 1 % if each had 5 %.
    """
    mu, generator = gaussian_mu(epsilon, DELTA), np.random.default_rng(11)
    for canaries in (60, 1000):
        too_high = pure_too_high = 0
        for _ in range(200):
            guesses = _played(mu, canaries, generator)
            too_high += f_dp_lower_bound(guesses, DELTA) > epsilon
            pure_too_high += pure_lower_bound(guesses, DELTA) > epsilon
        assert too_high <= 17
        assert pure_too_high <= 17


def test_the_bounds_hold_when_canaries_depend_on_one_another() -> None:
    """A common sign, hidden from the attacker, turns all scores round now and then.

    Right guesses then come and go together. The mechanism is post-processed Gaussian noise, so
    the bound must hold still: of 300 audits at most 24 may be too high (probability below 2 %).
    """
    epsilon, generator = 3.0, np.random.default_rng(12)
    mu, too_high, counts = gaussian_mu(epsilon, DELTA), 0, []
    for _ in range(300):
        inside = generator.random(500) < 0.5
        sign = -1.0 if generator.random() < 0.2 else 1.0
        scores = sign * (mu * (inside - 0.5) + generator.standard_normal(500))
        guesses = guess(scores, inside)
        counts.append(guesses.correct)
        too_high += f_dp_lower_bound(guesses, DELTA) > epsilon
    assert too_high <= 24
    assert np.std(counts) > 2 * math.sqrt(50 * 0.25)


@pytest.mark.parametrize(("epsilon", "least"), [(3.0, 1.0), (8.0, 2.4)])
def test_the_bound_bites(epsilon: float, least: float) -> None:
    """Four thousand canaries: at least 1.0 at a true epsilon of 3, and 2.4 at 8, ten times over."""
    mu, generator = gaussian_mu(epsilon, DELTA), np.random.default_rng(13)
    assert min(f_dp_lower_bound(_played(mu, 4000, generator), DELTA) for _ in range(10)) >= least


def test_without_delta_the_pure_bound_is_the_binomial_one() -> None:
    """Against a direct sum over outcomes: at the bound the tail has just the significance."""
    guesses = Guesses(canaries=500, guessed=50, correct=41)
    found = pure_lower_bound(guesses, 0.0)
    rate = math.exp(found) / (1 + math.exp(found))
    tail = sum(math.comb(50, k) * rate**k * (1 - rate) ** (50 - k) for k in range(41, 51))
    assert tail == pytest.approx(0.05, rel=1e-4)
    assert tail <= 0.05


def test_delta_lowers_the_pure_bound() -> None:
    """A mechanism may fail with delta for each canary: the more canaries, the weaker the bound."""
    few = pure_lower_bound(Guesses(400, 200, 150), 1e-3)
    many = pure_lower_bound(Guesses(40_000, 200, 150), 1e-3)
    assert pure_lower_bound(Guesses(400, 200, 150), 0.0) > few > many


def test_more_right_guesses_never_lower_a_bound() -> None:
    """Monotone in the right guesses, zero at chance, large when everything is right."""
    bounds = [mu_lower_bound(Guesses(1000, 100, correct)) for correct in range(0, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[10] == 0.0
    assert f_dp_lower_bound(Guesses(4000, 400, 400), DELTA) > 6
    for correct in (60, 75, 90):
        guesses = Guesses(1000, 100, correct)
        exact = gaussian_epsilon(Fraction(mu_lower_bound(guesses)) ** 2, DELTA)
        assert f_dp_lower_bound(guesses, DELTA) <= exact * (1.0 - 1e-6)


def test_guesses_are_the_extreme_scores() -> None:
    """Half of the guesses say in, half out, the rest is unsaid; ties never look at the bits."""
    inside = np.arange(100) % 2 == 0
    scores = np.where(inside, 1.0, -1.0) * np.arange(1, 101)
    found = guess(scores, inside, share=Fraction(1, 10))
    assert (found.canaries, found.guessed, found.correct) == (100, 10, 10)
    reverse = guess(-scores, inside, share=Fraction(1, 10))
    assert reverse.correct == 0
    level = guess(np.zeros(4000), np.random.default_rng(1).random(4000) < 0.5)
    assert 150 < level.correct < 250


def test_bad_games_are_refused() -> None:
    """Too few canaries, NaN, and impossible counts get one clear error each."""
    with pytest.raises(UsageError, match="at least 20 canaries"):
        guess(np.zeros(3), np.ones(3, dtype=bool))
    with pytest.raises(UsageError, match="without NaN"):
        guess(np.full(30, np.nan), np.ones(30, dtype=bool))
    with pytest.raises(UsageError, match="correct <= guessed"):
        Guesses(10, 5, 6)
    with pytest.raises(UsageError, match="significance"):
        mu_lower_bound(Guesses(10, 5, 5), significance=0.0)
