"""A study, as the log tells it: nobody chooses the question, the model or the end.

Planted and caught: each field of a round's opening left unchecked; a second round at once; rounds
after a decision to halt; a sum of another shape; a result without a round; a second attempt
over other survivors after answers; a report on another model, twice, unasked; a completion with
another digest; a finished study buried by a halt; a suspension that waits for a study.
"""

import msgspec
import pytest

from tests.worlds import NAMES, World, digest, small_charter, small_plan
from treaty.errors import VerificationError
from treaty.governance.charter import Charter
from treaty.governance.exposure import Artefact, ExposureRule, Form
from treaty.governance.roles import Action, Role
from treaty.ids import Digest
from treaty.protocol.messages import Figures, HaltCode, SiteReported, StudyHalted, TimeStated
from treaty.protocol.secagg_keys import NO_RESULT
from treaty.protocol.secagg_messages import CloseCode, EpochClosed, RoundAbandoned, RoundCode
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Phase
from treaty.studies.plan import EvaluationSettings
from treaty.studies.progress import Stage

A, B, C, D = NAMES[:4]


def running(members: int = 4, *, epoch: bool = True) -> World:
    world = World(members)
    world.start()
    if epoch:
        world.open_epoch()
    return world


def finished() -> World:
    world = running()
    world.run_study()
    return world


def abandon(world: World) -> None:
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_REVEALS)


# --- rounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, value",
    [
        ("query", digest("another")),
        ("code", digest("another")),
        ("model", digest("another")),
        ("length", 1),
        ("ring_bits", 32),
        ("round", 1),
        ("attempt", 1),
        ("previous", digest("another")),
    ],
)
def test_a_round_asks_what_the_study_expects(field: str, value: object) -> None:
    world = running()
    with world.refuses(f"wrong-{field}"):
        world.open_round(**{field: value})


def test_a_round_of_another_plan_is_of_no_study() -> None:
    world = running()
    with world.refuses("no-study"):
        world.open_round(plan=digest("another"))


def test_rounds_follow_one_another() -> None:
    world = running()
    assert world.study.last_result == NO_RESULT
    world.open_round()
    with world.refuses("out-of-order"):
        world.open_round()
    with world.refuses("out-of-order"):
        world.say(EpochClosed, epoch=1, code=CloseCode.FINISHED)
    world.collect()
    for name in world.names:
        world.reveal(name)
    world.result(world.total())
    first = world.state_digest()
    assert world.study.last_result == first
    assert world.study.progress.index == 1
    with world.refuses("wrong-previous"):
        world.open_round(previous=NO_RESULT)
    world.run_round()
    assert world.study.progress.stage is Stage.TRAINING
    assert [record.phase for record in world.study.rounds] == [RoundPhase.PUBLISHED] * 2


def test_an_abandoned_round_is_asked_again_by_number() -> None:
    world = running()
    for attempt in range(3):
        assert world.study.attempts == attempt
        with world.refuses("wrong-attempt"):
            world.open_round(attempt=attempt + 1)
        world.open_round()
        abandon(world)
    world.run_round()
    assert world.study.attempts == 0


def test_a_round_needs_an_epoch_and_a_charter_in_force() -> None:
    world = running(epoch=False)
    with world.refuses("out-of-order"):
        world.open_round(epoch_hash=digest("none"))
    world.open_epoch()
    world.say(TimeStated, at=world.state.charter.expires)
    with world.refuses("expired"):
        world.open_round()
    world.say(EpochClosed, epoch=1, code=CloseCode.FINISHED)
    with world.refuses("expired"):
        world.begin_epoch()


def test_a_result_without_a_round_is_refused_even_when_nothing_is_asked() -> None:
    world = running()
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    world.result(world.total())
    entry = world.entries[-1]
    with world.refuses("out-of-order"):
        world.offer(entry)
    done = finished()
    with done.refuses("out-of-order"):
        done.offer(done.entries[-1])


