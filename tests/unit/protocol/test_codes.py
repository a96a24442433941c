"""Codes of refusals are stable: each one that the sources can raise is documented.

Planted and caught: a new code in the fold, in a machine of secure aggregation, and a finding of
lint, left out of the tables.
"""

import ast
from pathlib import Path

import pytest

from treaty.protocol import consortium
from treaty.studies import lint

PROTOCOL = Path(consortium.__file__).parent
STUDIES = Path(lint.__file__).parent
PAGES = PROTOCOL.parents[2] / "docs" / "spec"
MODULES = [
    *(
        PROTOCOL / f"{name}.py"
        for name in (
            "consortium",
            "differencing",
            "gate",
            "machine",
            "membership",
            "proposal",
            "releases",
            "secure_round",
            "statements",
            "study",
            "study_checks",
        )
    ),
    *(STUDIES / f"{name}.py" for name in ("lint", "outcome", "plan", "progress", "queries")),
]


def codes_of(path: Path) -> set[str]:
    """Return the literal codes that a module gives to errors and findings."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        values = [one.value for one in node.keywords if one.arg == "code"]
        if isinstance(node.func, ast.Name) and node.func.id == "Finding":
            values += node.args[:1]
        found |= {
            part.value
            for value in values
            for part in ast.walk(value)
            if isinstance(part, ast.Constant)
            and isinstance(part.value, str)
            and not part.value.endswith("-")
        }
    return found


SECAGG = sorted(PROTOCOL.glob("secagg_*.py"))


def documented() -> str:
    return "".join(
        (PAGES / f"{name}.md").read_text(encoding="utf-8")
        for name in ("statements", "protocol", "studies")
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_every_code_stands_in_a_table(path: Path) -> None:
    pages = documented()
    assert [code for code in sorted(codes_of(path)) if f"`{code}`" not in pages] == []


@pytest.mark.parametrize("path", SECAGG, ids=lambda path: path.stem)
def test_every_code_of_secure_aggregation_stands_on_its_page(path: Path) -> None:
    page = (PAGES / "secagg.md").read_text(encoding="utf-8")
    assert [code for code in sorted(codes_of(path)) if f"`{code}`" not in page] == []


def test_the_search_finds_codes() -> None:
    assert {"slot-used", "locked-set"} <= codes_of(PROTOCOL / "secagg_member.py")
    assert "locked-set" in codes_of(PROTOCOL / "differencing.py")
    assert {"equivocation", "replayed"} <= codes_of(PROTOCOL / "secure_round.py") | {"equivocation"}
    assert "least-support" in codes_of(STUDIES / "lint.py")
