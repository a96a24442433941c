"""Signatures of a release meet at the coordinator, durable, and become one entry when complete.

Planted and caught: a signature by somebody who may not release, kept; one over other dependencies,
over another study's model, or over a past charter, kept; what was collected lost by a restart; an
entry without the stewards' ballots, or with the signature of one who said no or is suspended since;
one steward's two keys counted twice; a site that sends for ever; a whole statement that is kept
back; the same refusal noted at every turn; an amendment that comes first and voids a whole release.
"""

from collections.abc import Iterator

import msgspec
import pytest

from tests.unit.protocol.test_consortium import amend
from tests.unit.protocol.test_model_release import A, B, C, D, ask
from tests.worlds import COORDINATOR, HUB, World, approval, key, member_keys, runner
from treaty.crypto.keys import SigningKey
from treaty.governance.charter import Charter, charter_bytes
from treaty.governance.roles import Action, Role
from treaty.governance.rotation import rotated
from treaty.governance.terms import DecisionRule
from treaty.ids import MemberId
from treaty.node.intake import Pending
from treaty.node.joint_statements import JointStatements, is_settled
from treaty.protocol.membership import charter_statement
from treaty.protocol.messages import ReleaseProvenance, release_provenance
from treaty.protocol.model_release import release_body
from treaty.protocol.statements import peek, seal_statement
from treaty.stores.memory import MemoryStore
from treaty.stores.system import MemoryJournal

SECOND = key("second approval key of aare")


def edited(charter: Charter) -> Charter:
    """Two keys for the first member; the last is no steward."""
    members = dict(charter.members)
    first, last = members[A], members[D]
    keys = msgspec.structs.replace(first.keys, approval=(*first.keys.approval, SECOND.public.hex))
    members[A] = msgspec.structs.replace(first, keys=keys)
    roles = tuple(role for role in last.roles if role is not Role.STEWARD)
    members[D] = msgspec.structs.replace(last, roles=roles)
    return msgspec.structs.replace(charter, members=members)


class TwoKeys(World):
    """A world in which the first member has two approval keys, and the last is no steward."""

    def publish(self, charter, signers):  # type: ignore[no-untyped-def]  # as in World
        return super().publish(charter, [*signers, SECOND] if not self.entries else signers)


@pytest.fixture(scope="module")
def completed() -> World:
    world = TwoKeys(edit=edited)
    world.start()
    world.run_study()
    world.complete()
    return world


@pytest.fixture
def world(completed: World) -> Iterator[World]:
    before, size = completed.state, len(completed.entries)
    yield completed
    completed.state = before
    del completed.entries[size:]


