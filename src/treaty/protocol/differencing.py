"""Differencing: when one question may be summed over two sets of members, and who is exposed.

Two sums of one question over sets that differ show the inputs of the difference. So a question is
summed over one set, unless the members ratified `study.resume` for the round that binds it and
every site in the difference is among those who approved (docs/spec/secagg.md, section 12). What
was so exposed is recorded. Between questions sets may change; changes by one member are counted.

Pure functions over rounds that are over.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from treaty.errors import VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.secure_round import RoundPhase, RoundRecord

__all__ = [
    "Exposure",
    "bound_set",
    "exposure_of",
    "freed_members",
    "lone_changes",
    "round_to_resume",
    "unpublished",
]

Resumed = Mapping[Digest, frozenset[MemberId]]
"""By the context of a bound round: the members who approved that its question be asked anew."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One question was summed over two sets, with the approval of every member in between."""

    question: Digest
    earlier: Digest
    later: Digest
    members: tuple[MemberId, ...]


def bound_set(answered: Sequence[ClosedRound]) -> frozenset[MemberId] | None:
    """Return the survivors to which members bound themselves last, of a question's rounds."""
    return frozenset(answered[-1].members_in) if answered else None


def freed_members(answered: Sequence[ClosedRound], resumed: Resumed) -> frozenset[MemberId]:
    """Return who may be in the difference between a question's sets: who approved for each."""
    sets = [resumed.get(past.context, frozenset()) for past in answered]
    return frozenset.intersection(*sets) if sets else frozenset()


def round_to_resume(
    answered: Sequence[ClosedRound], rounds: Sequence[ClosedRound], resumed: Resumed
) -> Digest | None:
    """Return the context that `study.resume` must name for a study to go on, or None.

    The newest round that binds the present question (`answered`) and that nobody approved of yet;
    where there is none, the newest of `rounds` whose survivors were named.
    """
    named = [one for one in rounds if one.members_in]
    waiting = [one for one in answered if one.context not in resumed]
    for choice in (waiting, answered, named):
        if choice:
            return choice[-1].context
    return None


def exposure_of(
    answered: Sequence[ClosedRound], resumed: Resumed, record: RoundRecord
) -> tuple[Exposure, ...]:
    """Return what the survivors of `record` expose, one entry for each other set of its question.

    `answered` are the rounds of that question in which somebody confirmed or answered. Raises
    `VerificationError` (code ``locked-set``) when a member in a difference did not approve.
    """
    found = []
    for past in answered:
        if not past.reveals:
            # Nothing of it was answered: members are bound by their own locks.
            continue
        apart = set(past.members_in) ^ set(record.members_in)
        if apart - resumed.get(past.context, frozenset()):
            raise VerificationError(
                "this question was answered for another set of survivors: resume the study with "
                "the approval of every member in the difference",
                code="locked-set",
            )
        if apart:
            members = tuple(sorted(apart))
            found.append(Exposure(record.question, past.context, record.context, members))
    return tuple(found)


def lone_changes(rounds: Iterable[ClosedRound]) -> tuple[tuple[Digest, MemberId], ...]:
    """Return the published rounds whose survivors differ by one member from those before, and it.

    Of such a pair the difference is that member's input, as far as the two sums ask the same.
    """
    published = [one for one in rounds if one.phase is RoundPhase.PUBLISHED]
    found = []
    for before, after in pairwise(published):
        apart = set(before.members_in) ^ set(after.members_in)
        if len(apart) == 1:
            found.append((after.context, apart.pop()))
    return tuple(found)


def unpublished(rounds: Iterable[ClosedRound]) -> int:
    """Return of how many questions the survivors were named and no sum was ever published.

    Members answer once they are named, and whoever holds the answers can open the sum.
    """
    rounds = tuple(rounds)
    named = {one.question for one in rounds if one.members_in}
    return len(named - {one.question for one in rounds if one.phase is RoundPhase.PUBLISHED})
