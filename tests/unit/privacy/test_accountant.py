"""Epsilon against independent brackets, the closed form, and the rounding lemma.

`tests/vectors/v1/privacy_brackets.json` holds two-sided bounds from another method
(tools/gen_privacy_vectors.py): a value below the lower bound would be an unsafe claim.

Planted faults that these tests catch: the sampling rate ignored, noise counted as a variance
where a deviation belongs, no refinement of the grid (58 % too high in one point), the shifts
of a person at two sites weighted in the wrong order, replacement counted as half its shift, a
term of the closed form doubled, an allowance that costs more than a millionth, a grid for noise of
no use (62 PiB), a rate so near one or nought that the library fails, a NaN for an epsilon.
"""

import functools
import json
import math
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from treaty.errors import UsageError
from treaty.privacy.accountant import Adjacency, composed_epsilon
from treaty.privacy.events import (
    SAMPLING_UNIT,
    Event,
    NonPrivateEvent,
    accounted_variance,
    gaussian_event,
)
from treaty.privacy.gaussian import (
    attack_bound,
    epsilon_attack_bound,
    gaussian_delta,
    gaussian_epsilon,
    normal_cdf,
    normal_quantile,
)

CLIP = 1 << 24
VECTORS = json.loads(
    (Path(__file__).parents[2] / "vectors" / "v1" / "privacy_brackets.json").read_text()
)


def event(multiplier: float, sampling: int = SAMPLING_UNIT, rounds: int = 1) -> Event:
    variance = math.floor((Fraction(multiplier) * CLIP) ** 2)
    return gaussian_event(variance=variance, sensitivity=CLIP, count=rounds, sampling=sampling)


def _is_long(row: dict[str, str]) -> bool:
    return int(row["sites"]) > 1 and int(row["rounds"]) > 1000


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * _is_long(row)) for row in VECTORS["sampled"]],
    ids=lambda row: f"{row['noise_multiplier']}-{row['rounds']}-{row['sites']}",
)
def test_sampled_plans_are_never_below_and_at_most_one_percent_above(row: dict[str, str]) -> None:
    found = composed_epsilon(
        [event(float(row["noise_multiplier"]), int(row["sampling"]), int(row["rounds"]))],
        float(row["delta"]),
        sites=int(row["sites"]),
    )
    assert float(row["lower"]) <= found <= 1.01 * float(row["lower"])


@pytest.mark.parametrize("row", VECTORS["gaussian"], ids=lambda r: f"{r['mu']}-{r['delta']}")
def test_the_closed_form_is_never_below_and_tight_to_a_millionth(row: dict[str, str]) -> None:
    exact = Fraction(row["epsilon"])
    found = gaussian_epsilon(Fraction(float(row["mu"])) ** 2, float(row["delta"]))
    assert exact * (1 - Fraction(1, 10**14)) <= Fraction(found) <= exact * (1 + Fraction(1, 10**6))


def test_a_rate_just_below_one_meets_the_closed_form() -> None:
    plain = composed_epsilon([event(30.0, rounds=100)], 1e-5)
    nearly = composed_epsilon([event(30.0, SAMPLING_UNIT - (1 << 20), 100)], 1e-5)
    assert plain * (1 - 1e-6) <= nearly <= plain * 1.005


