"""The findings in plain words: the verdict, why, and the table behind it.

Pure functions of `Findings`, shared by the command line and the page, so that both say the same.
"""

from dataclasses import dataclass

from treaty.assessment.findings import (
    AttackFinding,
    Claim,
    Code,
    Findings,
    RateFinding,
    claimed_bound,
    failures,
)

__all__ = [
    "VerdictRow",
    "attack_name",
    "claim_text",
    "decimal",
    "interval",
    "reasons",
    "sums_text",
    "text_lines",
    "verdict_rows",
    "verdict_sentence",
]

_REASONS: dict[Code, str] = {
    "audit-above-claim": "canaries prove that more is lost than the plan claims",
    "noise-check": "the noise is not what the plan says",
    "attack-above-bound": "an attack is surely better than the claim allows",
    "records-recovered": "records can be read from what the coordinator would see",
}

_ATTACKS = {
    "loss-threshold": "loss threshold",
    "lira-online": "likelihood ratio, shadow models with and without",
    "lira-offline": "likelihood ratio, shadow models without",
    "rmia": "relative membership (RMIA)",
    "canaries": "canaries against the mechanism",
}

_VIEWS = {
    "bare-update": "one site's update, as secure aggregation hides it",
    "secure-sum": "the exact sum over sites",
    "noised-sum": "the clipped and noised sum over sites",
}

_WEIGHTS = {"honest": "honest model", "trap": "trap model"}

