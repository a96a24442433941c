"""Steps after the first: the correction of third order, the way back, and when training ends.

The oracle is that of `test_linear_solve`: a fraction rounded to binary64 after every operation, in
the order of docs/spec/training.md, section 4.

Planted faults that these tests caught: the correction not weighed by how parallel
the steps are, by a ratio of steps above one, with the wrong sign, before the decrement has halved,
without its limit, with the limit not squared; retreats without end; objectives over different sites
compared; rounding taken for a rise; the slope not cut with the step, or that of the plain step;
going on from the rejected point; no least retreat; the ridge left out of the objective or of the
memory; the decrement by the gradient, which rounds otherwise; an end without regard to the ridge;
`numpy.dot` and numpy's matrix product.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.models.test_linear_solve import exact, oracle_solve, rounded, rounded_root
from treaty.aggregation.tensors import NamedTensors
from treaty.errors import UsageError
from treaty.models.linear_solve import apply_symmetric, factor_spd, inner, solve_factored
from treaty.models.newton import NewtonMemory, NewtonTrace, next_coefficients
from treaty.models.specification import COEFFICIENTS, LogisticRegression, initial_model

BITS = 32
SPEC = LogisticRegression()
Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


# --- exact arithmetic -----------------------------------------------------------------------------


def oracle_inner(left: list[Fraction], right: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for one, other in zip(left, right, strict=True):
        total = rounded(total + rounded(one * other))
    return total


def oracle_apply(matrix: list[list[Fraction]], vector: list[Fraction]) -> list[Fraction]:
    total = [Fraction(0)] * len(vector)
    for column, value in enumerate(vector):
        total = [
            rounded(one + rounded(row[column] * value))
            for one, row in zip(total, matrix, strict=True)
        ]
    return total


def oracle_correction(
    step: list[Fraction], hessian: list[list[Fraction]], memory: NewtonMemory
) -> list[Fraction]:
    """Section 4.5, word by word."""
    before, past = exact(memory.step), [exact(row) for row in memory.hessian]
    decrement = oracle_inner(step, oracle_apply(hessian, step))
    length = oracle_inner(before, oracle_apply(hessian, before))
    along = oracle_inner(before, oracle_apply(hessian, step))
    if not (along > 0 and length > 0 and decrement <= Fraction(memory.decrement) / 2):
        return [Fraction(0)] * len(step)
    change = [
        [rounded(now - then) for now, then in zip(row, old, strict=True)]
        for row, old in zip(hessian, past, strict=True)
    ]
    found = oracle_solve(hessian, oracle_apply(change, step))
    roots = rounded(rounded_root(decrement) * rounded_root(length))
    weight = rounded(
        rounded(min(rounded(along / length), Fraction(1)) * rounded(along / roots)) / 2
    )
    found = [rounded(one * weight) for one in found]
    reach = oracle_inner(found, oracle_apply(hessian, found))
    most = rounded(Fraction(49, 64) * decrement)
    if reach > most:
        cut = rounded_root(rounded(most / reach))
        found = [rounded(one * cut) for one in found]
    return found


def system(seed: int, size: int, weight: float = 1.0) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(60, size))
    triangle = (rows.T @ rows)[np.triu_indices(size)] * weight
    hessian = [round(float(item) * 2**BITS) for item in triangle]
    return hessian, [round(float(item) * 2**BITS) for item in generator.normal(size=size) * 9]


@pytest.mark.parametrize(
    ("weight", "along"),
    [(0.9, 0.3), (0.5, 0.6), (0.2, 0.9), (0.04, 0.9), (1.3, 0.7), (0.2, 1.4), (0.9, -0.5)],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_second_step_equals_rational_arithmetic_bit_for_bit(
    seed: int, weight: float, along: float
) -> None:
    size = 4
    hessian, gradient = system(seed, size)
    model = initial_model(SPEC, size)
    sums = {"gradient": gradient, "hessian": hessian, "loss": [90 << BITS]}
    model, first = next_coefficients(SPEC, model, sums, BITS)
    later = [round(item * weight) for item in hessian]
    # Nearly along the first gradient, with a part across it.
    across = np.random.default_rng(seed + 10).normal(size=size) * 2**BITS
    pulled = [round(along * weight * g + 0.05 * c) for g, c in zip(gradient, across, strict=True)]
    step = exact(model.flat())
    again = {"gradient": pulled, "hessian": later, "loss": [0]}
    following, trace = next_coefficients(SPEC, model, again, BITS, memory=first.memory)

    matrix = [[Fraction(0)] * size for _ in range(size)]
    words = iter(later)
    for i in range(size):
        for j in range(i, size):
            matrix[i][j] = matrix[j][i] = rounded(Fraction(next(words), 2**BITS))
        matrix[i][i] = rounded(matrix[i][i] + 1)
    pull = [
        rounded(rounded(Fraction(one, 2**BITS)) - current)
        for one, current in zip(pulled, step, strict=True)
    ]
    plain = oracle_solve(matrix, pull)
    correction = oracle_correction(plain, matrix, first.memory)
    expected = [rounded(one - less) for one, less in zip(plain, correction, strict=True)]
    assert exact(trace.memory.step) == expected
    assert exact(following.flat()) == [
        rounded(one + more) for one, more in zip(step, expected, strict=True)
    ]
    assert Fraction(trace.memory.decrement) == oracle_inner(plain, oracle_apply(matrix, plain))
    assert Fraction(trace.memory.slope) == oracle_inner(pull, expected)


def test_the_cases_above_meet_every_branch() -> None:
    """Uncorrected, corrected, and corrected as far as the limit."""
    kinds = set()
    for weight, along in ((0.9, 0.3), (0.04, 0.9), (0.9, -0.5)):
        hessian, gradient = system(1, 4)
        model, first = next_coefficients(
            SPEC, initial_model(SPEC, 4), sums_of(gradient, hessian, 90.0), BITS
        )
        pulled = [round(along * weight * one) for one in gradient]
        later = [round(item * weight) for item in hessian]
        _, plain = next_coefficients(SPEC, model, sums_of(pulled, later, 0.0), BITS)
        _, trace = next_coefficients(
            SPEC, model, sums_of(pulled, later, 0.0), BITS, memory=first.memory
        )
        difference = trace.memory.step - plain.memory.step
        reach = difference @ plain.memory.hessian @ difference / plain.memory.decrement
        kinds.add("none" if reach == 0 else "limit" if reach == pytest.approx(49 / 64) else "some")
    assert kinds == {"none", "some", "limit"}


def test_products_are_added_from_first_to_last() -> None:
    left, right = np.array([1e16, 1.0, 1.0, -1e16]), np.ones(4)
    assert inner(left, right) == 0.0
    assert inner(left[::-1].copy(), right) == 2.0 - 2.0
    assert inner(np.array([1.0, 1.0, 1e16]), np.ones(3)) == 1e16 + 2
    matrix = np.diag([2.0, 3.0]) + np.array([[0, 0.5], [0.5, 0]])
    assert apply_symmetric(matrix, np.array([1.0, -2.0])).tolist() == [1.0, -5.5]
    factor = factor_spd(matrix)
    np.testing.assert_allclose(solve_factored(factor, np.array([1.0, -5.5])), [1.0, -2.0])


# --- whole fits -----------------------------------------------------------------------------------


def sums_of(gradient: list[int], hessian: list[int], loss: float) -> dict[str, list[int]]:
    return {"gradient": gradient, "hessian": hessian, "loss": [round(loss * 2**BITS)]}


def published(sites: list[Rows], model: NamedTensors) -> dict[str, list[int]]:
    """Return the sums at `model`, without intercepts."""
    b = model.flat()
    total = 0
    for features, label in sites:
        predictor = features @ b
        mean = 1 / (1 + np.exp(-predictor))
        hessian = (features * (mean * (1 - mean))[:, None]).T @ features
        loss = np.logaddexp(0, predictor) - label * predictor
        words = [features.T @ (label - mean), hessian[np.triu_indices(b.size)], [loss.sum()]]
        total = total + np.rint(np.concatenate(words) * 2**BITS).astype(np.int64)
    gradient, hessian, loss = np.split(total, [b.size, -1])
    return {"gradient": gradient.tolist(), "hessian": hessian.tolist(), "loss": loss.tolist()}


def fit(
    sites: list[Rows], *, plain: bool = False, lost: dict[int, int] | None = None, most: int = 40
) -> tuple[NamedTensors, list[NewtonTrace]]:
    """Return model and traces; `lost` names the site that misses a round."""
    model = initial_model(SPEC, sites[0][0].shape[1])
    memory: NewtonMemory | None = None
    traces: list[NewtonTrace] = []
    for number in range(most):
        there = [one for place, one in enumerate(sites) if (lost or {}).get(number) != place]
        model, trace = next_coefficients(
            SPEC, model, published(there, model), BITS, contributors=len(there), memory=memory
        )
        traces.append(trace)
        memory = None if plain else trace.memory
        if trace.converged:
            break
    return model, traces


def gradient_at(sites: list[Rows], model: NamedTensors) -> float:
    words = np.array(published(sites, model)["gradient"]) / 2**BITS
    return float(np.max(np.abs(words - model.flat())))


def ordinary(seed: int) -> list[Rows]:
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=5)
    sites = []
    for rows in (60, 90, 40):
        features = generator.normal(size=(rows, 5))
        chance = 1 / (1 + np.exp(-(features @ truth)))
        sites.append((features, (generator.random(rows) < chance).astype(float)))
    return sites


def with_a_level_of_one_label(seed: int) -> list[Rows]:
    """One column marks rows that all have label 1: its coefficient creeps up round by round."""
    sites = ordinary(seed)
    for features, label in sites:
        features[:, 4] = 0.0
        features[:15, 4], label[:15] = 4.0, 1.0
    return sites


def steep(seed: int) -> list[Rows]:
    """Rare levels of large weight: where a site comes back, a full step goes too far."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=6) * 3
    sites = []
    for rows in (40, 60, 25, 50):
        features = (generator.random((rows, 6)) < 0.1) * 10.0
        chance = 1 / (1 + np.exp(-(features @ truth + generator.normal() * 3)))
        sites.append((features, (generator.random(rows) < chance) * 1.0))
    return sites


