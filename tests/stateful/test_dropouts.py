"""Members fall silent, come back, decline and are suspended while a study runs; it ends or halts.

Real nodes over the embedded engine; what happens is a story of steps, each at its moment. After
every story: no member has said two different things about one round, all mirrors are one history,
and the bundle of a completed study verifies. The parties' turns are counted:
nothing runs for ever.

Planted faults that these tests caught: another set of survivors sealed for a question that was
answered; the question asked of others than those who are bound to it; survivors below u_fast that
answer without confirmation; a decision to halt that is not carried out; a clock that nobody
compares; a report of a site that took no part.
"""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.restartable_federation import (
    RestartableFederation,
    Story,
    after_rounds,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
    sums,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES, contract, small_plan
from treaty.crypto.canonical import sha256
from treaty.governance.charter import charter_bytes
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.messages import BallotCast, CharterPublished, HaltCode, ProposalOpened
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek, seal_statement
from treaty.protocol.study import Phase, Study
from treaty.provenance.verify import verify_bundle
from treaty.studies.plan import plan_digest

REVEALING = RoundPhase.REVEALING
A, B, C, D = SITES
FIVE = (*SITES, MemberId("thur"))
SIX = (*FIVE, MemberId("wigger"))
GONE = ("thur", "wigger")

Step = tuple[Callable[[Study], bool], Callable[[RestartableFederation], object]]


def lose(*names: str) -> Callable[[RestartableFederation], None]:
    """Cut `names` off from the engine."""

    def act(federation: RestartableFederation) -> None:
        for name in names:
            federation.network.sever(MemberId(name))

    return act


def heal(*names: str) -> Callable[[RestartableFederation], None]:
    """Connect `names` again."""

    def act(federation: RestartableFederation) -> None:
        for name in names:
            federation.network.heal(MemberId(name))

    return act


def abandoned(count: int) -> Callable[[Study], bool]:
    """The moment when `count` rounds were abandoned."""
    return lambda study: sum(one.phase is RoundPhase.ABANDONED for one in study.rounds) >= count


Row = tuple[tuple[Step, ...], list[int] | None]
STORIES: dict[str, Row] = {
    "silent-before-its-input": (
        ((in_round(2), lose(B)), (after_rounds(3), heal(B))),
        [4, 4, 3, 4, 4, 4],
    ),
    "silent-for-good": (((in_round(2), lose(B)),), [4, 4, 3, 3, 3, 3]),
    "silent-between-input-and-answer": (
        ((in_round(2, REVEALING), lose(B)), (after_rounds(3), heal(B))),
        [4, 4, 4, 4, 4, 4],
    ),
    "back-at-the-next-epoch": (
        ((lambda study: True, lose(B)), (after_rounds(2), heal(B))),
        [3, 3, 3, 3, 4, 4],
    ),
    "one-below-and-back": (
        ((in_round(2), lose(B, C)), (abandoned(2), heal(C))),
        [4, 4, 3, 3, 3, 3],
    ),
    "one-below-for-good": (((in_round(2), lose(B, C)),), None),
    "two-lost-after-their-inputs-and-back": (
        ((in_round(2, REVEALING), lose(B, C)), (abandoned(1), heal(B, C))),
        [4, 4, 4, 4, 4, 4],
    ),
    "two-lost-after-their-inputs-one-back": (
        ((in_round(2, REVEALING), lose(B, C)), (abandoned(1), heal(B))),
        None,
    ),
    "everybody-lost": (((in_round(2), lose(A, B, C, D)),), None),
}
"""Name, steps, and over how many members the sums are; None where the study halts."""


@pytest.mark.parametrize("name", STORIES)
def test_members_that_fall_silent(tmp_path: Path, name: str) -> None:
    """Down to `min_survivors` the study goes on; below it halts with a code, never with a sum."""
    steps, expected = STORIES[name]
    federation = opened(tmp_path / "federation", slots_per_epoch=4)
    story = Story(federation, *((moment, _act(act, federation)) for moment, act in steps))
    study = whole_study(federation, story=story)
    assert story.told
    if expected is None:
        assert (study.phase, study.halt_code) == (Phase.HALTED, HaltCode.TOO_FEW_MEMBERS)
        assert study.final_model is None and sums(study) == [4, 4]
    else:
        assert study.phase is Phase.COMPLETED and sums(study) == expected
        verify_bundle(federation.bundle(), federation.anchor)
    assert min(sums(study)) >= study.group.min_survivors
    assert_said_once(federation)
    assert_no_fork(federation)


def test_a_question_that_was_answered_is_asked_of_the_same_members_again(tmp_path: Path) -> None:
    """Two sums of one question over sets that differ would show the inputs of the difference."""
    federation = opened(tmp_path / "federation")
    steps = STORIES["two-lost-after-their-inputs-one-back"][0]
    study = whole_study(
        federation,
        story=Story(federation, *((moment, _act(act, federation)) for moment, act in steps)),
    )
    first, *others = study.rounds[2:]
    assert first.reveals and set(first.members_in) == set(SITES)
    assert others and all(not one.reveals and not one.members_in for one in others)


def test_a_site_whose_policy_refuses_the_study_sends_nothing(tmp_path: Path) -> None:
    """Neither keys, nor inputs, nor its figures, which the matrix alone would let leave."""
    write_federation(tmp_path / "federation")
    policy = tmp_path / "federation" / "parties" / B / "policy.toml"
    policy.write_text(policy.read_text().replace('purposes = ["*"]', 'purposes = ["audit"]'))
    federation = opened(tmp_path / "federation")
    study = whole_study(federation)
    assert sums(study) == [3] * 6 and set(study.reports) == {A, C, D}
    assert not [key for key in federation.said() if key[0] == B]
    assert '"study-refused.site-purpose"' in federation.journal_of(B)


def test_few_survivors_confirm_before_they_answer(tmp_path: Path) -> None:
    """With six members and two lost, answers wait for t confirmations of one set."""
    federation = opened(tmp_path / "federation", SIX)
    story = Story(
        federation,
        (in_round(2), _act(lose(*GONE), federation)),
        (after_rounds(3), _act(heal(*GONE), federation)),
    )
    study = whole_study(federation, story=story)
    assert (study.group.min_survivors, study.group.fast_survivors(6)) == (4, 5)
    assert sums(study) == [6, 6, 4, 6, 6, 6]
    assert [len(one.confirmed) for one in study.rounds] == [0, 0, 4, 0, 0, 0]
    assert len(study.rounds[2].reveals) >= study.group.share_threshold
    assert_said_once(federation)
    verify_bundle(federation.bundle(), federation.anchor)


def test_survivors_lost_between_confirmation_and_answer_come_back(tmp_path: Path) -> None:
    """They are bound to one set: the question is asked again of the same four."""
    federation = opened(tmp_path / "federation", SIX)
    story = Story(
        federation,
        (in_round(2), _act(lose(*GONE), federation)),
        (
            lambda study: study.round is not None and len(study.round.confirmed) >= 3,
            _act(lose(A, B), federation),
        ),
        (abandoned(1), _act(heal(A, B, *GONE), federation)),
    )
    study = whole_study(federation, story=story)
    assert story.told and study.phase is Phase.COMPLETED
    assert sums(study) == [6, 6, 4, 6, 6, 6]
    assert study.rounds[2].members_in == study.rounds[3].members_in == SITES
    assert_said_once(federation)


# --- decisions --------------------------------------------------------------------------------


def propose(
    federation: RestartableFederation, action: Action, subject: Digest, target: str | None = None
) -> tuple[bytes, Digest]:
    """Return a proposal of the first member, and its identity."""
    body = ProposalOpened(
        charter=federation.coordinator.state.members.directory.charter,
        author=A,
        action=action.value,
        subject=subject,
        target=target,
    )
    statement = seal_statement(body, federation.officer(A))
    return statement, sha256(statement)


def vote(federation: RestartableFederation, proposal: Digest, voters: tuple[str, ...]) -> None:
    """Let the officers of `voters` approve."""
    for name in voters:
        body = BallotCast(
            charter=federation.coordinator.state.members.directory.charter,
            author=name,
            proposal=proposal,
            choice="approve",
        )
        member = MemberId(name)
        federation.participants[member].submit(seal_statement(body, federation.officer(member)))


def decided_in_round(
    federation: RestartableFederation,
    number: int,
    action: Action,
    subject: Digest,
    voters: tuple[str, ...],
    target: str | None = None,
) -> Story:
    """A story in which `voters` decide something while the sum `number` is collected."""
    statement, identity = propose(federation, action, subject, target)
    return Story(
        federation,
        (in_round(number), lambda: federation.participants[A].submit(statement)),
        (
            lambda study: identity in federation.coordinator.state.proposals,
            lambda: vote(federation, identity, voters),
        ),
    )


def suspending(federation: RestartableFederation, silent: bool) -> Story:
    """A story in which four members suspend another, which is silent or takes part."""
    statement, identity = propose(federation, Action.MEMBER_SUSPEND, sha256(b"grounds"), "thur")

    def begin() -> None:
        if silent:
            federation.network.sever(MemberId("thur"))
        federation.participants[A].submit(statement)

    return Story(
        federation,
        (in_round(2), begin),
        (
            lambda study: identity in federation.coordinator.state.proposals,
            lambda: vote(federation, identity, SITES),
        ),
    )


def test_a_member_suspended_during_a_study_is_out_and_the_others_go_on(tmp_path: Path) -> None:
    """Its epoch ends with it; the next one is the others' own, with their thresholds."""
    federation = opened(tmp_path / "federation", (*SITES, *GONE))
    study = whole_study(federation, story=suspending(federation, silent=True))
    assert study.phase is Phase.COMPLETED and study.epochs == 2
    assert study.group.members == (*SITES, "wigger") and study.group.min_survivors == 4
    assert sums(study) == [6, 6, 5, 5, 5, 5]
    assert set(study.reports) == {*SITES, "wigger"}
    assert_said_once(federation)
    verify_bundle(federation.bundle(), federation.anchor)


def test_a_member_suspended_while_it_takes_part_leaves_no_second_answer(tmp_path: Path) -> None:
    """Whatever was answered before binds the question: it goes on, or halts with a code."""
    federation = opened(tmp_path / "federation", (*SITES, *GONE))
    study = whole_study(federation, story=suspending(federation, silent=False))
    assert study.finished and "thur" not in study.group.members
    assert_said_once(federation)
    for query in {one.query for one in study.rounds}:
        asked = [one for one in study.rounds if one.query == query]
        assert len({one.members_in for one in asked if one.reveals}) <= 1


def test_too_few_for_the_matrix_after_a_suspension_halts_the_study(tmp_path: Path) -> None:
    """A charter of five asks for four behind a sum; four members promise only three."""
    federation = opened(tmp_path / "federation", FIVE)
    study = whole_study(federation, story=suspending(federation, silent=True))
    assert (study.phase, study.halt_code) == (Phase.HALTED, HaltCode.TOO_FEW_MEMBERS)
    assert '"declined.exposure"' in federation.journal_of(A)
    assert sums(study) == [5, 5] and study.final_model is None
    assert_said_once(federation)


def test_a_study_that_the_members_halt_asks_nothing_more(tmp_path: Path) -> None:
    """After the decision no round opens, no input leaves, and the code says who decided."""
    federation = opened(tmp_path / "federation")
    plan = small_plan(federation)
    story = decided_in_round(federation, 2, Action.STUDY_HALT, plan_digest(plan), SITES)
    study = whole_study(federation, plan, story)
    assert (study.phase, study.halt_code) == (Phase.HALTED, HaltCode.DECIDED)
    assert study.final_model is None
    contexts = {
        body.context
        for entry in federation.coordinator.entries
        if isinstance(body := peek(entry)[1], MaskedInput)
    }
    assert len(contexts) == len(study.rounds) < 6
    again = federation.run_study(small_plan(federation, "another"), contract())
    assert again.phase is Phase.COMPLETED


def test_a_charter_is_not_amended_while_a_study_runs(tmp_path: Path) -> None:
    """Every mask key is bound to the charter: what all have signed waits for the study's end."""
    federation = opened(tmp_path / "federation")
    following = msgspec.structs.replace(
        federation.charter, version=2, previous=federation.anchor, title="amended"
    )
    data = charter_bytes(following)
    seen: list[int] = []

    def amend() -> None:
        body = CharterPublished(
            charter=sha256(data), author=A, version=2, previous=federation.anchor
        )
        statement = seal_statement(body, *(federation.officer(name) for name in SITES))
        federation.participants[A].submit(statement, {sha256(data): data})

    def look() -> None:
        seen.append(federation.coordinator.state.charter.version)

    study = whole_study(
        federation, story=Story(federation, (in_round(2), amend), (in_round(5), look))
    )
    assert study.phase is Phase.COMPLETED and sums(study) == [4] * 6
    assert seen == [1]
    federation.settle()
    assert federation.coordinator.state.charter == following
    assert {node.state.charter.version for node in federation.participants.values()} == {2}


class _WrongClock:
    """A clock that is three days fast."""

    def now(self) -> Timestamp:
        return Timestamp(1_000 * 3600 * 24 * 3 + _now_ms())


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_members_refuse_a_log_whose_clock_is_days_off(tmp_path: Path) -> None:
    """They keep what they have, sign nothing, and say why in their journals."""
    federation = opened(tmp_path / "federation", clock=_WrongClock())
    study = federation.run_study(small_plan(federation), contract())
    assert (study.phase, study.halt_code) == (Phase.HALTED, HaltCode.TOO_FEW_MEMBERS)
    for name in SITES:
        assert '"refused.clock-skew"' in federation.journal_of(name)
        assert federation.participants[name].size < federation.coordinator.size
    assert not federation.said()


def _act(
    act: Callable[[RestartableFederation], object], federation: RestartableFederation
) -> Callable[[], object]:
    return lambda: act(federation)
