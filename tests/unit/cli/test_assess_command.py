"""`treaty assess` on the command line: exit codes, files, and what is refused before the work.

Planted and caught: exit 0 although a rule is broken, a file replaced, a record signed with the
approval key, a person on the page, the record of a quick look taken as thorough.
"""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.locations import PROJECT_ROOT
from tests.small_federation import contract, site_files
from tests.unit.cli.conftest import Command, write_key
from treaty.assessment.record import open_record
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import contract_bytes, contract_digest
from treaty.crypto.keys import decode_key_file

SITE = "aare"


@pytest.fixture
def own(tmp_path: Path) -> list[object]:
    """Return the options that name the files of a site of 120 persons."""
    files = site_files(SITE, 120)
    (tmp_path / "contract.json").write_bytes(contract_bytes(contract()))
    (tmp_path / "data.csv").write_bytes(files.data)
    (tmp_path / "adapter.toml").write_bytes(files.adapter)
    return [
        *("--contract", tmp_path / "contract.json"),
        *("--adapter", tmp_path / "adapter.toml"),
        *("--data", tmp_path / "data.csv"),
    ]


def test_a_claim_that_holds_exits_with_zero_and_writes_what_was_asked(
    treaty: Command, own: list[object], tmp_path: Path
) -> None:
    """A page without persons, a private file with them, a signed record that says quick."""
    key = write_key(tmp_path / "runner.key", "runner", "aare runner")
    key.chmod(0o600)
    asked = [
        *("--page", tmp_path / "page.html", "--exposed", tmp_path / "exposed.txt"),
        *("--record", tmp_path / "record.json", "--key", key),
    ]
    shown = treaty("assess", *own, "--quick", *asked)
    assert shown.code == 0, shown.out + shown.err
    assert "passes: nothing that was tried contradicts the claim" in shown.out
    assert "models: 16" in shown.err
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "default-src 'none'" in page
    exposed = (tmp_path / "exposed.txt").read_text().splitlines()
    assert len(exposed) == 11
    assert not any(line.split()[0] in page + shown.out for line in exposed[1:])
    assert (tmp_path / "exposed.txt").stat().st_mode & 0o777 == 0o600
    public = decode_key_file(key.read_bytes()).key.public
    record = open_record((tmp_path / "record.json").read_bytes(), public)
    assert (record.passed, record.thorough, record.protection) == (True, False, "noised")
    assert record.contract == contract_digest(with_public_bounds(contract()))
    assert (record.epsilon_micro, record.delta_inverse) == (1_000_000, 100_000)


def test_a_failure_exits_with_four_and_json_names_the_rules(
    treaty: Command, own: list[object]
) -> None:
    """Exact sums of few sites are read under trap weights; one JSON value, nothing beside it."""
    shown = treaty("assess", *own, "--quick", "--exact", "--format", "json")
    found = json.loads(shown.out)
    assert shown.code == 4
    assert shown.err == ""
    assert found["failures"] == ["records-recovered"]
    assert found["findings"]["claim"]["epsilon_micro"] is None
    assert found["findings"]["protection"] == "exact"
    again = treaty("assess", *own, "--quick", "--exact", "--format", "json")
    assert again.out == shown.out


def test_one_sum_of_statistics_is_assessed(treaty: Command, own: list[object]) -> None:
    shown = treaty("assess", *own, "--quick", "--one-round", "--format", "json")
    found = json.loads(shown.out)
    assert shown.code == 0, shown.err
    assert found["findings"]["protection"] == "noised-statistics"
    assert found["findings"]["claim"]["epsilon_micro"] == 1_000_000
    assert not any("trap" in one["view"] for one in found["findings"]["recoveries"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--known", "heart"], "--known stands in place of"),
        (["--record", "r.json"], "--record and --key go together"),
        (["--epsilon", "0"], "expected a positive epsilon"),
        (["--epsilon", "nan"], "expected a positive epsilon"),
        (["--delta-inverse", "1"], "--delta-inverse"),
        (["--model", "site-intercepts"], "common intercept"),
        (["--members", "2"], "--members"),
        (["--one-round", "--exact"], "leave out --exact"),
        (["--one-round", "--model", "perceptron"], "logistic regression only"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    treaty: Command, own: list[object], options: list[str], sentence: str
) -> None:
    """One sentence and exit 2, before any model is trained."""
    shown = treaty("assess", *own, *options)
    assert shown.code == 2
    assert sentence in shown.err
    assert "models" not in shown.err


def test_no_file_is_replaced_and_no_other_key_signs(
    treaty: Command, own: list[object], tmp_path: Path
) -> None:
    """What exists stays; a record is signed by the runner key only."""
    (tmp_path / "page.html").write_text("mine")
    shown = treaty("assess", *own, "--page", tmp_path / "page.html")
    assert shown.code == 2
    assert (tmp_path / "page.html").read_text() == "mine"
    shown = treaty("assess", *own, "--page", tmp_path / "nowhere" / "page.html")
    assert (shown.code, "is no directory" in shown.err) == (2, True)
    twice = ["--page", tmp_path / "one", "--exposed", tmp_path / "one"]
    assert "a file of their own" in treaty("assess", *own, *twice).err
    key = write_key(tmp_path / "approval.key", "approval", "aare approval")
    key.chmod(0o600)
    record = ["--record", tmp_path / "record.json", "--key", key]
    shown = treaty("assess", *own, *record)
    assert shown.code == 2
    assert "expected runner" in shown.err
    assert not (tmp_path / "record.json").exists()
    assert treaty("assess").code == 2


def test_the_commands_of_the_how_to_page_run_as_written(
    treaty: Command, own: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command on a site's own files, with `--quick` behind it, in the page's own folder."""
    assert own
    (tmp_path / "contract.json").rename(tmp_path / "contract.toml")
    for folder in ("keys", "assessments"):
        (tmp_path / folder).mkdir()
    write_key(tmp_path / "keys" / "runner.key", "runner", "aare runner").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    text = (PROJECT_ROOT / "docs" / "howto" / "assess.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(treaty assess .*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        words = shlex.split(block.replace("\\\n", " "))
        shown = treaty(*words[1:], "--quick")
        assert shown.code == 0, shown.err
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {"assessment.html", "exposed.txt", "assessments/plain.json"} <= written
