"""Simulation only: the training of a private study on rows in one place, with any noise or none.

The same clipping, grid, steps and mean of iterates as in the protocol, so that what differs is
noise alone: none, a trusted curator's, or a single site's own. No real consortium can compute
this for others' rows; benchmarks and the `comparison` statement use it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors, element_count
from treaty.crypto.derivation import kdf
from treaty.models.descent import (
    GRADIENT_PREFIX,
    least_persons,
    mean_iterate,
    next_iterate,
)
from treaty.models.quadratic import statistics_manifest, statistics_width
from treaty.models.specification import initial_model
from treaty.models.task import GradientPart, TrainingTask
from treaty.node.noising import clipped_gradient, clipped_statistics
from treaty.ports import Trainer
from treaty.privacy.distributed import count_units, noised, persons_in_order, sampled_persons
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import NoisedStatistics
from treaty.studies.noise import descent_terms, noise_terms
from treaty.studies.plan import Plan
from treaty.studies.progress import sufficient_model

__all__ = ["PlainRows", "descend"]

Matrix = NDArray[np.float64]

_NO_ENTROPY = bytes(32)


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Rows as a site prepares them for training: normalised by the contract's public bounds."""

    features: Matrix = field(repr=False)
    label: Matrix = field(repr=False)
    persons: Sequence[str] = field(repr=False)


def descend(
    plan: Plan, trainer: Trainer, sites: Sequence[PlainRows], *, noise: bytes | None
) -> NamedTensors:
    """Return the model that the plan's training reaches on all rows of `sites`.

    With `noise` (32 bytes) each sum gets noise of exactly the plan's variance, as a trusted
    curator would add it; None adds nothing. Persons of different sites are different persons.
    """
    if isinstance(plan.privacy, NoisedStatistics):
        return _from_statistics(plan, trainer, sites, noise)
    terms = descent_terms(plan)
    model = initial_model(plan.model, sites[0].features.shape[1])
    ordered = [(site, *persons_in_order(site.persons)) for site in sites]
    counted = sum(count_units(person, terms.clip) for _, _, person in ordered)
    counted = _with_noise(np.asarray(counted), terms.count_variance, noise, "count")
    persons = max(float(int(counted[0])) / float(terms.clip.units), least_persons(len(sites)))
    iterates: list[NamedTensors] = []
    for number in range(terms.rounds):
        total = np.zeros(sum(element_count(spec) for spec in model.manifest), dtype=np.int64)
        for place, (site, order, person) in enumerate(ordered):
            key = kdf(noise or _NO_ENTROPY, "simulated-sample", number, place)
            chosen = sampled_persons(person, terms.rate, key)
            total = total + clipped_gradient(
                plan,
                model.manifest,
                _Parts(plan, trainer, site, model),
                order[chosen],
                person[chosen],
            )
        total = _with_noise(total, terms.variance, noise, f"round {number}")
        model = next_iterate(
            model,
            _segments(model, total),
            unit=terms.clip.step,
            persons=persons * (terms.rate / SAMPLING_UNIT),
            rate=terms.learning_rate_milli / 1000,
        )
        if number >= terms.rounds // 2:
            iterates.append(model)
    return mean_iterate(tuple(iterates))


def _from_statistics(
    plan: Plan, trainer: Trainer, sites: Sequence[PlainRows], noise: bytes | None
) -> NamedTensors:
    """Return the model of one sum of statistics."""
    model = initial_model(plan.model, sites[0].features.shape[1])
    total = np.zeros(statistics_width(len(model.flat())), dtype=np.int64)
    for site in sites:
        order, person = persons_in_order(site.persons)
        parts = _Parts(plan, trainer, site, model)
        total = total + clipped_statistics(plan, model.manifest, parts, order, person)
    terms = noise_terms(plan)
    total = _with_noise(total, terms.variance, noise, "statistics")
    found: dict[str, NDArray[np.int64]] = {}
    start = 0
    for spec in statistics_manifest(model.manifest):
        found[spec.name] = total[start : start + element_count(spec)]
        start += element_count(spec)
    return sufficient_model(plan, model, found, len(sites))


@dataclass(frozen=True, slots=True)
class _Parts:
    plan: Plan
    trainer: Trainer
    site: PlainRows
    model: NamedTensors

    def __call__(self, rows: NDArray[np.int64]) -> Sequence[GradientPart]:
        features = np.ascontiguousarray(self.site.features[rows])
        label = self.site.label[rows]
        task = TrainingTask(self.plan.model, self.model, features, label, _NO_ENTROPY)
        return self.trainer.layers(task)


def _segments(model: NamedTensors, total: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    found: dict[str, NDArray[np.int64]] = {}
    start = 0
    for spec in model.manifest:
        found[GRADIENT_PREFIX + spec.name] = total[start : start + element_count(spec)]
        start += element_count(spec)
    return found


def _with_noise(
    total: NDArray[np.int64], variance: str, noise: bytes | None, label: str
) -> NDArray[np.int64]:
    if noise is None:
        return total
    key = kdf(noise, "simulated-noise", label)
    return noised(total, share_variance=int(variance, 16), ring_bits=64, key=key)
