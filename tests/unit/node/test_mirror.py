"""A member's mirror believes what leads from its own tree to a signed checkpoint, and no more.

Planted and caught: the log's clock not compared with the member's, a feed adopted by `check`, a
cosignature before the entries are stored, or after they could not be, other entries than the
stored ones passed over, a cosignature of somebody else or of no witness, the checkpoint not
compared with the tree, documents of a feed not kept; of a feed that is parsed, verified and folded
in three passes: signatures believed unseen, a bad one too, one for another; a bad entry refused
before its turn, or left out; unknown keys, or those of a suspended member, not asked for in turn;
a checkpoint's text not compared; whatever a feed brings kept, or not what was asked for elsewhere,
or not what an entry held before names.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.unit.governance.test_rotation import fresh
from tests.worlds import LOG_KEY, NAMES, NOW, World, approval, key, refused, runner, witness
from treaty.contracts.schema import contract_bytes
from treaty.crypto import envelope
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import ResourceError, TreatyError
from treaty.governance.charter import charter_bytes
from treaty.governance.roles import Action
from treaty.governance.rotation import rotated
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.log_keeper import LogKeeper
from treaty.node.mirror import CLOCK_TOLERANCE_MS, Mirror
from treaty.ports import Batch, Delivery
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Feed
from treaty.protocol.messages import ProposalOpened, TimeStated
from treaty.protocol.statements import peek, seal_statement
from treaty.stores.memory import MemoryStore


class _Clock:
    """A clock that stands still."""

    def __init__(self, now: int) -> None:
        self._now = Timestamp(now)

    def now(self) -> Timestamp:
        """Return the one time."""
        return self._now


class _Nowhere:
    """An engine that brings nothing."""

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Lose the frame."""

    def receive(self) -> Delivery | None:
        """Return nothing."""
        return None

    def offer(self, digest: Digest, data: bytes) -> None:
        """Lose the object."""

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Have nothing."""
        raise ResourceError(f"nobody offers {digest[:16]}")

    def peers(self) -> tuple[MemberId, ...]:
        """Know nobody."""
        return ()


def _mirror(world: World, store: MemoryStore, now: int = NOW) -> Mirror:
    return Mirror(
        anchor=world.state.anchor,
        store=store,
        blobs=store.blobs,
        engine=_Nowhere(),
        clock=_Clock(now),
    )


def _feed(world: World, first: int = 0, *, signed: int | None = None) -> Feed:
    """Return the entries from `first` on, under the checkpoint of the first `signed` of them."""
    end = len(world.entries) if signed is None else signed
    note = LogKeeper().extended(world.entries[:end]).note(world.state.members, LOG_KEY)
    return Feed(first, tuple(world.entries[first:]), note, dict(world.documents))


def test_a_feed_is_checked_adopted_and_stored() -> None:
    """Each in its turn; cosigned is what is stored, and a restart knows it all."""
    world, store = World(), MemoryStore()
    mirror = _mirror(world, store)
    accepted = mirror.check(_feed(world))
    assert accepted is not None
    assert mirror.size == 0
    mirror.take(accepted)
    assert mirror.size == len(world.entries)
    name = world.names[0]
    assert mirror.cosignature(witness(name), name) == ""
    mirror.write((), (), "participant-mirror")
    assert mirror.cosignature(witness(name), name) != ""
    again = _mirror(world, store)
    assert (again.size, again.state.at) == (mirror.size, NOW)
    assert again.cosignature(witness(name), name) == mirror.cosignature(witness(name), name)
    assert again.check(_feed(world)) is None


class _Full(MemoryStore):
    """A store whose disk is full, once."""

    is_full = True

    def commit(self, batch: Batch) -> None:
        """Refuse, or store."""
        if self.is_full:
            self.is_full = False
            raise ResourceError("the disk is full")
        super().commit(batch)


def test_what_could_not_be_stored_is_not_cosigned_and_is_stored_later() -> None:
    world, store = World(), _Full()
    mirror = _mirror(world, store)
    accepted = mirror.check(_feed(world))
    assert accepted is not None
    mirror.take(accepted)
    name = world.names[0]
    with pytest.raises(ResourceError, match="the disk is full"):
        mirror.write((), (), "participant-mirror")
    assert mirror.cosignature(witness(name), name) == ""
    mirror.write((), (), "participant-mirror")
    assert mirror.cosignature(witness(name), name) != ""
    assert _mirror(world, store).size == mirror.size


def test_a_clock_that_is_far_ahead_of_the_members_own_is_refused() -> None:
    """At the tolerance it is taken, one millisecond further it is not."""
    world = World()
    world.say(TimeStated, at=NOW)
    edge = NOW - CLOCK_TOLERANCE_MS
    assert _mirror(world, MemoryStore(), edge).check(_feed(world)) is not None
    beyond = _mirror(world, MemoryStore(), edge - 1)
    with refused("clock-skew"):
        beyond.check(_feed(world))
    assert beyond.size == 0


def test_an_old_log_is_caught_up_with_whatever_its_clock_says() -> None:
    """A member that was away for years takes the history; acting on it asks for the present."""
    world = World()
    world.say(TimeStated, at=NOW)
    late = NOW + 1000 * CLOCK_TOLERANCE_MS
    assert _mirror(world, MemoryStore(), late).check(_feed(world)) is not None


def test_another_history_is_refused_as_a_fork() -> None:
    """Entries that differ from the stored ones, and a checkpoint of another tree."""
    world, store = World(), MemoryStore()
    mirror = _mirror(world, store)
    accepted = mirror.check(_feed(world))
    assert accepted is not None
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    other = World()
    other.entries.pop()
    other.entries.append(world.entries[0])
    with refused("split-view"):
        mirror.check(_feed(other))
    other.say(TimeStated, at=NOW + 1)
    with refused("split-view"):
        mirror.check(_feed(other))
    world.say(TimeStated, at=NOW + 1)
    with refused("split-view"):
        mirror.check(_feed(world, 2, signed=2))
    assert mirror.size == 2
    assert mirror.check(_feed(world, 2)) is not None


NEW = key(f"{NAMES[0]} new approval")
HELD = 2
"""What a mirror holds before the feed of a test: the founding charter and the first time."""


def _rotated_world() -> World:
    """Return a log in which a member's approval key is exchanged, and the new one used."""
    world = World()
    member = NAMES[0]
    charter = rotated(world.state.charter, member, fresh(member, "approval"), suspended=frozenset())
    number = world.propose(Action.KEY_ROTATE, world.keep(charter_bytes(charter)))
    world.vote(number, NAMES[:3])
    world.publish(charter, [*(approval(name) for name in NAMES[1:3]), approval(member), NEW])
    world.say(TimeStated, at=NOW + 1)
    world.offer(_proposal(world, NAMES[0], NEW))
    world.say(TimeStated, at=NOW + 2)
    return world


