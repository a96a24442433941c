"""The model of one sum of statistics: one Newton step, its ridge, one order of operations.

Planted and caught: off-diagonals without the square root of two, on either side; the sign of the
errors; the ridge of the noise left out, taken once for all attempts, put on coefficients alone.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import UsageError, VerificationError
from treaty.models.newton import next_coefficients
from treaty.models.quadratic import (
    model_from_statistics,
    row_statistics,
    statistics_manifest,
    statistics_width,
)
from treaty.models.specification import (
    GRADIENT,
    HESSIAN,
    LogisticRegression,
    initial_model,
    model_manifest,
)
from treaty.models.task import TrainingTask
from treaty.trainers.linear_family import with_constant
from treaty.trainers.numpy_trainer import NumpyTrainer

SPEC = LogisticRegression(site_intercepts=False, unit_rows=True)
MANIFEST = model_manifest(SPEC, 3)
UNIT = 2.0**-24


def rows_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.PCG64(seed))
    return draw.normal(size=(count, 3)), draw.integers(0, 2, count).astype(float)


def sums_of(x: np.ndarray, y: np.ndarray) -> dict[str, list[int]]:
    whole = row_statistics(with_constant(SPEC, x), 0.5 - y).sum(axis=0)
    grid = [round(value / UNIT) for value in whole.tolist()]
    return {GRADIENT: grid[:4], HESSIAN: grid[4:]}


def fitted(sums: dict[str, list[int]], deviation: float = 0.0, **changes: object) -> NamedTensors:
    spec = LogisticRegression(site_intercepts=False, unit_rows=True, **changes)  # type: ignore[arg-type]  # fields
    return model_from_statistics(spec, MANIFEST, sums, unit=UNIT, deviation=deviation)


def test_a_row_of_length_one_is_as_long_as_the_root_of_two() -> None:
    x, y = rows_of(50)
    found = row_statistics(with_constant(SPEC, x), 0.5 - y)
    assert found.shape == (50, statistics_width(4)) == (50, 14)
    assert np.linalg.norm(found, axis=1) == pytest.approx(math.sqrt(2.0), abs=1e-14)
    assert [one.shape for one in statistics_manifest(MANIFEST)] == [(4,), (10,)]


def test_the_distance_of_two_rows_is_that_of_their_matrices_and_vectors() -> None:
    """The square root of two on off-diagonals: a triangle is as long as its matrix."""
    x, y = rows_of(2, seed=5)
    design = with_constant(SPEC, x)
    one, other = row_statistics(design, 0.5 - y)
    matrices = np.linalg.norm(np.outer(design[0], design[0]) - np.outer(design[1], design[1]))
    vectors = np.linalg.norm(design[0] * (2 * y[0] - 1) - design[1] * (2 * y[1] - 1))
    assert np.linalg.norm(one - other) == pytest.approx(math.hypot(matrices, vectors))


def test_without_noise_it_is_the_first_newton_step_over_pooled_rows() -> None:
    """The exact study's own step from zero on all rows, and least squares on signs, doubled."""
    x, y = rows_of(400, seed=2)
    found = fitted(sums_of(x, y)).flat()
    start = initial_model(SPEC, 3)
    exact = NumpyTrainer().compute(TrainingTask(SPEC, start, x, y, bytes(32)))
    scaled = {name: [round(v * 2.0**32) for v in exact[name]] for name in exact.names}
    pooled, _ = next_coefficients(SPEC, start, scaled, 32)
    assert found == pytest.approx(pooled.flat(), abs=1e-6)
    design = with_constant(SPEC, x)
    plain = np.linalg.lstsq(design, 2 * y - 1, rcond=None)[0]
    assert fitted(sums_of(x, y), ridge_milli=0).flat() == pytest.approx(2 * plain, abs=1e-5)


