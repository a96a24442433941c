"""Figures from histograms against scikit-learn and against the definition of DeLong's variance.

Planted faults that these tests caught: one half put into the lower bin; score 1 outside the last
bin; ties counted whole; half-width not halved; variance without one class; residual not divided by
its scale; remainder of the calibration table dropped; `correct` not compared with the histogram.
"""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

from treaty.errors import UsageError, VerificationError
from treaty.evaluation.metrics import (
    CalibrationRow,
    ScoreSums,
    calibration_table,
    exact_figures,
    figures_from_sums,
    local_histogram,
    local_sums,
)


def sample(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = np.round(generator.beta(0.8, 0.9, rows), int(generator.integers(1, 9)))
    labels = (generator.random(rows) < 0.2 + 0.6 * scores).astype(float)
    labels[:2] = 0.0, 1.0
    scores[2:6] = 0.5, 0.0, 1.0, np.nextafter(0.5, 0)
    return scores, labels


def delong(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the variance by its definition, over all pairs."""
    wins = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :]) / 2 + 0.5
    rows, columns = wins.mean(axis=1), wins.mean(axis=0)
    return float(rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns))


def pooled(parts: list[ScoreSums]) -> ScoreSums:
    return ScoreSums(
        negative=tuple(map(sum, zip(*(part.negative for part in parts), strict=True))),
        positive=tuple(map(sum, zip(*(part.positive for part in parts), strict=True))),
        correct=sum(part.correct for part in parts),
        residual=sum(part.residual for part in parts),
    )


@pytest.mark.parametrize("bins", [2, 6, 64, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_pooled_figures_equal_those_of_pooled_rows(seed: int, bins: int) -> None:
    sites = [sample(100 * seed + number, rows) for number, rows in enumerate((90, 7, 250))]
    sums = pooled([local_sums(*site, bins=bins) for site in sites])
    scores = np.concatenate([site[0] for site in sites])
    labels = np.concatenate([site[1] for site in sites])
    figures = figures_from_sums(sums)
    assert figures.rows == len(labels)
    assert figures.positives == labels.sum()
    assert figures.accuracy == round(accuracy_score(labels, scores >= 0.5) * 1e6)
    assert abs(figures.brier - brier_score_loss(labels, scores) * 1e6) <= 0.51
    assert figures.auc is not None
    assert figures.auc_half_width is not None
    assert abs(figures.auc - roc_auc_score(labels, scores) * 1e6) <= figures.auc_half_width + 1


@pytest.mark.parametrize("seed", range(8))
def test_a_sites_own_figures_are_exact(seed: int) -> None:
    scores, labels = sample(seed, 160)
    figures = exact_figures(scores, labels)
    assert figures.auc == round(roc_auc_score(labels, scores) * 1e6)
    assert figures.auc_half_width == 0
    assert figures.accuracy == round(accuracy_score(labels, scores >= 0.5) * 1e6)
    assert abs(figures.brier - brier_score_loss(labels, scores) * 1e6) <= 0.51
    assert figures.auc_error is not None
    error = delong(scores, labels) ** 0.5 * 1e6
    assert error - 1e-6 <= figures.auc_error <= error + 1


def test_binned_figures_have_delongs_error_of_binned_scores() -> None:
    scores, labels = sample(3, 400)
    figures = figures_from_sums(local_sums(scores, labels, bins=16))
    error = delong(np.minimum(np.floor(scores * 16), 15), labels) ** 0.5 * 1e6
    assert figures.auc_error is not None
    assert error - 1e-6 <= figures.auc_error <= error + 1


def test_the_half_width_is_reached() -> None:
    """All pairs share a bin: the true area may be anything from 0 to 1."""
    for scores in (np.array([0.1, 0.2]), np.array([0.2, 0.1])):
        figures = figures_from_sums(local_sums(scores, np.array([0.0, 1.0]), bins=2))
        assert (figures.auc, figures.auc_half_width) == (500_000, 500_000)
        assert figures.auc_error is None


def test_more_bins_narrow_the_guarantee() -> None:
    generator = np.random.default_rng(2)
    labels = (generator.random(2000) < 0.4).astype(float)
    scores = np.clip(0.4 + 0.2 * labels + 0.2 * generator.normal(size=2000), 0, 1)
    widths = []
    for bins in (4, 64, 1024):
        width = figures_from_sums(local_sums(scores, labels, bins=bins)).auc_half_width
        assert width is not None
        widths.append(width)
    assert widths[0] > 10 * widths[1] > 50 * widths[2] > 0


@pytest.mark.parametrize("bins", [2, 6, 10, 50, 64, 98, 1024])
def test_one_half_is_exactly_an_edge(bins: int) -> None:
    scores = np.array([0.0, np.nextafter(0.5, 0), 0.5, 1.0])
    negative, positive = local_histogram(scores, np.array([0.0, 0.0, 1.0, 1.0]), bins)
    expected = np.zeros(bins)
    expected[[0, bins // 2 - 1]] += 1
    assert negative.tolist() == (expected if bins > 2 else np.array([2, 0])).tolist()
    assert positive[bins // 2] >= 1
    assert positive[-1] >= 1
    assert positive[: bins // 2].sum() == 0


def test_another_threshold_is_exact_too() -> None:
    scores, labels = sample(1, 100)
    sums = local_sums(scores, labels, threshold_permille=333)
    figures = figures_from_sums(sums, threshold_permille=333)
    assert figures.accuracy == round(accuracy_score(labels, scores >= 0.333) * 1e6)


def test_a_single_class_has_no_area() -> None:
    for label in (0.0, 1.0):
        for figures in (
            figures_from_sums(local_sums(np.array([0.3, 0.7]), np.full(2, label))),
            exact_figures(np.array([0.3, 0.7]), np.full(2, label)),
        ):
            assert (figures.auc, figures.auc_half_width, figures.auc_error) == (None,) * 3
            assert figures.accuracy == 500_000
            assert figures.brier == 290_000


def test_a_site_without_rows_adds_nothing_and_has_no_figures() -> None:
    empty = local_sums(np.zeros(0), np.zeros(0))
    assert empty == ScoreSums((0,) * 64, (0,) * 64, 0, 0)
    with pytest.raises(VerificationError) as refusal:
        figures_from_sums(empty)
    assert refusal.value.code == "no-rows"
    with pytest.raises(UsageError):
        exact_figures(np.zeros(0), np.zeros(0))


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 1), (1,), 1, 0),
        ((), (), 0, 0),
        ((-1, 2), (0, 0), 1, 0),
        ((1, 1), (0, -1), 1, 0),
        ((1, 1), (0, 0), 3, 0),
        ((1, 1), (0, 0), -1, 0),
        ((1, 1), (0, 0), 1, -1),
        ((1, 1), (0, 0), 1, (2 << 32) + 1),
    ],
)
def test_counts_that_no_data_has_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(VerificationError) as refusal:
        ScoreSums(*arguments)  # type: ignore[arg-type]  # rows of the table
    assert refusal.value.code == "sum-implausible"


def test_correct_decisions_must_agree_with_the_histogram() -> None:
    with pytest.raises(VerificationError):
        figures_from_sums(ScoreSums((1, 0), (0, 1), 1, 0))
    assert figures_from_sums(ScoreSums((1, 0), (0, 1), 2, 0)).accuracy == 1_000_000


def test_scores_must_be_probabilities_and_labels_binary() -> None:
    good = np.array([0.5, 0.5]), np.array([0.0, 1.0])
    for scores, labels in (
        (np.array([0.5, 1.1]), good[1]),
        (np.array([0.5, -0.1]), good[1]),
        (np.array([0.5, np.nan]), good[1]),
        (good[0], np.array([0.0, 2.0])),
        (good[0], np.array([0.0])),
        (np.array([[0.5, 0.5]]), np.array([[0.0, 1.0]])),
    ):
        with pytest.raises(UsageError):
            local_histogram(scores, labels)
        with pytest.raises(UsageError, match="expected"):
            exact_figures(scores, labels)
    for bins in (0, 1, 3):
        with pytest.raises(UsageError):
            local_histogram(*good, bins)


@pytest.mark.parametrize("seed", range(6))
def test_the_calibration_table_counts_every_row_and_shows_no_small_cell(seed: int) -> None:
    scores, labels = sample(seed, 30 + 40 * seed)
    table = calibration_table(local_sums(scores, labels), groups=10, least=12)
    assert sum(row.rows for row in table) == len(labels)
    assert sum(row.positives for row in table) == labels.sum()
    assert table[0].lower == 0
    assert table[-1].upper == 1
    assert all(row.rows >= 12 for row in table)
    assert all(a.upper == b.lower for a, b in pairwise(table))
    for row in table:
        inside = (scores >= float(row.lower)) & (
            (scores < float(row.upper)) | (float(row.upper) == 1)
        )
        assert row.rows == inside.sum()
        assert row.observed == round(labels[inside].mean() * 1e6)


def test_too_few_rows_give_no_calibration_table() -> None:
    sums = ScoreSums((4, 0), (0, 5), 9, 0)
    assert calibration_table(sums) == ()
    assert calibration_table(sums, least=9) == (CalibrationRow(0, 1, 9, 5),)  # type: ignore[arg-type]
    for groups, least in ((0, 1), (1, 0)):
        with pytest.raises(UsageError):
            calibration_table(sums, groups=groups, least=least)
