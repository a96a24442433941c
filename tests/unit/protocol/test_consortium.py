"""Consortium: decisions take effect exactly when the log says so, and once.

Planted and caught: clock going back accepted; a proposal's electorate taken from the present; a
target named to bar a ballot; proposals by parties without the role; open proposals surviving an
amendment; the approval of a suspended member kept; a ratified decision used twice; a study opened
on a rejected, unratified or unsafe plan, without its contract, beside another, after expiry; a
release with one approver, of another model, twice; a comparison outside a simulation.
"""

import msgspec
import pytest

from tests.worlds import (
    COORDINATOR,
    HUB,
    NAMES,
    NOW,
    World,
    approval,
    digest,
    founders,
    key,
    small_charter,
    small_plan,
)
from treaty.crypto.canonical import sha256
from treaty.errors import FormatError, PeerError, PolicyError, ResourceError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.roles import Action, Role
from treaty.governance.template import CharterOptions
from treaty.governance.terms import DecisionRule, Member, MemberKeys
from treaty.ids import Digest, Timestamp
from treaty.models.specification import LinearRegression, LogisticRegression
from treaty.protocol.consortium import PROPOSABLE, Consortium
from treaty.protocol.messages import (
    BallotCast,
    ComparisonPublished,
    Figures,
    HaltCode,
    MemberSuspended,
    ProposalOpened,
    StudyHalted,
    StudyOpened,
    TimeStated,
    VotingClosed,
    release_provenance,
)
from treaty.protocol.proposal import Phase
from treaty.protocol.statements import seal_statement
from treaty.studies.plan import plan_bytes, plan_digest

OBSERVER = "watcher.example"
SIMULATION = CharterOptions(post_quantum=False, simulation=True)


def phase(world: World, proposal: Digest) -> Phase:
    return world.state.proposals[proposal].proposal.phase


def with_observer(charter: Charter) -> Charter:
    member = Member(
        title="Watcher",
        roles=(Role.OBSERVER,),
        keys=MemberKeys(
            approval=(approval(OBSERVER).public.hex,),
            runner=(key(f"{OBSERVER} runner").public.hex,),
        ),
    )
    return msgspec.structs.replace(charter, members={**charter.members, OBSERVER: member})


def world_with_observer() -> World:
    world = World()
    first = with_observer(world.first)
    world.state = Consortium(charter_digest(first))
    world.entries.clear()
    signers = (*founders(world.names), approval(OBSERVER), key(f"{OBSERVER} runner"))
    world.publish(first, signers)
    world.say(TimeStated, at=NOW)
    return world


def second(world: World, **changes: object) -> Charter:
    old = world.state.charter
    fields = {"version": old.version + 1, "previous": charter_digest(old)} | changes
    return msgspec.structs.replace(old, **fields)


def amend(world: World, **changes: object) -> None:
    world.publish(second(world, **changes), [approval(name) for name in world.names[:3]])


def rules(world: World, **thresholds: int) -> dict[Action, DecisionRule]:
    """Return the decisions with other thresholds, by the names of the actions."""
    decisions = dict(world.state.charter.decisions)
    for name, threshold in thresholds.items():
        action = Action[name]
        decisions[action] = msgspec.structs.replace(decisions[action], threshold=threshold)
    return decisions


# --- the beginning and the clock ------------------------------------------------------------------


def test_nothing_comes_before_the_founding_charter() -> None:
    empty = Consortium(digest("anchor"))
    entry = seal_statement(TimeStated(charter=digest("anchor"), author=HUB, at=1), COORDINATOR)
    with pytest.raises(PeerError, match="founding charter first"):
        empty.apply(entry, World().find)
    with pytest.raises(PeerError, match="founding charter first"):
        _ = empty.charter
    with pytest.raises(FormatError):
        empty.apply(b"{}", World().find)


def test_the_clock_stands_or_goes_forward() -> None:
    world = World()
    world.say(TimeStated, at=NOW)
    world.say(TimeStated, at=NOW + 1)
    assert world.state.at == NOW + 1
    with world.refuses("clock-back"):
        world.say(TimeStated, at=NOW)


