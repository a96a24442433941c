"""One-run audits: a lower bound on epsilon from how many canaries an attacker guesses right.

The game: each of m canaries is in the data with probability one half, independently. From one
run of the mechanism the attacker guesses, for the k canaries of which it is surest, whether they
were in. k is fixed before the run. If the mechanism kept its promise, too many right guesses
are improbable; `f_dp_lower_bound` and `pure_lower_bound` return the largest promise that the
guesses refute.

Guarantees (docs/spec/privacy.md, section 10.4):
  * With probability at least 1 - `significance` over bits and noise, the true value of a
    mechanism that is what it claims is not below the bound, whatever the attacker does and
    however the canaries depend on one another.
  * `f_dp_lower_bound` refutes Gaussian trade-off curves: it is a bound for mechanisms whose
    curve is that of a Gaussian with some mu, which is what an unsampled plan certifies.
  * `pure_lower_bound` refutes (epsilon, delta) itself, for any mechanism; it is weaker.

No fitted curve is ever read as a bound: estimates such as a mu from observed rates are not.
Sources: Mahloujifar, Melis, Chaudhuri, "Auditing f-differential privacy in one run" (2024),
algorithm 3 with a cap on guesses; Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training
run" (2023), theorem 5.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError
from treaty.privacy.gaussian import gaussian_epsilon

__all__ = [
    "GUESSED_SHARE",
    "Guesses",
    "f_dp_lower_bound",
    "guess",
    "mu_lower_bound",
    "pure_lower_bound",
]

GUESSED_SHARE = Fraction(1, 10)
"""Share of canaries that are guessed, chosen on simulated Gaussian noise at epsilon 1 to 8."""

_LARGEST_MU = 64.0
_LARGEST_EPSILON = 64.0
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Guesses:
    """How the guessing game ended: `correct` of `guessed` guesses about `canaries` canaries."""

    canaries: int
    guessed: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.guessed <= self.canaries or self.guessed < 1:
            raise UsageError(
                "expected 0 <= correct <= guessed <= canaries and a guess, got "
                f"{self.correct}, {self.guessed}, {self.canaries}"
            )


def guess(
    scores: NDArray[np.float64], inside: NDArray[np.bool_], *, share: Fraction = GUESSED_SHARE
) -> Guesses:
    """Return how guessing goes: the highest scores are said to be in, the lowest out.

    `scores` (m,) may be any function of what the attacker saw; `inside` (m,) are the bits. Half
    of share * m guesses go each way. Ties are broken by place, which knows nothing of the bits.
    Raises `UsageError` for fewer than 20 canaries, NaN or a share outside 0 .. 1.
    """
    canaries = len(scores)
    if canaries < 20 or inside.shape != scores.shape:
        raise UsageError(f"expected at least 20 canaries and a bit for each, got {canaries}")
    if np.isnan(scores).any():
        raise UsageError("expected scores without NaN")
    if not 0 < share <= 1:
        raise UsageError(f"the share of guesses must be in 0 .. 1, got {share}")
    each = max(1, int(share * canaries) // 2)
    order = np.argsort(scores, kind="stable")
    correct = int(np.count_nonzero(inside[order[-each:]]))
    correct += int(np.count_nonzero(~inside[order[:each]]))
    return Guesses(canaries, 2 * each, correct)


def mu_lower_bound(guesses: Guesses, *, significance: float = 0.05) -> float:
    """Return the largest mu whose Gaussian trade-off curve the guesses refute; 0 if none.

    Guarantee: for a mechanism whose curve is that of a Gaussian with shift mu, the result
    exceeds mu with probability at most `significance`. Rounds down.
    """
    _check_significance(significance)
    return _largest(lambda mu: _refutes_curve(guesses, mu, significance), _LARGEST_MU)


def f_dp_lower_bound(guesses: Guesses, delta: float, *, significance: float = 0.05) -> float:
    """Return the lower bound on epsilon at `delta` that follows from `mu_lower_bound`.

    Guarantee: as there. Raises `UsageError` unless 0 < delta < 1 and 0 < significance < 1.
    """
    mu = mu_lower_bound(guesses, significance=significance)
    # gaussian_epsilon rounds up by less than a millionth; a lower bound must not.
    return max(0.0, gaussian_epsilon(Fraction(mu) ** 2, delta) * (1.0 - 2e-6))


def pure_lower_bound(guesses: Guesses, delta: float, *, significance: float = 0.05) -> float:
    """Return the largest epsilon for which the guesses refute (epsilon, delta); 0 if none.

    Guarantee: for any (epsilon, delta) mechanism the result exceeds epsilon with probability at
    most `significance`. Raises `UsageError` unless 0 <= delta < 1 and 0 < significance < 1.
    """
    _check_significance(significance)
    if not 0.0 <= delta < 1.0:
        raise UsageError(f"delta must be in 0 .. 1, got {delta}")
    return _largest(
        lambda epsilon: _chance(guesses, epsilon, delta) <= significance, _LARGEST_EPSILON
    )


def _largest(refuted: Callable[[float], bool], limit: float) -> float:
    """Return a value just below the end of the refuted range, or 0 where nothing is refuted."""
    low, high = 0.0, 0.25
    if not refuted(1e-9):
        return 0.0
    while refuted(high):
        low, high = high, 2.0 * high
        if high > limit:
            return low
    for _ in range(30):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _refutes_curve(guesses: Guesses, mu: float, significance: float) -> bool:
    """Say whether so many right guesses have probability below `significance` at this mu.

    If they had more, r (expected share of canaries guessed right in runs with at least that
    many right) and h (guessed wrong) could be bounded from below, step by step down to no right
    guess at all, and would add up to more than the share of canaries that are guessed.
    """
    share = guesses.guessed / guesses.canaries
    right = significance * guesses.correct / guesses.canaries
    wrong = significance * (guesses.guessed - guesses.correct) / guesses.canaries
    for least in range(guesses.correct - 1, -1, -1):
        if right + wrong > share or right >= 1.0:
            return True
        forced = _NORMAL.cdf(_NORMAL.inv_cdf(right) - mu) if right > 0.0 else 0.0
        if forced <= wrong:
            break  # neither can change any more
        right += least / (guesses.guessed - least) * (forced - wrong)
        wrong = forced
    return right + wrong > share


def _chance(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of so many right guesses under (epsilon, delta)."""
    tail = _upper_tails(guesses.guessed, 1.0 / (1.0 + math.exp(-epsilon)))
    chance = tail[guesses.correct]
    if delta > 0.0 and guesses.correct > 0:
        steps = np.arange(1, guesses.correct + 1)
        gains = (tail[guesses.correct - steps] - chance) / steps
        chance = chance + 2.0 * guesses.canaries * delta * max(0.0, float(gains.max()))
    return float(min(1.0, chance))


def _upper_tails(trials: int, probability: float) -> NDArray[np.float64]:
    """Return P(X >= j) for j = 0 .. trials of a binomial variable."""
    counts = np.arange(trials + 1)
    logs = np.array([math.lgamma(count + 1) for count in range(trials + 1)])
    rest = math.log1p(-probability) if probability < 1.0 else -math.inf
    with np.errstate(invalid="ignore"):
        mass = logs[-1] - logs - logs[::-1] + counts * math.log(probability)
        mass = mass + np.where(counts == trials, 0.0, (trials - counts) * rest)
    tails: NDArray[np.float64] = np.cumsum(np.exp(mass)[::-1])[::-1]
    return np.minimum(tails, 1.0)


def _check_significance(significance: float) -> None:
    if not 0.0 < significance < 1.0:
        raise UsageError(f"significance must be between 0 and 1, got {significance}")
