"""A party ends again and again in one whole study, after one, two, up to six writes of each life.

So its writes are met from both sides, those of its privacy ledger among them, in whatever order the
code does them: a step between two others cannot hide behind the names that were thought of. Lives
of one write alone would lead nowhere: a secret whose record was not stored is erased at the start.

Whoever ends so often may be late for a round; what it may not do stands in `check`.

Planted, each two neighbouring steps exchanged or one transaction in two, and caught here or, where
named, by another test: a slot's secret erased before the answer or the input is stored; an epoch's
before the epoch is ready; secrets of slots, or cut keys of noise, stored after the record that
needs them; a post sent before the mirror is written; duties before the feed is taken; feeds sent
before the commit; the checkpoint or the documents of a mirror in a commit of their own, or its
entries after what rests on them; an input's vector before masking, its masked blob, the ledger's
head or the epoch's number in a commit of their own; frames acknowledged before they are handled; a
charge that waits for the next entry; a report stored before the ledger records it
(`test_cut_off_parties.py`); what a disk did not take reported as stored
(`test_keys_of_noise.py`); entries taken for stored although the commit failed
(`tests/unit/node/test_mirror.py`); frames acknowledged before the flush
(`tests/unit/node/test_gathering.py`).

Harmless, for the reason given: masking before the charge, or sending noted before sending (nothing
leaves before the turn's post, and a refusal ends the turn); the answer, the ready statement, the
dispute or a report's mark put after or before what stands beside it (the record is stored before
both, and what it says is sent again from it); an epoch closed before its secrets are erased (its
record says so, and they are erased at the start); the ledger followed after the duties (every life
follows it once before the first feed); the performer before the auditor (a member answers one more
round that it had sent its input for).
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.charges import compare_charges
from tests.private_federation import private_contract, private_plan
from tests.restartable_federation import (
    CutOff,
    Cuts,
    RestartableFederation,
    assert_no_fork,
    assert_nothing_lost,
    assert_reports_recorded,
    assert_said_once,
    sums,
    write_federation,
)
from tests.small_federation import SITES, contract, small_plan
from treaty.crypto.canonical import decode, sha256
from treaty.engines.embedded import Passage
from treaty.ids import MemberId
from treaty.node.performing import LAST_EPOCH_KEY, PREMASK_KEY
from treaty.node.spending import LEDGER_KEY
from treaty.ports import EventStore
from treaty.protocol.frames import decode_feed, decode_post
from treaty.protocol.secagg_lifecycle import EPOCH_KEY, SLOT_KEY, SlotState
from treaty.protocol.study import Phase, Study
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.calibrating import Privacy

pytestmark = pytest.mark.timeout(60)
MEMBER = SITES[1]
SIX = (*SITES, MemberId("saane"), MemberId("thur"))
LONGEST_LIFE = 6
SEEDS = (1, 2, 3)
PRIVATE: dict[str, object] = {
    "site_figures": False,
    "epsilon_budget_milli": 3000,
    "delta": "1e-5",
    "max_sites_per_person": 2,
}


class ShortLives(Cuts):
    """Ends `party` at the last write of each of its lives, which are one to six writes long."""

    def __init__(self, party: str, seed: int) -> None:
        super().__init__(ledgers=True)
        self.party, self.draw = party, random.Random(seed)
        self.is_armed = False
        self.left = 1

    def perform(self, party: str, label: str, write: Callable[[], None]) -> None:
        """See `Cuts.perform`."""
        self.writes.setdefault(party, []).append(label)
        if party != self.party or not self.is_armed:
            write()
            return
        self.left -= 1
        if self.left:
            write()
            return
        self.left = self.draw.randint(1, LONGEST_LIFE)
        if self.draw.random() < 0.5:
            write()
        raise CutOff(party)


class Watched(RestartableFederation):
    """Looks, whenever a party ended, at what it had said and what it had stored by then."""

    def __init__(self, directory: Path, cuts: Cuts) -> None:
        self.heard = 0
        self.claimed: dict[str, int] = {}
        super().__init__(directory, cuts=cuts, slots_per_epoch=3)

    def reopen(self, name: str) -> None:
        """See `RestartableFederation.reopen`."""
        said = self.network.egress[self.heard :]
        self.heard += len(said)
        for record in said:
            if record.passage is Passage.FRAME and record.content is not None:
                sender, size = str(record.sender), 0
                if sender == COORDINATOR:
                    feed = decode_feed(record.content)
                    size = feed.first + len(feed.entries)
                else:
                    size = decode_post(record.content).size
                self.claimed[sender] = max(size, self.claimed.get(sender, 0))
        stored = self.kept[name].store.version("log")
        assert self.claimed.get(name, 0) <= stored, f"{name} said more than it had stored"
        if name != COORDINATOR:
            assert_record_whole(self.kept[name].store)
        super().reopen(name)


def assert_record_whole(store: EventStore) -> None:
    """With a stored input stand its vector, the ledger's head that it shows, its epoch's number."""
    epoch, slot = store.get(EPOCH_KEY), store.get(SLOT_KEY)
    if epoch is None:
        return
    number, phase = (json.loads(epoch)[field] for field in ("epoch", "phase"))
    assert int(store.get(LAST_EPOCH_KEY) or b"0") >= number
    if slot is None or phase == "closed":
        return
    state = decode(slot, SlotState, limit=1 << 24)
    if state.input is None or state.lock is None or state.opened.epoch_hash not in str(epoch):
        return
    assert sha256(store.get(PREMASK_KEY) or b"") == state.lock.vector
    if state.input.ledger is not None:
        assert state.input.ledger.head in str(store.get(LEDGER_KEY))


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exact") / "federation"
    write_federation(directory)
    return directory


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("private") / "federation"
    write_federation(directory, **PRIVATE)
    return directory


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("private-six") / "federation"
    write_federation(directory, SIX, **PRIVATE)
    return directory


def run(place: Path, directory: Path, party: str, seed: int) -> tuple[ShortLives, Study]:
    """Run one study in a copy of `place`; `party` lives shortly, many times."""
    shutil.copytree(place, directory)
    cuts = ShortLives(party, seed)
    federation = Watched(directory, cuts)
    federation.establish()
    if place.parent.name.startswith("private"):
        plan = private_plan(federation, Privacy(rounds=2), surplus=True)
        cuts.is_armed = True
        study = federation.run_study(plan, private_contract())
    else:
        plan = small_plan(federation)
        cuts.is_armed = True
        study = federation.run_study(plan, contract())
    cuts.is_armed = False
    assert set(federation.ended) == {party}
    check(federation, study)
    return cuts, study


def check(federation: RestartableFederation, study: Study) -> None:
    """Nothing is said twice, forked, lost, left or unpaid, and the study ends right.

    That nobody said more than it had stored was seen whenever a party ended (`Watched`).
    """
    assert study.phase is Phase.COMPLETED
    assert_said_once(federation)
    assert_no_fork(federation)
    assert_nothing_lost(federation)
    assert_reports_recorded(federation, study)
    for name in federation.members:
        assert federation.kept[name].secrets.names() == (), name
    federation.release(study)
    assert len(set(federation.coordinator.entries)) == federation.coordinator.size
    verify_bundle(federation.bundle(), federation.anchor)
    state = federation.coordinator.state
    if study.noise_shown:
        for name in federation.members:
            ledger = federation._ledger(MemberId(name))
            compare_charges(
                ledger.read(), name, study.identity, federation.coordinator.entries, state
            )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("party", [MEMBER, COORDINATOR])
def test_an_exact_study_ends_right(tmp_path: Path, exact: Path, party: str, seed: int) -> None:
    cuts, study = run(exact, tmp_path / "copy", party, seed)
    assert sums(study) == [4] * 6
    assert {"participant-report", "ledger-disclose"} <= set(cuts.writes[MEMBER])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("party", [MEMBER, COORDINATOR])
def test_a_private_study_ends_right(tmp_path: Path, private: Path, party: str, seed: int) -> None:
    cuts, study = run(private, tmp_path / "copy", party, seed)
    assert len(sums(study)) == 4 and set(sums(study)) <= {3, 4}
    assert {"ledger-charge", "ledger-reserve", "ledger-close"} <= set(cuts.writes[MEMBER])


@pytest.mark.parametrize("seed", SEEDS)
def test_survivors_that_are_confirmed_end_right(tmp_path: Path, six: Path, seed: int) -> None:
    """Six members confirm a set, before they answer with keys of noise that comes off."""
    cuts, study = run(six, tmp_path / "copy", MEMBER, seed)
    assert len(sums(study)) == 4 and set(sums(study)) <= {5, 6}
    assert "participant-slot-confirm-persisting" in cuts.writes[MEMBER]
