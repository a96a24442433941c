"""100,000 whole rounds under faults, the seven invariants I1 to I7 checked after each.

What is simulated, and what each invariant says, stands in `tests/stateful/round_simulation.py`.
Groups of three to six members, up to two colluders, both suites, all rings, eight slots an epoch;
one group in three has a liar and one a member whose store goes back to old backups. ``ci`` plays
2,400 rounds of fixed seeds; ``full`` plays 100,000 and stores what happened, by name and number,
in `tests/campaign/results/simulated_rounds.json`; a run that is ended early leaves the table as
far as it came.

Found by it: keys that stand in an epoch twice were logged, and the roster with them refused by all,
so that one member could stop every epoch (`keys-repeat` is refused before the log since).

Planted faults that it caught: see `tests/stateful/test_simulated_rounds.py`.
"""

import json
import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.stateful.round_simulation import EVILS, POINTS, group_play

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = Path(__file__).parent / "results" / "simulated_rounds.json"
ROUNDS = 100_000 if FULL else 2_400
PER_GROUP = 24
FIRST_FULL = 1_000_000


def store(counts: Counter[str], by_evil: Counter[str], cpu_seconds: float) -> None:
    """Write the table of a full run, as far as it has come."""
    RESULTS.write_text(
        json.dumps(
            {
                "date": datetime.now(UTC).strftime("%Y-%m-%d"),
                "command": "TREATY_CAMPAIGN=full python -m pytest "
                "tests/campaign/test_simulated_rounds.py",
                "asked": ROUNDS,
                "rounds": counts["rounds"],
                "complete": counts["rounds"] >= ROUNDS,
                "violations": 0,
                "cpu_seconds": round(cpu_seconds),
                "rounds_by_misbehaviour": dict(sorted(by_evil.items())),
                "counts": dict(sorted(counts.items())),
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )


@pytest.mark.timeout(0 if FULL else 400)
def test_the_invariants_hold_in_every_round() -> None:
    counts: Counter[str] = Counter()
    by_evil: Counter[str] = Counter()
    began = time.process_time()
    first = FIRST_FULL if FULL else 0
    groups = -(-ROUNDS // PER_GROUP)
    for seed in range(first, first + groups):
        played = group_play(seed, PER_GROUP)
        counts += played.counts
        by_evil[played.evil] += played.counts["rounds"]
        if FULL and (seed % 100 == 99 or seed == first + groups - 1):
            store(counts, by_evil, time.process_time() - began)
    assert counts["rounds"] >= ROUNDS
    # Faults that never happened would show nothing.
    assert counts["published"] > ROUNDS // 4
    assert counts["abandoned"] > ROUNDS // 20
    assert set(by_evil) == set(EVILS)
    for name in ("lost", "repeated", "corrupted", "restart", "old backup", "other survivors"):
        assert counts[name] > ROUNDS // 100, name
    assert [point for point in POINTS if not counts[f"crash {point}"]] == []


def test_the_stored_run_says_what_it_is() -> None:
    """The table does not claim more rounds than were played, and every fault was in them."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert stored["rounds"] == sum(stored["rounds_by_misbehaviour"].values()) >= 10_000
    assert stored["complete"] == (stored["rounds"] >= stored["asked"] == 100_000)
    assert stored["violations"] == 0
    assert [point for point in POINTS if not stored["counts"].get(f"crash {point}")] == []
