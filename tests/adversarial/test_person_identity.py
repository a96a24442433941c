"""T-43: one person is one unit of privacy, however a site's file spells the identifier.

Planted and caught: spellings are compared by their bytes; the partition follows the bytes; an
identifier of blanks counts as one.
"""

import pytest

from tests.unit.contracts.example import clean_columns, example_contract, table
from treaty.contracts.conformance import examine
from treaty.contracts.findings import Fault
from treaty.contracts.person_ids import person_form
from treaty.ids import Digest
from treaty.node.dataset import RegisteredDataset

ALIKE = [
    ("AB12", "ab12"),
    ("AB12", "AB12 "),
    ("AB12", "\u200bAB12"),
    ("AB12", "\uff21\uff2212"),
    ("AB 12", "AB12"),
    ("7", "007"),
    ("7", "7.0"),
    ("0", "00"),
    ("é1", "e\u03011"),
]
APART = [("AB12", "AB13"), ("7", "70"), ("A7", "A07"), ("7.5", "7"), ("0", "")]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=map(repr, ALIKE))
def test_one_person_in_two_spellings_is_refused(one: str, other: str) -> None:
    """As two persons it would count twice the clip, and could stand on both sides."""
    columns = clean_columns()
    names = (one, other, *columns["person"][2:])
    found = examine(example_contract(), table({**columns, "person": names}))
    assert {finding.fault for finding in found} == {Fault.ALIKE_PERSONS}


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=map(repr, ALIKE))
def test_another_spelling_in_a_later_file_moves_nobody(one: str, other: str) -> None:
    keys = (bytes([number]) * 32 for number in range(40))
    for key in keys:
        registered = RegisteredDataset("cohort", Digest("5" * 64), 500, key, bytes(32))
        assert registered.partition_of(one) == registered.partition_of(other)


@pytest.mark.parametrize(("one", "other"), APART, ids=map(repr, APART))
def test_other_identifiers_stay_apart(one: str, other: str) -> None:
    assert person_form(one) != person_form(other)


def test_an_identifier_of_blanks_is_none() -> None:
    columns = clean_columns()
    names = (" \u200b", *columns["person"][1:])
    found = examine(example_contract(), table({**columns, "person": names}))
    assert {finding.fault for finding in found} == {Fault.MISSING_PERSON}
