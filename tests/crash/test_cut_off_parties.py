"""One party ends at one of its durable writes and comes back; the others never notice.

Unlike the campaign of the killed process, only one party loses its memory: the others hold on to
what they sent, and the engine to what was not acknowledged. Every byte that leaves is captured, so
a second contribution would be seen even if the log never took it. `tests/campaign` takes all
writes.

Planted faults that these tests caught: keys drawn anew after a restart; posts that are not sent
again; a report that is forgotten, or drawn anew; epochs that are numbered from one again in every
study.
"""

import shutil
from pathlib import Path

import pytest

from tests.restartable_federation import (
    Cuts,
    RestartableFederation,
    assert_ends_like,
    assert_said_once,
    opened,
    sums,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES, contract, small_plan
from treaty.models.specification import MultilayerPerceptron
from treaty.protocol.secagg_messages import EpochOpened
from treaty.protocol.statements import peek
from treaty.protocol.study import Study
from treaty.simulation.federation import COORDINATOR

MEMBER = SITES[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directories of a federation; tests work on copies."""
    directory = tmp_path_factory.mktemp("cut-off") / "federation"
    write_federation(directory)
    return directory


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> tuple[RestartableFederation, Study]:
    federation = opened(place)
    study = whole_study(federation)
    assert sums(study) == [4] * 6 and set(study.reports) == set(SITES)
    assert_said_once(federation)
    return federation, study


POINTS = [
    (COORDINATOR, "coordinator-append", 3, "before"),
    (COORDINATOR, "coordinator-append", 10, "after"),
    (COORDINATOR, "coordinator-append", -3, "after"),
    (COORDINATOR, "coordinator-append", -2, "before"),
    (COORDINATOR, "coordinator-append", -1, "after"),
    (MEMBER, "secret-write", 0, "after"),
    (MEMBER, "participant-epoch-dealing", 0, "after"),
    (MEMBER, "participant-slot-input-persisting", 3, "before"),
    (MEMBER, "participant-slot-input-persisting", 3, "after"),
    (MEMBER, "participant-slot-answer-persisting", 2, "before"),
    (MEMBER, "secret-erase", 4, "before"),
    (MEMBER, "participant-report", 0, "after"),
]


@pytest.mark.parametrize(("party", "label", "occurrence", "moment"), POINTS)
def test_a_party_that_was_cut_off_goes_on_where_it_stood(
    place: Path,
    tmp_path: Path,
    undisturbed: tuple[RestartableFederation, Study],
    party: str,
    label: str,
    occurrence: int,
    moment: str,
) -> None:
    """The same model over the same members, and nothing said twice in different words."""
    federation, clean = undisturbed
    numbers = [n for n, one in enumerate(federation.cuts.writes[party], 1) if one == label]
    shutil.copytree(place, tmp_path / "copy")
    assert_ends_like(tmp_path / "copy", clean, party, numbers[occurrence], moment)


def test_every_party_may_be_cut_off_in_one_study(
    place: Path, tmp_path: Path, undisturbed: tuple[RestartableFederation, Study]
) -> None:
    """Each member at another write, the coordinator at three."""
    cuts: set[tuple[str, int, str]] = {(COORDINATOR, n, "after") for n in (5, 13, 21)}
    cuts |= {(name, 14 + 7 * n, "before") for n, name in enumerate(SITES)}
    shutil.copytree(place, tmp_path / "copy")
    federation = opened(tmp_path / "copy", cuts=Cuts(cuts))
    study = whole_study(federation)
    assert len(federation.ended) == len(cuts)
    assert study.final_model == undisturbed[1].final_model
    assert_said_once(federation)


def test_a_secret_that_no_record_can_use_is_erased_at_the_start(
    place: Path, tmp_path: Path
) -> None:
    """The process ended between a secret and its record, or the record's epoch is over: I6."""
    shutil.copytree(place, tmp_path / "copy")
    federation = opened(tmp_path / "copy")
    secrets = federation.kept[MEMBER].secrets
    for name in ("epoch-000001", "epoch-000001-slot-0003", "epoch-0000010"):
        secrets.write(name, b"never sent")
    federation.reopen(MEMBER)
    assert secrets.names() == ()
    whole_study(federation)
    assert secrets.names() == ()


def test_a_second_study_loses_no_epoch_to_the_first(
    place: Path, tmp_path: Path, undisturbed: tuple[RestartableFederation, Study]
) -> None:
    """Epochs are numbered across studies, so that no member takes a new one for a replay."""
    shutil.copytree(place, tmp_path / "copy")
    federation = opened(tmp_path / "copy", slots_per_epoch=2)
    first = whole_study(federation)
    assert first.epochs == 3
    federation.reopen(MEMBER)
    second = federation.run_study(small_plan(federation, "again"), contract())
    assert second.final_model == undisturbed[1].final_model
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    begun = [body for body in bodies if isinstance(body, EpochOpened)]
    assert len(begun) == second.epochs == 6 and sums(second) == [4] * 6
    assert_said_once(federation)


def test_a_report_is_not_computed_twice_although_training_draws_entropy(tmp_path: Path) -> None:
    """A second report would be a second look at the holdout; the row allows one for each study."""
    write_federation(tmp_path / "federation")
    shutil.copytree(tmp_path / "federation", tmp_path / "copy")
    model = MultilayerPerceptron(hidden=(4,), rounds=2)
    federation = opened(tmp_path / "federation")
    whole_study(federation, small_plan(federation, model=model))
    number = federation.cuts.writes[MEMBER].index("participant-report") + 1

    other = opened(tmp_path / "copy", cuts=Cuts({(MEMBER, number, "after")}))
    study = whole_study(other, small_plan(other, model=model))
    assert other.ended == [MEMBER] and set(study.reports) == set(SITES)
    other.reopen(MEMBER)
    other.participants[MEMBER].start()
    assert_said_once(other)
    first, second = (federation.said(), other.said())
    assert [key for key in second if key[1] == "SiteReported"]
    assert len(first) == len(second)
