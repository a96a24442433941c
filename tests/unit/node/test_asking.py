"""When a coordinator states the time: no entry stands in a log twice, however still its clock is.

Planted and caught: the time stated once more within the same millisecond; the log's own time stated
again by a clock that went back; no time at all.
"""

from pathlib import Path

import pytest

from tests.small_federation import contract, found, small_plan
from tests.worlds import NOW, World
from treaty.ids import Timestamp
from treaty.node.asking import time_due
from treaty.protocol.messages import TimeStated
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase


@pytest.mark.parametrize(("later", "stated"), [(-1000, False), (0, False), (1, True)])
def test_the_time_is_stated_when_the_log_does_not_say_it(later: int, stated: bool) -> None:
    world = World()
    world.say(TimeStated, at=NOW + 5)
    assert world.state.at == NOW + 5
    due = time_due(world.state, Timestamp(NOW + 5 + later))
    assert [(one.at, blobs) for one, blobs in due if isinstance(one, TimeStated)] == (
        [(NOW + 5 + later, ())] if stated else []
    )


class Still:
    """A clock that stands."""

    def now(self) -> Timestamp:
        return NOW


def test_with_a_clock_that_stands_still_the_time_is_in_the_log_once(tmp_path: Path) -> None:
    federation = found(tmp_path / "f", coordinator_clock=Still(), clock=Still())
    for name in ("first", "second"):
        study = federation.run_study(small_plan(federation, name), contract())
        assert study.phase is Phase.COMPLETED
    entries = federation.coordinator.entries
    assert len(set(entries)) == len(entries)
    assert [type(peek(one)[1]) for one in entries].count(TimeStated) == 1
    federation.close()
