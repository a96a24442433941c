"""Epsilon of a list of events: closed form when nothing is sampled, else a PLD.

Guarantees (docs/spec/privacy.md, section 3):
  * The value is never below the true epsilon at the given delta, for a schedule declared
    before the run; later contents may depend on earlier outputs, later *parameters* may not.
  * It exceeds the tight value by at most 1 % (sampled) or one part in a million (unsampled).
    Sampled events with so little noise that no protection is left to speak of (`_is_hopeless`)
    are counted as if everybody took part, which is never less: what a peer's plan makes the
    accountant compute is bounded in time and memory.
  * Any non-private event makes it infinite.

`dp_accounting` is imported inside `_composed` only, when a sampled event is met.
LIMIT: for a person at several sites of a sampled plan, replace-one is bounded by group
privacy (remove, then add), which is valid but loose.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from enum import Enum
from fractions import Fraction

from treaty.errors import UsageError
from treaty.privacy.events import (
    SAMPLING_UNIT,
    Event,
    GaussianEvent,
    NonPrivateEvent,
    SampledGaussianEvent,
    grouped,
    signal_to_noise,
)
from treaty.privacy.gaussian import gaussian_epsilon, square_root_up

__all__ = ["Adjacency", "composed_epsilon", "delta_of", "is_private", "total_signal_to_noise"]

MIN_SAMPLED_DELTA = 1e-12
"""Below this the rounding of the Fourier transform would matter: refused for sampled plans."""

_FIRST_INTERVAL = 1e-3
_LEAST_INTERVAL = 1e-3 / 1024
_RELATIVE_MOVE = 0.005
# The PLD library bounds discretisation and truncation but not the rounding of its Fourier
# transforms. Delta is lowered by this share and amount: an allowance, not a proof, held against
# the independent lower bounds in tests/vectors/v1/privacy_brackets.json.
_DELTA_SHARE = 1e-4
_DELTA_AMOUNT = 2e-14


_LEAST_MULTIPLIER = Fraction(1, 4)
"""Sampled sums with less noise than this share of the sensitivity are not worth a grid."""

_MOST_SIGNAL = 400.0
"""Largest mu squared, in the limit of many rounds, for which a grid is made: epsilon above 200."""

_HARDLY_SAMPLED = SAMPLING_UNIT - (SAMPLING_UNIT >> 20)
"""From this rate on, nearly one, everybody counts as taking part: logarithms of the rest fail."""


class Adjacency(Enum):
    """Which two data sets count as neighbours."""

    ADD_REMOVE = "add-remove"
    REPLACE_ONE = "replace-one"


def delta_of(delta_inverse: int) -> float:
    """Return 1 / `delta_inverse` (at least 2), rounded down. Raises `UsageError` below."""
    if delta_inverse < 2:
        raise UsageError(f"expected 1 / delta of at least 2, got {delta_inverse}")
    return math.nextafter(1.0 / delta_inverse, 0.0)


def is_private(events: Iterable[Event]) -> bool:
    """Say whether no event is a noise-free release."""
    return not any(isinstance(event, NonPrivateEvent) for event in events)


def composed_epsilon(
    events: Iterable[Event],
    delta: float,
    *,
    sites: int = 1,
    adjacency: Adjacency = Adjacency.ADD_REMOVE,
) -> float:
    """Return an upper bound on epsilon of all `events` together.

    Guarantee: neighbours differ in all rows of one person at `sites` sites, added or removed
    (`ADD_REMOVE`) or exchanged for another person's (`REPLACE_ONE`); each event's sensitivity
    bounds that person's contribution at one site, sites sample independently; the schedule
    was fixed in advance. Rounds up; infinite when an event is non-private. Source: Gaussian
    closed form, or the privacy loss distribution of `dp_accounting` with a grid halved until
    epsilon moves by less than 0.5 %.

    Raises `UsageError` for a delta outside 0 .. 1 (1e-12 .. 1 when sampled), or `sites` < 1.
    """
    if sites < 1:
        raise UsageError(f"sites must be at least 1, got {sites}")
    if not 0.0 < delta < 1.0:
        raise UsageError(f"delta must be between 0 and 1, got {delta}")
    return _of_groups(grouped(events), delta, sites, adjacency)


@functools.lru_cache(maxsize=1024)
def _of_groups(groups: tuple[Event, ...], delta: float, sites: int, adjacency: Adjacency) -> float:
    """As `composed_epsilon`, for events in canonical form; remembered, since lint, certificate and
    verifier ask the same and a sampled answer takes seconds."""
    if not is_private(groups):
        return math.inf
    groups = _countable(groups, sites)
    sampled = [event for event in groups if isinstance(event, SampledGaussianEvent)]
    plain = total_signal_to_noise(groups, sites=sites)
    if not sampled:
        # Replacing a person moves the sum by at most twice one contribution.
        factor = 4 if adjacency is Adjacency.REPLACE_ONE else 1
        return gaussian_epsilon(plain * factor, delta)
    if delta < MIN_SAMPLED_DELTA:
        raise UsageError(f"delta {delta} is below {MIN_SAMPLED_DELTA}, the least for sampled plans")
    if adjacency is Adjacency.REPLACE_ONE and sites > 1:
        return _group_bound(sampled, plain, delta, sites)
    try:
        return _refined(sampled, plain, delta, sites, adjacency)
    except (ArithmeticError, ValueError, RecursionError):
        # Numbers that a plan may have and the library's root finding does not bear: the rates and
        # deviations are anybody's. Counting everybody needs no library and is never less.
        return _of_groups(_unsampled(groups), delta, sites, adjacency)


def total_signal_to_noise(events: Iterable[Event], *, sites: int = 1) -> Fraction:
    """Return the exact sum of mu squared over the unsampled Gaussian events."""
    return sum(
        (
            signal_to_noise(event, sites=sites)
            for event in events
            if isinstance(event, GaussianEvent)
        ),
        Fraction(0),
    )


def _countable(groups: tuple[Event, ...], sites: int) -> tuple[Event, ...]:
    """Return `groups` with sampled events that no grid should count as unsampled ones.

    Guarantee: never less loss, because a secret sample only hides (the sampled pair is a mixture of
    the whole pair and of two equal distributions, and divergences are convex).
    """
    sampled = [event for event in groups if isinstance(event, SampledGaussianEvent)]
    whole = [
        event
        for event in sampled
        if event.sampling >= _HARDLY_SAMPLED or _is_hopeless([event], sites)
    ]
    rest = [event for event in sampled if event not in whole]
    if _is_hopeless(rest, sites):
        whole, rest = sampled, []
    if not whole:
        return groups
    others = [event for event in groups if not isinstance(event, SampledGaussianEvent)]
    return grouped([*others, *rest, *_unsampled(whole)])


def _unsampled(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return `events` with everybody in each sampled one."""
    return grouped(
        GaussianEvent(variance=event.variance, sensitivity=event.sensitivity, count=event.count)
        if isinstance(event, SampledGaussianEvent)
        else event
        for event in events
    )


