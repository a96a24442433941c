"""Solving symmetric positive definite systems with one sequence of IEEE operations.

Guarantee (docs/spec/training.md, section 4): `solve_spd` uses only correctly rounded
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

__all__ = ["full_symmetric", "solve_spd", "upper_triangle"]


def solve_spd(
    matrix: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return x of shape (p,) with `matrix` x = `right`, up to rounding.

    `matrix` is (p, p); only its lower triangle is read. Raises `VerificationError` (code
    ``not-positive-definite``) when a pivot is not a positive finite number, and (code
    ``not-finite``) when the solution is not finite; `UsageError` for other shapes.
    """
    size = right.shape[0] if right.ndim == 1 else -1
    if matrix.shape != (size, size):
        raise UsageError(f"expected a square system, got {matrix.shape} and {right.shape}")
    work = np.array(matrix, dtype=np.float64, order="C", copy=True)
    solution = np.array(right, dtype=np.float64, copy=True)
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
        for k in range(size):
            value = solution.item(k) / work.item(k, k)
            solution[k] = value
            rest = solution[k + 1 :]
            np.subtract(rest, np.multiply(work[k + 1 :, k], value), out=rest)
        for k in range(size - 1, -1, -1):
            value = solution.item(k) / work.item(k, k)
            solution[k] = value
            rest = solution[:k]
            np.subtract(rest, np.multiply(work[k, :k], value), out=rest)
    if not np.all(np.isfinite(solution)):
        raise VerificationError("the solution is not finite", code="not-finite")
    return solution


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
