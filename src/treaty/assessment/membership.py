"""Membership inference: was this person among those that a model was trained on?

Three attacks on a released model, from the model's confidence in each person's true label and, but
for the first, from shadow models that the attacker trains on other halves of the same persons:

  * loss threshold (Yeom et al. 2018): a small loss says member;
  * LiRA (Carlini et al. 2022): likelihood ratio of the confidence under Gaussians fitted to
    shadow models with and without the person (online), or without only (offline);
  * RMIA (Zarifzadeh et al. 2024): how often the person's likelihood ratio beats that of others.

Guarantees (docs/spec/privacy.md, section 10.2):
  * Scores are higher for likelier members and depend on what the attack may know alone: a
    target model is never among its own shadow models.
  * `confidence_logits` is finite for every probability, zero and one included.

Pure: arrays in, scores out. Left to others: training shadow models (`simulation.impact`).
LIMIT: an attack that finds nothing proves nothing; a stronger one may exist. Only the bound that a
certificate states is a promise.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError

__all__ = [
    "ATTACKS",
    "AttackScores",
    "ShadowModels",
    "confidence_logits",
    "half_splits",
    "lira_offline",
    "lira_online",
    "loss_threshold",
    "person_means",
    "rmia",
    "run_attacks",
]

Matrix = NDArray[np.float64]
Bits = NDArray[np.bool_]

ATTACKS = ("loss-threshold", "lira-online", "lira-offline", "rmia")

_LEAST_PROBABILITY = 1e-12
_LEAST_DEVIATION = 1e-6
_GLOBAL_VARIANCE_BELOW = 32
"""With fewer shadow models on one side, all persons share one variance."""

_RMIA_GAMMA = 1.0


@dataclass(frozen=True, slots=True)
class ShadowModels:
    """Confidence of every model in every person, and who was among each model's persons.

    `logits` (models, persons) finite; `inside` (models, persons). Raises `UsageError` unless
    shapes agree and every person is inside and outside of at least two models.
    """

    logits: Matrix
    inside: Bits

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.logits.shape != self.inside.shape:
            raise UsageError("expected confidences and memberships of shape (models, persons)")
        if not np.isfinite(self.logits).all():
            raise UsageError("expected finite confidences")
        counts = self.inside.sum(axis=0)
        if len(self.inside) < 4 or counts.min() < 2 or (len(self.inside) - counts).min() < 2:
            raise UsageError("expected every person inside and outside of at least two models")

    def without(self, target: int) -> "ShadowModels":
        """Return the models but the one under attack, which its attacker cannot train."""
        rest = np.arange(len(self.logits)) != target
        return ShadowModels(self.logits[rest], self.inside[rest])


@dataclass(frozen=True, slots=True)
class AttackScores:
    """One attack's scores of every (target, person) pair, with the truth; shape (targets, n)."""

    attack: str
    scores: Matrix
    inside: Bits


def half_splits(models: int, persons: int, generator: np.random.Generator) -> Bits:
    """Return who is inside each model, (models, persons): each person in exactly half of them.

    Raises `UsageError` unless `models` is even and at least 6 and there are 4 persons or more.
    """
    if models < 6 or models % 2 or persons < 4:
        raise UsageError(
            f"expected an even number of models from 6 on and at least 4 persons, got {models} "
            f"and {persons}"
        )
    order = np.argsort(generator.random((models, persons)), axis=0)
    inside: Bits = order < models // 2
    return inside


def confidence_logits(probability: Matrix, label: Matrix) -> Matrix:
    """Return the log odds of the true label, given the probability of label one; any shape."""
    right = np.where(label > 0.5, probability, 1.0 - probability)
    right = np.clip(right, _LEAST_PROBABILITY, 1.0 - _LEAST_PROBABILITY)
    odds: Matrix = np.log(right) - np.log1p(-right)
    return odds


