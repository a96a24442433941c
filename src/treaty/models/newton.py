"""The next coefficients of a generalised linear model from the published sum.

Every member and every verifier takes this step itself, bit for bit the same
(docs/spec/training.md, section 4):
  1. H = sum of Hessians, plus the ridge on the diagonal of coefficients;
  2. g = sum of gradients, minus the ridge times the coefficients;
  3. step = solution of H step = g by `solve_spd`;
  4. a step whose largest element exceeds the limit of its kind is scaled down to it;
  5. coefficients + step.

A common intercept stands last and has no ridge. Site intercepts are not here: sites contribute
gradient and Hessian with their own intercept already at its optimum, ridge included.
Convergence is read off the step, so all agree on the last round.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors, manifest_elements
from treaty.errors import UsageError
from treaty.models.fixed_point import DecodedSums, sum_as_float64
from treaty.models.linear_solve import full_symmetric, solve_spd
from treaty.models.specification import (
    COEFFICIENTS,
    GRADIENT,
    HESSIAN,
    LOSS,
    LinearRegression,
    NewtonModel,
    PoissonRegression,
    model_manifest,
)

__all__ = ["CONVERGED_STEP", "NewtonTrace", "next_coefficients"]

CONVERGED_STEP = 2.0**-30
"""A round whose largest step is at most this is the last: 9.3e-10, a few grid steps at 32 bits."""

_STEP_LIMIT_LOGISTIC = 8.0
_STEP_LIMIT_POISSON = 1.0


@dataclass(frozen=True, slots=True)
class NewtonTrace:
    """What one round did.

    `step` is the largest absolute change; `loss` the sites' summed loss at the coefficients
    before the step, with the ridge on site intercepts and without that on coefficients.
    """

    step: float
    loss: float
    converged: bool


def next_coefficients(
    spec: NewtonModel, model: NamedTensors, sums: DecodedSums, scale_bits: int
) -> tuple[NamedTensors, NewtonTrace]:
    """Return the next model and the round's trace.

    `sums` holds ``gradient``, ``hessian`` and ``loss`` as integers over 2^`scale_bits`. Raises
    `VerificationError` when they have other lengths, when the Hessian is not positive definite or
    the step not finite; `UsageError` when `model` is not one of `spec`. Pure.
    """
    columns = model[COEFFICIENTS].shape[0] if COEFFICIENTS in model else 0
    if columns == 0 or not model.conforms_to(model_manifest(spec, columns)):
        raise UsageError(f"expected a model of {type(spec).__name__}, got {model!r}")
    size = manifest_elements(model.manifest)
    current = model.flat()
    gradient = sum_as_float64(sums, GRADIENT, size, scale_bits)
    upper = sum_as_float64(sums, HESSIAN, size * (size + 1) // 2, scale_bits)
    loss = sum_as_float64(sums, LOSS, 1, scale_bits)

    ridge = np.full(size, spec.ridge_milli / 1000)
    ridge[columns:] = 0.0
    hessian = full_symmetric(upper, size)
    diagonal = np.arange(size)
    hessian[diagonal, diagonal] = np.add(hessian[diagonal, diagonal], ridge)
    pull = np.subtract(gradient, np.multiply(ridge, current))
    step = _limited(spec, solve_spd(hessian, pull))
    following = np.add(current, step)
    largest = float(np.max(np.abs(step)))
    trace = NewtonTrace(step=largest, loss=float(loss[0]), converged=largest <= CONVERGED_STEP)
    return NamedTensors.from_flat(model.manifest, following), trace


def _limited(spec: NewtonModel, step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return `step`, or the step in its direction whose largest element is the kind's limit."""
    if isinstance(spec, LinearRegression):
        return step
    limit = _STEP_LIMIT_POISSON if isinstance(spec, PoissonRegression) else _STEP_LIMIT_LOGISTIC
    largest = np.max(np.abs(step))
    if largest <= limit:
        return step
    limited: npt.NDArray[np.float64] = np.multiply(step, np.divide(limit, largest))
    return limited
