"""Stand-ins and rehearsals: what is drawn is what was expected, and noise has the stated size.

Planted and caught: rows not brought to length one, the constant column left out, an expected
area reached by the true risk instead of the score, local noise of one share, gradients not
clipped, the average over all iterates, noise that differs between arms.
"""

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.contracts.example import CONTRACT
from treaty.contracts.design import design_columns
from treaty.contracts.schema import parse_contract
from treaty.errors import UsageError
from treaty.evaluation.forecast import Arm
from treaty.privacy.calibration import gaussian_mu
from treaty.simulation.rehearsal import (
    NoiseShares,
    OneRound,
    Recipe,
    area_under_curve,
    descend,
    rehearse,
)
from treaty.simulation.stand_in import Expectations, SchemaSampled, public_rows

EXAMPLE = parse_contract(CONTRACT)
SHARES = NoiseShares(sites=4, shared=Fraction(2), shared_third=Fraction(2))
SIZES = {"alpha": 400, "beta": 200, "gamma": 120, "delta": 80}


def _areas(**changes: object) -> dict[tuple[Arm, float], float]:
    settings: dict[str, object] = {
        "recipe": Recipe(),
        "shares": SHARES,
        "epsilons": (0.5, 8.0),
        "delta": 1e-5,
        "holdout_permille": 300,
        "seed": (0, 1),
    }
    stand_in = SchemaSampled(EXAMPLE, SIZES)
    return rehearse(stand_in.draw(1), **(settings | changes)).areas  # type: ignore[arg-type]


def test_a_stand_in_has_the_sizes_the_prevalence_and_the_area_that_were_expected() -> None:
    wanted = Expectations(area=0.8, prevalence=0.25, site_spread=0.5)
    stand_in = SchemaSampled(EXAMPLE, dict.fromkeys(SIZES, 4000), wanted)
    drawn = stand_in.draw(7)
    assert {name: len(label) for name, (_, label) in drawn.items()} == dict(stand_in.sizes)
    labels = np.concatenate([label for _, label in drawn.values()])
    assert float(labels.mean()) == pytest.approx(0.25, abs=0.02)
    rows = np.vstack([features for features, _ in drawn.values()])
    # A model without noise cannot beat the area that the columns allow, and comes near it.
    found = rehearse(
        drawn,
        recipe=Recipe(clip=1.0, rounds=200),
        shares=SHARES,
        epsilons=(),
        delta=1e-5,
        holdout_permille=500,
        seed=(0,),
    ).areas[Arm.NO_NOISE, 0.0]
    assert 0.75 < found < 0.82
    assert np.allclose(np.square(rows).sum(axis=1), 1.0)