def test_sampled_and_plain_releases_compose_above_either_alone() -> None:
    sampled, plain = event(1.0, SAMPLING_UNIT // 100, 100), event(4.0)
    both = composed_epsilon([sampled, plain], 1e-5)
    alone = [composed_epsilon([item], 1e-5) for item in (sampled, plain)]
    assert max(alone) < both < composed_epsilon([plain], 5e-6) + composed_epsilon([sampled], 5e-6)


def test_replacing_costs_more_than_adding_and_the_sampled_value_is_known() -> None:
    plan = [event(1.0, round(0.01 * SAMPLING_UNIT), 10_000)]
    replaced = composed_epsilon(plan, 1e-5, adjacency=Adjacency.REPLACE_ONE)
    assert replaced == pytest.approx(10.88, abs=0.01)
    small = [event(8.0, SAMPLING_UNIT // 10, 10)]
    one = composed_epsilon(small, 1e-5)
    two = composed_epsilon(small, 1e-5, sites=2)
    grouped = composed_epsilon(small, 1e-5, sites=2, adjacency=Adjacency.REPLACE_ONE)
    assert one < two < grouped < 5 * two


@pytest.mark.parametrize(
    ("variance", "sensitivity", "sampling", "count", "delta", "sites"),
    [
        (1 << 20, 1 << 32, SAMPLING_UNIT // 2, 20, 1e-5, 1),
        (1 << 20, 1 << 24, 1, 10_000, 1e-12, 2),
        (1 << 60, 1 << 32, SAMPLING_UNIT - 1, 20, 0.5, 1),
        (690_733_437 << 48, 1 << 24, 1, 1, 1e-12, 2),
        (1 << 46, 1 << 24, SAMPLING_UNIT // 2, 10_000, 0.5, 1),
        (1 << 22, 1 << 24, 1 << 30, 1_000_000, 1e-5, 3),
    ],
    ids=["no noise", "no noise, rare", "rate one", "rate nought", "no secret", "at three sites"],
)
def test_no_numbers_of_a_plan_make_the_accountant_fail_or_run_away(
    variance: int, sensitivity: int, sampling: int, count: int, delta: float, sites: int
) -> None:
    """Whoever proposes a plan chooses them. The answer is a bound: that of nobody left out."""

    def event(rate: int) -> Event:
        return gaussian_event(
            variance=variance, sensitivity=sensitivity, count=count, sampling=rate
        )

    began = time.process_time()
    found = composed_epsilon([event(sampling)], delta, sites=sites)
    whole = composed_epsilon([event(SAMPLING_UNIT)], delta, sites=sites)
    assert time.process_time() - began < 5.0
    assert 0.0 <= found <= whole * 1.01 and math.isfinite(whole)


def test_counting_everybody_is_never_less_than_counting_a_sample() -> None:
    """What stands in for a grid, where a grid can still be made: above the grid's own value."""
    for multiplier, count in ((0.3, 1), (1.0, 100), (4.0, 1000)):
        variance = int((multiplier * (1 << 24)) ** 2)
        sampled, whole = (
            composed_epsilon(
                [gaussian_event(variance=variance, sensitivity=1 << 24, count=count, sampling=q)],
                1e-5,
            )
            for q in (SAMPLING_UNIT // 50, SAMPLING_UNIT)
        )
        assert sampled < whole


def test_unsampled_replacement_is_twice_the_shift() -> None:
    doubled = composed_epsilon([event(4.0)], 1e-5, adjacency=Adjacency.REPLACE_ONE)
    assert doubled == composed_epsilon([event(4.0)], 1e-5, sites=2)


def test_one_noise_free_release_makes_epsilon_infinite() -> None:
    assert composed_epsilon([event(4.0), NonPrivateEvent(name="support")], 1e-5) == math.inf
    assert composed_epsilon([], 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_outside_zero_and_one_is_refused(delta: float) -> None:
    with pytest.raises(UsageError):
        composed_epsilon([event(1.0)], delta)


def test_tiny_deltas_are_refused_for_sampled_plans_only() -> None:
    assert composed_epsilon([event(1.0)], 1e-14) > 0
    with pytest.raises(UsageError, match="least for sampled"):
        composed_epsilon([event(1.0, 1 << 50)], 1e-14)


def test_unsampled_plans_load_neither_scipy_nor_the_pld_library() -> None:
    program = (
        "import sys\n"
        "import treaty.privacy.certificate, treaty.privacy.ledger, treaty.privacy.mechanisms\n"
        "from treaty.privacy.accountant import composed_epsilon\n"
        "from treaty.privacy.events import gaussian_event\n"
        "composed_epsilon([gaussian_event(variance=100, sensitivity=3, count=2)], 1e-5)\n"
        "print(sorted({'scipy', 'dp_accounting'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def _discrete_gaussian(variance: float, radius: int) -> np.ndarray:
    k = np.arange(-radius, radius + 1, dtype=np.float64)
    mass = np.exp(-k * k / (2 * variance))
    return np.asarray(mass / mass.sum())


def _hockey_stick(mass: np.ndarray, shift: int, epsilon: float) -> float:
    """Return delta of a law on consecutive integers against itself, moved by `shift`."""
    above, below = np.r_[np.zeros(shift), mass], np.r_[mass, np.zeros(shift)]
    return math.fsum(np.maximum(above - math.exp(epsilon) * below, 0.0))


@functools.cache
def _two_shares() -> np.ndarray:
    share = _discrete_gaussian(1 << 20, 8200)
    return np.convolve(share, share)


LEMMA_CELLS = [
    (sigma, shift, epsilon)
    for sigma, shift in ((1024, 1), (1024, 100), (1024, 1024), (1024, 4096), (4000, 4000))
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0)
]


@pytest.mark.parametrize(("sigma", "shift", "epsilon"), LEMMA_CELLS)
def test_the_lemma_bounds_one_exact_discrete_share(sigma: int, shift: int, epsilon: float) -> None:
    exact = _hockey_stick(_discrete_gaussian(sigma * sigma, 14 * sigma), shift, epsilon)
    bound = gaussian_delta(shift / math.sqrt(accounted_variance(sigma * sigma, 1)), epsilon)
    # 1e-15 is what fsum of rounded exponentials may be off.
    assert exact <= bound * (1 + 1e-9) + 1e-15
    if exact > 1e-12:
        assert bound <= exact * 1.01 + 1e-13


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 2.0])
def test_the_lemma_bounds_a_sum_of_exact_shares(epsilon: float) -> None:
    bound = gaussian_delta(1024 / math.sqrt(accounted_variance(1 << 20, 2)), epsilon)
    assert _hockey_stick(_two_shares(), 1024, epsilon) <= bound * (1 + 1e-9)


def test_the_four_units_are_needed() -> None:
    # Same variance as the continuous law: the exact discrete value lies above the bound.
    exact = _hockey_stick(_discrete_gaussian(100, 400), 3, 4.0)
    assert exact == pytest.approx(1.2217e-41, rel=1e-3)
    assert exact > gaussian_delta(0.3, 4.0)
    assert exact <= gaussian_delta(3 / math.sqrt(96), 4.0)


@pytest.mark.parametrize(
    ("epsilon", "area", "percent", "per_mille"),
    [
        (0.5, 0.540, 0.014, 0.0016),
        (1, 0.575, 0.020, 0.0024),
        (3, 0.694, 0.054, 0.0089),
        (8, 0.881, 0.255, 0.077),
    ],
)
def test_attack_bounds_agree_with_the_design_table(
    epsilon: float, area: float, percent: float, per_mille: float
) -> None:
    mu = {0.5: 0.142, 1: 0.268, 3: 0.719, 8: 1.67}[epsilon]
    found = attack_bound(mu)
    assert found.area == pytest.approx(area, abs=6e-4)
    assert found.rate_at_one_percent == pytest.approx(percent, abs=1e-3)
    assert found.rate_at_one_per_mille == pytest.approx(per_mille, abs=1e-3)
    weaker = epsilon_attack_bound(epsilon, 1e-5)
    assert weaker.area >= found.area
    assert weaker.rate_at_one_percent >= found.rate_at_one_percent


def test_attack_bounds_have_the_right_ends() -> None:
    nothing = epsilon_attack_bound(0.0, 1e-9)
    assert nothing.area == pytest.approx(0.5, abs=1e-6)
    assert epsilon_attack_bound(math.inf, 1e-5).area == 1.0
    for probability in (1e-9, 0.3, 0.999):
        assert normal_cdf(normal_quantile(probability)) == pytest.approx(probability, rel=1e-12)
