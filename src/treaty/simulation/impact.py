"""Privacy-impact assessment: a model family, attacked on the site's own data before it is used.

Everything happens in this process: nothing is sent, and nothing but the caller's files is
written. Models are trained on halves of the persons and attacked; contributions are made under
honest and under trap weights and read; where noise is promised, canaries test the mechanism.

Guarantees (docs/spec/privacy.md, section 10):
  * The same request gives the same findings: all randomness comes from its seed.
  * `Assessment.findings` holds no person; the most exposed ones are in `Assessment.exposed`,
    which no `repr` shows and which never becomes part of a record.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from treaty.assessment.attributes import infer_attributes
from treaty.assessment.auditing import f_dp_lower_bound, pure_lower_bound
from treaty.assessment.canaries import MechanismAudit, audit_mechanism
from treaty.assessment.findings import (
    AttackFinding,
    AuditFinding,
    CheckFinding,
    Claim,
    Findings,
    GroupFinding,
    RateFinding,
    RecoveryFinding,
    attack_finding,
    attribute_finding,
    protection_of,
    rate_finding,
)
from treaty.assessment.intervals import Area, OperatingPoint, Rate, area, operating_point
from treaty.assessment.membership import (
    AttackScores,
    ShadowModels,
    confidence_logits,
    half_splits,
    person_means,
    run_attacks,
)
from treaty.contracts.conformance import ConformedData
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import moments, normaliser_from_bounds, normaliser_from_sums
from treaty.contracts.schema import Contract, contract_digest
from treaty.crypto.canonical import digest_of
from treaty.crypto.derivation import labelled_hash
from treaty.ids import Digest, MemberId
from treaty.models.specification import ModelSpecification
from treaty.privacy.certificate import Cohort
from treaty.privacy.terms import DistributedGaussian, NoisedStatistics
from treaty.simulation.impact_probes import (
    Setting,
    probe_exact,
    probe_noised,
    probe_statistics,
)
from treaty.simulation.impact_rows import AssessedRows, assessed_rows, divided
from treaty.simulation.impact_statistics import StatisticsTarget
from treaty.simulation.impact_targets import ExactTarget, NoisedTarget, Target

__all__ = [
    "Assessment",
    "AssessmentRequest",
    "ExposedPerson",
    "Progress",
    "assess",
    "mechanism_findings",
    "target_of",
]

Matrix = NDArray[np.float64]
Bits = NDArray[np.bool_]

Progress = Callable[[str, int, int], None]
"""Told the stage, the steps done and the steps in all."""

MIN_GROUP = 30
"""Groups with fewer persons get no figures: their intervals would say nothing."""

_CLIP = 16.0
_EXPOSED = 10


@dataclass(frozen=True, slots=True)
class AssessmentRequest:
    """What to assess: `terms` None means exact sums, else calibrated noise in a `cohort`.

    `contract` is the study's: normalised by public bounds where sums are noised. Sums are over
    `cohort.members` sites or more.
    """

    specification: ModelSpecification
    contract: Contract
    data: Mapping[MemberId, ConformedData] = field(repr=False)
    source: str
    code: Digest
    terms: DistributedGaussian | NoisedStatistics | None
    cohort: Cohort
    delta_inverse: int = 100_000
    max_persons_per_site: int = 1 << 14
    seed: int = 0
    quick: bool = False

    @property
    def models(self) -> int:
        """How many models are trained."""
        return 16 if self.quick else 64

    @property
    def targets(self) -> int:
        """How many of them are attacked."""
        return 4 if self.quick else 16

    @property
    def attempts(self) -> int:
        """How many trap models are tried."""
        return 8 if self.quick else 40

    @property
    def canaries(self) -> int:
        """How many canaries play the guessing game."""
        return 1000 if self.quick else 4000

    def stream(self, purpose: str) -> np.random.Generator:
        """Return the random numbers of one purpose, a function of the seed."""
        return np.random.Generator(np.random.PCG64(int.from_bytes(self.key(purpose), "big")))

    def key(self, purpose: str) -> bytes:
        """Return 32 bytes of one purpose, a function of the seed."""
        return labelled_hash("assessment", self.seed, purpose)


@dataclass(frozen=True, slots=True)
class ExposedPerson:
    """A person whom the models tell apart best; `separation` in standard deviations."""

    person: str
    separation: float


@dataclass(frozen=True, slots=True)
class Assessment:
    """Findings without persons, and the most exposed persons, for the site's own eyes."""

    findings: Findings
    exposed: tuple[ExposedPerson, ...] = field(repr=False)


