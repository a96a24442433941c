"""T-07, T-22, T-24, T-26, T-31, T-41: genuine statements at another place of the log.

Nothing is forged but the order: what each row puts into the log was signed by its author for this
consortium, or is what its holder could sign at any time. Two studies stand in the log; one model is
released, the other is not. Every row has the one code that must refuse it, and the history from
which it was taken holds.

Planted faults, each a check taken out alone and seen to fail: a study opened on a vote that was
used, or beside another; an amendment under a running study; a completion against the members'
decision, or before the evaluation; an epoch over an open one; a release of a model that no study
completed, under the charter before, or by who approved another question; a round of an epoch that
is over or closed; a participant that was not ready; keys, shares and inputs that come late, answers
that come early or from who is no survivor; a vote after its end, under another charter, or by who
is suspended; a suspension taken back in silence; a report before the evaluation.

Not caught, because another check refuses the same: a halted study that may ask for rounds (it has
no open epoch).
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest

from tests.forgery import Forge, genuine_of
from tests.small_federation import SITES, contract, found, small_plan
from tests.violations import asking, ballot, ratified, retitled, suspended, under
from treaty.crypto.canonical import sha256
from treaty.errors import VerificationError
from treaty.governance.charter import Charter
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol.messages import (
    HaltCode,
    ReleaseProvenance,
    SiteReported,
    StudyCompleted,
    StudyHalted,
    StudyOpened,
    VotingClosed,
)
from treaty.protocol.secagg_messages import (
    EpochClosed,
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.plan import parse_plan, plan_bytes, plan_digest

LOST = SITES[-1]


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Forge:
    federation = found(tmp_path_factory.mktemp("two"), in_memory=True, capture=False)
    first = small_plan(federation)
    federation.release(federation.run_study(first, contract()))

    def lose_one_in_training() -> None:
        study = federation.coordinator.state.running
        if study is not None and study.progress.index == 2:
            federation.network.sever(LOST)
        if study is not None and study.progress.index == 3:
            federation.network.heal(LOST)

    model = msgspec.structs.replace(first.model, max_rounds=2)
    second = msgspec.structs.replace(first, study="second", model=model)
    federation.run_study(second, contract(), lose_one_in_training)
    return genuine_of(federation).forge


@dataclass(frozen=True)
class Move:
    """One order of things that no honest log has, and the code that refuses it."""

    code: str
    make: Callable[[Forge], Forge]

    @property
    def name(self) -> str:
        """What is done."""
        return self.make.__name__.replace("_", " ")


MOVES: list[Move] = []
Maker = Callable[[Forge], Forge]


def move(code: str) -> Callable[[Maker], Maker]:
    def register(make: Maker) -> Maker:
        MOVES.append(Move(code, make))
        return make

    return register


def again(forge: Forge, at: int, size: int | None = None) -> Forge:
    """Return the log cut to `size` entries with its entry `at` at the end."""
    cut = forge if size is None else forge.until(size)
    return cut.and_entry(forge.entries[at])


def first(forge: Forge, kind: type[Body], after: int = 0) -> int:
    """Return the place of the first statement of `kind` from `after` on."""
    return min(at for at in forge.places(kind) if at >= after)


def last(forge: Forge, kind: type[Body], end: int | None = None) -> int:
    """Return the place of the last statement of `kind`, before `end` if given."""
    return max(at for at in forge.places(kind) if end is None or at < end)


def halting(forge: Forge) -> Forge:
    """Return the log with the running study halted by the coordinator."""
    study = forge.state().running
    assert study is not None
    return forge.saying(
        StudyHalted(
            charter=under(forge),
            author=COORDINATOR,
            plan=study.identity,
            code=HaltCode.TOO_FEW_MEMBERS,
        )
    )


def halted(forge: Forge) -> Forge:
    """Return the log whose first study was halted before its third round."""
    return halting(forge.until(forge.places(RoundOpened)[2]))


def in_round(forge: Forge) -> int:
    """Return where the round of the second study opens in which a member was lost."""
    return next(
        at
        for at in forge.places(RoundOpened)
        if len(forge.said(first(forge, SurvivorsSealed, at), SurvivorsSealed).survivors) == 3
    )


# --- studies --------------------------------------------------------------------------------------


@move("replayed")
def a_halted_study_is_opened_on_the_vote_that_it_used(forge: Forge) -> Forge:
    return halted(forge).and_entry(forge.entries[first(forge, StudyOpened)])


@move("no-study")
def a_round_of_a_study_before_it_is_opened(forge: Forge) -> Forge:
    return again(forge, first(forge, RoundOpened), first(forge, StudyOpened))


@move("out-of-order")
def a_halted_study_asks_for_a_round(forge: Forge) -> Forge:
    return halted(forge).and_entry(forge.entries[forge.places(RoundOpened)[2]])


@move("out-of-order")
def a_halted_study_is_completed(forge: Forge) -> Forge:
    return halted(forge).and_entry(forge.entries[first(forge, StudyCompleted)])


@move("wrong-model")
def the_model_of_a_halted_study_is_released(forge: Forge) -> Forge:
    return halted(forge).and_entry(forge.entries[first(forge, ReleaseProvenance)])


@move("out-of-order")
def a_study_is_completed_before_its_evaluation(forge: Forge) -> Forge:
    done = first(forge, StudyCompleted)
    return again(forge, done, last(forge, RoundResult, done))


@move("halted")
def a_study_is_completed_against_the_members_decision(forge: Forge) -> Forge:
    done = first(forge, StudyCompleted)
    plan = forge.said(done, StudyCompleted).plan
    decided = asking(forge.until(done), Action.STUDY_HALT, plan)
    proposal = sha256(decided.entries[-1])
    for name in SITES:
        if not decided.state().studies[Digest(plan)].halt_decided:
            decided = decided.saying(ballot(decided, name, proposal))
    return decided.and_entry(forge.entries[done])


@move("study-runs")
def a_second_study_runs_beside_the_first(forge: Forge) -> Forge:
    at = first(forge, EpochOpened)
    plan = parse_plan(forge.find(Digest(forge.said(first(forge, StudyOpened), StudyOpened).plan)))
    other = msgspec.structs.replace(plan, title="beside")
    made = ratified(forge.until(at), Action.STUDY_APPROVE, plan_digest(other), plan_bytes(other))
    [proposal] = [
        identity
        for identity, one in made.state().proposals.items()
        if one.proposal.subject == plan_digest(other)
    ]
    return made.saying(
        StudyOpened(
            charter=under(made), author=COORDINATOR, plan=plan_digest(other), proposal=proposal
        )
    )


@move("study-runs")
def the_charter_is_amended_under_a_running_study(forge: Forge) -> Forge:
    return forge.until(first(forge, RoundResult)).amended(retitled)


@move("wrong-charter")
def a_release_is_made_under_the_charter_before(forge: Forge) -> Forge:
    at = first(forge, ReleaseProvenance)
    return forge.until(at).amended(retitled).and_entry(forge.entries[at])


@move("wrong-model")
def a_site_reports_before_it_is_evaluated(forge: Forge) -> Forge:
    at = first(forge, SiteReported)
    return again(forge, at, last(forge, RoundResult, at))


# --- epochs and rounds ----------------------------------------------------------------------------


@move("out-of-order")
def an_epoch_opens_over_an_open_one(forge: Forge) -> Forge:
    at = first(forge, RoundOpened)
    body = forge.said(first(forge, EpochOpened), EpochOpened)
    following = msgspec.structs.replace(body, epoch=body.epoch + 1)
    return forge.until(at).saying(following)


@move("wrong-epoch")
def a_round_is_opened_in_an_epoch_that_is_over(forge: Forge) -> Forge:
    opened = forge.places(RoundOpened)[-2]
    before = forge.said(first(forge, RoundOpened), RoundOpened).epoch_hash
    return forge.until(opened).saying(
        msgspec.structs.replace(forge.said(opened, RoundOpened), epoch_hash=before)
    )


@move("out-of-order")
def a_round_is_opened_in_a_closed_epoch(forge: Forge) -> Forge:
    opened = forge.places(RoundOpened)[1]
    cut = forge.until(opened)
    body = forge.said(first(forge, EpochClosed), EpochClosed)
    return cut.saying(body).and_entry(forge.entries[opened])


@move("out-of-order")
def keys_are_sent_to_a_fixed_roster(forge: Forge) -> Forge:
    at = last(forge, EpochKeys, first(forge, EpochRoster))
    roster = forge.said(first(forge, EpochRoster), EpochRoster)
    fewer = msgspec.structs.replace(roster, keys=roster.keys[:-1])
    return forge.until(at).saying(fewer).and_entry(forge.entries[at])


@move("out-of-order")
def shares_are_dealt_after_the_dealing(forge: Forge) -> Forge:
    sealed = first(forge, EpochSealed)
    at = last(forge, EpochShares, sealed)
    body = forge.said(sealed, EpochSealed)
    dealers = tuple(name for name in body.dealers if name != forge.said(at, EpochShares).author)
    cut = forge.until(at).saying(msgspec.structs.replace(body, dealers=dealers))
    return cut.and_entry(forge.entries[at])


@move("not-in-epoch")
def a_member_takes_part_that_was_never_ready(forge: Forge) -> Forge:
    at = first(forge, RoundOpened)
    ready = last(forge, EpochReady, at)
    kept = [entry for place, entry in enumerate(forge.entries[: at + 1]) if place != ready]
    return forge.exchanged(kept)


@move("out-of-order")
def an_input_comes_after_the_survivors_are_named(forge: Forge) -> Forge:
    sealed = first(forge, SurvivorsSealed)
    late = last(forge, MaskedInput, sealed)
    body = forge.said(sealed, SurvivorsSealed)
    others = tuple(one for one in body.survivors if one.header != sha256(forge.entries[late]))
    kept = [entry for place, entry in enumerate(forge.entries[:sealed]) if place != late]
    announced = forge.exchanged(kept).saying(msgspec.structs.replace(body, survivors=others))
    return announced.and_entry(forge.entries[late])


@move("out-of-order")
def an_answer_comes_before_the_survivors_are_named(forge: Forge) -> Forge:
    sealed = first(forge, SurvivorsSealed)
    return again(forge, first(forge, Reveal, sealed), sealed)


@move("not-in-round")
def a_lost_member_answers(forge: Forge) -> Forge:
    at = in_round(forge)
    answer = first(forge, Reveal, at)
    body = msgspec.structs.replace(forge.said(answer, Reveal), author=LOST)
    return forge.until(answer).saying(body)


@move("out-of-order")
def a_sum_is_published_twice(forge: Forge) -> Forge:
    at = first(forge, RoundResult)
    return again(forge, at, at + 1)


@move("out-of-order")
def the_sum_of_an_abandoned_round_is_published(forge: Forge) -> Forge:
    at = first(forge, RoundResult)
    cut = forge.until(at).saying(
        RoundAbandoned(
            charter=under(forge.until(at)),
            author=COORDINATOR,
            context=forge.said(at, RoundResult).context,
            code=RoundCode.TOO_FEW_REVEALS,
        )
    )
    return cut.and_entry(forge.entries[at])


# --- votes and members ----------------------------------------------------------------------------


@move("out-of-order")
def a_ballot_is_counted_after_the_vote_was_closed(forge: Forge) -> Forge:
    """A steward's yes, kept back until the question was over."""
    asked = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=LOST)
    proposal = sha256(asked.entries[-1])
    closed = asked.saying(VotingClosed(charter=under(asked), author=COORDINATOR, proposal=proposal))
    return closed.saying(ballot(closed, SITES[0], proposal))


