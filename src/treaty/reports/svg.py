"""Charts as inline SVG: pure functions of integers, fractions and texts.

Guarantees:
  * The same arguments give the same bytes everywhere: positions are exact fractions, written
    with at most two decimals (`treaty.reports.numerals`).
  * Every text is escaped, and characters that are invisible or that XML forbids are replaced.
  * Each drawing is one well-formed element with a title and a description that says in words
    what is drawn; `name` makes its ids unique on the page.

Colours and type come from the page's style sheet by class, so light, dark and print need no
second drawing. There is no script, no style attribute and no reference to anything outside.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from treaty.errors import UsageError
from treaty.reports.numerals import (
    area,
    coordinate,
    grouped,
    logarithm,
    percent,
    scientific,
    value_of,
)

__all__ = [
    "BandSeries",
    "BinPoint",
    "IntervalRow",
    "PairedRow",
    "band_chart",
    "interval_chart",
    "line_chart",
    "paired_chart",
    "reliability_diagram",
    "timeline_strip",
    "visible",
]

_MILLION = 10**6
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
_COLUMNS = 180


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A value with its margin, in parts per million. `series` is the class of its colour."""

    label: str
    value: int
    margin: int | None
    series: str

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.series) is None:
            raise UsageError(f"expected a series of lower-case letters, got {self.series[:60]!r}")


@dataclass(frozen=True, slots=True)
class PairedRow:
    """Two values of one site in parts per million: federated and alone."""

    label: str
    federated: int
    alone: int


@dataclass(frozen=True, slots=True)
class BinPoint:
    """Mean position of a group of scores, the share observed (both ppm), and its rows."""

    predicted: int
    observed: int
    rows: int


@dataclass(frozen=True, slots=True)
class BandSeries:
    """One curve: points of (x in thousandths, low, mean, high in ppm); `style` colours it."""

    label: str
    style: str
    points: tuple[tuple[int, int, int, int], ...]

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.style) is None:
            raise UsageError(f"expected a style of lower-case letters, got {self.style[:60]!r}")


def visible(text: str) -> str:
    """Return `text` with every hidden, control or direction-changing character replaced.

    Prevents a name that shows a reader something else than what the log holds.
    """
    return _HIDDEN.sub("�", text)


