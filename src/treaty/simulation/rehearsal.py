"""Rehearsal: noisy training on a stand-in, for every way of sharing the noise.

One `rehearse` is one repeat: split, train every arm at every epsilon, measure the area on the rows
held out. It is the study's own recipe (clipped gradient sums, full batch, average of
the later iterates; or one sum of clipped statistics and the model that follows from it) with the
law of the noise, in floating point: the study's integers differ from it by less than the repeats do
(docs/spec/whatif.md, section 3, has the measured gap). How much noise which sum has, and how much
a model from statistics allows for, stands in `NoiseShares` alone.

Guarantees: the same arguments give the same numbers on one machine; no clock, no global random
state.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError
from treaty.evaluation.forecast import Arm
from treaty.models.quadratic import model_from_statistics, row_statistics, statistics_manifest
from treaty.models.specification import LogisticRegression, model_manifest
from treaty.privacy.calibration import gaussian_mu
from treaty.privacy.terms import COUNT_SHARE, STATISTICS_CLIP_MICRO
from treaty.simulation.stand_in import SiteRows

__all__ = [
    "NoiseShares",
    "OneRound",
    "Outcome",
    "Recipe",
    "Run",
    "area_under_curve",
    "descend",
    "from_statistics",
    "rehearse",
]

Array = NDArray[np.float64]

_MODEL = LogisticRegression(site_intercepts=False, unit_rows=True)
_GRID_BITS = 24
_ROUNDING = 1e-9
"""A row of length one may come out longer than its clip by rounding alone: that is no cut."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a noisy linear model is trained: every gradient clipped to `clip`, `rounds` steps.

    The step is `learning_rate` times the noisy mean gradient; the model is the average of the
    second half of the iterates.
    """

    clip: float = 0.5
    rounds: int = 20
    learning_rate: float = 16.0

    def __post_init__(self) -> None:
        if not 0.0 < self.clip <= 64.0:
            raise UsageError(f"clip must be positive and at most 64, got {self.clip}")
        if not 1 <= self.rounds <= 1000:
            raise UsageError(f"rounds must be in 1 .. 1000, got {self.rounds}")
        if not 0.0 < self.learning_rate <= 1024.0:
            raise UsageError(
                f"learning rate must be positive and at most 1024, got {self.learning_rate}"
            )

    def multiplier(self, epsilon: float, delta: float) -> float:
        """Return the noise of one round in units of the clip that a trusted curator needs.

        As in a study, a share of the budget goes to counting the persons once.
        """
        rest = math.sqrt(1.0 - float(COUNT_SHARE))
        return math.sqrt(self.rounds) / (rest * gaussian_mu(epsilon, delta))

    def changed(self, clip: float, rounds: int) -> "Recipe":
        """Return the recipe with another clip and number of rounds."""
        return Recipe(clip, rounds, self.learning_rate)

    def train(
        self, rows: SiteRows, noise: float, allowed: float, generator: np.random.Generator
    ) -> "Run":
        """Return the model of the rows, as `descend`; `allowed` has no place in it."""
        del allowed
        return descend(*rows, self, noise, generator)


@dataclass(frozen=True, slots=True)
class OneRound:
    """How a linear model follows from one noised sum of statistics, each row's cut to `clip`.

    The clip is by default what a row of length one contributes; all of the budget goes to the sum.
    """

    clip: float = STATISTICS_CLIP_MICRO / 1e6

    def __post_init__(self) -> None:
        if not 0.0 < self.clip <= 64.0:
            raise UsageError(f"clip must be positive and at most 64, got {self.clip}")

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def multiplier(self, epsilon: float, delta: float) -> float:
        """Return the noise of the sum in units of the clip that a trusted curator needs."""
        return 1.0 / gaussian_mu(epsilon, delta)

    def changed(self, clip: float, rounds: int) -> "OneRound":
        """Return the recipe with another clip; there is one round."""
        if rounds != 1:
            raise UsageError(f"one noised sum of statistics has one round, got {rounds}")
        return OneRound(clip)

    def train(
        self, rows: SiteRows, noise: float, allowed: float, generator: np.random.Generator
    ) -> "Run":
        """Return the model of the rows, as `from_statistics`."""
        return from_statistics(*rows, self, noise, allowed, generator)


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """What a sum over everybody carries of a trusted curator's variance: `surplus.carried`.

    `shared` as chartered, `shared_third` where a third of the members may collude.
    """

    sites: int
    shared: Fraction
    shared_third: Fraction

    def overshoot(self, arm: Arm) -> float:
        """Return the noise of the sum relative to a trusted curator's."""
        match arm:
            case Arm.NO_NOISE:
                return 0.0
            case Arm.CURATOR | Arm.ALONE:
                return 1.0
            case Arm.SHARED:
                return math.sqrt(self.shared)
            case Arm.SHARED_DEFAULT:
                return math.sqrt(self.shared_third)
            case Arm.LOCAL:
                return math.sqrt(self.sites)

    def allowed(self, arm: Arm) -> float:
        """Return what noise a model from statistics allows for, relative to a trusted curator's.

        As `studies.progress.sufficient_model`: twice the variance that the plan counts on, and
        every site's where each adds all of it.
        """
        if arm is Arm.NO_NOISE:
            return 0.0
        return math.sqrt(self.sites) if arm is Arm.LOCAL else math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One repeat: areas by (arm, epsilon), and signal to noise by epsilon; floats.

    `signals` are (first round, median round) under the chartered sharing. `recipes` are areas and
    shares of clipped gradients by (clip, rounds), `departures` areas by the site that left.
    """

    areas: dict[tuple[Arm, float], float]
    signals: dict[float, tuple[float, float]]
    recipes: dict[tuple[float, int], tuple[float, float]]
    departures: dict[str, float]
    holdout: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model (width,), each round's signal to noise, the mean share of rows clipped."""

    coefficients: Array
    signals: Array
    clipped: float


