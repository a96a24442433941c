"""A party's store is put back from an older copy, or its secrets are gone.

A store that was restored is a consistent older state and cannot know it (docs/spec/storage.md,
section 4): the party must learn it from its peers before it signs. Copies are taken and put back
between two turns of the parties, in the middle of a study.

Planted faults that these tests caught: a coordinator that goes on at once, that counts what was
said before its question, that believes a bare number, or that does not heed a signed checkpoint;
a member that deals again, or masks again, what the log shows; one that stops for want of a secret;
one whose answer leaves before the slot's secrets are erased; a deadline that orders nothing taken
for the end of the study.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.passing_engine import PassingEngine
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
from treaty.engines.faults import Fault, FaultRule, SeededFaults
from treaty.ids import MemberId
from treaty.models.specification import MultilayerPerceptron
from treaty.ports import Engine
from treaty.protocol.frames import Post, decode_post, encode_frame
from treaty.protocol.secagg_messages import InputDeclined, MaskedInput, Reveal
from treaty.protocol.secure_round import EpochRecord, RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.memory import MemoryStore
from treaty.stores.sqlite import SqliteStore

MEMBER = SITES[1]


class Backup:
    """A copy of one party's store, without its secrets: they stand in no backup."""

    def __init__(self, federation: RestartableFederation, party: str) -> None:
        self._federation, self._party = federation, party
        self._kept: tuple[object, ...] | None = None

    def _parts(self) -> tuple[MemoryStore, tuple[dict[object, object], ...]]:
        store = self._federation.kept[self._party].store
        assert isinstance(store, MemoryStore)
        return store, (store._streams, store._values, store.blobs._objects)  # type: ignore[return-value]  # three dictionaries

    def take(self) -> None:
        """Copy what the store holds now."""
        self._kept = copy.deepcopy(self._parts()[1])

    def put_back(self) -> None:
        """Replace the store's content by the copy; the party's memory is not touched."""
        assert self._kept is not None
        for part, kept in zip(self._parts()[1], copy.deepcopy(self._kept), strict=True):
            part.clear()
            part.update(kept)  # type: ignore[call-overload]  # dictionaries of the same kind

    def put_back_and_end(self) -> None:
        """Put the copy back and end the party's process, which starts anew."""
        self.put_back()
        self._federation.end(self._party)


def signed_sizes(federation: RestartableFederation, since: int) -> set[int]:
    """Return the sizes of the checkpoints that the coordinator sent after the first `since`."""
    return {int(note.split("\n")[1]) for note in federation.notes()[since:]}


def run_and_restore(federation: RestartableFederation, *, ahead: int, lossy: bool = False) -> int:
    """Let `ahead` members get ahead of a copy of the coordinator, then put the copy back.

    The others are cut off meanwhile; what was sent to them waits, or is lost if `lossy`.
    Return how many notes the coordinator had sent by then.
    """
    backup = Backup(federation, COORDINATOR)
    late = SITES[ahead:]

    def leave_behind() -> None:
        backup.take()
        for name in late:
            federation.network.sever(name)
        if lossy:
            rule = FaultRule(Fault.DROP, 1000, recipients=frozenset(late))
            federation.network._faults = SeededFaults(0, (rule,))

    story = Story(federation, (in_round(2), leave_behind))
    study = whole_study(federation, story=story)
    assert study.phase is (Phase.HALTED if late else Phase.COMPLETED)
    assert story.told
    federation.network._faults = None
    for name in late:
        federation.network.heal(name)
    sent = len(federation.notes())
    backup.put_back()
    federation.reopen(COORDINATOR)
    return sent