def test_the_entries_alone_give_the_same_state() -> None:
    world = World()
    world.start()
    world.run_study()
    world.complete()
    assert world.replayed() == world.state
    assert world.state.size == len(world.entries)


def test_a_document_that_is_not_at_hand_is_a_resource_error() -> None:
    world = World()
    plan = small_plan(world.state.charter, world.contract)
    world.decide(Action.CONTRACT_ADOPT, Digest(plan.contract))
    proposal = world.decide(Action.STUDY_APPROVE, plan_digest(plan))
    with pytest.raises(ResourceError):
        world.say(StudyOpened, plan=plan_digest(plan), proposal=proposal)


# --- proposals ------------------------------------------------------------------------------------


def test_a_proposal_is_ratified_by_the_charters_threshold() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.vote(proposal, NAMES[:2])
    assert phase(world, proposal) is Phase.OPEN
    assert not world.state.ratified(Action.CONTRACT_ADOPT, digest("contract"))
    world.vote(proposal, NAMES[2:3])
    assert phase(world, proposal) is Phase.RATIFIED
    assert world.state.ratified(Action.CONTRACT_ADOPT, digest("contract"))
    assert not world.state.ratified(Action.CONTRACT_ADOPT, digest("another"))
    assert not world.state.ratified(Action.STUDY_APPROVE, digest("contract"))
    assert world.state.contracts == {digest("contract")}


def test_a_rejected_proposal_decides_nothing() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.vote(proposal, NAMES[:2], "reject")
    assert phase(world, proposal) is Phase.REJECTED
    world.vote(proposal, NAMES[2:4])
    assert phase(world, proposal) is Phase.REJECTED
    assert world.state.contracts == frozenset()


def test_closing_lapses_an_open_proposal_once() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.say(VotingClosed, proposal=proposal)
    assert phase(world, proposal) is Phase.LAPSED
    with world.refuses("out-of-order"):
        world.vote(proposal, NAMES[:1])
    with world.refuses("out-of-order"):
        world.say(VotingClosed, proposal=proposal)
    with world.refuses("no-proposal"):
        world.say(VotingClosed, proposal=digest("none"))
    with world.refuses("no-proposal"):
        world.vote(digest("none"), NAMES[:1])


@pytest.mark.parametrize("action", sorted(set(Action) - PROPOSABLE))
def test_what_carries_its_own_signatures_is_not_proposed(action: Action) -> None:
    world = World()
    with world.refuses("not-proposable"):
        world.propose(action, digest("subject"))


def test_an_unknown_or_unlisted_action_is_refused() -> None:
    world = World()
    with world.refuses("unknown-action"):
        world.say(ProposalOpened, NAMES[0], action="study.invent", subject=digest("x"))
    decisions = dict(world.state.charter.decisions)
    del decisions[Action.STUDY_RESUME]
    amend(world, decisions=decisions)
    with world.refuses("not-listed"):
        world.propose(Action.STUDY_RESUME, digest("x"))


def test_the_same_proposal_is_not_opened_twice() -> None:
    world = World()
    world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    entry = world.entries[-1]
    with world.refuses("replayed"):
        world.offer(entry)


def test_a_party_without_the_role_proposes_and_votes_nothing() -> None:
    world = world_with_observer()
    for action in (Action.CONTRACT_ADOPT, Action.STUDY_APPROVE):
        with world.refuses("wrong-role"):
            world.say(ProposalOpened, OBSERVER, action=action.value, subject=digest("x"))
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    with world.refuses("not-elector"):
        world.vote(proposal, [OBSERVER])


def test_only_a_suspension_names_a_member_and_names_one_that_is_there() -> None:
    world = World()
    for action, target in (
        (Action.CONTRACT_ADOPT, NAMES[1]),
        (Action.MEMBER_SUSPEND, None),
        (Action.MEMBER_SUSPEND, "nobody.example"),
        (Action.MEMBER_SUSPEND, HUB),
    ):
        with world.refuses("wrong-target"):
            world.propose(action, digest("x"), target=target)
    world.propose_and_suspend(NAMES[3])
    with world.refuses("wrong-target"):
        world.propose(Action.MEMBER_SUSPEND, digest("x"), target=NAMES[3])


def test_a_halt_names_a_study() -> None:
    world = World()
    with world.refuses("no-study"):
        world.propose(Action.STUDY_HALT, digest("no plan"))


