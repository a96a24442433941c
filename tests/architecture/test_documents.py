"""Documents say what is there: links resolve, ids are unique, the table of layers is the contract.

Planted and caught: a link to a missing page, a threat id used twice, a test that names a threat
which is not listed, a package left out of the table, two decisions with one number.
"""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")
IDENTIFIER = re.compile(r"^\| ([APWTNR]-\d+) \|", re.MULTILINE)
MENTION = re.compile(r"\b([NRT]-\d+)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file or folder of the repository."""
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if ":" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def _threat_ids() -> Counter[str]:
    text = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
    return Counter(IDENTIFIER.findall(text))


def test_every_id_of_the_threat_model_has_one_meaning() -> None:
    """Ids are listed once each, so that tests and pages can rely on them."""
    ids = _threat_ids()
    assert len(ids) > 50
    assert [name for name, times in ids.items() if times > 1] == []


@pytest.mark.parametrize("folder", ["tests/adversarial", "docs", "src"])
def test_every_id_that_is_mentioned_is_listed(folder: str) -> None:
    """Nothing points at a threat, a limit or a risk that the model does not name."""
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md"}]
    mentioned = {name for path in files for name in MENTION.findall(path.read_text("utf-8"))}
    assert mentioned - set(_threat_ids()) == set()


def test_the_table_of_layers_is_the_contract() -> None:
    """ARCHITECTURE.md lists every package of the import contract in the same order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]["layers"]
    enforced = [{name.strip(" ()") for name in line.split("|")} for line in contract]
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| ([^|]+) \|", text, re.MULTILINE)
    documented = [set(re.findall(r"`([a-z]+)`", row)) for row in rows]
    (reserved,) = re.findall(r"^Reserved: (.+)$", text, re.MULTILINE)
    for name, number in re.findall(r"`([a-z]+)` \((\d+)\)", reserved):
        documented[len(documented) - 1 - int(number)].add(name)
    assert documented == enforced


def test_every_decision_has_its_own_number() -> None:
    """Pages of docs/adr are numbered without gaps, and each says its number."""
    pages = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(len(pages)))
    for page in pages[1:]:
        assert page.read_text(encoding="utf-8").startswith(f"# {page.name[:4]}. ")
