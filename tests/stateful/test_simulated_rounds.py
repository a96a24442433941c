"""A short run of the round simulation: the invariants I1 to I7 of `round_simulation`.

The campaign (`tests/campaign/test_simulated_rounds.py`) plays 100,000 rounds of it.
"""

from collections import Counter

import pytest

from tests.stateful.round_simulation import group_play


@pytest.mark.parametrize("seed", range(18))
def test_the_invariants_hold_in_every_round(seed: int) -> None:
    played = group_play(seed, 12)
    assert played.counts["rounds"] == 12
    assert played.counts["published"] > 0


def test_a_run_says_the_same_thing_twice() -> None:
    """Classical suite: the seed decides everything."""
    runs: list[Counter[str]] = [group_play(1, 8).counts for _ in range(2)]
    assert runs[0] == runs[1]
