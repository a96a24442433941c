"""Mechanisms to audit: the product's own, and the same with one bug each.

Four members, at most one colluding, three needed for a sum: the certificate counts on two honest
shares, and just two honest members release here, so a sound mechanism spends exactly its claim.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from treaty.assessment.canaries import AuditPlan, Integers, SiteRelease, SiteRound
from treaty.privacy.calibration import Schedule, calibrated_variance
from treaty.privacy.distributed import noised, person_sum
from treaty.privacy.mechanisms import Clip, Layer, noise_share

ROUNDS = 20
DELTA = 1e-5
CLIP = Clip(0.5)


def plan_for(epsilon: float, *, canaries: int = 4000, rounds: int = ROUNDS) -> AuditPlan:
    """Return the audit of a plan that claims just `epsilon`."""
    variance = calibrated_variance(Schedule(rounds, CLIP.units), epsilon, DELTA)
    return AuditPlan(
        CLIP,
        noise_share(variance, 2),
        claimed_shares=2,
        honest=2,
        rounds=rounds,
        canaries=canaries,
    )


def clipped(item: SiteRound) -> Integers:
    """Return the sum over persons, clipped person by person, as a study does it."""
    layer = Layer(item.vectors, np.ones((len(item.vectors), 1)), has_bias=False)
    return person_sum([layer], item.persons, item.clip)


def with_noise(item: SiteRound, total: Integers) -> Integers:
    """Return `total` with the member's share of noise, as a study draws it."""
    return noised(total, share_variance=item.share_variance, ring_bits=item.ring_bits, key=item.key)


def sound(item: SiteRound) -> Integers:
    """The product's own mechanism."""
    return with_noise(item, clipped(item))


def noise_a_tenth(item: SiteRound) -> Integers:
    """The standard deviation is a tenth of what was planned."""
    return sound(replace(item, share_variance=item.share_variance // 100))


def composition_forgotten(item: SiteRound) -> Integers:
    """Noise calibrated for one round, used in all."""
    return sound(replace(item, share_variance=item.share_variance // ROUNDS))


def no_noise(item: SiteRound) -> Integers:
    """The noise is left out everywhere."""
    return clipped(item)


def no_clip(item: SiteRound) -> Integers:
    """Vectors go onto the grid as they are."""
    grid = np.trunc(item.vectors / item.clip.step).astype(np.int64)
    return with_noise(item, grid.sum(axis=0))


def clip_by_row(item: SiteRound) -> Integers:
    """Each row is clipped for itself, so a person of two rows counts double."""
    rows = np.arange(len(item.persons), dtype=np.int64)
    return sound(replace(item, persons=rows))


def same_key_every_round(item: SiteRound) -> Integers:
    """A member draws the same noise in every round."""
    return sound(replace(item, key=bytes([item.site]) * 32))


def same_key_at_every_site(item: SiteRound) -> Integers:
    """All members draw from one key in a round."""
    return sound(replace(item, key=bytes([item.number]) * 32))


def one_more_without_noise(item: SiteRound) -> Integers:
    """Beside the colluder, a member adds no noise: more than `max_colluders` do."""
    return clipped(item) if item.site == 0 else sound(item)


def all_others_without_noise(item: SiteRound) -> Integers:
    """Only the colluder adds noise, and the attacker knows it."""
    return sound(item) if item.site == 2 else clipped(item)


BUGS: Mapping[str, SiteRelease] = {
    bug.__name__: bug
    for bug in (
        noise_a_tenth,
        composition_forgotten,
        no_noise,
        no_clip,
        clip_by_row,
        same_key_every_round,
        same_key_at_every_site,
        one_more_without_noise,
        all_others_without_noise,
    )
}
