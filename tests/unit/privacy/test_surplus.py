"""Surplus noise: how a share is divided, and that what is taken off is what was added.

Planted and caught: a tier's variance divided by k instead of k - c; a component's variance rounded
down; the tier above opened; the base counted as a component; one key for two components; keys that
do not depend on their number; a part below the least variance of the lemma; the component of
another tier taken off; a tier reached one survivor late; without keys the base alone drawn; local
noise divided; places that do not rise geometrically; keys under another label; a place of the row
one too high; a base below the least variance; a key that is too short.
"""

import json
import math
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

from treaty.errors import UsageError
from treaty.ids import Digest
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noise_commitment, noised
from treaty.privacy.events import LEMMA_LOSS, MIN_SHARE_VARIANCE, accounted_variance
from treaty.privacy.surplus import (
    MAX_TIERS,
    NoiseKeys,
    NoiseTiers,
    noise_keys,
    noised_in_parts,
    surplus_noise,
    tiers_for,
)
from treaty.privacy.terms import DistributedGaussian, noise_tiers, share_of, sum_variance

VARIANCE = (1 << 50) + 12345
COHORTS = [
    Cohort(members, least, colluders)
    for members in (3, 4, 5, 6, 7, 10, 25, 100)
    for colluders in (1, 2, 3, 8)
    for least in range(colluders + 2, members + 1)
    if members <= 10 or least in (colluders + 2, members // 2 + 1, members - 1, members)
]
QUERY = Digest("cd" * 32)


@pytest.mark.parametrize("limit", range(MAX_TIERS + 1))
def test_whoever_survives_the_honest_retain_the_whole_variance(limit: int) -> None:
    """And never more than colluders can take: exactly what the honest ones must carry."""
    for cohort in COHORTS:
        tiers = tiers_for(VARIANCE, cohort, limit)
        assert len(tiers.components) <= limit
        assert tiers.survivors[0] == cohort.min_survivors
        assert tiers.retained[0] == -(-VARIANCE // cohort.min_honest)
        for survivors in range(cohort.min_survivors, cohort.members + 1):
            honest = survivors - cohort.max_colluders
            assert honest * tiers.retained_for(survivors) >= VARIANCE
            assert tiers.retained_for(survivors) == tiers.retained[0] - sum(
                tiers.components[: tiers.opened(survivors)]
            )
        assert tiers.base + sum(tiers.components) == tiers.retained[0]


def test_with_few_numbers_of_survivors_each_has_its_own_share() -> None:
    """Then the sum carries k / (k - c) of the need, up to rounding."""
    for cohort in COHORTS:
        if cohort.members - cohort.min_survivors > MAX_TIERS:
            continue
        tiers = tiers_for(VARIANCE, cohort)
        for survivors in range(cohort.min_survivors, cohort.members + 1):
            honest = survivors - cohort.max_colluders
            assert tiers.retained_for(survivors) == -(-VARIANCE // honest)


def test_with_many_numbers_what_is_left_over_is_bounded_by_one_factor() -> None:
    """Retained against needed: at most the geometric step and what whole numbers cost."""
    for cohort in COHORTS:
        few, many = cohort.min_honest, cohort.members - cohort.max_colluders
        tiers = tiers_for(VARIANCE, cohort)
        assert tiers.retained_for(cohort.members) == -(-VARIANCE // many)
        for survivors in range(cohort.min_survivors, cohort.members + 1):
            honest = survivors - cohort.max_colluders
            over = Fraction(honest * tiers.retained_for(survivors), VARIANCE)
            step = (many / few) ** (1 / MAX_TIERS)
            # One whole number lost below a place of the row, at the smallest place.
            assert float(over) <= step * (few + 1) / few + 1e-9


def test_four_sites_carry_four_thirds_of_a_curators_noise_and_not_twice() -> None:
    """The demonstration's group: one colluder, one loss."""
    cohort = Cohort(4, 3, 1)
    terms = DistributedGaussian(
        epsilon_milli=1000, delta_inverse=100_000, variance="3000000000000", surplus_tiers=4
    )
    total = int(terms.variance, 16)
    assert sum_variance(terms, terms.variance, cohort, 4) == 4 * total // 3
    assert sum_variance(terms, terms.variance, cohort, 3) == 3 * total // 2
    kept = msgspec.structs.replace(terms, surplus_tiers=msgspec.UNSET)
    assert sum_variance(kept, terms.variance, cohort, 4) == 2 * total


def test_local_noise_has_no_surplus() -> None:
    """Each site answers for all of it, however many there are."""
    terms = DistributedGaussian(
        epsilon_milli=1000,
        delta_inverse=100_000,
        variance="3000000000000",
        surplus_tiers=4,
        share="local",
    )
    tiers = noise_tiers(terms, terms.variance, Cohort(4, 3, 1))
    assert tiers.components == ()
    assert tiers.base == int(terms.variance, 16) == share_of(terms, terms.variance, Cohort(4, 3, 1))


def test_parts_too_small_for_the_lemma_are_joined() -> None:
    """Every part that is drawn is at least 2^20 grid units squared."""
    for variance in (MIN_SHARE_VARIANCE * times for times in (2, 4, 9, 40, 3000)):
        for cohort in COHORTS:
            if variance < cohort.min_honest * MIN_SHARE_VARIANCE:
                continue
            tiers = tiers_for(variance, cohort)
            assert min(tiers.base, *tiers.components, tiers.base) >= MIN_SHARE_VARIANCE
            for survivors in range(cohort.min_survivors, cohort.members + 1):
                honest = survivors - cohort.max_colluders
                assert honest * tiers.retained_for(survivors) >= variance
    # Somewhere something was joined, or this tests nothing.
    assert len(tiers_for(MIN_SHARE_VARIANCE * 40, Cohort(10, 6, 1)).components) < MAX_TIERS


def test_more_colluders_than_covered_gain_most_where_fewest_survive() -> None:
    """(k - j) / (k - c) of the variance is unknown to j colluders: least at k = min_survivors."""
    for cohort in COHORTS:
        tiers = tiers_for(VARIANCE, cohort)
        for colluders in range(cohort.max_colluders + 1, cohort.min_survivors):
            left = [
                (survivors - colluders) * tiers.retained_for(survivors)
                for survivors in range(cohort.min_survivors, cohort.members + 1)
            ]
            worst = (cohort.min_survivors - colluders) * tiers.retained[0]
            exact = Fraction((cohort.min_survivors - colluders) * VARIANCE, cohort.min_honest)
            assert min(left) == worst >= exact


def test_what_is_accounted_is_at_most_what_the_honest_retain() -> None:
    """The certificate counts `min_honest` whole shares less the lemma's four units."""
    for cohort in COHORTS:
        tiers = tiers_for(VARIANCE, cohort)
        counted = accounted_variance(tiers.retained[0], cohort.min_honest)
        for survivors in range(cohort.min_survivors, cohort.members + 1):
            retained = (survivors - cohort.max_colluders) * tiers.retained_for(survivors)
            # A whole share is rounded up: its surplus over the plan's variance is below one unit
            # for each honest member, and the lemma's loss is not touched by it.
            assert retained + cohort.min_honest > counted + LEMMA_LOSS
            assert retained >= VARIANCE


def test_what_is_taken_off_leaves_what_the_other_parts_drew() -> None:
    """For every number of survivors, coordinate by coordinate."""
    cohort, length = Cohort(6, 4, 1), 40
    tiers = tiers_for(VARIANCE, cohort)
    keys = noise_keys(bytes(range(32)), len(tiers.components))
    zero = np.zeros(length, dtype=np.int64)
    whole = noised_in_parts(zero, tiers, keys, ring_bits=64)
    parts = [
        noised(zero, share_variance=variance, ring_bits=64, key=key)
        for variance, key in zip(
            (tiers.base, *tiers.components), (keys.base, *keys.surplus), strict=True
        )
    ]
    for survivors in (4, 5, 6):
        count = tiers.opened(survivors)
        off = surplus_noise(tiers, keys.surplus[:count], survivors, length)
        left = parts[0] + sum(parts[1 + count :], start=zero)
        assert (whole - off == left).all()
    assert tiers.opened(4) == 0 and tiers.opened(6) == 2


def test_the_opened_sum_has_the_variance_of_its_tier() -> None:
    """Fixed keys, 60,000 coordinates: within five standard errors, and not that of another tier.

    The least gap between two tiers here is a tenth; five standard errors are 3 %.
    """
    cohort, length = Cohort(6, 4, 1), 60_000
    tiers = tiers_for(VARIANCE, cohort)
    zero = np.zeros(length, dtype=np.int64)
    for survivors in (4, 5, 6):
        total = np.zeros(length, dtype=np.int64)
        for member in range(survivors):
            keys = noise_keys(bytes([survivors, member] * 16), len(tiers.components))
            total += noised_in_parts(zero, tiers, keys, ring_bits=64)
            opened = keys.surplus[: tiers.opened(survivors)]
            total -= surplus_noise(tiers, opened, survivors, length)
        wanted = survivors * tiers.retained_for(survivors)
        found = float(np.mean(np.square(total.astype(np.float64))))
        assert abs(found / wanted - 1) < 5 * math.sqrt(2 / length)
        assert abs(float(total.mean())) < 5 * math.sqrt(wanted / length)


def test_without_keys_for_components_the_whole_share_comes_from_the_base() -> None:
    """What a site draws whose charter has no row for such keys: the noise of a plan without."""
    tiers = tiers_for(VARIANCE, Cohort(4, 3, 1))
    zero = np.zeros(9, dtype=np.int64)
    key = bytes(range(32))
    plain = noised(zero, share_variance=tiers.retained[0], ring_bits=64, key=key)
    assert (noised_in_parts(zero, tiers, NoiseKeys(key), ring_bits=64) == plain).all()


def test_every_part_has_a_key_of_its_own() -> None:
    """Equal keys would give the base away with a component, and are refused before drawing."""
    keys = noise_keys(bytes(32), MAX_TIERS)
    assert len({keys.base, *keys.surplus}) == 1 + MAX_TIERS
    assert keys != noise_keys(bytes([1] * 32), MAX_TIERS)
    tiers = tiers_for(VARIANCE, Cohort(4, 3, 1))
    with pytest.raises(UsageError, match="a key of its own"):
        noised_in_parts(
            np.zeros(1, dtype=np.int64), tiers, NoiseKeys(keys.base, (keys.base,)), ring_bits=64
        )


def test_commitments_show_equal_keys_and_nothing_of_the_base() -> None:
    """They name the question, not the place."""
    keys = noise_keys(bytes(32), 2)
    first, second = keys.commitments(QUERY)
    assert first == noise_commitment(keys.surplus[0], QUERY) != second
    same = NoiseKeys(keys.base, (keys.surplus[0],) * 2)
    assert len(set(same.commitments(QUERY))) == 1
    assert keys.base.hex() not in repr(keys) and keys.surplus[0].hex() not in repr(keys)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_keys_than_the_survivors_open_is_refused(count: int) -> None:
    """Too many would take noise off that is needed."""
    tiers = tiers_for(VARIANCE, Cohort(6, 4, 1))
    keys = noise_keys(bytes(32), 4).surplus
    with pytest.raises(UsageError, match="expected 2 keys"):
        surplus_noise(tiers, keys[:count], 6, 3)
    with pytest.raises(UsageError, match="expected 2 keys of 32 bytes"):
        surplus_noise(tiers, (keys[0], keys[1][:31]), 6, 3)
    with pytest.raises(UsageError, match="at least 4 survivors"):
        tiers.opened(3)


def test_tiers_that_do_not_fall_or_limits_out_of_range_are_refused() -> None:
    """What cannot be a division of a share cannot be built."""
    for survivors, retained in (
        ((), ()),
        ((3, 4), (5, 5)),
        ((4, 3), (6, 5)),
        ((3,), (6, 5)),
    ):
        with pytest.raises(UsageError, match="falling variances"):
            NoiseTiers(survivors, retained)
    with pytest.raises(UsageError, match="0 to 4 components"):
        tiers_for(VARIANCE, Cohort(4, 3, 1), 5)


def test_discrete_gaussians_of_unequal_variance_add_up_to_one() -> None:
    """The lemma's second part, exactly: the factor is within that of s^2 = a b / (a + b)."""
    for first, second in ((4, 12), (3, 30), (2, 50)):
        total, reach = first + second, 12 * math.isqrt(first + second)
        s_squared = first * second / total
        slack = 2 * sum(math.exp(-2 * math.pi**2 * s_squared * j * j) for j in range(1, 4))
        grid = range(-3 * reach, 3 * reach + 1)

        def pmf(variance: int, grid: range = grid) -> dict[int, float]:
            weight = {x: math.exp(-x * x / (2 * variance)) for x in grid}
            whole = math.fsum(weight.values())
            return {x: one / whole for x, one in weight.items()}

        a, b, one = pmf(first), pmf(second), pmf(total)
        for x in range(-reach // 2, reach // 2 + 1):
            both = math.fsum(a[y] * b[x - y] for y in grid if x - y in b)
            assert both / one[x] <= (1 + slack) / (1 - slack) + 1e-12
            assert both / one[x] >= (1 - slack) / (1 + slack) - 1e-12
    # Of parts of at least 2^20 units squared nothing is left of it.
    assert 2 * math.exp(-2 * math.pi**2 * MIN_SHARE_VARIANCE / 2) == 0.0


# --- known answers ------------------------------------------------------------------------------

KNOWN = json.loads(
    (Path(__file__).parents[2] / "vectors" / "v1" / "surplus_noise.json").read_text(
        encoding="ascii"
    )
)


def test_shares_are_divided_as_the_page_says() -> None:
    """Made a second time from the page: `tools/gen_surplus_vectors.py`."""
    assert len(KNOWN["tiers"]) > 40
    for row in KNOWN["tiers"]:
        cohort = Cohort(row["members"], row["min_survivors"], row["max_colluders"])
        tiers = tiers_for(int(row["variance"], 16), cohort, row["parts"])
        assert list(tiers.survivors) == row["survivors"]
        assert [f"{share:x}" for share in tiers.retained] == row["retained"]


def test_keys_commitments_and_noise_are_the_known_ones() -> None:
    known = KNOWN["keys"]
    keys = noise_keys(bytes.fromhex(known["entropy"]), 4)
    assert keys.base.hex() == known["base"]
    assert [key.hex() for key in keys.surplus] == known["parts"]
    assert list(keys.commitments(Digest(known["query"]))) == known["commitments"]
    tiers = tiers_for(VARIANCE, Cohort(10, 6, 1))
    found = surplus_noise(tiers, keys.surplus, 10, len(KNOWN["taken_off"]))
    assert found.tolist() == KNOWN["taken_off"]
