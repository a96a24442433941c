"""A question that was answered is asked of fewer members, when those who are missing approved.

Real nodes: a site is lost after the answers of a round began, so that its question is bound to
four; the study halts for want of them. Planted faults that these tests caught: a resumption that
frees members who did not approve, or
voted against; attempts of before that count again; a resumption of a study
that the members decided to halt; one for a round that nobody knows; a study that goes on under a
later charter than its plan binds; a member suspended meanwhile that goes on in it.
"""

from pathlib import Path

from tests.restartable_federation import (
    RestartableFederation,
    Story,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
)
from tests.small_federation import SITES, contract, small_plan
from tests.stateful.test_dropouts import REVEALING, abandoned, heal, lose, propose, vote
from tests.unit.protocol.test_consortium import amend
from tests.worlds import NAMES, World
from treaty.crypto.canonical import sha256
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol import secagg_messages as messages
from treaty.protocol.differencing import lone_changes
from treaty.protocol.messages import HaltCode, StudyHalted
from treaty.protocol.secagg_messages import RoundCode
from treaty.protocol.study import Phase, Study
from treaty.provenance.verify import verify_bundle

A, B, C, D = SITES


def halted(federation: RestartableFederation) -> Study:
    """A study whose third sum is bound to four members, of whom one does not come back."""
    story = Story(
        federation,
        (in_round(2, REVEALING), lambda: lose(B, C, D)(federation)),
        (abandoned(1), lambda: heal(B, C)(federation)),
    )
    study = federation.run_study(small_plan(federation), contract(), story)
    assert story.told
    assert study.phase is Phase.HALTED and study.halt_code is HaltCode.TOO_FEW_MEMBERS
    return study


def resumed(federation: RestartableFederation, study: Study, voters: tuple[str, ...]) -> Study:
    """Let `voters` approve that the bound question be asked anew; the missing site stays away."""
    (bound,) = [one for one in study.rounds if one.reveals and one.sum is None]
    heal(D)(federation)
    statement, identity = propose(federation, Action.STUDY_RESUME, bound.context)

    def known(state: object) -> bool:
        return identity in federation.coordinator.state.proposals

    federation.participants[SITES[0]].submit(statement)
    federation.run(known)
    for name in voters:
        vote(federation, identity, (name,))
        federation.run(lambda _, name=name: name in proposals_of(federation, identity))  # type: ignore[misc]  # loop value
    lose(D)(federation)
    federation.run(lambda state: state.studies[study.identity].finished)
    return federation.coordinator.state.studies[study.identity]


def proposals_of(federation: RestartableFederation, identity: Digest) -> set[str]:
    """Who has voted."""
    return set(federation.coordinator.state.proposals[identity].proposal.ballots)


def test_a_site_that_approved_is_left_out_and_its_exposure_is_recorded(tmp_path: Path) -> None:
    """It votes first: the study runs again as soon as enough have approved."""
    federation = opened(tmp_path)
    before = halted(federation)
    study = resumed(federation, before, (D, A, B))
    assert study.final_model is not None, study.halt_code
    (exposure,) = study.exposures
    assert exposure.members == (D,)
    assert exposure.question == before.rounds[2].question
    later = [one for one in study.rounds if one.context == exposure.later]
    assert later[0].members_in == (A, B, C)
    assert lone_changes(study.rounds)
    federation.settle()
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    (line,) = [one for one in verdict.record.guarantees if one.name == "differences"]
    assert D in line.statement
    assert_said_once(federation)
    assert_no_fork(federation)


def test_without_the_approval_of_the_missing_site_nothing_is_asked(tmp_path: Path) -> None:
    federation = opened(tmp_path)
    study = resumed(federation, halted(federation), (A, B, C))
    assert study.phase is Phase.HALTED and study.final_model is None and not study.exposures
    assert len([one for one in study.rounds if one.sum is not None]) == 2


# --- the fold ---------------------------------------------------------------------------------


def bound_world() -> tuple[World, Digest]:
    """A world of five whose question is bound to all of them; its round's context."""
    world = World(5)
    world.start()
    world.open_epoch()
    world.open_round()
    world.collect()
    world.reveal(NAMES[0])
    context = world.context
    world.say(messages.RoundAbandoned, context=context, code=RoundCode.TOO_FEW_REVEALS)
    return world, context


def ask_four(world: World) -> None:
    """Ask the same question of all; one sends nothing."""
    world.open_round()
    for name in NAMES[:4]:
        world.send_input(name)


def test_the_fold_lets_a_set_differ_by_those_alone_who_approved() -> None:
    world, context = bound_world()
    ask_four(world)
    with world.refuses("locked-set"):
        world.seal()
    proposal = world.propose(Action.STUDY_RESUME, context)
    world.vote(proposal, NAMES[:4])
    with world.refuses("locked-set"):
        world.seal()
    world.vote(proposal, NAMES[4:5])
    world.seal()
    (exposure,) = world.study.exposures
    assert exposure.members == (NAMES[4],) and exposure.earlier == context
    assert world.replayed() == world.state


def test_who_votes_against_or_both_ways_is_not_freed() -> None:
    world, context = bound_world()
    ask_four(world)
    proposal = world.propose(Action.STUDY_RESUME, context)
    world.vote(proposal, NAMES[:4])
    world.vote(proposal, NAMES[4:5], "reject")
    with world.refuses("locked-set"):
        world.seal()
    world.vote(proposal, NAMES[4:5])
    with world.refuses("locked-set"):
        world.seal()


def test_a_resumption_names_a_round_that_is_over_and_was_sealed() -> None:
    world, context = bound_world()
    for wrong in (sha256(b"x"), world.study.identity):
        with world.refuses("no-round"):
            world.propose(Action.STUDY_RESUME, Digest(wrong))
    ask_four(world)
    with world.refuses("no-round"):
        world.propose(Action.STUDY_RESUME, world.context)
    world.propose(Action.STUDY_RESUME, context)


def test_a_study_that_the_members_halted_stays_halted() -> None:
    world, context = bound_world()
    world.decide(Action.STUDY_HALT, world.study.identity)
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.DECIDED)
    world.decide(Action.STUDY_RESUME, context)
    assert world.study.phase is Phase.HALTED


def test_a_study_that_lacked_members_runs_again_with_attempts_counted_anew() -> None:
    world, context = bound_world()
    assert world.study.attempts == 1
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
    world.decide(Action.STUDY_RESUME, context)
    assert world.study.phase is Phase.RUNNING and world.study.attempts == 0
    world.open_epoch()
    world.open_round()


def test_no_study_goes_on_under_another_charter_than_its_plan_binds() -> None:
    """Thresholds, budget and noise were held against the charter of then."""
    world, context = bound_world()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
    amend(world, title="Second")
    with world.refuses("wrong-charter"):
        world.propose(Action.STUDY_RESUME, context)
    assert world.study.phase is Phase.HALTED


def test_a_member_suspended_while_a_study_stood_still_does_not_go_on_in_it() -> None:
    world, context = bound_world()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
    world.propose_and_suspend(NAMES[4])
    assert NAMES[4] in world.study.group.members
    world.decide(Action.STUDY_RESUME, context)
    assert world.study.phase is Phase.RUNNING
    assert sorted(world.study.group.members) == sorted(NAMES[:4])
    assert (
        world.study.group.min_survivors == world.state.members.effective.parameters().min_survivors
    )
    assert world.replayed() == world.state
