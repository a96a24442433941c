"""Contracts, site data and plans on the command line.

Planted and caught: a cell of the site's file in a finding, exit 0 in spite of findings, the
version rule of contracts left out, the site's name kept from the checks, recipients read from the
matrix without the number of members, the plan bound to another charter, one label or one value
in every row passed over.
"""

import csv
import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import FAR, Command
from tests.unit.governance.consortia import founding
from treaty.contracts.schema import Number, contract_bytes, contract_digest, parse_contract
from treaty.governance.charter import charter_digest, charter_from_toml, charter_to_toml
from treaty.governance.template import CharterOptions
from treaty.studies.plan import plan_bytes, plan_from_toml
from treaty.studies.queries import NO_DIGEST


def _plan_words(desk: Path) -> list[object]:
    return [
        *("--plan", desk / "plan.toml"),
        *("--contract", desk / "contract.toml"),
        *("--charter", desk / "charter.toml"),
    ]


def _data_words(desk: Path) -> list[object]:
    return [
        *("--contract", desk / "contract.toml"),
        *("--adapter", desk / "adapter.toml"),
        *("--data", desk / "site.csv"),
    ]


def _swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_contract_is_checked_in_either_form(treaty: Command, desk: Path) -> None:
    """TOML and its canonical JSON have one digest."""
    contract = parse_contract((desk / "contract.toml").read_text())
    (desk / "contract.json").write_bytes(contract_bytes(contract) + b"\n")
    shown = treaty("contract", "check", desk / "contract.toml")
    assert shown.code == 0
    assert f"digest {contract_digest(contract)}\n" in shown.out
    assert treaty("contract", "check", desk / "contract.json").out == shown.out


@pytest.mark.parametrize(
    ("code", "text"),
    [(2, "format = "), (2, 'format = "treaty.contract/v1"\n'), (3, "{"), (3, '{"a":1}')],
)
def test_a_file_that_is_no_contract_is_named(
    code: int, text: str, treaty: Command, tmp_path: Path
) -> None:
    """And so is one that is not there."""
    path = tmp_path / "c"
    assert treaty("contract", "check", path).code == 5
    path.write_text(text)
    shown = treaty("contract", "check", path)
    assert shown.code == code
    assert str(path) in shown.err


@pytest.mark.parametrize(
    ("old", "new", "version", "worst", "code"),
    [
        ("", "", "1.2.3", "same", 0),
        ("blood values", "values of blood", "1.2.4", "patch", 0),
        ("blood values", "values of blood", "1.2.3", "patch", 4),
        ("typical = [40, 80]", "typical = [40, 81]", "1.3.0", "minor", 0),
        ("typical = [40, 80]", "typical = [40, 81]", "1.2.4", "minor", 4),
        ('unit = "a"', 'unit = "mo"', "2.0.0", "major", 0),
        ('unit = "a"', 'unit = "mo"', "1.9.0", "major", 4),
    ],
)
def test_a_change_of_contract_asks_for_its_version(
    old: str, new: str, version: str, worst: str, code: int, treaty: Command, desk: Path
) -> None:
    """A number that claims less is refused by exit 4; the class is printed all the same."""
    text = (desk / "contract.toml").read_text()
    (desk / "new.toml").write_text(text.replace(old, new, 1).replace("1.2.3", version))
    shown = treaty("contract", "diff", desk / "contract.toml", desk / "new.toml")
    assert shown.code == code
    assert f"class {worst}\n" in shown.out
    words = ["contract", "diff", desk / "contract.toml", desk / "new.toml", "--format", "json"]
    record = json.loads(treaty(*words).out)
    assert record["class"] == worst
    assert bool(record["fault"]) is (code == 4)


def test_a_site_that_conforms_is_told_its_counts(treaty: Command, desk: Path) -> None:
    """Rows read are rows usable and rows dropped."""
    shown = treaty("data", "check", *_data_words(desk))
    assert shown.code == 0
    assert shown.out.endswith("conforms to the contract; nothing was sent\n")
    record = json.loads(treaty("data", "check", *_data_words(desk), "--format", "json").out)
    assert record["rows"] == 60 == record["usable"] + sum(record["dropped"].values())
    assert record["findings"] == []


