"""`treaty release approve|withdraw` and `Study.release`: one command a steward, said no in time.

Planted and caught: a ballot without the signature; a signature without a ballot; a second question
where one stands; a second ballot; the signature for a rejecting ballot; a desk that signs for whom
the charter does not name a steward; a halted, running or unknown study; a wait without an end; a
refusal that is waited out.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.desk_rig import kinds, signed
from tests.unit.deployment.test_lead import Log
from tests.unit.protocol.test_consortium import amend
from tests.worlds import HUB, NAMES, World, approval
from treaty.deployment.desk import Desk
from treaty.deployment.lead import StudyLead, Waiting
from treaty.errors import PolicyError, ResourceError, UsageError
from treaty.governance.roles import Action, Role
from treaty.governance.terms import DecisionRule
from treaty.ids import Digest
from treaty.protocol.messages import HaltCode, ReleaseProvenance, StudyHalted
from treaty.protocol.model_release import release_body
from treaty.protocol.statements import peek, seal_statement

ME, B, C, D = NAMES[:4]


@pytest.fixture(scope="module")
def completed() -> World:
    made = World()
    made.start()
    made.run_study()
    made.complete()
    return made


@pytest.fixture
def world(completed: World) -> Iterator[World]:
    before, size = completed.state, len(completed.entries)
    yield completed
    completed.state = before
    del completed.entries[size:]


def desk(place: Path, world: World) -> Desk:
    return Desk(place, world.state, place / "key.json")


def send(place: Path, world: World, *others: str) -> None:
    """Let the log take what waits; the release with the signatures of `others` too."""
    for statement in signed(place):
        if not isinstance(peek(statement)[1], ReleaseProvenance):
            world.offer(statement)
    if others:
        body = release_body(world.under, HUB, world.study)
        world.offer(seal_statement(body, approval(ME), *map(approval, others)))


def test_the_first_steward_asks_signs_and_answers_with_one_command(
    place: Path, world: World
) -> None:
    number = desk(place, world).approve_release("small")
    # The same command before anything was sent writes the same files.
    assert desk(place, world).approve_release(world.study.identity[:8]) == number
    question, part, ballot = signed(place)
    assert kinds([question, part, ballot]) == ["ProposalOpened", "ReleaseProvenance", "BallotCast"]
    assert part == seal_statement(release_body(world.under, HUB, world.study), approval(ME))
    world.offer(question)
    world.offer(ballot)
    with pytest.raises(UsageError, match=f"has answered: waits for {B}, {C}, {D}"):
        desk(place, world).approve_release("small")
    world.vote(number, [B])
    with pytest.raises(UsageError, match="enough stewards have approved"):
        desk(place, world).approve_release("small")
    world.offer(
        seal_statement(release_body(world.under, HUB, world.study), *map(approval, (ME, B)))
    )
    with pytest.raises(UsageError, match="is released already"):
        desk(place, world).approve_release("small")
    assert signed(place) == []


def test_the_others_answer_the_question_that_stands(place: Path, world: World) -> None:
    """By either command, with the same statements; a rejecting ballot signs nothing."""
    number = world.propose(Action.RELEASE_APPROVE, world.study.identity)
    assert desk(place, world).approve_release("small") == number
    ways = [signed(place)]
    desk(place, world).vote(number, "approve")
    ways.append(signed(place))
    assert ways[0] == ways[1] and kinds(ways[0]) == ["ReleaseProvenance", "BallotCast"]
    desk(place, world).vote(number, "reject")
    assert kinds(signed(place)) == ["BallotCast"]


def test_after_a_no_another_question_can_be_asked(place: Path, world: World) -> None:
    first = world.propose(Action.RELEASE_APPROVE, world.study.identity)
    world.vote(first, [B, C, D], "reject")
    second = desk(place, world).approve_release("small")
    assert second != first
    send(place, world)
    assert ME in world.state.proposals[second].proposal.ballots


def test_who_may_not_release_signs_nothing(place: Path, world: World) -> None:
    acts: list[Callable[[Desk], object]] = [
        lambda one: one.approve_release("small"),
        lambda one: one.ask_release("small"),
        lambda one: one.withdraw_release("small"),
    ]

    def refused(code: str) -> None:
        for act in acts:
            with pytest.raises(PolicyError) as caught:
                act(desk(place, world))
            assert caught.value.code == code
        assert signed(place) == []

    begin = world.state
    members = dict(world.state.charter.members)
    roles = tuple(one for one in members[ME].roles if one is not Role.STEWARD)
    members[ME] = msgspec.structs.replace(members[ME], roles=roles)
    amend(world, members=members)
    refused("wrong-role")
    world.state = begin
    decisions = dict(world.state.charter.decisions)
    del decisions[Action.RELEASE_APPROVE], decisions[Action.RELEASE_ROLLBACK]
    amend(world, decisions=decisions)
    refused("not-listed")
    world.state = msgspec.structs.replace(begin, at=begin.charter.expires)
    refused("expired")
    world.state = begin
    world.propose_and_suspend(ME)
    refused("suspended")


def test_a_study_without_a_model_releases_nothing(place: Path) -> None:
    world = World()
    world.start()
    for act in (desk(place, world).approve_release, desk(place, world).withdraw_release):
        with pytest.raises(PolicyError) as caught:
            act("small")
        assert caught.value.code == "study-runs"
        with pytest.raises(UsageError, match="0 studies are called other"):
            act("other")
        with pytest.raises(UsageError, match="0 studies are called "):
            act("")
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
    with pytest.raises(PolicyError, match="too-few-members") as caught:
        desk(place, world).approve_release("small")
    assert caught.value.code == "halted" and signed(place) == []


def test_a_model_is_taken_back_by_one_command(place: Path, world: World) -> None:
    with pytest.raises(PolicyError) as caught:
        desk(place, world).withdraw_release("small")
    assert caught.value.code == "not-released"
    desk(place, world).approve_release("small")
    send(place, world)
    world.vote(next(reversed(world.state.proposals)), [B])
    world.offer(
        seal_statement(release_body(world.under, HUB, world.study), *map(approval, (ME, B)))
    )
    desk(place, world).withdraw_release("small")
    assert len(list((place / "outbox").iterdir())) == 2
    send(place, world)
    assert list(world.state.withdrawn) == [world.study.final_model]
    with pytest.raises(UsageError, match="withdrawn already"):
        desk(place, world).withdraw_release("small")
    with pytest.raises(UsageError, match="is released already"):
        desk(place, world).approve_release("small")


def test_where_two_must_take_it_back_each_answers_once(place: Path, world: World) -> None:
    decisions = dict(world.state.charter.decisions)
    decisions[Action.RELEASE_ROLLBACK] = DecisionRule(role=Role.STEWARD, threshold=2)
    amend(world, decisions=decisions)
    world.offer(seal_statement(release_body(world.under, HUB, world.study), *map(approval, (B, C))))
    number = desk(place, world).withdraw_release("small")
    send(place, world)
    assert desk(place, world).withdraw_release("small") == number and signed(place) == []
    world.vote(number, [B])
    assert list(world.state.withdrawn) == [world.study.final_model]


class Lead:
    """A lead whose waits let the world's acts happen."""

    def __init__(
        self, place: Path, world: World, acts: Sequence[Callable[[], object]], votes: bool
    ):
        self.said: list[str] = []
        self.at = 0.0
        self.log = Log(world, acts)
        self._lead = StudyLead(
            self.log,
            lambda state: Desk(place, state, place / "key.json"),
            self.said.append,
            votes=votes,
            waiting=Waiting(30, 1.0, lambda: self.at, self.sleep),
        )

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    def release(self) -> None:
        self._lead.release(self.log.world.study.identity)


