"""Surplus noise: what sites draw for losses that did not happen, in parts that can be taken off.

Every site's share must do for the fewest honest members that a sum may have. When more take part
the sum carries more noise than epsilon counts. So a share is drawn as a base and a few components,
each from a key of its own; when the survivors are fixed, members open the keys of the components
that so many survivors do not need, and everybody takes them off the published sum
(docs/spec/privacy.md, 9.16).

Guarantees:
  * `tiers_for`: with k survivors of whom at most `max_colluders` collude, what the honest ones
    retain adds up to the whole variance, for every k from `min_survivors` to `members`.
    Variances are rounded up. Every part can be drawn and accounted by the lemma of 2.3.
  * `surplus_noise` gives the same integers for the same keys on every machine: those that
    `noised_in_parts` added.
  * A key opens one component of one vector. Nothing follows from it about another, the base least
    of all: all are derived from the same fresh bytes one by one, in one direction.

Pure. Left to others: when a key may be opened (`protocol.secagg_member`, `protocol.surplus`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from treaty.crypto.derivation import kdf
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError
from treaty.ids import Digest
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import NOISE_KEY_BYTES, noise_commitment, noise_key, noised
from treaty.privacy.events import MIN_SHARE_VARIANCE
from treaty.privacy.mechanisms import noise_share
from treaty.privacy.sampler import DiscreteGaussian

__all__ = [
    "MAX_TIERS",
    "NoiseKeys",
    "NoiseTiers",
    "carried",
    "noise_keys",
    "noised_in_parts",
    "surplus_noise",
    "tiers_for",
]

MAX_TIERS: Final = 4
"""Most components beside the base: a site draws at most five times, whoever adds up at most four
times for each survivor."""

_KEPT: Final = 1024

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class NoiseTiers:
    """How one site's share is divided. Variances are in grid units squared.

    With `survivors[i]` survivors or more, up to below `survivors[i + 1]`, a site retains
    `retained[i]`. The first number of survivors is the least that a sum may have; the variances
    fall. One entry: nothing can be taken off.
    """

    survivors: tuple[int, ...]
    retained: tuple[int, ...]

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in zip(self.retained, self.retained[1:], strict=False))
        rises = all(a < b for a, b in zip(self.survivors, self.survivors[1:], strict=False))
        if not (self.survivors and len(self.survivors) == len(self.retained) and falls and rises):
            raise UsageError("expected rising numbers of survivors and as many falling variances")

    @property
    def base(self) -> int:
        """The variance that is never taken off."""
        return self.retained[-1]

    @property
    def components(self) -> tuple[int, ...]:
        """The variance of each component that can be taken off, for the fewest survivors first."""
        return tuple(a - b for a, b in zip(self.retained, self.retained[1:], strict=False))

    def opened(self, survivors: int) -> int:
        """Return how many components, from the first, so many survivors open."""
        if survivors < self.survivors[0]:
            raise UsageError(f"expected at least {self.survivors[0]} survivors, got {survivors}")
        return sum(least <= survivors for least in self.survivors) - 1

    def retained_for(self, survivors: int) -> int:
        """Return the variance that a site retains in a sum over so many survivors."""
        return self.retained[self.opened(survivors)]


@dataclass(frozen=True, slots=True)
class NoiseKeys:
    """The keys of one noised vector, 32 bytes each: of the base, and of each component."""

    base: bytes = field(repr=False)
    surplus: tuple[bytes, ...] = field(default=(), repr=False)

    def commitments(self, query: Digest) -> tuple[Digest, ...]:
        """Return the commitments to the components' keys, bound to one question.

        They name no place: equal keys would show as equal commitments.
        """
        return tuple(noise_commitment(key, query) for key in self.surplus)


@functools.lru_cache(maxsize=256)
def tiers_for(variance: int, cohort: Cohort, limit: int = MAX_TIERS) -> NoiseTiers:
    """Return how shares are divided that `cohort.min_honest` honest ones carry `variance` of.

    At most `limit` components (0 .. 4). With k survivors a share of variance / (k - c) would do;
    where there are more numbers k than components, k - c rises in a geometric row, so that what
    is left beyond the need is the same factor everywhere. Parts below the least variance that the
    accounting lemma covers are joined to the one before. Guarantee: module docstring. Raises
    `UsageError` for a limit out of range, and as `mechanisms.noise_share`.
    """
    if not 0 <= limit <= MAX_TIERS:
        raise UsageError(f"expected 0 to {MAX_TIERS} components of surplus noise, got {limit}")
    counts, shares = [cohort.min_survivors], [noise_share(variance, cohort.min_honest)]
    for survivors in _counts(cohort, limit):
        share = -(-variance // (survivors - cohort.max_colluders))
        if share >= MIN_SHARE_VARIANCE and shares[-1] - share >= MIN_SHARE_VARIANCE:
            counts.append(survivors)
            shares.append(share)
    return NoiseTiers(tuple(counts), tuple(shares))


def carried(cohort: Cohort, survivors: int, limit: int = MAX_TIERS) -> Fraction:
    """Return the noise of a sum over so many survivors, as a multiple of the variance counted.

    All survivors answer; with `limit` 0 all noise stays in. For plans and forecasts; rounded up by
    less than one part in 2^60.
    """
    unit = 1 << 70
    return Fraction(survivors * tiers_for(unit, cohort, limit).retained_for(survivors), unit)


def _counts(cohort: Cohort, limit: int) -> list[int]:
    """The numbers of survivors, above the least, from which less noise is retained."""
    least, most = cohort.min_survivors, cohort.members
    if most - least <= limit:
        return list(range(least + 1, most + 1))
    few, many = cohort.min_honest, most - cohort.max_colluders
    found = set()
    for place in range(1, limit + 1):
        # The largest x with (x / few)^limit <= (many / few)^place, in integers.
        bound = few ** (limit - place) * many**place
        found.add(max(x for x in range(few, many + 1) if x**limit <= bound))
    return [x + cohort.max_colluders for x in sorted(found - {few})]


def noise_keys(entropy: bytes, components: int) -> NoiseKeys:
    """Return the keys of one noised vector from at least 32 fresh uniform bytes."""
    return NoiseKeys(
        noise_key(entropy),
        tuple(kdf(entropy, "surplus-key", number) for number in range(components)),
    )


def noised_in_parts(
    total: Integers, tiers: NoiseTiers, keys: NoiseKeys, *, ring_bits: int
) -> Integers:
    """Return `total` plus one whole share of noise per coordinate, in parts.

    Without keys for components all of it comes from the base key, and nothing can be taken off.
    Guarantee: variance `tiers.retained[0]`, independent coordinates, each part exact. Refusals as
    `mechanisms.add_noise`; `UsageError` for another number of keys than components.
    """
    if not keys.surplus:
        return noised(total, share_variance=tiers.retained[0], ring_bits=ring_bits, key=keys.base)
    if len({keys.base, *keys.surplus}) != 1 + len(keys.surplus):
        raise UsageError("expected a key of its own for every part of the noise")
    found = noised(total, share_variance=tiers.base, ring_bits=ring_bits, key=keys.base)
    parts = _checked(keys.surplus, len(tiers.components))
    for variance, key in zip(tiers.components, parts, strict=True):
        found = noised(found, share_variance=variance, ring_bits=ring_bits, key=key)
    return found


def surplus_noise(
    tiers: NoiseTiers, opened: Sequence[bytes], survivors: int, length: int
) -> Integers:
    """Return the noise of the `opened` components of one site added up, int64 (length,).

    `opened` are the keys of all components that a sum over `survivors` opens, from the first.
    Raises `UsageError` for another number of keys.
    """
    total = np.zeros(length, dtype=np.int64)
    keys = _checked(opened, tiers.opened(survivors))
    for variance, key in zip(tiers.components, keys, strict=False):
        total += _drawn(variance, key, length) if length <= _KEPT else _draw(variance, key, length)
    return total


def _draw(variance: int, key: bytes, length: int) -> Integers:
    return DiscreteGaussian(variance, Keystream(key).fill).draw(length)


@functools.lru_cache(maxsize=128)
def _drawn(variance: int, key: bytes, length: int) -> Integers:
    """Remember short ones: parties in one process draw the same. The keys stand in the log."""
    values = _draw(variance, key, length)
    values.flags.writeable = False
    return values


def _checked(keys: Sequence[bytes], wanted: int) -> Sequence[bytes]:
    if len(keys) != wanted or any(len(key) != NOISE_KEY_BYTES for key in keys):
        raise UsageError(f"expected {wanted} keys of {NOISE_KEY_BYTES} bytes for components")
    return keys