def _is_hopeless(sampled: Sequence[SampledGaussianEvent], sites: int) -> bool:
    """Say whether the loss is so large that a tight figure is of no use, and its grid huge.

    By the limit theorem for many rounds: mu squared is count q^2 (exp(1 / s^2) - 1), s the noise
    multiplier. An estimate that decides about work, never about the bound's validity.
    """
    signal = 0.0
    for event in sampled:
        shift = sites * event.sensitivity
        inverse = Fraction(shift * shift, int(event.variance, 16))
        if inverse > 1 / _LEAST_MULTIPLIER**2:
            return True
        rate = event.sampling / SAMPLING_UNIT
        signal += event.count * rate * rate * math.expm1(float(inverse))
    return signal > _MOST_SIGNAL


def _refined(
    sampled: Sequence[SampledGaussianEvent],
    plain: Fraction,
    delta: float,
    sites: int,
    adjacency: Adjacency,
) -> float:
    """Refine the grid until epsilon moves by less than half a percent; keep the least bound.

    The error falls with the square of the interval, so after a large move four is tried.
    """
    interval = _FIRST_INTERVAL
    best = _composed(sampled, plain, delta, sites, adjacency, interval)
    step = 2.0
    while interval > _LEAST_INTERVAL:
        interval /= step
        finer = _composed(sampled, plain, delta, sites, adjacency, interval)
        move = best - finer if math.isfinite(best) else math.inf
        best = min(best, finer)
        if move <= _RELATIVE_MOVE * finer:
            break
        step = 4.0 if move > 0.1 * finer else 2.0
    return math.nextafter(best * (1.0 + 1e-9), math.inf)