@pytest.mark.parametrize("sites_of", [ordinary, with_a_level_of_one_label])
def test_fewer_rounds_reach_the_same_optimum(sites_of: Callable[[int], list[Rows]]) -> None:
    saved = 0
    for seed in range(6):
        sites = sites_of(seed)
        model, traces = fit(sites)
        reference, plain = fit(sites, plain=True)
        assert len(traces) <= len(plain)
        saved += len(plain) - len(traces)
        np.testing.assert_allclose(model.flat(), reference.flat(), atol=1e-7, rtol=0)
        assert gradient_at(sites, model) < 1e-6
    assert saved >= (9 if sites_of is with_a_level_of_one_label else 4)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("missed", [1, 2, 3, 4])
def test_a_site_that_misses_a_round_does_not_lead_the_others_astray(seed: int, missed: int) -> None:
    sites = with_a_level_of_one_label(seed)
    model, traces = fit(sites, lost={missed: seed % 3})
    assert traces[-1].converged
    assert gradient_at(sites, model) < 1e-6


@pytest.mark.parametrize(("seed", "missed"), [(3, 5), (49, 5), (55, 4)])
def test_a_step_too_far_is_taken_back_part_of_the_way(seed: int, missed: int) -> None:
    sites, lost = steep(seed), {missed: seed % 4}
    model, traces = fit(sites, lost=lost)
    assert any(one.memory.retreats for one in traces)
    assert traces[-1].converged
    assert len(traces) <= 16
    assert gradient_at(sites, model) < 1e-6
    assert len(fit(sites, lost=lost, plain=True)[1]) >= 29


