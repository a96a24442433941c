"""The page of an assessment: self-contained, escaped, and the same for the same findings.

Planted and caught: a name of a group printed as markup, a failed line shown as holding.
"""

from html.parser import HTMLParser

import msgspec

from tests.unit.assessment.test_findings import RECOVERED, SOUND
from treaty.assessment.findings import GroupFinding, RateFinding
from treaty.reports.assessment_page import render_assessment

RATE = RateFinding(value_micro=510_000, low_micro=400_000, high_micro=620_000)


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.seen.append(tag)
        if tag not in {"meta", "line", "circle"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Expect the innermost open tag to close."""
        if tag not in {"line", "circle"}:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    """No script, no link, no image; every tag closes."""
    tags = Tags(render_assessment(SOUND))
    assert not {"script", "link", "img", "iframe", "form", "a"} & set(tags.seen)
    assert tags.open == []
    assert "svg" in tags.seen
    assert render_assessment(SOUND) == render_assessment(SOUND)


def test_names_of_groups_are_text() -> None:
    """A contract may name a group anything."""
    group = GroupFinding(
        group="<b>old & \u202egnuoy",
        persons=1200,
        area=RATE,
        rate_at_one_percent=RATE,
        rate_at_one_per_mille=RATE,
    )
    few = GroupFinding(group="few", persons=3)
    page = render_assessment(msgspec.structs.replace(SOUND, groups=(group, few)))
    assert "<b>" not in page
    assert "&lt;b&gt;old &amp;" in page
    assert "\u202e" not in page
    assert "too few" in page
    assert Tags(page).open == []


def test_a_failure_is_shown_as_one() -> None:
    """In the headline and in its line."""
    broken = msgspec.structs.replace(RECOVERED, recovered=2)
    page = render_assessment(msgspec.structs.replace(SOUND, recoveries=(broken,)))
    assert "FAILS: records can be read" in page
    assert page.count('<span class="status open">fails</span>') == 1
    assert '<span class="status open">fails</span>' not in render_assessment(SOUND)
