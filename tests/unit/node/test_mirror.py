"""A member's mirror believes what leads from its own tree to a signed checkpoint, and no more.

Planted and caught: the log's clock not compared with the member's, a feed adopted by `check`, a
cosignature before the entries are stored, or after they could not be, other entries than the stored
ones passed over, the checkpoint not compared with the tree, documents of a feed not kept.
"""

import pytest

from tests.worlds import LOG_KEY, NOW, World, refused, witness
from treaty.errors import ResourceError
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.log_keeper import LogKeeper
from treaty.node.mirror import CLOCK_TOLERANCE_MS, Mirror
from treaty.ports import Batch, Delivery
from treaty.protocol.frames import Feed
from treaty.protocol.messages import TimeStated
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