@given(st.floats(0.0, 1e9))
def test_the_ridge_is_the_models_and_as_much_as_noise_can_reach(deviation: float) -> None:
    x, y = rows_of(300, seed=3)
    sums = sums_of(x, y)
    design = with_constant(SPEC, x)
    reach = 1.5 * 2.0 * deviation * UNIT / 4
    matrix = design.T @ design / 4 + np.diag([1.0, 1.0, 1.0, 0.0]) + reach * np.eye(4)
    wanted = np.linalg.solve(matrix, design.T @ (y - 0.5))
    assert fitted(sums, deviation).flat() == pytest.approx(wanted, abs=1e-6)


def test_the_spectrum_of_the_noise_is_within_the_ridge() -> None:
    """The number behind 1.5: the largest eigenvalue of forty columns, in the mean of 200 draws."""
    draw, size = np.random.Generator(np.random.PCG64(11)), 40
    first, second = np.triu_indices(size)
    largest = []
    for _ in range(200):
        words = draw.normal(size=len(first))
        matrix = np.zeros((size, size))
        matrix[first, second] = np.where(first == second, words, words / math.sqrt(2.0))
        matrix[second, first] = matrix[first, second]
        largest.append(float(np.abs(np.linalg.eigvalsh(matrix)).max()))
    assert 0.9 * math.sqrt(2 * size) < np.mean(largest) < 1.5 * math.sqrt(size)


def test_where_noise_is_larger_than_its_ridge_the_ridge_is_doubled() -> None:
    """A matrix with an eigenvalue of minus one: every member doubles to the same ridge."""
    units = round(1 / UNIT)
    sums = {GRADIENT: [units, 0, 0, 0], HESSIAN: [-4 * units, 0, 0, 0, 0, 0, 0, 0, 0, 0]}
    deviation = 0.1 * units
    reach = 1.5 * 2.0 * 0.1 / 4
    found = fitted(sums, deviation).flat()
    # The model's ridge of one cancels the eigenvalue; what noise can reach is left.
    assert found.tolist() == pytest.approx([0.5 / reach, 0, 0, 0])
    sums[HESSIAN][0] = -8 * units
    doubled = reach
    while doubled <= 1.0:
        doubled *= 2
    assert fitted(sums, deviation).flat()[0] == pytest.approx(0.5 / (doubled - 1.0))


def test_what_gives_no_model_is_refused() -> None:
    x, y = rows_of(40)
    sums = sums_of(x, y)
    for name in (GRADIENT, HESSIAN):
        with pytest.raises(VerificationError) as caught:
            fitted({**sums, name: sums[name][:-1]})
        assert caught.value.code == "sum-shape"
    with pytest.raises(VerificationError) as caught:
        fitted({GRADIENT: [1] * 4, HESSIAN: [-1] * 10}, ridge_milli=0)
    assert caught.value.code == "not-positive-definite"
    assert "noised" not in str(caught.value), "without noise no ridge is doubled"
    with pytest.raises(VerificationError):
        fitted({GRADIENT: [1] * 4, HESSIAN: [-(2**62)] * 10}, 1e-300)
    with pytest.raises(VerificationError) as caught:
        # No ridge is doubled for a step that leaves the range of numbers.
        model_from_statistics(
            LogisticRegression(site_intercepts=False, unit_rows=True, ridge_milli=0),
            MANIFEST,
            {GRADIENT: [2**62] * 4, HESSIAN: [0] * 10},
            unit=1e280,
            deviation=1e-310,
        )
    assert caught.value.code == "not-finite"
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="deviation"):
            fitted(sums, wrong)


@given(st.lists(st.integers(-(2**40), 2**40), min_size=14, max_size=14))
def test_the_same_sum_gives_the_same_bytes(words: list[int]) -> None:
    sums = {GRADIENT: words[:4], HESSIAN: words[4:]}
    first = fitted(sums, 1e7)
    assert np.isfinite(first.flat()).all()
    assert first.digest() == fitted(sums, 1e7).digest()
