"""The Cholesky solver and the next model, bit for bit against rational arithmetic.

The oracle rounds a `Fraction` to binary64, ties to even, after every single operation, in the order
of the specification, with no floating-point instruction.

Planted faults that these tests caught: fused multiply-add in the update; left-looking order;
multiplication by the reciprocal pivot; `numpy.linalg.solve`; `numpy.dot` in the substitution; ridge
on the common intercept; ridge left out of the gradient; sums converted to float32 first; weights
rounded before the division.
"""

import math
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import UsageError, VerificationError
from treaty.models.averaging import next_tensors
from treaty.models.linear_solve import full_symmetric, solve_spd
from treaty.models.newton import next_coefficients
from treaty.models.specification import LogisticRegression


def rounded(value: Fraction, precision: int = 53) -> Fraction:
    """Return `value` rounded to `precision` bits, ties to even (no subnormals, no overflow)."""
    if value == 0:
        return value
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (exponent - precision + 1)
    whole, rest = divmod(magnitude / unit, 1)
    if rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2):
        whole += 1
    return whole * unit if value > 0 else -whole * unit


def rounded_root(value: Fraction) -> Fraction:
    """Return the square root, correctly rounded: an exact integer root with a sticky bit."""
    shift = 0
    while value * Fraction(4) ** shift < Fraction(4) ** 60:
        shift += 1
    scaled = value * Fraction(4) ** shift
    whole = math.isqrt(int(scaled))
    sticky = Fraction(0) if whole * whole == scaled else Fraction(1, 4)
    return rounded((whole + sticky) / Fraction(2) ** shift)


def oracle_solve(matrix: list[list[Fraction]], right: list[Fraction]) -> list[Fraction]:
    size = len(right)
    work = [row[:] for row in matrix]
    for k in range(size):
        work[k][k] = rounded_root(work[k][k])
        for i in range(k + 1, size):
            work[i][k] = rounded(work[i][k] / work[k][k])
        for i in range(k + 1, size):
            for j in range(k + 1, i + 1):
                work[i][j] = rounded(work[i][j] - rounded(work[i][k] * work[j][k]))
    x = right[:]
    for k in range(size):
        x[k] = rounded(x[k] / work[k][k])
        for i in range(k + 1, size):
            x[i] = rounded(x[i] - rounded(work[i][k] * x[k]))
    for k in reversed(range(size)):
        x[k] = rounded(x[k] / work[k][k])
        for i in range(k):
            x[i] = rounded(x[i] - rounded(work[k][i] * x[k]))
    return x


def random_system(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size + 3, size)) * 10.0 ** generator.integers(-3, 4, size)
    return root.T @ root + 0.1 * np.eye(size), generator.normal(size=size) * 100


def exact(array: np.ndarray) -> list[Fraction]:
    return [Fraction(float(item)) for item in array]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 12, 17])
@pytest.mark.parametrize("seed", range(4))
def test_the_solver_equals_rational_arithmetic_bit_for_bit(seed: int, size: int) -> None:
    matrix, right = random_system(seed, size)
    matrix = np.tril(matrix) + np.tril(matrix, -1).T
    expected = oracle_solve([exact(row) for row in matrix], exact(right))
    assert exact(solve_spd(matrix, right)) == expected


def test_the_oracle_rounds_as_the_processor_does() -> None:
    generator = np.random.default_rng(5)
    for a, b in generator.normal(size=(300, 2)) * 10.0 ** generator.integers(-9, 9, (300, 2)):
        x, y = float(a), float(b)
        assert rounded(Fraction(x) * Fraction(y)) == Fraction(x * y)
        assert rounded(Fraction(x) / Fraction(y)) == Fraction(x / y)
        assert rounded(Fraction(x) - Fraction(y)) == Fraction(x - y)
        assert rounded_root(Fraction(abs(x))) == Fraction(math.sqrt(abs(x)))


def test_the_solution_solves() -> None:
    matrix, right = random_system(3, 40)
    np.testing.assert_allclose(solve_spd(matrix, right), np.linalg.solve(matrix, right), rtol=1e-6)


@pytest.mark.parametrize(
    "matrix",
    [
        np.zeros((2, 2)),
        np.array([[1.0, 2.0], [2.0, 1.0]]),
        np.array([[-1.0]]),
        np.array([[np.nan]]),
        np.array([[np.inf]]),
        np.array([[1.0, 1.0], [1.0, 1.0]]),
    ],
)
def test_a_matrix_that_is_not_positive_definite_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(VerificationError) as refusal:
        solve_spd(matrix, np.ones(len(matrix)))
    assert refusal.value.code == "not-positive-definite"


