"""Draws of the discrete Gaussian against its exact law.

Keys are fixed, so each test has one outcome. Had the keys been drawn, a correct sampler would
fail: chi-square 1e-4 for each of five variances, moments and low bits 1e-4 each.
Planted faults that these tests catch: minus zero kept (zero twice as likely), no rejection
inside blocks (steps), sign taken from a bit of the offset.
"""

import hashlib
import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]  # no stubs

from treaty.crypto.prg import Keystream
from treaty.privacy.sampler import DiscreteGaussian

COUNT = 1_000_000


def draws(variance: int, name: str, count: int = COUNT) -> np.ndarray:
    key = hashlib.sha256(f"{name} {variance}".encode()).digest()
    return DiscreteGaussian(variance, Keystream(key).fill).draw(count)


@pytest.mark.parametrize("variance", [1, 4, 25, 2500, 1_000_000])
def test_frequencies_follow_the_exact_law(variance: int) -> None:
    sigma = math.sqrt(variance)
    radius = math.ceil(12 * sigma)
    support = np.arange(-radius, radius + 1)
    mass = np.exp(-(support.astype(float) ** 2) / (2 * variance))
    expected = COUNT * mass / mass.sum()
    counted = np.bincount(
        np.clip(draws(variance, "chi") + radius, 0, 2 * radius), minlength=2 * radius + 1
    )
    # Tails are pooled until each bin expects ten.
    inside = np.flatnonzero(expected >= 10)
    low, high = inside[0], inside[-1] + 1
    expected_bins = np.r_[expected[:low].sum(), expected[low:high], expected[high:].sum()]
    counted_bins = np.r_[counted[:low].sum(), counted[low:high], counted[high:].sum()]
    keep = expected_bins > 5
    statistic = (((counted_bins - expected_bins) ** 2) / np.where(keep, expected_bins, 1))[keep]
    assert stats.chi2.sf(statistic.sum(), keep.sum() - 1) > 1e-4


def test_wide_noise_has_the_right_moments_and_even_low_bits() -> None:
    values = draws(1 << 60, "wide")
    scaled = values / 2.0**30
    assert abs(scaled.mean()) < 3.9 / math.sqrt(COUNT)
    assert abs((scaled**2).mean() - 1) < 3.9 * math.sqrt(2 / COUNT)
    assert stats.kstest(scaled, "norm").pvalue > 1e-4
    low = np.bincount(values & 15, minlength=16)
    assert stats.chisquare(low).pvalue > 1e-4


def test_neighbours_in_the_stream_and_signs_are_uncorrelated() -> None:
    values = draws(1 << 40, "serial") / 2.0**20
    assert abs((values[1:] * values[:-1]).mean()) < 3.9 / math.sqrt(COUNT)
    sign = np.where(values < 0, -1.0, 1.0)
    assert abs((sign * (np.abs(values) - math.sqrt(2 / math.pi))).mean()) < 3.9 / math.sqrt(COUNT)
