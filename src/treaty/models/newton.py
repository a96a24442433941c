"""The next coefficients of a generalised linear model from the published sum.

Every member and every verifier takes this step itself, bit for bit the same
(docs/spec/training.md, section 4):
  1. H = sum of Hessians, plus the ridge on the diagonal of coefficients;
  2. g = sum of gradients, minus the ridge times the coefficients;
  3. step = solution of H step = g;
  4. from the second round on, a correction of third order read off the change of H since the
     round before: the step of Chebyshev's method, without another sum;
  5. a step whose largest element exceeds the limit of its kind is scaled down to it;
  6. coefficients + step.

A common intercept stands last and has no ridge. Site intercepts are not here: sites contribute
gradient and Hessian with their own intercept already at its optimum, ridge included.
Convergence is read off the Newton decrement, so all agree on the last round. A round that finds the
objective above that of the point it came from goes part of the way back instead, at most three
times in a row and only over as many sites.

Source of the correction: the third derivative of the objective along the step s,
T[s, s], enters Chebyshev's method as -H^-1 T[s, s] / 2 (Traub, Iterative Methods for the Solution
of Equations, 1964). Where s is nearly parallel to the step before, T[s, s] is nearly the
change of H times s, times the ratio of the two steps. How nearly parallel weighs the correction.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors, manifest_elements
from treaty.errors import UsageError
from treaty.models.fixed_point import DecodedSums, sum_as_float64
from treaty.models.linear_solve import (
    apply_symmetric,
    factor_spd,
    full_symmetric,
    inner,
    solve_factored,
    upper_triangle,
)
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

__all__ = [
    "CONVERGED_DECREMENT",
    "NewtonMemory",
    "NewtonTrace",
    "next_coefficients",
]

CONVERGED_DECREMENT = 2.0**-28
"""A round whose Newton decrement n is at most this, times a ridge below 1, is the last.

The decrement is x' H x for the plain step x: twice what the objective could still fall, to second
order. A row of length R in the design weighs the change of the Hessian along a step of length
sqrt(n / ridge), so what the step leaves undone moves its probability by about R^2 n / (4 ridge)
at most: 9e-8 for R = 10.
"""
_LEAST_RIDGE = 2.0**-10

_STEP_LIMIT_LOGISTIC = 8.0
_STEP_LIMIT_POISSON = 1.0

_DECREMENT = 0.5
"""A correction needs the Newton decrement, step' H step, at most this part of the one before."""
_CORRECTION = 49 / 64
"""A correction's length in the norm of H, squared, is at most this part of the step's."""

_STEP = "step"
_RISE = 2.0**-20
"""Relative to the objective, what rounding at the sites may add."""
_MAX_RETREATS = 3
_LEAST_RETREAT = 0.125


@dataclass(frozen=True, slots=True)
class NewtonMemory:
    """What the next round needs of the point that this round stepped from.

    `step` (p,) is the step taken from there and `hessian` (p (p + 1) / 2,) the Hessian with ridge,
    upper triangle, both as tensors; `decrement` is x' H x of the plain Newton step x there,
    `slope` the fall of the objective along `step` to first order, `objective` the loss with all
    ridges. `contributors` sites stand in the sum; `retreats` counts the times that `step` was cut.
    """

    tensors: NamedTensors
    decrement: float
    slope: float
    objective: float
    contributors: int
    retreats: int = 0

    @property
    def step(self) -> npt.NDArray[np.float64]:
        """Return the step taken, (p,)."""
        return self.tensors.float64(_STEP)

    @property
    def hessian(self) -> npt.NDArray[np.float64]:
        """Return the Hessian at the point stepped from, (p, p)."""
        return full_symmetric(self.tensors.float64(HESSIAN), self.tensors[_STEP].shape[0])


@dataclass(frozen=True, slots=True)
class NewtonTrace:
    """What one round did.

    `step` is the largest absolute change; `loss` the sites' summed loss at the coefficients
    before the step, with the ridge on site intercepts and without that on coefficients. `memory`
    is what the next round needs of this one.
    """

    step: float
    loss: float
    converged: bool
    memory: NewtonMemory