# --- the way back, by itself ----------------------------------------------------------------------


def one_column() -> tuple[NamedTensors, NewtonTrace]:
    """At 2 after a step of 2 from 0: objective 10 and slope 4 there."""
    return next_coefficients(
        SPEC, initial_model(SPEC, 1), sums_of([2 << BITS], [0], 10.0), BITS, contributors=3
    )


def again(
    loss: float, contributors: int = 3, memory: NewtonMemory | None = None
) -> tuple[float, NewtonTrace]:
    model, first = one_column()
    following, trace = next_coefficients(
        SPEC,
        model,
        sums_of([0], [0], loss),
        BITS,
        contributors=contributors,
        memory=memory or first.memory,
    )
    return float(following.flat()[0]), trace


def test_the_memory_is_that_of_the_point_stepped_from() -> None:
    model, trace = one_column()
    memory = trace.memory
    assert model.flat().tolist() == [2.0]
    assert (memory.step.tolist(), memory.hessian.tolist()) == ([2.0], [[1.0]])
    assert (memory.decrement, memory.slope, memory.objective) == (4.0, 4.0, 10.0)
    assert (memory.contributors, memory.retreats) == (3, 0)


@pytest.mark.parametrize(
    ("loss", "part"),
    [(9.0, 4 / (2 * (1 + 4))), (10.0, 4 / (2 * (2 + 4))), (108.0, 0.125), (8.001, 4 / 8.002)],
)
def test_a_rise_leads_back_to_the_lowest_point_of_the_parabola(loss: float, part: float) -> None:
    # At 2 the ridge adds 2 to the loss.
    place, trace = again(loss)
    assert place == pytest.approx(2 * part)
    assert trace.memory.step.tolist() == pytest.approx([2 * part])
    assert trace.memory.slope == pytest.approx(4 * part)
    assert trace.step == pytest.approx(2 - 2 * part)
    assert (trace.loss, trace.converged, trace.memory.retreats) == (pytest.approx(loss), False, 1)


