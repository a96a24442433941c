"""Inversion reads single rows back and no mixtures; attributes tell leakage from learning.

Planted and caught: the quotient upside down, a decoy counted as a record, every match counted once
a candidate, weights of the trap scaled away; an attribute compared with the baseline in place
of strangers, the difference taken the wrong way.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from treaty.assessment.attributes import infer_attributes
from treaty.assessment.inversion import (
    count_recovered,
    hessian_candidates,
    layer_candidates,
    trap_layer,
    trap_plane,
    unpacked_triangle,
)
from treaty.errors import UsageError

Matrix = NDArray[np.float64]


def _gradient(rows: Matrix, weights: Matrix, bias: Matrix) -> tuple[Matrix, Matrix]:
    """Gradient of a tanh layer whose units all feed one output with error one."""
    slope = 1.0 - np.tanh(rows @ weights + bias) ** 2
    return rows.T @ slope, slope.sum(axis=0)


def test_a_single_row_is_read_back_exactly() -> None:
    """One row behind the update: any weights give it away, at any scale."""
    generator = np.random.default_rng(1)
    row = generator.standard_normal((1, 9))
    change, bias = _gradient(row, generator.standard_normal((9, 5)) * 0.1, np.zeros(5))
    found = layer_candidates(-0.05 * change, -0.05 * bias)
    assert count_recovered("bare", found, row, generator).recovered == 1


def test_honest_weights_give_mixtures_and_trap_weights_rows() -> None:
    """Sixty rows: no unit of honest weights is one row's, several traps are."""
    generator = np.random.default_rng(2)
    rows = generator.standard_normal((60, 9))
    honest = layer_candidates(
        *_gradient(rows, generator.standard_normal((9, 32)) * 0.1, np.zeros(32))
    )
    assert count_recovered("honest", honest, rows, generator).recovered == 0
    weights, bias = trap_layer(generator.standard_normal((60, 9)), 32, generator)
    trapped = layer_candidates(*_gradient(rows, weights, bias))
    found = count_recovered("trap", trapped, rows, generator)
    assert found.recovered >= 3
    assert found.decoys == 0
    assert found.records == 60


def test_a_steep_newton_model_gives_one_row_away() -> None:
    """With and without a common intercept: a row in forty tries, and none of a mild model."""
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((60, 9))
    for has_intercept in (True, False):
        design = np.column_stack([rows, np.ones(60)]) if has_intercept else rows

        def read(weights: Matrix, bias: float, design: Matrix, known: bool) -> Matrix:
            odds = rows @ weights + bias
            weight = np.exp(-np.abs(odds)) / (1.0 + np.exp(-np.abs(odds))) ** 2
            return hessian_candidates(design.T @ (design * weight[:, None]), has_intercept=known)

        traps = [trap_plane(rows, generator) for _ in range(40)]
        steep = np.concatenate([read(w, b, design, has_intercept) for w, b in traps])
        mild = np.concatenate([read(w / 1e6, b / 1e6, design, has_intercept) for w, b in traps])
        normalised = not has_intercept
        assert count_recovered("t", steep, rows, generator, normalised=normalised).recovered >= 1
        assert count_recovered("m", mild, rows, generator, normalised=normalised).recovered == 0


def test_matches_by_chance_are_not_counted() -> None:
    """A candidate list that hits everything, decoys as much as records, recovers nothing."""
    generator = np.random.default_rng(4)
    rows = generator.integers(0, 3, (40, 3)).astype(float)
    every = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(-1, 3)
    found = count_recovered("all", every, np.unique(rows, axis=0), generator)
    assert found.recovered <= found.records - found.decoys


def test_a_triangle_is_unpacked_in_the_trainers_order() -> None:
    """The upper triangle row by row, symmetric."""
    matrix = unpacked_triangle(np.arange(6.0), 3)
    np.testing.assert_array_equal(matrix, [[0, 1, 2], [1, 3, 4], [2, 4, 5]])
    with pytest.raises(UsageError, match="expected 6 elements"):
        unpacked_triangle(np.arange(5.0), 3)


def _odds(features: Matrix) -> Matrix:
    odds: Matrix = 3.0 * (2.0 * features[:, 0] - 1.0) * (2.0 * features[:, 1] - 1.0)
    return odds


def _persons(generator: np.random.Generator, count: int) -> tuple[Matrix, Matrix]:
    """The label hangs on two attributes together: alone it tells nothing of either."""
    features = (generator.random((count, 4)) < 0.5).astype(float)
    chance = 1 / (1 + np.exp(-_odds(features)))
    return features, (generator.random(count) < chance).astype(float)


def test_a_model_that_learned_leaks_no_attribute() -> None:
    """The true law tells two attributes nearly surely, of strangers as of its own persons."""
    generator = np.random.default_rng(5)
    own, others = _persons(generator, 600), _persons(generator, 600)
    lines = infer_attributes(
        lambda rows: 1 / (1 + np.exp(-_odds(rows))), own, others, ("a", "b", "c", "d")
    )
    assert [line.attribute for line in lines] == ["a", "b", "c", "d"]
    assert not any(line.leaks for line in lines)
    assert min(lines[0].strangers.value, lines[1].training.value) > 0.9
    assert lines[0].baseline.value < 0.6
    assert all(line.leak_low <= line.leak <= line.leak_high for line in lines)


def test_a_model_that_memorised_leaks_attributes() -> None:
    """It answers with the training label for rows it knows and at random for others."""
    generator = np.random.default_rng(6)
    own = (generator.standard_normal((300, 6)), (generator.random(300) < 0.5).astype(float))
    others = (generator.standard_normal((300, 6)), (generator.random(300) < 0.5).astype(float))

    def memorised(rows: Matrix) -> Matrix:
        near = np.square(rows[:, None, :] - own[0][None]).sum(axis=2)
        return np.where(near.min(axis=1) < 1.5, 0.98 * own[1][near.argmin(axis=1)] + 0.01, 0.5)

    lines = infer_attributes(memorised, own, others, tuple("abcdef"))
    assert sum(line.leaks for line in lines) >= 1
    assert np.mean([line.leak for line in lines]) > 0.03
