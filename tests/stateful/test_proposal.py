"""Proposal: a model that counts by brute force says the same at every step.

After every rule: the proposal is settled exactly when no way in which the missing ballots may fall
changes the outcome; and the events alone give the same state.

Planted and caught: threshold counted against ballots cast; ratified one vote early; rejected one
vote late; abstentions counted as approvals; a second, different ballot replacing the first; the
second ballot unreported; ballots after the decision changing it; a voter outside the electorate
counted; voting ended after the decision.
"""

import functools
import itertools

import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.worlds import NAMES, digest, refused
from treaty.errors import UsageError
from treaty.ids import MemberId
from treaty.protocol.proposal import (
    TRANSITIONS,
    AnnounceDecision,
    BallotGiven,
    Choice,
    Event,
    Phase,
    Proposal,
    ReportEquivocation,
    VotingEnded,
)

CHOICES = st.sampled_from(Choice)


def opened(voters: int, approvals: int) -> Proposal:
    names = frozenset(MemberId(name) for name in NAMES[:voters])
    return Proposal(digest("question"), "study.approve", digest("plan"), names, approvals)


def outcomes(given: tuple[Choice, ...], missing: int, approvals: int) -> set[Phase]:
    """Return every outcome that is still possible, by trying every way the rest may fall."""
    return {
        Phase.RATIFIED if [*given, *rest].count(Choice.APPROVE) >= approvals else Phase.REJECTED
        for rest in itertools.product(Choice, repeat=missing)
    }


class ProposalMachine(RuleBasedStateMachine):
    """Ballots arrive, repeat, contradict, come from strangers; voting ends."""

    @initialize(voters=st.integers(1, 5), data=st.data())
    def open(self, voters: int, data: st.DataObject) -> None:
        approvals = data.draw(st.integers(1, voters))
        self.opening = self.proposal = opened(voters, approvals)
        self.log: list[Event] = []
        self.first: dict[MemberId, Choice] = {}
        self.counted: dict[MemberId, Choice] = {}
        self.two_faced: set[MemberId] = set()
        self.ended = False
        self.decisions: list[Phase] = []

    @rule(place=st.integers(0, 4), choice=CHOICES)
    def vote(self, place: int, choice: Choice) -> None:
        voter = MemberId(NAMES[place])
        ballot = BallotGiven(voter, choice)
        if self.ended:
            with refused("out-of-order"):
                self.proposal.step(ballot)
            return
        if voter not in self.opening.electorate:
            with refused("not-elector"):
                self.proposal.step(ballot)
            return
        was_open = not self.proposal.settled
        self.proposal, effects = self.proposal.step(ballot)
        self.log.append(ballot)
        announced = [one.phase for one in effects if isinstance(one, AnnounceDecision)]
        reported = [one.voter for one in effects if isinstance(one, ReportEquivocation)]
        if self.first.setdefault(voter, choice) is not choice:
            self.two_faced.add(voter)
            assert reported == [voter]
        else:
            assert reported == []
        if was_open:
            self.counted.setdefault(voter, self.first[voter])
        self.decisions += announced

    @precondition(lambda self: not self.ended)
    @rule()
    def end(self) -> None:
        if self.proposal.settled:
            with refused("out-of-order"):
                self.proposal.step(VotingEnded())
            return
        self.proposal, effects = self.proposal.step(VotingEnded())
        self.log.append(VotingEnded())
        self.ended = True
        assert effects == (AnnounceDecision(Phase.LAPSED),)
        self.decisions.append(Phase.LAPSED)

    @invariant()
    def settled_exactly_when_the_rest_cannot_matter(self) -> None:
        """Compare with brute force over every way the missing votes may fall."""
        missing = len(self.opening.electorate) - len(self.counted)
        possible = outcomes(tuple(self.counted.values()), missing, self.opening.approvals)
        if self.ended:
            assert self.proposal.phase is Phase.LAPSED
        elif len(possible) == 1:
            assert {self.proposal.phase} == possible
        else:
            assert self.proposal.phase is Phase.OPEN
        assert self.decisions == (
            [] if self.proposal.phase is Phase.OPEN else [self.proposal.phase]
        )

    @invariant()
    def a_ballot_is_final(self) -> None:
        """The first ballot of each voter stands; who gave another is on record."""
        assert dict(self.proposal.ballots) == self.first
        assert self.proposal.equivocators == self.two_faced

    @invariant()
    def the_log_alone_gives_the_same_state(self) -> None:
        """Replay everything from the opening."""
        replayed = functools.reduce(lambda state, one: state.step(one)[0], self.log, self.opening)
        assert replayed == self.proposal

    def teardown(self) -> None:
        """Say where the run ended, for the statistics."""
        if hasattr(self, "proposal"):
            event(self.proposal.phase.value)


TestProposal = ProposalMachine.TestCase


@pytest.mark.parametrize("voters", range(1, 5))
def test_every_sequence_of_distinct_ballots_agrees_with_brute_force(voters: int) -> None:
    """Small enough to enumerate: each threshold, each choice of each voter, in order."""
    for approvals in range(1, voters + 1):
        for choices in itertools.product(Choice, repeat=voters):
            proposal = opened(voters, approvals)
            for place, choice in enumerate(choices):
                before = outcomes(choices[:place], voters - place, approvals)
                assert proposal.settled == (len(before) == 1)
                proposal, _ = proposal.step(BallotGiven(MemberId(NAMES[place]), choice))
            assert {proposal.phase} == outcomes(choices, 0, approvals)


@pytest.mark.parametrize("approvals", [0, 4])
def test_a_threshold_out_of_reach_cannot_be_made(approvals: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 3 approvals"):
        opened(3, approvals)


def test_the_table_lists_no_move_out_of_a_decision() -> None:
    for (phase, _), following in TRANSITIONS.items():
        assert phase is Phase.OPEN or following == {phase}