@pytest.mark.parametrize("lossy", [False, True], ids=["late", "lost"])
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_a_restored_coordinator_signs_nothing_more(tmp_path: Path, ahead: int, lossy: bool) -> None:
    """One member that holds more, with the log key's signature, is enough to stop it."""
    federation = opened(tmp_path / "federation")
    sent = run_and_restore(federation, ahead=ahead, lossy=lossy)
    stored = federation.kept[COORDINATOR].store.version("log")
    longest = max(node.size for node in federation.participants.values())
    assert longest > stored

    assert not federation.run(lambda state: state.size > stored)
    assert federation.kept[COORDINATOR].store.version("log") == stored
    assert max(signed_sizes(federation, sent), default=0) <= stored
    journal = federation.journal_of(COORDINATOR)
    assert '"refused.restored-backup"' in journal and "rebuild it from a member" in journal
    assert_no_fork_of_signed(federation)


def assert_no_fork_of_signed(federation: RestartableFederation) -> None:
    """No size was signed with two roots, whatever was lost."""
    roots: dict[str, str] = {}
    for note in federation.notes():
        _, size, root, *_ = note.split("\n")
        assert roots.setdefault(size, root) == root


def test_a_coordinator_that_lost_everything_founds_no_second_history(tmp_path: Path) -> None:
    """It may sign the founding entry again, which is the same; then it meets longer logs."""
    federation = opened(tmp_path / "federation")
    empty = Backup(federation, COORDINATOR)
    whole_study(federation)
    empty._kept = ({}, {}, {})
    empty.put_back()
    federation.reopen(COORDINATOR)
    federation.establish()
    federation.run(lambda state: state.size > 1)
    assert federation.coordinator.size == 1
    assert '"refused.restored-backup"' in federation.journal_of(COORDINATOR)
    assert_no_fork_of_signed(federation)


def test_a_bare_number_stops_nobody(tmp_path: Path) -> None:
    """A member that claims a longer log without a checkpoint is refused; the study goes on."""
    federation = opened(tmp_path / "federation")

    def claim() -> None:
        post = Post(MEMBER, 1_000_000, "", (), {})
        federation.network.endpoint(MEMBER).send(COORDINATOR, encode_frame(post), "a lie")

    study = whole_study(federation, story=Story(federation, (in_round(2), claim)))
    assert study.phase is Phase.COMPLETED and sums(study) == [4] * 6
    assert '"refused.restored-backup"' in federation.journal_of(COORDINATOR)


def test_a_copy_of_a_coordinators_database_behaves_the_same(tmp_path: Path) -> None:
    """The same with real files: a backup that `SqliteStore.back_up` wrote is put back."""
    write_federation(tmp_path / "federation")
    federation = Federation(tmp_path / "federation")
    federation.establish()
    place = tmp_path / "federation" / "parties" / COORDINATOR
    store = federation._storages[0].store
    assert isinstance(store, SqliteStore)
    store.back_up(tmp_path / "copy.db")
    size = federation.coordinator.size
    federation.adopt(contract())
    federation.settle()
    federation.close()
    for left in place.glob("store.db*"):
        left.unlink()
    (tmp_path / "copy.db").replace(place / "store.db")

    restored = Federation(tmp_path / "federation")
    restored.establish()
    assert not restored.run(lambda state: state.size > size)
    assert restored.coordinator.size == size
    assert "restored-backup" in (place / "journal.jsonl").read_text()
    restored.close()


# --- members --------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[Study], bool]] = {
    "before-the-study": lambda study: True,
    "before-its-keys": lambda study: _second(study, lambda epoch: not epoch.keys),
    "before-its-shares": lambda study: _second(study, lambda epoch: epoch.roster is not None),
    "before-it-was-ready": lambda study: _second(study, lambda epoch: epoch.sealed is not None),
    "a-round-ago": in_round(2),
    "in-this-round": in_round(3),
}
"""When the copy is taken; it is put back while the second round of the second epoch is opened."""


def _second(study: Study, holds: Callable[[EpochRecord], bool]) -> bool:
    return study.epoch is not None and study.epoch.number == 2 and holds(study.epoch)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("post_quantum", [False, True], ids=["classical", "hybrid"])
