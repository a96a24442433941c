"""What is kept of a round that is over: who did what, and what came out, without the statements.

Every party holds all rounds of a study at hand, so that a question stays bound to its survivors
and a report can say who took part. The statements stand in the log; kept here as well, they
would be nearly all of a party's memory.
"""

from collections.abc import Collection
from dataclasses import dataclass

from treaty.ids import Digest, MemberId
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secure_round import RoundPhase, RoundRecord

__all__ = ["ClosedRound", "close"]


@dataclass(frozen=True, slots=True)
class ClosedRound:
    """One round that is over.

    `inputs`, `declined`, `confirmed` and `reveals` name members, in charter order; `sum`
    is the digest of the opened sum, None when the round was abandoned.
    """

    group: Group
    question: Digest
    query: Digest
    context: Digest
    round: int
    epoch_hash: Digest
    slot: int
    length: int
    ring_bits: int
    phase: RoundPhase
    participants: tuple[MemberId, ...]
    inputs: tuple[MemberId, ...]
    declined: tuple[MemberId, ...]
    members_in: tuple[MemberId, ...]
    confirmed: tuple[MemberId, ...]
    reveals: tuple[MemberId, ...]
    sum: Digest | None = None


def close(record: RoundRecord, phase: RoundPhase | None = None) -> ClosedRound:
    """Return what is kept of `record`, which is over, or would be if it ended now in `phase`."""
    opened = record.opened.predicate
    listed = record.group.members

    def among(names: Collection[str]) -> tuple[MemberId, ...]:
        # The group's own tuple where that is the answer: nothing is kept twice.
        return listed if len(names) == len(listed) else tuple(m for m in listed if m in names)

    return ClosedRound(
        group=record.group,
        question=record.question,
        query=Digest(opened.query),
        context=record.context,
        round=opened.round,
        epoch_hash=Digest(opened.epoch_hash),
        slot=opened.slot,
        length=opened.length,
        ring_bits=opened.ring_bits,
        phase=phase or record.phase,
        participants=among(record.participants),
        inputs=among(record.inputs),
        declined=among(record.declined),
        members_in=among(record.members_in),
        confirmed=among(record.confirmed),
        reveals=among(record.reveals),
        sum=None if record.result is None else Digest(record.result.predicate.sum),
    )
