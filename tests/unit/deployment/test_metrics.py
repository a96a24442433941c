"""The text that a monitoring system reads, and the lines of the process log.

Planted and caught: a label value that is not escaped, a family whose samples stand apart, a counter
without ``_total``, a family without samples that leaves its help behind, infinity as ``inf``, an
event with free text, a level that is ignored, a full disk that stops the process, a closed code
that no source raises.
"""

import json
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.prometheus_text import parse
from treaty.deployment.metrics import Family, Kind, Sample, render, word
from treaty.deployment.monitor import REFUSAL_CODES
from treaty.deployment.process_log import EVENTS, Level, ProcessLog
from treaty.errors import ResourceError, UsageError
from treaty.ids import MemberId


def gauge(name: str, *samples: Sample) -> Family:
    return Family(name, Kind.GAUGE, "A figure.", samples)


def test_what_is_rendered_is_read_back() -> None:
    text = render(
        [
            gauge("treaty_plain", Sample(3)),
            gauge("treaty_none"),
            gauge(
                "treaty_inf", Sample(float("inf")), Sample(-0.5, (("part", "b"), ("x", "1.2-c")))
            ),
            Family("treaty_seen_total", Kind.COUNTER, "Seen.", (Sample(1 << 60),)),
        ]
    )
    types, values = parse(text)
    assert types == {
        "treaty_plain": "gauge",
        "treaty_inf": "gauge",
        "treaty_seen_total": "counter",
    }
    assert values == {
        ("treaty_plain", ()): 3,
        ("treaty_inf", ()): float("inf"),
        ("treaty_inf", (("part", "b"), ("x", "1.2-c"))): -0.5,
        ("treaty_seen_total", ()): 1 << 60,
    }
    assert "+Inf" in text and render([]) == ""


@pytest.mark.parametrize(
    "text",
    [
        "treaty_x 1\n",
        "# TYPE treaty_x gauge\ntreaty_x 1\ntreaty_x 1\n",
        "# TYPE treaty_x gauge\n# TYPE treaty_y gauge\ntreaty_x 1\n",
        "# HELP treaty_x a\n",
        '# TYPE treaty_x gauge\ntreaty_x{a="b} 1\n',
        '# TYPE treaty_x gauge\ntreaty_x{a="b",a="c"} 1\n',
        "# TYPE treaty_x gauge\ntreaty_x one\n",
        "# TYPE treaty_x gauge\ntreaty_x 1",
        "#TYPE treaty_x gauge\n",
    ],
)
def test_the_reader_of_the_tests_refuses_what_is_malformed(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@pytest.mark.parametrize("value", ["", "A", 'a"b', "a\nb", "a b", "-a", "é", "x" * 65])
def test_only_closed_words_become_labels(value: str) -> None:
    with pytest.raises(UsageError, match="closed word"):
        Sample(1, (("what", value),))
    Sample(1, (("what", word(value)),))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("collab_x", Kind.GAUGE),
        ("treaty_X", Kind.GAUGE),
        ("treaty_x_total", Kind.GAUGE),
        ("treaty_x", Kind.COUNTER),
    ],
)
def test_names_follow_the_convention(name: str, kind: Kind) -> None:
    with pytest.raises(UsageError, match="expected treaty_"):
        Family(name, kind, "A figure.", ())


def test_a_family_cannot_be_ambiguous() -> None:
    with pytest.raises(UsageError, match="twice"):
        gauge("treaty_x", Sample(1), Sample(2))
    with pytest.raises(UsageError, match="twice"):
        render([gauge("treaty_x", Sample(1)), gauge("treaty_x", Sample(1))])
    with pytest.raises(UsageError, match="not a number"):
        Sample(float("nan"))
    with pytest.raises(UsageError, match="one line"):
        Family("treaty_x", Kind.GAUGE, "a\nb", ())


# --- the process log ------------------------------------------------------------------------------


class Clock:
    def now(self) -> int:
        return 17


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_a_line_holds_its_event_its_level_and_its_fields(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "log", Level.INFO, clock=Clock())  # type: ignore[arg-type]  # a time
    log.party = "aare"
    log.emit("log.grew", size=3)
    log.emit("waits", what="masked-inputs", parties=(MemberId("birs"), MemberId("emme")))
    assert lines(tmp_path / "log") == [
        {
            "at_ms": 17,
            "event": "waits",
            "level": "info",
            "parties": ["birs", "emme"],
            "party": "aare",
            "what": "masked-inputs",
        }
    ]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    # Whoever rotates the file moves it away: the next line begins a new one.
    (tmp_path / "log").rename(tmp_path / "old")
    log.emit("process.stopped")
    assert [line["event"] for line in lines(tmp_path / "log")] == ["process.stopped"]


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        ("unheard-of", {}),
        ("process.stopped", {"detail": "age 51"}),
        ("process.failed", {}),
        ("process.failed", {"code": "row 7: 131.123456"}),
        ("process.failed", {"code": True}),
        ("waits", {"what": "inputs", "parties": (MemberId("a b"),)}),
        ("log.grew", {"size": "7 "}),
    ],
)
def test_no_line_takes_free_text(tmp_path: Path, event: str, fields: dict[str, str]) -> None:
    log = ProcessLog(tmp_path / "log", Level.ERROR)
    with pytest.raises(UsageError):
        log.emit(event, **fields)
    assert lines(tmp_path / "log") == []


def test_a_line_that_cannot_be_written_is_counted_and_stops_nobody(tmp_path: Path) -> None:
    log = ProcessLog(tmp_path / "gone" / "log")
    with pytest.raises(ResourceError, match="--log"):
        log.check()
    log.emit("process.stopped")
    log.emit("log.grew", size=1)
    assert log.lost == 1
    full = ProcessLog(Path("/dev/full"))
    full.emit("process.stopped")
    assert full.lost == 1


def test_every_event_is_documented() -> None:
    page = (ROOT / "docs" / "spec" / "operate.md").read_text(encoding="utf-8")
    for event, (level, fields) in EVENTS.items():
        row = f"| `{event}` | {level.name.lower()} |"
        assert row in page, row
        line = next(line for line in page.splitlines() if line.startswith(row))
        assert all(f"`{name}`" in line for name in fields), line


def test_every_closed_code_is_one_that_the_sources_raise() -> None:
    sources = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "src" / "treaty").rglob("*.py")
        if path.name != "monitor.py"
    )
    general = {"format", "not-proved", "peer", "frame-object"}
    assert {code for code in REFUSAL_CODES - general if f'"{code}"' not in sources} == set()
