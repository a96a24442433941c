"""Calibration: the target is met and the noise is within half a percent of the least.

Planted faults that these tests catch: the bracket's lower end returned; rounds ignored; the
search stopped at five percent.
"""

import math

import pytest

from treaty.errors import UsageError
from treaty.privacy.accountant import Adjacency, composed_epsilon
from treaty.privacy.calibration import Schedule, calibrated_variance, gaussian_mu
from treaty.privacy.events import LEMMA_LOSS, SAMPLING_UNIT

CLIP = 1 << 24


@pytest.mark.parametrize(
    ("rounds", "rate", "sites", "adjacency", "epsilon"),
    [
        (100, 1.0, 1, Adjacency.ADD_REMOVE, 1.0),
        (20, 1.0, 2, Adjacency.REPLACE_ONE, 3.0),
        (300, 0.1, 1, Adjacency.ADD_REMOVE, 1.0),
        (1000, 0.05, 1, Adjacency.ADD_REMOVE, 8.0),
    ],
)
def test_the_noise_meets_the_target_and_a_percent_less_does_not(
    rounds: int, rate: float, sites: int, adjacency: Adjacency, epsilon: float
) -> None:
    schedule = Schedule(rounds, CLIP, round(rate * SAMPLING_UNIT), sites)
    variance = calibrated_variance(schedule, epsilon, 1e-5, adjacency=adjacency) - LEMMA_LOSS

    def spent(value: int) -> float:
        return composed_epsilon([schedule.event(value)], 1e-5, sites=sites, adjacency=adjacency)

    assert spent(variance) <= epsilon
    # Half a percent of the deviation is one percent of the variance.
    assert spent(math.floor(variance * 0.99)) > epsilon


def test_the_known_deltas_of_the_design_table() -> None:
    for epsilon, mu in ((0.5, 0.142), (1.0, 0.268), (3.0, 0.719), (8.0, 1.67)):
        assert gaussian_mu(epsilon, 1e-5) == pytest.approx(mu, rel=4e-3)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_a_target_that_is_no_epsilon_is_refused(epsilon: float) -> None:
    with pytest.raises(UsageError):
        calibrated_variance(Schedule(1, CLIP), epsilon, 1e-5)


def test_a_hopeless_target_is_refused() -> None:
    with pytest.raises(UsageError, match="4096"):
        calibrated_variance(Schedule(10**9, CLIP), 0.01, 1e-5)
