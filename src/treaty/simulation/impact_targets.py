"""What is assessed: a family of models, trained and protected as a study would.

`ExactTarget` trains with the product's trainer on exact sums; `NoisedTarget` by gradient descent
on sums that are clipped by person and noised, with the product's own mechanism. `site_release` is
that mechanism alone, for the audit with canaries.

LIMIT: shadow models are trained as if all rows lay at one site; sums over sites differ from
that only in rounding, and in site intercepts, of which the attacker is given one for all.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.assessment.attributes import Predict
from treaty.assessment.canaries import AuditPlan, SiteRound
from treaty.assessment.findings import Claim, make_claim
from treaty.crypto.derivation import kdf
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    initial_model,
)
from treaty.models.task import TrainingTask
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.calibration import Schedule, calibrated_variance
from treaty.privacy.certificate import Cohort
from treaty.privacy.events import GaussianEvent, accounted_variance, gaussian_event, signal_to_noise
from treaty.privacy.gaussian import square_root_up
from treaty.privacy.mechanisms import Clip, Layer, add_noise, clipped_sum, noise_share
from treaty.simulation.impact_rows import AssessedRows
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = ["ExactTarget", "NoisedTarget", "NoisedTerms", "Target"]
Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NoisedTerms:
    """Terms of a study with noised sums: epsilon at delta = 1 / `delta_inverse`, in `rounds`."""

    epsilon: float
    delta_inverse: int
    cohort: Cohort
    rounds: int = 20
    clip: Clip = field(default_factory=lambda: Clip(0.5))
    learning_rate: float = 16.0


class Target(Protocol):
    """A family under assessment."""

    @property
    def specification(self) -> ModelSpecification:
        """The model description."""

    @property
    def claim(self) -> Claim:
        """What its plan promises."""

    def train(self, rows: AssessedRows, inside: Bits, entropy: bytes) -> Predict:
        """Return a model of the persons `inside` (people,), as the probability of label one."""


@dataclass(frozen=True, slots=True)
class ExactTarget:
    """A family on exact sums: nothing is promised, so only readable records can fail it."""

    specification: ModelSpecification
    delta_inverse: int

    @property
    def claim(self) -> Claim:
        """No epsilon."""
        return make_claim(math.inf, self.delta_inverse)

    def train(self, rows: AssessedRows, inside: Bits, entropy: bytes) -> Predict:
        """See `Target.train`. Raises `TrainerFailure`."""
        trainer, spec, chosen = NumpyTrainer(), self.specification, rows.of(inside)
        features, label = rows.features[chosen], rows.label[chosen]
        start = initial_model(spec, features.shape[1])
        model = trainer.alone(TrainingTask(spec, start, features, label, entropy))
        state = trainer.site_state(TrainingTask(spec, model, features, label, entropy))
        return lambda asked: trainer.predict(spec, model, asked, state)


class NoisedTarget:
    """A family on sums that are clipped by person and noised."""

    def __init__(self, specification: ModelSpecification, terms: NoisedTerms) -> None:
        """Calibrate the noise. Raises `UsageError` for a family that has no noised form."""
        match specification:
            case LogisticRegression() if not specification.site_intercepts:
                pass
            case MultilayerPerceptron():
                pass
            case _:
                raise UsageError(
                    "noised sums train logistic regression with a common intercept, or a "
                    "perceptron: choose one, or assess exact sums"
                )
        self.specification = specification
        self.terms = terms
        variance = calibrated_variance(
            Schedule(terms.rounds, terms.clip.units), terms.epsilon, delta_of(terms.delta_inverse)
        )
        self.share_variance = noise_share(variance, terms.cohort.min_honest)
        event = gaussian_event(
            variance=accounted_variance(self.share_variance, terms.cohort.min_honest),
            sensitivity=terms.clip.units,
            count=terms.rounds,
        )
        if not isinstance(event, GaussianEvent):
            raise UsageError("expected a plan that does not sample")
        self.claim = make_claim(
            composed_epsilon([event], delta_of(terms.delta_inverse)),
            terms.delta_inverse,
            mu=square_root_up(signal_to_noise(event)),
        )

    def train(self, rows: AssessedRows, inside: Bits, entropy: bytes) -> Predict:
        """See `Target.train`: full batches, the mean of the second half of the iterates.

        The sum carries the noise of the honest shares that the certificate counts, and no more.
        """
        terms, chosen = self.terms, rows.of(inside)
        features, label = rows.features[chosen], rows.label[chosen]
        persons = rows.person[chosen]
        order = np.argsort(persons, kind="stable")
        features, label, persons = features[order], label[order], persons[order]
        model = initial_model(self.specification, features.shape[1])
        width = len(model.flat())
        noise = self._noise(width * terms.rounds, entropy).reshape(terms.rounds, width)
        iterates = []
        for number in range(terms.rounds):
            total = self.person_sum(self.layers(model, features, label), persons) + noise[number]
            step = terms.learning_rate * total * (terms.clip.step / max(1, int(inside.sum())))
            model = _moved(model, -step)
            iterates.append(model.flat())
        final = _moved(model, np.mean(iterates[terms.rounds // 2 :], axis=0) - model.flat())
        return lambda asked: self.predict(final, asked)

    def layers(self, model: NamedTensors, features: Matrix, label: Matrix) -> list[Layer]:
        """Return activations and errors of every row, in the order of the model's tensors."""
        if isinstance(self.specification, LogisticRegression):
            design = _unit_rows(features)
            shared = model.flat()
            error = (_sigmoid(design @ shared) - label)[:, None]
            return [Layer(design, error, has_bias=False)]
        values, weights = _forward(model, features)
        error = (_sigmoid(values[-1][:, 0]) - label)[:, None]
        found = []
        for place in range(len(weights) - 1, -1, -1):
            ones = np.ones((len(features), 1))
            found += [
                Layer(values[place], error, has_bias=False),
                Layer(ones, error, has_bias=False),
            ]
            error = (error @ weights[place].T) * (1.0 - values[place] ** 2)
        return found[::-1]

    def person_sum(self, layers: list[Layer], persons: Integers) -> Integers:
        """Return the sum over persons of their gradients, each clipped, on the grid."""

        def gradients(start: int, stop: int) -> Matrix:
            outer = [
                (layer.inputs[start:stop, :, None] * layer.errors[start:stop, None, :]).reshape(
                    stop - start, -1
                )
                for layer in layers
            ]
            return np.concatenate(outer, axis=1)

        width = sum(layer.inputs.shape[1] * layer.errors.shape[1] for layer in layers)
        return clipped_sum(gradients, persons, width, self.terms.clip)

    def predict(self, model: NamedTensors, features: Matrix) -> Matrix:
        """Return the probability of label one, (n,)."""
        if isinstance(self.specification, LogisticRegression):
            return _sigmoid(_unit_rows(features) @ model.flat())
        return _sigmoid(_forward(model, features)[0][-1][:, 0])

    def audit_plan(self, canaries: int) -> AuditPlan:
        """Return the audit of this mechanism, with as many honest shares as are counted on."""
        honest = self.terms.cohort.min_honest
        return AuditPlan(
            self.terms.clip,
            self.share_variance,
            claimed_shares=honest,
            honest=honest,
            rounds=self.terms.rounds,
            canaries=canaries,
        )

    def release(self, item: SiteRound) -> Integers:
        """Return a member's release: the mechanism that training uses, on any vectors."""
        ones = np.ones((len(item.vectors), 1))
        total = self.person_sum([Layer(ones, item.vectors, has_bias=False)], item.persons)
        return add_noise(
            total, share_variance=item.share_variance, ring_bits=item.ring_bits, fill=item.fill
        )

    def noised(self, total: Integers, entropy: bytes) -> Integers:
        """Return a sum over sites with the noise of the honest shares that are counted on."""
        return total + self._noise(len(total), entropy)

    def _noise(self, width: int, entropy: bytes) -> Integers:
        total = np.zeros(width, dtype=np.int64)
        for share in range(self.terms.cohort.min_honest):
            fill = Keystream(kdf(entropy, "assessed noise", share)).fill
            total = add_noise(total, share_variance=self.share_variance, ring_bits=64, fill=fill)
        return total