def next_coefficients(
    spec: NewtonModel,
    model: NamedTensors,
    sums: DecodedSums,
    scale_bits: int,
    *,
    contributors: int = 1,
    memory: NewtonMemory | None = None,
) -> tuple[NamedTensors, NewtonTrace]:
    """Return the next model and the round's trace.

    `sums` holds ``gradient``, ``hessian`` and ``loss`` over `contributors` sites, as integers over
    2^`scale_bits`; `memory` is that of the trace of the round before, None in the first. Raises
    `VerificationError` when the sums have other lengths, when the Hessian is not positive definite
    or the step not finite; `UsageError` when `model` or `memory` is not one of `spec`. Pure.
    """
    columns = model[COEFFICIENTS].shape[0] if COEFFICIENTS in model else 0
    if columns == 0 or not model.conforms_to(model_manifest(spec, columns)):
        raise UsageError(f"expected a model of {type(spec).__name__}, got {model!r}")
    size = manifest_elements(model.manifest)
    if memory is not None and memory.tensors[_STEP].shape != (size,):
        raise UsageError(f"expected the memory of {size} parameters, got {memory.tensors!r}")
    current = model.flat()
    gradient = sum_as_float64(sums, GRADIENT, size, scale_bits)
    upper = sum_as_float64(sums, HESSIAN, size * (size + 1) // 2, scale_bits)
    loss = float(sum_as_float64(sums, LOSS, 1, scale_bits)[0])

    ridge = np.full(size, spec.ridge_milli / 1000)
    ridge[columns:] = 0.0
    hessian = full_symmetric(upper, size)
    diagonal = np.arange(size)
    hessian[diagonal, diagonal] = np.add(hessian[diagonal, diagonal], ridge)
    weighted = np.multiply(ridge, current)
    pull = np.subtract(gradient, weighted)
    objective = loss + inner(weighted, current) / 2
    if memory is not None and _rose(objective, contributors, memory):
        change, kept = _retreat(objective, memory)
        retreated = NamedTensors.from_flat(model.manifest, np.add(current, change))
        return retreated, NewtonTrace(float(np.max(np.abs(change))), loss, False, kept)

    factor = factor_spd(hessian)
    step = solve_factored(factor, pull)
    decrement = inner(step, apply_symmetric(hessian, step))
    if memory is not None:
        step = _corrected(step, decrement, hessian, factor, memory)
    step = _limited(spec, step)
    largest = float(np.max(np.abs(step)))
    following = NamedTensors.from_flat(model.manifest, np.add(current, step))
    kept = NewtonMemory(
        tensors=NamedTensors.from_arrays({HESSIAN: hessian[upper_triangle(size)], _STEP: step}),
        decrement=decrement,
        slope=inner(pull, step),
        objective=objective,
        contributors=contributors,
    )
    enough = CONVERGED_DECREMENT * min(max(spec.ridge_milli / 1000, _LEAST_RIDGE), 1.0)
    return following, NewtonTrace(largest, loss, decrement <= enough, kept)


def _rose(objective: float, contributors: int, memory: NewtonMemory) -> bool:
    """Say whether the last step made things worse, as far as the same sites can say."""
    return (
        memory.retreats < _MAX_RETREATS
        and memory.contributors == contributors
        and objective > memory.objective + _RISE * max(1.0, abs(memory.objective))
    )


def _retreat(
    objective: float, memory: NewtonMemory
) -> tuple[npt.NDArray[np.float64], NewtonMemory]:
    """Return the change from the rejected point, and the memory with the step cut.

    The cut goes to the minimum of the parabola through both objectives and the slope.
    """
    rise = objective - memory.objective
    part = max(memory.slope / (2 * (rise + memory.slope)), _LEAST_RETREAT)
    step = np.multiply(memory.step, part)
    kept = replace(
        memory,
        tensors=NamedTensors.from_arrays({HESSIAN: memory.tensors[HESSIAN], _STEP: step}),
        slope=memory.slope * part,
        retreats=memory.retreats + 1,
    )
    return np.subtract(step, memory.step), kept


def _corrected(
    step: npt.NDArray[np.float64],
    decrement: float,
    hessian: npt.NDArray[np.float64],
    factor: npt.NDArray[np.float64],
    memory: NewtonMemory,
) -> npt.NDArray[np.float64]:
    """Return `step` with the correction of third order, or as it is where that is not sound."""
    before = memory.step
    length = inner(before, apply_symmetric(hessian, before))
    along = inner(before, apply_symmetric(hessian, step))
    if not (along > 0 and length > 0 and 0 < decrement <= _DECREMENT * memory.decrement):
        return step
    change = np.subtract(hessian, memory.hessian)
    correction = solve_factored(factor, apply_symmetric(change, step))
    parallel = along / (math.sqrt(decrement) * math.sqrt(length))
    correction = np.multiply(correction, min(along / length, 1.0) * parallel / 2)
    reach = inner(correction, apply_symmetric(hessian, correction))
    if reach > _CORRECTION * decrement:
        correction = np.multiply(correction, math.sqrt(_CORRECTION * decrement / reach))
    corrected: npt.NDArray[np.float64] = np.subtract(step, correction)
    return corrected


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
