"""A small federation in memory whose parties can be cut off at any durable write and opened again.

A `CutOff` stands for the end of one party's process: right before or right after a commit, a
secret written or a secret erased. The others live on; the party comes back over what it had stored,
with the frames it had not acknowledged. All that ever left a party is captured, across its lives.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.small_federation import SITES, contract, site_files, small_plan
from treaty.engines.embedded import Passage
from treaty.engines.faults import FaultPlan
from treaty.errors import ResourceError
from treaty.governance.exposure import Artefact
from treaty.ids import MemberId
from treaty.node.coordinator import Coordinator
from treaty.ports import Batch, Clock
from treaty.privacy.ledger_entries import HOLDOUT, TRAINING
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import decode_feed, decode_post
from treaty.protocol.messages import SiteReported
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochReady,
    EpochShares,
    MaskedInput,
    Reveal,
    SurvivorsConfirmed,
)
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Study
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.memory import MemoryLedger, MemorySecrets, MemoryStore
from treaty.studies.plan import Plan
from treaty.wiring import Storage, open_coordinator

ONCE = (EpochKeys, EpochShares, EpochReady, MaskedInput, SurvivorsConfirmed, Reveal, SiteReported)
"""What a member says at most once about one thing, whatever happens to it."""


class CutOff(BaseException):
    """The process of `party` ended. Nothing of the node may catch it."""

    def __init__(self, party: str) -> None:
        super().__init__(party)
        self.party = MemberId(party)


@dataclass
class Cuts:
    """Where parties end: at the n-th durable write (from 1), before or after it took effect."""

    at: set[tuple[str, int, str]] = field(default_factory=set)
    writes: dict[str, list[str]] = field(default_factory=dict)
    """The labels of every party's durable writes so far, in order."""
    ledgers: bool = False
    """Whether writes of the sites' privacy ledgers count too."""

    def perform(self, party: str, label: str, write: Callable[[], None]) -> None:
        """Do `write`, unless the party ends before it; end it afterwards if so ordered."""
        done = self.writes.setdefault(party, [])
        done.append(label)
        number = len(done)
        if (party, number, "before") in self.at:
            raise CutOff(party)
        write()
        if (party, number, "after") in self.at:
            raise CutOff(party)


class _Store(MemoryStore):
    def __init__(self, party: str, cuts: Cuts) -> None:
        super().__init__()
        self._party, self._cuts = party, cuts

    def commit(self, batch: Batch) -> None:
        self._cuts.perform(self._party, batch.label, lambda: super(_Store, self).commit(batch))


class _Secrets(MemorySecrets):
    def __init__(self, party: str, cuts: Cuts) -> None:
        super().__init__()
        self._party, self._cuts = party, cuts

    def write_all(self, items: Mapping[str, bytes]) -> None:
        def write() -> None:
            for name, data in items.items():
                super(_Secrets, self).write(name, data)

        self._cuts.perform(self._party, "secret-write", write)

    def write(self, name: str, data: bytes) -> None:
        self.write_all({name: data})

    def erase(self, name: str) -> None:
        if name in self.names():
            # What is not there is no durable write, as in a directory.
            erase = super().erase
            self._cuts.perform(self._party, "secret-erase", lambda: erase(name))


class CutLedger(MemoryLedger):
    """A site's ledger whose writes are among those that the site may end at."""

    def __init__(self, records: list[bytes], party: str, cuts: Cuts) -> None:
        super().__init__(records)
        self._party, self._cuts = party, cuts

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        """See `treaty.ports.Ledger.append`."""

        def write() -> None:
            super(CutLedger, self).append(count, records, label)

        self._cuts.perform(self._party, label, write)