def line_chart(
    name: str, title: str, values: Sequence[tuple[int, str]], *, logarithmic: bool
) -> str:
    """Return a line over rounds; `values` are (round, decimal string), at least one.

    On a logarithmic axis values that are not positive have no place: they are left out and
    counted in the description.
    """
    if not values:
        raise UsageError("a line chart needs at least one value, got none")
    points: list[tuple[int, Fraction]] = []
    for number, text in values:
        value = value_of(text)
        if not logarithmic:
            points.append((number, Fraction(value)))
        elif value > 0:
            points.append((number, logarithm(value)))
    left_out = len(values) - len(points)
    described = f"{len(values)} rounds, from {values[0][1]} to {values[-1][1]}."
    if left_out:
        described += f" {left_out} not positive and not drawn."
    width, height, left, right, top, bottom = 360, 216, 50, 14, 14, 34
    body: list[str] = []
    if points:
        ticks = _decades(points) if logarithmic else _ticks([y for _, y in points])
        low, high = ticks[0], ticks[-1]
        first, last = points[0][0], max(points[-1][0], points[0][0] + 1)

        def place_x(number: int) -> Fraction:
            return left + Fraction(number - first, last - first) * (width - left - right)

        def place_y(value: Fraction) -> Fraction:
            return top + (high - value) / (high - low) * (height - top - bottom)

        for tick in ticks:
            y = place_y(tick)
            body.append(_line(left, y, width - right, y, "grid"))
            label = f"10{_power(tick)}" if logarithmic else _plain(tick)
            body.append(_text(left - 7, y + 4, label, "tick end"))
        every = -(-(last - first + 1) // 10)
        body += [
            _text(place_x(number), height - bottom + 18, str(number), "tick middle")
            for number, _ in points
            if (number - first) % every == 0
        ]
        body.append(_text((left + width - right) // 2, height - 2, "round", "axis middle"))
        path = " ".join(
            f"{'M' if place == 0 else 'L'}{coordinate(place_x(x))} {coordinate(place_y(y))}"
            for place, (x, y) in enumerate(points)
        )
        body.append(f'<path class="line federated" d="{path}"/>')
        body += [_circle(place_x(x), place_y(y), 3, "dot federated") for x, y in points]
    return _drawing(name, title, described, width, height, body)


def band_chart(name: str, title: str, series: Sequence[BandSeries], axis: str) -> str:
    """Return curves over a logarithmic axis, each in a band from low to high.

    At least one series with a point; x is positive and written in whole thousandths.
    """
    places = sorted({x for one in series for x, *_ in one.points})
    if not places or places[0] < 1:
        raise UsageError("a band chart needs points with a positive place, got none")
    width, height, left, right, top, bottom = 720, 330, 54, 14, 14, 40
    ends = [
        Fraction(end, _MILLION)
        for one in series
        for _, low, _, high in one.points
        for end in (low, high)
    ]
    ticks = _ticks(ends)
    floor, roof = ticks[0], ticks[-1]
    logs = {x: logarithm(value_of(str(x))) for x in places}
    first, last = logs[places[0]], max(logs[places[-1]], logs[places[0]] + Fraction(1, 10))

    def place_x(x: int) -> Fraction:
        return left + (logs[x] - first) / (last - first) * (width - left - right)

    def place_y(parts: int) -> Fraction:
        return top + (roof - Fraction(parts, _MILLION)) / (roof - floor) * (height - top - bottom)

    body: list[str] = []
    for tick in ticks:
        y = place_y(int(tick * _MILLION))
        body.append(_line(left, y, width - right, y, "grid"))
        body.append(_text(left - 7, y + 4, _plain(tick), "tick end"))
    body += [
        _text(place_x(x), height - bottom + 18, _plain(Fraction(x, 1000)), "tick middle")
        for x in places
    ]
    body.append(_text((left + width - right) // 2, height - 4, axis, "axis middle"))
    for one in series:
        upper = [(place_x(x), place_y(high)) for x, _, _, high in one.points]
        lower = [(place_x(x), place_y(low)) for x, low, _, _ in reversed(one.points)]
        corners = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in upper + lower)
        body.append(f'<polygon class="band {one.style}" points="{corners}"/>')
    for one in series:
        path = " ".join(
            f"{'L' if number else 'M'}{coordinate(place_x(x))} {coordinate(place_y(mean))}"
            for number, (x, _, mean, _) in enumerate(one.points)
        )
        body.append(f'<path class="line {one.style}" d="{path}"/>')
        body += [
            _circle(place_x(x), place_y(mean), 3, f"dot {one.style}")
            for x, _, mean, _ in one.points
        ]
    described = "; ".join(
        one.label
        + " "
        + ", ".join(f"{area(mean)} at {_plain(Fraction(x, 1000))}" for x, _, mean, _ in one.points)
        for one in series
    )
    return _drawing(name, title, described + ".", width, height, body)


def interval_chart(name: str, title: str, rows: Sequence[IntervalRow]) -> str:
    """Return values with their margins on one axis, one row each."""
    if not rows:
        raise UsageError("an interval chart needs at least one row, got none")
    ends = [row.value - (row.margin or 0) for row in rows]
    ends += [row.value + (row.margin or 0) for row in rows]
    width, left, right, pitch, top = 720, 170, 130, 30, 6
    place, body, height = _frame(ends, len(rows), width, left, right, pitch, top)
    for number, row in enumerate(rows):
        y = Fraction(top + pitch * number + pitch // 2)
        body.append(_text(0, y + 4, row.label, "label"))
        if row.margin is not None:
            low, high = max(row.value - row.margin, 0), min(row.value + row.margin, _MILLION)
            body.append(_line(place(low), y, place(high), y, f"whisker {row.series}"))
            body += [
                _line(place(end), y - 4, place(end), y + 4, f"whisker {row.series}")
                for end in (low, high)
            ]
        body.append(_circle(place(row.value), y, 5, f"dot {row.series}"))
        margin = "" if row.margin is None else f" ± {area(row.margin, up=True)}"
        body.append(_text(width - right + 14, y + 4, f"{area(row.value)}{margin}", "value"))
    described = "; ".join(
        f"{row.label} {area(row.value)}"
        + ("" if row.margin is None else f" plus or minus {area(row.margin, up=True)}")
        for row in rows
    )
    return _drawing(name, title, described + ".", width, height, body)


def paired_chart(name: str, title: str, rows: Sequence[PairedRow], *, as_percent: bool) -> str:
    """Return one row for each site with its two values, joined by a line."""
    if not rows:
        raise UsageError("a paired chart needs at least one row, got none")
    show = percent if as_percent else area
    ends = [row.federated for row in rows] + [row.alone for row in rows]
    width, left, right, pitch, top = 720, 170, 130, 30, 6
    place, body, height = _frame(ends, len(rows), width, left, right, pitch, top, as_percent)
    for number, row in enumerate(rows):
        y = Fraction(top + pitch * number + pitch // 2)
        better = "gain" if row.federated >= row.alone else "loss"
        body.append(_text(0, y + 4, row.label, "label"))
        body.append(_line(place(row.alone), y, place(row.federated), y, f"join {better}"))
        # Equal values would hide one mark under the other: the lower one shows its corners.
        near = abs(place(row.alone) - place(row.federated)) < 8
        body.append(_diamond(place(row.alone), y, 9 if near else 6, "dot alone"))
        body.append(_circle(place(row.federated), y, 5, "dot federated"))
        values = f"{show(row.alone)} → {show(row.federated)}"
        body.append(_text(width - right + 14, y + 4, values, "value"))
    described = "; ".join(
        f"{row.label}: alone {show(row.alone)}, federated {show(row.federated)}" for row in rows
    )
    return _drawing(name, title, described + ".", width, height, body)


def reliability_diagram(name: str, title: str, points: Sequence[BinPoint]) -> str:
    """Return predicted against observed share, with the rows of each group below."""
    if not points:
        raise UsageError("a reliability diagram needs at least one point, got none")
    width, height, left, top, side, strip = 360, 388, 50, 12, 290, 36
    body: list[str] = []

    def place_x(parts: int) -> Fraction:
        return left + Fraction(parts * side, _MILLION)

    def place_y(parts: int) -> Fraction:
        return top + side - Fraction(parts * side, _MILLION)

    for tick in range(0, _MILLION + 1, _MILLION // 5):
        body.append(_line(left, place_y(tick), left + side, place_y(tick), "grid"))
        body.append(_text(left - 7, place_y(tick) + 4, f"{tick // 10_000} %", "tick end"))
        body.append(
            _text(place_x(tick), top + side + strip + 22, f"{tick // 10_000}", "tick middle")
        )
    body.append(_line(left, top + side, left + side, top, "ideal"))
    most = max(point.rows for point in points) or 1
    base = top + side + strip + 4
    for point in points:
        tall = Fraction(point.rows * strip, most)
        body.append(
            f'<rect class="bar" x="{coordinate(place_x(point.predicted) - 5)}" '
            f'y="{coordinate(base - tall)}" width="10" height="{coordinate(tall)}"/>'
        )
    path = " ".join(
        f"{'M' if number == 0 else 'L'}"
        f"{coordinate(place_x(point.predicted))} {coordinate(place_y(point.observed))}"
        for number, point in enumerate(points)
    )
    body.append(f'<path class="line federated" d="{path}"/>')
    body += [
        _circle(place_x(point.predicted), place_y(point.observed), 4, "dot federated")
        for point in points
    ]
    body.append(
        _text(left + side // 2, height - 2, "predicted risk, per cent; bars: rows", "axis middle")
    )
    described = "; ".join(
        f"predicted {percent(point.predicted)}, observed {percent(point.observed)}, "
        f"{grouped(point.rows)} rows"
        for point in points
    )
    return _drawing(name, title, described + ".", width, height, body)


def timeline_strip(
    name: str, title: str, entries: Sequence[tuple[int, str]], lanes: Sequence[tuple[str, str]]
) -> str:
    """Return when in the log each lane had entries, from the first index to the last.

    `entries` are (index, lane key); `lanes` are (key, label) from top to bottom. Entries of
    other keys are not drawn. Neighbouring entries of a lane share a mark in a long log.
    """
    if not entries:
        raise UsageError("a timeline needs at least one entry, got none")
    for key, _ in lanes:
        if _NAME.fullmatch(key) is None:
            raise UsageError(f"expected a lane of lower-case letters, got {key[:60]!r}")
    width, left, right, pitch, top = 900, 170, 46, 24, 4
    height = top + pitch * len(lanes) + 22
    first, last = min(index for index, _ in entries), max(index for index, _ in entries)
    span = last - first + 1
    columns = min(span, _COLUMNS)
    cell = Fraction(width - left - right, columns)
    body: list[str] = []
    totals: list[str] = []
    for number, (key, label) in enumerate(lanes):
        indices = [index for index, lane in entries if lane == key]
        y = top + pitch * number
        body.append(_text(0, y + 16, label, "label"))
        body.append(_line(left, y + 12, width - right, y + 12, "grid"))
        body.append(_text(width - right + 10, y + 16, grouped(len(indices)), "value"))
        marks = sorted({(index - first) * columns // span for index in indices})
        wide = coordinate(max(cell * Fraction(4, 5), Fraction(2)))
        body += [
            f'<rect class="mark {key}" x="{coordinate(left + cell * mark)}" '
            f'y="{y + 4}" width="{wide}" height="16" rx="1"/>'
            for mark in marks
        ]
        totals.append(f"{label} {len(indices)}")
    body.append(_text(left, height - 4, f"entry {grouped(first)}", "tick"))
    body.append(_text(width - right, height - 4, grouped(last), "tick end"))
    return _drawing(name, title, "Entries: " + ", ".join(totals) + ".", width, height, body)


class _Scale:
    """Places parts per million on a horizontal axis."""

    def __init__(self, low: int, high: int, left: int, right: int) -> None:
        self._low, self._high, self._left, self._right = low, high, left, right

    def __call__(self, parts: int) -> Fraction:
        share = Fraction(parts - self._low, self._high - self._low)
        return self._left + share * (self._right - self._left)


def _frame(
    ends: Sequence[int],
    rows: int,
    width: int,
    left: int,
    right: int,
    pitch: int,
    top: int,
    as_percent: bool = False,
) -> tuple[_Scale, list[str], int]:
    """Return scale, grid and height of a chart of rows over one axis."""
    ticks = _ticks([Fraction(min(max(end, 0), _MILLION), _MILLION) for end in ends])
    at = [min(max(int(tick * _MILLION), 0), _MILLION) for tick in ticks]
    at = sorted(set(at))
    scale = _Scale(at[0], at[-1], left, width - right)
    bottom = top + pitch * rows
    body: list[str] = []
    for parts in at:
        body.append(_line(scale(parts), top, scale(parts), bottom, "grid"))
        share = Fraction(parts, _MILLION)
        label = f"{_plain(share * 100)} %" if as_percent else _plain(share)
        body.append(_text(scale(parts), bottom + 16, label, "tick middle"))
    return scale, body, bottom + 24


def _ticks(values: Sequence[Fraction]) -> list[Fraction]:
    """Return three to eight round numbers that enclose all `values`."""
    low, high = min(values), max(values)
    span = high - low or abs(high) or Fraction(1)
    unit = Fraction(1)
    while unit * 10 <= span:
        unit *= 10
    while unit > span:
        unit /= 10
    step = next(
        unit * factor
        for factor in (Fraction(1, 5), Fraction(1, 2), Fraction(1), Fraction(2))
        if span / (unit * factor) <= 5
    )
    lower, upper = low // step, -(-high // step)
    if lower == upper:
        lower, upper = lower - 1, upper + 1
    return [step * number for number in range(lower, upper + 1)]


def _decades(points: Sequence[tuple[int, Fraction]]) -> list[Fraction]:
    low = min(y for _, y in points) // 1
    high = -(-max(y for _, y in points) // 1)
    high = max(high, low + 1)
    every = -(-(high - low) // 6)
    return [Fraction(low + every * number) for number in range(-(-(high - low) // every) + 1)]


def _power(tick: Fraction) -> str:
    return str(int(tick)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _plain(value: Fraction) -> str:
    """Return a tick: its exact decimals, which end, as steps are 1, 2 or 5 times a power of ten."""
    sign, value = ("−" if value < 0 else ""), abs(value)
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    if len(digits) > 7:
        return sign + scientific(f"{digits}e-{places}")
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def _drawing(
    name: str, title: str, description: str, width: int, height: int, body: Sequence[str]
) -> str:
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"expected a name of lower-case letters, got {name[:60]!r}")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{_escape(title)}</title>'
        f'<desc id="{name}-desc">{_escape(description)}</desc>' + "".join(body) + "</svg>"
    )


def _escape(text: str) -> str:
    text = visible(text)
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(sign, entity)
    return text.replace("'", "&#39;")


def _text(x: Fraction | int, y: Fraction | int, text: str, style: str) -> str:
    # A label must not run out of the drawing: the table beside it has the whole name.
    short = text if len(text) <= 26 else text[:25] + "…"
    at = f'x="{coordinate(x)}" y="{coordinate(y)}"'
    return f'<text class="{style}" {at}>{_escape(short if "label" in style else text)}</text>'


def _line(
    x1: Fraction | int, y1: Fraction | int, x2: Fraction | int, y2: Fraction | int, style: str
) -> str:
    return (
        f'<line class="{style}" x1="{coordinate(x1)}" y1="{coordinate(y1)}" '
        f'x2="{coordinate(x2)}" y2="{coordinate(y2)}"/>'
    )


def _circle(x: Fraction, y: Fraction, radius: int, style: str) -> str:
    return f'<circle class="{style}" cx="{coordinate(x)}" cy="{coordinate(y)}" r="{radius}"/>'


def _diamond(x: Fraction, y: Fraction, half: int, style: str) -> str:
    corners = ((-half, 0), (0, -half), (half, 0), (0, half))
    points = " ".join(f"{coordinate(x + dx)},{coordinate(y + dy)}" for dx, dy in corners)
    return f'<polygon class="{style}" points="{points}"/>'