def test_rounding_is_no_rise_and_other_sites_cannot_be_compared() -> None:
    for loss, contributors in ((8.0, 3), (8.0 + 9 * 2.0**-20, 3), (108.0, 2), (108.0, 4)):
        place, trace = again(loss, contributors)
        assert place == 0.0
        assert trace.memory.retreats == 0
    assert again(8.0 + 11 * 2.0**-20)[1].memory.retreats == 1


def test_after_three_retreats_the_round_counts() -> None:
    _, first = one_column()
    for retreats in range(5):
        memory = dataclasses.replace(first.memory, retreats=retreats)
        assert (again(108.0, memory=memory)[1].memory.retreats == retreats + 1) == (retreats < 3)


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gradient", "curvature", "ridge_milli", "over"),
    [
        (2.0**-14, 0.0, 1000, True),
        (2.0**-14 + 2.0**-32, 0.0, 1000, False),
        (2.0**-12, 15.0, 1000, True),
        (2.0**-12, 13.0, 1000, False),
        (2.0**-14, 0.0, 5000, True),
        (2.0**-14, 0.5, 500, False),
        (2.0**-15, 0.5, 500, True),
        (2.0**-19, 1.0, 1, True),
        (2.0**-18, 1.0, 1, False),
    ],
)
def test_training_ends_when_next_to_nothing_is_left_to_gain(
    gradient: float, curvature: float, ridge_milli: int, over: bool
) -> None:
    """The decrement is the squared gradient over the curvature, ridge included."""
    spec = LogisticRegression(ridge_milli=ridge_milli)
    words = [round(gradient * 2**BITS)], [round(curvature * 2**BITS)]
    _, trace = next_coefficients(spec, initial_model(spec, 1), sums_of(*words, 9.0), BITS)
    total = curvature + ridge_milli / 1000
    assert trace.memory.decrement == pytest.approx(gradient**2 / total)
    assert trace.converged is over


def test_the_memory_of_another_model_is_refused() -> None:
    _, first = one_column()
    with pytest.raises(UsageError, match="memory of 2 parameters"):
        next_coefficients(
            SPEC,
            initial_model(SPEC, 2),
            sums_of([0, 0], [0, 0, 0], 1.0),
            BITS,
            memory=first.memory,
        )


def test_a_model_of_another_kind_is_refused() -> None:
    sums = sums_of([0], [0], 1.0)
    for other in (
        {"w": np.zeros(1)},
        {COEFFICIENTS: np.zeros(0)},
        {COEFFICIENTS: np.zeros((1, 1))},
        {COEFFICIENTS: np.zeros(1, dtype=np.float32)},
        {COEFFICIENTS: np.zeros(1), "w": np.zeros(1)},
    ):
        with pytest.raises(UsageError, match="expected a model of LogisticRegression, got"):
            next_coefficients(SPEC, NamedTensors.from_arrays(other), sums, BITS)
