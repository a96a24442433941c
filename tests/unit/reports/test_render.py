"""The page: escaped, closed, small, and the same bytes everywhere.

Planted faults that these tests caught: autoescape off; a title marked safe; hidden characters
passed through; a table or a text without its limit; a page of any size returned; rows left out
unsaid; the policy weakened; a link to a host; an absent value printed; a number from the hash
seed; the note on figures that stay at home left out; the simulation banner turned round; pooled
figures without their heading; a quorum of one; a guarantee without its sentence; links that lead
nowhere; statement types that are not listed dropped from the timeline; noised steps said to fall to
zero; a difference spoken of that no row shows; epsilon without its term.
"""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import cast

import pytest

from tests.unit.reports.sample import digest, sample
from treaty.errors import UsageError
from treaty.reports import MAX_REPORT_BYTES, render_report
from treaty.reports.document import (
    CountLine,
    Coverage,
    LogLine,
    MemberLine,
    Refusal,
    ReportData,
    RoundLine,
    Term,
    Verdict,
    Verification,
)

ROOT = Path(__file__).parents[3]
VOID = {"meta"}
DRAWING_TAGS = {"svg", "line", "path", "circle", "polygon", "rect", "text", "title", "desc"}
HOSTILE = "</td><img src=x onerror=alert(1)>\"'\u202e&\x07{{ 7 * 7 }}"
DATA = sample()


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(value: object) -> object:
    """Return `value` with every free text replaced; digests and numbers in text stay."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[0-9a-f]{64}|-?[0-9.]+(e-?[0-9]+)?", value) else HOSTILE
    if isinstance(value, tuple):
        return tuple(hostile(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {field.name: hostile(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **changed)
    return value


def bare() -> ReportData:
    """Return the least report: everything that can be absent is."""
    return replace(
        DATA,
        simulation=False,
        members=(),
        columns=(),
        guarantees=(),
        verification=Verification(status=Coverage.NOT_COVERED, sentence="Not verified."),
        model_digest=None,
        halted="too-few-members",
        label="",
        rounds=(),
        evaluation=None,
        sites=(),
        comparison=None,
        calibration=(),
        exposure=(),
        privacy=(),
        timeline=(),
        counts=(),
        witnesses=(),
        refusals=(),
        terms=(),
    )


@pytest.mark.parametrize(
    "data",
    [
        DATA,
        bare(),
        cast("ReportData", hostile(DATA)),
        replace(DATA, sites=()),
        replace(DATA, comparison=None),
        replace(DATA, calibration=()),
        replace(DATA, evaluation=None),
    ],
    ids=["whole", "bare", "hostile", "no sites", "no pooled", "no calibration", "no evaluation"],
)
def test_every_page_is_well_formed_and_loads_and_runs_nothing(data: ReportData) -> None:
    text = render_report(data)
    page = Page(text)
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", policy) in page.attributes
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"src", "style", "action", "xmlns"}
        if name == "href":
            assert tag == "a" and value.startswith("#")
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert "@import" not in text
    assert len(text.encode()) <= MAX_REPORT_BYTES


def test_links_lead_somewhere_and_ids_are_unique() -> None:
    page = Page(render_report(DATA))
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "href"}
    assert targets <= set(ids)
    named = [value.split() for _, name, value in page.attributes if name == "aria-labelledby"]
    assert {part for pair in named for part in pair} <= set(ids)


def test_hostile_texts_are_shown_as_text_with_hidden_characters_replaced() -> None:
    text = render_report(cast("ReportData", hostile(DATA)))
    assert "<img" not in text
    assert "\u202e" not in text and "\x07" not in text
    assert "</td><img src=x onerror=alert(1)>\"'\ufffd&\ufffd{{ 7 * 7 }}" in Page(text).text


def test_every_drawing_on_the_page_is_valid_xml() -> None:
    text = render_report(DATA)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 7
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert {element.tag for element in root.iter()} <= DRAWING_TAGS


def test_the_page_says_what_it_does_not_show() -> None:
    home = "The charter keeps the figures of single sites at home"
    assert home not in render_report(DATA)
    assert home in render_report(replace(DATA, sites=()))
    empty = Page(render_report(bare())).text
    assert "no site has figures to show" in empty
    assert "it says nothing about it" in empty
    assert "nothing is guaranteed" in empty
    assert "not reached" in empty
    assert "too-few-members" in empty


def test_the_page_does_not_call_a_noised_training_unconverged_or_speak_of_rows_it_lacks() -> None:
    """Noise keeps steps from zero, and no registered figure is of a site alone."""
    exact = " ".join(Page(render_report(replace(DATA, noised=False))).text.split())
    assert "Falling to practically zero means converged." in exact
    assert "the difference in the table does" in exact
    assert DATA.evaluation is not None
    found = replace(
        DATA.evaluation,
        alone=None,
        auc_difference=None,
        auc_margin=None,
        verdict=Verdict.NOT_COMPARED,
    )
    page = render_report(replace(DATA, noised=True, evaluation=found))
    noised = " ".join(Page(page).text.split())
    assert "keeps it from falling to zero" in noised
    assert "means converged" not in noised
    assert "Both models" not in noised
    assert 'href="#g-epsilon"' in page
    assert 'id="g-epsilon"' in page


def test_pooled_figures_appear_only_under_the_words_simulation_only() -> None:
    whole = render_report(DATA)
    assert whole.index("Simulation only</th>") < whole.index("Pooled data")
    assert "No institution took part" in whole
    log = tuple(line for line in DATA.timeline if line.kind != "comparison/v1")
    counts = tuple(line for line in DATA.counts if line.kind != "comparison/v1")
    real = render_report(
        replace(DATA, simulation=False, comparison=None, timeline=log, counts=counts)
    )
    assert "imulation" not in real
    assert "Pooled data" not in real


def test_everything_in_the_data_is_on_the_page() -> None:
    text = Page(render_report(DATA)).text
    flat = text.replace("\n", " ")
    for member in DATA.members:
        assert member.title in flat
    for line in DATA.guarantees:
        assert line.name in flat and line.sentence in flat
    for row in DATA.exposure:
        assert row.artefact in flat and row.sentence in flat
    for limit in ("The sums are exact", "The group is small", "False data"):
        assert limit in flat
    for entry in DATA.timeline:
        assert entry.digest in flat
    for number in ("0.893", "± 0.037", "0.819", "82.0\u202f%", "+0.074", "2.91\u202f×\u202f10⁻¹⁰"):
        assert number in flat
    for whole in (DATA.anchor, DATA.plan_digest, DATA.model_digest or ""):
        assert whole in text.replace("\n", "")
    assert "3 of 4 witnesses" in flat


@pytest.mark.parametrize(("cosigned", "words"), [(3, "reached"), (2, "not reached")])
def test_the_quorum_counts_the_cosignatures_that_are_there(cosigned: int, words: str) -> None:
    witnesses = tuple(
        replace(line, cosigned=number < cosigned) for number, line in enumerate(DATA.witnesses)
    )
    text = Page(render_report(replace(DATA, witnesses=witnesses))).text
    assert f"The quorum is 3: {words}" in text


def test_a_long_study_is_cut_to_size_and_says_so() -> None:
    long = replace(
        DATA,
        timeline=tuple(
            LogLine(index=index, kind="masked-input/v1", author="a" * 63, digest=digest(str(index)))
            for index in range(20_000)
        ),
        rounds=tuple(
            RoundLine(number=number, kind="k" * 400, survivors=3, step=f"1e-{number % 300}")
            for number in range(5_000)
        ),
        refusals=tuple(
            Refusal(who="m", code="site-declined", sentence="s" * 500, round=number)
            for number in range(5_000)
        ),
    )
    text = render_report(long)
    assert len(text.encode()) <= MAX_REPORT_BYTES
    assert re.search(r"19\u202f(6|9)\d\d lines are not shown here", text)
    assert digest("0") in text and digest("19999") in text and digest("9999") not in text


def test_a_report_that_cannot_be_small_is_refused() -> None:
    members = tuple(MemberLine(name=f"m{i}", title="t" * 1_900) for i in range(400))
    with pytest.raises(UsageError, match="at most 500000 bytes"):
        render_report(replace(DATA, members=members))


def test_a_single_text_cannot_fill_the_page() -> None:
    text = render_report(replace(DATA, terms=(Term(label="x", value="y" * 600_000),)))
    assert "y" * 1_999 + "…" in text


def test_unknown_statement_types_are_shown_among_the_others() -> None:
    lines = (LogLine(index=0, kind="invented/v9", author="a", digest="00"),)
    data = replace(DATA, timeline=lines, counts=(CountLine(kind="invented/v9", count=1),))
    text = render_report(data)
    assert "invented/v9" in text
    assert "other entries 1." in text


SCRIPT = """
import decimal, locale, sys
locale.setlocale(locale.LC_ALL, "")
decimal.getcontext().prec = 2
from tests.unit.reports.sample import sample
from treaty.reports import render_report
sys.stdout.buffer.write(render_report(sample()).encode())
"""


@pytest.mark.parametrize(("language", "zone", "seed"), [("C", "UTC", "1"), ("", "Asia/Tokyo", "2")])
def test_the_same_data_give_the_same_bytes_in_another_place(
    tmp_path: Path, language: str, zone: str, seed: str
) -> None:
    """Another directory, time zone, hash seed, decimal context and, where installed, locale."""
    installed = subprocess.run(
        ["locale", "-a"], capture_output=True, text=True, check=False
    ).stdout.split()
    other = next((name for name in installed if name.startswith(("de_", "fr_", "tr_"))), "C.UTF-8")
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "PYTHONHASHSEED": seed,
        "LC_ALL": language or other,
        "TZ": zone,
    }
    made = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert made.stdout == render_report(DATA).encode()