def test_what_is_the_same_in_every_row_is_noted(treaty: Command, desk: Path) -> None:
    """Such a site takes part; mostly it is the wrong column, or a code misread."""
    contract = parse_contract((desk / "contract.toml").read_text())
    number = next(one.name for one in contract.features if isinstance(one, Number))
    sound = json.loads(treaty("data", "check", *_data_words(desk), "--format", "json").out)
    assert sound["notes"] == []
    for column, note in (
        (contract.label.name, "every usable row has the same label"),
        (number, f"{number} has the same value in every usable row"),
    ):
        with (desk / "site.csv").open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        given = next(row for row in rows if row[column] and row[contract.label.name] != "9")
        with (desk / "same.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, column: given[column]} for row in rows)
        words = [*_data_words(desk)[:-1], desk / "same.csv"]
        shown = treaty("data", "check", *words)
        assert shown.code == 0
        assert f"note: {note}" in shown.out
        found = json.loads(treaty("data", "check", *words, "--format", "json").out)["notes"]
        assert [one.startswith(note) for one in found] == [True]


DAMAGES = {
    "out of range": ("p7,", "p7,1993-01,1,987654321,200,m,0\nx,", "out-of-range"),
    "no number": ("p7,", "p7,1993-01,1,tell-tale,200,m,0\nx,", "not-a-number"),
    "unknown level": ("p7,", "p7,1993-01,1,50,200,tell-tale,0\nx,", "unknown-level"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_fault_in_the_data_is_named_without_its_value(
    case: str, treaty: Command, desk: Path
) -> None:
    """Exit 2, and no cell in either stream."""
    old, new, fault = DAMAGES[case]
    _swap(desk / "site.csv", old, new)
    shown = treaty("data", "check", *_data_words(desk))
    assert shown.code == 2
    assert fault in shown.out
    assert shown.err == ""
    assert "tell-tale" not in shown.out
    assert "987654321" not in shown.out


def test_a_level_that_another_site_declared_is_a_finding(treaty: Command, desk: Path) -> None:
    """The adapter says which site the file is of."""
    _swap(desk / "contract.toml", 'meaning = "abnormal"', 'meaning = "abnormal", sites = ["beta"]')
    shown = treaty("data", "check", *_data_words(desk), "--format", "json")
    assert shown.code == 2
    faults = {one["fault"] for one in json.loads(shown.out)["findings"]}
    assert faults == {"level-not-declared-here"}


def test_files_that_do_not_fit_together_are_refused(treaty: Command, desk: Path) -> None:
    """An adapter for another contract, none, or a file that is not there."""
    words = _data_words(desk)
    _swap(desk / "adapter.toml", '"example"', '"another"')
    assert treaty("data", "check", *words).code == 2
    (desk / "adapter.toml").write_text("nothing")
    shown = treaty("data", "check", *words)
    assert shown.code == 2
    assert str(desk / "adapter.toml") in shown.err
    (desk / "adapter.toml").unlink()
    assert treaty("data", "check", *words).code == 5


def test_missing_data_are_a_matter_of_resources(treaty: Command, desk: Path) -> None:
    """Exit 5, without a traceback."""
    (desk / "site.csv").unlink()
    shown = treaty("data", "check", *_data_words(desk))
    assert shown.code == 5
    assert "site.csv" in shown.err


def test_a_plan_without_findings_may_be_put_to_the_vote(treaty: Command, desk: Path) -> None:
    """As TOML, and as the canonical JSON that is proposed."""
    shown = treaty("plan", "check", *_plan_words(desk))
    assert (shown.code, shown.err) == (0, "")
    assert "nothing found" in shown.out
    charter = charter_from_toml((desk / "charter.toml").read_text())
    contract = parse_contract((desk / "contract.toml").read_text())
    plan = plan_from_toml(
        (desk / "plan.toml").read_text(),
        charter=charter_digest(charter),
        contract=contract_digest(contract),
        code=NO_DIGEST,
    )
    (desk / "plan.toml").write_bytes(plan_bytes(plan) + b"\n")
    assert treaty("plan", "check", *_plan_words(desk)).out == shown.out
    _swap(desk / "charter.toml", "Charter of", "Another of")
    other = treaty("plan", "check", *_plan_words(desk), "--format", "json")
    assert other.code == 4
    assert [one["code"] for one in json.loads(other.out)["findings"]] == ["wrong-charter"]


FINDINGS = {
    "a column of one site": (
        "contract.toml",
        '  { code = "3",',
        '  { code = "2", meaning = "paced", sites = ["aare.example"] },\n  { code = "3",',
        "least-support",
    ),
    "site figures": (
        "plan.toml",
        'study = "first"',
        'study = "first"\nevaluation = { site_figures = true }',
        "exposure",
    ),
    "a use that was not agreed": ("plan.toml", "DUO:0000006", "DUO:0000042", "data-use"),
    "a sum that could wrap": (
        "plan.toml",
        'study = "first"',
        'study = "first"\naggregation = { scale_bits = 44, max_persons_per_site = 16777216 }',
        "capacity",
    ),
}


@pytest.mark.parametrize("case", FINDINGS)
def test_what_a_plan_breaks_is_found_before_the_vote(
    case: str, treaty: Command, desk: Path
) -> None:
    """Exit 4, with the code of the finding."""
    file, old, new, code = FINDINGS[case]
    _swap(desk / file, old, new)
    shown = treaty("plan", "check", *_plan_words(desk), "--format", "json")
    assert (shown.code, shown.err) == (4, "")
    assert {one["code"] for one in json.loads(shown.out)["findings"]} == {code}
    assert code in treaty("plan", "check", *_plan_words(desk)).out


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [("study", "stud", 2), ('"first"', "[", 2), ("title", 'charter = "x"\ntitle', 2)],
)
def test_a_file_that_is_no_plan_is_named(
    old: str, new: str, code: int, treaty: Command, desk: Path
) -> None:
    """By both commands."""
    _swap(desk / "plan.toml", old, new)
    for verb in ("check", "explain"):
        shown = treaty("plan", verb, *_plan_words(desk))
        assert shown.code == code
        assert "plan.toml" in shown.err


def test_an_explanation_lists_every_sum_and_its_readers(treaty: Command, desk: Path) -> None:
    """The recipients are the matrix's, over the least number of members."""
    shown = treaty("plan", "explain", *_plan_words(desk))
    assert shown.code == 0
    assert "gradient-hessian-sum: at most 5 times\n" in shown.out
    assert "no figure of a site alone leaves it\n" in shown.out
    record = json.loads(treaty("plan", "explain", *_plan_words(desk), "--format", "json").out)
    assert [one["kind"] for one in record["sums"]] == [
        "support-sum",
        "statistics-sum",
        "gradient-hessian-sum",
        "evaluation-histogram",
    ]
    for one in record["sums"]:
        assert one["recipients"] == ["coordinator", "member", "auditor"]
        assert one["words"] == sum(part["length"] for part in one["segments"])
    assert record["columns"] == ["age", "chol", "sex=f", "ecg=1", "ecg=u"]


def test_an_explanation_says_when_nobody_may_read_a_sum(treaty: Command, desk: Path) -> None:
    """A row that asks for more members than a sum has allows nothing."""
    start = (desk / "charter.toml").read_text().index('artefact = "statistics-sum"')
    text = (desk / "charter.toml").read_text()
    rest = text[start:].replace("least_members = 3", "least_members = 4", 1)
    (desk / "charter.toml").write_text(text[:start] + rest)
    record = json.loads(treaty("plan", "explain", *_plan_words(desk), "--format", "json").out)
    readers = {one["kind"]: one["recipients"] for one in record["sums"]}
    assert readers["statistics-sum"] == []
    assert readers["support-sum"]
    assert "the charter has no such row" in treaty("plan", "explain", *_plan_words(desk)).out


def _private_desk(desk: Path) -> None:
    """Turn the desk's charter, contract and plan into private ones, the noise left to be found."""
    charter = founding(4, CharterOptions(expires=FAR, epsilon_budget_milli=3000, delta="1e-5"))
    (desk / "charter.toml").write_text(charter_to_toml(charter))
    contract = desk / "contract.toml"
    _swap(contract, '.contract/v1"', '.contract/v1"\nnormalise = "public_bounds"')
    model = '{ kind = "logistic-regression", site_intercepts = false, unit_rows = true }'
    _swap(desk / "plan.toml", '{ kind = "logistic-regression", max_rounds = 5 }', model)
    noise = 'kind = "distributed-gaussian", epsilon_milli = 1000, delta_inverse = 200000'
    _swap(desk / "plan.toml", 'kind = "exact"', noise)


def test_a_plan_of_one_noised_sum_is_written_checked_and_explained(
    treaty: Command, desk: Path
) -> None:
    """Two lines of text: its kind and what it promises. Rounds have no place in it."""
    _private_desk(desk)
    plan = desk / "plan.toml"
    _swap(plan, '"distributed-gaussian"', '"noised-statistics"')
    checked = treaty("plan", "check", *_plan_words(desk))
    assert (checked.code, checked.err) == (0, ""), checked.out
    shown = treaty("plan", "explain", *_plan_words(desk)).out
    for line in (
        "privacy: epsilon 1.000 promised, person by person\n",
        "  training: epsilon 1.000 at delta 1/200000, ",
        "  one sum of clipped statistics over everybody, clip 1.41421 = 2^24 grid units\n",
        " clips in that sum, carried by 2 honest shares of 4; every site draws ",
        "noised-sufficient-statistics: once\n",
        "    hessian: ",
        "  discloses sums of the quantities that fit a model, with noise\n",
    ):
        assert line in shown, line
    _swap(plan, '"noised-statistics"', '"noised-statistics", rounds = 3')
    refused = treaty("plan", "check", *_plan_words(desk))
    assert refused.code == 2 and "rounds" in refused.err


def test_a_plan_with_a_noised_holdout_is_written_checked_and_explained(
    treaty: Command, desk: Path
) -> None:
    """One table more; the noise is found on reading, and the charter has its row."""
    _private_desk(desk)
    plan = desk / "plan.toml"
    noised = 'delta_inverse = 200000, holdout = { kind = "noised", epsilon_milli = 500 }'
    _swap(plan, "delta_inverse = 200000", noised)
    checked = treaty("plan", "check", *_plan_words(desk))
    assert (checked.code, checked.err) == (0, ""), checked.out
    shown = treaty("plan", "explain", *_plan_words(desk)).out
    for line in (
        "  holdout: epsilon 0.500 at delta 1/200000, ",
        "; as the charter's row evaluation-histogram as noised over at least 3 has it\n",
        "noised-evaluation-histogram: once\n",
        "  discloses summed histograms of a model's scores on test data, with noise\n",
        "    federated.negative: 64 words, whole numbers, ",
    ):
        assert line in shown, line
    assert "not differentially private" not in shown
    _swap(plan, "epsilon_milli = 500", "epsilon_milli = 0")
    refused = treaty("plan", "check", *_plan_words(desk))
    assert refused.code == 2 and "holdout" in refused.err


def test_an_explanation_says_what_the_noise_is_and_promises(treaty: Command, desk: Path) -> None:
    """Epsilon, noise, honest shares and what collusion costs; the noise was found on reading."""
    _private_desk(desk)
    checked = treaty("plan", "check", *_plan_words(desk))
    assert (checked.code, checked.err) == (0, ""), checked.out
    shown = treaty("plan", "explain", *_plan_words(desk)).out
    for line in (
        "privacy: epsilon 1.000 promised, person by person\n",
        "  training: epsilon 1.000 at delta 1/200000, ",
        "  holdout: exact, not differentially private, accepted in the charter's row ",
        "  20 rounds of gradient descent on clipped sums, clip 0.5 = 2^24 grid units, ",
        " carried by 2 honest shares of 4; every site draws ",
        "  surplus noise comes off in one part: a sum over all 4 carries ",
        "  2 collude: epsilon 1.4",
        "noised-count: once\n",
        "noised-gradient-sum: at most 20 times\n",
        "  discloses sums of the quantities that fit a model, with noise\n",
    ):
        assert line in shown, line
    record = json.loads(treaty("plan", "explain", *_plan_words(desk), "--format", "json").out)
    assert record["privacy"]["terms"]["surplus_tiers"] == 1
    assert record["privacy"]["terms"]["epsilon_milli"] == 1000
    assert int(record["privacy"]["terms"]["variance"], 16) > 1 << 50
    assert [one["kind"] for one in record["sums"]] == [
        "noised-count",
        "noised-gradient-sum",
        "evaluation-histogram",
    ]
    assert all(one["recipients"] for one in record["sums"])


def test_a_plan_may_leave_its_surplus_noise_in(treaty: Command, desk: Path) -> None:
    """By saying so in the file; what is printed of collusion then counts losses too."""
    _private_desk(desk)
    _swap(desk / "plan.toml", "epsilon_milli = 1000", "epsilon_milli = 1000, surplus_tiers = 0")
    assert treaty("plan", "check", *_plan_words(desk)).code == 0
    shown = treaty("plan", "explain", *_plan_words(desk)).out
    assert "  surplus noise stays in, however many take part\n" in shown
    assert "  3 of 4 shares known or missing: epsilon 1.4" in shown


def test_a_private_plan_that_promises_too_much_is_found(treaty: Command, desk: Path) -> None:
    _private_desk(desk)
    _swap(desk / "plan.toml", "epsilon_milli = 1000", "epsilon_milli = 4000")
    shown = treaty("plan", "check", *_plan_words(desk), "--format", "json")
    assert shown.code == 4
    assert [one["code"] for one in json.loads(shown.out)["findings"]] == ["privacy-budget"]


BAD_PRIVACY: dict[str, tuple[str, str, str, int, str]] = {
    "no public bounds": (
        "contract.toml",
        'normalise = "public_bounds"',
        'normalise = "federated_zscore"',
        4,
        "no-public-bounds",
    ),
    "no delta": ("plan.toml", ", delta_inverse = 200000", "", 2, "delta_inverse"),
    "a delta of one": ("plan.toml", "= 200000", "= 1", 2, "delta_inverse"),
    "epsilon zero": ("plan.toml", "epsilon_milli = 1000", "epsilon_milli = 0", 2, "epsilon_milli"),
    "epsilon below zero": ("plan.toml", "epsilon_milli = 1000", "epsilon_milli = -1", 2, "epsilon"),
    "clip zero": ("plan.toml", "= 200000", "= 200000, clip_micro = 0", 2, "clip_micro"),
    "a rate of nothing": ("plan.toml", "= 200000", "= 200000, sampling = 0", 2, "sampling"),
    "noise below the sampler's range": (
        "plan.toml",
        "= 200000",
        '= 200000, variance = "ff", count_variance = "ff"',
        4,
        "noise-range",
    ),
    "noise above the sampler's range": (
        "plan.toml",
        "= 200000",
        f'= 200000, variance = "{1 << 84:x}", count_variance = "{1 << 84:x}"',
        4,
        "noise-range",
    ),
    "too many colluders for an honest member": (
        "charter.toml",
        "max_colluders = 1",
        "max_colluders = 3",
        4,
        "max_colluders",
    ),
    "no unit": ("contract.toml", 'person_id = "person"\n', 'unit = "visit"\n', 4, "person-id"),
    "a budget of nothing": (
        "charter.toml",
        "epsilon_budget_milli = 3000",
        "epsilon_budget_milli = 0",
        4,
        "privacy",
    ),
}


@pytest.mark.parametrize("what", BAD_PRIVACY)
def test_privacy_that_cannot_be_promised_is_refused_in_one_line(
    what: str, treaty: Command, desk: Path
) -> None:
    """Before any vote, so nothing is charged; a spent budget is each site's own refusal."""
    _private_desk(desk)
    assert treaty("plan", "check", *_plan_words(desk)).code == 0
    file, old, new, code, named = BAD_PRIVACY[what]
    _swap(desk / file, old, new)
    shown = treaty("plan", "check", *_plan_words(desk))
    assert shown.code == code, shown
    said = shown.err or shown.out
    assert named in said, said
    assert "Traceback" not in said
    assert len([line for line in said.splitlines() if named in line]) == 1
