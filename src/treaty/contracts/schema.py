"""Data contract: what every site's columns mean, fixed before anyone trains.

People write contracts as TOML; members adopt the SHA-256 of the canonical bytes. A contract says
for every column its meaning, unit, codes, range and what happens to missing values, and it
fixes the design columns of the model.

Guarantees (docs/spec/contract.md, sections 1 and 2):
  * One meaning, one byte string: numbers are integers or decimals in their one spelling,
    defaults are written out, so equal contracts have equal digests.
  * `parse_contract` and `contract_from_bytes` return only contracts that pass every
    rule of `check_contract`.
  * Design columns and their order depend on the contract alone, never on data.

What a contract does not say is how a site's own files reach this form: that is the adapter's
(`treaty.contracts.alignment`).
"""

import decimal
import tomllib
from typing import Annotated, Literal

import msgspec

from treaty.contracts.decimals import DecimalText, decimal_text, exact, prepare_toml
from treaty.contracts.units import are_convertible
from treaty.crypto import canonical
from treaty.crypto.canonical import MemberName, Name, Record, Text, in_words
from treaty.errors import FormatError, UsageError
from treaty.ids import Digest

__all__ = [
    "CONTRACT_FORMAT",
    "Category",
    "Code",
    "ColumnName",
    "Concept",
    "Contract",
    "Entity",
    "Label",
    "Level",
    "Number",
    "Subgroup",
    "check_contract",
    "contract_bytes",
    "contract_digest",
    "contract_from_bytes",
    "parse_contract",
]

CONTRACT_FORMAT = "treaty.contract/v1"

ColumnName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]
OptionalColumn = Annotated[str, msgspec.Meta(pattern=r"\A([a-z][a-z0-9_]{0,62})?\Z")]
Code = Annotated[str, msgspec.Meta(max_length=64)]
UnitCode = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Permille = Annotated[int, msgspec.Meta(ge=0, le=1000)]

_DECIMAL_KEYS = frozenset({"range", "centre", "spread", "typical", "at_least"})
_CODE_KEYS = frozenset(
    {"positive", "negative", "unknown", "missing", "code", "merged_into", "missing_level", "levels"}
)


class Concept(Record, frozen=True, kw_only=True):
    """Where a terminology defines the column: ``system = "LOINC"``, ``code = "8480-6"``."""

    system: Name
    code: Code
    version: Code = ""


class Entity(Record, frozen=True, kw_only=True):
    """What one row is, and which column names the person (empty: each row is one person).

    `rows_per_person` is the most rows that one person may have; more than one needs a `person_id`.
    Person identifiers are read at the site and never leave it.
    """

    unit: Name = "person"
    row: Text = ""
    person_id: OptionalColumn = ""
    index_date: OptionalColumn = ""
    rows_per_person: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1


class Label(Record, frozen=True, kw_only=True):
    """The outcome: `positive` codes become 1, `negative` codes 0, `unknown` codes drop the row."""

    name: ColumnName
    positive: tuple[Code, ...]
    negative: tuple[Code, ...]
    unknown: tuple[Code, ...] = ()
    meaning: Text


class Number(Record, frozen=True, kw_only=True, tag="number", tag_field="kind"):
    """A measured quantity in one unit.

    `range` holds the values that can be true (inclusive); a value outside refuses the table.
    `centre` and `spread` are public constants from which moments are taken: (x - centre) / spread;
    by default the middle and half the width of `range`. `typical` is the interval
    in which the median of a site's non-zero values must lie: it catches slipped units.
    """

    name: ColumnName
    unit: UnitCode
    accept_units: tuple[UnitCode, ...] = ()
    analyte: Code = ""
    range: tuple[DecimalText, DecimalText]
    centre: DecimalText
    spread: DecimalText
    typical: tuple[DecimalText, DecimalText] | None = None
    missing: tuple[Code, ...] = ()
    zero_is_missing: bool = False
    meaning: Text
    concept: Concept | None = None


