"""Findings of a privacy-impact assessment, and the verdict that follows from them.

`Findings` is a record of integers, so its bytes can be digested and signed; shares and areas are in
millionths, epsilons in millionths rounded against the reader. `failures` is a pure function of
it: whoever holds the record recomputes the verdict.

An assessment fails (docs/spec/privacy.md, section 10.6) when
  1. the audited lower bound is above the claimed epsilon (`audit-above-claim`),
  2. the noise is not what the plan says (`noise-check`),
  3. a measured attack is surely better than the certificate allows (`attack-above-bound`), or
  4. a record can be read from what the coordinator would see (`records-recovered`).

Guarantees: intervals count for the attacked, never for the attacker: rule 3 compares the lower end
of what was measured with the bound at the upper end of the false alarms. No person, row or id is
part of the record.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Annotated, Final, Literal

import msgspec

from treaty.assessment.attributes import AttributeLine
from treaty.assessment.intervals import Area, OperatingPoint, Rate
from treaty.assessment.inversion import Recovery
from treaty.crypto.canonical import Count, DigestField, Int53, Name, Record
from treaty.errors import UsageError
from treaty.privacy.certificate import epsilon_micro
from treaty.privacy.gaussian import AttackBound, attack_bound, epsilon_attack_bound
from treaty.privacy.terms import NoisedStatistics, NoisedTerms

__all__ = [
    "ASSESSMENT_FORMAT",
    "AttackFinding",
    "AttributeFinding",
    "AuditFinding",
    "CheckFinding",
    "Claim",
    "Findings",
    "GroupFinding",
    "Protection",
    "RateFinding",
    "RecoveryFinding",
    "attack_finding",
    "attribute_finding",
    "claimed_bound",
    "failures",
    "make_claim",
    "protection_of",
    "rate_finding",
    "recovery_finding",
]

ASSESSMENT_FORMAT: Final = "treaty.assessment/v1"

MILLION = 10**6

Share = Annotated[int, msgspec.Meta(ge=0, le=MILLION)]


class RateFinding(Record):
    """A share with its 99 % interval, in millionths."""

    value_micro: Share
    low_micro: Share
    high_micro: Share


class AttackFinding(Record):
    """What one attack reached on the persons of one view, and what the claim allows.

    Rates at one per cent and one per mille of false alarms; `alarms_*` are the false alarms it
    really raised, whose upper ends the bounds below are taken at.
    """

    attack: Name
    persons: Count
    area: RateFinding
    rate_at_one_percent: RateFinding
    alarms_at_one_percent: RateFinding
    rate_at_one_per_mille: RateFinding
    alarms_at_one_per_mille: RateFinding
    area_bound_micro: Share
    bound_at_one_percent_micro: Share
    bound_at_one_per_mille_micro: Share

    @property
    def exceeds(self) -> bool:
        """Return whether the attack is surely better than the claim allows."""
        return (
            self.area.low_micro > self.area_bound_micro
            or self.rate_at_one_percent.low_micro > self.bound_at_one_percent_micro
            or self.rate_at_one_per_mille.low_micro > self.bound_at_one_per_mille_micro
        )


class GroupFinding(Record):
    """The strongest attack on the persons of one group; absent figures mean too few persons."""

    group: str
    persons: Count
    area: RateFinding | None = None
    rate_at_one_percent: RateFinding | None = None
    rate_at_one_per_mille: RateFinding | None = None


class AttributeFinding(Record):
    """Right guesses of one attribute: training persons, strangers, and without the model."""

    attribute: str
    training: RateFinding
    strangers: RateFinding
    baseline: RateFinding
    leak_micro: Int53
    leak_low_micro: Int53
    leak_high_micro: Int53


class RecoveryFinding(Record):
    """Records read back from one view; `counts` says whether the coordinator would see it."""

    view: Name
    records: Count
    recovered: Count
    by_chance: Count
    counts: bool


class CheckFinding(Record):
    """One property of the noise: found, and the limit that chance allows (`canaries`)."""

    check: Name
    found_micro: Int53
    limit_micro: Int53
    holds: bool


class AuditFinding(Record):
    """The guessing game with canaries, and the bounds that it refutes (95 %)."""

    canaries: Count
    guessed: Count
    correct: Count
    lower_bound_micro: Count
    any_mechanism_bound_micro: Count
    checks: tuple[CheckFinding, ...]


class Claim(Record):
    """What the plan claims: the shift `mu_micro` of its Gaussian curve where it does not sample.

    `epsilon_micro` null means infinite: nothing is claimed.
    """

    epsilon_micro: Count | None
    delta_inverse: Annotated[int, msgspec.Meta(ge=2, le=(1 << 53) - 1)]
    mu_micro: Count | None = None


Protection = Literal["exact", "noised", "noised-statistics"]
"""What is asked for: exact sums, noised gradient sums, or one noised sum of statistics."""


def protection_of(terms: NoisedTerms | None) -> Protection:
    """Return how a plan with these terms protects its sums; `terms` None: not at all."""
    if terms is None:
        return "exact"
    return "noised-statistics" if isinstance(terms, NoisedStatistics) else "noised"


class Findings(Record):
    """All that an assessment found. Local to the site: it is never sent."""

    format: Literal["treaty.assessment/v1"] = ASSESSMENT_FORMAT
    family: Name
    model: DigestField
    contract: DigestField
    code: DigestField
    protection: Protection
    data: str
    sites: Count
    persons: Count
    seed: Count
    thorough: bool
    claim: Claim
    attacks: tuple[AttackFinding, ...]
    groups: tuple[GroupFinding, ...]
    attributes: tuple[AttributeFinding, ...]
    recoveries: tuple[RecoveryFinding, ...]
    audit: AuditFinding | None = None


Code = Literal["audit-above-claim", "noise-check", "attack-above-bound", "records-recovered"]


def failures(findings: Findings) -> tuple[Code, ...]:
    """Return the rules that `findings` break, in the order of the module's list."""
    broken: list[Code] = []
    audit, claimed = findings.audit, findings.claim.epsilon_micro
    if audit is not None and claimed is not None and audit.lower_bound_micro > claimed:
        broken.append("audit-above-claim")
    if audit is not None and not all(check.holds for check in audit.checks):
        broken.append("noise-check")
    if any(attack.exceeds for attack in findings.attacks):
        broken.append("attack-above-bound")
    if any(one.counts and one.recovered for one in findings.recoveries):
        broken.append("records-recovered")
    return tuple(broken)


