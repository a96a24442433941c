"""What is assessed: a family of models, trained and protected as a study would.

`ExactTarget` trains with the product's trainer on exact sums. `NoisedTarget` takes the study's
own path: activations and errors from the trainer, clipping and noise by `node.noising`, the
next model by `models.descent`; its `release` is that mechanism alone, for the audit with canaries.
One noised sum of statistics is `treaty.simulation.impact_statistics`.

LIMIT: shadow models are trained as if all rows lay at one site; sums over sites differ from
that only in rounding, and in site intercepts, of which the attacker is given one for all. Persons
are counted exactly, which favours the attacker.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors, TensorSpec, element_count
from treaty.assessment.attributes import Predict
from treaty.assessment.canaries import AuditPlan, SiteRound
from treaty.assessment.findings import Claim, make_claim
from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract, contract_digest
from treaty.crypto.derivation import kdf
from treaty.errors import UsageError
from treaty.models.descent import GRADIENT_PREFIX, mean_iterate, next_iterate
from treaty.models.specification import ModelSpecification, initial_model
from treaty.models.task import GradientPart, TrainingTask
from treaty.node.noising import clipped_gradient, noised_contribution
from treaty.privacy.accountant import total_signal_to_noise
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noised
from treaty.privacy.gaussian import square_root_up
from treaty.privacy.mechanisms import Layer
from treaty.privacy.surplus import NoiseKeys
from treaty.privacy.terms import (
    DistributedGaussian,
    NoisedStatistics,
    check_claim,
    effective_cohort,
    releases,
    share_of,
)
from treaty.simulation.impact_rows import AssessedRows
from treaty.studies.noise import descent_terms, training_sensitivity
from treaty.studies.plan import AggregationSettings, Plan
from treaty.studies.queries import NO_DIGEST
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = ["RING_BITS", "ExactTarget", "NoisedTarget", "Target"]

Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]

RING_BITS = 64
_CANARIES = "canaries"


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
    """A family on sums that are clipped by person and noised, under calibrated terms."""

    def __init__(
        self,
        specification: ModelSpecification,
        terms: DistributedGaussian | NoisedStatistics,
        cohort: Cohort,
        contract: Contract,
        *,
        max_persons_per_site: int,
    ) -> None:
        """Fix the plan. Raises `UsageError` for terms that sample.

        `PolicyError` (``epsilon-claim``, ``noise-range``) where the noise does not keep epsilon.
        """
        if isinstance(terms, DistributedGaussian) and terms.sampling is not None:
            raise UsageError("an assessment audits plans that do not sample: leave sampling out")
        self.specification = specification
        self.terms = terms
        self.cohort = cohort
        self.plan = Plan(
            study="assessment",
            title="assessment",
            purpose="assessment",
            charter=NO_DIGEST,
            contract=contract_digest(contract),
            code=NO_DIGEST,
            model=specification,
            aggregation=AggregationSettings(max_persons_per_site=max_persons_per_site),
            privacy=terms,
        )
        self.trainer = NumpyTrainer()
        self._columns = len(design_columns(contract))
        sensitivity = training_sensitivity(
            specification, terms, columns=self._columns, max_rows=max_persons_per_site
        )
        check_claim(terms, cohort, sensitivity)
        events = releases(terms, cohort, sensitivity)
        # What the plan promises is its epsilon; its curve is that of the noise it has.
        self.claim = make_claim(
            terms.epsilon_milli / 1000,
            terms.delta_inverse,
            mu=square_root_up(total_signal_to_noise(events)),
        )

    @property
    def honest_shares(self) -> int:
        """How many shares of noise the certificate counts on."""
        return effective_cohort(self.terms, self.cohort).min_honest

    @property
    def share_variance(self) -> int:
        """The variance of one member's share in a gradient sum, in grid units squared."""
        return share_of(self.terms, self.terms.variance, self.cohort)

    @property
    def start(self) -> NamedTensors:
        """The model at which the first sum is asked for."""
        return initial_model(self.specification, self._columns)

    def train(self, rows: AssessedRows, inside: Bits, entropy: bytes) -> Predict:
        """See `Target.train`: the sums carry the honest shares that are counted on, no more."""
        terms, spec = descent_terms(self.plan), self.specification
        chosen = np.flatnonzero(rows.of(inside))
        model = self.start
        width = len(model.flat())
        noise = self.noise(width * terms.rounds, entropy).reshape(terms.rounds, width)
        iterates = []
        for number in range(terms.rounds):
            model = next_iterate(
                model,
                self._named(model, self.clipped(model, rows, chosen) + noise[number]),
                unit=terms.clip.step,
                persons=float(np.count_nonzero(inside)),
                rate=terms.learning_rate_milli / 1000,
            )
            if number >= terms.rounds // 2:
                iterates.append(model)
        final = mean_iterate(tuple(iterates))
        return lambda asked: self.trainer.predict(spec, final, asked)

    def parts(
        self, model: NamedTensors, rows: AssessedRows, chosen: Integers
    ) -> Sequence[GradientPart]:
        """Return what the gradients of the `chosen` rows at `model` are made of."""
        return self.trainer.layers(
            TrainingTask(
                self.specification, model, rows.features[chosen], rows.label[chosen], bytes(32)
            )
        )

    def clipped(self, model: NamedTensors, rows: AssessedRows, chosen: Integers) -> Integers:
        """Return the sum of the persons' clipped gradients, in the order of the model's tensors."""
        order = chosen[np.argsort(rows.person[chosen], kind="stable")]
        return clipped_gradient(
            self.plan,
            model.manifest,
            lambda asked: self.parts(model, rows, asked),
            order,
            rows.person[order],
        )

    def noise(self, width: int, entropy: bytes) -> Integers:
        """Return the honest shares of noise that are counted on, added up, (width,)."""
        total = np.zeros(width, dtype=np.int64)
        for share in range(self.honest_shares):
            total = noised(
                total,
                share_variance=self.share_variance,
                ring_bits=RING_BITS,
                key=kdf(entropy, "assessed noise", share),
            )
        return total

    def audit_plan(self, canaries: int) -> AuditPlan:
        """Return the audit of the gradient sums, with the honest shares that are counted on."""
        return AuditPlan(
            self.terms.clip,
            self.share_variance,
            claimed_shares=self.honest_shares,
            honest=self.honest_shares,
            rounds=descent_terms(self.plan).rounds,
            ring_bits=RING_BITS,
            canaries=canaries,
        )

    def release(self, item: SiteRound) -> Integers:
        """Return a member's release on any vectors: what a site does with its gradients."""
        width = item.vectors.shape[1]

        def parts(rows: Integers) -> list[GradientPart]:
            layer = Layer(item.vectors[rows], np.ones((len(rows), 1)), has_bias=False)
            return [GradientPart(_CANARIES, None, layer)]

        return noised_contribution(
            self.plan,
            (TensorSpec(name=_CANARIES, shape=(width,)),),
            [f"{person:08d}" for person in item.persons],
            parts,
            self.cohort,
            ring_bits=item.ring_bits,
            keys=NoiseKeys(item.key),
            sampling_key=item.key,
        )

    def _named(self, model: NamedTensors, flat: Integers) -> dict[str, list[int]]:
        found, start = {}, 0
        for spec in model.manifest:
            stop = start + element_count(spec)
            found[GRADIENT_PREFIX + spec.name] = flat[start:stop].tolist()
            start = stop
        return found
