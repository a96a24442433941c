"""The verdict is a pure function of the findings, and counts for the attacked only what is sure.

Planted and caught: a bound taken at the asked false alarms, not at those that may have been; the
value compared in place of the interval's lower end; a recovered record that nobody would see
counted; a failed check passed over; equality taken for excess.
"""

from fractions import Fraction

import msgspec
import pytest

from treaty.assessment.canaries import AuditPlan
from treaty.assessment.findings import (
    AttackFinding,
    AuditFinding,
    CheckFinding,
    Findings,
    RecoveryFinding,
    attack_finding,
    claimed_bound,
    failures,
    make_claim,
)
from treaty.assessment.intervals import Area, OperatingPoint, binomial_interval
from treaty.assessment.wording import decimal, text_lines, verdict_rows, verdict_sentence
from treaty.crypto.canonical import decode, encode
from treaty.errors import UsageError
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.privacy.mechanisms import Clip

MU = 0.5
CLAIM = make_claim(gaussian_epsilon(Fraction(MU) ** 2, 1e-5), 100_000, mu=MU)


def attack(area_low: float = 0.5, hits: int = 10, alarms: int = 10) -> AttackFinding:
    """Return an attack on 1000 members and 1000 outsiders."""
    points = tuple(
        OperatingPoint(
            0.01 / part, binomial_interval(hits // part, 1000), binomial_interval(alarms, 1000)
        )
        for part in (1, 10)
    )
    return attack_finding(
        "rmia", 2000, Area(area_low + 0.02, area_low, area_low + 0.04), points, CLAIM
    )


AUDIT = AuditFinding(
    canaries=4000,
    guessed=400,
    correct=250,
    lower_bound_micro=400_000,
    any_mechanism_bound_micro=300_000,
    checks=(
        CheckFinding(
            check="variance-of-honest-noise", found_micro=999_000, limit_micro=985_000, holds=True
        ),
    ),
)
RECOVERED = RecoveryFinding(
    view="noised-sum.trap", records=100, recovered=0, by_chance=0, counts=True
)
SOUND = Findings(
    family="logistic-regression",
    model="0" * 64,
    contract="0" * 64,
    code="0" * 64,
    protection="noised",
    data="made up",
    sites=1,
    persons=2000,
    seed=0,
    thorough=True,
    claim=CLAIM,
    attacks=(attack(),),
    groups=(),
    attributes=(),
    recoveries=(RECOVERED,),
    audit=AUDIT,
)


def _with(**fields: object) -> Findings:
    return msgspec.structs.replace(SOUND, **fields)


def _audit(**fields: object) -> AuditFinding:
    return msgspec.structs.replace(AUDIT, **fields)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (SOUND, ()),
        (_with(audit=_audit(lower_bound_micro=CLAIM.epsilon_micro)), ()),
        (
            _with(audit=_audit(lower_bound_micro=(CLAIM.epsilon_micro or 0) + 1)),
            ("audit-above-claim",),
        ),
        (
            _with(audit=_audit(checks=(msgspec.structs.replace(AUDIT.checks[0], holds=False),))),
            ("noise-check",),
        ),
        (
            _with(
                attacks=(attack(), attack(area_low=0.62)),
            ),
            (),
        ),
        (
            _with(
                attacks=(attack(), attack(area_low=0.65)),
            ),
            ("attack-above-bound",),
        ),
        (_with(attacks=(attack(hits=75),)), ()),
        (_with(attacks=(attack(hits=120),)), ("attack-above-bound",)),
        (
            _with(recoveries=(msgspec.structs.replace(RECOVERED, recovered=1),)),
            ("records-recovered",),
        ),
        (
            _with(recoveries=(msgspec.structs.replace(RECOVERED, recovered=9, counts=False),)),
            (),
        ),
        (_with(claim=make_claim(float("inf"), 100_000), audit=None), ()),
    ],
)
def test_each_rule_fails_alone_and_on_what_is_sure(
    findings: Findings, expected: tuple[str, ...]
) -> None:
    """Just at a bound holds; the sentence and the rows say the same as the rules."""
    assert failures(findings) == expected
    assert verdict_sentence(findings).startswith("FAILS" if expected else "passes")
    assert all(row.holds for row in verdict_rows(findings)) is not bool(expected)
    assert decode(encode(findings), Findings) == findings


def test_more_false_alarms_allow_more_hits() -> None:
    """The bound is taken at the upper end of the alarms that were raised."""
    few, many = attack(alarms=1), attack(alarms=30)
    assert few.bound_at_one_percent_micro < many.bound_at_one_percent_micro
    assert claimed_bound(CLAIM).rate_at_one_percent * 1e6 < many.bound_at_one_percent_micro


def test_the_bound_follows_the_curve_or_epsilon_and_delta() -> None:
    """Without a Gaussian curve the weaker bound is taken; without a claim none."""
    weaker = msgspec.structs.replace(CLAIM, mu_micro=None)
    assert claimed_bound(CLAIM).area < claimed_bound(weaker).area < 1.0
    assert claimed_bound(make_claim(float("inf"), 1000)).area == 1.0
    assert (CLAIM.mu_micro or 0) / 1e6 >= MU


def test_the_text_names_what_fails() -> None:
    """One line of the table for each measurement, FAIL where a rule is broken."""
    lines = text_lines(_with(recoveries=(msgspec.structs.replace(RECOVERED, recovered=3),)))
    [broken] = [line for line in lines if line.startswith("FAIL ")]
    assert "noised sum" in broken
    assert lines[-1].startswith("FAILS: records can be read")


@pytest.mark.parametrize(
    ("micro", "places", "text"),
    [(1_234_567, 3, "1.235"), (-1_234_567, 3, "-1.235"), (-400, 3, "0.000"), (999_999, 3, "1.000")],
)
def test_decimals_are_rounded_to_nearest(micro: int, places: int, text: str) -> None:
    """Without a minus zero."""
    assert decimal(micro, places) == text


def test_a_plan_has_the_mu_that_its_claim_needs() -> None:
    """Claim and audit plan are about the same curve; two operating points are asked for."""
    plan = AuditPlan(Clip(1.0), 1 << 50, claimed_shares=2, honest=2, rounds=4)
    assert plan.mu == pytest.approx((4 * 2.0**48 / (2 * 2.0**50)) ** 0.5)
    with pytest.raises(UsageError, match="two operating points"):
        attack_finding("rmia", 2, Area(0.5, 0.4, 0.6), (), CLAIM)
