"""Speed of exact discrete Gaussian noise, beside numpy's floating-point normals.

Run: PYTHONPATH=src python benchmarks/privacy_sampler.py [--check]

Prints million values per CPU second and core. OpenDP's exact sampler is measured when it is
installed and marked "not compared" otherwise. `--check` adds chi-square over 10^8 draws at four
scales (a few minutes). numpy's normals are neither exact nor from a secure generator.
"""

import argparse
import hashlib
import importlib.util
import math
import time
from collections.abc import Callable

import numpy as np

from treaty.crypto.prg import Keystream
from treaty.privacy.sampler import DiscreteGaussian, noise_table

VARIANCES = {
    "5": 25,
    "50": 2500,
    "2^10": 1 << 20,
    "2^20": 1 << 40,
    "2^30": 1 << 60,
    "2^40": 1 << 80,
}


def rate(draw: Callable[[int], object], count: int, repeats: int = 5) -> float:
    """Return the best of several runs, in million values per CPU second."""
    draw(count)
    best = math.inf
    for _ in range(repeats):
        start = time.process_time()
        draw(count)
        best = min(best, time.process_time() - start)
    return count / best / 1e6


def fresh(variance: int) -> DiscreteGaussian:
    key = hashlib.sha256(f"benchmark {variance}".encode()).digest()
    return DiscreteGaussian(variance, Keystream(key).fill)


def check(variance: int, total: int) -> float:
    """Return the chi-square p-value of `total` draws against the exact law."""
    from scipy import stats  # type: ignore[import-untyped]  # no stubs

    radius = math.ceil(12 * math.sqrt(variance))
    counted = np.zeros(2 * radius + 1, dtype=np.int64)
    noise = fresh(variance)
    for _ in range(total // 1_000_000):
        counted += np.bincount(noise.draw(1_000_000) + radius, minlength=2 * radius + 1)
    support = np.arange(-radius, radius + 1, dtype=np.float64)
    mass = np.exp(-(support**2) / (2 * variance))
    expected = counted.sum() * mass / mass.sum()
    keep = expected >= 10
    bins = np.r_[counted[keep], counted[~keep].sum()]
    wanted = np.r_[expected[keep], expected[~keep].sum()]
    return float(stats.chi2.sf(((bins - wanted) ** 2 / wanted).sum(), len(bins) - 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--count", type=int, default=2_000_000)
    arguments = parser.parse_args()
    for name, variance in VARIANCES.items():
        start = time.process_time()
        noise_table(variance)
        setup = time.process_time() - start
        print(
            f"treaty, sigma {name:5}: {rate(fresh(variance).draw, arguments.count):7.1f} M/s, "
            f"set-up {setup * 1000:4.0f} ms"
        )
    generator = np.random.Generator(np.random.PCG64(1))
    print(f"numpy normals (not exact): {rate(generator.standard_normal, arguments.count):7.1f} M/s")
    if importlib.util.find_spec("opendp") is None:
        print("opendp: not compared (not installed)")
    else:
        print(f"opendp integer Gaussian:   {opendp_rate():7.3f} M/s")
    if arguments.check:
        for variance in (4, 25, 2500, 1_000_000):
            print(f"chi-square, variance {variance}: p = {check(variance, 100_000_000):.3f}")


def opendp_rate() -> float:
    """Return OpenDP's rate at sigma 1000, in million values per CPU second."""
    import opendp.prelude as dp  # type: ignore[import-not-found]  # optional peer

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
    measurement = dp.m.make_gaussian(*space, scale=1000.0)
    return rate(lambda count: measurement([0] * count), 20_000, repeats=2)


if __name__ == "__main__":
    main()