def _proposal(world: World, author: str, signer: SigningKey) -> bytes:
    fields = {"action": Action.CONTRACT_ADOPT.value, "subject": sha256(b""), "target": None}
    return seal_statement(world.write(ProposalOpened, author, **fields), signer)


def _holding(world: World) -> Mirror:
    """Return a mirror that holds the first entries of `world`."""
    mirror = _mirror(world, MemoryStore())
    note = LogKeeper().extended(world.entries[:HELD]).note(world.state.members, LOG_KEY)
    accepted = mirror.check(Feed(0, tuple(world.entries[:HELD]), note, dict(world.documents)))
    assert accepted is not None
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    return mirror


def _outcome(check: Callable[[], object]) -> tuple[type, str, str] | None:
    """Return how `check` refuses: kind of error, code and text."""
    try:
        check()
    except TreatyError as error:
        return type(error), getattr(error, "code", ""), str(error)
    return None


def _folded(world: World, entries: Sequence[bytes]) -> Consortium:
    """Return the state after `entries`, each parsed, verified and folded in its turn."""
    state = Consortium(world.state.anchor)
    for entry in entries:
        state, _ = state.apply(entry, world.find)
    return state


def _refusal(world: World, altered: Sequence[bytes]) -> str:
    """Return the code with which a mirror refuses a feed, which is that of the fold in turn."""
    mirror = _holding(world)
    note = LogKeeper().extended(altered).note(world.state.members, LOG_KEY)
    feed = Feed(HELD, tuple(altered[HELD:]), note, dict(world.documents))
    expected = _outcome(lambda: _folded(world, altered))
    assert _outcome(lambda: mirror.check(feed)) == expected
    assert mirror.size == HELD
    return "" if expected is None else expected[1] or expected[0].__name__


def _resigned(entry: bytes, signer: SigningKey) -> bytes:
    return envelope.seal(envelope.parse(entry).payload, [signer])


def _flipped(entry: bytes) -> bytes:
    parts = envelope.parse(entry)
    (keyid, signature), *rest = parts.signatures
    wrong = bytes([signature[0] ^ 1]) + signature[1:]
    return envelope.join(parts.payload, dict([(keyid, wrong), *rest]))


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "no statement": lambda _: b"{}",
    "another spelling": lambda entry: entry + b" ",
    "an altered signature": _flipped,
    "a stranger's key": lambda entry: _resigned(entry, key("stranger")),
    "the key that goes": lambda entry: _resigned(entry, approval(NAMES[0])),
    "the key that comes": lambda entry: _resigned(entry, NEW),
    "a key for other things": lambda entry: _resigned(entry, runner(NAMES[0])),
    "the charter again": lambda _: World().entries[0],
}


