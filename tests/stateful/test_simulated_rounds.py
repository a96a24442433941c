"""A short run of the round simulation: the invariants I1 to I7 of `round_simulation`.

The campaign (`tests/campaign/test_simulated_rounds.py`) plays 100,000 rounds of it.

Planted faults that the simulation caught, some only in a few hundred rounds: both kinds of share
in an answer (I1); headers of two contexts taken together (I4); an answer for a set without the
member; an answer below u_fast without confirmations, and u_fast one lower (I5); the lock on the set
of a question taken off (I5); an input sent before it is stored; the sign of a pair mask, and of the
masks of dropped members (I3); secrets kept at the end of a round, and of an epoch (I6); keys that
stand in an epoch twice, logged by the coordinator. Not caught, because a second check closes the
same door: a slot used twice, a second set in one slot, a set below `min_survivors`, one
confirmation too few.
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
