"""Drawings: well formed, escaped, described, and within their frame.

Planted faults that these tests caught: `<` not escaped; the description left out; a margin drawn
outside the frame; one mark for each entry of a long log; a step of zero on a logarithmic axis;
either axis turned round; hidden characters passed through.
"""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from treaty.errors import UsageError
from treaty.reports import svg
from treaty.reports.svg import BandSeries, BinPoint, IntervalRow, PairedRow

HOSTILE = "<script>alert('&')</script>\u202e\x00\"]]>"
LANES = (("input", HOSTILE), ("round", "rounds"))

DRAWINGS: dict[str, Callable[[], str]] = {
    "line": lambda: svg.line_chart("a", HOSTILE, [(1, "0.5"), (2, "0.25")], logarithmic=False),
    "one point": lambda: svg.line_chart("a", HOSTILE, [(7, "1e-9")], logarithmic=True),
    "nothing positive": lambda: svg.line_chart("a", HOSTILE, [(7, "0")], logarithmic=True),
    "huge": lambda: svg.line_chart("a", HOSTILE, [(1, "1e999"), (9, "-1")], logarithmic=False),
    "intervals": lambda: svg.interval_chart(
        "a", HOSTILE, [IntervalRow(HOSTILE, 900_000, 200_000, "alone")]
    ),
    "pairs": lambda: svg.paired_chart("a", HOSTILE, [PairedRow(HOSTILE, 1, 0)], as_percent=True),
    "equal pairs": lambda: svg.paired_chart(
        "a", HOSTILE, [PairedRow(HOSTILE, 10**6, 10**6)], as_percent=False
    ),
    "reliability": lambda: svg.reliability_diagram("a", HOSTILE, [BinPoint(0, 10**6, 0)]),
    "bands": lambda: svg.band_chart(
        "a",
        HOSTILE,
        [BandSeries(HOSTILE, "alone", ((500, 0, 10, 10**6), (8000, 5, 6, 7)))],
        HOSTILE,
    ),
    "one band": lambda: svg.band_chart(
        "a", HOSTILE, [BandSeries(HOSTILE, "alone", ((1000, 5, 5, 5),))], HOSTILE
    ),
    "timeline": lambda: svg.timeline_strip("a", HOSTILE, [(3, "input"), (4, "else")], LANES),
}


def points(root: ET.Element) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for element in root.iter():
        for x, y in (("x", "y"), ("cx", "cy"), ("x1", "y1"), ("x2", "y2")):
            if x in element.attrib:
                found.append((element.attrib[x], element.attrib[y]))
        for corner in element.attrib.get("points", "").split():
            first, second = corner.split(",")
            found.append((first, second))
    return found


@pytest.mark.parametrize("which", DRAWINGS)
def test_hostile_names_leave_every_drawing_well_formed_and_harmless(which: str) -> None:
    text = DRAWINGS[which]()
    root = ET.fromstring(text)
    assert "<script" not in text
    assert "\u202e" not in text and "\x00" not in text
    assert {element.tag for element in root.iter()} <= {
        "svg", "title", "desc", "text", "line", "path", "circle", "polygon", "rect"
    }  # fmt: skip
    for element in root.iter():
        assert not {name for name in element.attrib if name.startswith("on")}
        assert "style" not in element.attrib and "href" not in element.attrib


@pytest.mark.parametrize("which", DRAWINGS)
def test_every_drawing_says_in_words_what_it_shows(which: str) -> None:
    root = ET.fromstring(DRAWINGS[which]())
    title, description = root[0], root[1]
    assert (title.tag, description.tag) == ("title", "desc")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
    assert (title.text or "").startswith("<script>alert")
    assert description.text


@pytest.mark.parametrize("which", DRAWINGS)
def test_nothing_is_drawn_outside_the_frame(which: str) -> None:
    root = ET.fromstring(DRAWINGS[which]())
    width, height = (float(part) for part in root.attrib["viewBox"].split()[2:])
    for x, y in points(root):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height


def test_larger_values_stand_further_right_and_higher_up() -> None:
    pairs = svg.paired_chart("a", "t", [PairedRow("s", 800_000, 600_000)], as_percent=False)
    root = ET.fromstring(pairs)
    federated = root.find("circle")
    alone = root.find("polygon")
    assert federated is not None and alone is not None
    assert float(federated.attrib["cx"]) > float(alone.attrib["points"].split(",")[0])
    line = svg.line_chart("a", "t", [(1, "1"), (2, "2")], logarithmic=False)
    heights = [float(dot.attrib["cy"]) for dot in ET.fromstring(line).iter("circle")]
    assert heights[0] > heights[1]


def test_a_step_of_zero_has_no_place_on_a_logarithmic_axis_and_is_counted() -> None:
    text = svg.line_chart("a", "t", [(1, "0.1"), (2, "0")], logarithmic=True)
    assert text.count("<circle") == 1
    assert "1 not positive and not drawn" in text


def test_a_long_log_is_drawn_with_few_marks_and_says_how_many_entries() -> None:
    text = svg.timeline_strip("a", "t", [(i, "input") for i in range(50_000)], LANES)
    assert 100 <= text.count("<rect") <= 200
    assert "50000" in text
    assert len(text) < 30_000


@pytest.mark.parametrize(
    "draw",
    [
        lambda: svg.line_chart("a", "t", [], logarithmic=False),
        lambda: svg.interval_chart("a", "t", []),
        lambda: svg.paired_chart("a", "t", [], as_percent=False),
        lambda: svg.reliability_diagram("a", "t", []),
        lambda: svg.timeline_strip("a", "t", [], LANES),
        lambda: svg.line_chart('a"b', "t", [(1, "1")], logarithmic=False),
        lambda: IntervalRow("a", 1, None, 'x" onload="'),
        lambda: svg.timeline_strip("a", "t", [(1, "x")], [('x" onload="', "l")]),
    ],
)
def test_nothing_to_draw_and_unsafe_names_are_refused(draw: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        draw()