class RestartableFederation(Federation):
    """A federation in memory. `run` brings a party back whose process ended meanwhile."""

    def __init__(
        self,
        directory: Path,
        *,
        cuts: Cuts | None = None,
        faults: FaultPlan | None = None,
        slots_per_epoch: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock
        self.cuts = cuts or Cuts()
        self.kept: dict[str, Storage] = {}
        self.ended: list[str] = []
        self.turns = 0
        super().__init__(
            directory, in_memory=True, capture=True, faults=faults, slots_per_epoch=slots_per_epoch
        )

    def _storage(self, place: Path) -> Storage:
        if place.name not in self.kept:
            store = _Store(place.name, self.cuts)
            self.kept[place.name] = Storage(store, store.blobs, _Secrets(place.name, self.cuts))
            self._storages.append(self.kept[place.name])
        return self.kept[place.name]

    def _ledger(self, name: MemberId) -> MemoryLedger:
        known = super()._ledger(name)
        if self.cuts.ledgers and not isinstance(known, CutLedger):
            self._ledgers[name] = CutLedger(known.records, name, self.cuts)
        return self._ledgers[name]

    def _open_coordinator(self) -> Coordinator:
        if self._clock is None:
            return super()._open_coordinator()
        place = self.directory / "parties" / COORDINATOR
        return open_coordinator(
            place,
            name=COORDINATOR,
            members=self.members,
            anchor=self.anchor,
            engine=self.network.endpoint(COORDINATOR),
            storage=self._storage(place),
            clock=self._clock,
        )

    def end(self, name: str) -> NoReturn:
        """End the process of `name` now; `run` starts it anew. For what happens in a `Story`."""
        raise CutOff(name)

    def reopen(self, name: str) -> None:
        """Start the process of `name` anew over what it has stored, between two runs."""
        self.network.restart(MemberId(name))
        if name == COORDINATOR:
            self.coordinator = self._open_coordinator()
            return
        self.participants[MemberId(name)] = self._open_participant(MemberId(name))
        self.participants[MemberId(name)].start()

    def run(
        self, until: Callable[[Consortium], bool], progress: Callable[[], None] | None = None
    ) -> bool:
        """See `Federation.run`; a party that ends is opened again, and the rest goes on."""

        def count() -> None:
            # Every frame makes a turn, so an endless exchange shows as an endless count.
            self.turns += 1
            assert self.turns < 20_000, "the parties exchange frames without an end"
            if progress is not None:
                progress()

        return self._again(lambda: Federation.run(self, until, count))

    def establish(self) -> None:
        """See `Federation.establish`."""
        try:
            Federation.establish(self)
        except ResourceError:
            # The coordinator ended before it had the charter: whoever founds it tries again.
            if not self.ended or self.coordinator.state.membership is not None:
                raise
            Federation.establish(self)

    def _again(self, step: Callable[[], object]) -> bool:
        end: str | None = None
        while True:
            try:
                if end is not None:
                    self.reopen(end)
                    end = None
                return step() is not False
            except CutOff as cut:
                self.ended.append(cut.party)
                end = cut.party

    # --- evidence -----------------------------------------------------------------------------

    def said(self) -> dict[tuple[str, str, str], set[bytes]]:
        """Return every statement of `ONCE` that left a member, by author, kind and subject."""
        found: dict[tuple[str, str, str], set[bytes]] = {}
        for record in self.network.egress:
            if record.passage is not Passage.FRAME or record.sender == COORDINATOR:
                continue
            assert record.content is not None
            for statement in decode_post(record.content).statements:
                body = peek(statement)[1]
                if isinstance(body, ONCE):
                    key = (body.author, type(body).__name__, subject_of(body))
                    found.setdefault(key, set()).add(statement)
        return found

    def notes(self) -> list[str]:
        """Return every checkpoint note that the coordinator sent, in order."""
        frames = [
            record.content or b""
            for record in self.network.egress
            if record.passage is Passage.FRAME and record.sender == COORDINATOR
        ]
        return [note for frame in frames if (note := decode_feed(frame).checkpoint)]

    def journal_of(self, name: str) -> str:
        """Return the text of a party's journal, empty where it has written none."""
        path = self.directory / "parties" / name / "journal.jsonl"
        return path.read_text() if path.exists() else ""


def subject_of(body: object) -> str:
    """Return what a statement of `ONCE` may be made about only once."""
    for name in ("context", "epoch_hash", "opened", "plan"):
        if hasattr(body, name):
            return str(getattr(body, name))
    raise AssertionError(f"{type(body).__name__} is about nothing")


def assert_said_once(federation: RestartableFederation) -> None:
    """Every member said one thing about each round, epoch and study, byte for byte."""
    twice = {key for key, statements in federation.said().items() if len(statements) > 1}
    assert not twice, twice


def assert_nothing_lost(federation: RestartableFederation) -> None:
    """No member ever missed a secret that it still needed."""
    for name in federation.members:
        assert not lost_secrets(federation.journal_of(name)), name


def assert_reports_recorded(federation: RestartableFederation, study: Study) -> None:
    """Whoever reported its own figures had recorded in its ledger that they are not private."""
    for name in study.reports:
        keeper = federation.participants[name].budget
        assert keeper is not None
        for partition in (HOLDOUT, TRAINING):
            recorded = (study.identity, partition, Artefact.SITE_METRIC.value)
            assert recorded in keeper.state.disclosed, (name, partition)


def lost_secrets(journal: str) -> list[str]:
    """Return the lines of a journal by which a secret was erased before it had served.

    Whoever declines a round erases its secrets, and may end before it has said so: then it misses
    that one secret in its next lives.
    """
    missed: list[str] = []
    lost, declined = [], 0
    for line in journal.splitlines():
        note = json.loads(line)
        declined += note["event"].startswith("declined.")
        if note["event"] == "secret-lost" and note["detail"] not in missed:
            missed.append(note["detail"])
            if len(missed) > declined:
                lost.append(line)
    return lost


def assert_no_fork(federation: RestartableFederation) -> None:
    """Every mirror is a prefix of the coordinator's log, and no size was signed with two roots."""
    log = list(federation.coordinator.entries)
    for name in federation.members:
        mirror = federation.kept[name].store.read("log")
        assert mirror == log[: len(mirror)], name
    roots: dict[str, str] = {}
    for note in federation.notes():
        _, size, root, *_ = note.split("\n")
        assert roots.setdefault(size, root) == root, f"two roots of size {size}"


def write_federation(directory: Path, sites: Iterable[str] = SITES, **options: object) -> None:
    """Write the directories of a federation of `sites`."""
    settings: dict[str, object] = {
        "consortium": "rivers.example",
        "site_figures": True,
        "post_quantum": False,
    }
    files = {MemberId(name): site_files(name) for name in sites}
    Federation.found(directory, files, **(settings | options))  # type: ignore[arg-type]  # passed through


def opened(
    directory: Path,
    sites: Iterable[str] = SITES,
    *,
    cuts: Cuts | None = None,
    faults: FaultPlan | None = None,
    slots_per_epoch: int | None = None,
    clock: Clock | None = None,
    **options: object,
) -> RestartableFederation:
    """Return an established federation of `sites`."""
    if not (directory / "anchor.txt").exists():
        write_federation(directory, sites, **options)
    federation = RestartableFederation(
        directory, cuts=cuts, faults=faults, slots_per_epoch=slots_per_epoch, clock=clock
    )
    federation.establish()
    return federation


class Story:
    """What happens to a federation while a study runs: steps, each once its moment has come.

    A step is (moment, act): `moment` looks at the study as the coordinator's log tells it.
    """

    def __init__(
        self,
        federation: RestartableFederation,
        *steps: tuple[Callable[[Study], bool], Callable[[], object]],
    ) -> None:
        self._federation = federation
        self._steps = list(steps)

    def __call__(self) -> None:
        """Do the steps whose moment has come; called whenever a party has had its turn."""
        studies = self._federation.coordinator.state.studies
        if not studies:
            return
        study = list(studies.values())[-1]
        while self._steps and self._steps[0][0](study):
            self._steps.pop(0)[1]()

    @property
    def told(self) -> bool:
        """Say whether every step has happened."""
        return not self._steps


def in_round(number: int, phase: RoundPhase = RoundPhase.COLLECTING) -> Callable[[Study], bool]:
    """The moment when the secure sum `number` of the study (from 0) is in `phase`."""
    return lambda study: (
        study.progress.index == number and study.round is not None and study.round.phase is phase
    )


def after_rounds(count: int) -> Callable[[Study], bool]:
    """The moment when `count` rounds are over, whatever came of them."""
    return lambda study: len(study.rounds) >= count


def whole_study(
    federation: RestartableFederation, plan: Plan | None = None, story: Story | None = None
) -> Study:
    """Run one study to its release, while `story` happens."""
    study = federation.run_study(plan or small_plan(federation), contract(), story)
    if study.final_model is not None:
        federation.release(study)
    return study


def sums(study: Study) -> list[int]:
    """Return over how many members each published sum of `study` was taken."""
    return [len(one.members_in) for one in study.rounds if one.phase is RoundPhase.PUBLISHED]


def assert_ends_like(directory: Path, clean: Study, party: str, number: int, moment: str) -> None:
    """Cut `party` off at one durable write in a copy of `directory`; it must end as `clean` did."""
    federation = opened(directory, cuts=Cuts({(party, number, moment)}))
    study = whole_study(federation)
    assert federation.ended == [party]
    assert study.final_model == clean.final_model
    assert sums(study) == sums(clean)
    assert set(study.reports) == set(clean.reports)
    assert_reports_recorded(federation, study)
    assert_said_once(federation)
    assert_nothing_lost(federation)
    assert_no_fork(federation)
    size = federation.coordinator.size
    assert {node.size for node in federation.participants.values()} == {size}
    verify_bundle(federation.bundle(), federation.anchor)
