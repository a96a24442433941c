"""Rules by which a forecast is read: lights, the law of losses, sites needed, errors of areas.

Planted and caught: amber and green exchanged, the law fitted to signal instead of its inverse
square, overshoot left out of the sites needed, Hanley and McNeil without its last term.
"""

import math

import pytest

from treaty.errors import UsageError
from treaty.evaluation.forecast import (
    Light,
    LossLaw,
    fitted_law,
    hanley_mcneil,
    least_sites,
    traffic_light,
)


@pytest.mark.parametrize(
    ("loss", "light"),
    [
        (-2_000, Light.GREEN),
        (4_999, Light.GREEN),
        (5_000, Light.AMBER),
        (19_999, Light.AMBER),
        (20_000, Light.RED),
    ],
)
def test_a_light_follows_from_the_area_lost(loss: float, light: Light) -> None:
    assert traffic_light(loss) is light


def test_the_law_goes_through_losses_that_follow_it() -> None:
    law = fitted_law([(signal, 9_000 / signal**2) for signal in (0.5, 1.0, 3.0)])
    assert law is not None
    assert law.factor_ppm == 9_000
    assert law.loss(3.0) == pytest.approx(1_000)


def test_a_noise_that_costs_nothing_has_no_law() -> None:
    assert fitted_law([(5.0, -100.0), (9.0, 0.0)]) is None
    assert fitted_law([(0.0, 100.0)]) is None
    assert LossLaw(factor_ppm=9_000).loss(0.0) == math.inf


def _brute_force(signal: float, target: float, colluders: int, sites: int) -> int | None:
    """Count sites up, computing persons and noise of each count from the charter's formulas."""

    def relative(count: int) -> float:
        honest = max((count + colluders) // 2 + 1, colluders + 2) - colluders
        return count / math.sqrt(count / honest)

    for count in range(max(3, colluders + 2), 129):
        if 10_000 / (signal * relative(count) / relative(sites)) ** 2 <= target:
            return count
    return None


@pytest.mark.parametrize("signal", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(("colluders", "sites"), [(1, 4), (2, 10), (8, 25)])
def test_the_sites_needed_are_the_fewest_that_meet_the_target(
    signal: float, colluders: int, sites: int
) -> None:
    honest = max((sites + colluders) // 2 + 1, colluders + 2) - colluders
    law = LossLaw(factor_ppm=10_000)
    found = least_sites(law, signal, math.sqrt(sites / honest), 5_000, colluders, sites)
    assert found == _brute_force(signal, 5_000, colluders, sites)


def test_the_error_of_an_area_is_that_of_hanley_and_mcneil() -> None:
    """An example worked by hand: area .9, 2 with and 3 without the outcome."""
    first, second = 0.9 / 1.1, 2 * 0.81 / 1.9
    variance = (0.09 + (first - 0.81) + 2 * (second - 0.81)) / 6
    assert hanley_mcneil(0.9, 2, 3) == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize(
    ("area", "positives", "negatives"), [(1.1, 1, 1), (0.9, 0, 4), (0.9, 4, 0)]
)
def test_an_area_without_both_classes_has_no_error(
    area: float, positives: int, negatives: int
) -> None:
    with pytest.raises(UsageError, match="rows of both classes"):
        hanley_mcneil(area, positives, negatives)
