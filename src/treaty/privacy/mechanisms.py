"""Per-person clipping onto an integer grid, ghost clipping, and each site's share of noise.

Guarantees (docs/spec/privacy.md, section 5):
  * `clipped_sum` is a sum of integer vectors, one per person, each of L2 norm at most the
    clipping norm in grid units. Truncation is toward zero and the norm is checked after
    it, so the sensitivity is exact: integer sums are associative.
  * `noise_share` gives a variance of which any `min_honest` shares carry the whole.
  * `ghost_sensitivity` bounds the sensitivity when clipped gradients are summed in floating
    point before rounding (neural networks), rounding errors charged.

Ghost clipping finds each person's gradient norm from activations and back-propagated errors;
no gradient of a single row is ever formed. Left to others: gradients themselves, sampling
(`sampler`), masking.
LIMIT: the ghost path assumes that a row's activations and errors do not depend on which other
rows are present; linear-algebra kernels may break this by some units in the last place, which
`ghost_sensitivity` charges as one part in 2^40 of the clipping norm for each row.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from treaty.errors import PolicyError, UsageError
from treaty.privacy.events import MIN_SHARE_VARIANCE
from treaty.privacy.sampler import MAX_SAMPLER_VARIANCE, DiscreteGaussian, Fill

__all__ = [
    "MAX_GRID_BITS",
    "MIN_GRID_BITS",
    "Clip",
    "Layer",
    "add_noise",
    "clip_persons",
    "clipped_sum",
    "ghost_factors",
    "ghost_norms",
    "ghost_sensitivity",
    "ghost_sum",
    "noise_share",
    "scaled_clip",
]

MIN_GRID_BITS = 24
MAX_GRID_BITS = 32
_CHUNK = 4096
_HEADROOM = 1 << 62

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Persons = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clip:
    """The clipping norm `norm` (a positive real) is 2^`grid_bits` grid units, 24 .. 32 bits.

    It is also the sensitivity in grid units of one person at one site, added or removed.
    """

    norm: float
    grid_bits: int = MIN_GRID_BITS

    def __post_init__(self) -> None:
        if not (math.isfinite(self.norm) and self.norm > 0.0):
            raise UsageError(f"clipping norm must be positive and finite, got {self.norm}")
        if not MIN_GRID_BITS <= self.grid_bits <= MAX_GRID_BITS:
            raise UsageError(
                f"grid bits must be in {MIN_GRID_BITS} .. {MAX_GRID_BITS}, got {self.grid_bits}"
            )

    @property
    def units(self) -> int:
        """The clipping norm, and the sensitivity, in grid units."""
        return 1 << self.grid_bits

    @property
    def step(self) -> float:
        """The length of one grid unit in the units of the clipped vectors."""
        return self.norm / self.units


@dataclass(frozen=True, slots=True)
class Layer:
    """One dense layer seen by ghost clipping, for the same rows in the same order.

    `inputs` (rows, fan-in) are its activations, `errors` (rows, fan-out) the loss gradient at
    its output. The weight gradient of a row is the outer product; with `has_bias`, the
    bias gradient is the error itself.
    """

    inputs: Array
    errors: Array
    has_bias: bool = True


def noise_share(sigma_squared: int, min_honest: int) -> int:
    """Return the variance each site draws so that `min_honest` of them carry `sigma_squared`.

    Guarantee: min_honest times the result is at least `sigma_squared`; rounds up. All in grid
    units squared. Raises `UsageError` when the share is outside 2^20 .. 2^80 (the accounting
    lemma below, the sampler above) or `min_honest` < 1.
    """
    if min_honest < 1:
        raise UsageError(f"min_honest must be at least 1, got {min_honest}")
    share = -(-sigma_squared // min_honest)
    if not MIN_SHARE_VARIANCE <= share <= MAX_SAMPLER_VARIANCE:
        raise UsageError(
            f"noise share has variance {share} grid units squared, expected 2^20 .. 2^80: "
            "choose another grid"
        )
    return share


def add_noise(total: Integers, *, share_variance: int, ring_bits: int, fill: Fill) -> Integers:
    """Return `total` plus one discrete Gaussian share per coordinate.

    Guarantee: independent coordinates, exact law. Raises `PolicyError` ``overflow`` when a
    result could reach a quarter of the ring, so that a sum over sites cannot wrap unseen;
    the caller then sends nothing. `ring_bits` is 48 .. 64.
    """
    if not 48 <= ring_bits <= 64:
        raise UsageError(f"ring bits must be in 48 .. 64 with noise, got {ring_bits}")
    noise = DiscreteGaussian(share_variance, fill).draw(total.size).reshape(total.shape)
    limit = 1 << (ring_bits - 2)
    for part in (total, noise):
        if part.size and max(int(part.max()), -int(part.min())) >= limit // 2:
            raise PolicyError(
                f"a value reaches 1/8 of the ring of {ring_bits} bits: use a coarser grid",
                code="overflow",
            )
    return total + noise


def clip_persons(vectors: Array, clip: Clip) -> Integers:
    """Return each row of `vectors` (persons, d) clipped and truncated onto the grid, int64.

    Guarantee: every returned row has L2 norm at most `clip.units`, checked in integers'
    values with an upward error bound, whatever the input. Rounds toward zero. Raises
    `PolicyError` ``not-finite`` for NaN or infinity: such a row has no bounded norm.
    """
    if vectors.ndim != 2:
        raise UsageError(f"expected a matrix (persons, d), got {vectors.ndim} dimensions")
    if not np.isfinite(vectors).all():
        raise PolicyError("a person's vector holds NaN or infinity", code="not-finite")
    # Scaling by the largest entry first keeps squares of huge or tiny entries in range.
    peak = np.abs(vectors).max(axis=1, initial=0.0)
    safe = np.where(peak > 0.0, peak, 1.0)
    shape = vectors / safe[:, None]
    length = np.sqrt(np.square(shape).sum(axis=1))
    # In units of the clip: multiply the shape by min(1 / length, peak / norm).
    factor = np.minimum(
        1.0 / np.where(length > 0.0, length, 1.0), np.minimum(safe / clip.norm, 2.0)
    )
    error = (vectors.shape[1] + 16) * 2.0**-52
    grid = np.trunc(shape * (factor * (1.0 - error) * clip.units)[:, None])
    squares = np.square(grid).sum(axis=1) * (1.0 + error)
    if (squares > float(clip.units) ** 2).any():
        raise UsageError("clipping left a norm above its bound: this is a defect, report it")
    rounded: Integers = grid.astype(np.int64)
    return rounded


def clipped_sum(
    contribution: Callable[[int, int], Array], persons: Persons, width: int, clip: Clip
) -> Integers:
    """Return the integer sum over persons of their clipped contributions, int64 (width,).

    `contribution(start, stop)` gives the rows' real vectors (stop - start, width); `persons`
    (rows,) names the person of each row and must be sorted. Rows of one person are added
    before clipping. No more than some thousand rows, or one person, are held at a time.

    Guarantee: adding or removing all rows of one person moves the result by at most
    `clip.units` in L2 norm, exactly, if a row's vector depends on that row alone. Raises
    `PolicyError` ``not-finite`` and ``overflow`` (more than 2^62 units).
    """
    rows = len(persons)
    if rows > 1 and (np.diff(persons) < 0).any():
        raise UsageError("rows must be sorted by person")
    first = np.flatnonzero(np.r_[True, np.diff(persons) != 0]) if rows else np.empty(0, np.int64)
    if len(first) * clip.units > _HEADROOM:
        raise PolicyError(
            f"{len(first)} persons could pass 2^62 grid units: use a coarser grid", code="overflow"
        )
    total = np.zeros(width, dtype=np.int64)
    for start, stop in pairwise(_cuts(first, rows)):
        vectors = contribution(start, stop)
        if vectors.shape != (stop - start, width):
            raise UsageError(f"expected vectors {(stop - start, width)}, got {vectors.shape}")
        inside = first[(first >= start) & (first < stop)] - start
        # In extreme rows the sum itself may overflow; clip_persons then refuses it.
        with np.errstate(over="ignore", invalid="ignore"):
            added = np.add.reduceat(vectors, inside, axis=0)
        total += clip_persons(added, clip).sum(axis=0)
    return total


def ghost_norms(layers: Sequence[Layer]) -> Array:
    """Return the L2 norm of each row's whole gradient, (rows,), without forming it.

    For a generalised linear model pass one layer: features and the derivative of the loss.
    """
    rows = _rows(layers)
    squares = np.zeros(rows)
    for layer in layers:
        size = np.einsum("ij,ij->i", layer.inputs, layer.inputs) + float(layer.has_bias)
        squares += size * np.einsum("ij,ij->i", layer.errors, layer.errors)
    return np.sqrt(squares)


def ghost_factors(layers: Sequence[Layer], persons: Persons, clip: Clip) -> Array:
    """Return what each row's gradient is multiplied by, (rows,), in 0 .. 1.

    Rows are clipped first, then the sum of each person's rows. `persons` (rows,) sorted.

    Guarantee: each person's weighted gradients add to a vector of norm at most
    `clip.norm`, up to rounding (`ghost_sensitivity`). Raises `PolicyError` ``not-finite``.
    """
    rows = _rows(layers)
    if len(persons) != rows:
        raise UsageError(f"expected {rows} person names, got {len(persons)}")
    if rows > 1 and (np.diff(persons) < 0).any():
        raise UsageError("rows must be sorted by person")
    norms = ghost_norms(layers)
    if not np.isfinite(norms).all():
        raise PolicyError("a gradient norm is NaN or infinite", code="not-finite")
    factors = np.minimum(1.0, clip.norm / np.maximum(norms, 1e-300))
    if rows == 0:
        return factors
    first = np.flatnonzero(np.r_[True, np.diff(persons) != 0])
    sizes = np.diff(np.r_[first, rows])
    for start, size in zip(first[sizes > 1], sizes[sizes > 1], strict=True):
        part = slice(int(start), int(start + size))
        square = 0.0
        for layer in layers:
            errors = layer.errors[part] * factors[part, None]
            inner = layer.inputs[part] @ layer.inputs[part].T + float(layer.has_bias)
            square += float((inner * (errors @ errors.T)).sum())
        # Rows that nearly cancel leave little of many products: the error is one of the products'
        # size, which the clip of each row bounds, not of the difference's.
        terms = sum(layer.inputs.shape[1] + layer.errors.shape[1] + 2 for layer in layers)
        square += (float(size) * clip.norm) ** 2 * (float(size) + terms) * 2.0**-51
        if not math.isfinite(square):
            raise PolicyError("a person's gradient norm is NaN or infinite", code="not-finite")
        norm = math.sqrt(max(square, 0.0))
        if norm > clip.norm:
            factors[part] *= clip.norm / norm
    return factors


def ghost_sum(layers: Sequence[Layer], factors: Array, clip: Clip) -> Integers:
    """Return the clipped gradient sum on the grid: weights row by row, then bias, per layer.

    Flat int64; sums in floating point, then truncates toward zero. Its sensitivity is
    `ghost_sensitivity`, not `clip.units`.
    """
    parts: list[Array] = []
    for layer in layers:
        weighted = layer.errors * factors[:, None]
        parts.append((layer.inputs.T @ weighted).ravel())
        if layer.has_bias:
            parts.append(weighted.sum(axis=0))
    flat = np.concatenate(parts) / clip.step
    if not np.isfinite(flat).all():
        raise PolicyError("a gradient sum is NaN or infinite", code="not-finite")
    if np.abs(flat).max(initial=0.0) > 2.0**53:
        raise PolicyError("a gradient sum passes 2^53 grid units", code="overflow")
    return np.trunc(flat).astype(np.int64)


def ghost_sensitivity(clip: Clip, *, width: int, max_rows: int, fan_in: int) -> int:
    """Return the sensitivity in grid units of `ghost_sum` over at most `max_rows` rows.

    Guarantee: for `width` coordinates, one person's rows added or removed, the integer result
    moves by at most this in L2 norm. The float sum errs by at most (rows + 8) 2^-52 times
    rows times the clip in each coordinate, on both sides; truncation by one unit; norms and
    row-wise kernels as said in the module's LIMIT. Rounds up. Source: standard bounds for
    dot products (Higham, section 3.1). Raises `UsageError` when the slack passes 1 % of the
    clip: the grid or the batch is then unfit.
    """
    for name, value in (("width", width), ("max_rows", max_rows), ("fan_in", fan_in)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    units = float(clip.units)
    summing = 2.0 * (max_rows + 8) * 2.0**-52 * max_rows * units
    kernels = 2.0 * max_rows * units * 2.0**-40
    norms = (width + fan_in + 64) * 2.0**-50 * units
    slack = math.sqrt(width) * (1.0 + summing) + kernels + norms
    if slack > 0.01 * units:
        raise UsageError(
            f"rounding could add {slack:.3g} grid units to a clip of {clip.units}: "
            "use more grid bits or fewer rows"
        )
    return clip.units + math.ceil(slack) + 1


def scaled_clip(sensitivity: int, noise_multiplier_milli: int) -> int:
    """Return the variance (grid units squared) of noise that many thousandths of a clip wide."""
    if sensitivity < 1 or noise_multiplier_milli < 1:
        raise UsageError("sensitivity and noise multiplier must be positive")
    return -(-((sensitivity * noise_multiplier_milli) ** 2) // 1_000_000)


def _rows(layers: Sequence[Layer]) -> int:
    if not layers:
        raise UsageError("expected at least one layer")
    rows = len(layers[0].inputs)
    for layer in layers:
        if layer.inputs.ndim != 2 or layer.errors.ndim != 2:
            raise UsageError("expected matrices (rows, fan-in) and (rows, fan-out)")
        if len(layer.inputs) != rows or len(layer.errors) != rows:
            raise UsageError(f"expected {rows} rows in every layer")
    return rows


def _cuts(first: NDArray[np.intp], rows: int) -> list[int]:
    """Return cut points that keep persons whole and pieces near `_CHUNK` rows."""
    cuts = [0]
    for begin in first:
        if int(begin) - cuts[-1] >= _CHUNK:
            cuts.append(int(begin))
    if rows:
        cuts.append(rows)
    return cuts
