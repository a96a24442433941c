"""Sketch check: a bound on what dishonest inputs add to a masked sum. EXPERIMENTAL, UNREVIEWED.

EXPERIMENTAL: nobody outside has reviewed it, and no claim of Treaty rests on it. It is off unless a
plan says `sketched`; it is here to be measured and criticised.

After all inputs of a sum are fixed, a public seed gives a matrix A of k rows over the columns,
with entries -1, 0, 1 of probability 1/4, 1/2, 1/4. Each member says z_i = A x_i, its *claim*. Two
checks: (a) each claim is as small as that of a vector within the bound (`within_bound`); (b) the
claims add up, in the ring, to A times the published sum; what they leave is that of members
who made none (`residual`).

What it gives: honest claims are right, so (b) makes the others' claims add up to A times their
total false part, and (a) bounds each of them. A contribution far above the bound is either
claimed, and refused by (a), or hidden, and then (b) fails or other claims carry it and fail (a).
Detection, not blame: when (b) fails nobody is named.

Why an entry is 0 with probability 1/2: with entries -1 and 1 alone two coordinates of 2^(b-1) each
vanish modulo 2^b in every row. With zeros, any vector that is not zero modulo 2^b passes one row
with probability at most 1/2: fix all entries but one at a coordinate that is not zero; of the
three values of that entry, those that make the row vanish have probability at most 1/2. So k rows
miss a difference with probability at most 2^-k.

LIMIT: claims are k linear functions of a member's input, shown to everyone: against whoever holds
other claims about the same rows that is a release of its own, and must be accounted for.
LIMIT: the norm test is statistical. With 64 rows the worst estimate of an honest norm over 150
seeds was off by less than 30 % (`tests/unit/aggregation/test_sketch.py`), so 1.6 times the bound
refused no honest one; a vector of about twice the bound may pass.
LIMIT: whoever knows A before inputs are fixed can hide from it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto.derivation import kdf
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError, VerificationError

__all__ = [
    "EXPERIMENTAL",
    "ROWS",
    "check_claims",
    "residual",
    "sketch",
    "within_bound",
]

EXPERIMENTAL: Final = True
"""Never the basis of a claim: not reviewed, off by default."""

ROWS: Final = 64
"""Rows of A: a difference passes unseen with probability at most 2^-64."""

TAU_TENTHS: Final = 16
"""How far above the bound an estimate may lie, in tenths: honest vectors stay below."""

_BLOCK: Final = 4096
"""Columns handled at once."""


def sketch(values: RingVector, seed: bytes, rows: int = ROWS) -> RingVector:
    """Return A x modulo 2^b for a 1-D vector of ring words: `rows` words of the same ring.

    `seed` is 32 public bytes that were unknown when `values` was fixed. Raises `UsageError`.
    """
    bits = values.dtype.itemsize * 8
    if RING_TYPES.get(bits) != values.dtype or values.ndim != 1 or not len(values):
        raise UsageError("expected a vector of ring words")
    if len(seed) != 32 or rows < 1:
        raise UsageError(f"expected a seed of 32 bytes and a row, got {len(seed)} and {rows}")
    out = np.zeros(rows, values.dtype)
    for row in range(rows):
        total = 0
        for start in range(0, len(values), _BLOCK):
            part = values[start : start + _BLOCK]
            signs = _signs(seed, row, start // _BLOCK, len(part))
            plus = int(part[signs == 1].sum(dtype=np.uint64))
            minus = int(part[signs == 2].sum(dtype=np.uint64))
            total += plus - minus
        out[row] = total % (1 << bits)
    return out


def within_bound(claim: RingVector, squared_bound: int, rows: int = ROWS) -> bool:
    """Say whether a claim is as small as that of a vector of squared norm `squared_bound`.

    The norm is of grid integers. An entry of A has variance 1/2, so the squared length of a claim
    is rows / 2 times the squared norm on average; it is compared with 1.6 times the bound, squared.
    """
    if len(claim) != rows:
        raise UsageError(f"expected a claim of {rows} words, got {len(claim)}")
    if squared_bound < 0:
        raise UsageError("expected a squared bound of at least 0")
    length = sum(int(word) ** 2 for word in _signed(claim))
    return 2 * 100 * length <= TAU_TENTHS**2 * rows * squared_bound


def residual(claims: Sequence[RingVector], total: RingVector, seed: bytes) -> RingVector:
    """Return, in the ring, the sketch of the published sum less the claims: what is unexplained."""
    rest = sketch(total, seed)
    for claim in claims:
        if claim.dtype != rest.dtype or claim.shape != rest.shape:
            raise UsageError("expected claims of one length in the ring of the sum")
        np.subtract(rest, claim, out=rest)
    return rest


def check_claims(
    claims: Mapping[str, RingVector],
    silent: int,
    total: RingVector,
    seed: bytes,
    squared_bound: int,
) -> None:
    """Raise `VerificationError` unless the survivors' claims bound what they added to `total`.

    `silent` is how many survivors made no claim: what the others leave unexplained is theirs, and
    is held against the bound of so many vectors; without any it must be nothing.
    ``claim-too-long`` names who claims too much; ``claims-differ`` names nobody.
    """
    for name, claim in claims.items():
        if not within_bound(claim, squared_bound):
            raise VerificationError(
                f"the claim of {name} is longer than the bound allows", code="claim-too-long"
            )
    rest = residual(tuple(claims.values()), total, seed)
    if not within_bound(rest, silent * silent * squared_bound):
        raise VerificationError(
            f"the claims and {silent} members without one do not explain the published sum: "
            "somebody's claim is not that of its input, or an input is too long",
            code="claims-differ",
        )


def _signs(seed: bytes, row: int, block: int, length: int) -> NDArray[np.uint8]:
    """Return 1 for an entry 1, 2 for -1, 0 or 3 for 0: two bits of a keystream each."""
    stream = np.frombuffer(
        Keystream(kdf(seed, "sketch", row, block)).take(-(-length // 4)), np.uint8
    )
    spread = np.stack([stream >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).ravel()
    return spread[:length]


def _signed(words: RingVector) -> NDArray[np.signedinteger]:
    return words.view(np.dtype(f"<i{words.dtype.itemsize}"))