def _sigmoid(value: Matrix) -> Matrix:
    small = np.exp(-np.abs(value))
    share: Matrix = np.where(value >= 0, 1.0, small) / (1.0 + small)
    return share


def _unit_rows(features: Matrix) -> Matrix:
    design = np.column_stack([features, np.ones(len(features))])
    scaled: Matrix = design / np.sqrt(np.square(design).sum(axis=1))[:, None]
    return scaled


def _forward(model: NamedTensors, features: Matrix) -> tuple[list[Matrix], list[Matrix]]:
    """Return the activations before each layer with the logits last, and the layers' weights."""
    values, weights = [features], []
    layers = len(model) // 2
    for place in range(layers):
        weight, bias = (model.float64(f"layer.{place}.{kind}") for kind in ("weight", "bias"))
        value = values[-1] @ weight + bias
        values.append(np.tanh(value) if place < layers - 1 else value)
        weights.append(weight)
    return values, weights


def _moved(model: NamedTensors, change: Matrix) -> NamedTensors:
    """Return `model` plus a flat change."""
    arrays, start = [], 0
    for array in model.arrays:
        part = change[start : start + array.size].reshape(array.shape)
        arrays.append(array.astype(np.float64) + part)
        start += array.size
    return NamedTensors(model.manifest, arrays)
