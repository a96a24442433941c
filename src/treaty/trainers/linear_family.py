"""The site's part of a generalised linear model: loss, gradient and Hessian of its own rows.

With site intercepts a site solves its own intercept for the given coefficients, ridge
included, and contributes derivatives of the objective in which that intercept is always at its
optimum (docs/spec/training.md, section 3):

  gradient = sum x (y - mu)
  Hessian  = sum w x x' - (sum w x)(sum w x)' / (sum w + ridge)

The intercept itself, and with it the site's size and mean outcome, never leaves. Newton steps over
the summed derivatives reach the joint fit of all coefficients and all intercepts.

Sites may use any BLAS here: nobody recomputes a contribution.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors
from treaty.models.linear_solve import upper_triangle
from treaty.models.specification import (
    COEFFICIENTS,
    GRADIENT,
    HESSIAN,
    INTERCEPT,
    LOSS,
    ROW_LOSS_BOUND,
    LinearRegression,
    LogisticRegression,
    NewtonModel,
    PoissonRegression,
    has_unit_rows,
)
from treaty.models.task import FailureCode, TrainerFailure

__all__ = [
    "check_labels",
    "derivatives",
    "expected_label",
    "own_intercept",
    "row_errors",
    "with_constant",
]

Vector = npt.NDArray[np.float64]

_MAX_STEPS = 200
_MAX_PREDICTOR = 700.0


@dataclass(frozen=True, slots=True)
class _Row:
    """Per row: loss, mean and the variance weight, each of shape (n,)."""

    loss: Vector
    mean: Vector
    weight: Vector


def check_labels(spec: NewtonModel, label: Vector) -> None:
    """Raise `TrainerFailure` unless every label is one that the model and its bounds allow."""
    match spec:
        case LogisticRegression():
            fine = np.isin(label, (0.0, 1.0))
        case LinearRegression():
            fine = np.abs(label) <= spec.label_bound
        case PoissonRegression():
            fine = (label >= 0) & (label <= spec.label_bound) & (label == np.rint(label))
    if not np.all(fine):
        raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)


def derivatives(
    spec: NewtonModel, model: NamedTensors, features: Vector, label: Vector
) -> NamedTensors:
    """Return gradient, upper triangle of the Hessian, and loss at `model` over all rows.

    `features` is (n, p) and finite, `label` (n,). Raises `TrainerFailure`.
    """
    coefficients = model.float64(COEFFICIENTS)
    ridge = spec.ridge_milli / 1000
    if spec.site_intercepts:
        offset = features @ coefficients
        intercept = own_intercept(spec, offset, label)
        row = _evaluate(spec, offset + intercept, label)
        weighted = features * row.weight[:, None]
        reach = weighted.sum(axis=0)
        hessian = features.T @ weighted - np.outer(reach, reach) / (row.weight.sum() + ridge)
        penalty = ridge * intercept * intercept / 2
    else:
        features = with_constant(spec, features)
        shared = np.append(coefficients, model.float64(INTERCEPT))
        row = _evaluate(spec, features @ shared, label)
        hessian = features.T @ (features * row.weight[:, None])
        penalty = 0.0
    loss = row.loss.sum() + penalty
    if isinstance(spec, LogisticRegression):
        loss = min(loss, float(ROW_LOSS_BOUND * len(label)))
    rows, columns = upper_triangle(len(hessian))
    return NamedTensors.from_arrays(
        {
            GRADIENT: features.T @ (label - row.mean),
            HESSIAN: hessian[rows, columns],
            LOSS: np.array([loss]),
        }
    )


def with_constant(spec: NewtonModel, features: Vector) -> Vector:
    """Return (n, p + 1): `features` with the intercept's constant behind them.

    With `unit_rows` every such row has length one. A row depends on itself alone, to the last
    bit: only elementwise operations, columns in order.
    """
    design = np.column_stack([features, np.ones(len(features))])
    if not has_unit_rows(spec):
        return design
    square = np.zeros(len(design))
    for column in design.T:
        square = square + column * column
    return design / np.sqrt(square)[:, None]


def row_errors(
    spec: NewtonModel, model: NamedTensors, features: Vector, label: Vector
) -> tuple[Vector, Vector]:
    """Return (design (n, p + 1), error of each row (n, 1)) of a model with a common intercept.

    The gradient of a row's loss is its design row times its error. As in `with_constant`, a
    row's numbers depend on that row alone: no matrix product takes part.
    """
    design = with_constant(spec, features)
    shared = np.append(model.float64(COEFFICIENTS), model.float64(INTERCEPT))
    predictor = np.zeros(len(design))
    for column, weight in zip(design.T, shared, strict=True):
        predictor = predictor + column * weight
    return design, (expected_label(spec, predictor) - label)[:, None]


def own_intercept(spec: NewtonModel, offset: Vector, label: Vector) -> float:
    """Return the intercept that minimises the site's penalised loss at linear predictor `offset`.

    Newton's method kept inside a bracket of the root, which the ridge makes finite also where all
    labels are equal. Raises `TrainerFailure` when it does not settle.
    """
    ridge = spec.ridge_milli / 1000

    def slope(intercept: float) -> tuple[float, float]:
        row = _evaluate(spec, offset + intercept, label)
        return (
            float((row.mean - label).sum()) + ridge * intercept,
            float(row.weight.sum()) + ridge,
        )

    low = high = 0.0
    first, _ = slope(0.0)
    reach = 1.0
    # The slope ascends, so its root lies on the side that the slope at zero points away from.
    while first < 0 and slope(high)[0] < 0 and reach < 2.0**60:
        low, high, reach = high, reach, reach * 2
    while first > 0 and slope(low)[0] > 0 and reach < 2.0**60:
        high, low, reach = low, -reach, reach * 2
    current = (low + high) / 2
    for _ in range(_MAX_STEPS):
        value, curvature = slope(current)
        low, high = (current, high) if value < 0 else (low, current)
        following = current - value / curvature if curvature > 0 else np.nan
        if not low <= following <= high:
            following = (low + high) / 2
        if abs(following - current) <= 1e-14 * max(1.0, abs(following)):
            return float(following)
        current = following
    raise TrainerFailure(FailureCode.NO_CONVERGENCE)


def expected_label(spec: NewtonModel, predictor: Vector) -> Vector:
    """Return the mean label for each linear predictor: a probability, a mean or a rate."""
    match spec:
        case LogisticRegression():
            return _probability(predictor, _small(predictor))
        case LinearRegression():
            return predictor
        case PoissonRegression():
            return np.exp(np.minimum(predictor, _MAX_PREDICTOR))


def _small(predictor: Vector) -> Vector:
    """Return exp(-|z|): written with exp of negative numbers only, so that nothing overflows."""
    return np.exp(-np.abs(predictor))


def _probability(predictor: Vector, small: Vector) -> Vector:
    return np.where(predictor >= 0, 1.0, small) / (1.0 + small)


def _evaluate(spec: NewtonModel, predictor: Vector, label: Vector) -> _Row:
    match spec:
        case LogisticRegression():
            small = _small(predictor)
            loss = np.maximum(predictor, 0.0) - label * predictor + np.log1p(small)
            return _Row(loss, _probability(predictor, small), small / (1.0 + small) ** 2)
        case LinearRegression():
            residual = label - predictor
            return _Row(residual * residual / 2, predictor, np.ones(len(predictor)))
        case PoissonRegression():
            mean = expected_label(spec, predictor)
            return _Row(mean - label * predictor, mean, mean)