class Level(Record, frozen=True, kw_only=True):
    """One code of a category.

    `merged_into` names the level that absorbs it. `sites` names the members that can have it
    (empty: every member). `share_permille` bounds the share of the rows of a site that have it.
    """

    code: Code
    meaning: Text
    merged_into: Code = ""
    sites: tuple[MemberName, ...] = ()
    share_permille: tuple[Permille, Permille] = (0, 1000)


class Category(Record, frozen=True, kw_only=True, tag="category", tag_field="kind"):
    """A column of codes. The first level is the reference: it has no design column.

    A missing value drops the row, or becomes `missing_level` where one is named.
    """

    name: ColumnName
    levels: Annotated[tuple[Level, ...], msgspec.Meta(min_length=2, max_length=256)]
    missing: tuple[Code, ...] = ()
    missing_level: Code = ""
    meaning: Text
    concept: Concept | None = None


class Subgroup(Record, frozen=True, kw_only=True):
    """Rows reported on their own: those with one of `levels`, or a value of at least `at_least`."""

    name: ColumnName
    feature: ColumnName
    levels: tuple[Code, ...] = ()
    at_least: DecimalText | None = None


class Contract(Record, frozen=True, kw_only=True):
    """What the members of a consortium have agreed their columns mean."""

    format: Literal["treaty.contract/v1"] = "treaty.contract/v1"
    name: Name
    version: Annotated[
        str,
        msgspec.Meta(pattern=r"\A(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\Z"),
    ]
    text: Text = ""
    licence: Text = ""
    entity: Entity = Entity()
    label: Label
    features: Annotated[tuple[Number | Category, ...], msgspec.Meta(min_length=1, max_length=4096)]
    subgroups: tuple[Subgroup, ...] = ()
    normalise: Literal["federated_zscore", "public_bounds"] = "federated_zscore"
    min_cell: Annotated[int, msgspec.Meta(ge=5, le=10_000)] = 10
    max_persons_per_site: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 1 << 14


def contract_bytes(contract: Contract) -> bytes:
    """Return the canonical bytes of `contract`."""
    return canonical.encode(contract)


def contract_digest(contract: Contract) -> Digest:
    """Return the SHA-256 of the canonical bytes of `contract`."""
    return canonical.digest_of(contract)


def contract_from_bytes(data: bytes) -> Contract:
    """Return the contract whose canonical bytes are `data`; `FormatError` if none or unsound."""
    contract = canonical.decode(data, Contract)
    try:
        check_contract(contract)
    except UsageError as error:
        raise FormatError(f"contract does not hold: {error}") from error
    return contract


def parse_contract(text: str) -> Contract:
    """Return the contract that a person wrote as TOML.

    Raises `UsageError` naming the field when the text is not TOML, a field is missing,
    unknown or out of range, or the parts contradict one another.
    """
    try:
        table = tomllib.loads(text, parse_float=decimal.Decimal)
    except (ValueError, decimal.DecimalException, RecursionError) as error:
        raise UsageError(f"expected a contract in TOML: {error}") from error
    if "format" not in table:
        raise UsageError(f'expected format = "{CONTRACT_FORMAT}" in the contract')
    prepared = prepare_toml(table, decimals=_DECIMAL_KEYS, codes=_CODE_KEYS)
    features = prepared.get("features")
    if isinstance(features, list):
        prepared["features"] = [_with_defaults(feature) for feature in features]
    try:
        contract = msgspec.convert(prepared, Contract, strict=True)
        contract = canonical.decode(canonical.encode(contract), Contract)
    except (msgspec.ValidationError, FormatError) as error:
        raise UsageError(f"contract does not hold: {in_words(error)}") from error
    check_contract(contract)
    return contract


def check_contract(contract: Contract) -> None:
    """Refuse a contract whose parts contradict one another (docs/spec/contract.md, section 2).

    Raises `UsageError` naming the part.
    """
    names = [feature.name for feature in contract.features]
    special = [contract.label.name]
    special += [name for name in (contract.entity.person_id, contract.entity.index_date) if name]
    for name in names + special:
        if (names + special).count(name) > 1:
            raise UsageError(f"expected distinct column names, got {name!r} more than once")
    if contract.entity.rows_per_person > 1 and not contract.entity.person_id:
        raise UsageError("expected person_id where a person may have several rows, got none")
    _check_label(contract.label)
    for feature in contract.features:
        match feature:
            case Number():
                _check_number(feature)
            case Category():
                _check_category(feature)
    for subgroup in contract.subgroups:
        _check_subgroup(subgroup, contract)


