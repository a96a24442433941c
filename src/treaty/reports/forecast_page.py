"""The what-if page: a forecast as one HTML page without script or network.

Guarantees: a pure function of the forecast, the same bytes everywhere; every text is escaped; at
most `MAX_REPORT_BYTES`. Everything on the page stands in the forecast's JSON too.
"""

from functools import cache
from itertools import groupby

from jinja2 import Environment
from markupsafe import Markup

from treaty.errors import UsageError
from treaty.evaluation.forecast import Arm, Band, Forecast, Light
from treaty.reports import numerals, svg
from treaty.reports.render import MAX_REPORT_BYTES, page_environment

__all__ = ["forecast_headline", "render_forecast"]

_STYLES = {
    Arm.CURATOR: "pooled",
    Arm.SHARED: "federated",
    Arm.SHARED_DEFAULT: "third",
    Arm.LOCAL: "local",
    Arm.ALONE: "alone",
}
_LIGHTS = {Light.GREEN.value: "proved", Light.AMBER.value: "attested", Light.RED.value: "open"}


def forecast_headline(data: Forecast) -> str:
    """Return what the forecast says in one sentence: the least budget that is green."""
    sparing = [one for one in data.signals if one.light == Light.GREEN.value]
    if sparing:
        least = min(one.epsilon_milli for one in sparing)
        return f"From epsilon {_milli(least)} on, noise costs at most .005 of area"
    bearable = [one for one in data.signals if one.light == Light.AMBER.value]
    if bearable:
        least = min(one.epsilon_milli for one in bearable)
        return (
            f"No budget is free; from epsilon {_milli(least)} on noise costs at most .020 of area"
        )
    return "At none of these budgets does the study pay: more sites or persons are needed"


def render_forecast(data: Forecast) -> str:
    """Return the page. Raises `UsageError` when it cannot be kept within `MAX_REPORT_BYTES`."""
    epsilons = sorted({one.epsilon_milli for one in data.signals})
    arms = [arm for arm in Arm if arm is not Arm.NO_NOISE]

    def bands(arm: Arm) -> list[Band]:
        return [data.band(arm, epsilon) for epsilon in epsilons]

    series = [
        svg.BandSeries(
            arm.words,
            _STYLES[arm],
            tuple((one.epsilon_milli, one.low, one.mean, one.high) for one in bands(arm)),
        )
        for arm in arms
    ]
    quiet = data.band(Arm.NO_NOISE, epsilons[0])
    page = (
        _environment()
        .get_template("forecast.html.j2")
        .render(
            data=data,
            headline=forecast_headline(data),
            persons=sum(size for _, size in data.sites),
            sizes=dict(data.sites),
            epsilons=epsilons,
            series=series,
            rows=[
                {"label": Arm.NO_NOISE.words, "bands": [quiet] * len(epsilons)},
                *({"label": arm.words, "bands": bands(arm)} for arm in arms),
            ],
            dividends=[
                data.band(Arm.SHARED, one).mean - data.band(Arm.ALONE, one).mean for one in epsilons
            ],
            lights=_LIGHTS,
            targets=sorted({one.target for one in data.site_counts}),
            site_rows=[
                {"epsilon": epsilon, "counts": [one.sites for one in counts]}
                for epsilon, counts in groupby(data.site_counts, lambda one: one.epsilon_milli)
            ],
            planned_area=data.band(Arm.SHARED, data.recipe_epsilon_milli).mean,
            round_counts=sorted({one.rounds for one in data.recipes}),
            recipe_rows=[
                {"clip": clip, "points": list(points)}
                for clip, points in groupby(data.recipes, lambda one: one.clip_milli)
            ],
            charts={
                # Built from escaped parts only, so it may pass as markup.
                "utility": Markup(
                    svg.band_chart("utility", "Area under the curve by epsilon", series, "epsilon")
                )
            },
        )
    )
    size = len(page.encode("utf-8"))
    if size > MAX_REPORT_BYTES:
        raise UsageError(f"expected a page of at most {MAX_REPORT_BYTES} bytes, got {size}")
    return page


@cache
def _environment() -> Environment:
    environment = page_environment()
    environment.filters.update(milli=_milli, area_loss=_loss)
    return environment


def _milli(value: int) -> str:
    """Return thousandths with up to three decimals: 500 is "0.5"."""
    return f"{value // 1000}.{value % 1000:03d}".rstrip("0").rstrip(".")


def _loss(parts: int) -> str:
    """Return a loss; one below nothing is chance between repeats and shown as none."""
    return numerals.area(max(parts, 0))
