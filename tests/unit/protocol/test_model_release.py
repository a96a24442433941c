"""Stewards are asked by a question in the log; only who approved it releases a model, and once.

Planted and caught: a signature given for a question that failed, used for the next one; a release
beside a question that is still open; a steward who said no among the signers; an approval that
outlives the charter or its voter's suspension; a question about a model that is not there, or
released; a model taken back twice, or by nobody's leave; a withdrawn model that counts as released;
a rejected question that is waited for; a question left open after the release.
"""

from collections.abc import Iterable

import pytest

from tests.unit.protocol.test_consortium import amend
from tests.worlds import HUB, NAMES, World, approval, digest, runner
from treaty.cli.release_view import release_status
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol.model_release import release_body
from treaty.protocol.proposal import Phase
from treaty.protocol.statements import seal_statement
from treaty.protocol.waiting import RELEASE, awaited, unreleased

A, B, C, D = NAMES[:4]


@pytest.fixture(scope="module")
def completed() -> World:
    world = World()
    world.start()
    world.run_study()
    world.complete()
    return world


@pytest.fixture
def world(completed: World) -> World:
    """Four stewards of whom two release; one study is completed. A copy for each test."""
    made = World()
    made.state, made.entries = completed.state, list(completed.entries)
    made.documents = dict(completed.documents)
    return made


def sign(world: World, signers: Iterable[str]) -> None:
    body = release_body(world.under, HUB, world.study)
    world.offer(seal_statement(body, *(approval(name) for name in signers)))


def ask(world: World) -> Digest:
    return world.propose(Action.RELEASE_APPROVE, world.study.identity)


def waits(world: World) -> tuple[str, tuple[str, ...]]:
    found = awaited(world.state)
    assert found is not None
    return found.what, found.parties


def stage(world: World) -> str:
    found = release_status(world.state, world.study)
    assert found is not None
    return found.stage


def test_from_the_question_to_the_release(world: World) -> None:
    """The log says at every step who has not answered; signatures alone come last."""
    assert waits(world) == (RELEASE, (A, B, C, D)) and stage(world) == "not asked"
    number = ask(world)
    assert waits(world) == ("ballots on release.approve", (A, B, C, D))
    world.vote(number, [B])
    found = release_status(world.state, world.study)
    assert found is not None
    assert found.rows() == [
        ("released", "no: 1 of 2 approvals"),
        ("approved", B),
        ("no answer of", f"{A}, {C}, {D}"),
    ]
    with world.refuses("not-approved"):
        sign(world, [A, B])
    world.vote(number, [D])
    assert waits(world) == ("signatures that release the model of study small", (HUB,))
    assert stage(world) == "approved"
    with world.refuses("sub-quorum"):
        sign(world, [B])
    with world.refuses("not-approved"):
        sign(world, [A, B])
    sign(world, [B, D])
    assert world.state.proposals[number].used
    assert awaited(world.state) is None and stage(world) == "released"
    with world.refuses("replayed"):
        sign(world, [B, D])
    with world.refuses("replayed"):
        ask(world)
    assert world.replayed() == world.state


def test_without_a_question_the_signatures_alone_decide(world: World) -> None:
    sign(world, [A, C])
    assert stage(world) == "released"


def test_what_was_signed_in_vain_does_not_count_later(world: World) -> None:
    """A approved the first question, which failed, and says no to the second."""
    first = ask(world)
    world.vote(first, [A])
    world.vote(first, [B, C, D], "reject")
    assert world.state.proposals[first].proposal.phase is Phase.REJECTED
    assert stage(world) == "rejected" and not unreleased(world.state, world.study)
    assert awaited(world.state) is None
    with world.refuses("not-approved"):
        sign(world, [A, B])
    second = ask(world)
    world.vote(second, [A], "reject")
    world.vote(second, [B, C])
    with world.refuses("not-approved"):
        sign(world, [A, B])
    sign(world, [B, C])
    assert stage(world) == "released"


def test_an_equivocators_approval_does_not_count(world: World) -> None:
    number = ask(world)
    world.vote(number, [A, B])
    world.vote(number, [A], "reject")
    with world.refuses("not-approved"):
        sign(world, [A, B])


def test_an_approval_does_not_outlive_its_charter(world: World) -> None:
    number = ask(world)
    world.vote(number, [A, B])
    old = seal_statement(release_body(world.under, HUB, world.study), approval(A), approval(B))
    amend(world, title="Second")
    assert world.state.proposals[number].used and stage(world) == "not asked"
    with world.refuses("wrong-charter"):
        world.offer(old)
    with world.refuses("not-approved"):
        sign(world, [A, B])
    world.vote(ask(world), [A, B])
    sign(world, [A, B])


def test_an_approval_does_not_outlive_its_voters_suspension(world: World) -> None:
    number = ask(world)
    world.vote(number, [A, D])
    begin = world.state, len(world.entries)
    world.propose_and_suspend(C)
    assert not world.state.proposals[number].used
    sign(world, [A, D])
    world.state = begin[0]
    del world.entries[begin[1] :]
    world.propose_and_suspend(D)
    assert world.state.proposals[number].used and stage(world) == "not asked"
    with world.refuses("suspended"):
        sign(world, [A, D])
    with world.refuses("not-approved"):
        sign(world, [A, B])
    again = ask(world)
    assert D not in world.state.proposals[again].proposal.electorate
    world.vote(again, [A, B])
    sign(world, [A, B])


def test_other_questions_lapse_with_the_release(world: World) -> None:
    first, second = ask(world), ask(world)
    world.vote(second, [B])
    world.vote(first, [A, C])
    # The question that is nearest to an approval is the one that is told of.
    assert stage(world) == "approved"
    sign(world, [A, C])
    assert world.state.proposals[second].proposal.phase is Phase.LAPSED
    assert awaited(world.state) is None


def test_only_what_can_be_released_or_taken_back_is_asked() -> None:
    world = World()
    world.start()
    running = world.study.identity
    for action in (Action.RELEASE_APPROVE, Action.RELEASE_ROLLBACK):
        with world.refuses("wrong-model"):
            world.propose(action, running)
        with world.refuses("no-study"):
            world.propose(action, digest("no study"))


def test_a_released_model_is_taken_back_once_and_for_good(world: World) -> None:
    study = world.study.identity
    with world.refuses("wrong-model"):
        world.propose(Action.RELEASE_ROLLBACK, study)
    sign(world, [A, C])
    one, other = (world.propose(Action.RELEASE_ROLLBACK, study) for _ in range(2))
    assert stage(world) == "released"
    world.vote(one, [B])
    assert world.state.withdrawn == {world.study.final_model: len(world.entries) - 1}
    assert world.state.proposals[other].proposal.phase is Phase.LAPSED
    assert stage(world) == "withdrawn" and awaited(world.state) is None
    before = world.state.withdrawn
    world.vote(one, [C])
    assert world.state.withdrawn == before
    with world.refuses("replayed"):
        world.propose(Action.RELEASE_ROLLBACK, study)
    with world.refuses("replayed"):
        ask(world)
    with world.refuses("replayed"):
        sign(world, [A, C])
    assert world.replayed() == world.state


def test_only_approval_keys_of_stewards_release(world: World) -> None:
    body = release_body(world.under, HUB, world.study)
    with world.refuses("wrong-key-kind"):
        world.offer(seal_statement(body, approval(A), runner(B)))
