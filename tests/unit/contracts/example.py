"""A small contract with an adapter and a site that conforms, for tests to damage."""

import hashlib

from treaty.contracts import Contract, RawTable, parse_contract

CONTRACT = """
format = "treaty.contract/v1"
name = "example"
version = "1.2.3"
text = "blood values"

[entity]
person_id = "person"
index_date = "day"

[label]
name = "outcome"
positive = [1, 2]
negative = [0]
unknown = [9]
meaning = "dead or dependent"

[[features]]
kind = "number"
name = "age"
unit = "a"
range = [18, 110]
typical = [40, 80]
meaning = "age"

[[features]]
kind = "number"
name = "chol"
unit = "mg/dL"
accept_units = ["mmol/L"]
analyte = "cholesterol"
range = [50, 700.5]
centre = 200
spread = 50
typical = [120, 350]
missing = [999]
zero_is_missing = true
meaning = "cholesterol"

[[features]]
kind = "category"
name = "sex"
levels = [
  { code = "m", meaning = "male", share_permille = [500, 1000] },
  { code = "f", meaning = "female" },
]
meaning = "sex"

[[features]]
kind = "category"
name = "ecg"
levels = [
  { code = "0", meaning = "normal" },
  { code = "1", meaning = "abnormal" },
  { code = "2", meaning = "paced", sites = ["alpha"] },
  { code = "3", meaning = "other", merged_into = "1" },
  { code = "u", meaning = "not recorded" },
]
missing = ["?"]
missing_level = "u"
meaning = "electrocardiogram"

[[subgroups]]
name = "women"
feature = "sex"
levels = ["f"]

[[subgroups]]
name = "old"
feature = "age"
at_least = 70
"""


def example_contract() -> Contract:
    return parse_contract(CONTRACT)


def draw(row: int, what: str, below: int) -> int:
    """A number that depends on its arguments only."""
    return int.from_bytes(hashlib.sha256(f"{row}/{what}".encode()).digest()[:6], "big") % below


def clean_columns(rows: int = 60) -> dict[str, list[str]]:
    return {
        "person": [f"p{row}" for row in range(rows)],
        "day": [f"199{row % 6}-0{1 + row % 9}" for row in range(rows)],
        "outcome": ["0129"[draw(row, "outcome", 4)] for row in range(rows)],
        "age": [str(45 + draw(row, "age", 40)) for row in range(rows)],
        "chol": [str(150 + draw(row, "chol", 150)) for row in range(rows)],
        "sex": ["mmf"[draw(row, "sex", 3)] for row in range(rows)],
        "ecg": ["001u"[draw(row, "ecg", 4)] for row in range(rows)],
    }


UNITS = {"age": "a", "chol": "mg/dL"}


def table(columns: dict[str, list[str]], units: dict[str, str] | None = None) -> RawTable:
    return RawTable(
        {name: tuple(values) for name, values in columns.items()},
        UNITS if units is None else units,
    )
