"""Degree: how many members hold a member's shares in a large group, and how many open a secret.

Guarantees (docs/spec/secagg.md, section 10): `degree_of` returns the smallest k with its share
threshold t for which, over the members' own independent choices of k holders each,

  * except with probability 2^-40 (`PRIVACY_BITS`): at every honest member with c_v corrupt
    holders t > (k + 1 + c_v) / 2, so that never both of its seeds are rebuilt; and whichever
    survivors the coordinator picks *after it has seen every choice*, as long as there are
    `min_survivors` of them, the honest ones stay connected by masks, so that nothing but their
    one sum is open. The first is half of it by exact hypergeometric tails, the second the other
    half by a union bound over every way to part them;
  * except with probability 2^-20 (`COMPLETION_BITS`): members - min_survivors members that are
    lost at random leave t holders of every secret.

Both follow from the number of members, `max_colluders` and `min_survivors`: nothing is chosen.
Where no k below half of the members will do, everyone holds everyone's shares. Integers only:
every party derives the same numbers on every machine; logarithms are rounded against the claim.
"""

import functools
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from typing import Final

from treaty.errors import UsageError

__all__ = [
    "COMPLETE_UP_TO",
    "COMPLETION_BITS",
    "PRIVACY_BITS",
    "Degree",
    "degree_of",
    "parted_bits",
]

COMPLETE_UP_TO: Final = 128
"""Up to so many members everyone holds everyone's shares: simpler, and little would be saved."""

PRIVACY_BITS: Final = 40
COMPLETION_BITS: Final = 20

_UNIT: Final = 1 << 32
"""Logarithms are integers in units of 2^-32 bit."""


@dataclass(frozen=True, slots=True)
class Degree:
    """`holders` members besides the owner hold a share of each secret; `threshold` open it."""

    holders: int
    threshold: int

    def __post_init__(self) -> None:
        """Refuse what could never open, or what half the holders could open."""
        # Without a majority two disjoint halves of the holders could open both seeds (spec 7.1).
        if not self.holders + 1 < 2 * self.threshold <= 2 * (self.holders + 1):
            raise UsageError(
                f"expected a threshold above half of {self.holders + 1} shares and not beyond "
                f"them, got {self.threshold}"
            )


@functools.lru_cache(maxsize=64)
def degree_of(members: int, max_colluders: int, min_survivors: int) -> Degree | None:
    """Return the degree for a roster of `members`, or None: everyone holds everyone's shares."""
    if members <= COMPLETE_UP_TO:
        return None
    for holders in range(2, members // 2):
        worst = _most_corrupt(members, max_colluders, holders)
        threshold = (holders + 1 + worst) // 2 + 1
        if (
            threshold <= holders
            and _completes(members, members - min_survivors, holders, threshold)
            and parted_bits(members, max_colluders, min_survivors, holders, threshold - worst)
            > PRIVACY_BITS
        ):
            return Degree(holders, threshold)
    return None


def _most_corrupt(members: int, corrupt: int, holders: int) -> int:
    """Return the least x with members * P[more than x corrupt holders] <= 2^-(PRIVACY_BITS + 1).

    The holders of an honest member are a uniform choice among the other members - 1.
    """
    others = members - 1
    budget = comb(others, holders)
    above = 0
    for count in range(min(corrupt, holders), -1, -1):
        above += comb(corrupt, count) * comb(others - corrupt, holders - count)
        if above * members << (PRIVACY_BITS + 1) > budget:
            return count
    return 0


def _completes(members: int, lost: int, holders: int, threshold: int) -> bool:
    """Say whether `lost` random losses leave `threshold` holders of all with 1 - 2^-20.

    The owner's own share is not counted: it may be the one that is lost.
    """
    others = members - 1
    lost = min(lost, others)
    missing = sum(
        comb(lost, count) * comb(others - lost, holders - count)
        for count in range(holders - threshold + 1, min(lost, holders) + 1)
    )
    return missing * members << COMPLETION_BITS <= comb(others, holders)


def parted_bits(
    members: int, corrupt: int, min_survivors: int, holders: int, honest_answers: int
) -> int:
    """Return b: with probability 1 - 2^-b no choice of survivors parts the honest ones.

    They are parted when they fall into two sets without a mask between them. Who is open in one of
    them had `honest_answers` honest holders answer for it, itself perhaps among them, and these
    survive, so a set has at least that many members. For sets of s and r members that were fixed
    before anybody chose, each of the s misses the r with probability C(m-1-r, k) / C(m-1, k), and
    so the other way round, all independent. The bound sums this over every smaller set and every
    set of at most members - min_survivors lost ones. Half of the privacy budget is taken by the
    tails, so the sum must stay below 2^-(PRIVACY_BITS + 1): the result is one bit lower.
    """
    honest, lost = members - corrupt, members - min_survivors
    low, high = _log_factorials(members)
    scale = 4 * PRIVACY_BITS
    total = 0
    if honest_answers < 2:
        # An isolated survivor could be open.
        return 0
    for small in range(honest_answers, honest // 2 + 1):
        removed = min(lost, (honest - small) // 2)
        large = max(small, honest - small - lost)
        ways = _log_comb(high, low, honest, small) + _log_comb(high, low, honest - small, removed)
        bound = (
            ways
            + (lost + 1).bit_length() * _UNIT
            + small * _log_miss(high, low, members, holders, large)
            + large * _log_miss(high, low, members, holders, small)
        )
        total += 1 << max(scale + -(-bound // _UNIT), 0)
    return scale - total.bit_length() - 1 if total else scale


def _log_miss(high: list[int], low: list[int], members: int, holders: int, aimed: int) -> int:
    """An upper bound on log2 of the probability that one member's choice misses `aimed` others."""
    free = members - 1 - aimed
    if free < holders:
        return -(1 << 16) * _UNIT
    return _log_comb(high, low, free, holders) - _log_comb(low, high, members - 1, holders)


def _log_comb(above: list[int], below: list[int], size: int, part: int) -> int:
    """log2 of a binomial coefficient: from above, or from below with the lists exchanged."""
    return above[size] - below[part] - below[size - part]


@functools.lru_cache(maxsize=8)
def _log_factorials(size: int) -> tuple[list[int], list[int]]:
    """Return log2(i!) for i = 0 .. size, rounded down and rounded up."""
    logs = [0, 0, *map(_log2, range(2, size + 1))][: size + 1]
    low = list(accumulate(logs))
    # Each logarithm is short by less than 2^-31 bit: 32 truncated squarings of 64 bits.
    high = [value + 2 * index for index, value in enumerate(low)]
    return low, high


def _log2(value: int) -> int:
    """Return log2 of `value`, rounded down, digit by digit."""
    digits = value.bit_length() - 1
    result, mantissa = digits, value << (63 - digits)
    for _ in range(32):
        mantissa = mantissa * mantissa >> 63
        carry = mantissa >> 64
        result = 2 * result + carry
        mantissa >>= carry
    return result
