"""A call for new keys, its signatures, and what ends it, as the log tells it.

Planted and caught: a call that stays open when another version took effect, or a suspension changed
what it says; members that have signed waited for; a call that is waited for when all have answered.
"""

import pytest

from tests.unit.governance.test_rotation import fresh
from tests.unit.protocol.test_consortium import amend
from tests.worlds import HUB, NAMES, World, approval, digest, key, runner
from treaty.governance.charter import charter_bytes
from treaty.governance.roles import Action
from treaty.governance.rotation import rotated
from treaty.ids import Digest
from treaty.protocol.proposal import Phase
from treaty.protocol.waiting import awaited

A, B, C, D = NAMES[:4]


@pytest.fixture
def world() -> World:
    return World()


def call(world: World) -> Digest:
    charter = rotated(world.state.charter, A, fresh(A, "runner"), suspended=frozenset())
    number = world.propose(Action.KEY_ROTATE, world.keep(charter_bytes(charter)))
    world.vote(number, [A])
    return number


def waits(world: World) -> tuple[str, tuple[str, ...]]:
    found = awaited(world.state)
    assert found is not None
    return found.what, found.parties


def test_the_log_says_whose_signature_is_missing(world: World) -> None:
    """One vote is the call, three are the amendment."""
    number = call(world)
    assert world.state.proposals[number].rotates
    assert waits(world) == ("signatures of new keys", (B, C, D))
    world.vote(number, [C])
    assert waits(world) == ("signatures of new keys", (B, D))
    world.vote(number, [D])
    assert waits(world) == ("signatures of new keys", (HUB,))
    charter = rotated(world.state.charter, A, fresh(A, "runner"), suspended=frozenset())
    signers = [*(approval(name) for name in (A, C, D)), key(f"{A} new runner")]
    with world.refuses("no-possession"):
        world.publish(charter, signers[:3])
    with world.refuses("sub-quorum"):
        world.publish(charter, [signers[0], signers[1], signers[3]])
    with world.refuses("unknown-key"):
        world.publish(charter, [*signers, runner(A)])
    world.publish(charter, signers)
    assert world.state.proposals[number].used and awaited(world.state) is None
    assert world.replayed() == world.state


def test_nobody_is_waited_for_when_all_have_answered_and_too_few_agree(world: World) -> None:
    number = call(world)
    world.vote(number, [B, C, D], "reject")
    assert world.state.proposals[number].rotates
    assert awaited(world.state) is None


def test_another_version_or_a_suspension_ends_the_call(world: World) -> None:
    number, unanswered = call(world), world.propose(Action.KEY_ROTATE, digest("of another"))
    world.propose_and_suspend(D)
    assert world.state.proposals[number].used and awaited(world.state) is None
    assert world.state.proposals[unanswered].proposal.phase is Phase.LAPSED
    again = call(world)
    amend(world, title="Second", members=world.state.members.effective.members)
    assert world.state.proposals[again].used and awaited(world.state) is None
    with world.refuses("wrong-target"):
        world.propose(Action.KEY_ROTATE, Digest("0" * 64), target=B)
