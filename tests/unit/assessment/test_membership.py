"""Membership attacks find what is there to find, and nothing where nothing is.

Planted and caught: scores with the wrong sign, a target kept among its own shadow models, means
over the wrong side, one model's members drawn with other odds, rows of a person counted apart.
"""

from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from treaty.assessment.intervals import area
from treaty.assessment.membership import (
    ATTACKS,
    ShadowModels,
    confidence_logits,
    half_splits,
    lira_offline,
    lira_online,
    loss_threshold,
    person_means,
    run_attacks,
)
from treaty.errors import UsageError

MODELS, PERSONS = 64, 300


def _models(gain: float, seed: int = 1) -> ShadowModels:
    """Persons of very different difficulty; membership adds `gain` deviations to the confidence."""
    generator = np.random.default_rng(seed)
    inside = half_splits(MODELS, PERSONS, generator)
    hardness = 3.0 * generator.standard_normal(PERSONS)
    noise = generator.standard_normal((MODELS, PERSONS))
    return ShadowModels(hardness + gain * inside + noise, inside)


def _areas(models: ShadowModels, targets: int = 16) -> dict[str, float]:
    return {
        found.attack: area(found.scores[found.inside], found.scores[~found.inside]).value
        for found in run_attacks(models, targets)
    }


def test_without_leakage_every_attack_is_a_coin() -> None:
    """Areas stay within .03 of one half when members and outsiders look alike."""
    for attack, found in _areas(_models(0.0)).items():
        assert found == pytest.approx(0.5, abs=0.03), attack


def test_a_likelihood_ratio_reaches_the_best_possible_area() -> None:
    """One deviation of leakage: LiRA comes near Phi(1 / sqrt 2); the bare loss stays far below."""
    found = _areas(_models(1.0))
    best = 0.760
    assert best - 0.03 < found["lira-online"] < best + 0.02
    assert best - 0.03 < found["lira-offline"] < best + 0.02
    assert found["rmia"] > 0.65
    assert 0.5 < found["loss-threshold"] < 0.62
    assert set(found) == set(ATTACKS)


def test_likelihood_ratios_are_those_of_the_fitted_gaussians() -> None:
    """Each person by hand: a mean on either side, and one deviation for all or for each."""
    for models_count, shared in ((12, True), (80, False)):
        generator = np.random.default_rng(9)
        inside = half_splits(models_count, 20, generator)
        logits = generator.standard_normal(inside.shape) + inside * np.linspace(-1, 3, 20)
        shadows = ShadowModels(logits, inside)
        target = generator.standard_normal(20)
        online, offline = lira_online(target, shadows), lira_offline(target, shadows)
        sides = [[logits[side[:, who], who] for who in range(20)] for side in (inside, ~inside)]
        for who in range(20):
            densities = []
            for side in sides:
                deviation = np.std(side[who], ddof=1)
                if shared:
                    around = [value - np.mean(each) for each in side for value in each]
                    freedom = sum(len(each) - 1 for each in side)
                    deviation = np.sqrt(np.sum(np.square(around)) / freedom)
                densities.append(NormalDist(float(np.mean(side[who])), float(deviation)))
            ratio = densities[0].pdf(target[who]) / densities[1].pdf(target[who])
            assert online[who] == pytest.approx(np.log(ratio))
            assert offline[who] == pytest.approx(densities[1].zscore(target[who]))


def test_a_target_is_never_its_own_shadow() -> None:
    """Changing the target changes its scores only through what the attacker sees of it.

    A target whose confidences are absurd would shift the fit of its own shadows if it were one
    of them: the score of a person whose confidence is as before must not move.
    """
    models = _models(1.0)
    before = run_attacks(models, 1)[1].scores[0]
    logits = models.logits.copy()
    logits[0, :150] += 1000.0
    after = run_attacks(ShadowModels(logits, models.inside), 1)[1].scores[0]
    np.testing.assert_allclose(after[150:], before[150:])


def test_each_person_is_inside_half_of_the_models() -> None:
    """Exactly, so that every fit has as many models as it can."""
    inside = half_splits(10, 50, np.random.default_rng(2))
    assert (inside.sum(axis=0) == 5).all()
    assert 15 < inside.sum(axis=1).mean() < 35


def test_confidence_is_the_log_odds_of_the_true_label() -> None:
    """Finite at the ends, and the loss falls as it rises."""
    odds = confidence_logits(np.array([0.8, 0.8, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert odds[0] == pytest.approx(np.log(4))
    assert odds[1] == pytest.approx(-np.log(4))
    assert np.isfinite(odds).all()
    assert loss_threshold(odds)[0] == pytest.approx(np.log(0.8))


def test_rows_of_a_person_count_as_one() -> None:
    """Means over rows, in any order of rows, for one model and for many."""
    persons: NDArray[np.int64] = np.array([1, 0, 1, 2, 1])
    values = np.array([1.0, 5.0, 2.0, 7.0, 6.0])
    np.testing.assert_allclose(person_means(values, persons), [5.0, 3.0, 7.0])
    np.testing.assert_allclose(
        person_means(np.stack([values, 2 * values]), persons)[1], [10, 6, 14]
    )


def test_too_few_models_are_refused() -> None:
    """A fit needs models on both sides; bad numbers get one clear error."""
    with pytest.raises(UsageError, match="even number of models"):
        half_splits(5, 50, np.random.default_rng(2))
    with pytest.raises(UsageError, match="inside and outside"):
        ShadowModels(np.zeros((6, 3)), np.ones((6, 3), dtype=bool))
    with pytest.raises(UsageError, match="targets"):
        run_attacks(_models(0.0), MODELS)
    with pytest.raises(UsageError, match="finite"):
        ShadowModels(np.full((6, 3), np.nan), np.ones((6, 3), dtype=bool))
