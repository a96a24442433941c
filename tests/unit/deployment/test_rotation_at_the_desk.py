"""`treaty key rotate|accept` and the votes on it: what an officer signs, and what is refused.

Planted and caught: the amendment not signed with the vote, or signed with a rejecting one; a
version that changes more than keys signed unseen; a second call for the same keys; a vote that is
refused because the call is ratified; a vote on what is over; another member's keys approved by who
only proposes them.
"""

from pathlib import Path

import msgspec
import pytest

from tests.desk_rig import kinds, signed
from tests.unit.governance.test_rotation import NOBODY, fresh
from tests.unit.protocol.test_consortium import amend
from tests.worlds import NAMES, World, approval, key, member_keys, runner
from treaty.crypto.canonical import sha256
from treaty.crypto.envelope import encode_base64
from treaty.deployment import desk as desks
from treaty.deployment.desk import Desk
from treaty.deployment.rotating import Rotation
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter, charter_bytes
from treaty.governance.roles import Action
from treaty.governance.rotation import rotated
from treaty.ids import Digest
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import peek, seal_statement
from treaty.wiring import StoredLog

ME, B, C, D = NAMES[:4]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def place(place: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> Path:
    """A member's directory, with the world as its store."""
    monkeypatch.setattr(desks, "stored_log", lambda _: _Log(world))
    return place


class _Log:
    """The member's store: the documents of the world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> StoredLog:
        return StoredLog((), "", self._world.find, lambda _: True)

    def __exit__(self, *_: object) -> None:
        return None


def desk(place: Path, world: World) -> Desk:
    return Desk(place, world.state, place / "key.json")


def version(world: World, name: str = B) -> Charter:
    return rotated(world.state.charter, name, fresh(name, "runner"), suspended=NOBODY)


def request(charter: Charter, name: str = B) -> bytes:
    statement = seal_statement(charter_statement(charter), key(f"{name} new runner"))
    made = Rotation(member=name, charter=charter, statement=encode_base64(statement))
    return desks.canonical.encode(made)


def call(world: World, charter: Charter, by: str = B) -> Digest:
    number = world.propose(Action.KEY_ROTATE, world.keep(charter_bytes(charter)))
    world.vote(number, [by])
    return number


def test_who_proposes_its_own_keys_signs_everything_that_it_can(place: Path, world: World) -> None:
    charter = version(world, ME)
    number = desk(place, world).propose_rotation(request(charter, ME))
    assert desk(place, world).propose_rotation(request(charter, ME)) == number
    proof, question, own, ballot = signed(place)
    assert kinds([proof, question, own, ballot]) == [
        *("CharterPublished", "ProposalOpened", "CharterPublished", "BallotCast")
    ]
    assert own == seal_statement(charter_statement(charter), approval(ME))
    world.keep(charter_bytes(charter))
    world.offer(question)
    world.offer(ballot)
    # Once more: the call stands, and is answered.
    assert desk(place, world).propose_rotation(request(charter, ME)) == number
    assert kinds(signed(place)) == ["CharterPublished"]


def test_who_proposes_the_keys_of_another_has_approved_nothing(place: Path, world: World) -> None:
    """A request in the name of a member is anybody's to write: its keys are compared first."""
    charter = version(world)
    number = desk(place, world).propose_rotation(request(charter))
    proof, question = signed(place)
    assert kinds([proof, question]) == ["CharterPublished", "ProposalOpened"]
    assert proof == seal_statement(charter_statement(charter), key(f"{B} new runner"))
    world.keep(charter_bytes(charter))
    world.offer(question)
    assert desk(place, world).propose_rotation(request(charter)) == number
    assert kinds(signed(place)) == ["CharterPublished"]
    desk(place, world).vote(number, "approve")
    assert kinds(signed(place)) == ["CharterPublished", "BallotCast"]


def test_an_approving_vote_signs_the_version_although_the_call_is_ratified(
    place: Path, world: World
) -> None:
    charter = version(world)
    number = call(world, charter)
    desk(place, world).vote(number, "approve")
    part, _ = signed(place)
    body = peek(part)[1]
    assert isinstance(body, CharterPublished) and body.charter == sha256(charter_bytes(charter))
    desk(place, world).vote(number, "reject")
    assert kinds(signed(place)) == ["BallotCast"]
    world.publish(charter, [*(approval(name) for name in (B, C, D)), key(f"{B} new runner")])
    with pytest.raises(UsageError, match="no vote counts now"):
        desk(place, world).vote(number, "approve")


def test_what_changes_more_than_keys_is_not_signed(place: Path, world: World) -> None:
    """Neither a hidden change in the version, nor one that is about another version."""
    hidden = msgspec.structs.replace(version(world), title="Second")
    for charter, code in (
        (hidden, "not-a-rotation"),
        (msgspec.structs.replace(version(world), previous="0" * 64), "stale-rotation"),
    ):
        number = call(world, charter)
        with pytest.raises(PolicyError) as caught:
            desk(place, world).vote(number, "approve")
        assert caught.value.code == code
        desk(place, world).vote(number, "reject")
        assert kinds(signed(place)) == ["BallotCast"]
        with pytest.raises(PolicyError) as caught:
            desk(place, world).propose_rotation(request(charter))
        assert caught.value.code == code and signed(place) == []


def test_the_keys_of_a_suspended_member_stay(place: Path, world: World) -> None:
    world.propose_and_suspend(B)
    charter = rotated(world.state.charter, B, fresh(B, "runner"), suspended=frozenset({B}))  # type: ignore[arg-type]  # a member's name
    with pytest.raises(PolicyError) as caught:
        desk(place, world).propose_rotation(request(charter))
    assert caught.value.code == "suspended" and signed(place) == []


def test_an_expired_charter_or_one_without_the_action_takes_no_call(
    place: Path, world: World
) -> None:
    begin = world.state
    world.state = msgspec.structs.replace(begin, at=begin.charter.expires)
    with pytest.raises(PolicyError) as caught:
        desk(place, world).propose_rotation(request(version(world)))
    assert caught.value.code == "expired"
    world.state = begin
    decisions = dict(begin.charter.decisions)
    del decisions[Action.KEY_ROTATE]
    amend(world, decisions=decisions)
    with pytest.raises(PolicyError) as caught:
        desk(place, world).propose_rotation(request(version(world)))
    assert caught.value.code == "not-listed" and signed(place) == []


def test_keys_of_a_suspended_member_are_not_voted_in_either(place: Path, world: World) -> None:
    """Whoever proposes them, and with whatever software."""
    world.propose_and_suspend(D)
    out = world.state.members.history.suspended
    charter = rotated(world.state.charter, D, fresh(D, "runner"), suspended=out)
    number = call(world, charter)
    with pytest.raises(PolicyError) as caught:
        desk(place, world).vote(number, "approve")
    assert caught.value.code == "suspended" and signed(place) == []


def test_a_key_that_was_given_up_is_neither_voted_in_nor_accepted(
    place: Path, world: World
) -> None:
    """Its thief asks for it, with a proof that it has it."""
    signers = [*(approval(name) for name in (B, C, D)), key(f"{B} new runner")]
    world.publish(version(world), signers)
    charter = rotated(world.state.charter, B, member_keys(B), suspended=NOBODY)
    statement = seal_statement(charter_statement(charter), runner(B))
    made = Rotation(member=B, charter=charter, statement=encode_base64(statement))
    with pytest.raises(PolicyError) as caught:
        desk(place, world).propose_rotation(desks.canonical.encode(made))
    assert caught.value.code == "retired-key" and signed(place) == []
    number = call(world, charter)
    with pytest.raises(PolicyError) as caught:
        desk(place, world).vote(number, "approve")
    assert caught.value.code == "retired-key" and signed(place) == []
