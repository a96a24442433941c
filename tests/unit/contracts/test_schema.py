"""Contracts: one meaning has one digest, and no unsound contract can be had.

Planted and seen to fail: decimals kept as typed; no check that a merged level's target is kept;
support counting the level alone; reference level given a
column; every new range taken for a wider one; every change of a set taken for growth; a number
written out before its size is known; a number too long for the interpreter left to it.
"""

import re
from decimal import Decimal

import msgspec
import pytest

from tests.unit.contracts.example import CONTRACT, example_contract
from treaty.contracts import (
    contract_bytes,
    contract_digest,
    contract_from_bytes,
    coordinate_support,
    design_columns,
    parse_contract,
)
from treaty.contracts.decimals import decimal_text
from treaty.contracts.diff import Compatibility, compare, require_version
from treaty.errors import FormatError, PolicyError, UsageError
from treaty.ids import MemberId


def test_equal_meanings_have_equal_digests() -> None:
    """Spelling of numbers, order of keys and written-out defaults make no difference."""
    other = (
        CONTRACT.replace("range = [18, 110]", "range = [18.0, 110.00]\ncentre = 64\nspread = 46.0")
        .replace("positive = [1, 2]", 'positive = ["1", "2"]')
        .replace('name = "example"\nversion = "1.2.3"', 'version = "1.2.3"\nname = "example"')
    )
    assert other != CONTRACT
    assert contract_digest(parse_contract(other)) == contract_digest(example_contract())


def test_a_contract_comes_back_from_its_bytes() -> None:
    contract = example_contract()
    assert contract_from_bytes(contract_bytes(contract)) == contract
    assert b"." in contract_bytes(contract)
    assert b"700.5" in contract_bytes(contract)


BAD: list[tuple[str, str, str, str]] = [
    ("not TOML", 'name = "example"', "name = ", "TOML"),
    ("no format", 'format = "treaty.contract/v1"', "", "format"),
    ("another format", "contract/v1", "contract/v2", "format"),
    ("an unknown field", 'meaning = "age"', 'meaning = "age"\ncolour = "red"', "colour"),
    ("a repeated name", 'name = "sex"', 'name = "age"', "age"),
    ("the label as a feature", 'name = "sex"', 'name = "outcome"', "outcome"),
    ("a range that falls", "range = [18, 110]", "range = [110, 18]", "rises"),
    ("a centre outside", "centre = 200", "centre = 20", "centre"),
    ("no spread", "spread = 50", "spread = 0", "spread"),
    ("typical outside the range", "typical = [40, 80]", "typical = [10, 80]", "typical"),
    ("an unknown unit", 'unit = "a"', 'unit = "years"', "years"),
    ("a unit of another dimension", 'accept_units = ["mmol/L"]', 'accept_units = ["kPa"]', "kPa"),
    ("a molar unit without its analyte", 'analyte = "cholesterol"', "", "mmol/L"),
    ("a code twice", 'code = "f"', 'code = "m"', "distinct"),
    ("a level merged into a merged one", 'merged_into = "1"', 'merged_into = "3"', "merged"),
    ("a merged reference", 'meaning = "normal"', 'meaning = "normal", merged_into = "1"', "refer"),
    ("missing as an unknown level", 'missing_level = "u"', 'missing_level = "x"', "missing_level"),
    ("a level that is missing too", 'missing = ["?"]', 'missing = ["u"]', "both"),
    ("a subgroup of nothing", 'feature = "sex"', 'feature = "height"', "height"),
    ("a threshold for a category", "at_least = 70", 'levels = ["0"]', "at_least"),
    ("a number without a threshold", "at_least = 70", "", "at_least for a number"),
    ("levels of a number", "at_least = 70", 'at_least = 70\nlevels = ["f"]', "at_least for a"),
    ("a category's threshold", 'levels = ["f"]', 'levels = ["f"]\nat_least = 1', "kept levels"),
    ("an unknown level", 'levels = ["f"]', 'levels = ["f", "x"]', "kept levels of 'sex'"),
    (
        "a merged level",
        'feature = "sex"\nlevels = ["f"]',
        'feature = "ecg"\nlevels = ["0", "3"]',
        "kept levels of 'ecg'",
    ),
    ("a subgroup of no levels", 'levels = ["f"]', "levels = []", "at least one level"),
    ("a label code in two roles", "unknown = [9]", "unknown = [0]", "once"),
    ("no negative code", "negative = [0]", "negative = []", "negative"),
    ("no positive code", "positive = [1, 2]", "positive = []", "positive and negative codes"),
    ("an empty code", 'code = "f"', 'code = ""', "distinct codes that are not empty"),
    (
        "one level after merging",
        'code = "f", meaning = "female"',
        'code = "f", meaning = "female", merged_into = "m"',
        "at least two levels after merging, got 1",
    ),
    ("a share that falls", "[500, 1000]", "[501, 500]", "level 'm' has a share that falls"),
    ("a float where none belongs", 'version = "1.2.3"', "version = 1.2", "version"),
    ("sixteen digits", "range = [18, 110]", "range = [18, 1100000000000000000]", "digits"),
    ("not a number", "centre = 200", "centre = nan", "finite"),
    ("too small cells", 'text = "blood values"', "min_cell = 4", "min_cell"),
]