@move("wrong-charter")
def a_ballot_is_counted_under_the_charter_after(forge: Forge) -> Forge:
    asked = asking(forge, Action.MEMBER_SUSPEND, sha256(b"grounds"), target=LOST)
    given = ballot(asked, SITES[0], sha256(asked.entries[-1]))
    return asked.amended(retitled).saying(given)


@move("suspended")
def an_amendment_written_before_a_suspension_takes_it_back(forge: Forge) -> Forge:
    def as_before(charter: Charter) -> Charter:
        return retitled(charter)

    return suspended(forge, LOST).amended(as_before)


@move("suspended")
def a_suspended_member_votes_on_what_was_asked_before(forge: Forge) -> Forge:
    plan = forge.said(last(forge, StudyCompleted), StudyCompleted).plan
    asked = asking(forge, Action.RELEASE_APPROVE, plan)
    proposal = sha256(asked.entries[-1])
    return suspended(asked, LOST).saying(ballot(asked, LOST, proposal))


@move("not-approved")
def a_release_is_signed_by_who_approved_an_earlier_question(forge: Forge) -> Forge:
    """Two approve and sign; the vote is closed; a second question is approved by others."""
    released = first(forge, ReleaseProvenance)
    body = forge.said(released, ReleaseProvenance)
    signers = forge.officers(*SITES[:2])
    made = forge.until(released)
    for voters in (SITES[:1], SITES[2:]):
        made = asking(made, Action.RELEASE_APPROVE, body.plan)
        proposal = sha256(made.entries[-1])
        for name in voters:
            made = made.saying(ballot(made, name, proposal))
        if not made.state().proposals[proposal].proposal.settled:
            made = made.saying(
                VotingClosed(charter=under(made), author=COORDINATOR, proposal=proposal)
            )
    return made.saying(body, *signers)


@pytest.mark.parametrize("one", MOVES, ids=lambda one: one.name)
def test_a_statement_out_of_its_place_is_refused(forge: Forge, one: Move) -> None:
    """For its own reason, although every author signed every statement."""
    made = one.make(forge)
    with pytest.raises(VerificationError) as caught:
        verify_bundle(made.bundle(), made.anchor)
    assert caught.value.code == one.code, caught.value
    assert f"entry {len(made.entries) - 1}:" in str(caught.value)


def test_the_history_that_they_were_taken_from_holds(forge: Forge) -> None:
    verify_bundle(forge.exported(), forge.anchor)