def test_a_sum_has_the_shape_of_its_query() -> None:
    world = running()
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    total = world.total()
    for data in (total.tobytes()[:-1], total.tobytes() + bytes(8), b""):
        with world.refuses("sum-shape"):
            world.result(total, sum=world.keep(data))
    more = total.copy()
    more[-1] -= 1
    with world.refuses("contributors-mismatch"):
        world.result(more)
    world.result(total)


# --- one set of survivors for one question --------------------------------------------------------


def test_after_an_answer_the_question_keeps_its_survivors() -> None:
    """Otherwise two sums over sets that differ by one member would show that member's input."""
    world = running()
    world.open_round()
    world.collect()
    world.reveal(A)
    abandon(world)
    world.open_round()
    for name in (A, B, C):
        world.send_input(name)
    with world.refuses("locked-set"):
        world.seal()
    world.send_input(D)
    world.seal()
    for name in world.names:
        world.reveal(name)
    world.result(world.total())
    world.run_round((A, B, C))


def test_without_an_answer_the_survivors_may_change() -> None:
    world = running()
    world.open_round()
    world.collect()
    abandon(world)
    world.run_round((A, B, C))
    assert world.study.rounds[-1].members_in == (A, B, C)


def test_answers_bind_even_when_a_suspension_ends_the_round() -> None:
    world = running(5)
    world.open_round()
    world.collect()
    world.reveal(A)
    world.propose_and_suspend(NAMES[4])
    assert world.study.round is None
    assert world.study.epoch is None
    assert world.study.rounds[-1].phase is RoundPhase.ABANDONED
    assert world.study.group.members == NAMES[:4]
    world.open_epoch()
    world.open_round()
    for name in NAMES[:4]:
        world.send_input(name)
    with world.refuses("locked-set"):
        world.seal()


# --- suspension and halt --------------------------------------------------------------------------


def test_a_suspension_closes_the_epoch_and_the_study_goes_on_without_the_member() -> None:
    world = running(5)
    world.run_round()
    world.propose_and_suspend(NAMES[4])
    with world.refuses("out-of-order"):
        world.open_round(epoch_hash=digest("old"))
    world.open_epoch()
    assert world.study.epoch is not None
    assert world.study.epoch.number == 2
    with world.refuses("not-a-member"):
        world.open_round(participants=NAMES[:5])
    world.run_round()
    assert world.study.rounds[-1].members_in == NAMES[:4]


def test_a_suspension_never_waits_for_a_study() -> None:
    world = running(3)
    world.open_round()
    world.propose_and_suspend(NAMES[2])
    assert world.state.members.directory.suspended == {NAMES[2]}
    assert world.study.phase is Phase.HALTED
    assert world.study.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert world.state.running is None


def test_a_decision_to_halt_opens_and_completes_nothing_more() -> None:
    world = running()
    with world.refuses("sub-quorum"):
        world.say(StudyHalted, plan=world.study.identity, code=HaltCode.DECIDED)
    world.decide(Action.STUDY_HALT, world.study.identity)
    assert world.study.halt_decided
    with world.refuses("halted"):
        world.open_round()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.DECIDED)
    assert world.study.phase is Phase.HALTED
    assert world.study.halt_code is HaltCode.DECIDED
    for code in HaltCode:
        with world.refuses("out-of-order"):
            world.say(StudyHalted, plan=world.study.identity, code=code)
    with world.refuses("out-of-order"):
        world.begin_epoch()
    done = finished()
    done.decide(Action.STUDY_HALT, done.study.identity)
    with done.refuses("halted"):
        done.complete()


def test_a_halt_for_least_support_rests_on_the_sums() -> None:
    world = running()
    with world.refuses("wrong-code"):
        world.say(StudyHalted, plan=world.study.identity, code=HaltCode.LEAST_SUPPORT)
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    total = world.total()
    total[1] = 2
    world.result(total)
    assert world.study.progress.stage is Stage.HALTED
    with world.refuses("out-of-order"):
        world.open_round_anyway()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.LEAST_SUPPORT)
    assert world.study.halt_code is HaltCode.LEAST_SUPPORT


# --- the end --------------------------------------------------------------------------------------