@pytest.mark.parametrize(("old", "new", "names"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_an_unsound_contract_is_refused_by_name(old: str, new: str, names: str) -> None:
    assert old in CONTRACT
    with pytest.raises(UsageError, match=names):
        parse_contract(CONTRACT.replace(old, new, 1))


def test_unsound_bytes_from_a_peer_are_a_format_error() -> None:
    contract = example_contract()
    unsound = msgspec.structs.replace(contract, features=contract.features[:1] * 2, subgroups=())
    with pytest.raises(FormatError, match="distinct"):
        contract_from_bytes(contract_bytes(unsound))
    with pytest.raises(FormatError):
        contract_from_bytes(contract_bytes(contract).replace(b'"700.5"', b'"700.50"'))


def test_design_columns_follow_the_contract_alone() -> None:
    columns = design_columns(example_contract())
    assert [(column.name, column.level) for column in columns] == [
        ("age", None),
        ("chol", None),
        ("sex=f", "f"),
        ("ecg=1", "1"),
        ("ecg=2", "2"),
        ("ecg=u", "u"),
    ]
    assert [column.bound for column in columns] == [1, 11, 1, 1, 1, 1]


def test_support_counts_members_on_both_sides_of_an_indicator() -> None:
    members = tuple(MemberId(name) for name in ("alpha", "beta", "gamma"))
    assert coordinate_support(example_contract(), members) == (3, 3, 3, 3, 1, 3)
    nearly_all = CONTRACT.replace(
        '{ code = "m", meaning = "male", share_permille = [500, 1000] }',
        '{ code = "m", meaning = "male", sites = ["gamma"] }',
    )
    assert coordinate_support(parse_contract(nearly_all), members)[2] == 1
    merged = CONTRACT.replace('merged_into = "1"', 'merged_into = "2", sites = ["beta", "gone"]')
    assert coordinate_support(parse_contract(merged), members)[4] == 2


CHANGES: list[tuple[str, str, Compatibility]] = [
    ('text = "blood values"', 'text = "blood"', Compatibility.PATCH),
    ('meaning = "age"', 'meaning = "completed years"', Compatibility.PATCH),
    ("range = [50, 700.5]", "range = [40, 800]", Compatibility.MINOR),
    ("missing = [999]", "missing = [999, 998]", Compatibility.MINOR),
    ("typical = [40, 80]", "typical = [41, 80]", Compatibility.MINOR),
    ('sites = ["alpha"]', 'sites = ["alpha", "beta"]', Compatibility.MINOR),
    ("at_least = 70", "at_least = 75", Compatibility.MINOR),
    ("centre = 200", "centre = 201", Compatibility.MAJOR),
    ("range = [18, 110]", "range = [20, 108]", Compatibility.MAJOR),
    ("range = [50, 700.5]", "range = [60, 700.5]", Compatibility.MAJOR),
    ("missing = [999]", "missing = []", Compatibility.MAJOR),
    ('code = "2"', 'code = "4"', Compatibility.MAJOR),
    ('meaning = "paced"', 'meaning = "infarct"', Compatibility.MAJOR),
    ('merged_into = "1"', 'merged_into = "2"', Compatibility.MAJOR),
    ("positive = [1, 2]", "positive = [1]", Compatibility.MAJOR),
    ("zero_is_missing = true", "zero_is_missing = false", Compatibility.MAJOR),
    ('missing_level = "u"', "", Compatibility.MAJOR),
    ('person_id = "person"', "", Compatibility.MAJOR),
]


@pytest.mark.parametrize(("old", "new", "expected"), CHANGES)
def test_a_change_has_its_class(old: str, new: str, expected: Compatibility) -> None:
    assert old in CONTRACT
    text = CONTRACT.replace(old, new, 1)
    changed = parse_contract(text)
    assert max(change.compatibility for change in compare(example_contract(), changed)) is expected
    enough = {1: "1.2.4", 2: "1.3.0", 3: "2.0.0"}
    for step, version in enough.items():
        claimed = parse_contract(text.replace("1.2.3", version))
        if step >= expected:
            assert require_version(example_contract(), claimed) is expected
        else:
            with pytest.raises(PolicyError):
                require_version(example_contract(), claimed)
    with pytest.raises(PolicyError):
        require_version(example_contract(), changed)


def test_equal_contracts_need_no_new_version() -> None:
    assert compare(example_contract(), example_contract()) == ()
    assert require_version(example_contract(), example_contract()) is Compatibility.SAME
    assert "1.2.3" in CONTRACT
    for higher in ("1.2.4", "1.3.0", "2.0.0"):
        renumbered = parse_contract(CONTRACT.replace("1.2.3", higher))
        assert require_version(example_contract(), renumbered) is Compatibility.SAME
    for lower in ("1.2.2", "1.1.9", "0.9.9"):
        with pytest.raises(PolicyError, match=f"from version 1.2.3, got {lower}"):
            require_version(example_contract(), parse_contract(CONTRACT.replace("1.2.3", lower)))


@pytest.mark.timeout(10)
@pytest.mark.parametrize("bound", ["1e999999999", "1e-999999999", "-1e15", "1e-17", "9" * 16])
def test_a_bound_of_any_exponent_is_refused_before_it_is_written_out(bound: str) -> None:
    """Nine digits of exponent are a gigabyte of zeros."""
    text = re.sub(r"range = \[[^,]*,", f"range = [{bound},", CONTRACT, count=1)
    assert text != CONTRACT
    with pytest.raises(UsageError, match="at most 15 digits") as caught:
        parse_contract(text)
    assert len(str(caught.value)) < 120


def test_a_number_that_the_interpreter_does_not_read_is_no_bug() -> None:
    with pytest.raises(UsageError, match="expected a contract in TOML"):
        parse_contract(f"min_cell = {'9' * 5000}\n{CONTRACT}")


def test_zero_has_one_spelling_whatever_its_exponent() -> None:
    for zero in ("0e999999999", "-0.0", "0"):
        assert decimal_text(Decimal(zero)) == "0"