class Desk:
    """The coordinator's collection over a store, and what its journal says."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        self.world = world
        self.store = store or MemoryStore()
        self.journal = MemoryJournal()
        self.joint = JointStatements(self.store, self.journal, MemberId(HUB), COORDINATOR)

    def send(self, *keys: SigningKey, body: ReleaseProvenance | None = None) -> bool:
        """Let a member bring a release that `keys` signed; say whether it was taken for a part."""
        statement = part(self.world, *keys, body=body)
        item = Pending(statement, {}, MemberId(A))
        return self.joint.takes(item, peek(statement)[1], self.world.state)

    def ready(self) -> list[Pending]:
        return self.joint.ready(self.world.state)

    def codes(self) -> list[str]:
        return [event for event, _ in self.journal.lines]


def part(world: World, *keys: SigningKey, body: ReleaseProvenance | None = None) -> bytes:
    return seal_statement(body or release_body(world.under, HUB, world.study), *keys)


def test_parts_become_one_entry_when_those_who_approved_have_signed(world: World) -> None:
    """In any order with the ballots, each part durable by itself."""
    desk = Desk(world)
    assert desk.send(approval(B)) and desk.ready() == []
    number = ask(world)
    world.vote(number, [B, C])
    assert desk.ready() == []
    desk = Desk(world, desk.store)
    desk.send(approval(C))
    desk.send(approval(C))
    [entry] = Desk(world, desk.store).ready()
    assert entry.sender == HUB and entry.blobs == {}
    world.offer(entry.statement)
    assert set(world.state.releases) == {world.study.final_model}
    assert Desk(world, desk.store).ready() == []
    kept = desk.store.get("releases")
    assert kept is not None and len(kept) < 100
    assert desk.codes() == []


def test_without_ballots_parts_stay_parts(world: World) -> None:
    """Before the question, while it is open, and after it failed."""
    desk = Desk(world)
    desk.send(approval(A))
    desk.send(approval(B))
    assert desk.ready() == []
    number = ask(world)
    world.vote(number, [A])
    assert desk.ready() == []
    world.vote(number, [B, C], "reject")
    assert desk.ready() == []


def test_only_who_approved_and_is_in_good_standing_is_among_the_signers(world: World) -> None:
    first = ask(world)
    world.vote(first, [A])
    desk = Desk(world)
    desk.send(approval(A))
    world.vote(first, [B, C], "reject")
    second = ask(world)
    world.vote(second, [A], "reject")
    world.vote(second, [B, C])
    desk.send(approval(B))
    assert desk.ready() == []
    desk.send(approval(C))
    [entry] = desk.ready()
    signers = {keyid for keyid, _ in peek(entry.statement)[0].signatures}
    assert signers == {approval(B).public.keyid, approval(C).public.keyid}
    world.propose_and_suspend(C, [A, B])
    assert desk.ready() == []
    desk.send(approval(C))
    assert desk.codes() == ["release-refused.suspended"]


def test_two_keys_of_one_steward_are_one_steward(world: World) -> None:
    number = ask(world)
    world.vote(number, [A, B])
    desk = Desk(world)
    # As many signatures as the charter asks stewards: whole, so the fold refuses it.
    assert not desk.send(approval(A), SECOND)
    with world.refuses("sub-quorum"):
        world.offer(part(world, approval(A), SECOND))
    desk.send(approval(A))
    desk.send(SECOND)
    assert desk.ready() == [] and desk.codes() == []
    desk.send(approval(B))
    [entry] = desk.ready()
    world.offer(entry.statement)


def test_what_has_no_business_there_is_refused_and_not_kept(world: World) -> None:
    desk = Desk(world)
    model, study = world.study.final_model, world.study.identity
    other = release_provenance(world.under, HUB, study, "0" * 64, (("plan", study),))
    wider = release_provenance(world.under, HUB, study, str(model), (("plan", study), ("x", study)))
    nowhere = release_provenance(world.under, HUB, "0" * 64, str(model), ())
    built = release_provenance(world.under, A, study, str(model), ())
    past = release_provenance("0" * 64, HUB, study, str(model), (("plan", study),))
    for body in (other, wider, nowhere, built, past):
        assert desk.send(approval(A), body=body)
    for stranger in (key("a stranger"), runner(A), approval(D)):
        assert desk.send(stranger)
    assert [code.partition(".")[2] for code in desk.codes()] == [
        *("wrong-model", "wrong-release", "no-study", "wrong-author", "wrong-charter"),
        *("unknown-key", "wrong-key-kind", "wrong-role"),
    ]
    assert desk.store.get("releases") is None
    ballot = world.entries[2]
    assert not desk.joint.takes(Pending(ballot, {}, MemberId(A)), peek(ballot)[1], world.state)


def test_a_part_ends_with_its_charter(world: World) -> None:
    number = ask(world)
    world.vote(number, [A, B])
    desk = Desk(world)
    desk.send(approval(A))
    statement = part(world, approval(A))
    assert not is_settled(statement, world.state)
    ballot = world.entries[-1]
    assert not is_settled(ballot, world.state)
    amend(world, title="Second")
    # Neither can enter the log any more, so neither is sent for ever.
    assert is_settled(statement, world.state) and is_settled(ballot, world.state)
    assert desk.ready() == []
    assert b'statements":{}' in (desk.store.get("releases") or b"")
    world.vote(ask(world), [A, B])
    desk.send(approval(A))
    desk.send(approval(B))
    [entry] = desk.ready()
    fresh = part(world, approval(A))
    assert not is_settled(fresh, world.state)
    world.offer(entry.statement)
    assert is_settled(fresh, world.state)
    assert desk.send(approval(A)) and desk.codes() == ["release-refused.replayed"]


def test_an_obstacle_is_noted_once(world: World) -> None:
    world.vote(ask(world), [A, B])
    desk = Desk(world)
    desk.send(approval(A))
    desk.send(approval(B))
    decisions = dict(world.state.charter.decisions)
    held = world.state
    world.state = msgspec.structs.replace(held, at=world.state.charter.expires)
    assert desk.ready() == [] and desk.ready() == []
    world.state = msgspec.structs.replace(world.state, size=world.state.size + 1)
    assert desk.ready() == []
    assert desk.codes() == ["release-waits.expired"]
    world.state = held
    assert decisions[Action.RELEASE_APPROVE] == DecisionRule(role=Role.STEWARD, threshold=2)


def test_where_one_steward_is_enough_the_ballot_is_waited_for(world: World) -> None:
    """Without a question a whole statement passes; with one its signature waits for the ballot."""
    decisions = dict(world.state.charter.decisions)
    decisions[Action.RELEASE_APPROVE] = DecisionRule(role=Role.STEWARD, threshold=1)
    amend(world, decisions=decisions)
    desk = Desk(world)
    assert not desk.send(approval(A))
    number = ask(world)
    assert desk.send(approval(A)) and desk.ready() == []
    world.vote(number, [A])
    [entry] = desk.ready()
    world.offer(entry.statement)


def test_a_whole_release_enters_before_an_amendment_that_is_ready_too(world: World) -> None:
    """The other way round the charter would change under it, and the stewards be asked anew."""
    desk = Desk(world)
    world.vote(ask(world), [B, C])
    desk.send(approval(B), approval(C))
    desk.send(approval(B))
    desk.send(approval(C))
    new = key("new runner of birs")
    keys = msgspec.structs.replace(member_keys(B), runner=(new.public.hex,))
    charter = rotated(world.state.charter, B, keys, suspended=frozenset())
    document = charter_bytes(charter)
    statement = seal_statement(charter_statement(charter), *map(approval, (A, B, C)), new)
    item = Pending(statement, {world.keep(document): document}, MemberId(B))
    assert desk.joint.takes(item, peek(statement)[1], world.state)
    first, second = desk.ready()
    for entry in (first, second):
        world.offer(entry.statement)
    assert set(world.state.releases) == {world.study.final_model}
    assert world.state.charter.version == 2