def test_the_electorate_is_fixed_when_the_proposal_opens() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.propose_and_suspend(NAMES[3])
    assert world.state.proposals[proposal].proposal.electorate == set(world.names)
    later = world.propose(Action.CONTRACT_ADOPT, digest("other"))
    assert world.state.proposals[later].proposal.electorate == set(NAMES[:3])
    world.vote(proposal, NAMES[:3])
    assert phase(world, proposal) is Phase.RATIFIED


def test_too_few_voters_open_nothing() -> None:
    world = World(3)
    amend(world, decisions=rules(world, CONTRACT_ADOPT=3))
    world.propose_and_suspend(NAMES[2])
    with world.refuses("sub-quorum"):
        world.propose(Action.CONTRACT_ADOPT, digest("contract"))


def test_an_amendment_lapses_what_is_open_and_keeps_what_is_decided() -> None:
    world = World()
    done = world.decide(Action.CONTRACT_ADOPT, digest("contract"))
    waiting = world.propose(Action.CONTRACT_ADOPT, digest("other"))
    world.vote(waiting, NAMES[:2])
    amend(world, title="Second")
    assert phase(world, done) is Phase.RATIFIED
    assert phase(world, waiting) is Phase.LAPSED
    assert world.state.contracts == {digest("contract")}
    with world.refuses("out-of-order"):
        world.vote(waiting, NAMES[2:3])


def test_an_approval_lapses_with_the_member_that_gave_it() -> None:
    world = World()
    helped = world.propose(Action.CONTRACT_ADOPT, digest("helped"))
    opposed = world.propose(Action.CONTRACT_ADOPT, digest("opposed"))
    world.vote(helped, [NAMES[3]])
    world.vote(opposed, [NAMES[3]], "reject")
    world.propose_and_suspend(NAMES[3])
    assert phase(world, helped) is Phase.LAPSED
    assert phase(world, opposed) is Phase.OPEN
    world.vote(opposed, NAMES[:3])
    assert phase(world, opposed) is Phase.RATIFIED


def test_an_expired_charter_opens_and_decides_nothing() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.vote(proposal, NAMES[:2])
    world.say(TimeStated, at=world.state.charter.expires)
    with world.refuses("expired"):
        world.vote(proposal, NAMES[2:3])
    with world.refuses("expired"):
        world.propose(Action.CONTRACT_ADOPT, digest("other"))
    amend(world, expires=world.state.at + 1_000)
    world.propose(Action.CONTRACT_ADOPT, digest("other"))


# --- suspension -----------------------------------------------------------------------------------


def test_a_suspension_rests_on_its_own_ratified_decision_and_is_used_once() -> None:
    world = World(5)
    other = world.decide(Action.CONTRACT_ADOPT, digest("contract"))
    proposal = world.propose(Action.MEMBER_SUSPEND, digest("why"), target=NAMES[4])
    for fields in (
        {"proposal": other, "target": NAMES[4]},
        {"proposal": proposal, "target": NAMES[4]},
    ):
        with world.refuses("sub-quorum"):
            world.say(MemberSuspended, **fields)
    world.vote(proposal, NAMES[:2])
    with world.refuses("sub-quorum"):
        world.say(MemberSuspended, proposal=proposal, target=NAMES[3])
    world.say(MemberSuspended, proposal=proposal, target=NAMES[4])
    with world.refuses("sub-quorum"):
        world.say(MemberSuspended, proposal=proposal, target=NAMES[4])


def test_the_target_does_not_vote_on_its_suspension() -> None:
    world = World()
    proposal = world.propose(Action.MEMBER_SUSPEND, digest("why"), target=NAMES[3])
    with world.refuses("not-elector"):
        world.vote(proposal, [NAMES[3]], "reject")


# --- opening a study ------------------------------------------------------------------------------


def prepared(world: World, **changes: object) -> tuple[Digest, Digest]:
    """Ratify a plan; return its digest and the proposal."""
    plan = small_plan(world.state.charter, world.contract, **changes)
    world.keep(plan_bytes(plan))
    return plan_digest(plan), world.decide(Action.STUDY_APPROVE, plan_digest(plan))