def assess(
    request: AssessmentRequest,
    progress: Progress | None = None,
    *,
    target: Target | None = None,
) -> Assessment:
    """Return what was found. `target` stands in for the one that the request describes.

    Raises `UsageError` for too few rows or a family that the terms cannot train, `TrainerFailure`
    where the family cannot be trained on these rows.
    """
    say = progress or (lambda stage, done, of: None)
    target = target or target_of(request)
    rows = assessed_rows(request.data, _normalised(request))
    models, trained = _shadow_models(request, target, rows, say)
    scores = run_attacks(models, request.targets)
    attacks = [_attack(found, rows.people, target.claim) for found in scores]
    strongest = max(scores, key=lambda found: _area_of(found, np.ones(rows.people, bool)).value)
    audit = None
    if isinstance(target, NoisedTarget):
        say("canaries", 0, 1)
        seen = audit_mechanism(
            target.release, target.audit_plan(request.canaries), request.key("canaries")
        )
        audit, attack = mechanism_findings(seen, target.claim)
        attacks.append(attack)
        say("canaries", 1, 1)
    findings = Findings(
        family=str(type(request.specification).__struct_config__.tag),
        model=digest_of(request.specification),
        contract=contract_digest(request.contract),
        code=request.code,
        protection=protection_of(request.terms),
        data=request.source,
        sites=len(rows.sites),
        persons=rows.people,
        seed=request.seed,
        thorough=not request.quick,
        claim=target.claim,
        attacks=tuple(attacks),
        groups=_groups(rows, strongest),
        attributes=tuple(
            attribute_finding(line)
            for line in infer_attributes(
                trained[0],
                *_both_sides(rows, models.inside[0]),
                [column.name for column in design_columns(request.contract)],
            )
        ),
        recoveries=_recoveries(request, target, rows, say),
        audit=audit,
    )
    return Assessment(findings, _exposed(rows, models))


def target_of(request: AssessmentRequest) -> Target:
    """Return what the request wants assessed; `UsageError` where the terms cannot train it."""
    if request.terms is None:
        return ExactTarget(request.specification, request.delta_inverse)
    kind = StatisticsTarget if isinstance(request.terms, NoisedStatistics) else NoisedTarget
    return kind(
        request.specification,
        request.terms,
        request.cohort,
        request.contract,
        max_persons_per_site=request.max_persons_per_site,
    )


def mechanism_findings(seen: MechanismAudit, claim: Claim) -> tuple[AuditFinding, AttackFinding]:
    """Return what canaries showed of a mechanism, and their attack beside the claim's bound."""
    delta = 1.0 / claim.delta_inverse
    audit = AuditFinding(
        canaries=seen.guesses.canaries,
        guessed=seen.guesses.guessed,
        correct=seen.guesses.correct,
        lower_bound_micro=math.floor(f_dp_lower_bound(seen.guesses, delta) * 1e6),
        any_mechanism_bound_micro=math.floor(pure_lower_bound(seen.guesses, delta) * 1e6),
        checks=tuple(
            CheckFinding(
                check=check.name,
                found_micro=round(min(check.found, 1e6) * 1e6),
                limit_micro=round(check.limit * 1e6),
                holds=check.holds,
            )
            for check in seen.checks
        ),
    )
    return audit, attack_finding("canaries", seen.guesses.canaries, seen.area, seen.points, claim)


def _normalised(request: AssessmentRequest) -> dict[MemberId, Matrix]:
    """Return every site's features as a study would see them."""
    if request.terms is not None or request.contract.normalise == "public_bounds":
        normaliser = normaliser_from_bounds(request.contract)
    else:
        each = [moments(data) for data in request.data.values()]
        bits = 20
        totals = [
            [round(value * 2.0**bits) for value in np.sum(part, axis=0).tolist()]
            for part in ([one.sums for one in each], [one.squares for one in each])
        ]
        normaliser = normaliser_from_sums(
            request.contract,
            count=sum(one.count for one in each),
            sums=totals[0],
            squares=totals[1],
            scale_bits=bits,
            contributors=len(each),
        )
    return {
        site: normaliser.apply(data.features, clip=_CLIP) for site, data in request.data.items()
    }


