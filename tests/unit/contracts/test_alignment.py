"""Alignment: each operation does what its record says, or refuses.

Planted and seen to fail: missing values scaled; bucket edges counted below instead of at;
age without the birthday; unknown codes passed through; examples not replayed; an adapter without
its format taken; a column left unmade; dates in the wrong order; numbers beyond the exact range.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.contracts.example import example_contract
from treaty.contracts import Adapter, RawTable, adapter_digest, align, check_adapter, parse_adapter
from treaty.errors import UsageError

HEAD = 'format = "treaty.adapter/v1"\ncontract = "example"\nsite = "alpha"\nmissing = ["NA"]\n'


def adapter(*operations: str) -> Adapter:
    return parse_adapter(HEAD + "".join(f"[[operations]]\n{text}\n" for text in operations))


def run(operation: str, **columns: list[str]) -> dict[str, list[str]]:
    table = RawTable({name: tuple(values) for name, values in columns.items()})
    made = align(adapter(operation), table).columns
    return {name: list(values) for name, values in made.items()}


def test_missing_values_of_every_spelling_become_the_empty_text() -> None:
    assert run('op = "constant"\ncolumn = "k"\nvalue = 1', a=["NA", " NA ", "", "x "]) == {
        "a": ["", "", "", "x"],
        "k": ["1", "1", "1", "1"],
    }


POLISH = 'op = "parse_date"\ncolumn = "a"\norder = "month-year"\nlocale = "pl"\n'

ROWS: list[tuple[str, list[str], list[str]]] = [
    ('op = "map"\ncolumn = "a"\ncodes = { M = "m", W = "f" }', ["M", "W", "NA"], ["m", "f", ""]),
    ('op = "map"\ncolumn = "a"\ncodes = { "" = "u" }\nkeep_others = true', ["x", "NA"], ["x", "u"]),
    ('op = "whole_number"\ncolumn = "a"', ["1.0", "01", "NA", "-3"], ["1", "1", "", "-3"]),
    ('op = "scale"\ncolumn = "a"\nfactor = 0.1', ["3", "0.7", "NA"], ["0.3", "0.07", ""]),
    ('op = "scale"\ncolumn = "a"\nfactor = 1.8\noffset = 32', ["37"], ["98.6"]),
    ('op = "clip"\ncolumn = "a"\nlow = 0\nhigh = 9.5', ["-1", "12", "3.50"], ["0", "9.5", "3.5"]),
    (
        POLISH + 'aliases = { "pa?" = 10 }',
        ["sty-91", "pa?-95", "PAŹ-95", "NA"],
        ["1991-01", "1995-10", "1995-10", ""],
    ),
    (
        'op = "parse_date"\ncolumn = "a"\norder = "day-month-year"\nlocale = "de"\ncentury = 2000',
        ["29.2.04", "1 mär 2019"],
        ["2004-02-29", "2019-03-01"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "before", "after"), ROWS)
def test_an_operation_does_what_it_says(
    operation: str, before: list[str], after: list[str]
) -> None:
    assert run(operation, a=before) == {"a": after}


def test_columns_can_be_made_of_others() -> None:
    assert run(
        'op = "coalesce"\ncolumns = ["a", "b"]\nto = "c"', a=["1", "NA", ""], b=["2", "3", ""]
    )["c"] == ["1", "3", ""]
    bucket = (
        'op = "bucket"\ncolumn = "a"\nto = "c"\nedges = [10, 20]\nlabels = ["low", "mid", "high"]'
    )
    assert run(bucket, a=["9.9", "10", "19", "20", "NA"])["c"] == ["low", "mid", "mid", "high", ""]
    age = 'op = "age"\nborn = "a"\nat = "b"\nto = "c"'
    assert run(age, a=["1950-06-15"] * 3, b=["2000-06-14", "2000-06-15", "NA"])["c"] == [
        "49",
        "50",
        "",
    ]
    assert run('op = "rename"\ncolumn = "a"\nto = "z"', a=["1"], b=["2"]) == {
        "z": ["1"],
        "b": ["2"],
    }
    assert run('op = "drop"\ncolumns = ["a"]', a=["1"], b=["2"]) == {"b": ["2"]}


REFUSED: list[tuple[str, str]] = [
    ('op = "map"\ncolumn = "a"\ncodes = { M = "m" }', "W"),
    ('op = "whole_number"\ncolumn = "a"', "1.5"),
    ('op = "scale"\ncolumn = "a"\nfactor = 2', "1,5"),
    ('op = "clip"\ncolumn = "a"\nlow = 0\nhigh = 1', "inf"),
    ('op = "parse_date"\ncolumn = "a"\norder = "month-year"\nlocale = "pl"', "pa?-95"),
    ('op = "parse_date"\ncolumn = "a"\norder = "year-month-day"', "2001-02-29"),
    ('op = "age"\nborn = "a"\nat = "a"\nto = "c"', "yesterday"),
    ('op = "rename"\ncolumn = "b"\nto = "c"', "1"),
    ('op = "constant"\ncolumn = "a"\nvalue = 1', "1"),
    ('op = "bucket"\ncolumn = "a"\nto = "c"\nedges = [1]\nlabels = ["x", "y"]', "?"),
]


@pytest.mark.parametrize(("born", "at"), [("1950-02-30", "2000-01-01"), ("2000-01-01", "?")])
def test_of_both_dates_each_must_be_one_and_the_later_comes_last(born: str, at: str) -> None:
    age = 'op = "age"\nborn = "a"\nat = "b"\nto = "c"'
    with pytest.raises(UsageError, match="row 1 give no age"):
        run(age, a=[born], b=[at])
    assert run(age, a=["2000-01-02"], b=["2000-01-02"])["c"] == ["0"]
    with pytest.raises(UsageError, match="row 1 give no age"):
        run(age, a=["2000-01-02"], b=["2000-01-01"])


@pytest.mark.parametrize("factor", ["1", "10", "1000000"])
def test_what_leaves_the_exact_range_is_refused_and_not_rounded(factor: str) -> None:
    scale = f'op = "scale"\ncolumn = "a"\nfactor = {factor}'
    assert run(scale, a=["1"])["a"] == [factor]
    offset = "\noffset = 999999999999999"
    with pytest.raises(UsageError, match=r"operation 1: expected numbers below 10\*\*15"):
        run(scale + offset, a=["999999999999999"])


def test_a_table_is_rectangular_and_its_units_are_of_its_columns() -> None:
    made = RawTable.from_rows(["a", "b"], [["1", "2"], ["3", "4"]])
    assert made.columns == {"a": ("1", "3"), "b": ("2", "4")}
    with pytest.raises(UsageError, match=r"one length, got lengths \[1, 2\]"):
        RawTable({"a": ("1",), "b": ("1", "2")})
    with pytest.raises(UsageError, match="got one for 'c'"):
        RawTable({"a": ("1",)}, {"c": "kg"})
    with pytest.raises(UsageError, match=r"distinct column names, .*: columns 1 and 2"):
        RawTable.from_rows(["a", "a"], [["1", "2"]])
    for row in (["1"], ["1", "2", "3"], []):
        with pytest.raises(UsageError, match=f"row 2: expected 2 cells, got {len(row)}"):
            RawTable.from_rows(["a", "b"], [["1", "2"], row])


def test_an_adapter_says_its_format() -> None:
    with pytest.raises(UsageError, match=r'expected format = "treaty\.adapter/v1"'):
        parse_adapter(HEAD.partition("\n")[2])


@pytest.mark.parametrize(("operation", "value"), REFUSED)
def test_what_an_operation_does_not_understand_refuses_the_table(
    operation: str, value: str
) -> None:
    with pytest.raises(UsageError) as caught:
        run(operation, a=["NA", value])
    assert "operation 1" in str(caught.value)
    assert value == "1" or value not in str(caught.value)


@pytest.mark.parametrize(
    "operation",
    [
        'op = "python"\ncode = "1"',
        'op = "scale"\ncolumn = "a"\nfactor = 0',
        'op = "clip"\ncolumn = "a"\nlow = 2\nhigh = 1',
        'op = "bucket"\ncolumn = "a"\nto = "c"\nedges = [2, 1]\nlabels = ["x", "y", "z"]',
        'op = "bucket"\ncolumn = "a"\nto = "c"\nedges = [1]\nlabels = ["x"]',
        'op = "parse_date"\ncolumn = "a"\norder = "month-year"\nlocale = "xx"',
        'op = "parse_date"\ncolumn = "a"\norder = "%m-%Y"',
        'op = "rename"\ncolumn = "a"',
    ],
)
def test_an_unsound_operation_is_refused_before_any_row(operation: str) -> None:
    with pytest.raises(UsageError):
        adapter(operation)


SOUND = (
    HEAD
    + """
