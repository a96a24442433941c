"""A checkpoint that a quorum has cosigned reaches the members, who believe what they can check.

Planted and caught: a checkpoint kept for a tree that is another one; fewer lines than the quorum;
the same witness counted twice; another size that is not passed over; one shown again and again to a
member that has it, before there is a quorum, or while a study runs; none shown after a new start; a
cosignature that came altered and is asked for by nobody, by a coordinator that has a quorum, or not
by one that is driven by rest alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.small_federation import SmallFederation, contract, found, small_plan
from tests.unit.node.test_mirror import _feed, _mirror
from tests.worlds import LOG_KEY, NOW, World, refused, witness
from treaty.errors import PeerError, code_of
from treaty.governance.roles import Action
from treaty.ids import MemberId, Timestamp
from treaty.node.cosignatures import open_cosigned
from treaty.node.log_keeper import LogKeeper
from treaty.node.mirror import COSIGNED_KEY, Mirror
from treaty.node.reminders import FIRST_MS
from treaty.node.runtime import deliver
from treaty.protocol.frames import Feed
from treaty.provenance.bundle import export
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.stores.memory import MemoryStore
from treaty.studies.plan import EvaluationSettings, plan_bytes, plan_digest


@pytest.fixture
def held() -> tuple[World, MemoryStore, Mirror]:
    """A world of four members (quorum three), and a member that holds all of its log."""
    world, store = World(), MemoryStore()
    mirror = _mirror(world, store)
    accepted = mirror.check(_feed(world))
    assert accepted is not None
    mirror.take(accepted)
    mirror.write((), (), "participant-mirror")
    return world, store, mirror


def note(world: World, names: Sequence[MemberId], size: int | None = None) -> str:
    keeper = LogKeeper().extended(world.entries[:size])
    bare = keeper.note(world.state.members, LOG_KEY)
    return keeper.cosigned(bare, [keeper.cosign(bare, witness(n), n, NOW) for n in names])


def test_a_checkpoint_is_kept_when_a_quorum_has_cosigned_it(
    held: tuple[World, MemoryStore, Mirror],
) -> None:
    """Three of four do, two do not, and whoever has it can export from it."""
    world, store, mirror = held
    size = len(world.entries)
    with refused("no-quorum"):
        mirror.keep_cosigned(Feed(size, (), note(world, world.names[:2])))
    assert store.get(COSIGNED_KEY) is None
    shown = note(world, world.names[:3])
    mirror.keep_cosigned(Feed(size, (), shown))
    kept = store.get(COSIGNED_KEY)
    assert kept == shown.encode()
    assert open_cosigned(shown, world.state.members).checkpoint.size == size
    files = export(
        world.entries, kept, world.state.anchor, world.find, world.documents.__contains__, "full"
    )
    assert verify_bundle(files, world.state.anchor).record.cosignatures == 3


def _twice(world: World) -> str:
    """Two lines of one witness, of different times, beside one of another."""
    keeper = LogKeeper().extended(world.entries)
    a, b = world.names[:2]
    bare = keeper.note(world.state.members, LOG_KEY)
    lines = [keeper.cosign(bare, witness(n), n, NOW + t) for n, t in ((a, 0), (b, 0), (b, 1000))]
    return bare + "".join(f"{line}\n" if not line.endswith("\n") else line for line in lines)


def _other(world: World) -> str:
    other = World()
    other.entries[-1] = other.entries[0]
    return note(other, world.names[:4])


def _unsigned(world: World) -> str:
    lines = note(world, world.names[:3]).split("\n")
    signed = [number for number, line in enumerate(lines) if line.startswith("\u2014 ")]
    log = next(number for number in signed if "/witness" not in lines[number])
    return "\n".join(lines[:log] + lines[log + 1 :])


def _stranger(world: World) -> str:
    keeper = LogKeeper().extended(world.entries)
    bare = keeper.note(world.state.members, LOG_KEY)
    lines = [keeper.cosign(bare, witness(f"stranger{n}"), f"m{n}.example", NOW) for n in range(3)]  # type: ignore[arg-type]  # a name
    return keeper.cosigned(bare, lines)


HOSTILE: dict[str, tuple[Callable[[World], str], str]] = {
    "one witness twice": (_twice, "signed-twice"),
    "another tree": (_other, "split-view"),
    "not signed by the log": (_unsigned, "unsigned"),
    "a stranger's line": (_stranger, "unknown-key"),
    "no note": (lambda _: "nothing\n", "format"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_hold_is_refused_and_what_is_kept_stays(
    held: tuple[World, MemoryStore, Mirror], case: str
) -> None:
    world, store, mirror = held
    size = len(world.entries)
    first = note(world, world.names[:3])
    mirror.keep_cosigned(Feed(size, (), first))
    make, code = HOSTILE[case]
    with pytest.raises(PeerError) as caught:
        mirror.keep_cosigned(Feed(size, (), make(world)))
    assert code_of(caught.value) == code
    assert store.get(COSIGNED_KEY) == first.encode()


def test_one_of_another_size_is_passed_over(held: tuple[World, MemoryStore, Mirror]) -> None:
    """Its entries come by feeds of their own; nothing is said to the coordinator."""
    world, store, mirror = held
    size = len(world.entries)
    mirror.keep_cosigned(Feed(size + 1, (), note(world, world.names)))
    mirror.keep_cosigned(Feed(size - 1, (), note(world, world.names, size - 1)))
    assert store.get(COSIGNED_KEY) is None


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> SmallFederation:
    """A founded consortium of four."""
    return found(tmp_path_factory.mktemp("federation") / "f", site_figures=False)


def shown_to(federation: SmallFederation) -> list[str]:
    """Let the coordinator's quiet pass once; return who has been shown the checkpoint."""
    before = len(federation.network.egress)
    federation.coordinator.remind()
    sent = federation.network.egress[before:]
    for node in federation.participants.values():
        deliver(node)
    return sorted(record.recipient for record in sent if record.sender == COORDINATOR)


