"""Whether a plan fits: envelopes in mu squared, caps in epsilon.

Guarantees (docs/spec/privacy.md, 7.3): what is asked is rounded towards more loss and what is
allowed towards less, so a plan that fits here fits in exact arithmetic.
"""

import functools
from collections.abc import Sequence
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
from treaty.privacy.ledger_entries import Capped, Envelope

__all__ = ["check_fits", "envelope_limit", "whole_envelope"]


def envelope_limit(cap: Capped, envelope: Envelope) -> Fraction:
    """Return an envelope's share of the cap as mu squared, rounded down."""
    epsilon = cap.epsilon_micro / 1e6 * (1 - 1e-12)
    mu = Fraction(gaussian_mu(epsilon, delta_of(cap.delta_inverse)))
    return mu * mu * envelope.per_mille / 1000


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


def check_fits(
    cap: Capped, envelope_name: str, inside: Sequence[Event], everything: Sequence[Event]
) -> None:
    """Refuse with `PolicyError` ``budget`` unless both hold:

    1. `inside`, all of the envelope's charges, reservations and the new plan, fit the
       envelope: in mu squared where nothing is sampled, else as epsilon;
    2. `everything` of the partition fits the cap, because envelopes that fit one by one need
       not fit together once something is sampled.
    """
    delta = delta_of(cap.delta_inverse)
    share = next((item for item in cap.envelopes if item.name == envelope_name), None)
    if share is None:
        raise PolicyError(f"the cap has no envelope {envelope_name}", code="no-cap")
    limit = envelope_limit(cap, share)
    whole = _epsilon(grouped(everything), delta)
    if any(isinstance(event, SampledGaussianEvent) for event in inside):
        allowed = gaussian_epsilon(limit, delta) * (1 - 1e-6)
        # The envelope holds a part of everything, so it may pass without a second run.
        fits = whole <= allowed or _epsilon(grouped(inside), delta) <= allowed
    else:
        fits = total_signal_to_noise(inside) <= limit
    if not fits:
        raise PolicyError(
            f"the envelope {share.name} of {cap.partition} does not hold this plan: "
            "use more noise or fewer rounds",
            code="budget",
        )
    if whole * 1e6 > cap.epsilon_micro:
        raise PolicyError(
            f"the cap of {cap.partition} does not hold this plan: use more noise or fewer rounds",
            code="budget",
        )