def test_a_solution_that_is_not_finite_is_refused() -> None:
    with pytest.raises(VerificationError) as refusal:
        solve_spd(np.array([[1e-300]]), np.array([1e300]))
    assert refusal.value.code == "not-finite"


def test_shapes_must_fit() -> None:
    for matrix, right in ((np.eye(2), np.ones(3)), (np.ones((2, 3)), np.ones(2))):
        with pytest.raises(UsageError):
            solve_spd(matrix, right)
    with pytest.raises(UsageError):
        full_symmetric(np.ones(4), 2)


def test_the_arguments_are_not_changed() -> None:
    matrix, right = random_system(0, 4)
    before = matrix.copy(), right.copy()
    solve_spd(matrix, right)
    assert np.array_equal(matrix, before[0])
    assert np.array_equal(right, before[1])


def test_the_triangle_is_read_row_by_row() -> None:
    assert full_symmetric(np.arange(6.0), 3).tolist() == [[0, 1, 2], [1, 3, 4], [2, 4, 5]]


@pytest.mark.parametrize("site_intercepts", [True, False])
def test_the_newton_step_equals_rational_arithmetic_bit_for_bit(site_intercepts: bool) -> None:
    bits, columns, ridge = 32, 5, rounded(Fraction(1234, 1000))
    generator = np.random.default_rng(11)
    size = columns if site_intercepts else columns + 1
    rows = generator.normal(size=(60, size))
    triangle = (rows.T @ rows)[np.triu_indices(size)]
    hessian = [round(float(item) * 2**bits) for item in triangle]
    gradient = [round(float(item) * 2**bits) for item in generator.normal(size=size) * 9]
    spec = LogisticRegression(ridge_milli=1234, site_intercepts=site_intercepts)
    arrays = {"coefficients": generator.normal(size=columns)}
    if not site_intercepts:
        arrays["intercept"] = generator.normal(size=1)
    model = NamedTensors.from_arrays(arrays)
    following, trace = next_coefficients(
        spec, model, {"gradient": gradient, "hessian": hessian, "loss": [7 << bits]}, bits
    )

    penalty = [ridge] * columns + [Fraction(0)] * (size - columns)
    current = exact(model.flat())
    matrix = [[Fraction(0)] * size for _ in range(size)]
    words = iter(hessian)
    for i in range(size):
        for j in range(i, size):
            matrix[i][j] = matrix[j][i] = rounded(Fraction(next(words), 2**bits))
        matrix[i][i] = rounded(matrix[i][i] + penalty[i])
    right = [
        rounded(rounded(Fraction(g, 2**bits)) - rounded(r * c))
        for g, r, c in zip(gradient, penalty, current, strict=True)
    ]
    step = oracle_solve(matrix, right)
    expected = [rounded(c + s) for c, s in zip(current, step, strict=True)]
    assert exact(following.flat()) == expected
    assert Fraction(trace.step) == max(abs(item) for item in step)
    assert trace.loss == 7.0
    assert not trace.converged


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_averaging_step_equals_rational_arithmetic_bit_for_bit(kind: type) -> None:
    bits = 20
    generator = np.random.default_rng(12)
    model = NamedTensors.from_arrays(
        {"a": generator.normal(size=(3, 4)).astype(kind), "b": generator.normal(size=5)}
    )
    changes = {
        "delta.a": [int(item) for item in generator.integers(-(2**31), 2**31, 12)],
        "delta.b": generator.integers(-(2**31), 2**31, 5),
        "weight": [1234567],
    }
    following = next_tensors(model, changes, bits)
    weight = Fraction(1234567, 2**bits)
    for name in ("a", "b"):
        precision = 24 if model[name].dtype == np.float32 else 53
        for before, change, after in zip(
            model[name].ravel(), changes[f"delta.{name}"], following[name].ravel(), strict=True
        ):
            mean = rounded(Fraction(int(change), 2**bits) / weight)
            expected = rounded(rounded(Fraction(float(before)) + mean), precision)
            assert Fraction(float(after)) == expected


_PROGRAM = """
import numpy as np
from treaty.models.linear_solve import solve_spd
g = np.random.default_rng(1)
root = g.integers(-1000, 1000, (90, 70)).astype(float)
# Integer products are exact in any order, so only the solver is under test.
print(solve_spd(root.T @ root, g.normal(size=70)).tobytes().hex())
"""


def test_the_bits_do_not_depend_on_threads_or_vector_instructions() -> None:
    outputs = set()
    for extra in (
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Prescott"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX X86_V3 X86_V4"},
    ):
        environment = dict(os.environ) | extra
        result = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(result.stdout)
    assert [len(output.strip()) for output in outputs] == [70 * 16]
