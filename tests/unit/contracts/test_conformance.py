"""Conformance: every seeded misalignment is found, and a clean site raises no alarm.

Planted in the code and seen to fail here: range check without the upper bound; unit taken
from the contract when none is declared; merged level kept apart; missing level dropped;
repeated persons counted once; median taken over zeros too; subgroup over all rows.
"""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from tests.unit.contracts.example import UNITS, clean_columns, example_contract, table
from treaty.contracts import Fault, conform, examine, support_indicator
from treaty.contracts.schema import check_contract
from treaty.errors import UsageError
from treaty.ids import MemberId

Columns = dict[str, list[str]]


def change(name: str, alter: Callable[[str], str]) -> Callable[[Columns], None]:
    def damage(columns: Columns) -> None:
        columns[name] = [alter(text) for text in columns[name]]

    return damage


def put(name: str, value: str, row: int = 7) -> Callable[[Columns], None]:
    def damage(columns: Columns) -> None:
        columns[name][row] = value

    return damage


def swap(one: str, other: str) -> Callable[[Columns], None]:
    def damage(columns: Columns) -> None:
        columns[one], columns[other] = columns[other], columns[one]

    return damage


def drop(name: str) -> Callable[[Columns], None]:
    def damage(columns: Columns) -> None:
        del columns[name]

    return damage


def cut(columns: Columns) -> None:
    for name in columns:
        columns[name] = []


FLIP = {"m": "f", "f": "m"}

FAULTS: list[tuple[str, Callable[[Columns], None], Fault]] = [
    ("a feature is not there", drop("chol"), Fault.MISSING_COLUMN),
    ("the label is not there", drop("outcome"), Fault.MISSING_COLUMN),
    ("the table has no rows", cut, Fault.EMPTY_TABLE),
    ("an age is text", put("age", "sixty"), Fault.NOT_A_NUMBER),
    ("a decimal comma", put("chol", "210,5"), Fault.NOT_A_NUMBER),
    ("not a number by name", put("chol", "nan"), Fault.NOT_A_NUMBER),
    ("infinity by name", put("chol", "inf"), Fault.NOT_A_NUMBER),
    ("digit groups", put("chol", "1_000"), Fault.NOT_A_NUMBER),
    ("an undeclared missing code", put("age", "999"), Fault.OUT_OF_RANGE),
    ("a negative missing code", put("age", "-9"), Fault.OUT_OF_RANGE),
    ("a slipped decimal point", put("chol", "2100"), Fault.OUT_OF_RANGE),
    (
        "mmol/L under the name of mg/dL",
        change("chol", lambda text: format(int(text) / 38.67, ".2f")),
        Fault.OUT_OF_RANGE,
    ),
    (
        "ages doubled within the range",
        change("age", lambda text: str(min(110, 2 * int(text)))),
        Fault.IMPLAUSIBLE_MEDIAN,
    ),
    ("two columns swapped", swap("age", "chol"), Fault.OUT_OF_RANGE),
    ("sex coded the other way", change("sex", lambda text: FLIP[text]), Fault.IMPLAUSIBLE_SHARE),
    ("sex in capitals", change("sex", str.upper), Fault.UNKNOWN_LEVEL),
    ("codes written as decimals", change("ecg", lambda text: text + ".0"), Fault.UNKNOWN_LEVEL),
    ("a level of another member", put("ecg", "2"), Fault.LEVEL_NOT_DECLARED_HERE),
    ("a blank in a code", put("sex", "m "), Fault.UNKNOWN_LEVEL),
    ("an outcome outside the list", put("outcome", "4"), Fault.UNKNOWN_LABEL),
    ("a person twice", put("person", "p1"), Fault.REPEATED_PERSON),
    ("a person without a name", put("person", ""), Fault.MISSING_PERSON),
    ("a month name left in a date", put("day", "paź-95"), Fault.BAD_DATE),
    ("month thirteen", put("day", "1995-13"), Fault.BAD_DATE),
]


@pytest.mark.parametrize(
    ("damage", "fault"), [row[1:] for row in FAULTS], ids=[r[0] for r in FAULTS]
)
def test_a_seeded_misalignment_is_found(damage: Callable[[Columns], None], fault: Fault) -> None:
    columns = clean_columns()
    damage(columns)
    units = {name: unit for name, unit in UNITS.items() if name in columns}
    damaged = table(columns, units)
    found = {
        finding.fault for finding in examine(example_contract(), damaged, site=MemberId("beta"))
    }
    assert fault in found
    with pytest.raises(UsageError):
        conform(example_contract(), damaged, site=MemberId("beta"))


@pytest.mark.parametrize(
    ("units", "fault"),
    [
        ({"age": "a"}, Fault.UNIT_UNDECLARED),
        ({"age": "a", "chol": "mg%"}, Fault.UNIT_UNKNOWN),
        ({"age": "a", "chol": "g/L"}, Fault.UNIT_UNKNOWN),
        ({"age": "mo", "chol": "mg/dL"}, Fault.UNIT_UNKNOWN),
    ],
)
def test_a_unit_that_the_contract_does_not_accept_is_found(
    units: dict[str, str], fault: Fault
) -> None:
    found = examine(example_contract(), table(clean_columns(), units))
    assert [finding.fault for finding in found] == [fault]


