"""Render a report: one HTML page without script, network or anything that is not in its data.

Guarantees:
  * Equal data give equal bytes, in every locale, directory and time zone. There is no date and
    no duration but what the data hold.
  * Every text is escaped, and hidden or direction-changing characters are replaced. The page's
    own policy forbids scripts and every load, so even a mistake here could not reach out.
  * At most `MAX_REPORT_BYTES`: a long log or a long training is shown by its beginning and end,
    and the page says how much is left out.

The template's variables are strict: a name that it does not find is an error, never a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from treaty.errors import UsageError
from treaty.reports import numerals, svg
from treaty.reports.document import (
    CalibrationLine,
    Coverage,
    ModelFigures,
    ReportData,
    report_digest,
)
from treaty.reports.findings import answers, headline, limits
from treaty.reports.vocabulary import GLOSSARY, LANES, describe_kind, lane_of

__all__ = ["MAX_REPORT_BYTES", "page_environment", "render_report"]

MAX_REPORT_BYTES = 500_000
"""A report can be sent by mail and opened anywhere."""

_DETAILS = (400, 100, 20)
"""Lines shown of a long table, tried in this order until the page fits."""

_LONGEST_TEXT = 2_000
_CHART_POINTS = 400
_CHART_ROWS = 40

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class _Excerpt(Generic[_Row]):
    """The beginning and the end of a table, and how many rows between are not shown."""

    head: tuple[_Row, ...]
    left_out: int
    tail: tuple[_Row, ...]


@dataclass(frozen=True, slots=True)
class _ComparisonRow:
    """A model's line. `registered` lines come from the protocol, the others from a simulator."""

    registered: bool
    label: str
    note: str
    series: str
    figures: ModelFigures


def render_report(data: ReportData) -> str:
    """Return the page. Raises `UsageError` when it cannot be kept within `MAX_REPORT_BYTES`."""
    template = _environment().get_template("report.html.j2")
    size = 0
    for most in _DETAILS:
        page = template.render(
            data=data,
            headline=headline(data),
            answers=answers(data),
            limits=limits(data),
            comparison=_comparison_rows(data),
            charts=_charts(data),
            columns=_excerpt(data.columns, most),
            rounds=_excerpt(data.rounds, most),
            timeline=_excerpt(data.timeline, most),
            refusals=_excerpt(data.refusals, most),
            proved=sum(line.status is Coverage.PROVED for line in data.guarantees),
            digest=report_digest(data),
            glossary=GLOSSARY,
            chart_rows=_CHART_ROWS,
        )
        size = len(page.encode("utf-8"))
        if size <= MAX_REPORT_BYTES:
            return page
    raise UsageError(f"expected a report of at most {MAX_REPORT_BYTES} bytes, got {size}")


@cache
def _environment() -> Environment:
    return page_environment()


