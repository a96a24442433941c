"""The ways to train that are compared, on one split: all see the same rows and the same start.

`ours` is the product: integer clipping and every site's share of noise, added as the ring adds. The
others exist in a benchmark only: a trusted curator who has all rows and adds the whole noise once;
the same curator in floating point; each site by itself under the same epsilon; nobody adding
noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.figures import area
from benchmarks.pipeline import Divided
from treaty.aggregation.quantization import RingVector
from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import normaliser_from_bounds, with_public_bounds
from treaty.contracts.schema import Contract, contract_digest
from treaty.crypto.canonical import sha256
from treaty.governance.quorum import DerivedParameters
from treaty.governance.terms import PrivacyMode, PrivacyPolicy
from treaty.ids import MemberId
from treaty.models.quadratic import statistics_width
from treaty.models.specification import LogisticRegression, initial_model
from treaty.models.task import TrainingTask
from treaty.node.contribution import Answer, LocalStudy
from treaty.privacy.certificate import Cohort
from treaty.privacy.surplus import surplus_noise
from treaty.privacy.terms import sum_variance
from treaty.simulation.descent import PlainRows, descend
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.noise import cohort_of, noise_terms
from treaty.studies.plan import Plan
from treaty.studies.progress import Stage, StudyProgress, begin
from treaty.studies.queries import UNNOISED_WORDS, Query
from treaty.studies.surplus import parts_within, query_tiers
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = [
    "ARMS",
    "ONE_ROUND",
    "areas",
    "bytes_for",
    "make_private_plan",
    "run_plain_sums",
    "without_surplus",
]

ARMS = {
    "ours": "every site's share of noise, in secure sums",
    "curator": "trusted curator, whole noise once, integers",
    "float": "floating point, as much noise as ours, from one hand",
    "equal-noise": "integers, as much noise as ours, from one hand",
    "alone": "each site by itself, same epsilon",
    "no-noise": "no noise at all",
    "one-round": "one noised sum of statistics, every site's share",
    "one-curator": "the same sum, whole noise once",
}

ONE_ROUND = ("one-round", "one-curator")
"""Arms that train from one noised sum of statistics."""

Matrix = NDArray[np.float64]
SPEC = private_model(LogisticRegression())
TRAINER = NumpyTrainer()


def bytes_for(*labels: object) -> bytes:
    """Return 32 bytes that follow from `labels`: every run draws the same noise."""
    return bytes.fromhex(sha256(repr(labels).encode()))


def make_private_plan(
    base: Plan,
    contract: Contract,
    epsilon: float,
    *,
    members: int,
    delta: float | None = None,
    one_round: bool = False,
) -> Plan:
    """Return `base` under noise at `epsilon`, with the product's defaults."""
    public = with_public_bounds(contract)
    bound = min(base.aggregation.max_persons_per_site, public.max_persons_per_site)
    policy = PrivacyPolicy(mode=PrivacyMode.DIFFERENTIAL)
    # What plans take by default where the charter has a row for the keys, as a new one has.
    words = len(initial_model(SPEC, len(design_columns(public))).flat())
    cohort = cohort_of(DerivedParameters(members, 1))
    tiers = parts_within(cohort, statistics_width(words) if one_round else words)
    terms = terms_for(
        Privacy(epsilon=epsilon, delta=delta, one_round=one_round),
        SPEC,
        public,
        policy,
        members=members,
        max_persons_per_site=bound,
        surplus_tiers=tiers or msgspec.UNSET,
    )
    return msgspec.structs.replace(
        base,
        contract=contract_digest(public),
        model=SPEC,
        privacy=terms,
        aggregation=msgspec.structs.replace(base.aggregation, max_persons_per_site=bound),
    )


@dataclass(frozen=True, slots=True)
class _Arm:
    plan: Plan
    plain: Mapping[MemberId, PlainRows]
    held: Mapping[MemberId, tuple[Matrix, Matrix]]

    def auc(self, model: NamedTensors) -> float:
        scores = [TRAINER.predict(SPEC, model, rows) for rows, _ in self.held.values()]
        return area(np.concatenate(scores), np.concatenate([y for _, y in self.held.values()]))