def test_a_feed_that_exchanges_a_key_is_what_its_entries_are_one_by_one() -> None:
    """The new key is known from its charter on, also within one feed."""
    world = _rotated_world()
    accepted = _holding(world).check(_feed(world, HELD))
    assert accepted is not None
    assert accepted.state == _folded(world, world.entries) == world.state
    assert accepted.digests == tuple(map(sha256, world.entries[HELD:]))


def test_the_first_bad_entry_of_a_feed_is_refused_as_in_its_turn() -> None:
    """Every fault at every place, and two faults at any two: the refusal is that of the fold."""
    world = _rotated_world()
    places = range(HELD, len(world.entries))
    seen = set()
    for fault, place in itertools.product(FAULTS.values(), places):
        altered = [*world.entries]
        altered[place] = fault(altered[place])
        seen.add(_refusal(world, altered))
    some = [FAULTS[name] for name in ("no statement", "an altered signature", "a stranger's key")]
    for one, other in itertools.combinations(places, 2):
        for early, late in itertools.product(some, some):
            altered = [*world.entries]
            altered[one], altered[other] = early(altered[one]), late(altered[other])
            seen.add(_refusal(world, altered))
    assert {"bad-signature", "unknown-key", "wrong-key-kind", "FormatError"} <= seen


def test_who_is_suspended_within_a_feed_is_not_heard_behind_it() -> None:
    """Its signature holds and its key was good when the feed began."""
    world = World()
    before = _proposal(world, NAMES[3], approval(NAMES[3]))
    world.propose_and_suspend(NAMES[3])
    assert _refusal(world, [*world.entries, before]) == "suspended"
    assert _refusal(world, [*world.entries[:HELD], before]) == ""


def test_what_this_member_made_itself_is_not_verified_again_and_nothing_else() -> None:
    """A digest stands for its bytes alone: one altered bit is another statement."""
    world = _rotated_world()
    made = {sha256(one): peek(one) for one in world.entries}
    assert _holding(world).check(_feed(world, HELD), made) is not None
    altered = world.entries[-1] = _flipped(world.entries[-1])
    with refused("bad-signature"):
        _holding(world).check(_feed(world, HELD), made)
    believed = {**made, sha256(altered): peek(altered)}
    assert _holding(world).check(_feed(world, HELD), believed) is not None


def test_a_cosignature_is_of_the_member_that_sends_it_and_of_a_witness() -> None:
    """Under a genuine one's name, or by who is no witness, it is refused before it is verified."""
    world = World()
    keeper = LogKeeper().extended(world.entries)
    note, members = keeper.note(world.state.members, LOG_KEY), world.state.members
    one, other = world.names[:2]
    line = keeper.cosign(note, witness(other), MemberId(other), NOW)
    assert keeper.check_cosignature(line, members, MemberId(other))[1] == line
    for name in (one, "nobody"):
        with refused("unknown-key"):
            keeper.check_cosignature(line, members, MemberId(name))


# --- what is kept of a feed -----------------------------------------------------------------------


class _Serving(_Nowhere):
    """An engine that serves every document of a world, and counts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.served = 0

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Return the document."""
        self.served += 1
        return self._world.find(digest)


def test_what_no_entry_names_is_not_kept() -> None:
    """A coordinator cannot fill a member's disk with what it attaches to its feeds."""
    world, store = World(), MemoryStore()
    junk = {sha256(bytes([place]) * 4096): bytes([place]) * 4096 for place in range(64)}
    mirror = _mirror(world, store)
    feed = _feed(world)
    needed = world.state.anchor
    accepted = mirror.check(Feed(0, feed.entries, feed.checkpoint, {**feed.blobs, **junk}))
    assert accepted is not None and set(accepted.blobs) == {needed}
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    assert store.blobs.has(needed) and not any(store.blobs.has(one) for one in junk)


def test_what_a_member_asked_for_is_kept_with_the_entries_that_need_it() -> None:
    """Whoever served it, once, cannot make the log unreadable by serving it no longer."""
    world, store = World(), MemoryStore()
    serving = _Serving(world)
    mirror = Mirror(
        anchor=world.state.anchor,
        store=store,
        blobs=store.blobs,
        engine=serving,
        clock=_Clock(NOW),
    )
    accepted = mirror.check(replace(_feed(world), blobs={}))
    assert accepted is not None and serving.served == 1
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    assert _mirror(world, store).state == mirror.state


def test_what_was_missed_comes_with_entries_that_are_repeated() -> None:
    """A document of an entry that the member holds already is named, and kept."""
    world, store = World(), MemoryStore()
    contract = sha256(contract_bytes(world.contract))
    world.propose(Action.CONTRACT_ADOPT, contract)
    mirror = _mirror(world, store)
    accepted = mirror.check(replace(_feed(world), blobs={world.under: world.find(world.under)}))
    assert accepted is not None
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    assert not store.blobs.has(contract)
    world.say(TimeStated, at=NOW + 1)
    accepted = mirror.check(_feed(world))
    assert accepted is not None and accepted.blobs[contract] == contract_bytes(world.contract)