def page_environment() -> Environment:
    """Return an environment for the package's pages: strict, escaping, with the numerals."""
    environment = Environment(
        loader=PackageLoader("treaty.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        area=numerals.area,
        percent=numerals.percent,
        signed_area=numerals.signed_area,
        signed_points=numerals.signed_points,
        scientific=numerals.scientific,
        grouped=numerals.grouped,
        kind=describe_kind,
        groups=_groups,
    )
    return environment


def _shown(value: object) -> object:
    """Return what the template may print of `value`: visible text of bounded length."""
    if isinstance(value, Markup):
        return value
    if value is None:
        raise UsageError("the report's template printed an absent value")
    text = svg.visible(str(value))
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _groups(digest: str) -> list[str]:
    """Return a digest in groups of eight, which people can compare."""
    return [digest[place : place + 8] for place in range(0, len(digest), 8)]


def _excerpt(rows: Sequence[_Row], most: int) -> _Excerpt[_Row]:
    if len(rows) <= most:
        return _Excerpt(tuple(rows), 0, ())
    half = most // 2
    return _Excerpt(tuple(rows[:half]), len(rows) - 2 * half, tuple(rows[-half:]))


def _comparison_rows(data: ReportData) -> tuple[_ComparisonRow, ...]:
    rows: list[_ComparisonRow] = []
    if data.evaluation is not None:
        rows.append(
            _ComparisonRow(
                True,
                "Federated",
                "one model, trained together",
                "federated",
                data.evaluation.federated,
            )
        )
        if data.evaluation.alone is not None:
            rows.append(
                _ComparisonRow(
                    True,
                    "Each site alone",
                    "every site's own model on its own test patients",
                    "alone",
                    data.evaluation.alone,
                )
            )
    if data.comparison is not None:
        note = ", without noise" if data.noised else ""
        rows.append(
            _ComparisonRow(
                False,
                "Pooled data",
                f"all rows in one place{note}",
                "pooled",
                data.comparison.pooled,
            )
        )
        rows += [
            _ComparisonRow(
                False,
                f"Only {site}, same epsilon",
                "its model on everybody's patients, with its own noise",
                "everywhere",
                figures,
            )
            for site, figures in data.comparison.alone_private
        ]
        rows += [
            _ComparisonRow(
                False,
                f"Only {site}",
                f"its model on everybody's patients{note}",
                "everywhere",
                figures,
            )
            for site, figures in data.comparison.alone_everywhere
        ]
    return tuple(rows)


def _charts(data: ReportData) -> dict[str, Markup]:
    """Return the drawings that the data allow. Each is escaped text of `treaty.reports.svg`."""
    drawn: dict[str, str] = {}
    intervals = [
        svg.IntervalRow(row.label, row.figures.auc, row.figures.auc_margin, row.series)
        for row in _comparison_rows(data)
        if row.figures.auc is not None
    ]
    if intervals:
        drawn["intervals"] = svg.interval_chart(
            "intervals", "Area under the curve with 95 % margins", intervals[:_CHART_ROWS]
        )
    steps = [(line.number, line.step) for line in data.rounds if line.step is not None]
    if steps:
        drawn["steps"] = svg.line_chart(
            "steps", "Step by round, logarithmic", _thinned(steps), logarithmic=True
        )
    losses = [(line.number, line.loss) for line in data.rounds if line.loss is not None]
    if losses:
        drawn["losses"] = svg.line_chart(
            "losses", "Training loss by round", _thinned(losses), logarithmic=False
        )
    areas = [
        svg.PairedRow(site.site, site.federated.auc, site.alone.auc)
        for site in data.sites
        if site.federated.auc is not None and site.alone.auc is not None
    ]
    if areas:
        drawn["areas"] = svg.paired_chart(
            "areas", "AUC by site, alone and federated", areas[:_CHART_ROWS], as_percent=False
        )
    shares = [
        svg.PairedRow(site.site, site.federated.accuracy, site.alone.accuracy)
        for site in data.sites
    ]
    if shares:
        drawn["shares"] = svg.paired_chart(
            "shares", "Accuracy by site, alone and federated", shares[:_CHART_ROWS], as_percent=True
        )
    if data.calibration:
        drawn["reliability"] = svg.reliability_diagram(
            "reliability",
            "Predicted risk and observed share",
            [_bin_point(line) for line in data.calibration],
        )
    if data.timeline:
        entries = [(line.index, lane_of(line.kind)) for line in data.timeline]
        used = {lane for _, lane in entries}
        lanes = [lane for lane in LANES if lane[0] in used]
        drawn["timeline"] = svg.timeline_strip("timeline", "Log entries in order", entries, lanes)
    # The drawings are built from escaped parts only, so they may pass as markup.
    return {name: Markup(text) for name, text in drawn.items()}


def _bin_point(line: CalibrationLine) -> svg.BinPoint:
    return svg.BinPoint((line.lower + line.upper) // 2, line.observed, line.rows)


def _thinned(values: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return at most `_CHART_POINTS` of the values, the last among them."""
    every = -(-len(values) // _CHART_POINTS)
    kept = list(values[::every])
    return kept if kept[-1] == values[-1] else [*kept, values[-1]]