def adopted(world: World) -> World:
    world.decide(Action.CONTRACT_ADOPT, sha256(plan_contract(world)))
    return world


def plan_contract(world: World) -> bytes:
    return world.find(Digest(small_plan(world.state.charter, world.contract).contract))


def test_a_study_opens_on_a_ratified_plan_and_an_adopted_contract() -> None:
    world = World()
    plan, proposal = prepared(world)
    with world.refuses("sub-quorum"):
        world.say(StudyOpened, plan=plan, proposal=proposal)
    adopted(world)
    world.say(StudyOpened, plan=plan, proposal=proposal)
    assert world.state.running == world.study
    assert world.study.identity == plan
    assert world.study.group.members == world.names
    with world.refuses("replayed"):
        world.say(StudyOpened, plan=plan, proposal=proposal)


def test_an_unratified_or_other_plan_opens_nothing() -> None:
    world = adopted(World())
    made = small_plan(world.state.charter, world.contract)
    world.keep(plan_bytes(made))
    waiting = world.propose(Action.STUDY_APPROVE, plan_digest(made))
    world.vote(waiting, NAMES[:2])
    other = world.decide(Action.CONTRACT_ADOPT, plan_digest(made))
    for proposal in (waiting, other):
        with world.refuses("sub-quorum"):
            world.say(StudyOpened, plan=plan_digest(made), proposal=proposal)
    with world.refuses("no-proposal"):
        world.say(StudyOpened, plan=plan_digest(made), proposal=digest("none"))
    world.vote(waiting, NAMES[2:3])
    with world.refuses("sub-quorum"):
        world.say(StudyOpened, plan=digest("another"), proposal=waiting)
    world.say(StudyOpened, plan=plan_digest(made), proposal=waiting)


def test_studies_run_one_at_a_time_and_block_amendments() -> None:
    world = adopted(World())
    first, second_plan = prepared(world), prepared(world, study="other")
    world.say(StudyOpened, plan=first[0], proposal=first[1])
    with world.refuses("study-runs"):
        world.say(StudyOpened, plan=second_plan[0], proposal=second_plan[1])
    with world.refuses("study-runs"):
        amend(world, title="Second")
    world.say(StudyHalted, plan=first[0], code=HaltCode.NOT_CONVERGED)
    world.say(StudyOpened, plan=second_plan[0], proposal=second_plan[1])
    assert len(world.state.studies) == 2


def test_a_plan_of_another_charter_version_opens_nothing() -> None:
    world = adopted(World())
    plan, proposal = prepared(world)
    amend(world, title="Second")
    with world.refuses("replayed"):
        world.say(StudyOpened, plan=plan, proposal=proposal)
    # Members vote on digests: they can ratify it again, under the charter that it does not bind.
    again = world.decide(Action.STUDY_APPROVE, plan)
    with world.refuses("wrong-charter"):
        world.say(StudyOpened, plan=plan, proposal=again)


def test_an_expired_charter_opens_no_study() -> None:
    world = adopted(World())
    plan, proposal = prepared(world)
    world.say(TimeStated, at=world.state.charter.expires)
    with world.refuses("expired"):
        world.say(StudyOpened, plan=plan, proposal=proposal)


@pytest.mark.parametrize(
    "code, changes",
    [
        ("model", {"model": LinearRegression()}),
        ("model", {"model": LogisticRegression(ridge_milli=0)}),
        ("data-use", {"data_use": ()}),
    ],
)
def test_a_ratified_plan_with_findings_opens_nothing(code: str, changes: dict[str, object]) -> None:
    """The vote is on a digest: everyone checks the plan, and a bad one is nobody's bug."""
    world = adopted(World())
    plan, proposal = prepared(world, **changes)
    with world.refuses(code):
        world.say(StudyOpened, plan=plan, proposal=proposal)


def test_a_ratified_digest_of_something_else_opens_nothing() -> None:
    world = adopted(World())
    junk = world.keep(b"{}")
    proposal = world.decide(Action.STUDY_APPROVE, junk)
    with pytest.raises(FormatError):
        world.say(StudyOpened, plan=junk, proposal=proposal)


# --- releases and comparisons ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished() -> World:
    world = World(4, SIMULATION)
    world.start()
    world.run_study()
    world.complete()
    return world