def person_means(values: Matrix, persons: NDArray[np.int64]) -> Matrix:
    """Return the mean over each person's rows: (..., rows) to (..., persons).

    `persons` (rows,) holds 0 .. n-1, each at least once.
    """
    counts = np.bincount(persons)
    if (counts == 0).any():
        raise UsageError("expected every person number to have a row")
    order = np.argsort(persons, kind="stable")
    starts = np.cumsum(counts) - counts
    mean: Matrix = np.add.reduceat(values[..., order], starts, axis=-1) / counts
    return mean


def loss_threshold(target: Matrix) -> Matrix:
    """Return scores (n,) of the attack that needs the model alone: minus the loss."""
    scores: Matrix = -np.logaddexp(0.0, -target)
    return scores


def lira_online(target: Matrix, shadows: ShadowModels) -> Matrix:
    """Return log likelihood ratios (n,): trained with the person against trained without."""
    inside_mean, inside_deviation = _fit(shadows.logits, shadows.inside)
    outside_mean, outside_deviation = _fit(shadows.logits, ~shadows.inside)
    return _log_density(target, inside_mean, inside_deviation) - _log_density(
        target, outside_mean, outside_deviation
    )


def lira_offline(target: Matrix, shadows: ShadowModels) -> Matrix:
    """Return how far the confidence (n,) lies above models that never saw the person."""
    mean, deviation = _fit(shadows.logits, ~shadows.inside)
    scores: Matrix = (target - mean) / deviation
    return scores


def rmia(target: Matrix, shadows: ShadowModels) -> Matrix:
    """Return the share of other persons z, (n,), whose ratio P(z | model) / P(z) is smaller.

    P(x) is the mean probability of the true label over shadow models inside and outside in equal
    parts. Everybody stands in for the population, as at a site that has no other.
    """
    probability = 1.0 / (1.0 + np.exp(-target))
    each = 1.0 / (1.0 + np.exp(-shadows.logits))
    inside = np.where(shadows.inside, each, 0.0).sum(axis=0) / shadows.inside.sum(axis=0)
    outside = np.where(shadows.inside, 0.0, each).sum(axis=0) / (~shadows.inside).sum(axis=0)
    ratio = probability / np.maximum(0.5 * (inside + outside), _LEAST_PROBABILITY)
    ordered = np.sort(ratio)
    below = np.searchsorted(ordered, ratio / _RMIA_GAMMA, "left")
    share: Matrix = below / max(1, len(ratio) - 1)
    return share


def run_attacks(models: ShadowModels, targets: int) -> tuple[AttackScores, ...]:
    """Return the scores of every attack of `ATTACKS` on the first `targets` models.

    Each target is attacked with the other models as shadows. Raises `UsageError` when there
    are not so many.
    """
    if not 1 <= targets < len(models.logits):
        raise UsageError(f"expected 1 to {len(models.logits) - 1} targets, got {targets}")
    found: dict[str, list[Matrix]] = {name: [] for name in ATTACKS}
    for target in range(targets):
        logits, shadows = models.logits[target], models.without(target)
        found["loss-threshold"].append(loss_threshold(logits))
        found["lira-online"].append(lira_online(logits, shadows))
        found["lira-offline"].append(lira_offline(logits, shadows))
        found["rmia"].append(rmia(logits, shadows))
    inside = models.inside[:targets]
    return tuple(AttackScores(name, np.array(scores), inside) for name, scores in found.items())


def _fit(logits: Matrix, chosen: Bits) -> tuple[Matrix, Matrix]:
    """Return each person's mean and standard deviation over the chosen models."""
    counts = chosen.sum(axis=0)
    mean = np.where(chosen, logits, 0.0).sum(axis=0) / counts
    square = np.where(chosen, (logits - mean) ** 2, 0.0).sum(axis=0)
    if counts.min() < _GLOBAL_VARIANCE_BELOW:
        variance = np.full(len(counts), square.sum() / max(1, (counts - 1).sum()))
    else:
        variance = square / (counts - 1)
    deviation: Matrix = np.maximum(np.sqrt(variance), _LEAST_DEVIATION)
    return mean, deviation


def _log_density(value: Matrix, mean: Matrix, deviation: Matrix) -> Matrix:
    density: Matrix = -0.5 * ((value - mean) / deviation) ** 2 - np.log(deviation)
    return density