def test_members_are_shown_it_once_until_there_is_another(federation: SmallFederation) -> None:
    federation.settle()
    stores = {
        name: storage.store
        for name, storage in zip(federation.members, federation._storages[1:], strict=True)
    }
    assert shown_to(federation) == sorted(federation.members)
    assert {store.get(COSIGNED_KEY) for store in stores.values()} == {
        federation.coordinator.checkpoint().encode()
    }
    assert shown_to(federation) == []
    # A member that starts anew says how long its log is, and is shown it again.
    name = federation.members[1]
    federation.participants[name].start()
    deliver(federation.coordinator)
    assert shown_to(federation) == [name]


def test_nothing_is_shown_before_a_quorum_has_cosigned(tmp_path: Path) -> None:
    fresh = found(tmp_path / "f", site_figures=False)
    fresh.settle()
    assert shown_to(fresh) != []
    fresh.coordinator._cosignatures.clear()
    assert shown_to(fresh) == []


def test_nothing_is_shown_while_a_study_runs(tmp_path: Path) -> None:
    """Three members have cosigned and one is slow; the next entry follows, so nobody is told."""
    fresh = found(tmp_path / "f", site_figures=False)
    plan = small_plan(fresh, evaluation=EvaluationSettings())
    fresh.adopt(contract())
    fresh.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
    slow = fresh.members[3]
    for _ in range(12):
        deliver(fresh.coordinator)
        for name, node in fresh.participants.items():
            if name != slow:
                deliver(node)
    assert fresh.coordinator.state.running is not None
    assert len(fresh.coordinator.witnesses()) == 3
    assert shown_to(fresh) == []


class Later:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> Timestamp:
        return self.at


def altered_at(federation: SmallFederation, names: Sequence[MemberId]) -> None:
    """Let every member cosign anew, and the lines of `names` come altered."""
    hub = federation.coordinator
    hub._cosignatures.clear()
    for node in federation.participants.values():
        node.start()
    deliver(hub)
    for name in names:
        line = hub._cosignatures._unverified[name]
        hub._cosignatures.add(name, line[:-8] + ("A" if line[-8] != "A" else "B") + line[-7:])
    assert len(hub.witnesses()) == len(federation.members) - len(names)


def test_cosignatures_that_came_altered_are_asked_for_until_a_quorum_has_cosigned(
    tmp_path: Path,
) -> None:
    """Nobody lags and nothing is owed, yet nothing could be exported: two of four are missing."""
    clock = Later()
    fresh = found(tmp_path / "f", site_figures=False, coordinator_clock=clock)
    fresh.settle()
    altered_at(fresh, fresh.members[:2])
    assert shown_to(fresh) == []
    clock.at = Timestamp(clock.at + FIRST_MS)
    assert shown_to(fresh) == sorted(fresh.members[:2])
    deliver(fresh.coordinator)
    assert len(fresh.coordinator.witnesses()) == 4
    # One of four is not missed: a quorum has cosigned, which all are shown, and none is asked.
    altered_at(fresh, fresh.members[:1])
    for shown in (sorted(fresh.members), [], []):
        assert shown_to(fresh) == shown
        clock.at = Timestamp(clock.at + 100 * FIRST_MS)


def test_a_simulation_whose_frames_rest_asks_for_them_too(tmp_path: Path) -> None:
    """Nothing is left to deliver and two of four cosignatures came altered: they come again."""
    fresh = found(tmp_path / "f", site_figures=False)
    fresh.settle()
    altered_at(fresh, fresh.members[:2])
    fresh.settle()
    assert len(fresh.coordinator.witnesses()) == 4
    # Nobody who does not answer is asked for ever.
    altered_at(fresh, fresh.members[:2])
    fresh.network.sever(fresh.members[0])
    fresh.network.sever(fresh.members[1])
    fresh.settle()
    assert len(fresh.coordinator.witnesses()) == 2