def areas(
    plan: Plan,
    contract: Contract,
    parts: Divided,
    cohort: Cohort,
    label: object,
    arms: Sequence[str] = tuple(ARMS),
    once: Plan | None = None,
) -> dict[str, float]:
    """Return the area under the curve of `arms` on everybody's holdout rows.

    ``alone`` is the mean over sites. `label` names the split: noise follows from it and the arm.
    `once` is the plan of one noised sum, for the arms that train by it.
    """
    public = with_public_bounds(contract)
    normaliser = normaliser_from_bounds(public)

    def scaled(features: Matrix) -> Matrix:
        return normaliser.apply(features, clip=float(plan.aggregation.feature_clip))

    plain = {
        site: PlainRows(scaled(one.training.features), one.training.label, one.training.persons)
        for site, one in parts.items()
    }
    held = {site: (scaled(one.holdout.features), one.holdout.label) for site, one in parts.items()}
    arm = _Arm(plan, plain, held)
    everybody = tuple(plain.values())
    # What an opened sum carries when all sites answer, over what a trusted curator would add.
    variance = noise_terms(plan).variance
    left = sum_variance(noise_terms(plan), variance, cohort, len(parts))
    excess = left / int(variance, 16)
    makers: dict[str, Callable[[], float]] = {
        "ours": lambda: arm.auc(
            run_plain_sums(plan, public, parts, cohort, bytes_for(label, "ours")).model
        ),
        "curator": lambda: arm.auc(
            descend(plan, TRAINER, everybody, noise=bytes_for(label, "curator"))
        ),
        "float": lambda: arm.auc(_float(plan, everybody, bytes_for(label, "float"), excess)),
        "equal-noise": lambda: arm.auc(
            descend(_noisier(plan, excess), TRAINER, everybody, noise=bytes_for(label, "equal"))
        ),
        "alone": lambda: float(
            np.mean(
                [
                    arm.auc(
                        descend(plan, TRAINER, (own,), noise=bytes_for(label, "alone", str(site)))
                    )
                    for site, own in plain.items()
                ]
            )
        ),
        "no-noise": lambda: arm.auc(descend(plan, TRAINER, everybody, noise=None)),
    }
    if once is not None:
        makers["one-round"] = lambda: arm.auc(
            run_plain_sums(once, public, parts, cohort, bytes_for(label, "one-round")).model
        )
        makers["one-curator"] = lambda: arm.auc(
            descend(once, TRAINER, everybody, noise=bytes_for(label, "one-curator"))
        )
    return {name: makers[name]() for name in arms}


def run_plain_sums(
    plan: Plan, contract: Contract, parts: Divided, cohort: Cohort, noise: bytes
) -> StudyProgress:
    """Return the study after its training, over plain sums of what sites would mask."""
    sites = {name: LocalStudy(plan, data, TRAINER) for name, data in parts.items()}
    progress = begin(plan, contract, members=len(parts), least_support=3)
    while progress.stage is not Stage.EVALUATION:
        query = progress.expected_query()
        total = np.zeros(query.layout.length, dtype=np.uint64)
        for name, site in sites.items():
            entropy = bytes_for(noise, str(name), query.digest)
            answer = site.answer(query, progress, entropy, cohort, opens=True)
            total += without_surplus(plan, query, answer, cohort, len(sites))
        progress = progress.absorb(query, total, len(sites))
    return progress


def without_surplus(
    plan: Plan, query: Query, answer: Answer, cohort: Cohort, survivors: int
) -> RingVector:
    """Return a site's vector without the parts of its noise that so many survivors open."""
    tiers = query_tiers(plan, query.kind, cohort)
    if tiers is None or answer.keys is None or not answer.surplus:
        return answer.vector
    words = query.layout.length - UNNOISED_WORDS
    opened = answer.keys.surplus[: tiers.opened(survivors)]
    cleaned = answer.vector.copy()
    cleaned[:words] -= surplus_noise(tiers, opened, survivors, words).astype(cleaned.dtype)
    return cleaned


def _noisier(plan: Plan, factor: float) -> Plan:
    """Return `plan` with `factor` times the variance of every sum."""
    terms = noise_terms(plan)
    more = {
        name: f"{math.ceil(int(getattr(terms, name), 16) * factor):x}"
        for name in ("variance", "count_variance")
    }
    return msgspec.structs.replace(plan, privacy=msgspec.structs.replace(terms, **more))


def _float(plan: Plan, sites: tuple[PlainRows, ...], seed: bytes, factor: float) -> NamedTensors:
    """Return the same training in floating point, with as much Gaussian noise as ours carries."""
    terms = noise_terms(plan)
    draw = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    clip, units = terms.clip.norm, terms.clip.units
    deviation = math.sqrt(int(terms.variance, 16) * factor) / units * clip
    rows = np.concatenate([site.features for site in sites])
    label = np.concatenate([site.label for site in sites])
    counted = math.sqrt(int(terms.count_variance, 16) * factor) / units
    persons = max(len(label) + counted * draw.normal(), 20.0 * len(sites))
    model = initial_model(plan.model, rows.shape[1])
    flat, kept = model.flat(), np.zeros(len(model.flat()))
    for number in range(terms.rounds):
        present = NamedTensors.from_flat(model.manifest, flat)
        task = TrainingTask(SPEC, present, rows, label, bytes(32))
        vectors = np.concatenate(
            [part.layer.inputs * part.layer.errors for part in TRAINER.layers(task)], axis=1
        )
        length = np.linalg.norm(vectors, axis=1)
        vectors *= np.minimum(1.0, clip / np.maximum(length, 1e-300))[:, None]
        total = vectors.sum(axis=0) + deviation * draw.normal(size=len(flat))
        flat = flat - terms.learning_rate_milli / 1000 * total / persons
        if number >= terms.rounds // 2:
            kept += flat
    mean = kept / (terms.rounds - terms.rounds // 2)
    return NamedTensors.from_flat(model.manifest, mean)
