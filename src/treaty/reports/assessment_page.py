"""The page of a privacy-impact assessment: one HTML file without script or network.

A pure function of the findings; it shares style, drawings and escaping with the study's report.
No person is on it: the findings hold none.
"""

from functools import cache

from jinja2 import Environment
from markupsafe import Markup

from treaty.assessment.findings import (
    AttackFinding,
    Findings,
    RateFinding,
    claimed_bound,
    failures,
)
from treaty.assessment.wording import (
    attack_name,
    claim_text,
    decimal,
    interval,
    reasons,
    sums_text,
    verdict_rows,
    verdict_sentence,
)
from treaty.crypto.canonical import digest_of
from treaty.reports import svg
from treaty.reports.render import page_environment

__all__ = ["render_assessment"]

_MOST_ROWS = 60


def render_assessment(findings: Findings) -> str:
    """Return the page."""
    bound = claimed_bound(findings.claim)
    return (
        _page()
        .get_template("assessment.html.j2")
        .render(
            findings=findings,
            digest=digest_of(findings),
            failed=bool(failures(findings)),
            verdict=verdict_sentence(findings),
            reasons=reasons(findings),
            sums=sums_text(findings),
            claim=claim_text(findings.claim),
            bound=(bound.area, bound.rate_at_one_percent, bound.rate_at_one_per_mille),
            rows=verdict_rows(findings),
            charts=_charts(findings),
            groups=findings.groups[:_MOST_ROWS],
            attributes=sorted(findings.attributes, key=lambda one: -one.leak_micro)[:_MOST_ROWS],
        )
    )


@cache
def _page() -> Environment:
    page = page_environment()
    page.filters.update(interval=interval, decimal=decimal)
    return page


def _charts(findings: Findings) -> dict[str, Markup]:
    drawn = {
        "attacks": svg.interval_chart(
            "attacks",
            "Area under the curve of each attack, with 99 % intervals, and the claim's bound",
            [
                *(_area_row(attack) for attack in findings.attacks),
                svg.IntervalRow(
                    "most that the claim allows",
                    findings.attacks[0].area_bound_micro,
                    None,
                    "alone",
                ),
            ],
        )
    }
    groups = [
        svg.IntervalRow(one.group, one.area.value_micro, _margin(one.area), "federated")
        for one in findings.groups[:_MOST_ROWS]
        if one.area is not None
    ]
    if groups:
        drawn["groups"] = svg.interval_chart(
            "groups", "Area of the strongest attack by group, with 99 % intervals", groups
        )
    # The drawings are built from escaped parts only, so they may pass as markup.
    return {name: Markup(text) for name, text in drawn.items()}


def _area_row(attack: AttackFinding) -> svg.IntervalRow:
    name = attack_name(attack.attack).partition(",")[0]
    label = name if attack.attack != "lira-offline" else f"{name}, offline"
    return svg.IntervalRow(label, attack.area.value_micro, _margin(attack.area), "federated")


def _margin(rate: RateFinding) -> int:
    """Return the wider side of an interval: the drawing has one margin for both."""
    return max(rate.value_micro - rate.low_micro, rate.high_micro - rate.value_micro)
