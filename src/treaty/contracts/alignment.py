"""Alignment: a site's adapter, a short list of reviewed steps from its files to the contract.

An adapter is data, not code: a list of operations from a closed set, each of which a colleague at
another institution can read. It stays at the site; its digest may be logged.

Guarantees (docs/spec/contract.md, section 7; the operations are in `treaty.contracts.operations`):
  * `check_adapter` runs the list on column names alone, and refuses an adapter that reads
    a column which is not there or leaves one of the contract's columns unmade.
  * `align` is deterministic and local to each row: the same table gives the same result on every
    machine, and no row influences another. Arithmetic is decimal, 28 digits.
  * An operation never guesses. A value it does not understand refuses the table, with the
    column and the row and without the value.
  * `examples` in the adapter (a row as the site writes it, the row that must come out) are
    replayed by `check_adapter`.

Missing values, in any of the adapter's spellings, become the empty text first and pass through
every operation but `coalesce` and `map` of the empty text unchanged.
"""

import decimal
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, assert_never

import msgspec

from treaty.contracts.calendar import parse_date
from treaty.contracts.decimals import decimal_text, parse_number, prepare_toml
from treaty.contracts.operations import (
    Age,
    Bucket,
    Clip,
    Coalesce,
    Constant,
    Drop,
    MapCodes,
    Operation,
    ParseDate,
    Rename,
    Scale,
    SourceName,
    WholeNumber,
    check_operation,
    effect,
)
from treaty.contracts.schema import Code, Contract, Number
from treaty.contracts.table import RawTable
from treaty.contracts.units import UNITS
from treaty.crypto import canonical
from treaty.crypto.canonical import MemberName, Name, Record, Text, in_words
from treaty.errors import FormatError, UsageError
from treaty.ids import Digest

__all__ = [
    "ADAPTER_FORMAT",
    "Adapter",
    "Example",
    "Source",
    "adapter_digest",
    "align",
    "check_adapter",
    "parse_adapter",
    "person_naming",
]

ADAPTER_FORMAT = "treaty.adapter/v1"

_DECIMAL_KEYS = frozenset({"factor", "offset", "low", "high", "edges"})
_CODE_KEYS = frozenset({"missing", "value", "labels"})


class Source(Record, frozen=True, kw_only=True):
    """How the site's file is written. `columns` names the columns of a file without a header."""

    header: bool = True
    columns: tuple[SourceName, ...] = ()
    delimiter: Annotated[str, msgspec.Meta(pattern=r"\A[,;|\t]\Z")] = ","
    encoding: Literal["utf-8", "iso-8859-1", "iso-8859-2", "windows-1252"] = "utf-8"


class Example(Record, frozen=True, kw_only=True):
    """A row as the site writes it, and what must come out of it."""

    row: dict[SourceName, Code]
    expected: dict[SourceName, Code]


class Adapter(Record, frozen=True, kw_only=True):
    """How one site's file reaches the contract's columns; stays at the site."""

    format: Literal["treaty.adapter/v1"] = "treaty.adapter/v1"
    contract: Name
    site: MemberName
    text: Text = ""
    source: Source = Source()
    missing: tuple[Code, ...] = ()
    units: dict[SourceName, Code] = msgspec.field(default_factory=dict)
    operations: Annotated[tuple[Operation, ...], msgspec.Meta(max_length=1024)] = ()
    examples: tuple[Example, ...] = ()


def adapter_digest(adapter: Adapter) -> Digest:
    """Return the SHA-256 of the canonical bytes of `adapter`."""
    return canonical.digest_of(adapter)


def parse_adapter(text: str) -> Adapter:
    """Return the adapter that a site engineer wrote as TOML.

    Raises `UsageError` naming the field when something is missing, unknown or out of range.
    """
    try:
        table = tomllib.loads(text, parse_float=decimal.Decimal)
    except (ValueError, decimal.DecimalException, RecursionError) as error:
        raise UsageError(f"expected an adapter in TOML: {error}") from error
    if "format" not in table:
        raise UsageError(f'expected format = "{ADAPTER_FORMAT}" in the adapter')
    prepared = prepare_toml(table, decimals=_DECIMAL_KEYS, codes=_CODE_KEYS)
    try:
        adapter = msgspec.convert(prepared, Adapter, strict=True)
        adapter = canonical.decode(canonical.encode(adapter), Adapter)
    except (msgspec.ValidationError, FormatError) as error:
        raise UsageError(f"adapter does not hold: {in_words(error)}") from error
    for operation in adapter.operations:
        check_operation(operation)
    return adapter


