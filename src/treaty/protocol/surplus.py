"""Surplus noise in a round: which keys a member may open, and what a sum is without that noise.

A share of noise is drawn in parts (`privacy.surplus`). The header of an input commits to the keys
of those that may come off; the answer opens as many as its set of survivors does not need. Whoever
folds the log takes their noise off the published sum (docs/spec/privacy.md, 9.16).

Invariants:
  * The keys of one vector are opened for one set of survivors, whatever a store that was put back
    has forgotten: the file of keys, outside the database and its backups, is cut down to what that
    set opens and bound to it before the first confirmation or answer for it is stored.
  * Opened are the keys that the log shows commitments to in this round, or none.
  * A published sum loses exactly the noise whose keys stand in logged answers.

Pure. The base of a share has no key here.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.quantization import ring_vector
from treaty.crypto import canonical
from treaty.crypto.canonical import DigestField, Record
from treaty.errors import FormatError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.privacy.distributed import noise_commitment
from treaty.privacy.surplus import MAX_TIERS, NoiseTiers, surplus_noise
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_lifecycle import SlotState
from treaty.protocol.secagg_messages import Hex32, MaskedInput, Names, Reveal
from treaty.protocol.statements import Verified
from treaty.studies.plan import Plan
from treaty.studies.queries import UNNOISED_WORDS, Query
from treaty.studies.surplus import query_tiers

__all__ = [
    "Opened",
    "SurplusSecrets",
    "check_committed",
    "check_opened",
    "open_keys",
    "opened_parts",
    "opened_sum",
    "surplus_secrets",
    "without_surplus",
]

Words = NDArray[np.unsignedinteger]


class SurplusSecrets(Record):
    """What a member keeps outside the database of the noise in its present vector.

    `keys` are of the parts that may come off, for the fewest survivors first; `survivors` the set
    for which some were opened: then no others are kept.
    """

    format: Literal["treaty.surplus-secrets/v1"] = "treaty.surplus-secrets/v1"
    question: DigestField
    keys: Annotated[tuple[Hex32, ...], msgspec.Meta(max_length=MAX_TIERS)]
    survivors: Names | None = None


def surplus_secrets(question: Digest, keys: Sequence[bytes]) -> bytes:
    """Return the content of the file of keys of a new vector, an answer to `question`."""
    return canonical.encode(
        SurplusSecrets(question=question, keys=tuple(key.hex() for key in keys))
    )


def opened_parts(tiers: Sequence[int], survivors: int) -> int:
    """Return how many parts so many survivors open; `tiers` as in `Expected`."""
    return sum(least <= survivors for least in tiers)


def open_keys(
    state: SlotState, survivors: Sequence[str], secret: bytes | None
) -> tuple[tuple[str, ...], bytes | None]:
    """Return the keys that an answer for `survivors` opens, and what the file must hold before.

    `state` is that of the round, with its input; `secret` what the file holds, None if it is gone.
    No keys, and the file as it is (None), where the file is lost or of another vector, and where it
    is bound to another set: more noise stays in, never less. None too where the file holds what it
    must. A set that opens nothing binds the file as well, and leaves no key in it.
    """
    parts = msgspec.UNSET if state.input is None else state.input.surplus
    if parts is msgspec.UNSET or secret is None:
        return (), None
    count = opened_parts(state.tiers or (), len(survivors))
    kept = canonical.decode(secret, SurplusSecrets)
    bound = kept.survivors is not None and tuple(kept.survivors) != tuple(survivors)
    keys = kept.keys[:count]
    known = all(map(_opens, keys, parts, [state.opened.query] * count))
    if bound or kept.question != state.question or len(keys) < count or not known:
        return (), None
    # What is not opened is not kept: nobody can be made to open it later.
    cut = msgspec.structs.replace(kept, keys=keys, survivors=tuple(survivors))
    return keys, None if cut == kept else canonical.encode(cut)


def check_committed(header: MaskedInput, tiers: Sequence[int]) -> None:
    """Raise `VerificationError` unless a header commits to one key for each part, or to none.

    ``surplus-parts`` for another number, or where the query takes nothing off;
    ``surplus-repeat`` where one key would open two parts.
    """
    parts = header.surplus
    if parts is msgspec.UNSET:
        return
    if len(parts) != len(tiers):
        raise VerificationError(
            f"the input of {header.author} commits to {len(parts)} parts of noise that may come "
            f"off, expected {len(tiers)}",
            code="surplus-parts",
        )
    if len({header.noise, *parts}) != 1 + len(parts):
        raise VerificationError(
            f"the input of {header.author} commits to one key for two parts of its noise",
            code="surplus-repeat",
        )


def check_opened(
    reveal: Reveal, header: MaskedInput, tiers: Sequence[int], survivors: int, query: str
) -> None:
    """Raise `VerificationError` unless an answer opens what so many survivors open, or nothing.

    ``surplus-parts`` for too many or too few keys, or for any where the input committed to none;
    ``surplus-differs`` for a key that is not the one committed to. Both name the author.
    """
    if reveal.surplus is msgspec.UNSET:
        return
    committed = header.surplus or ()
    count = opened_parts(tiers, survivors) if committed else 0
    if len(reveal.surplus) != count:
        raise VerificationError(
            f"{reveal.author} opens {len(reveal.surplus)} parts of its noise, expected {count} "
            f"with {survivors} survivors",
            code="surplus-parts",
        )
    if not all(map(_opens, reveal.surplus, committed, [query] * count)):
        raise VerificationError(
            f"a key of {reveal.author} does not open what it committed to", code="surplus-differs"
        )


def without_surplus(
    total: Words, answers: Sequence[Reveal], tiers: NoiseTiers, survivors: int, noised: int
) -> Words:
    """Return the sum `total` without the noise whose keys the checked `answers` open.

    The first `noised` words of the vector carry noise; arithmetic is that of its ring.
    """
    opened = [one.surplus for one in answers if one.surplus is not msgspec.UNSET]
    if not opened:
        return total
    off = np.zeros(noised, dtype=np.int64)
    for keys in opened:
        off += surplus_noise(tiers, [bytes.fromhex(key) for key in keys], survivors, noised)
    cleaned = total.copy()
    cleaned[:noised] -= off.astype(total.dtype)
    return cleaned


class Opened(Protocol):
    """What a round shows of the answers that opened its sum."""

    @property
    def group(self) -> Group:
        """Return who counts."""
        ...

    @property
    def members_in(self) -> tuple[MemberId, ...]:
        """Return whose inputs are in the sum."""
        ...

    @property
    def reveals(self) -> Mapping[MemberId, Verified[Reveal]]:
        """Return the answers in the log."""
        ...


def opened_sum(plan: Plan, query: Query, record: Opened, data: bytes) -> Words:
    """Return the published sum of a round as everybody goes on with it, from its bytes.

    Noise whose keys stand in the round's answers is taken off. Raises `VerificationError` (code
    ``sum-shape``) where the bytes are no vector of the query.
    """
    try:
        total = ring_vector(data, query.layout.ring_bits, query.layout.length)
    except FormatError as error:
        raise VerificationError(f"the opened sum: {error}", code="sum-shape") from error
    tiers = query_tiers(plan, query.kind, record.group.cohort)
    if tiers is None or not tiers.components:
        return total
    return without_surplus(
        total,
        [one.predicate for one in record.reveals.values()],
        tiers,
        len(record.members_in),
        query.layout.length - UNNOISED_WORDS,
    )


def _opens(key: str, committed: str, query: str) -> bool:
    return noise_commitment(bytes.fromhex(key), Digest(query)) == committed