def test_a_completed_study_has_the_model_that_everyone_derives() -> None:
    world = finished()
    for name in ("model", "normaliser", "evaluation"):
        with world.refuses("wrong-model"):
            world.say_completed(**{name: digest("another")})
    with world.refuses("wrong-model"):
        world.say_completed(rounds=99)
    with world.refuses("out-of-order"):
        world.open_round_anyway()
    world.complete()
    assert world.study.final_model == world.study.progress.model_digest
    assert world.study.phase is Phase.COMPLETED
    assert world.state.running is None
    with world.refuses("out-of-order"):
        world.complete()


def test_an_unfinished_study_is_not_completed() -> None:
    world = running()
    fields = dict.fromkeys(("model", "normaliser", "evaluation"), digest("any"))
    with world.refuses("out-of-order"):
        world.say_completed(plan=world.study.identity, rounds=0, **fields)


@pytest.mark.parametrize("code", [HaltCode.TOO_FEW_MEMBERS, HaltCode.NOT_CONVERGED])
def test_an_evaluation_that_is_known_is_not_buried(code: HaltCode) -> None:
    world = finished()
    with world.refuses("wrong-code"):
        world.say(StudyHalted, plan=world.study.identity, code=code)
    world.complete()


# --- site reports ---------------------------------------------------------------------------------


def showing(charter: Charter) -> Charter:
    """Return `charter` with the figures of single sites allowed."""
    rows = tuple(one for one in charter.exposure if one.form is not Form.EXACT or one.allow)
    row = ExposureRule(
        artefact=Artefact.SITE_METRIC,
        recipients=(Role.COORDINATOR, Role.MEMBER),
        form=Form.EXACT,
        remediation="stop",
    )
    return msgspec.structs.replace(charter, exposure=(*rows, row))


def report(world: World, author: str, model: Digest | None = None) -> None:
    figures = Figures(accuracy=1, auc=None, brier=1)
    world.say(
        SiteReported,
        author,
        plan=world.study.identity,
        model=model or world.study.progress.model_digest,
        federated=figures,
        alone=figures,
    )


def test_sites_report_once_on_the_final_model_where_the_plan_asks() -> None:
    world = World(edit=showing)
    world.start(
        small_plan(
            world.state.charter,
            world.contract,
            evaluation=EvaluationSettings(site_figures=True),
        )
    )
    with world.refuses("wrong-model"):
        report(world, A)
    world.run_study()
    with world.refuses("wrong-model"):
        report(world, A, digest("another"))
    report(world, A)
    with world.refuses("replayed"):
        report(world, A)
    world.complete()
    report(world, B)
    assert set(world.study.reports) == {A, B}
    assert showing(small_charter()) == world.first


def test_figures_that_the_plan_does_not_ask_for_are_refused() -> None:
    world = finished()
    with world.refuses("exposure"):
        report(world, A)


def test_a_refused_sum_leaves_the_round_open_for_the_right_one() -> None:
    world = running()
    world.open_round()
    world.collect()
    for name in world.names:
        world.reveal(name)
    wrong = world.total()
    wrong[0] = 5
    with pytest.raises(VerificationError):
        world.result(wrong)
    world.result(world.total())


def test_a_site_reports_only_on_an_evaluation_that_it_took_part_in() -> None:
    world = World(edit=showing)
    asking = EvaluationSettings(site_figures=True)
    world.start(small_plan(world.state.charter, world.contract, evaluation=asking))
    world.open_epoch()
    while not world.study.progress.finished:
        world.run_round((A, B, C))
    with world.refuses("not-in-round"):
        report(world, D)
    report(world, A)


def test_epochs_are_numbered_across_studies() -> None:
    """A member refuses an epoch whose number it has seen, whatever the study."""
    world = running()
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.NOT_CONVERGED)
    world.start(small_plan(world.state.charter, world.contract, study="second"))
    with world.refuses("altered-parameters"):
        world.begin_epoch(epoch=1)
    world.open_epoch()
    assert world.study.epoch is not None
    assert world.study.epoch.number == 2