def test_a_clean_site_raises_no_alarm() -> None:
    assert examine(example_contract(), table(clean_columns()), site=MemberId("beta")) == ()


def test_a_finding_repeats_no_value() -> None:
    columns = clean_columns()
    columns["age"][7] = "31415926"
    columns["sex"][3] = "secret"
    sentences = [finding.sentence for finding in examine(example_contract(), table(columns))]
    assert sentences
    assert not any("31415926" in text or "secret" in text for text in sentences)
    assert "row 8" in sentences[0]


def test_the_design_matrix_holds_what_the_rows_say() -> None:
    columns = clean_columns(4)
    columns |= {
        "outcome": ["1", "9", "0", "2"],
        "age": ["71", "50", "69.5", "70"],
        "chol": ["210", "200", "200", "180"],
        "sex": ["m", "m", "f", "m"],
        "ecg": ["3", "0", "?", "2"],
    }
    data = conform(example_contract(), table(columns), site=MemberId("alpha"))
    assert [column.name for column in data.columns] == [
        "age", "chol", "sex=f", "ecg=1", "ecg=2", "ecg=u",
    ]  # fmt: skip
    assert data.features.tolist() == [
        [71.0, 210.0, 0.0, 1.0, 0.0, 0.0],
        [69.5, 200.0, 1.0, 0.0, 0.0, 1.0],
        [70.0, 180.0, 0.0, 0.0, 1.0, 0.0],
    ]
    assert data.label.tolist() == [1.0, 0.0, 1.0]
    assert data.persons == ("p0", "p2", "p3")
    assert data.subgroups["women"].tolist() == [False, True, False]
    assert data.subgroups["old"].tolist() == [True, False, True]
    assert data.index_months is not None
    assert data.index_months.tolist() == [12 * 1990, 12 * 1992 + 2, 12 * 1993 + 3]
    assert data.features.flags.c_contiguous
    assert not data.features.flags.writeable


def test_dropped_rows_are_counted_under_their_first_reason() -> None:
    columns = clean_columns(5)
    columns["outcome"] = ["9", "0", "1", "1", ""]
    columns["age"] = ["", "", "50", "60", "50"]
    columns["chol"] = ["200", "", "0", "999", "200"]
    for name in columns:
        columns[name] = [*columns[name][:5], {"age": "44"}.get(name, columns[name][1])]
    columns["outcome"][5] = "1"
    columns["chol"][5] = "200"
    columns["person"][5] = "p5"
    data = conform(example_contract(), table(columns))
    assert data.rows_read == 6
    assert data.dropped == (("label unknown", 2), ("age missing", 1), ("chol missing", 2))
    assert data.rows == 1


def test_values_in_an_accepted_unit_are_converted_by_the_declared_analyte() -> None:
    columns = clean_columns()
    expected = conform(example_contract(), table(columns)).features[:, 1]
    columns["chol"] = [format(int(text) / 38.67, ".12f") for text in columns["chol"]]
    data = conform(example_contract(), table(columns, UNITS | {"chol": "mmol/L"}))
    assert np.allclose(data.features[:, 1], expected, rtol=1e-12)


def test_a_table_without_a_usable_row_is_refused() -> None:
    columns = clean_columns()
    columns["outcome"] = ["9"] * 60
    with pytest.raises(UsageError, match="usable row"):
        conform(example_contract(), table(columns))


def test_support_asks_for_rows_on_both_sides_of_an_indicator() -> None:
    columns = clean_columns(40)
    columns["outcome"] = ["0", "1"] * 20
    columns["sex"] = ["m"] * 40
    columns["ecg"] = ["1"] * 38 + ["0"] * 2
    data = conform(example_contract(), table(columns))
    # age, chol, sex=f, ecg=1, ecg=2, ecg=u
    assert support_indicator(data, 2).tolist() == [1, 1, 0, 1, 0, 0]
    assert support_indicator(data, 3).tolist() == [1, 1, 0, 0, 0, 0]
    with pytest.raises(UsageError, match="min_rows of at least 1, got 0"):
        support_indicator(data, 0)


def test_the_data_show_only_their_size() -> None:
    data = conform(example_contract(), table(clean_columns()))
    assert "p1" not in repr(data)
    assert "features" not in repr(data)
    assert "150" not in repr(table(clean_columns()))


def test_a_person_may_have_as_many_rows_as_the_contract_says() -> None:
    """Two where two are allowed, and equal keys for both; a third row is a fault."""
    contract = example_contract()
    entity = msgspec.structs.replace(contract.entity, rows_per_person=2)
    contract = msgspec.structs.replace(contract, entity=entity)
    columns = clean_columns()
    kept = conform(contract, table(columns)).persons
    names = ["twin" if name in kept[:2] else name for name in columns["person"]]
    found = conform(contract, table({**columns, "person": tuple(names)}))
    assert found.persons == ("twin", "twin", *kept[2:])
    names = ["twin" if name == kept[2] else name for name in names]
    faults = {one.fault for one in examine(contract, table({**columns, "person": tuple(names)}))}
    assert faults == {Fault.REPEATED_PERSON}


def test_several_rows_of_a_person_need_an_identifier() -> None:
    contract = example_contract()
    entity = msgspec.structs.replace(contract.entity, rows_per_person=2, person_id="")
    with pytest.raises(UsageError, match="person_id"):
        check_contract(msgspec.structs.replace(contract, entity=entity))
