"""Accuracy, area under the curve and Brier score of pooled holdout rows, and their means."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treaty.ids import MemberId

__all__ = ["Figures", "Summary", "area", "figures", "summarise"]

Vector = NDArray[np.float64]
_STUDENT_95 = 2.0096
"""Two-sided 95 % of Student's t with 49 degrees of freedom; a little narrow for fewer splits."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One split. `accuracy`, `auc` and `brier` are over the holdout rows of all sites together."""

    accuracy: float
    auc: float
    brier: float
    site_accuracy: float
    """The mean of the sites' accuracies, every site counted once."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean over splits, its 95 % interval, the smallest and the largest."""

    mean: float
    half_width: float
    smallest: float
    largest: float


def figures(scores: Mapping[MemberId, Vector], labels: Mapping[MemberId, Vector]) -> Figures:
    """Return the figures of `scores`, probabilities, against `labels`, zeros and ones."""
    score = np.concatenate([scores[site] for site in scores])
    label = np.concatenate([labels[site] for site in scores])
    own = [np.mean((scores[site] >= 0.5) == (labels[site] == 1.0)) for site in scores]
    return Figures(
        accuracy=float(np.mean((score >= 0.5) == (label == 1.0))),
        auc=area(score, label),
        brier=float(np.mean((score - label) ** 2)),
        site_accuracy=float(np.mean(own)),
    )


def area(score: Vector, label: Vector) -> float:
    """Return the area under the ROC curve, ties counted one half."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = label == 1.0
    hits, misses = int(positive.sum()), int((~positive).sum())
    return float((rank[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def summarise(values: Sequence[float], holdout_share: float) -> Summary:
    """Return the mean over splits with its interval.

    Splits share rows, so their standard error is that of Nadeau and Bengio (2003):
    variance times (1 / splits + holdout / training).
    """
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    factor = math.sqrt(1 / len(values) + holdout_share / (1 - holdout_share))
    return Summary(
        statistics.fmean(values), _STUDENT_95 * deviation * factor, min(values), max(values)
    )