def asked(world: World) -> Digest:
    return next(reversed(world.state.proposals))


def test_a_script_waits_until_its_study_is_released(place: Path, world: World) -> None:
    acts = [
        lambda: send(place, world),
        lambda: world.vote(asked(world), [B]),
        lambda: send(place, world, B),
    ]
    lead = Lead(place, world, acts, votes=True)
    lead.release()
    assert lead.said == [
        f"the release of study small waits for its question to be logged, by {HUB}",
        f"the release of study small waits for answers from {B}, {C}, {D}",
        f"the release of study small waits for signatures of those who approved, at {HUB}",
    ]
    again = Lead(place, world, [], votes=True)
    again.release()
    assert again.said == [] and signed(place) == []


def test_a_script_that_does_not_vote_only_asks_and_takes_up_what_stands(
    place: Path, world: World
) -> None:
    lead = Lead(place, world, [], votes=False)
    with pytest.raises(ResourceError, match="its question to be logged"):
        lead.release()
    (question,) = signed(place)
    assert kinds([question]) == ["ProposalOpened"]
    world.offer(question)
    for votes in (False, True):
        lead = Lead(place, world, [], votes=votes)
        with pytest.raises(ResourceError, match=r"is not released after 3\d s: .* answers from"):
            lead.release()
    assert kinds(signed(place)) == ["ReleaseProvenance", "BallotCast"]
    world.vote(asked(world), [ME])
    lead = Lead(place, world, [lambda: world.vote(asked(world), [B, C, D], "reject")], votes=True)
    with pytest.raises(PolicyError, match=r"without aare\.example|for release\.approve") as caught:
        lead.release()
    assert caught.value.code == "rejected" and lead.at < 5


def test_a_question_that_is_carried_out_is_not_asked_again(place: Path, world: World) -> None:
    number = world.propose(Action.RELEASE_APPROVE, world.study.identity)
    world.vote(number, [B, C])
    for votes in (False, True):
        lead = Lead(place, world, [], votes=votes)
        with pytest.raises(ResourceError, match="signatures of those who approved"):
            lead.release()
    assert signed(place) == []


def test_a_process_that_does_not_run_is_said(place: Path, world: World) -> None:
    lead = Lead(place, world, [], votes=False)
    lead.log.is_running = False
    with pytest.raises(ResourceError, match="does not run"):
        lead.release()


def test_a_steward_that_approves_and_withholds_its_signature_stops_nobody(
    place: Path, world: World
) -> None:
    """The others approve too, although the question is ratified, and sign without it."""
    number = world.propose(Action.RELEASE_APPROVE, world.study.identity)
    world.vote(number, [B, C])
    assert desk(place, world).approve_release("small") == number
    assert kinds(signed(place)) == ["ReleaseProvenance", "BallotCast"]
    desk(place, world).vote(number, "approve")
    part, ballot = signed(place)
    world.offer(ballot)
    with pytest.raises(UsageError, match="or other stewards approve too"):
        desk(place, world).approve_release("small")
    body = release_body(world.under, HUB, world.study)
    assert part == seal_statement(body, approval(ME))
    with world.refuses("not-approved"):
        world.offer(seal_statement(body, approval(ME), approval(D)))
    world.offer(seal_statement(body, approval(ME), approval(C)))
    assert world.study.final_model in world.state.releases
    with pytest.raises(UsageError, match="a ballot is final"):
        desk(place, world).vote(number, "approve")
