"""Decimal numbers as text, so that signed bytes hold no floating-point number.

A decimal has one spelling: no exponent, no plus sign, no leading or trailing zero, no
negative zero. Two contracts that state the same number therefore have the same bytes
(docs/spec/contract.md, 1.3).
"""

import decimal
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from fractions import Fraction
from typing import Annotated

import msgspec

from treaty.errors import UsageError

__all__ = ["DecimalText", "TomlValue", "decimal_text", "exact", "parse_number", "prepare_toml"]

DecimalText = Annotated[
    str,
    msgspec.Meta(pattern=r"\A(0|-?[1-9][0-9]{0,14}|-?(0|[1-9][0-9]{0,14})\.[0-9]{0,14}[1-9])\Z"),
]
"""A decimal of at most fifteen digits on either side of the point, in its one spelling."""

TomlValue = object
"""What a TOML document may hold; narrowed by `prepare_toml` and the record types."""

_NUMBER = re.compile(r"[+-]?([0-9]{1,15}(\.[0-9]{0,15})?|\.[0-9]{1,15})([eE][+-]?[0-9]{1,2})?\Z")


def decimal_text(value: int | decimal.Decimal) -> str:
    """Return the one spelling of `value`; `UsageError` for NaN, infinities and over 15 digits."""
    number = decimal.Decimal(value)
    if not number.is_finite():
        raise UsageError(f"expected a finite decimal number, got {number}")
    # Before it is written out: an exponent of nine digits is a number of a gigabyte.
    if number and not -16 <= number.adjusted() < 15:
        size = f"{number:.3e}"
        raise UsageError(f"expected at most 15 digits on either side of the point, got {size}")
    text = format(number, "f") if number else "0"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    if len(text.partition(".")[2]) > 15:
        raise UsageError(f"expected at most 15 digits on either side of the point, got {text}")
    return text


def exact(text: str) -> Fraction:
    """Return the rational number that a `DecimalText` spells."""
    return Fraction(text)


def parse_number(text: str) -> decimal.Decimal | None:
    """Return the number that a data file spells as `text`, or None when it is not a number.

    Only plain decimals with a point, with an optional exponent of two digits: no decimal
    comma, no digit groups, no NaN, no infinity.
    """
    return decimal.Decimal(text) if _NUMBER.match(text) else None


def prepare_toml(
    table: Mapping[str, TomlValue], *, decimals: AbstractSet[str], codes: AbstractSet[str]
) -> dict[str, TomlValue]:
    """Return `table` with numbers spelled as text under the keys that ask for it.

    Under the keys `decimals` whole and decimal numbers become `DecimalText`; under `codes`
    whole numbers become their digits, so that people may write ``positive = [1, 2]``. Decimal
    numbers elsewhere become text too: no record has a field for a floating-point number.
    """
    return {name: _prepared(item, decimals, codes, name) for name, item in table.items()}


def _prepared(
    value: TomlValue, decimals: AbstractSet[str], codes: AbstractSet[str], key: str
) -> TomlValue:
    if isinstance(value, dict):
        return prepare_toml(value, decimals=decimals, codes=codes)
    if isinstance(value, list):
        return [_prepared(item, decimals, codes, key) for item in value]
    if isinstance(value, decimal.Decimal):
        return decimal_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if key in decimals:
            return decimal_text(value)
        if key in codes:
            return str(value)
    return value