def claimed_bound(claim: Claim) -> AttackBound:
    """Return the most that any membership attack can reach if the claim is true.

    Guarantee: as `privacy.gaussian`: from the Gaussian curve where there is one, else from epsilon
    and delta alone; ones where nothing is claimed. Rounds up.
    """
    if claim.mu_micro is not None:
        return attack_bound(claim.mu_micro / 1e6)
    epsilon = math.inf if claim.epsilon_micro is None else claim.epsilon_micro / 1e6
    return epsilon_attack_bound(epsilon, 1.0 / claim.delta_inverse)


def attack_finding(
    attack: str, persons: int, reached: Area, points: tuple[OperatingPoint, ...], claim: Claim
) -> AttackFinding:
    """Return the finding of an attack; `points` are those at one per cent and one per mille."""
    if len(points) != 2:
        raise UsageError(f"expected two operating points, got {len(points)}")
    allowed = _allowed(claim)
    bounds = [_up(allowed(point.alarms.high)) for point in points]
    return AttackFinding(
        attack=attack,
        persons=persons,
        area=RateFinding(
            value_micro=_near(reached.value),
            low_micro=_down(reached.low),
            high_micro=_up(reached.high),
        ),
        rate_at_one_percent=rate_finding(points[0].hits),
        alarms_at_one_percent=rate_finding(points[0].alarms),
        rate_at_one_per_mille=rate_finding(points[1].hits),
        alarms_at_one_per_mille=rate_finding(points[1].alarms),
        area_bound_micro=_up(claimed_bound(claim).area),
        bound_at_one_percent_micro=bounds[0],
        bound_at_one_per_mille_micro=bounds[1],
    )


def rate_finding(rate: Rate) -> RateFinding:
    """Return a rate in millionths, its interval rounded outward."""
    return RateFinding(
        value_micro=_near(rate.value), low_micro=_down(rate.low), high_micro=_up(rate.high)
    )


def attribute_finding(line: AttributeLine) -> AttributeFinding:
    """Return a line of attribute inference in millionths."""
    return AttributeFinding(
        attribute=line.attribute,
        training=rate_finding(line.training),
        strangers=rate_finding(line.strangers),
        baseline=rate_finding(line.baseline),
        leak_micro=round(line.leak * MILLION),
        leak_low_micro=math.floor(line.leak_low * MILLION),
        leak_high_micro=math.ceil(line.leak_high * MILLION),
    )


def recovery_finding(recovery: Recovery, *, counts: bool) -> RecoveryFinding:
    """Return what was read back from one view; `counts` when the coordinator would see it."""
    return RecoveryFinding(
        view=recovery.view,
        records=recovery.records,
        recovered=recovery.recovered,
        by_chance=recovery.decoys,
        counts=counts,
    )


def make_claim(epsilon: float, delta_inverse: int, *, mu: float | None = None) -> Claim:
    """Return the claim of a plan; epsilon and `mu` are rounded up to a millionth."""
    return Claim(
        epsilon_micro=epsilon_micro(epsilon),
        delta_inverse=delta_inverse,
        mu_micro=None if mu is None else math.ceil(mu * MILLION),
    )


def _allowed(claim: Claim) -> Callable[[float], float]:
    """Return the highest true-positive rate that the claim allows at a false-positive rate."""
    if claim.mu_micro is not None:
        mu, normal = claim.mu_micro / 1e6, NormalDist()

        def curve(alarms: float) -> float:
            if not 0.0 < alarms < 1.0:
                return float(alarms > 0.0)
            return normal.cdf(normal.inv_cdf(alarms) + mu)

        return curve
    if claim.epsilon_micro is None:
        return lambda alarms: 1.0
    epsilon, delta = claim.epsilon_micro / 1e6, 1.0 / claim.delta_inverse

    def lines(alarms: float) -> float:
        steep = delta + math.exp(min(epsilon, 700.0)) * alarms
        return min(steep, 1.0 - math.exp(-epsilon) * (1.0 - delta - alarms), 1.0)

    return lines


def _near(share: float) -> int:
    return min(MILLION, max(0, round(share * MILLION)))


def _up(share: float) -> int:
    return min(MILLION, max(0, math.ceil(share * MILLION)))


def _down(share: float) -> int:
    return min(MILLION, max(0, math.floor(share * MILLION)))