def check_adapter(adapter: Adapter, contract: Contract, columns: Sequence[str]) -> None:
    """Refuse an adapter that does not lead from `columns` to the columns of `contract`.

    Runs on names and on the adapter's own examples, never on a site's rows. Raises `UsageError`.
    """
    if adapter.contract != contract.name:
        raise UsageError(
            f"expected an adapter to {contract.name!r}, got one to {adapter.contract!r}"
        )
    present = list(columns)
    for number, operation in enumerate(adapter.operations, start=1):
        reads, removes, makes = effect(operation)
        absent = [name for name in reads if name not in present]
        if absent:
            raise UsageError(f"operation {number}: expected column {absent[0]!r}, got none")
        present = [name for name in present if name not in removes]
        clash = [name for name in makes if name in present]
        if clash:
            raise UsageError(f"operation {number}: column {clash[0]!r} exists already")
        present += makes
    wanted = [contract.label.name, *(feature.name for feature in contract.features)]
    wanted += [name for name in (contract.entity.person_id, contract.entity.index_date) if name]
    unmade = [name for name in wanted if name not in present]
    if unmade:
        raise UsageError(
            f"adapter makes no column {unmade[0]!r} ({len(unmade)} missing in all) from the "
            f"{len(columns)} of the file: rename one, or mend header and delimiter in [source]"
        )
    numbers = {item.name: item for item in contract.features if isinstance(item, Number)}
    for name in numbers:
        if name not in adapter.units:
            raise UsageError(f"adapter declares no unit for {name!r}")
    for name, unit in adapter.units.items():
        if name not in present:
            raise UsageError(f"adapter declares a unit for {name!r}, which it does not make")
        if unit not in UNITS:
            raise UsageError(f"expected a UCUM code of the closed table for {name!r}, got {unit!r}")
        if name in numbers and unit not in (numbers[name].unit, *numbers[name].accept_units):
            raise UsageError(f"contract does not accept unit {unit!r} for {name!r}")
    for number, example in enumerate(adapter.examples, start=1):
        _check_example(adapter, example, number)


def person_naming(adapter: Adapter, contract: Contract) -> Digest:
    """Return the digest of how the site's file names the persons of `contract`.

    Equal where the same column of the file goes through the same operations, whatever it is called
    in between; without an identifier persons are named by their place in the file. Runs on names.
    """
    source = adapter.source
    if not contract.entity.person_id:
        return canonical.digest_of(["place", str(source.header)])
    made: dict[str, list[object]] = {}

    def origin(name: str) -> list[object]:
        if name in made:
            return made[name]
        if source.header:
            return ["column", name]
        # Without a header a column is known by its place alone.
        return ["place", str(source.columns.index(name)) if name in source.columns else name]

    for operation in adapter.operations:
        reads, removes, makes = effect(operation)
        origins = [origin(name) for name in reads]
        if isinstance(operation, Rename):
            made[operation.to] = origins[0]
            continue
        named = ("column", "columns", "to", "born", "at")
        fields: dict[str, str | tuple[str, ...]] = {
            one: "" if isinstance(getattr(operation, one), str) else ()
            for one in named
            if hasattr(operation, one)
        }
        bare = canonical.encode(msgspec.structs.replace(operation, **fields)).decode()
        # An operation that makes no other column changes the one it reads.
        for name in makes or (reads if not removes else ()):
            made[name] = [bare, *origins]
    return canonical.digest_of(origin(contract.entity.person_id))


def align(adapter: Adapter, table: RawTable) -> RawTable:
    """Return the contract's columns made from a site's `table`.

    Raises `UsageError` when an operation meets a value it does not understand.
    """
    absent = {"", *adapter.missing}
    columns = {
        name: tuple("" if text.strip() in absent else text.strip() for text in values)
        for name, values in table.columns.items()
    }
    rows = table.rows
    for number, operation in enumerate(adapter.operations, start=1):
        try:
            columns = _perform(operation, columns, rows)
        except UsageError as error:
            raise UsageError(f"operation {number}: {error}") from error
    return RawTable(
        columns, {name: unit for name, unit in adapter.units.items() if name in columns}
    )


_Columns = dict[str, tuple[str, ...]]


def _perform(operation: Operation, columns: _Columns, rows: int) -> _Columns:
    reads, removes, makes = effect(operation)
    for name in reads:
        if name not in columns:
            raise UsageError(f"expected column {name!r}, got none of that name")
    rest = {name: values for name, values in columns.items() if name not in removes}
    for name in makes:
        if name in rest:
            raise UsageError(f"column {name!r} exists already")
    match operation:
        case Rename():
            # The new name takes the old one's place in the order.
            return {
                operation.to if name == operation.column else name: values
                for name, values in columns.items()
            }
        case Drop():
            return rest
        case Constant():
            return rest | {operation.column: (operation.value,) * rows}
        case MapCodes():
            return rest | {operation.column: _mapped(operation, columns[operation.column])}
        case WholeNumber():
            return rest | {operation.column: _each(columns, operation.column, _whole)}
        case Scale():
            return rest | {operation.column: _each(columns, operation.column, _scaler(operation))}
        case Clip():
            return rest | {operation.column: _each(columns, operation.column, _clipper(operation))}
        case Coalesce():
            found = zip(*(columns[name] for name in operation.columns), strict=True)
            return rest | {operation.to: tuple(next(filter(None, row), "") for row in found)}
        case Bucket():
            return rest | {operation.to: _each(columns, operation.column, _bucketer(operation))}
        case ParseDate():
            return rest | {operation.column: _each(columns, operation.column, _dater(operation))}
        case Age():
            return rest | {operation.to: _ages(operation, columns)}
        case _:
            assert_never(operation)


