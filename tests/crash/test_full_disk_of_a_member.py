"""A member's disk is full while a study runs: one clear error, nobody waits for it, nothing twice.

One durable write of a member fails, of its store, its slot secrets or its privacy ledger, and all
later ones too where the disk stays full. Its process ends with the error; brought back while the
disk is still full it does no harm; once there is room it takes part again. Meanwhile the others go
on without it. Every byte that leaves a member is captured, across its lives. One study for each of
a member's persist points.

Planted faults that these tests caught: a failed record of keys, shares, inputs or answers that is
passed over, so that the message leaves all the same; a failed charge taken for a reason to decline.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.restartable_federation import (
    Cuts,
    RestartableFederation,
    assert_no_fork,
    assert_said_once,
    sums,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES
from treaty.errors import ResourceError
from treaty.protocol.consortium import Consortium
from treaty.protocol.study import Phase
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation

MEMBER = SITES[1]
FULL = "cannot write store.db: the disk is full: free some space and try again"
SLOTS = 2
"""Slots of an epoch, so that a member that comes back finds a new one."""

POINTS = (
    "ledger",
    "participant-epoch-closed",
    "participant-epoch-dealing",
    "participant-epoch-init",
    "participant-epoch-opening",
    "participant-mirror",
    "participant-report",
    "participant-slot-answer-persisting",
    "participant-slot-input-persisting",
    "secret-erase",
    "secret-write",
)


class Disk(Cuts):
    """Takes no write of `MEMBER` from its write number `first` on, until there is `room`.

    One that does not `last` has room again for the next write.
    """

    def __init__(self, first: int = 0, *, lasts: bool = True) -> None:
        super().__init__(ledgers=True)
        self.first = first
        self.lasts = lasts
        self.full = False
        self.refused: list[str] = []

    def perform(self, party: str, label: str, write: Callable[[], None]) -> None:
        """Do `write`, or raise what a store raises on a full disk."""
        label = "ledger" if label.startswith("ledger-") else label
        if party == MEMBER:
            done = self.writes.setdefault(party, [])
            self.full = self.full or len(done) + 1 == self.first
            if self.full:
                self.refused.append(label)
                if not self.lasts:
                    self.room()
                raise ResourceError(FULL)
        super().perform(party, label, write)

    def room(self) -> None:
        """Let writes succeed again."""
        self.full, self.first = False, 0


class _RoomError(Exception):
    """There is room again: the loop over the parties begins anew, with a new member."""


class FullFederation(RestartableFederation):
    """A federation whose member ends when its disk is full, and comes back a round later."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.disk = disk
        self.rounds_without = -1
        self.errors: list[str] = []
        super().__init__(directory, cuts=disk, slots_per_epoch=SLOTS)

    def run(
        self, until: Callable[[Consortium], bool], progress: Callable[[], None] | None = None
    ) -> bool:
        """See `Federation.run`; a member that ends stays away for one round."""

        def watch() -> None:
            if self.rounds_without >= 0 and self._rounds() > self.rounds_without:
                raise _RoomError
            if progress is not None:
                progress()

        while True:
            try:
                if Federation.run(self, until, watch):
                    return True
            except _RoomError:
                self._come_back()
                continue
            except ResourceError as error:
                if str(error) != FULL or self.rounds_without >= 0:
                    raise
                self._end(str(error))
                continue
            if self.rounds_without < 0:
                return False
            # Nothing moves any more without it: the rounds are over.
            self._come_back()

    def _rounds(self) -> int:
        return sum(len(study.rounds) for study in self.coordinator.state.studies.values())

    def _end(self, error: str) -> None:
        self.errors.append(error)
        self.rounds_without = self._rounds()
        self.network.sever(MEMBER)
        # Whoever starts it again before there is room gets the same error, or a node that waits.
        try:
            self.reopen(MEMBER)
        except ResourceError as again:
            assert str(again) == FULL

    def _come_back(self) -> None:
        self.rounds_without = -1
        self.disk.room()
        self.network.heal(MEMBER)
        self.reopen(MEMBER)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of a federation; tests work on copies."""
    directory = tmp_path_factory.mktemp("full") / "federation"
    write_federation(directory)
    return directory


@pytest.fixture(scope="module")
def writes(place: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The member's durable writes in a run with room enough."""
    copy = tmp_path_factory.mktemp("roomy") / "copy"
    shutil.copytree(place, copy)
    federation = FullFederation(copy, Disk())
    federation.establish()
    study = whole_study(federation)
    assert sums(study) == [4] * 6 and not federation.errors
    return federation.disk.writes[MEMBER]


def test_the_points_are_all_that_there_are(writes: list[str]) -> None:
    assert set(writes[begun(writes) :]) == set(POINTS)


def begun(writes: list[str]) -> int:
    """Return how many writes there were before the study's first epoch."""
    return min(writes.index("secret-write"), writes.index("participant-epoch-init"))


@pytest.mark.parametrize(
    ("label", "occurrence", "lasts"),
    [
        *((label, 0, False) for label in POINTS),
        ("secret-write", 0, True),
        ("participant-slot-input-persisting", -1, True),
    ],
)
def test_a_full_disk_stops_one_member_and_nobody_else(
    place: Path, tmp_path: Path, writes: list[str], label: str, occurrence: int, lasts: bool
) -> None:
    since = begun(writes)
    numbers = [number for number, one in enumerate(writes, 1) if number > since and one == label]
    shutil.copytree(place, tmp_path / "copy")
    federation = FullFederation(tmp_path / "copy", Disk(numbers[occurrence], lasts=lasts))
    federation.establish()
    study = whole_study(federation)
    disk = federation.disk
    assert disk.refused[0] == label and federation.errors == [FULL]
    assert study.phase is Phase.COMPLETED and study.final_model is not None
    assert set(sums(study)) <= {3, 4}
    # Whatever it had begun to say it says again in the same bytes, or not at all.
    assert_said_once(federation)
    assert_no_fork(federation)
    assert federation.participants[MEMBER].size == federation.coordinator.size
    assert not [name for name in federation.kept[MEMBER].secrets.names() if "slot" in name]
    assert FULL not in federation.journal_of(COORDINATOR)
    verify_bundle(federation.bundle(), federation.anchor)
