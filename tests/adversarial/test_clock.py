"""T-25, T-37: the log's clock is the coordinator's word; members compare it with their own.

Planted faults that these tests caught: a member that refuses old times, so that it can never catch
up; one that joins an epoch at any time; one that accepts any time to come.
"""

from pathlib import Path

from tests.small_federation import SITES, contract, found, small_plan
from treaty.ids import MemberId, Timestamp
from treaty.protocol.messages import TimeStated
from treaty.protocol.study import Phase
from treaty.simulation.federation import COORDINATOR

DAY_MS = 86_400_000


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000

    def now(self) -> Timestamp:
        return Timestamp(self.at)


def test_a_member_that_was_away_for_days_catches_up(tmp_path: Path) -> None:
    clock = HandClock()
    federation = found(tmp_path, clock=clock, in_memory=True)
    away = SITES[-1]
    federation.network.sever(away)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    assert all(away not in one.participants for one in study.rounds)
    clock.at += 30 * DAY_MS
    federation.network.heal(away)
    federation.participants[away].start()
    federation.run(lambda _: federation.participants[away].size == federation.coordinator.size)
    assert federation.participants[away].size == federation.coordinator.size
    # It gave no keys to the epoch that it finds in the past.
    assert "expected the coordinator to state the time" in federation.journal_of(away)


def test_an_epoch_at_a_time_long_past_gets_no_keys(tmp_path: Path) -> None:
    """A coordinator whose clock stands still would keep an expired charter in force."""
    standing, going = HandClock(), HandClock()
    federation = found(tmp_path, clock=going, coordinator_clock=standing, in_memory=True)
    going.at += 2 * DAY_MS
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.HALTED
    assert study.rounds == ()
    assert all("refused.clock-skew" in federation.journal_of(name) for name in SITES)


def test_a_time_far_ahead_is_refused(tmp_path: Path) -> None:
    federation = found(tmp_path, clock=HandClock(), in_memory=True)
    sizes = {name: node.size for name, node in federation.participants.items()}
    body = TimeStated(
        charter=federation.coordinator.state.members.directory.charter,
        author=COORDINATOR,
        at=HandClock().at + 2 * DAY_MS,
    )
    federation.coordinator.submit(federation.coordinator.sign(body))
    federation.run(lambda _: False)
    assert {name: node.size for name, node in federation.participants.items()} == sizes
    assert all("clock-skew" in federation.journal_of(MemberId(name)) for name in SITES)
