"""Proposal: open, then ratified, rejected or lapsed.

Turns ballots into a decision that nobody has to be trusted to count: the state
is a fold over the events, so whoever holds the log recomputes the decision.

Invariants (docs/spec/governance.md, proposals):
  * Only the electorate fixed at opening counts; silence never helps a proposal.
  * A ballot is final. A different second ballot is equivocation: it is
    reported and does not count. The same ballot again changes nothing.
  * Once settled, no event changes the decision.
  * It settles exactly when the ballots still missing cannot change the outcome.

This module does no input or output and reads no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from treaty.errors import UsageError, VerificationError
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, SingleEnum
from treaty.protocol.machine import Transitions, advance, expect

__all__ = [
    "DOCUMENTED",
    "PROPOSABLE",
    "TRANSITIONS",
    "AnnounceDecision",
    "BallotGiven",
    "Choice",
    "Effect",
    "Phase",
    "Proposal",
    "ReportEquivocation",
    "VotingEnded",
]


PROPOSABLE = frozenset(
    {
        Action.CONTRACT_ADOPT,
        Action.STUDY_APPROVE,
        Action.STUDY_HALT,
        Action.STUDY_RESUME,
        Action.MEMBER_ACCEPT,
        Action.MEMBER_SUSPEND,
        Action.KEY_ROTATE,
        Action.RELEASE_APPROVE,
        Action.RELEASE_ROLLBACK,
    }
)
"""Actions that are asked by proposal and ballots; the others carry their own signatures alone."""

DOCUMENTED = frozenset(
    {
        Action.CONTRACT_ADOPT.value,
        Action.STUDY_APPROVE.value,
        Action.MEMBER_ACCEPT.value,
        Action.KEY_ROTATE.value,
    }
)
"""Proposals whose subject is the digest of a document that every bundle holds."""


class Phase(SingleEnum):
    """Where a proposal stands."""

    OPEN = "open"
    RATIFIED = "ratified"
    REJECTED = "rejected"
    LAPSED = "lapsed"


class Choice(Enum):
    """What a ballot says."""

    APPROVE = "approve"
    REJECT = "reject"
    ABSTAIN = "abstain"


@dataclass(frozen=True, slots=True)
class BallotGiven:
    """A verified ballot, as the log sequenced it."""

    voter: MemberId
    choice: Choice


@dataclass(frozen=True, slots=True)
class VotingEnded:
    """The log says that voting is over."""


@dataclass(frozen=True, slots=True)
class AnnounceDecision:
    """Order: tell everyone how the proposal ended."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class ReportEquivocation:
    """Order: report a voter who gave two different ballots."""

    voter: MemberId


Event = BallotGiven | VotingEnded
Effect = AnnounceDecision | ReportEquivocation

TRANSITIONS: Transitions[Phase] = MappingProxyType(
    {
        (Phase.OPEN, BallotGiven): frozenset({Phase.OPEN, Phase.RATIFIED, Phase.REJECTED}),
        (Phase.OPEN, VotingEnded): frozenset({Phase.LAPSED}),
        (Phase.RATIFIED, BallotGiven): frozenset({Phase.RATIFIED}),
        (Phase.REJECTED, BallotGiven): frozenset({Phase.REJECTED}),
    }
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One question put to the members: may `action` be done to `subject`?

    `approvals` is counted against the whole electorate, never against the votes cast.
    """

    identity: Digest
    action: str
    subject: Digest
    electorate: frozenset[MemberId]
    approvals: int
    phase: Phase = Phase.OPEN
    ballots: Mapping[MemberId, Choice] = field(default_factory=dict)
    equivocators: frozenset[MemberId] = frozenset()

    def __post_init__(self) -> None:
        if not 1 <= self.approvals <= len(self.electorate):
            raise UsageError(
                f"expected 1 to {len(self.electorate)} approvals, got {self.approvals}"
            )

    def count(self, choice: Choice) -> int:
        """Return how many members gave `choice`."""
        return sum(1 for given in self.ballots.values() if given is choice)

    @property
    def settled(self) -> bool:
        """Say whether the decision stands."""
        return self.phase is not Phase.OPEN

    def step(self, event: Event) -> tuple["Proposal", tuple[Effect, ...]]:
        """Return the next state and what the caller must now do.

        Raises `VerificationError` for a voter outside the electorate (``not-elector``) or an
        event that has no place in this phase (``out-of-order``).
        """
        match event:
            case BallotGiven():
                return self._on_ballot(event)
            case VotingEnded():
                following = advance(TRANSITIONS, self.phase, event, Phase.LAPSED)
                return replace(self, phase=following), (AnnounceDecision(following),)

    def _on_ballot(self, event: BallotGiven) -> tuple["Proposal", tuple[Effect, ...]]:
        expect(TRANSITIONS, self.phase, event)
        if event.voter not in self.electorate:
            raise VerificationError(
                f"{event.voter} was not a voter when the proposal opened", code="not-elector"
            )
        before = self.ballots.get(event.voter)
        if before is not None:
            if before is event.choice:
                return self, ()
            changed = replace(self, equivocators=self.equivocators | {event.voter})
            return changed, (ReportEquivocation(event.voter),)
        ballots = MappingProxyType({**self.ballots, event.voter: event.choice})
        counted = replace(self, ballots=ballots)
        if self.settled:
            return counted, ()
        following = counted._outcome()
        advance(TRANSITIONS, self.phase, event, following)
        if following is Phase.OPEN:
            return counted, ()
        return replace(counted, phase=following), (AnnounceDecision(following),)

    def _outcome(self) -> Phase:
        for_it = self.count(Choice.APPROVE)
        missing = len(self.electorate) - len(self.ballots)
        if for_it >= self.approvals:
            return Phase.RATIFIED
        if for_it + missing < self.approvals:
            return Phase.REJECTED
        return Phase.OPEN