def _shadow_models(
    request: AssessmentRequest, target: Target, rows: AssessedRows, say: Progress
) -> tuple[ShadowModels, list[Callable[[Matrix], Matrix]]]:
    """Train every model on its half of the persons, and ask it about everybody."""
    inside = half_splits(request.models, rows.people, request.stream("halves"))
    logits, trained = np.empty(inside.shape), []
    for number, chosen in enumerate(inside):
        say("models", number, request.models)
        predict = target.train(rows, chosen, request.key(f"model {number}"))
        odds = confidence_logits(predict(rows.features), rows.label)
        logits[number] = person_means(odds, rows.person)
        trained.append(predict)
    say("models", request.models, request.models)
    return ShadowModels(logits, inside), trained


def _attack(found: AttackScores, people: int, claim: Claim) -> AttackFinding:
    everybody = np.ones(people, dtype=np.bool_)
    return attack_finding(
        found.attack,
        people,
        _area_of(found, everybody),
        tuple(_point_of(found, everybody, share) for share in (100, 1000)),
        claim,
    )


def _area_of(found: AttackScores, group: Bits) -> Area:
    inside, outside = _sides(found, group)
    return area(inside, outside, repeats=len(found.scores))


def _point_of(found: AttackScores, group: Bits, one_in: int) -> OperatingPoint:
    inside, outside = _sides(found, group)
    return operating_point(inside, outside, Fraction(1, one_in), repeats=len(found.scores))


def _sides(found: AttackScores, group: Bits) -> tuple[Matrix, Matrix]:
    scores, inside = found.scores[:, group], found.inside[:, group]
    return scores[inside], scores[~inside]


def _groups(rows: AssessedRows, strongest: AttackScores) -> tuple[GroupFinding, ...]:
    """Return the strongest attack, group by group. A person belongs where a row of it does."""
    findings = []
    for name, mask in rows.groups.items():
        members = np.zeros(rows.people, dtype=np.bool_)
        members[rows.person[mask]] = True
        persons = int(members.sum())
        if persons < MIN_GROUP:
            findings.append(GroupFinding(group=name, persons=persons))
            continue
        reached = _area_of(strongest, members)
        points = [_point_of(strongest, members, one_in) for one_in in (100, 1000)]
        findings.append(
            GroupFinding(
                group=name,
                persons=persons,
                area=_area_finding(reached),
                rate_at_one_percent=rate_finding(points[0].hits),
                rate_at_one_per_mille=rate_finding(points[1].hits),
            )
        )
    return tuple(findings)


def _area_finding(reached: Area) -> RateFinding:
    return rate_finding(Rate(reached.value, reached.low, reached.high, 1))


def _both_sides(
    rows: AssessedRows, inside: Bits
) -> tuple[tuple[Matrix, Matrix], tuple[Matrix, Matrix]]:
    """Return (features, label) of the first model's training rows, and of strangers to it."""
    chosen = rows.of(inside)
    return (rows.features[chosen], rows.label[chosen]), (
        rows.features[~chosen],
        rows.label[~chosen],
    )


def _recoveries(
    request: AssessmentRequest, target: Target, rows: AssessedRows, say: Progress
) -> tuple[RecoveryFinding, ...]:
    """Probe half of the persons; the other half is what the attacker knows of the population."""
    generator = request.stream("probes")
    victims = rows.of(half_splits(6, rows.people, generator)[0])
    setting = Setting(
        rows=rows.only(victims),
        place=divided(rows, request.cohort.members, generator)[victims],
        strangers=rows.features[~victims],
        attempts=request.attempts,
        entropy=request.key("probes"),
    )
    done = iter(range(1, 10**9))
    steps = 1 if isinstance(target, StatisticsTarget) else request.attempts + 1

    def step() -> None:
        say("probes", next(done), steps)

    if isinstance(target, StatisticsTarget):
        return probe_statistics(target, setting, generator, step)
    if isinstance(target, NoisedTarget):
        return probe_noised(target, setting, generator, step)
    return probe_exact(request.specification, setting, generator, step)


def _exposed(rows: AssessedRows, models: ShadowModels) -> tuple[ExposedPerson, ...]:
    """Return the persons on whom models that saw them differ most from models that did not."""
    inside, outside = models.inside, ~models.inside
    means = [
        np.where(side, models.logits, 0.0).sum(axis=0) / side.sum(axis=0)
        for side in (inside, outside)
    ]
    around = np.where(inside, models.logits - means[0], models.logits - means[1])
    spread = np.sqrt(np.square(around).sum(axis=0) / max(1, len(inside) - 2))
    separation = (means[0] - means[1]) / np.maximum(spread, 1e-6)
    return tuple(
        ExposedPerson(rows.names[place], float(separation[place]))
        for place in np.argsort(-separation, kind="stable")[:_EXPOSED]
    )