def test_a_repeat_is_drawn_again_the_same_and_another_differs() -> None:
    stand_in = SchemaSampled(EXAMPLE, SIZES)
    first, again, other = (stand_in.draw(number)["alpha"] for number in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_prepared_rows_have_length_one_and_depend_on_the_row_alone() -> None:
    width = len(design_columns(EXAMPLE))
    features = np.random.default_rng(5).normal(50.0, 40.0, (30, width))
    rows = public_rows(EXAMPLE, features)
    assert rows.shape == (30, width + 1)
    assert np.allclose(np.sqrt(np.square(rows).sum(axis=1)), 1.0)
    assert (rows[:, -1] > 0.0).all()
    assert np.array_equal(public_rows(EXAMPLE, features[3:4])[0], rows[3])
    with pytest.raises(UsageError, match="expected"):
        public_rows(EXAMPLE, features[:, 1:])


def test_noise_grows_from_curator_over_shared_to_local() -> None:
    sizes = [SHARES.overshoot(arm) for arm in (Arm.CURATOR, Arm.SHARED, Arm.LOCAL)]
    assert sizes == [1.0, pytest.approx(math.sqrt(2.0)), 2.0]
    assert SHARES.overshoot(Arm.NO_NOISE) == 0.0


def test_the_noise_of_all_rounds_together_meets_the_budget() -> None:
    recipe = Recipe(rounds=20)
    multiplier = recipe.multiplier(1.0, 1e-5)
    together = math.sqrt(20) / multiplier
    counted = math.sqrt(1 / 20) * gaussian_mu(1.0, 1e-5)
    assert math.hypot(together, counted) == pytest.approx(gaussian_mu(1.0, 1e-5))


@pytest.mark.parametrize("recipe", [Recipe(), OneRound()], ids=["descent", "one-round"])
def test_more_budget_never_hurts_and_collaborating_pays(recipe: Recipe | OneRound) -> None:
    """Over a few repeats, with the same noise for every arm, the order of arms is strict."""
    stand_in = SchemaSampled(EXAMPLE, SIZES)
    means: dict[tuple[Arm, float], float] = {}
    for number in range(6):
        outcome = rehearse(
            stand_in.draw(number),
            recipe=recipe,
            shares=SHARES,
            epsilons=(0.5, 8.0),
            delta=1e-5,
            holdout_permille=300,
            seed=(0, number),
        )
        for key, value in outcome.areas.items():
            means[key] = means.get(key, 0.0) + value / 6
    assert means[Arm.ALONE, 0.5] < means[Arm.LOCAL, 0.5] < means[Arm.SHARED, 0.5]
    assert means[Arm.SHARED, 0.5] < means[Arm.CURATOR, 0.5] < means[Arm.NO_NOISE, 0.0]
    assert means[Arm.SHARED, 0.5] < means[Arm.SHARED, 8.0]


def test_arms_of_equal_noise_give_the_same_model() -> None:
    areas = _areas()
    assert areas[Arm.SHARED, 0.5] == areas[Arm.SHARED_DEFAULT, 0.5]
    assert _areas() == areas
    assert _areas(seed=(0, 2)) != areas


def test_the_first_signal_is_the_clipped_gradient_over_the_noise() -> None:
    """At weights of zero every error is one half: counts alone give the clipped gradient."""
    label = np.r_[np.ones(30), np.zeros(70)]
    rows = np.tile([0.6, 0.8], (100, 1))
    recipe = Recipe(clip=0.25, rounds=3)
    outcome = rehearse(
        dict.fromkeys(SIZES, (rows, label)),
        recipe=recipe,
        shares=SHARES,
        epsilons=(1.0,),
        delta=1e-5,
        holdout_permille=400,
        seed=(0,),
    )
    held, positives = outcome.holdout
    assert held == 160
    surplus = abs((400 - held - (120 - positives)) - (120 - positives))
    noise = recipe.multiplier(1.0, 1e-5) * math.sqrt(2.0) * 0.25
    assert outcome.signals[1.0][0] == pytest.approx(
        surplus * 0.25 / (noise * math.sqrt(2.0)), rel=1e-9
    )


def test_rows_of_one_class_cannot_be_rehearsed_on() -> None:
    rows = np.tile([0.6, 0.8], (10, 1))
    with pytest.raises(UsageError, match="one class only"):
        rehearse(
            {name: (rows, np.ones(10)) for name in SIZES},
            recipe=Recipe(),
            shares=SHARES,
            epsilons=(1.0,),
            delta=1e-5,
            holdout_permille=400,
            seed=(0,),
        )


@pytest.mark.parametrize(
    "changes", [{"clip": 0.0}, {"clip": math.inf}, {"rounds": 0}, {"learning_rate": -1.0}]
)
def test_a_recipe_out_of_range_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Recipe(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("changes", [{"area": 0.5}, {"prevalence": 0.0}, {"site_spread": -1.0}])
def test_expectations_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Expectations(**changes)


def test_the_model_is_the_average_of_the_later_half_of_the_iterates() -> None:
    """Beside a loop over rows and rounds in plain Python."""
    features = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]])
    label = np.array([1.0, 0.0, 1.0])
    recipe = Recipe(clip=0.3, rounds=5, learning_rate=2.0)
    draws = np.random.default_rng(3).standard_normal((5, 2))
    weights, kept = [0.0, 0.0], []
    for number in range(5):
        total = [0.0, 0.0]
        for row, outcome in zip(features.tolist(), label.tolist(), strict=True):
            margin = sum(w * x for w, x in zip(weights, row, strict=True))
            gradient = [(1 / (1 + math.exp(-margin)) - outcome) * x for x in row]
            factor = min(1.0, 0.3 / math.hypot(*gradient))
            total = [t + factor * g for t, g in zip(total, gradient, strict=True)]
        noisy = [t + 1.5 * 0.3 * d for t, d in zip(total, draws[number].tolist(), strict=True)]
        weights = [w - 2.0 * g / 3 for w, g in zip(weights, noisy, strict=True)]
        kept.append(weights)
    expected = np.mean(kept[2:], axis=0)
    run = descend(features, label, recipe, 1.5, np.random.default_rng(3))
    assert np.allclose(run.coefficients, expected, rtol=1e-12)


def test_the_seed_decides_who_is_held_out() -> None:
    quiet = [_areas(seed=(0, number))[Arm.NO_NOISE, 0.0] for number in (1, 1, 2)]
    assert quiet[0] == quiet[1] != quiet[2]


def test_the_expected_area_is_that_of_the_columns_not_of_the_sites() -> None:
    """Sites that differ widely do not eat up what the columns are expected to show."""
    wanted = Expectations(area=0.75, site_spread=3.0)
    stand_in = SchemaSampled(EXAMPLE, {f"s{number}": 1_500 for number in range(8)}, wanted)
    found = rehearse(
        stand_in.draw(5),
        recipe=Recipe(clip=1.0, rounds=200),
        shares=SHARES,
        epsilons=(),
        delta=1e-5,
        holdout_permille=500,
        seed=(0,),
    ).areas[Arm.NO_NOISE, 0.0]
    assert 0.71 < found < 0.78


def test_areas_halve_ties() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0])
    assert area_under_curve(scores, np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(0.875)
