"""What a release costs, in integers: the events that ledger, certificate and accountant share.

Guarantees (docs/spec/privacy.md, section 2):
  * An event holds integers only: variance and sensitivity in grid units, the sampling rate as
    a multiple of 2^-53. Its bytes are canonical, so two sites that planned the same release
    charge the same bytes.
  * `grouped` brings any list of events to one canonical form with the same composition.
  * `accounted_variance` is what a continuous Gaussian must have for its privacy loss to bound
    the sum of the honest discrete shares (section 2.3: min_honest shares less four units).

Left to others: whether the site really clipped to the sensitivity (`mechanisms`) and really
drew the noise (`sampler`).
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated

import msgspec

from treaty.crypto.canonical import Name, Record, encode
from treaty.errors import UsageError

__all__ = [
    "LEMMA_LOSS",
    "MAX_VARIANCE",
    "MIN_SHARE_VARIANCE",
    "SAMPLING_UNIT",
    "Event",
    "GaussianEvent",
    "NonPrivateEvent",
    "SampledGaussianEvent",
    "accounted_variance",
    "gaussian_event",
    "grouped",
    "signal_to_noise",
    "variance_field",
]

SAMPLING_UNIT = 1 << 53
"""Sampling rates are stored as multiples of 1 / SAMPLING_UNIT."""

LEMMA_LOSS = 4
"""Variance, in grid units squared, that the rounding lemma gives away (s = 2)."""

MIN_SHARE_VARIANCE = 1 << 20
"""Least variance of one site's share: the lemma's error is negligible from sigma = 2^10 on."""

MAX_VARIANCE = 1 << 92
"""Largest variance an event may state; far above what a 64-bit ring can carry."""

VarianceField = Annotated[str, msgspec.Meta(pattern=r"\A[1-9a-f][0-9a-f]{0,22}\Z")]
Positive = Annotated[int, msgspec.Meta(ge=1, le=(1 << 53) - 1)]


class GaussianEvent(Record, frozen=True, tag="gaussian", tag_field="kind"):
    """`count` releases of a sum over everybody, each with Gaussian noise.

    `variance` is the accounted variance in grid units squared, hexadecimal (it passes 2^53);
    `sensitivity` is the L2 bound on one person's contribution at one site, in grid units.
    """

    variance: VarianceField
    sensitivity: Positive
    count: Positive


class SampledGaussianEvent(Record, frozen=True, tag="sampled-gaussian", tag_field="kind"):
    """As `GaussianEvent`, over a secret Poisson sample of rate `sampling` / 2^53 < 1."""

    variance: VarianceField
    sensitivity: Positive
    sampling: Positive
    count: Positive


class NonPrivateEvent(Record, frozen=True, tag="non-private", tag_field="kind"):
    """A release without noise: it makes epsilon infinite and is listed by name."""

    name: Name


Event = GaussianEvent | SampledGaussianEvent | NonPrivateEvent


def accounted_variance(share_variance: int, honest_shares: int) -> int:
    """Return the variance (grid units squared) to account for `honest_shares` discrete shares.

    Guarantee: for integer-valued queries the sum of that many discrete Gaussians of variance
    parameter `share_variance` is, up to a factor 1 + 1e-20, a post-processing of a continuous
    Gaussian of the returned variance. Any adjacency. Rounds towards more loss: four units are
    given away. Source: docs/spec/privacy.md, 2.3.

    Raises `UsageError` when a share is below `MIN_SHARE_VARIANCE` or no share is honest.
    """
    if honest_shares < 1:
        raise UsageError(f"honest shares must be at least 1, got {honest_shares}")
    if share_variance < MIN_SHARE_VARIANCE:
        raise UsageError(
            f"noise share has variance {share_variance}, expected at least {MIN_SHARE_VARIANCE} "
            "grid units squared: use a finer grid"
        )
    total = honest_shares * share_variance - LEMMA_LOSS
    if total > MAX_VARIANCE:
        raise UsageError(f"variance {total} is above the limit {MAX_VARIANCE}: use a coarser grid")
    return total


def variance_field(variance: int) -> str:
    """Return the canonical hexadecimal text of a variance in 1 .. `MAX_VARIANCE`."""
    if not 1 <= variance <= MAX_VARIANCE:
        raise UsageError(f"variance must be in 1 .. 2^92 grid units squared, got {variance}")
    return f"{variance:x}"


def gaussian_event(
    *, variance: int, sensitivity: int, count: int, sampling: int = SAMPLING_UNIT
) -> GaussianEvent | SampledGaussianEvent:
    """Return the event of `count` noisy sums.

    `variance` is already accounted (`accounted_variance`), in grid units squared; `sensitivity`
    in grid units, 1 .. 2^53 - 1; `sampling` is the Poisson rate times 2^53, 1 .. 2^53, where
    2^53 means that everybody takes part. Raises `UsageError` outside these ranges.
    """
    field = variance_field(variance)
    for name, value in (("sensitivity", sensitivity), ("count", count)):
        if not 1 <= value < SAMPLING_UNIT:
            raise UsageError(f"{name} must be in 1 .. 2^53 - 1, got {value}")
    if not 1 <= sampling <= SAMPLING_UNIT:
        raise UsageError(f"sampling must be in 1 .. 2^53 (units of 2^-53), got {sampling}")
    if sampling == SAMPLING_UNIT:
        return GaussianEvent(variance=field, sensitivity=sensitivity, count=count)
    return SampledGaussianEvent(
        variance=field, sensitivity=sensitivity, sampling=sampling, count=count
    )


def grouped(events: Iterable[Event]) -> tuple[Event, ...]:
    """Return the canonical form: one entry per kind of release, counts added, sorted by bytes.

    The order of the input and the way counts were split do not matter. Non-private releases
    keep each name once.
    """
    counts: dict[Event, int] = {}
    for event in events:
        if isinstance(event, NonPrivateEvent):
            counts[event] = 1
        else:
            kind = msgspec.structs.replace(event, count=1)
            counts[kind] = counts.get(kind, 0) + event.count
    canonical = [_with_count(kind, count) for kind, count in counts.items()]
    return tuple(sorted(canonical, key=encode))


def signal_to_noise(event: GaussianEvent, *, sites: int = 1) -> Fraction:
    """Return mu squared of an unsampled event, exactly, for a person at `sites` sites."""
    shift = sites * event.sensitivity
    return Fraction(event.count * shift * shift, int(event.variance, 16))


def _with_count(event: Event, count: int) -> Event:
    if isinstance(event, NonPrivateEvent):
        return event
    if count >= SAMPLING_UNIT:
        raise UsageError(f"grouped count {count} is above 2^53 - 1")
    return msgspec.structs.replace(event, count=count)
