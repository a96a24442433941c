"""Solving symmetric positive definite systems with one sequence of IEEE operations.

Guarantee (docs/spec/training.md, section 4): the functions here use only correctly rounded
binary64 additions, subtractions, multiplications, divisions and square roots, each on its own,
in the order written here. So every processor and every build of numpy gives the same bits, which
no BLAS promises. The order is that of the right-looking Cholesky factorisation.

Assumes round-to-nearest and gradual underflow, the state in which every process starts.

LIMIT: a library that switches a thread to flush subnormal numbers to zero would change bits for
systems whose elements lie below 2^-1022. Sums on a fixed-point grid never get near.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from treaty.errors import UsageError, VerificationError

__all__ = [
    "apply_symmetric",
    "factor_spd",
    "full_symmetric",
    "inner",
    "solve_factored",
    "solve_spd",
    "upper_triangle",
]


def solve_spd(
    matrix: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return x of shape (p,) with `matrix` x = `right`, up to rounding.

    `matrix` is (p, p); only its lower triangle is read. Raises as `factor_spd` and
    `solve_factored`.
    """
    return solve_factored(factor_spd(matrix), right)


def factor_spd(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the Cholesky factor of the (p, p) `matrix`, of which the lower triangle is read.

    The factor stands in the lower triangle of the result; what is above means nothing. Raises
    `VerificationError` (code ``not-positive-definite``) when a pivot is not a positive finite
    number; `UsageError` for another shape.
    """
    size = matrix.shape[0] if matrix.ndim == 2 else -1
    if matrix.shape != (size, size):
        raise UsageError(f"expected a square matrix, got {matrix.shape}")
    work = np.array(matrix, dtype=np.float64, order="C", copy=True)
    with np.errstate(all="ignore"):
        for k in range(size):
            pivot = work.item(k, k)
            if not (pivot > 0 and math.isfinite(pivot)):
                raise VerificationError(
                    f"expected a positive definite matrix, pivot {k + 1} of {size} is not positive",
                    code="not-positive-definite",
                )
            root = math.sqrt(pivot)
            work[k, k] = root
            column = work[k + 1 :, k]
            np.divide(column, root, out=column)
            # The whole square is updated although only its lower half is read: same bits,
            # one vector operation. Multiply and subtract are separate, so nothing is fused.
            rest = work[k + 1 :, k + 1 :]
            np.subtract(rest, np.multiply.outer(column, column), out=rest)
    return work


def solve_factored(
    factor: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return x of shape (p,) where `factor` is that of `factor_spd` and its matrix x = `right`.

    Raises `VerificationError` (code ``not-finite``) when the solution is not finite; `UsageError`
    for other shapes.
    """
    size = right.shape[0] if right.ndim == 1 else -1
    if factor.shape != (size, size):
        raise UsageError(f"expected a square system, got {factor.shape} and {right.shape}")
    solution = np.array(right, dtype=np.float64, copy=True)
    with np.errstate(all="ignore"):
        for k in range(size):
            value = solution.item(k) / factor.item(k, k)
            solution[k] = value
            rest = solution[k + 1 :]
            np.subtract(rest, np.multiply(factor[k + 1 :, k], value), out=rest)
        for k in range(size - 1, -1, -1):
            value = solution.item(k) / factor.item(k, k)
            solution[k] = value
            rest = solution[:k]
            np.subtract(rest, np.multiply(factor[k, :k], value), out=rest)
    if not np.all(np.isfinite(solution)):
        raise VerificationError("the solution is not finite", code="not-finite")
    return solution


def inner(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Return the sum of products of two vectors (p,), added from the first to the last.

    Products are rounded before they are added, so nothing is fused and no order is numpy's choice.
    """
    total = 0.0
    for product in np.multiply(left, right).tolist():
        total += product
    return total


def apply_symmetric(
    matrix: npt.NDArray[np.float64], vector: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the (p, p) symmetric `matrix` times `vector`, columns added from first to last."""
    total = np.zeros(vector.shape[0])
    for column, value in zip(matrix, vector.tolist(), strict=True):
        np.add(total, np.multiply(column, value), out=total)
    return total


def full_symmetric(upper: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Return the (size, size) matrix whose upper triangle, row by row, is `upper`.

    Raises `UsageError` when the length is not size (size + 1) / 2.
    """
    if upper.shape != (size * (size + 1) // 2,):
        raise UsageError(
            f"expected {size * (size + 1) // 2} elements of a triangle, got {upper.shape}"
        )
    full = np.zeros((size, size))
    rows, columns = upper_triangle(size)
    full[rows, columns] = upper
    full[columns, rows] = upper
    return full


@functools.lru_cache(maxsize=16)
def upper_triangle(size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return rows and columns of the upper triangle of a (size, size) matrix, row by row."""
    rows, columns = np.triu_indices(size)
    rows.setflags(write=False)
    columns.setflags(write=False)
    return rows, columns