def _composed(
    sampled: Sequence[SampledGaussianEvent],
    plain: Fraction,
    delta: float,
    sites: int,
    adjacency: Adjacency,
    interval: float,
) -> float:
    """Return epsilon from the privacy loss distribution on a grid of that `interval`."""
    from dp_accounting import NeighboringRelation
    from dp_accounting.pld import privacy_loss_distribution as pld

    replaced = adjacency is Adjacency.REPLACE_ONE
    relation = (
        NeighboringRelation.REPLACE_ONE if replaced else NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    total = None
    for event in sampled:
        deviation = _noise_multiplier_down(event)
        rate = event.sampling / SAMPLING_UNIT
        if sites == 1:
            single = pld.from_gaussian_mechanism(
                deviation,
                value_discretization_interval=interval,
                sampling_prob=rate,
                neighboring_relation=relation,
            )
        else:
            single = pld.from_mixture_gaussian_mechanism(
                deviation,
                [float(k) for k in range(sites + 1)],
                [
                    math.comb(sites, k) * rate**k * (1.0 - rate) ** (sites - k)
                    for k in range(sites + 1)
                ],
                value_discretization_interval=interval,
            )
        many = single.self_compose(event.count)
        total = many if total is None else total.compose(many)
    if plain > 0:
        shift = square_root_up(plain) * (2.0 if replaced else 1.0)
        whole = pld.from_gaussian_mechanism(
            1.0 / shift * (1.0 - 1e-15), value_discretization_interval=interval
        )
        total = whole if total is None else total.compose(whole)
    if total is None:
        return 0.0
    lowered = delta * (1.0 - _DELTA_SHARE) - _DELTA_AMOUNT
    found = float(total.get_epsilon_for_delta(lowered))
    # A NaN would pass every comparison with a budget.
    return found if found >= 0.0 else math.inf


def _group_bound(
    sampled: Sequence[SampledGaussianEvent], plain: Fraction, delta: float, sites: int
) -> float:
    """Bound replace-one by remove followed by add: (2 e, d (1 + exp e)).

    The pair (e, d) is any pair that holds for add-remove; d is shrunk until the sum fits.
    """
    part = delta / 2.0
    for _ in range(60):
        one = _refined(sampled, plain, part, sites, Adjacency.ADD_REMOVE)
        if not math.isfinite(one) or one > 20.0:
            return math.inf
        if part * (1.0 + math.exp(one)) <= delta:
            return math.nextafter(2.0 * one, math.inf)
        part = delta / (1.0 + math.exp(one)) * 0.5
        if part < MIN_SAMPLED_DELTA:
            return math.inf
    return math.inf


def _noise_multiplier_down(event: SampledGaussianEvent) -> float:
    """Return sigma / sensitivity rounded towards less noise."""
    ratio = Fraction(event.sensitivity * event.sensitivity, int(event.variance, 16))
    return (1.0 / square_root_up(ratio)) * (1.0 - 1e-15)