def rehearse(
    sites: Mapping[str, SiteRows],
    *,
    recipe: Recipe | OneRound,
    shares: NoiseShares,
    epsilons: Sequence[float],
    delta: float,
    holdout_permille: int,
    seed: Sequence[int],
    clips: Sequence[float] = (),
    round_counts: Sequence[int] = (),
    middle: float | None = None,
    shares_without_one: NoiseShares | None = None,
) -> Outcome:
    """Return one repeat over the given stand-in.

    `clips` and `round_counts` ask for other recipes at the epsilon `middle`, each with noise of its
    own; `shares_without_one` for every site's departure. Raises `UsageError` when a class is
    absent from the rows held out or trained on.
    """
    generator = np.random.Generator(np.random.PCG64([0x9EC1, *seed]))
    train: dict[str, SiteRows] = {}
    held: dict[str, SiteRows] = {}
    for name, (features, label) in sites.items():
        order = generator.permutation(len(label))
        out = math.floor(len(label) * holdout_permille / 1000)
        held[name] = (features[order[:out]], label[order[:out]])
        train[name] = (features[order[out:]], label[order[out:]])
    rows, labels = _pooled(train)
    test, truth = _pooled(held)
    for which, values in (("trained on", labels), ("held out", truth)):
        if not 0.0 < values.sum() < len(values):
            raise UsageError(
                f"the rows {which} hold one class only: use more persons, another prevalence "
                "or another seed"
            )
    areas: dict[tuple[Arm, float], float] = {}
    signals: dict[float, tuple[float, float]] = {}

    def noise() -> np.random.Generator:
        # The same draws for every arm and epsilon: differences between them are then their own.
        return np.random.Generator(np.random.PCG64([0xD1CE, *seed]))

    def score(run: Run) -> float:
        return area_under_curve(test @ run.coefficients, truth)

    def trained(arm: Arm, own: SiteRows, multiplier: float, way: Recipe | OneRound = recipe) -> Run:
        noisy, allowed = multiplier * shares.overshoot(arm), multiplier * shares.allowed(arm)
        return way.train(own, noisy, allowed, noise())

    everybody = (rows, labels)
    areas[Arm.NO_NOISE, 0.0] = score(trained(Arm.NO_NOISE, everybody, 0.0))
    for epsilon in epsilons:
        multiplier = recipe.multiplier(epsilon, delta)
        for arm in (Arm.CURATOR, Arm.SHARED, Arm.SHARED_DEFAULT, Arm.LOCAL):
            run = trained(arm, everybody, multiplier)
            areas[arm, epsilon] = score(run)
            if arm is Arm.SHARED:
                signals[epsilon] = (float(run.signals[0]), float(np.median(run.signals)))
        alone = [trained(Arm.ALONE, own, multiplier) for own in train.values()]
        areas[Arm.ALONE, epsilon] = float(np.mean([score(run) for run in alone]))
    recipes: dict[tuple[float, int], tuple[float, float]] = {}
    departures: dict[str, float] = {}
    if middle is not None:
        for clip in clips:
            for count in round_counts:
                other = recipe.changed(clip, count)
                run = trained(Arm.SHARED, everybody, other.multiplier(middle, delta), other)
                recipes[clip, count] = (score(run), run.clipped)
        if shares_without_one is not None:
            multiplier = recipe.multiplier(middle, delta)
            scale = multiplier * shares_without_one.overshoot(Arm.SHARED)
            allowed = multiplier * shares_without_one.allowed(Arm.SHARED)
            for name in train:
                rest = _pooled({other: own for other, own in train.items() if other != name})
                departures[name] = score(recipe.train(rest, scale, allowed, noise()))
    return Outcome(areas, signals, recipes, departures, (len(truth), int(truth.sum())))


