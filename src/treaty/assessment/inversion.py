"""Gradient inversion: reading records back out of an update, honestly or with trap weights.

The gradient of a dense layer is, for each unit, a mix of the rows' inputs, and that of its bias is
the sum of the mixing weights. Where one row dominates a unit, the quotient is that row, exactly.
A Newton contribution does the same: its Hessian is a mix of outer products of rows. Trap
weights make one row dominate: units so steep that all rows but those near a plane are saturated.

Guarantees (docs/spec/privacy.md, section 10.5):
  * `count_recovered` counts a record only if a candidate lies within the tolerance of it and
    none of equally many decoys, made by mixing the columns of records, is hit as well.
  * The attack sees what it is given and nothing else: a bare update, a sum, or a noised sum.

Sources: Phong et al. 2018 and Geiping et al. 2020 (analytic inversion); Boenisch et al. 2023,
"When the curious abandon honesty" (trap weights); both here for tanh and generalised linear models.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError

__all__ = [
    "Recovery",
    "count_recovered",
    "hessian_candidates",
    "layer_candidates",
    "trap_layer",
    "trap_plane",
    "unpacked_triangle",
]

Matrix = NDArray[np.float64]

_TOLERANCE = 0.01
"""Distance, relative to the record's length, within which a record counts as recovered."""

_STEEPNESS = (2.0, 4.0)
"""Slope of a trap across its plane, in logits per standard deviation of the projection: powers of
ten between these. Few rows call for mild traps, or none is near enough; many for steep ones."""

_LEAST_SHARE = 1e-9
"""Units whose bias moved less than this share of the largest say nothing."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How many of `records` distinct records an attack on one view read back.

    `decoys` counts decoys that were hit: matches by chance, which are not counted as recovered.
    """

    view: str
    records: int
    recovered: int
    decoys: int


def layer_candidates(weight_change: Matrix, bias_change: Matrix) -> Matrix:
    """Return candidate records (k, inputs): each unit's weight gradient over its bias gradient.

    `weight_change` (inputs, units), `bias_change` (units,), in any common scale: a learning rate, a
    clip or a site's weight falls out of the quotient.
    """
    if weight_change.ndim != 2 or weight_change.shape[1:] != bias_change.shape:
        raise UsageError("expected weights (inputs, units) and biases (units,)")
    size = np.abs(bias_change)
    useful = size > _LEAST_SHARE * size.max(initial=0.0)
    candidates: Matrix = (weight_change[:, useful] / bias_change[useful]).T
    finite = np.flatnonzero(np.isfinite(candidates).all(axis=1))
    return candidates[finite]


def hessian_candidates(hessian: Matrix, *, has_intercept: bool) -> Matrix:
    """Return candidate records (k, inputs) read from a Hessian (q, q) of a linear model.

    If one row dominates, the matrix is a multiple of its outer product. With a common intercept
    (last coordinate one) the row of the intercept is the record up to scale; without, the record is
    known up to its length and sign, so it is scaled to length one in both signs.
    """
    if has_intercept:
        scale = hessian[-1, -1]
        if not scale > 0.0:
            return np.empty((0, len(hessian) - 1))
        row: Matrix = hessian[-1:, :-1] / scale
        return row
    column = hessian[:, int(np.argmax(np.abs(np.diag(hessian))))]
    length = float(np.sqrt(np.square(column).sum()))
    if not length > 0.0:
        return np.empty((0, len(hessian)))
    return np.stack([column, -column]) / length


def unpacked_triangle(packed: Matrix, size: int) -> Matrix:
    """Return the symmetric matrix (size, size) whose upper triangle, row by row, is `packed`."""
    if packed.shape != (size * (size + 1) // 2,):
        raise UsageError(f"expected {size * (size + 1) // 2} elements, got {packed.shape}")
    matrix = np.zeros((size, size))
    rows, columns = np.triu_indices(size)
    matrix[rows, columns] = packed
    matrix[columns, rows] = packed
    return matrix


def trap_plane(features: Matrix, generator: np.random.Generator) -> tuple[Matrix, float]:
    """Return (weights (inputs,), bias) of one steep unit whose plane cuts through the rows.

    `features` (n, inputs) are rows that the attacker expects to meet, not the victims': from public
    bounds or a sample of its own. The plane lies at the projection of one of them.
    """
    if features.ndim != 2 or len(features) < 2:
        raise UsageError("expected at least two rows to place a trap")
    direction: Matrix = generator.standard_normal((int(features.shape[1]),))
    projection: Matrix = features @ direction
    spread = float(projection.std())
    slope = 10.0 ** float(generator.uniform(*_STEEPNESS))
    scale = slope / (spread if spread > 0.0 else 1.0)
    place = float(np.quantile(projection, generator.random()))
    return direction * scale, -place * scale


def trap_layer(
    features: Matrix, units: int, generator: np.random.Generator
) -> tuple[Matrix, Matrix]:
    """Return (weights (inputs, units), biases (units,)) of a layer of traps."""
    planes = [trap_plane(features, generator) for _ in range(units)]
    return (
        np.stack([weights for weights, _ in planes], axis=1),
        np.array([bias for _, bias in planes]),
    )


def count_recovered(
    view: str,
    candidates: Matrix,
    records: Matrix,
    generator: np.random.Generator,
    *,
    normalised: bool = False,
    tolerance: float = _TOLERANCE,
) -> Recovery:
    """Return how many distinct `records` (n, inputs) some candidate (k, inputs) reproduces.

    With `normalised`, records are scaled to length one first, as `hessian_candidates` does where
    lengths are lost. A decoy takes each column from a record of its own; decoys that equal a
    record are left out.
    """
    distinct = np.unique(records, axis=0)
    decoys = np.stack(
        [generator.permutation(distinct[:, place]) for place in range(distinct.shape[1])], axis=1
    )
    known = {row.tobytes() for row in distinct}
    decoys = decoys[[row.tobytes() not in known for row in decoys]]
    hit = _hits(candidates, distinct, normalised, tolerance)
    by_chance = int(np.count_nonzero(_hits(candidates, decoys, normalised, tolerance)))
    recovered = max(0, int(np.count_nonzero(hit)) - by_chance)
    return Recovery(view, len(distinct), recovered, by_chance)


def _hits(
    candidates: Matrix, records: Matrix, normalised: bool, tolerance: float
) -> NDArray[np.bool_]:
    """Say of each record whether a candidate lies within the tolerance of it."""
    if not len(records) or not len(candidates):
        return np.zeros(len(records), dtype=np.bool_)
    length = np.sqrt(np.square(records).sum(axis=1))
    if normalised:
        keep = length > 0.0
        records = np.where(keep[:, None], records / np.where(keep, length, 1.0)[:, None], 2.0)
        length = np.ones(len(records))
    nearest = np.full(len(records), np.inf)
    for candidate in candidates:
        nearest = np.minimum(nearest, np.square(records - candidate).sum(axis=1))
    found: NDArray[np.bool_] = np.sqrt(nearest) <= tolerance * np.maximum(length, 1e-12)
    return found
