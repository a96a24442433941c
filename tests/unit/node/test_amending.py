"""Signatures of an amendment meet at the coordinator, durable, and become one entry when complete.

Planted and caught: a signature by a key that has no business there, a listed one's included; what
was collected lost by a restart; an entry while a study runs; one before the members have accepted
the newcomer; a version that is kept after another took effect; a member that fills the store; a
site that sends for ever; another version or predecessor than the next one's; a charter without
sense kept.
"""

from collections.abc import Mapping

import msgspec
import pytest

from tests.unit.protocol.test_accession import MEMBERS, NEW, accept, joining, own_keys
from tests.worlds import COORDINATOR, HUB, NAMES, World, approval, key, runner
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.governance.charter import Charter, charter_bytes, charter_digest
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.node.amending import Amendments, is_settled
from treaty.node.intake import Pending
from treaty.protocol.messages import CharterPublished, HaltCode, StudyHalted
from treaty.protocol.statements import peek, seal_statement
from treaty.stores.memory import MemoryStore
from treaty.stores.system import MemoryJournal


@pytest.fixture
def world() -> World:
    return World()


class Desk:
    """The coordinator's collection over a store, and what its journal says."""

    def __init__(self, world: World, store: MemoryStore | None = None) -> None:
        self.world = world
        self.store = store or MemoryStore()
        self.journal = MemoryJournal()
        self.amendments = Amendments(self.store, self.journal, MemberId(HUB), COORDINATOR)

    def send(
        self,
        charter: Charter,
        *keys: SigningKey,
        sender: str = MEMBERS[0],
        documents: Mapping[Digest, bytes] | None = None,
    ) -> None:
        """Let `sender` bring signatures of `charter`."""
        data = charter_bytes(charter)
        statement = signed(charter, *keys)
        blobs = {sha256(data): data} if documents is None else documents
        item = Pending(statement, blobs, MemberId(sender))
        assert self.amendments.takes(item, peek(statement)[1], self.world.state)

    def ready(self) -> list[Pending]:
        return self.amendments.ready(self.world.state)

    def codes(self) -> list[str]:
        return [event.rpartition(".")[2] for event, _ in self.journal.lines]


def signed(charter: Charter, *keys: SigningKey) -> bytes:
    body = CharterPublished(
        charter=charter_digest(charter),
        author=HUB,
        version=charter.version,
        previous=charter.previous,
    )
    return seal_statement(body, *keys)


def test_parts_become_one_entry_when_enough_have_signed(world: World) -> None:
    """In any order, each part durable by itself; the entry is what the fold takes."""
    charter = joining(world)
    desk = Desk(world)
    desk.send(charter, *own_keys())
    desk.send(charter, approval(MEMBERS[0]))
    assert desk.ready() == []
    accept(world, charter)
    # Another process goes on with what was collected.
    desk = Desk(world, desk.store)
    desk.send(charter, approval(MEMBERS[2]), sender=MEMBERS[2])
    assert desk.ready() == []
    desk.send(charter, approval(MEMBERS[1]), sender=MEMBERS[1], documents={})
    [entry] = Desk(world, desk.store).ready()
    assert entry.sender == HUB and set(entry.blobs) == {charter_digest(charter)}
    world.keep(charter_bytes(charter))
    world.offer(entry.statement)
    assert NEW in world.state.charter.members
    # What is over is forgotten, in memory and on the disk.
    assert Desk(world, desk.store).ready() == []
    kept = desk.store.get("amendments")
    assert kept is not None and len(kept) < 100


def test_the_members_acceptance_is_waited_for(world: World) -> None:
    charter = joining(world)
    desk = Desk(world)
    desk.send(charter, *own_keys(), *(approval(name) for name in MEMBERS[:3]))
    assert desk.ready() == [] and desk.codes() == ["not-accepted"]
    assert desk.ready() == [] and desk.codes() == ["not-accepted"], "said once"
    accept(world, charter)
    assert len(desk.ready()) == 1


def test_a_running_study_is_not_disturbed(world: World) -> None:
    charter = joining(world)
    accept(world, charter)
    world.start()
    desk = Desk(world)
    desk.send(charter, *own_keys(), *(approval(name) for name in MEMBERS[:3]))
    assert desk.ready() == [] and desk.codes() == []
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
    assert len(desk.ready()) == 1


def test_what_has_no_business_there_is_refused_and_not_kept(world: World) -> None:
    charter = joining(world)
    desk = Desk(world)
    desk.send(charter, key("a stranger"))
    desk.send(charter, runner(MEMBERS[0]))
    desk.send(charter, approval(MEMBERS[0]), documents={})
    stale = accession_after(charter)
    desk.send(stale, approval(MEMBERS[0]))
    for change in ({"version": charter.version + 1}, {"previous": "0" * 64}):
        desk.send(msgspec.structs.replace(charter, **change), approval(MEMBERS[0]))
    twin = msgspec.structs.replace(charter.members[NEW], keys=charter.members[MEMBERS[0]].keys)
    senseless = msgspec.structs.replace(charter, members={**charter.members, NEW: twin})
    desk.send(senseless, approval(MEMBERS[0]))
    assert desk.codes() == [
        "unknown-key",
        "unknown-key",
        "wrong-charter",
        "wrong-previous",
        "wrong-previous",
        "wrong-previous",
        "key-counted-twice",
    ]
    assert desk.store.get("amendments") is None
    assert not desk.amendments.takes(
        Pending(world.entries[1], {}, MemberId(HUB)), peek(world.entries[1])[1], world.state
    )


def accession_after(charter: Charter) -> Charter:
    from treaty.governance.accession import accession_terms

    return accession_terms(charter, NAMES[5])


def test_a_member_begins_one_version_at_a_time(world: World) -> None:
    """Its next one takes the place of the first; what others began stays."""
    desk = Desk(world)
    mine = joining(world)
    desk.send(mine, *own_keys())
    theirs = joining(world, NAMES[5])
    desk.send(theirs, *own_keys(NAMES[5]), sender=MEMBERS[1])
    for number in range(3):
        other = joining(world, runner=key(f"runner {number}"))
        desk.send(other, approval(NEW))
        desk.ready()
    assert len(desk.amendments._versions) == 2
    assert charter_digest(theirs) in desk.amendments._versions
    assert charter_digest(mine) not in desk.amendments._versions
    assert set(desk.amendments._tried) | set(desk.amendments._said) <= set(
        desk.amendments._versions
    )


def test_a_members_own_signature_is_settled_when_a_version_took_effect(world: World) -> None:
    charter = joining(world)
    part = signed(charter, approval(MEMBERS[0]))
    assert not is_settled(part, world.state)
    accept(world, charter)
    assert not is_settled(part, world.state)
    world.publish(charter, [*(approval(name) for name in MEMBERS[:3]), *own_keys()])
    assert is_settled(part, world.state)
    assert not is_settled(world.entries[-2], world.state)
    assert world.state.ratified(Action.MEMBER_ACCEPT, charter_digest(charter))