[units]
age = "a"
chol = "mmol/L"
[[operations]]
op = "rename"
column = "years"
to = "age"
[[operations]]
op = "map"
column = "sex"
codes = { "1" = "m", "2" = "f" }
[[examples]]
row = { years = "70", sex = "2" }
expected = { age = "70", sex = "f" }
"""
)
COLUMNS = ("person", "day", "outcome", "years", "chol", "sex", "ecg")


def test_a_sound_adapter_passes_on_names_alone() -> None:
    check_adapter(parse_adapter(SOUND), example_contract(), COLUMNS)


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ('column = "years"', 'column = "jahre"', "jahre"),
        ('to = "age"', 'to = "agee"', "agee|age"),
        ('to = "age"', 'to = "chol"', "exists"),
        ('chol = "mmol/L"', 'chol = "g/L"', "accept"),
        ('chol = "mmol/L"', "", "unit for 'chol'"),
        ('chol = "mmol/L"', 'chol = "mmol"', "UCUM"),
        ('chol = "mmol/L"', 'chol = "mmol/L"\nweight = "kg"', "weight"),
        ('sex = "f" }', 'sex = "m" }', "example 1"),
        ('{ "1" = "m", "2" = "f" }', '{ "1" = "f", "2" = "m" }', "example 1"),
        ('contract = "example"', 'contract = "other"', "other"),
        ('sex = "f" }', 'weight = "70" }', "example 1: adapter makes no column 'weight'"),
    ],
)
def test_an_adapter_that_leads_elsewhere_is_refused(old: str, new: str, names: str) -> None:
    assert old in SOUND
    with pytest.raises(UsageError, match=names):
        check_adapter(parse_adapter(SOUND.replace(old, new, 1)), example_contract(), COLUMNS)


@pytest.mark.parametrize("missing", ["person", "day", "outcome", "ecg"])
def test_an_adapter_makes_every_column_also_the_ones_that_no_operation_touches(
    missing: str,
) -> None:
    left = [name for name in COLUMNS if name != missing]
    with pytest.raises(UsageError, match=rf"makes no column '{missing}' \(1 missing in all\)"):
        check_adapter(parse_adapter(SOUND), example_contract(), left)


def test_an_adapter_has_one_digest() -> None:
    one = adapter('op = "scale"\ncolumn = "a"\nfactor = 0.1')
    other = adapter('factor = 0.10\nop = "scale"\ncolumn = "a"\noffset = 0.0')
    assert adapter_digest(one) == adapter_digest(other)
    assert adapter_digest(one) != adapter_digest(adapter('op = "scale"\ncolumn = "a"\nfactor = 1'))


@given(st.lists(st.text(max_size=6), min_size=2, max_size=6))
def test_no_row_influences_another(values: list[str]) -> None:
    """Aligning rows one by one gives what aligning them together gives."""
    made = adapter(
        'op = "map"\ncolumn = "a"\ncodes = { "1" = "x" }\nkeep_others = true',
        'op = "coalesce"\ncolumns = ["a"]\nto = "b"',
    )
    together = align(made, RawTable({"a": tuple(values)})).columns["b"]
    alone = tuple(align(made, RawTable({"a": (value,)})).columns["b"][0] for value in values)
    assert together == alone