_CHECKS = {
    "person-within-clip": "a person moves the sum by at most the clip",
    "variance-of-honest-noise": "the honest members' noise has its variance",
    "fresh-noise-in-every-round": "noise is fresh in every round",
    "own-noise-at-every-site": "every member draws noise of its own",
}


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One line of the verdict table: what was measured, with its interval, and what is allowed."""

    quantity: str
    measured: str
    allowed: str
    holds: bool


def verdict_sentence(findings: Findings) -> str:
    """Return the verdict in one sentence."""
    broken = failures(findings)
    if broken:
        return "FAILS: " + "; ".join(_REASONS[code] for code in broken)
    if findings.protection == "exact":
        return "passes: no record was read from the exact sum; nothing is promised beyond that"
    return "passes: nothing that was tried contradicts the claim"


def sums_text(findings: Findings) -> str:
    """Return in words what sums were assessed."""
    if findings.protection == "noised-statistics":
        return "one noised sum of statistics"
    return f"{findings.protection} sums"


def reasons(findings: Findings) -> tuple[str, ...]:
    """Return the broken rules in words."""
    return tuple(_REASONS[code] for code in failures(findings))


def claim_text(claim: Claim) -> str:
    """Return the claim in words."""
    if claim.epsilon_micro is None:
        return "nothing (epsilon is infinite)"
    return f"epsilon {decimal(claim.epsilon_micro, 3)} at delta 1/{claim.delta_inverse}"


def verdict_rows(findings: Findings) -> tuple[VerdictRow, ...]:
    """Return the verdict table: audit, noise, attacks, recovered records."""
    rows = []
    claim, audit = findings.claim, findings.audit
    if audit is not None:
        limit = claim.epsilon_micro
        rows.append(
            VerdictRow(
                f"epsilon proved lost ({audit.correct} of {audit.guessed} guesses right, "
                f"{audit.canaries} canaries)",
                f"at least {decimal(audit.lower_bound_micro, 3)} (any mechanism: "
                f"{decimal(audit.any_mechanism_bound_micro, 3)})",
                "no claim" if limit is None else f"at most {decimal(limit, 3)}",
                limit is None or audit.lower_bound_micro <= limit,
            )
        )
        rows += [
            VerdictRow(
                _CHECKS.get(check.check, check.check),
                decimal(check.found_micro, 3),
                f"{'at least' if check.check.startswith('variance') else 'at most'} "
                f"{decimal(check.limit_micro, 3)}",
                check.holds,
            )
            for check in audit.checks
        ]
    for attack in findings.attacks:
        rows += _attack_rows(attack)
    for one in findings.recoveries:
        view, _, weights = one.view.partition(".")
        rows.append(
            VerdictRow(
                f"records read from {_VIEWS.get(view, view)}, {_WEIGHTS.get(weights, weights)}",
                f"{one.recovered} of {one.records}",
                "none" if one.counts else "any, as the coordinator does not see it",
                not (one.counts and one.recovered),
            )
        )
    return tuple(rows)


def attack_name(attack: str) -> str:
    """Return the name of an attack for people."""
    return _ATTACKS.get(attack, attack)


def interval(rate: RateFinding) -> str:
    """Return a share with its interval, three decimals, outward."""
    low, high = rate.low_micro // 1000, -(-rate.high_micro // 1000)
    return f"{decimal(rate.value_micro, 3)} ({decimal(low * 1000, 3)} to {decimal(high * 1000, 3)})"


def decimal(micro: int, places: int) -> str:
    """Return millionths with `places` decimals (at most 6), to nearest."""
    unit = 10 ** (6 - places)
    whole = (abs(micro) + unit // 2) // unit
    sign = "-" if micro < 0 and whole else ""
    return f"{sign}{whole // 10**places}.{whole % 10**places:0{places}d}"


def text_lines(findings: Findings) -> list[str]:
    """Return the assessment as lines for a terminal."""
    bound = claimed_bound(findings.claim)
    lines = [
        f"privacy-impact assessment of {findings.family} on {sums_text(findings)}",
        f"data: {findings.data}, {findings.persons} persons, sites: {findings.sites}, "
        f"seed {findings.seed}" + ("" if findings.thorough else ", quick"),
        f"claim: {claim_text(findings.claim)}",
        (
            f"which bounds any membership attack: area {bound.area:.3f}, hits "
            f"{bound.rate_at_one_percent:.3f} at 1 % false alarms, "
            f"{bound.rate_at_one_per_mille:.3f} at 0.1 %"
        ),
        "",
    ]
    for row in verdict_rows(findings):
        lines.append(f"{'ok  ' if row.holds else 'FAIL'} {row.quantity}")
        lines.append(f"       {row.measured}, allowed: {row.allowed}")
    lines += ["", "strongest membership attack by group:"]
    for group in findings.groups:
        if group.area is None or group.rate_at_one_percent is None:
            lines.append(f"  {group.group}: {group.persons} persons, too few to say")
            continue
        lines.append(
            f"  {group.group}: {group.persons} persons, area {interval(group.area)}, "
            f"hits at 1 % {interval(group.rate_at_one_percent)}"
        )
    leaking = [line for line in findings.attributes if line.leak_low_micro > 0]
    lines += [
        "",
        (
            f"attributes that the model tells of its own persons: {len(leaking)} of "
            f"{len(findings.attributes)}"
        ),
    ]
    lines += [
        f"  {line.attribute}: {interval(line.training)} right, of strangers "
        f"{interval(line.strangers)}"
        for line in leaking
    ]
    lines += ["", verdict_sentence(findings)]
    return lines


def _attack_rows(attack: AttackFinding) -> list[VerdictRow]:
    name = attack_name(attack.attack)
    return [
        VerdictRow(
            f"{name}: area",
            interval(attack.area),
            f"at most {decimal(attack.area_bound_micro, 3)}",
            attack.area.low_micro <= attack.area_bound_micro,
        ),
        VerdictRow(
            f"{name}: hits at 1 % false alarms",
            interval(attack.rate_at_one_percent),
            f"at most {decimal(attack.bound_at_one_percent_micro, 3)}",
            attack.rate_at_one_percent.low_micro <= attack.bound_at_one_percent_micro,
        ),
        VerdictRow(
            f"{name}: hits at 0.1 % false alarms",
            interval(attack.rate_at_one_per_mille),
            f"at most {decimal(attack.bound_at_one_per_mille_micro, 3)}",
            attack.rate_at_one_per_mille.low_micro <= attack.bound_at_one_per_mille_micro,
        ),
    ]