def area_under_curve(scores: Array, label: Array) -> float:
    """Return the area under the curve of `scores` (n,) for `label` (n,) in {0, 1}, ties halved."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = last - (counts - 1) / 2.0
    positive = float(label.sum())
    negative = len(label) - positive
    total = float(rank[inverse][label == 1.0].sum())
    return (total - positive * (positive + 1.0) / 2.0) / (positive * negative)


def _pooled(sites: Mapping[str, SiteRows]) -> SiteRows:
    return (
        np.vstack([features for features, _ in sites.values()]),
        np.concatenate([label for _, label in sites.values()]),
    )


def descend(
    features: Array, label: Array, recipe: Recipe, noise: float, generator: np.random.Generator
) -> Run:
    """Return the model after noisy gradient descent.

    `features` (n, width), `label` (n,) in {0, 1}; the sum of clipped gradients gets normal noise
    of `noise` clips in each coordinate, 0 for none.
    """
    width = features.shape[1]
    weights, later = np.zeros(width), np.zeros(width)
    lengths = np.sqrt(np.square(features).sum(axis=1))
    signals = np.empty(recipe.rounds)
    clipped = 0.0
    for number in range(recipe.rounds):
        error = 1.0 / (1.0 + np.exp(-np.clip(features @ weights, -700.0, 700.0))) - label
        norms = np.abs(error) * lengths
        factors = np.minimum(1.0, recipe.clip / np.maximum(norms, 1e-300))
        clipped += float((factors < 1.0).mean())
        gradient = features.T @ (error * factors)
        scale = noise * recipe.clip
        signals[number] = (
            float(np.sqrt(gradient @ gradient)) / (scale * math.sqrt(width)) if scale else math.inf
        )
        noisy = gradient + scale * generator.standard_normal(width)
        weights = weights - recipe.learning_rate * noisy / len(label)
        if number >= recipe.rounds // 2:
            later += weights
    return Run(later / (recipe.rounds - recipe.rounds // 2), signals, clipped / recipe.rounds)


def from_statistics(
    features: Array,
    label: Array,
    recipe: OneRound,
    noise: float,
    allowed: float,
    generator: np.random.Generator,
) -> Run:
    """Return the model that follows from one sum of clipped statistics.

    `features` (n, width), `label` (n,) in {0, 1}; the sum gets normal noise of `noise` clips in
    each coordinate, 0 for none, and the model allows for `allowed` clips. Its signal is that of the
    words that labels enter, over the noise in them: the others tell columns from one another.
    """
    width = features.shape[1]
    found = row_statistics(features, 0.5 - label)
    lengths = np.sqrt(np.square(found).sum(axis=1))
    factors = np.minimum(1.0, recipe.clip / np.maximum(lengths, 1e-300))
    total = factors @ found
    scale = noise * recipe.clip
    told = total[:width]
    signal = float(np.sqrt(told @ told)) / (scale * math.sqrt(width)) if scale else math.inf
    unit = recipe.clip / 2.0**_GRID_BITS
    noisy = np.rint((total + scale * generator.standard_normal(len(total))) / unit)
    manifest = model_manifest(_MODEL, width - 1)
    parts = np.split(noisy.astype(np.int64), [width])
    sums = {
        spec.name: part for spec, part in zip(statistics_manifest(manifest), parts, strict=True)
    }
    model = model_from_statistics(
        _MODEL, manifest, sums, unit=unit, deviation=allowed * recipe.clip / unit
    )
    clipped = float((factors < 1.0 - _ROUNDING).mean())
    return Run(model.flat(), np.array([signal]), clipped)
