"""The model of one noised sum of sufficient statistics, from the published sum.

A row r of length one with label y contributes, in this order,
  gradient: r (2 y - 1);  hessian: the upper triangle of r r', row by row, off-diagonals times the
square root of two, which is as long as r r' is. One such row has norm sqrt(2) altogether.

With R the sum of r r' and t that of r (2 y - 1), the log loss is replaced by its second-order
expansion at zero coefficients, whose minimum is the first Newton step from there:
  (R / 4 + ridge) step = t / 2.

Every member and every verifier takes it itself, bit for bit the same, as `treaty.models.newton`.
The ridge is the model's on coefficients, and on every parameter as much as the noise in R can
reach: a symmetric matrix of q columns with deviation s on the diagonal and s / sqrt(2) beside it
has eigenvalues within sqrt(2 q) s for large q, and 1.5 sqrt(q) s is taken
(docs/spec/training.md, section 8). Noise is in the sum already: nothing here costs privacy.
"""

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import Manifest, NamedTensors, TensorSpec, manifest_elements
from treaty.errors import UsageError, VerificationError
from treaty.models.fixed_point import DecodedSums, sum_as_float64
from treaty.models.linear_solve import full_symmetric, solve_spd, upper_triangle
from treaty.models.specification import COEFFICIENTS, GRADIENT, HESSIAN, LogisticRegression

__all__ = ["model_from_statistics", "row_statistics", "statistics_manifest", "statistics_width"]

Matrix = NDArray[np.float64]

_SPREAD = 1.5
_ATTEMPTS = 64


def statistics_width(parameters: int) -> int:
    """Return the number of words of the statistics of a model of that many parameters."""
    return parameters + parameters * (parameters + 1) // 2


def statistics_manifest(manifest: Manifest) -> Manifest:
    """Return the tensors of the noised sum for a model of `manifest`: I64."""
    size = manifest_elements(manifest)
    return (
        TensorSpec(name=GRADIENT, shape=(size,), dtype="I64"),
        TensorSpec(name=HESSIAN, shape=(size * (size + 1) // 2,), dtype="I64"),
    )


def row_statistics(design: Matrix, errors: Matrix) -> Matrix:
    """Return each row's statistics, (n, q + q (q + 1) / 2), in the order of the module.

    `design` (n, q) has rows of length one; `errors` (n,) are predicted minus observed at zero
    coefficients, one half minus the label. A row's numbers depend on that row alone.
    """
    first, second = upper_triangle(design.shape[1])
    outer = design[:, first] * design[:, second]
    outer[:, first != second] *= np.sqrt(2.0)
    return np.concatenate([design * (-2.0 * errors)[:, None], outer], axis=1)


def model_from_statistics(
    spec: LogisticRegression,
    manifest: Manifest,
    sums: DecodedSums,
    *,
    unit: float,
    deviation: float,
) -> NamedTensors:
    """Return the model that follows from the opened sum.

    `sums` holds ``gradient`` and ``hessian`` as integers of which one is `unit` long; `deviation`
    is what noise may have of standard deviation in each word, in grid units. Where noise leaves
    the matrix with a negative eigenvalue all the same, the ridge for it is doubled until it has
    none. Raises `VerificationError` (``sum-shape``, ``not-finite``, ``not-positive-definite``),
    `UsageError` for a deviation that is negative. Pure.
    """
    if not deviation >= 0.0:
        raise UsageError("expected the deviation of the noise")
    size = manifest_elements(manifest)
    gradient = np.multiply(sum_as_float64(sums, GRADIENT, size, 0), unit)
    upper = np.multiply(sum_as_float64(sums, HESSIAN, size * (size + 1) // 2, 0), unit)
    first, second = upper_triangle(size)
    upper = np.where(first == second, upper, np.divide(upper, np.sqrt(2.0)))
    hessian = full_symmetric(np.divide(upper, 4.0), size)
    right = np.divide(gradient, 2.0)

    own = np.full(size, spec.ridge_milli / 1000)
    own[_coefficients(manifest) :] = 0.0
    reach = _SPREAD * float(np.sqrt(float(size))) * (deviation * unit) / 4.0
    diagonal = np.arange(size)
    for _ in range(_ATTEMPTS):
        work = hessian.copy()
        work[diagonal, diagonal] = np.add(np.add(work[diagonal, diagonal], own), reach)
        try:
            step = solve_spd(work, right)
        except VerificationError as error:
            if error.code != "not-positive-definite" or reach == 0.0:
                raise
            reach = reach * 2.0
            continue
        return NamedTensors.from_flat(manifest, step)
    raise VerificationError(
        "no ridge makes the noised matrix positive definite", code="not-positive-definite"
    )


def _coefficients(manifest: Manifest) -> int:
    return sum(spec.shape[0] for spec in manifest if spec.name == COEFFICIENTS)