def test_a_restored_member_never_contributes_twice_in_a_slot(
    tmp_path: Path, moment: str, post_quantum: bool
) -> None:
    """The log remembers what its store forgot; it catches up, and takes part again in time."""
    write_federation(tmp_path / "federation", post_quantum=post_quantum)
    federation = opened(tmp_path / "federation", slots_per_epoch=2)
    backup = Backup(federation, MEMBER)
    story = Story(
        federation,
        (MOMENTS[moment], backup.take),
        (in_round(3, RoundPhase.REVEALING), backup.put_back_and_end),
    )
    study = whole_study(federation, story=story)
    assert story.told
    assert study.phase is Phase.COMPLETED
    assert min(sums(study)) >= 3 and sums(study)[-1] == 4, sums(study)
    assert_said_once(federation)
    assert_no_fork(federation)
    assert federation.participants[MEMBER].size == federation.coordinator.size
    verify_bundle(federation.bundle(), federation.anchor)


class Answering(PassingEngine):
    """A member's engine that looks at its secrets whenever an answer leaves."""

    def __init__(self, engine: Engine, look: Callable[[], bool]) -> None:
        super().__init__(engine)
        self._look = look
        self.found: list[bool] = []

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Note whether the slot's secrets are there, if the post holds an answer."""
        if any(isinstance(peek(one)[1], Reveal) for one in decode_post(frame).statements):
            self.found.append(self._look())
        super().send(recipient, frame, key)


class Watched(RestartableFederation):
    """A federation one of whose members is watched while it answers."""

    def _endpoint(self, name: MemberId) -> Engine:
        if name != MEMBER:
            return super()._endpoint(name)
        self.answering = Answering(super()._endpoint(name), self.holds_secrets)
        return self.answering

    def holds_secrets(self) -> bool:
        """Say whether the member could still answer the slot of the round that it sees."""
        study = self.participants[MEMBER].state.running
        assert study is not None and study.epoch is not None and study.round is not None
        slot = study.round.opened.predicate.slot
        return (
            f"epoch-{study.epoch.number:06d}-slot-{slot:04d}" in self.kept[MEMBER].secrets.names()
        )


def test_an_answer_leaves_only_when_no_other_can_be_made(tmp_path: Path) -> None:
    """Whatever copy of its store is put back then: the slot's secrets are gone (secagg.md, 6.7)."""
    write_federation(tmp_path / "federation")
    federation = Watched(tmp_path / "federation", slots_per_epoch=4)
    federation.establish()
    held: list[bool] = []
    look = in_round(1, RoundPhase.REVEALING), lambda: held.append(federation.holds_secrets())
    story = Story(federation, look)
    study = federation.run_study(small_plan(federation), contract(), story)
    # Before its answer, when the survivors are named, they are there by the same look.
    assert held == [True]
    assert federation.answering.found == [False] * len(study.rounds)


HELD: dict[str, tuple[Callable[[Study], bool], Callable[[Study], bool]]] = {
    "its-shares": (
        lambda study: _second(study, lambda epoch: epoch.roster is not None),
        lambda study: _second(study, lambda e: MEMBER in e.shares and e.sealed is None),
    ),
    "its-input": (
        in_round(4),
        lambda study: study.round is not None and MEMBER in study.round.inputs,
    ),
}
"""The moment of the copy, and the moment when the log shows what the copy does not know."""


@pytest.mark.parametrize("what", HELD)
def test_what_the_log_shows_is_not_said_again_in_other_words(tmp_path: Path, what: str) -> None:
    """Another member keeps the phase open; shares and updates drew entropy and would differ."""
    write_federation(tmp_path / "federation", post_quantum=True)
    federation = opened(tmp_path / "federation", slots_per_epoch=3)
    backup = Backup(federation, MEMBER)
    late = SITES[-1]

    def begin() -> None:
        backup.take()
        federation.network.sever(late)

    taken, shown = HELD[what]
    story = Story(
        federation,
        (taken, begin),
        (shown, backup.put_back_and_end),
        (after_rounds(5), lambda: federation.network.heal(late)),
    )
    model = MultilayerPerceptron(hidden=(4,), rounds=4)
    study = whole_study(federation, small_plan(federation, model=model), story)
    assert story.told and study.finished
    assert_said_once(federation)
    assert_no_fork(federation)


