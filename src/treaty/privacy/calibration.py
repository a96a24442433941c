"""The least noise for a target epsilon.

Guarantees (docs/spec/privacy.md, section 3.4):
  * The returned variance really meets the target: epsilon is computed once more with the full
    accountant at the end.
  * Its standard deviation is within 0.5 % of the least that this accountant accepts.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from treaty.errors import UsageError
from treaty.privacy.accountant import Adjacency, composed_epsilon
from treaty.privacy.events import (
    LEMMA_LOSS,
    MIN_SHARE_VARIANCE,
    SAMPLING_UNIT,
    GaussianEvent,
    SampledGaussianEvent,
    gaussian_event,
)
from treaty.privacy.gaussian import gaussian_epsilon

__all__ = ["Schedule", "calibrated_variance", "gaussian_mu"]

_PRECISION = 0.002
_LARGEST = 1 << 12
"""Largest noise multiplier tried: beyond, nothing would be learned."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What will be released: `rounds` sums of this `sensitivity` (grid units) at this rate.

    `sampling` is the Poisson rate times 2^53 (2^53: everybody, every round); `sites` the
    number of sites at which one person may appear.
    """

    rounds: int
    sensitivity: int
    sampling: int = SAMPLING_UNIT
    sites: int = 1

    def event(self, variance: int) -> GaussianEvent | SampledGaussianEvent:
        """Return the event of the whole schedule at an accounted variance."""
        return gaussian_event(
            variance=variance,
            sensitivity=self.sensitivity,
            count=self.rounds,
            sampling=self.sampling,
        )


def calibrated_variance(
    schedule: Schedule,
    epsilon: float,
    delta: float,
    *,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
) -> int:
    """Return the total noise variance (grid units squared) that meets `epsilon` at `delta`.

    It is what honest shares must add up to; the four units of the lemma are included. Divide
    with `mechanisms.noise_share`.

    Guarantee: as `accountant.composed_epsilon` for the schedule; rounds towards more noise.
    Raises `UsageError` when epsilon is not positive or no noise multiplier up to 4096 meets it.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise UsageError(f"epsilon must be positive and finite, got {epsilon}")

    def spent(multiplier: float) -> float:
        return composed_epsilon(
            [schedule.event(_variance(schedule, multiplier))],
            delta,
            sites=schedule.sites,
            adjacency=adjacency,
        )

    if schedule.sampling == SAMPLING_UNIT:
        factor = 2 if adjacency is Adjacency.REPLACE_ONE else 1
        mu = gaussian_mu(epsilon, delta)
        high = math.sqrt(schedule.rounds) * schedule.sites * factor / mu * (1.0 + 1e-9)
        if high > _LARGEST:
            raise UsageError(f"epsilon {epsilon} needs a noise multiplier above {_LARGEST}")
    else:
        high = _search(spent, epsilon)
    variance = _variance(schedule, high)
    while (
        composed_epsilon(
            [schedule.event(variance)], delta, sites=schedule.sites, adjacency=adjacency
        )
        > epsilon
    ):
        variance += (variance >> 20) + 1
    return max(variance + LEMMA_LOSS, MIN_SHARE_VARIANCE)


@functools.lru_cache(maxsize=1024)
def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest mu (rounded down) whose closed-form epsilon stays within the target.

    Remembered: every decision of a ledger asks for the envelopes of the same few caps.

    Raises `UsageError` unless epsilon > 0 and 0 < delta < 1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0.0):
        raise UsageError(f"epsilon must be positive and finite, got {epsilon}")
    low, high = 0.0, 1.0
    while gaussian_epsilon(Fraction(high) ** 2, delta) <= epsilon:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        if gaussian_epsilon(Fraction(middle) ** 2, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low


def _search(spent: Callable[[float], float], epsilon: float) -> float:
    """Return a noise multiplier that meets `epsilon`, by secants on logarithms.

    Log epsilon is close to linear in log sigma, so few evaluations suffice; the bracket is
    kept, so the result is right even where it is not.
    """
    low, low_value = 0.0, math.inf
    high, high_value = 1.0, spent(1.0)
    while high_value > epsilon:
        low, low_value = high, high_value
        high = min(high * min(8.0, max(2.0, high_value / epsilon)), 2.0 * _LARGEST)
        if high > _LARGEST:
            raise UsageError(f"epsilon {epsilon} needs a noise multiplier above {_LARGEST}")
        high_value = spent(high)
    if low == 0.0:
        low = high / 2.0
        while (low_value := spent(low)) <= epsilon:
            high, high_value, low = low, low_value, low / 2.0
            if low < 1.0 / 64.0:
                return high
    while high / low > 1.0 + _PRECISION:
        guess = math.sqrt(low * high)
        if math.isfinite(low_value) and low_value > high_value > 0.0:
            slope = math.log(high / low) / math.log(low_value / high_value)
            guess = low * math.exp(slope * math.log(low_value / epsilon))
            # Aim a little to the safe side, and never leave the bracket's inside.
            guess *= 1.0 + _PRECISION / 4.0
            guess = min(max(guess, low * (1.0 + _PRECISION / 2.0)), high / (1.0 + _PRECISION / 2.0))
        value = spent(guess)
        if value > epsilon:
            low, low_value = guess, value
        else:
            high, high_value = guess, value
            if value > epsilon * (1.0 - _PRECISION / 2.0):
                break
    return high


def _variance(schedule: Schedule, multiplier: float) -> int:
    """Return the variance of that multiplier of the sensitivity, rounded up."""
    exact = (Fraction(multiplier) * schedule.sensitivity) ** 2
    return max(1, -(-exact.numerator // exact.denominator))
