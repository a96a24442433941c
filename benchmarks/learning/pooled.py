"""The pooled fit: the same penalised objective, minimised with all rows in one place.

Written apart from the product on purpose: float64 means and deviations of the pooled training rows,
one dense matrix with a column for each intercept, numpy's solver. It shares with the product
only the definition: population standard deviation, scale 1 for a constant column,
features cut at `CLIP` deviations, ridge 1 on coefficients and on site intercepts, none on a
common intercept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.pipeline import Divided
from treaty.ids import MemberId

__all__ = ["CLIP", "PooledFit", "fit_pooled"]

Vector = NDArray[np.float64]

CLIP = 16.0
RIDGE = 1.0
_MAX_STEPS = 100
_GRADIENT = 1e-10


@dataclass(frozen=True, slots=True)
class PooledFit:
    """Predicted probabilities on every site's holdout rows, and the count of cut cells."""

    scores: Mapping[MemberId, Vector]
    cut: int


def fit_pooled(
    divided: Divided, *, site_intercepts: bool, normalise_per_site: bool = False
) -> PooledFit:
    """Return the fit of all training rows together.

    `normalise_per_site` takes each site's own means and deviations instead, the recipe of the
    published benchmarks.
    """
    sites = list(divided)
    pooled = np.concatenate([divided[site].training.features for site in sites])
    training: list[Vector] = []
    holdout: list[Vector] = []
    cut = 0
    for number, site in enumerate(sites):
        own = divided[site].training.features
        mean, scale = _moments(own if normalise_per_site else pooled)
        for rows, target in ((own, training), (divided[site].holdout.features, holdout)):
            scaled = (rows - mean) / scale
            cut += int(np.count_nonzero(np.abs(scaled) > CLIP))
            intercepts = np.zeros((len(rows), len(sites) if site_intercepts else 1))
            intercepts[:, number if site_intercepts else 0] = 1.0
            target.append(np.hstack([np.clip(scaled, -CLIP, CLIP), intercepts]))
    design = np.concatenate(training)
    label = np.concatenate([divided[site].training.label for site in sites])
    penalty = np.full(design.shape[1], RIDGE)
    if not site_intercepts:
        penalty[-1] = 0.0
    parameters = _minimise(design, label, penalty)
    scores = {
        site: _probability(rows @ parameters) for site, rows in zip(sites, holdout, strict=True)
    }
    return PooledFit(scores, cut)


def _moments(features: Vector) -> tuple[Vector, Vector]:
    scale = features.std(axis=0)
    # The deviation of a constant column may come out as rounding noise instead of zero.
    constant = np.ptp(features, axis=0) == 0.0
    return features.mean(axis=0), np.where(constant, 1.0, scale)


def _probability(predictor: Vector) -> Vector:
    result: Vector = np.exp(-np.logaddexp(0.0, -predictor))
    return result


def _objective(design: Vector, label: Vector, penalty: Vector, parameters: Vector) -> float:
    predictor = design @ parameters
    loss = np.logaddexp(0.0, predictor) - label * predictor
    return float(loss.sum() + (penalty * parameters**2).sum() / 2)


def _minimise(design: Vector, label: Vector, penalty: Vector) -> Vector:
    """Return the minimum by Newton's method with halved steps; the objective is convex."""
    parameters = np.zeros(design.shape[1])
    current = _objective(design, label, penalty, parameters)
    for _ in range(_MAX_STEPS):
        mean = _probability(design @ parameters)
        gradient = design.T @ (mean - label) + penalty * parameters
        if np.max(np.abs(gradient)) < _GRADIENT * len(label):
            return parameters
        weight = mean * (1.0 - mean)
        hessian = design.T @ (design * weight[:, None]) + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 2.0**-20:
            tried = _objective(design, label, penalty, parameters - size * step)
            if tried <= current + 1e-12 * abs(current):
                break
            size /= 2
        parameters, current = parameters - size * step, tried
    raise ArithmeticError("the pooled fit did not settle")