def test_a_member_whose_mirror_is_gone_catches_up(tmp_path: Path) -> None:
    """Nothing of it is needed but its keys: the feed brings the whole log."""
    federation = opened(tmp_path / "federation", slots_per_epoch=3)
    empty = Backup(federation, MEMBER)
    empty._kept = ({}, {}, {})
    story = Story(federation, (after_rounds(2), empty.put_back_and_end))
    study = whole_study(federation, story=story)
    assert study.phase is Phase.COMPLETED and sums(study)[-1] == 4
    assert federation.participants[MEMBER].size == federation.coordinator.size
    assert_said_once(federation)


# --- secrets --------------------------------------------------------------------------------


def lose_secrets(federation: RestartableFederation, name: MemberId) -> None:
    """Remove every secret file of `name`, and start it anew."""
    for secret in federation.kept[name].secrets.names():
        federation.kept[name].secrets.erase(secret)
    federation.end(name)


def test_a_member_that_lost_its_secrets_declines_and_the_rounds_go_on(tmp_path: Path) -> None:
    """It says so at once, with a closed code; from the next epoch on it is in again."""
    federation = opened(tmp_path / "federation", slots_per_epoch=4)
    story = Story(federation, (in_round(2), lambda: lose_secrets(federation, MEMBER)))
    study = whole_study(federation, story=story)
    assert sums(study) == [4, 4, 3, 3, 4, 4]
    declined = [
        body
        for entry in federation.coordinator.entries
        if isinstance(body := peek(entry)[1], InputDeclined)
    ]
    assert [(one.author, one.code.value) for one in declined] == [(MEMBER, "site-declined")] * 2
    assert '"secret-lost"' in federation.journal_of(MEMBER)
    verify_bundle(federation.bundle(), federation.anchor)


def test_secrets_lost_between_input_and_answer_leave_the_input_in_the_sum(tmp_path: Path) -> None:
    """The others' shares open it; the member stays silent for that round and goes on."""
    federation = opened(tmp_path / "federation", slots_per_epoch=4)
    story = Story(
        federation,
        (in_round(2, RoundPhase.REVEALING), lambda: lose_secrets(federation, MEMBER)),
    )
    study = whole_study(federation, story=story)
    assert sums(study) == [4, 4, 4, 3, 4, 4]
    assert MEMBER not in study.rounds[2].reveals and MEMBER in study.rounds[2].inputs
    assert_said_once(federation)


@pytest.mark.parametrize(
    ("phase", "moment"),
    [
        ("keys", lambda study: study.epoch is not None and bool(study.epoch.roster)),
        ("shares", lambda study: study.epoch is not None and bool(study.epoch.sealed)),
    ],
)
def test_a_member_that_lost_its_epochs_secret_sits_the_epoch_out(
    tmp_path: Path, phase: str, moment: object
) -> None:
    """Without the seed it can neither deal nor open; the others begin without it."""
    federation = opened(tmp_path / "federation", slots_per_epoch=3)
    story = Story(federation, (moment, lambda: lose_secrets(federation, MEMBER)))  # type: ignore[arg-type]  # a function of a study
    study = whole_study(federation, story=story)
    assert story.told and sums(study) == [3, 3, 3, 4, 4, 4], phase
    assert '"secret-lost"' in federation.journal_of(MEMBER)
    authors = [
        body.author
        for entry in federation.coordinator.entries
        if isinstance(body := peek(entry)[1], MaskedInput)
    ]
    assert authors.count(MEMBER) == 3