def release(world: World, approvers: tuple[str, ...], model: str = "", by: str = HUB) -> bytes:
    progress = world.study.progress
    body = release_provenance(
        world.under, by, world.study.identity, model or progress.model_digest, ()
    )
    return seal_statement(body, *(approval(name) for name in approvers))


def test_a_release_needs_the_charters_approvers_and_happens_once(finished: World) -> None:
    with finished.refuses("sub-quorum"):
        finished.offer(release(finished, NAMES[:1]))
    with finished.refuses("wrong-model"):
        finished.offer(release(finished, NAMES[:2], model=digest("another")))
    with finished.refuses("wrong-author"):
        finished.offer(release(finished, NAMES[:2], by="elsewhere.example"))
    with finished.refuses("wrong-key-kind"):
        body = release_provenance(
            finished.under, HUB, finished.study.identity, finished.study.progress.model_digest, ()
        )
        finished.offer(seal_statement(body, approval(NAMES[0]), COORDINATOR))
    before = finished.state
    finished.offer(release(finished, NAMES[1:3]))
    assert finished.state.releases == {finished.study.progress.model_digest: before.size}
    with finished.refuses("replayed"):
        finished.offer(release(finished, NAMES[:2]))
    finished.state = before


def test_an_unfinished_study_releases_nothing() -> None:
    world = World()
    world.start()
    with world.refuses("wrong-model"):
        world.offer(release(world, NAMES[:2]))
    with world.refuses("no-study"):
        body = release_provenance(world.under, HUB, digest("none"), digest("model"), ())
        world.offer(seal_statement(body, approval(NAMES[0]), approval(NAMES[1])))


def compared(world: World, **changes: object) -> None:
    figures = Figures(accuracy=1, auc=None, brier=1)
    fields: dict[str, object] = {
        "plan": world.study.identity,
        "model": world.study.progress.model_digest,
        "label": "simulation only",
        "pooled": figures,
        "max_probability_gap_e12": 3,
        "alone_everywhere": {NAMES[0]: figures},
    }
    world.say(ComparisonPublished, **(fields | changes))


def test_a_comparison_exists_only_in_a_simulation(finished: World) -> None:
    before = finished.state
    with finished.refuses("wrong-model"):
        compared(finished, model=digest("another"))
    compared(finished)
    assert list(finished.state.comparisons) == [finished.study.identity]
    with finished.refuses("wrong-model"):
        compared(finished)
    finished.state = before
    world = World()
    world.start()
    with world.refuses("simulation"):
        compared(world)


def test_no_entry_of_a_peer_is_a_bug_of_ours(finished: World) -> None:
    """Every entry again, at every state of the log: refused in the two ways that are allowed."""
    state = Consortium(finished.state.anchor)
    states = [state]
    for entry in finished.entries:
        state, _ = state.apply(entry, finished.find)
        states.append(state)
    refusals = 0
    for at in states[::6]:
        for entry in finished.entries[::3]:
            try:
                at.apply(entry, finished.find)
            except (PeerError, PolicyError):
                refusals += 1
    assert refusals > 500


def test_thresholds_are_the_charters_not_the_codes() -> None:
    world = World()
    assert world.state.at == Timestamp(NOW)
    amend(world, decisions=rules(world, CONTRACT_ADOPT=4))
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    world.vote(proposal, NAMES[:3])
    assert phase(world, proposal) is Phase.OPEN
    world.vote(proposal, NAMES[3:4])
    assert phase(world, proposal) is Phase.RATIFIED
    assert small_charter() == world.first


def test_a_ballot_counts_for_its_voter_alone() -> None:
    world = World()
    proposal = world.propose(Action.CONTRACT_ADOPT, digest("contract"))
    for _ in range(3):
        world.vote(proposal, NAMES[:1])
    assert phase(world, proposal) is Phase.OPEN
    world.vote(proposal, NAMES[:1], "reject")
    assert world.state.proposals[proposal].proposal.equivocators == {NAMES[0]}
    body = world.write(BallotCast, NAMES[1], proposal=proposal, choice="approve")
    with world.refuses("wrong-author"):
        world.offer(seal_statement(body, approval(NAMES[0])))
