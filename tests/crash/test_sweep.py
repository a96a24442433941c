"""A sweep that is cut off goes on where it stood, and a damaged part is run again.

Planted and caught: parts of another scenario taken, a cut-off part taken as whole, results in order
of completion instead of number.
"""

from pathlib import Path

import pytest

from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest
from treaty.simulation.sweep import run_sweep

SCENARIO = Digest("ab" * 32)


class Stopping:
    """Counts its calls and stops at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.ran: list[int] = []
        self.stop_at = stop_at

    def __call__(self, number: int) -> dict[str, float]:
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.ran.append(number)
        return {"value": number / 3}


def test_a_sweep_is_taken_up_where_it_was_cut_off(tmp_path: Path) -> None:
    first = Stopping(stop_at=3)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(first, 5, scenario=SCENARIO, parts=tmp_path)
    second, told = Stopping(), list[tuple[int, int]]()
    found = run_sweep(
        second, 5, scenario=SCENARIO, parts=tmp_path, progress=lambda *at: told.append(at)
    )
    assert (first.ran, second.ran) == ([0, 1, 2], [3, 4])
    assert [one["value"] for one in found] == [number / 3 for number in range(5)]
    assert told == [(3, 5), (4, 5), (5, 5)]


def test_a_part_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    run_sweep(Stopping(), 3, scenario=SCENARIO, parts=tmp_path)
    (part,) = tmp_path.rglob("1.json")
    part.write_text(part.read_text()[:-3])
    again = Stopping()
    found = run_sweep(again, 3, scenario=SCENARIO, parts=tmp_path)
    assert again.ran == [1]
    assert found[1] == {"value": 1 / 3}


def test_another_scenario_never_meets_the_parts(tmp_path: Path) -> None:
    run_sweep(Stopping(), 2, scenario=SCENARIO, parts=tmp_path)
    other = Stopping()
    run_sweep(other, 2, scenario=Digest("cd" * 32), parts=tmp_path)
    assert other.ran == [0, 1]


def test_side_by_side_gives_the_same_in_the_same_order(tmp_path: Path) -> None:
    pytest.importorskip("joblib", reason="several jobs need the extra [simulate]")
    alone = run_sweep(Stopping(), 6, scenario=SCENARIO)
    assert run_sweep(Stopping(), 6, scenario=SCENARIO, jobs=2, parts=tmp_path) == alone


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(ResourceError, match="cannot"):
        run_sweep(Stopping(), 1, scenario=SCENARIO, parts=blocked)


@pytest.mark.parametrize(("repeats", "jobs"), [(0, 1), (10_001, 1), (1, 0)])
def test_counts_out_of_range_are_refused(repeats: int, jobs: int) -> None:
    with pytest.raises(UsageError):
        run_sweep(Stopping(), repeats, scenario=SCENARIO, jobs=jobs)
