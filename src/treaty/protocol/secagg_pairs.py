"""Pair seeds of a result: in the statement where they are few, in a blob where they are many.

Guarantees (docs/spec/secagg.md, 8.4): a blob is used only where the seeds could outgrow an entry of
the log; and a result with a blob is folded only by who holds the blob, so nobody can publish a sum
and withhold what checks it.

Pure functions; nothing here is secret once a result stands in the log.
"""

from collections.abc import Mapping
from typing import Final, Literal

from treaty.crypto import canonical
from treaty.crypto.canonical import MemberName, Record
from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.protocol.secagg_messages import Hex32, RoundResult
from treaty.protocol.statements import Documents

__all__ = [
    "MAX_INLINE",
    "PairSeedList",
    "PairSeeds",
    "largest_pairs",
    "pair_seeds_of",
    "placed_pairs",
]

MAX_INLINE: Final = 256
"""Pair seeds that stand in a result itself: with those of 200 members they fit a log entry."""

PairSeeds = Mapping[str, tuple[str, ...]]
"""By dropped member, its post-quantum keys in the order of the epoch's dealers without itself."""


class PairSeedList(Record):
    """The pair seeds of one round's dropped members, as a blob."""

    format: Literal["treaty.pair-seeds/v1"] = "treaty.pair-seeds/v1"
    seeds: dict[MemberName, tuple[Hex32, ...]]


def largest_pairs(dropped: int, partners: int) -> int:
    """Return the most bytes of a blob for so many dropped members of so many partners each."""
    return 64 + dropped * (72 + 67 * partners)


def placed_pairs(seeds: PairSeeds) -> tuple[dict[str, tuple[str, ...]], bytes | None]:
    """Return what stands in the statement, and the blob beside it where they are too many."""
    if sum(map(len, seeds.values())) <= MAX_INLINE:
        return dict(seeds), None
    return {}, canonical.encode(PairSeedList(seeds=dict(seeds)))


def pair_seeds_of(result: RoundResult, documents: Documents, most_bytes: int) -> PairSeeds:
    """Return the pair seeds of `result`, wherever they stand; `documents` are by digest.

    A blob has at most `most_bytes` (`largest_pairs`). Raises `VerificationError` (code
    ``seeds-misplaced``) for seeds in both places or a blob of few, `FormatError` for a blob that is
    none, and what `documents` raises.
    """
    if result.pairs is None:
        return result.pair_seeds
    data = documents(Digest(result.pairs))
    found = canonical.decode(data, PairSeedList, limit=most_bytes).seeds
    if result.pair_seeds or sum(map(len, found.values())) <= MAX_INLINE:
        raise VerificationError(
            f"expected up to {MAX_INLINE} pair seeds in the result itself, more in a blob alone",
            code="seeds-misplaced",
        )
    return found