def _each(columns: _Columns, name: str, change: Callable[[str], str | None]) -> tuple[str, ...]:
    """Apply `change` to the values that are not missing; None from it refuses the table."""
    changed: list[str] = []
    for row, text in enumerate(columns[name], start=1):
        value = change(text) if text else ""
        if value is None:
            raise UsageError(f"{name}: a value in row {row} cannot be read")
        changed.append(value)
    return tuple(changed)


def _mapped(operation: MapCodes, values: tuple[str, ...]) -> tuple[str, ...]:
    mapped: list[str] = []
    for row, text in enumerate(values, start=1):
        if text in operation.codes:
            mapped.append(operation.codes[text])
        elif text == "" or operation.keep_others:
            mapped.append(text)
        else:
            raise UsageError(f"{operation.column}: the code in row {row} is not in the map")
    return tuple(mapped)


def _whole(text: str) -> str | None:
    number = parse_number(text)
    if number is None or number != number.to_integral_value():
        return None
    return decimal_text(number)


def _scaler(operation: Scale) -> Callable[[str], str | None]:
    factor, offset = decimal.Decimal(operation.factor), decimal.Decimal(operation.offset)

    def change(text: str) -> str | None:
        number = parse_number(text)
        return None if number is None else _rounded(factor * number + offset)

    return change


def _clipper(operation: Clip) -> Callable[[str], str | None]:
    low, high = decimal.Decimal(operation.low), decimal.Decimal(operation.high)

    def change(text: str) -> str | None:
        number = parse_number(text)
        return None if number is None else _rounded(min(max(number, low), high))

    return change


def _bucketer(operation: Bucket) -> Callable[[str], str | None]:
    edges = [decimal.Decimal(edge) for edge in operation.edges]

    def change(text: str) -> str | None:
        number = parse_number(text)
        return None if number is None else operation.labels[sum(edge <= number for edge in edges)]

    return change


def _dater(operation: ParseDate) -> Callable[[str], str | None]:
    def change(text: str) -> str | None:
        return parse_date(
            text,
            order=operation.order,
            locale=operation.locale,
            century=operation.century,
            aliases=operation.aliases,
        )

    return change


def _ages(operation: Age, columns: _Columns) -> tuple[str, ...]:
    ages: list[str] = []
    pairs = zip(columns[operation.born], columns[operation.at], strict=True)
    for row, (born, at) in enumerate(pairs, start=1):
        if not born or not at:
            ages.append("")
            continue
        one, other = _day(born), _day(at)
        if one is None or other is None or other < one:
            raise UsageError(f"{operation.to}: the dates in row {row} give no age")
        ages.append(str(other[0] - one[0] - (other[1:] < one[1:])))
    return tuple(ages)


def _day(text: str) -> tuple[int, int, int] | None:
    date = parse_date(text, order="year-month-day", locale="en", century=1900, aliases={})
    if date is None:
        return None
    year, month, day = (int(part) for part in date.split("-"))
    return year, month, day


def _rounded(number: decimal.Decimal) -> str:
    """Spell a number with at most fifteen digits after the point."""
    if abs(number) >= 10**15:
        raise UsageError("expected numbers below 10**15")
    return decimal_text(number.quantize(decimal.Decimal(1).scaleb(-12)))


def _check_example(adapter: Adapter, example: Example, number: int) -> None:
    table = RawTable({name: (text,) for name, text in example.row.items()})
    reachable = _restrict(adapter, example.row)
    made = align(reachable, table).columns
    for name, text in example.expected.items():
        got = made.get(name)
        if got is None:
            raise UsageError(f"example {number}: adapter makes no column {name!r}")
        if got[0] != text:
            raise UsageError(f"example {number}: expected {name} = {text!r}, got {got[0]!r}")


def _restrict(adapter: Adapter, row: Mapping[str, str]) -> Adapter:
    """Return `adapter` with only the operations that a row with these columns can feed."""
    present = set(row)
    kept: list[Operation] = []
    for operation in adapter.operations:
        reads, removes, makes = effect(operation)
        if isinstance(operation, Drop):
            continue
        if set(reads) <= present:
            kept.append(operation)
            present = present - set(removes) | set(makes)
    return msgspec.structs.replace(adapter, operations=tuple(kept))
