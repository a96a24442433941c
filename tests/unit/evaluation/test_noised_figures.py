"""Figures from noised histograms: those of the exact counts, free of bias, with errors that hold.

Draws have fixed seeds; what is called a coverage or a mean has a false alarm below one in a
thousand. Planted and caught: cells cut off at zero; the noise left out of the error of the area, or
of one label's cells, or of shares; the sampling left out of either; a threshold that is no edge
rounded down; a class, or all persons, that may be noise given figures; ties counted whole;
residuals at the lower edge of a bin; figures out of their range; another variance.
"""

import numpy as np
import pytest

from treaty.errors import UsageError, VerificationError
from treaty.evaluation.metrics import figures_from_sums, local_sums
from treaty.evaluation.noised_figures import NoisedCounts, NoisedFigures, noised_figures

UNIT = 1 << 24


def population(seed: int, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores that are the chances of the labels; their area is about .84."""
    draw = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-(draw.normal(size=persons) * 1.8 - 1.0)))
    return scores, (draw.random(persons) < scores).astype(float)


def counts(
    scores: np.ndarray, label: np.ndarray, bins: int, deviation: float = 0.0, seed: int = 0
) -> NoisedCounts:
    exact = local_sums(scores, label, bins=bins)
    noise = np.random.default_rng([7, seed]).normal(size=(2, bins)) * deviation
    negative, positive = (
        tuple(round((count + drawn) * UNIT) for count, drawn in zip(cells, row, strict=True))
        for cells, row in zip((exact.negative, exact.positive), noise, strict=True)
    )
    return NoisedCounts(negative, positive, UNIT, round((deviation * UNIT) ** 2))


def figures(found: NoisedCounts) -> NoisedFigures:
    return noised_figures(found, threshold_permille=500)


@pytest.mark.parametrize("bins", [2, 8, 16, 64])
def test_without_noise_the_figures_are_those_of_the_exact_counts(bins: int) -> None:
    scores, label = population(1, 3000)
    exact = figures_from_sums(local_sums(scores, label, bins=bins))
    found = figures(counts(scores, label, bins))
    assert (found.rows, found.positives) == (exact.rows, exact.positives)
    assert (found.accuracy, found.auc) == (exact.accuracy, exact.auc)
    assert found.auc_half_width == exact.auc_half_width
    assert abs(found.brier - exact.brier) <= found.brier_half_width
    # Where nobody has the outcome the middle of a bin is the best of it.
    nobody = np.zeros(3000)
    least = figures_from_sums(local_sums(scores, nobody, bins=bins))
    apart = abs(figures(counts(scores, nobody, bins)).brier - least.brier)
    assert apart <= found.brier_half_width // (1 if bins < 8 else 4)
    assert found.rows_error == found.positives_error == 0
    assert found.auc_error == pytest.approx(exact.auc_error, rel=0.25)
    share = exact.accuracy / 1e6
    assert found.accuracy_error == pytest.approx(1e6 * (share * (1 - share) / 3000) ** 0.5, abs=1)


def test_noise_moves_no_figure_on_average() -> None:
    """Draws on one set of persons: the mean lies within four of its own standard errors."""
    scores, label = population(2, 2000)
    exact = figures(counts(scores, label, 16))
    drawn = [figures(counts(scores, label, 16, 6.0, seed)) for seed in range(120)]
    for name in ("auc", "accuracy", "brier"):
        values = np.array([getattr(one, name) for one in drawn], dtype=float)
        away = abs(values.mean() - getattr(exact, name))
        assert away < 4 * values.std() / 120**0.5 + 1500, name


def test_the_errors_cover_what_sampling_and_noise_do_together() -> None:
    """The population's figures lie within 1.96 errors of nine in ten draws, and errors are no
    larger than twice what they must be."""
    truth = figures(counts(*population(3, 200_000), bins=8))
    drawn = [figures(counts(*population(100 + seed, 1500), 16, 5.0, seed)) for seed in range(150)]
    for name in ("auc", "accuracy", "brier"):
        errors = np.array([getattr(one, f"{name}_error") for one in drawn], dtype=float)
        gaps = np.array([getattr(one, name) - getattr(truth, name) for one in drawn], dtype=float)
        assert np.mean(np.abs(gaps) <= 1.96 * errors) > 0.91, name
        assert errors.mean() < 2.0 * gaps.std(), name


def test_the_error_of_the_noise_alone_is_that_of_its_draws() -> None:
    scores, label = population(4, 1200)
    drawn = [figures(counts(scores, label, 8, 8.0, seed)) for seed in range(150)]
    quiet = figures(counts(scores, label, 8))
    for name in ("auc", "accuracy", "brier"):
        spread = np.std([getattr(one, name) for one in drawn])
        added = np.sqrt(
            np.mean([getattr(one, f"{name}_error") ** 2 for one in drawn])
            - getattr(quiet, f"{name}_error") ** 2
        )
        assert 0.8 * spread < added < 1.6 * spread, name


def test_cells_below_zero_stay_below_zero() -> None:
    """Most cells are empty: cutting them would fill them with persons that there are not."""
    negative, positive = [0] * 32, [0] * 32
    negative[2], positive[29] = 1000, 1000
    draw = np.random.default_rng(5)
    found = []
    for _ in range(80):
        noise = np.rint(draw.normal(size=(2, 32)) * 10.0 * UNIT).astype(int)
        cells = np.array([negative, positive]) * UNIT + noise
        assert (cells < 0).any()
        found.append(
            figures(
                NoisedCounts(
                    tuple(map(int, cells[0])), tuple(map(int, cells[1])), UNIT, (10 * UNIT) ** 2
                )
            )
        )
    assert abs(np.mean([one.rows for one in found]) - 2000) < 4 * 80 / 9
    assert np.mean([one.auc for one in found if one.auc is not None]) > 985_000


def test_where_noise_may_be_all_there_is_nothing_is_known() -> None:
    scores, label = population(6, 20)
    for seed in range(20):
        one = figures(counts(scores, label, 16, 20.0, seed))
        assert one.auc is None and one.auc_error is None and one.auc_half_width is None
        assert one.accuracy_error == one.brier_error == 1_000_000
        assert one.rows >= 0 and one.positives >= 0 and one.rows_error > 100
    empty = figures(NoisedCounts((0, 0), (0, 0), UNIT, 0))
    assert (empty.rows, empty.auc, empty.accuracy_error) == (0, None, 1_000_000)


def test_figures_stay_in_their_range() -> None:
    """Also where noise makes a share of more than all, or an area beyond one."""
    found = figures(NoisedCounts((900 * UNIT, -90 * UNIT), (-90 * UNIT, 900 * UNIT), UNIT, UNIT))
    assert (found.accuracy, found.auc) == (1_000_000, 1_000_000)
    assert 0 <= found.brier <= 1_000_000


def test_counts_that_no_histogram_is_are_refused() -> None:
    with pytest.raises(UsageError, match="no edge of 16 bins"):
        noised_figures(counts(*population(1, 50), bins=16), threshold_permille=450)
    with pytest.raises(VerificationError) as caught:
        NoisedCounts((1, 2), (3,), UNIT, 0)
    assert caught.value.code == "sum-implausible"
    with pytest.raises(UsageError):
        NoisedCounts((1,), (1,), 0, 0)
    with pytest.raises(UsageError, match="a positive unit and a variance"):
        NoisedCounts((1, 2), (1, 2), 1, -1)
