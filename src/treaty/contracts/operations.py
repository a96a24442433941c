"""The closed list of operations that an adapter may use.

Each operation is a record that a colleague at another institution can read; none holds code, a
path or a pattern. `effect` says on names alone what an operation reads, removes
and makes, so that an adapter is checked before it sees a row (docs/spec/contract.md, 7.2).
"""

import decimal
from typing import Annotated, assert_never

import msgspec

from treaty.contracts.calendar import LOCALES, DateOrder
from treaty.contracts.decimals import DecimalText
from treaty.contracts.schema import Code
from treaty.crypto.canonical import Name, Record
from treaty.errors import UsageError

__all__ = [
    "Age",
    "Bucket",
    "Clip",
    "Coalesce",
    "Constant",
    "Drop",
    "MapCodes",
    "Operation",
    "ParseDate",
    "Rename",
    "Scale",
    "SourceName",
    "WholeNumber",
    "check_operation",
    "effect",
]

SourceName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Rename(Record, frozen=True, kw_only=True, tag="rename", tag_field="op"):
    """Call `column` by the contract's name `to`."""

    column: SourceName
    to: SourceName


class Drop(Record, frozen=True, kw_only=True, tag="drop", tag_field="op"):
    """Leave `columns` out."""

    columns: tuple[SourceName, ...]


class Constant(Record, frozen=True, kw_only=True, tag="constant", tag_field="op"):
    """Add `column` with the same `value` in every row."""

    column: SourceName
    value: Code


class MapCodes(Record, frozen=True, kw_only=True, tag="map", tag_field="op"):
    """Replace each code by what `codes` says; others are refused, or kept if `keep_others`."""

    column: SourceName
    codes: dict[Code, Code]
    keep_others: bool = False


class WholeNumber(Record, frozen=True, kw_only=True, tag="whole_number", tag_field="op"):
    """Spell whole numbers in one way: ``1.0`` and ``01`` become ``1``; fractions are refused."""

    column: SourceName


class Scale(Record, frozen=True, kw_only=True, tag="scale", tag_field="op"):
    """Replace x by factor * x + offset, exactly, for scales that no unit code names."""

    column: SourceName
    factor: DecimalText
    offset: DecimalText = "0"


class Clip(Record, frozen=True, kw_only=True, tag="clip", tag_field="op"):
    """Replace values below `low` by `low` and above `high` by `high`."""

    column: SourceName
    low: DecimalText
    high: DecimalText


class Coalesce(Record, frozen=True, kw_only=True, tag="coalesce", tag_field="op"):
    """Make `to` from the first of `columns` that is not missing in the row."""

    columns: Annotated[tuple[SourceName, ...], msgspec.Meta(min_length=1)]
    to: SourceName


class Bucket(Record, frozen=True, kw_only=True, tag="bucket", tag_field="op"):
    """Make `to` from `column`: `labels[i]` where exactly i of the rising `edges` are <= x."""

    column: SourceName
    to: SourceName
    edges: Annotated[tuple[DecimalText, ...], msgspec.Meta(min_length=1)]
    labels: tuple[Code, ...]


class ParseDate(Record, frozen=True, kw_only=True, tag="parse_date", tag_field="op"):
    """Spell the dates of `column` as year-month[-day]; `aliases` mend broken month names."""

    column: SourceName
    order: DateOrder
    locale: Name = "en"
    century: Annotated[int, msgspec.Meta(ge=1600, le=2900)] = 1900
    aliases: dict[Code, Annotated[int, msgspec.Meta(ge=1, le=12)]] = msgspec.field(
        default_factory=dict
    )


class Age(Record, frozen=True, kw_only=True, tag="age", tag_field="op"):
    """Make `to`, completed years from date `born` to date `at` (both year-month-day)."""

    born: SourceName
    at: SourceName
    to: SourceName


Operation = (
    Rename
    | Drop
    | Constant
    | MapCodes
    | WholeNumber
    | Scale
    | Clip
    | Coalesce
    | Bucket
    | ParseDate
    | Age
)


def check_operation(operation: Operation) -> None:
    """Refuse an operation whose parts contradict one another; raises `UsageError`."""
    match operation:
        case Bucket():
            edges = [decimal.Decimal(edge) for edge in operation.edges]
            if edges != sorted(set(edges)):
                raise UsageError(f"bucket {operation.to!r}: expected edges that rise")
            if len(operation.labels) != len(edges) + 1:
                raise UsageError(
                    f"bucket {operation.to!r}: expected {len(edges) + 1} labels, "
                    f"got {len(operation.labels)}"
                )
        case Clip():
            if decimal.Decimal(operation.low) > decimal.Decimal(operation.high):
                raise UsageError(f"clip {operation.column!r}: expected low up to high")
        case ParseDate():
            if operation.locale not in LOCALES:
                raise UsageError(f"expected a locale of {', '.join(LOCALES)}")
        case Scale():
            if decimal.Decimal(operation.factor) == 0:
                raise UsageError(f"scale {operation.column!r}: expected a factor other than 0")
        case Rename() | Drop() | Constant() | MapCodes() | WholeNumber() | Coalesce() | Age():
            pass
        case _:
            assert_never(operation)


def effect(operation: Operation) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that an operation reads, removes and makes."""
    match operation:
        case Rename():
            return [operation.column], [operation.column], [operation.to]
        case Drop():
            return list(operation.columns), list(operation.columns), []
        case Constant():
            return [], [], [operation.column]
        case MapCodes() | WholeNumber() | Scale() | Clip() | ParseDate():
            return [operation.column], [], []
        case Coalesce():
            return list(operation.columns), [], [operation.to]
        case Bucket():
            return [operation.column], [], [operation.to]
        case Age():
            return [operation.born, operation.at], [], [operation.to]
        case _:
            assert_never(operation)
