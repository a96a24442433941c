"""Derived parameters: the frozen table, and what each value is for, enumerated.

Planted faults seen to fail: plain majority as witness quorum; threshold without c;
max_colluders of N - 1 accepted; a charter that lowers min_survivors.
"""

import itertools
import json
from pathlib import Path

import pytest

from treaty.errors import PolicyError
from treaty.governance.quorum import MOST_MEMBERS, DerivedParameters

VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors/v1/derived_parameters.json").read_text(encoding="utf-8")
)
SAFE = [
    DerivedParameters(members, colluders)
    for members in range(3, MOST_MEMBERS + 1)
    for colluders in range(1, members - 1)
]


@pytest.mark.parametrize("row", VECTORS["good"], ids=lambda row: str(tuple(row.values())))
def test_the_table_of_thresholds_is_frozen(row: dict[str, int]) -> None:
    derived = DerivedParameters(row["members"], row["max_colluders"])
    assert {name: getattr(derived, name) for name in row} == row


@pytest.mark.parametrize("row", VECTORS["bad_parameters"], ids=str)
def test_unsafe_pairs_are_refused(row: dict[str, int]) -> None:
    with pytest.raises(PolicyError) as refusal:
        DerivedParameters(row["members"], row["max_colluders"])
    assert refusal.value.code == "parameters"


def test_the_hospitals_of_the_demo_tolerate_one_loss() -> None:
    derived = DerivedParameters(4, 1)
    assert (derived.min_survivors, derived.min_honest, derived.tolerated_losses) == (3, 2, 1)


def test_both_kinds_of_share_are_never_within_reach() -> None:
    for derived in SAFE:
        honest = derived.members - derived.max_colluders
        assert 2 * (derived.share_threshold - derived.max_colluders) > honest


def test_every_opened_sum_hides_among_two_honest_members() -> None:
    for derived in SAFE:
        assert derived.min_honest >= 2
        assert derived.share_threshold <= derived.min_survivors <= derived.members


def test_two_quorums_meet_in_an_honest_witness() -> None:
    for derived in SAFE:
        dishonest = max(derived.max_colluders, derived.tolerated_faults)
        assert 2 * derived.witness_quorum - derived.members > dishonest
        assert derived.witness_quorum <= derived.members


def test_no_split_view_exists_for_small_consortia() -> None:
    """Every pair of quorums, by brute force: they share a witness outside every dishonest set."""
    for members in range(3, 8):
        derived = DerivedParameters(members, 1)
        dishonest = max(1, derived.tolerated_faults)
        quorums = [set(q) for q in itertools.combinations(range(members), derived.witness_quorum)]
        for first, second in itertools.product(quorums, repeat=2):
            assert len(first & second) > dishonest


def test_a_charter_may_raise_min_survivors_and_never_lower_it() -> None:
    for members, colluders in itertools.product(range(3, 12), range(1, 10)):
        if colluders > members - 2:
            continue
        least = DerivedParameters(members, colluders).least_min_survivors
        for raised in range(members + 3):
            if least <= raised <= members:
                assert DerivedParameters(members, colluders, raised).min_survivors == raised
            else:
                with pytest.raises(PolicyError):
                    DerivedParameters(members, colluders, raised)
