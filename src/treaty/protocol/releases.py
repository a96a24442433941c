"""Releases: when a noised question is asked with fresh noise, and what an input must show for it.

A noised vector belongs to one question, one epoch and one set of survivors. When a member bound to
a question is not asked any more, or the epoch in which inputs were sent is over (and the vectors
with it), the question is asked as another *release*: fresh noise, a fresh charge in every site's
ledger, a lock of its own (docs/spec/privacy.md, 9.15). Which release a round is follows from the
log alone.

Invariants:
  * One release is summed over one set of survivors.
  * A member's noise in one release is in no other: its commitments differ. Between two vectors
    the ledger that it shows has grown, also between one question and the next.
  * A study has at most `MAX_FRESH` releases beyond those it planned.

Pure functions over rounds that are over.
"""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal

from treaty.crypto.canonical import Count, DigestField, Record, digest_of
from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.differencing import bound_set
from treaty.protocol.ledger_trail import head_in
from treaty.protocol.secagg_messages import MaskedInput

__all__ = [
    "MAX_FRESH",
    "Shown",
    "asked_as",
    "last_shown",
    "release_of",
    "releases_of",
    "with_noise_shown",
]

MAX_FRESH: Final = 4

Shown = Mapping[str, tuple[tuple[Digest, tuple[str, ...], Digest, int], ...]]
"""By member: release, commitments to noise, ledger, number of entries.

Of the present question all releases; before them the last one of the question before.
"""


class _Release(Record):
    format: Literal["treaty.release/v1"] = "treaty.release/v1"
    question: DigestField
    number: Count


def release_of(question: Digest, number: int) -> Digest:
    """Return the digest under which release `number` of `question` is locked and paid for.

    Release 0, the planned one, is the question itself.
    """
    return question if number == 0 else digest_of(_Release(question=question, number=number))


def releases_of(question: Digest) -> tuple[Digest, ...]:
    """Return the digests of all releases that a study may have of `question`."""
    return tuple(release_of(question, number) for number in range(MAX_FRESH + 1))


def asked_as(
    question: Digest,
    rounds: Sequence[ClosedRound],
    answered: Mapping[Digest, Sequence[ClosedRound]],
    participants: Collection[str],
    epoch_hash: str,
) -> Digest:
    """Return the release as which a round asks the noised `question` now.

    `rounds` are those that are over, `answered` those in which somebody confirmed or answered, by
    release. Raises `VerificationError` (code ``fresh-releases``) where none is left.
    """
    names = releases_of(question)
    sent = [past for past in rounds if past.inputs and past.question in names]
    if not sent:
        return question
    number = max(names.index(past.question) for past in sent)
    last = [past for past in sent if past.question == names[number]][-1]
    bound = bound_set(tuple(answered.get(names[number], ())))
    if last.epoch_hash == epoch_hash and (bound is None or bound <= set(participants)):
        return names[number]
    if number == MAX_FRESH:
        raise VerificationError(
            f"the question was released {MAX_FRESH} times beyond the plan: halt the study",
            code="fresh-releases",
        )
    return names[number + 1]


def last_shown(shown: Shown) -> Shown:
    """Return what is kept of `shown` once a sum was published: each member's last vector."""
    return MappingProxyType({name: known[-1:] for name, known in shown.items()})


def with_noise_shown(shown: Shown, header: MaskedInput, release: Digest, *, noised: bool) -> Shown:
    """Return `shown` after an input, whose noise must be that of its release alone, and paid for.

    Raises `VerificationError`: ``noise-commitment`` for an input to a noised sum without a
    commitment, or the reverse; ``ledger-missing`` for noise without a ledger that paid for it;
    ``noise-changed`` for other noise in the same release, ``noise-reused`` for the noise of
    another one, ``unpaid-noise`` where the ledger did not grow since the vector before.
    """
    if (header.noise is not None) != noised:
        raise VerificationError(
            f"the input of {header.author} {'has no' if noised else 'has a'} commitment to "
            f"noise, the query is for {'a noised' if noised else 'an exact'} sum",
            code="noise-commitment",
        )
    if header.noise is None:
        return shown
    head = head_in(header)
    if head is None:
        raise VerificationError(
            f"the input of {header.author} to a noised sum shows no ledger: expected one that "
            "paid for it",
            code="ledger-missing",
        )
    noise = (header.noise, *(header.surplus or ()))
    before = shown.get(header.author, ())
    for known, other, paid_by, entries in before:
        if known == release:
            if other != noise:
                raise VerificationError(
                    f"{header.author} sends other noise for the same release", code="noise-changed"
                )
            return shown
        if not set(other).isdisjoint(noise):
            raise VerificationError(
                f"{header.author} sends the noise of another release again", code="noise-reused"
            )
        # A successor of a lost ledger begins anew; the trail says whether it may.
        if paid_by == head.ledger and head.count <= entries:
            raise VerificationError(
                f"the ledger of {header.author} did not grow for fresh noise", code="unpaid-noise"
            )
    one = (release, noise, Digest(head.ledger), head.count)
    return MappingProxyType({**shown, header.author: (*before, one)})
