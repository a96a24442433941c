"""Attribute inference: does the model tell more about its own persons than about others?

The attacker knows all of a person but one attribute, the label included, and holds the model. It
names the value under which model and population together make the person likeliest. The
baseline is the same guess without the model. What it gains on strangers is learning, and
learning is what a model is for; what it gains on training persons beyond strangers is leakage.

Guarantees (docs/spec/privacy.md, section 10.2): each attribute is reduced to two values (a level or
not, below or above the median). What leaks is the gain over the baseline on training rows less
that on strangers: chance differences between the two sets of rows fall out. Pure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treaty.assessment.intervals import Rate, binomial_interval
from treaty.errors import UsageError

__all__ = ["AttributeLine", "Predict", "infer_attributes"]

Matrix = NDArray[np.float64]

_MARGIN = 2.575829

Predict = Callable[[Matrix], Matrix]
"""Probability of label one, (n,), for features (n, p)."""


@dataclass(frozen=True, slots=True)
class AttributeLine:
    """One attribute: right guesses with the model on training rows and on strangers, and without.

    `leak` is the gain over the baseline on training rows, less that on strangers, with its
    interval (99 %) in `leak_low` .. `leak_high`.
    """

    attribute: str
    training: Rate
    strangers: Rate
    baseline: Rate
    leak: float
    leak_low: float
    leak_high: float

    @property
    def leaks(self) -> bool:
        """Return whether the model surely tells more about its own persons than about others."""
        return self.leak_low > 0.0


def infer_attributes(
    predict: Predict,
    training: tuple[Matrix, Matrix],
    strangers: tuple[Matrix, Matrix],
    names: Sequence[str],
) -> tuple[AttributeLine, ...]:
    """Return a line for each attribute that takes two values or more.

    `training` and `strangers` are (features (n, p), labels (n,)); `names` the p attributes. The
    population (frequencies, medians) is estimated from the strangers: it stands for what is
    publicly known. Intervals are at 99 % for each line; with many lines some exceed by chance.
    """
    known, known_label = strangers
    if known.shape[1] != len(names) or training[0].shape[1] != len(names):
        raise UsageError(f"expected {len(names)} attributes in both sets of rows")
    lines = []
    for place, name in enumerate(names):
        values = known[:, place]
        cut = float(np.median(values))
        high, low = values > cut, values <= cut
        if not high.any():
            high, low = values >= cut, values < cut
        if not high.any() or not low.any():
            continue
        split = 0.5 * (float(values[high].min()) + float(values[low].max()))
        stand_ins = (float(values[low].mean()), float(values[high].mean()))
        shares = _shares(high, known_label)
        rights, gains = [], []
        for rows, label in (training, strangers):
            truth = rows[:, place] > split
            right = _guess(predict, rows, label, place, stand_ins, shares[0]) == truth
            without = _guess_without(label, shares) == truth
            rights.append((right, without))
            gains.append(right.astype(np.float64) - without)
        leak = float(gains[0].mean() - gains[1].mean())
        margin = _MARGIN * math.sqrt(sum(_variance(gain) for gain in gains))
        lines.append(
            AttributeLine(
                name,
                _rate(rights[0][0]),
                _rate(rights[1][0]),
                _rate(rights[1][1]),
                leak,
                max(-1.0, leak - margin),
                min(1.0, leak + margin),
            )
        )
    return tuple(lines)


def _shares(high: NDArray[np.bool_], label: Matrix) -> tuple[float, float, float]:
    """Return the share of high values: in all, with label zero, and with label one."""
    parts = (np.ones(len(high), dtype=np.bool_), label <= 0.5, label > 0.5)
    each = [
        (np.count_nonzero(high & part) + 1.0) / (np.count_nonzero(part) + 2.0) for part in parts
    ]
    return each[0], each[1], each[2]


def _guess_without(label: Matrix, shares: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Return the likelier value among the population's persons with the same label."""
    said: NDArray[np.bool_] = np.where(label > 0.5, shares[2], shares[1]) > 0.5
    return said


def _guess(
    predict: Predict,
    rows: Matrix,
    label: Matrix,
    place: int,
    stand_ins: tuple[float, float],
    share: float,
) -> NDArray[np.bool_]:
    """Return whether the high value makes the label likelier, the population counted in."""
    support = []
    for stand_in, weight in zip(stand_ins, (1.0 - share, share), strict=True):
        changed = rows.copy()
        changed[:, place] = stand_in
        chance = np.clip(predict(changed), 1e-12, 1.0 - 1e-12)
        support.append(np.where(label > 0.5, chance, 1.0 - chance) * weight)
    said: NDArray[np.bool_] = support[1] > support[0]
    return said


def _rate(right: NDArray[np.bool_]) -> Rate:
    return binomial_interval(int(np.count_nonzero(right)), len(right))


def _variance(gain: Matrix) -> float:
    """Return the variance of the mean gain; that of one row in n where all gain alike."""
    rows = len(gain)
    return max(float(gain.var()), (rows - 1) / rows**2) / rows
