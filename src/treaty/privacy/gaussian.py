"""Closed forms for the Gaussian mechanism: epsilon, delta and what an attacker can gain.

Guarantees (docs/spec/privacy.md, section 3):
  * `gaussian_epsilon` is never below the exact value and exceeds it by less than one part
    in a million for mu in 1e-6 .. 30 and delta in 1e-15 .. 0.1.
  * `attack_bound` is never below the success of the best membership attack.

Needs `math` alone: no scipy, so help and site agents stay light.
Source: Dong, Roth and Su, "Gaussian differential privacy" (2019), corollary 1.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from treaty.errors import UsageError

__all__ = [
    "AttackBound",
    "attack_bound",
    "epsilon_attack_bound",
    "gaussian_delta",
    "gaussian_epsilon",
    "normal_cdf",
    "normal_quantile",
    "square_root_up",
]

_ERROR = 4e-13
"""Relative error allowed for erfc and exp with arguments up to 38, each side of the difference."""

_LARGE = 600.0
"""Above this epsilon the negative term is dropped: exp would overflow, and the bound holds."""


@dataclass(frozen=True, slots=True)
class AttackBound:
    """The most that any membership attack on one person can reach.

    `area` is the area under its ROC curve; the others its true-positive rate at a
    false-positive rate of 1 % and 0.1 %. All in 0 .. 1.
    """

    area: float
    rate_at_one_percent: float
    rate_at_one_per_mille: float


def normal_cdf(value: float) -> float:
    """Return the probability that a standard normal variable is at most `value`."""
    return 0.5 * math.erfc(-value / math.sqrt(2.0))


def normal_quantile(probability: float) -> float:
    """Return the value whose `normal_cdf` is `probability`, in 0 < p < 1, by bisection.

    Raises `UsageError` outside the open interval.
    """
    if not 0.0 < probability < 1.0:
        raise UsageError(f"probability must be between 0 and 1, got {probability}")
    low, high = -40.0, 40.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        if normal_cdf(middle) < probability:
            low = middle
        else:
            high = middle
    return high


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return an upper bound on delta at `epsilon` of the Gaussian mechanism with shift `mu`.

    Guarantee: two normal distributions of unit variance, means `mu` apart; rounds up.
    """
    if mu == 0.0:
        return 0.0
    first = normal_cdf(mu / 2.0 - epsilon / mu)
    if epsilon > _LARGE:
        return min(1.0, first * (1.0 + _ERROR))
    second = math.exp(epsilon) * normal_cdf(-mu / 2.0 - epsilon / mu)
    return min(1.0, max(0.0, first - second) + _ERROR * (first + second))


def gaussian_epsilon(mu_squared: Fraction, delta: float) -> float:
    """Return the least epsilon at `delta` of a Gaussian mechanism with that mu squared.

    Guarantee: neighbours move the mean by at most mu standard deviations in total (any
    adaptive order); rounds up. Raises `UsageError` unless 0 < delta < 1.
    """
    _check_delta(delta)
    if mu_squared < 0:
        raise UsageError("mu squared cannot be negative")
    mu = square_root_up(mu_squared)
    if mu == 0.0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        low, high = high, high * 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        if gaussian_delta(mu, middle) > delta:
            low = middle
        else:
            high = middle
    return math.nextafter(high, math.inf)


def attack_bound(mu: float) -> AttackBound:
    """Return what the best membership attack reaches against a mu-Gaussian plan.

    Guarantee: the attacker knows all but one person; values round up. Source: the trade-off
    curve of the Gaussian mechanism.
    """
    return AttackBound(
        area=_up(normal_cdf(mu / math.sqrt(2.0))),
        rate_at_one_percent=_up(normal_cdf(normal_quantile(0.01) + mu)),
        rate_at_one_per_mille=_up(normal_cdf(normal_quantile(0.001) + mu)),
    )


def epsilon_attack_bound(epsilon: float, delta: float) -> AttackBound:
    """Return a bound on membership attacks that follows from (epsilon, delta) alone.

    Weaker than `attack_bound`; used where a plan samples. Guarantee: the trade-off curve of
    any (epsilon, delta) mechanism; values round up. An infinite epsilon gives ones.
    """
    _check_delta(delta)
    if math.isinf(epsilon) or epsilon > _LARGE:
        return AttackBound(area=1.0, rate_at_one_percent=1.0, rate_at_one_per_mille=1.0)

    def rate(false_positive: float) -> float:
        steep = delta + math.exp(epsilon) * false_positive
        flat = 1.0 - math.exp(-epsilon) * (1.0 - delta - false_positive)
        return _up(min(1.0, steep, max(flat, 0.0)))

    # The curve has two straight pieces that meet at the point below: the area is exact.
    meet = (1.0 - delta) / (1.0 + math.exp(epsilon))
    height = 1.0 - meet
    area = meet * (delta + height) / 2.0 + (1.0 - delta - meet) * (height + 1.0) / 2.0 + delta
    return AttackBound(
        area=_up(area), rate_at_one_percent=rate(0.01), rate_at_one_per_mille=rate(0.001)
    )


def square_root_up(value: Fraction) -> float:
    """Return a float not below the square root of `value` and within 2^-50 of it."""
    if value == 0:
        return 0.0
    shift = max(0, 128 - value.numerator.bit_length() + value.denominator.bit_length())
    shift += shift & 1
    scaled = math.isqrt((value.numerator << shift) // value.denominator) + 1
    return math.nextafter(float(Fraction(scaled, 1 << (shift // 2))), math.inf)


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must be between 0 and 1, got {delta}")


def _up(value: float) -> float:
    return min(1.0, value * (1.0 + 1e-12))
