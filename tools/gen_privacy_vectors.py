"""Write tests/vectors/v1/privacy_brackets.json: two-sided bounds on epsilon, independently.

Not the product's accountant: own discretisation, own composition, both directions.

  * Upper: each bin of the privacy loss is split between its two grid points so that both
    probabilities are kept (every chord lies above the convex trade-off curve).
  * Lower: neighbouring bins are merged at random into one outcome whose ratio is the grid
    point; merging is post-processing, and what exceeds the ratio is dropped, so the result
    is never above the truth.
  * Composition: one Fourier transform of the exponentially tilted masses, which keeps the
    relative precision where delta is read off.

Both errors fall with the square of the grid. The unsampled points come from mpmath at 50
digits. Run: PYTHONPATH=src python tools/gen_privacy_vectors.py OUTPUT  (needs scipy, mpmath).
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mpmath  # type: ignore[import-untyped]  # no stubs
import numpy as np
from numpy.typing import NDArray
from scipy import fft  # type: ignore[import-untyped]  # no stubs

Array = NDArray[np.float64]

RANGE = 11.0
"""Noise is followed to this many standard deviations: beyond lies 1e-28."""

NODES, WEIGHTS = np.polynomial.legendre.leggauss(6)


@dataclass(frozen=True)
class Point:
    """One setting: noise multiplier, rate in 2^-53, rounds, delta, sites of one person."""

    noise_multiplier: float
    sampling: int
    rounds: int
    delta: float
    sites: int
    interval: float


def _rate(value: float) -> int:
    return round(value * 2**53)


POINTS = (
    Point(1.0, _rate(0.01), 10_000, 1e-5, 1, 1e-5),
    Point(0.8, _rate(1e-4), 100_000, 1e-8, 1, 1e-6),
    Point(20.0, _rate(0.02), 10_000, 1e-5, 1, 1e-5),
    Point(0.6, _rate(0.01), 1, 1e-3, 1, 1e-5),
    Point(0.6, _rate(0.001), 1_000, 1e-6, 1, 1e-5),
    Point(1.0, _rate(0.05), 200, 1e-3, 1, 1e-5),
    Point(1.5, _rate(0.1), 300, 1e-5, 1, 1e-5),
    Point(2.0, _rate(0.1), 1_000, 1e-10, 1, 2e-5),
    Point(3.0, _rate(0.05), 1_000, 1e-5, 1, 1e-5),
    Point(5.0, _rate(0.2), 500, 1e-6, 1, 1e-5),
    Point(10.0, _rate(0.5), 100, 1e-5, 1, 1e-5),
    Point(4.0, _rate(0.005), 100_000, 1e-7, 1, 5e-6),
    Point(1.1, _rate(0.004), 5_000, 1e-10, 1, 5e-6),
    Point(1.0, _rate(0.01), 10_000, 1e-5, 2, 5e-5),
    Point(3.0, _rate(0.05), 1_000, 1e-5, 2, 2e-5),
)


def main(output: Path) -> None:
    """Compute every bracket and write the file."""
    sampled = []
    for point in POINTS:
        low, high = bracket(point)
        sampled.append(
            {
                "noise_multiplier": repr(point.noise_multiplier),
                "sampling": point.sampling,
                "rounds": point.rounds,
                "delta": repr(point.delta),
                "sites": point.sites,
                "lower": f"{low:.9g}",
                "upper": f"{high:.9g}",
            }
        )
        print(sampled[-1], flush=True)
    gaussian = [
        {"mu": repr(mu), "delta": repr(delta), "epsilon": mpmath.nstr(exact(mu, delta), 15)}
        for mu in (0.001, 0.01, 0.142, 0.268, 0.719, 1.67, 5.0, 20.0)
        for delta in (1e-3, 1e-5, 1e-10)
        if exact(mu, delta) > 0
    ]
    document = {"format": "treaty-privacy-brackets-v1", "sampled": sampled, "gaussian": gaussian}
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="ascii")


def exact(mu: float, delta: float) -> mpmath.mpf:
    """Return epsilon of the mu-Gaussian mechanism to 40 digits, 0 where delta suffices."""
    with mpmath.workdps(50):
        shift = mpmath.mpf(mu)

        def excess(epsilon: mpmath.mpf) -> mpmath.mpf:
            return (
                mpmath.ncdf(shift / 2 - epsilon / shift)
                - mpmath.exp(epsilon) * mpmath.ncdf(-shift / 2 - epsilon / shift)
                - mpmath.mpf(delta)
            )

        low, high = mpmath.mpf(0), mpmath.mpf(1)
        if excess(low) <= 0:
            return low
        while excess(high) > 0:
            high *= 2
        for _ in range(150):
            middle = (low + high) / 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        return high


def bracket(point: Point) -> tuple[float, float]:
    """Return a lower and an upper bound on epsilon, the worse of adding and removing."""
    lows, highs = [], []
    for sign in (1, -1):
        start, lower, upper, lost = masses(point, sign)
        lows.append(epsilon_of(start, lower, point, 0.0))
        highs.append(epsilon_of(start, upper, point, lost * point.rounds))
    return max(lows), max(highs)


def masses(point: Point, sign: int) -> tuple[int, Array, Array, float]:
    """Return first grid index, lower and upper masses on the loss grid, and the mass left out.

    `sign` 1 removes the person (the mixture is above), -1 adds it.
    """
    rate = point.sampling / 2**53
    width = point.interval
    sigma = point.noise_multiplier
    parts = [
        (math.comb(point.sites, k) * rate**k * (1 - rate) ** (point.sites - k), k)
        for k in range(point.sites + 1)
    ]

    def density(x: Array) -> Array:
        return np.asarray(np.exp(-0.5 * (x / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)))

    def ratio(x: Array) -> Array:
        # Mixture over plain, written so that it keeps its digits near one.
        total = np.zeros_like(x)
        for weight, k in parts[1:]:
            total += weight * np.expm1((2 * k * x - k * k) / (2 * sigma * sigma))
        return total  # ratio - 1

    left, right = -RANGE * sigma, point.sites + RANGE * sigma
    ends = np.log1p(ratio(np.array([left, right])))
    first, last = math.floor(ends[0] / width), math.ceil(ends[1] / width)
    grid = np.arange(first, last + 1, dtype=np.float64) * width
    edges = inverse(grid, point, ratio, left, right)
    excess_low = np.zeros(last - first)
    excess_high = np.zeros(last - first)
    plain = np.zeros(last - first)
    mixed = np.zeros(last - first)
    half = 0.5 * np.diff(edges)
    centre = 0.5 * (edges[1:] + edges[:-1])
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        x = centre + half * node
        mass = density(x) * half * weight
        over = np.log1p(ratio(x))
        factor = np.exp(over)
        # Distances of the loss from both grid points, kept as small numbers.
        excess_low += mass * np.exp(grid[:-1]) * np.expm1(np.maximum(over - grid[:-1], 0.0))
        excess_high += mass * np.exp(grid[1:]) * -np.expm1(np.minimum(over - grid[1:], 0.0))
        plain += mass
        mixed += mass * factor
    lost = 1e-27 * (1 + point.sites)
    if sign == 1:
        return first, *split(excess_low, excess_high, mixed, plain, grid), lost
    # Adding: the plain law is above, losses change sign, bins reverse.
    grid = -grid[::-1]
    low = (excess_high * np.exp(grid[::-1][1:]))[::-1]
    high = (excess_low * np.exp(grid[::-1][:-1]))[::-1]
    return -last, *split(low, high, plain[::-1], mixed[::-1], grid), lost


def split(low: Array, high: Array, above: Array, below: Array, grid: Array) -> tuple[Array, Array]:
    """Return lower and upper masses of the law above on `grid`.

    `low` = above - e^left below, `high` = e^right below - above, bin by bin; both >= 0.
    """
    width = grid[1] - grid[0]
    upper = np.zeros(len(grid))
    upper[1:] += low / -math.expm1(-width)
    upper[:-1] += high / math.expm1(width)
    # A share of bin i - 1 is merged into the outcome at the left end of bin i.
    share = np.zeros(len(low))
    room = np.divide(0.5 * low[1:], high[:-1], out=np.full(len(low) - 1, 0.5), where=high[:-1] > 0)
    share[:-1] = np.minimum(0.5, room)
    kept = (1.0 - share) * below
    kept[1:] += share[:-1] * below[:-1]
    lower = np.zeros(len(grid))
    lower[:-1] = np.exp(grid[:-1]) * kept
    return lower, upper


def inverse(
    grid: Array, point: Point, ratio: Callable[[Array], Array], left: float, right: float
) -> Array:
    """Return where the loss passes each grid value, cut to left .. right."""
    sigma, rate = point.noise_multiplier, point.sampling / 2**53
    if point.sites == 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            x = sigma**2 * np.log1p(np.expm1(grid) / rate) + 0.5
        return np.clip(np.nan_to_num(x, nan=left, neginf=left), left, right)
    target = np.expm1(grid)
    low, high = np.full(len(grid), left), np.full(len(grid), right)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = ratio(middle) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def epsilon_of(start: int, mass: Array, point: Point, infinite: float) -> float:
    """Return epsilon at the point's delta for `rounds` compositions of grid masses."""
    width, rounds = point.interval, point.rounds
    losses = (start + np.arange(len(mass))) * width
    tilt, mean = tilted(losses, mass, point.rounds, point.delta)
    scaled = mass * np.exp(tilt * losses)
    total = float(scaled.sum())
    scaled /= total
    size = max(1 << 20, 1 << (len(mass) - 1).bit_length())
    spread = math.sqrt(float((scaled * losses**2).sum()) - mean**2) * math.sqrt(rounds)
    while size * width < 24 * spread + 2 * losses[-1]:
        size *= 2
    spectrum = fft.rfft(scaled, size)
    # Power by logarithm: the rounding stays relative to the modulus.
    composed = fft.irfft(np.exp(rounds * np.log(np.where(spectrum == 0, 1e-300, spectrum))), size)
    centre = round(rounds * mean / width)
    index = np.arange(centre - size // 2, centre + size // 2)
    values = composed[(index - rounds * start) % size]
    where = index * width
    scale = rounds * math.log(total)
    # Only where the tilted law has mass; the rest is rounding.
    keep = (np.abs(where - rounds * mean) < 14 * spread + losses[-1]) & (values > 0)
    where, values = where[keep], values[keep]
    weights = values * np.exp(scale - tilt * where)

    def delta(epsilon: float) -> float:
        above = where > epsilon
        return infinite + float((weights[above] * -np.expm1(epsilon - where[above])).sum())

    low, high = 0.0, 200.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if delta(middle) > point.delta else (low, middle)
    return high


def tilted(losses: Array, mass: Array, rounds: int, delta: float) -> tuple[float, float]:
    """Return the tilt that minimises the Chernoff bound at delta, and the tilted mean."""
    best = (math.inf, 0.0, 0.0)
    for order in np.exp(np.linspace(math.log(0.05), math.log(400.0), 60)):
        exponent = order * losses
        peak = float(np.max(np.where(mass > 0, exponent, -np.inf)))
        weights = mass * np.exp(exponent - peak)
        log_moment = math.log(float(weights.sum())) + peak
        bound = (rounds * log_moment - math.log(delta)) / order
        mean = float((weights * losses).sum() / weights.sum())
        best = min(best, (bound, float(order), mean))
    return best[1], best[2]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