def _with_defaults(feature: object) -> object:
    """Write out the public centre and spread of a number that leaves them to its range."""
    if not isinstance(feature, dict) or feature.get("kind") != "number":
        return feature
    bounds = feature.get("range")
    if not (isinstance(bounds, list) and len(bounds) == 2):
        return feature
    try:
        low, high = (decimal.Decimal(bound) for bound in bounds)
    except (decimal.DecimalException, TypeError, ValueError):
        return feature
    return {
        "centre": decimal_text((low + high) / 2),
        "spread": decimal_text((high - low) / 2),
    } | feature


def _check_label(label: Label) -> None:
    codes = label.positive + label.negative + label.unknown
    if not label.positive or not label.negative:
        raise UsageError(f"label {label.name!r}: expected positive and negative codes")
    if len(set(codes)) != len(codes):
        raise UsageError(f"label {label.name!r}: expected each code once")


def _check_number(number: Number) -> None:
    where = f"feature {number.name!r}"
    low, high = (exact(bound) for bound in number.range)
    if low >= high:
        raise UsageError(f"{where}: expected a range that rises, got {list(number.range)}")
    if exact(number.spread) <= 0:
        raise UsageError(f"{where}: expected a positive spread, got {number.spread}")
    if not low <= exact(number.centre) <= high:
        raise UsageError(f"{where}: expected a centre within the range, got {number.centre}")
    if number.typical is not None:
        least, most = (exact(bound) for bound in number.typical)
        if not low <= least < most <= high:
            raise UsageError(f"{where}: expected a typical interval within the range")
    for unit in (number.unit, *number.accept_units):
        if not are_convertible(unit, number.unit, number.analyte):
            what = "a unit" if unit == number.unit else f"one convertible to {number.unit!r}"
            raise UsageError(
                f"{where}: expected {what} of the closed table of UCUM codes, got {unit!r}"
            )


def _check_category(category: Category) -> None:
    where = f"feature {category.name!r}"
    codes = [level.code for level in category.levels]
    if len(set(codes)) != len(codes) or "" in codes:
        raise UsageError(f"{where}: expected distinct codes that are not empty")
    kept = {level.code for level in category.levels if not level.merged_into}
    if category.levels[0].merged_into:
        raise UsageError(f"{where}: expected a reference level (the first) that is not merged")
    if len(kept) < 2:
        raise UsageError(f"{where}: expected at least two levels after merging, got {len(kept)}")
    for level in category.levels:
        if level.merged_into and level.merged_into not in kept:
            raise UsageError(f"{where}: level {level.code!r} is merged into no kept level")
        if level.share_permille[0] > level.share_permille[1]:
            raise UsageError(f"{where}: level {level.code!r} has a share that falls")
    if category.missing_level and category.missing_level not in kept:
        raise UsageError(f"{where}: missing_level {category.missing_level!r} is no kept level")
    clash = sorted(set(category.missing) & set(codes))
    if clash:
        raise UsageError(f"{where}: code {clash[0]!r} cannot be both a level and missing")


def _check_subgroup(subgroup: Subgroup, contract: Contract) -> None:
    where = f"subgroup {subgroup.name!r}"
    feature = next((item for item in contract.features if item.name == subgroup.feature), None)
    match feature:
        case None:
            raise UsageError(f"{where}: no feature {subgroup.feature!r}")
        case Number():
            if subgroup.at_least is None or subgroup.levels:
                raise UsageError(f"{where}: expected at_least for a number")
        case Category():
            known = {level.code for level in feature.levels if not level.merged_into}
            if subgroup.at_least is not None or not set(subgroup.levels) <= known:
                raise UsageError(f"{where}: expected kept levels of {feature.name!r}")
            if not subgroup.levels:
                raise UsageError(f"{where}: expected at least one level")
