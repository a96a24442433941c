"""Whether a plan fits: envelopes in mu squared, caps in epsilon.

Guarantees (docs/spec/privacy.md, 7.3): all that is charged and reserved of a partition has an
epsilon, rounded up, of at most its cap. Envelopes divide the cap, to a billionth.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from treaty.errors import PolicyError
from treaty.privacy.accountant import composed_epsilon, delta_of, total_signal_to_noise
from treaty.privacy.calibration import gaussian_mu
from treaty.privacy.events import (
    Event,
    GaussianEvent,
    SampledGaussianEvent,
    grouped,
    variance_field,
)
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.privacy.ledger_entries import RESERVE, Capped, Envelope

__all__ = ["check_fits", "envelope_limit", "whole_envelope"]


def envelope_limit(cap: Capped, envelope: Envelope) -> Fraction:
    """Return an envelope's share of the cap as mu squared, up to a billionth more.

    Envelopes divide a cap; what may be spent at all is compared with the cap in epsilon. So a plan
    that promises the whole cap is not refused for the last digit.
    """
    mu = Fraction(gaussian_mu(cap.epsilon_micro / 1e6, delta_of(cap.delta_inverse)))
    return mu * mu * envelope.per_mille / 1000 * (1 + Fraction(1, 1 << 30))


def whole_envelope(cap: Capped, envelope: Envelope) -> GaussianEvent:
    """Return one event that spends at least the whole envelope."""
    limit = envelope_limit(cap, envelope)
    sensitivity = 1 << 30
    # mu squared = sensitivity^2 / variance: rounding the variance down spends more.
    variance = (sensitivity * sensitivity * limit.denominator) // limit.numerator
    return GaussianEvent(
        variance=variance_field(max(variance, 1)), sensitivity=sensitivity, count=1
    )


@functools.lru_cache(maxsize=64)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Remember what a decision computes twice: before it is taken, and when it is recorded."""
    return composed_epsilon(events, delta)


def check_fits(cap: Capped, envelope_name: str, inside: Mapping[str, Sequence[Event]]) -> None:
    """Refuse with `PolicyError` ``budget`` unless both hold:

    1. `inside`, every envelope's charges, reservations and the new plan, fits the envelopes: what
       an envelope holds beyond its own share is taken from the reserve, as far as that goes;
    2. all of the partition fits the cap in epsilon, because envelopes that fit one by one need
       not fit together once something is sampled.

    Sizes are mu squared; sampled events count as the Gaussian plan of the same epsilon. An envelope
    of an earlier cap that this cap no longer has counts in full.
    """
    delta = delta_of(cap.delta_inverse)
    limits = {one.name: envelope_limit(cap, one) for one in cap.envelopes}
    if envelope_name not in limits:
        raise PolicyError(f"the cap has no envelope {envelope_name}", code="no-cap")
    beyond = Fraction(0)
    for name, events in inside.items():
        limit = Fraction(0) if name == RESERVE else limits.get(name, Fraction(0))
        beyond += max(Fraction(0), _size(events, delta, limit) - limit)
    if beyond > limits.get(RESERVE, Fraction(0)):
        raise PolicyError(
            f"the envelope {envelope_name} of {cap.partition} does not hold this plan, nor does "
            "the reserve: use more noise or fewer rounds",
            code="budget",
        )
    whole = _epsilon(grouped([one for events in inside.values() for one in events]), delta)
    if whole * 1e6 > cap.epsilon_micro:
        raise PolicyError(
            f"the cap of {cap.partition} does not hold this plan: use more noise or fewer rounds",
            code="budget",
        )


def _size(events: Sequence[Event], delta: float, limit: Fraction) -> Fraction:
    """Return mu squared of `events`, rounded up; `limit` or less for what certainly fits it."""
    if not any(isinstance(event, SampledGaussianEvent) for event in events):
        return total_signal_to_noise(events)
    epsilon = _epsilon(grouped(events), delta)
    if limit > 0 and epsilon <= gaussian_epsilon(limit, delta) * (1 - 1e-6):
        return limit
    if not math.isfinite(epsilon) or epsilon <= 0.0:
        raise PolicyError("the plan has no finite epsilon: use more noise", code="budget")
    mu = Fraction(gaussian_mu(epsilon * (1 + 1e-6), delta)) * (1 + Fraction(1, 10**9))
    return mu * mu
