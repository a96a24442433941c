"""Conformance: from a site's text to the numbers that a model sees, or a clear refusal.

`examine` runs every static check and reports all findings; `conform` refuses a table with any
finding and otherwise returns the design matrix. Neither changes a value to make it fit: mending
is the adapter's work, in the open.

Guarantees (docs/spec/contract.md, section 5):
  * A row is used when its label is known and every feature has a value; each other row is
    counted under the first reason that drops it, in the contract's order.
  * The result is a function of contract, table and site name.

Wrong local data is a `UsageError` with the causes in full, for the site's engineer. It is never
sent: the shared log knows only `findings.DECLINED_CODE`.

LIMIT: two faults that leave every marginal distribution plausible (two binary columns swapped, say)
pass here; the association checks of a study look for those.
"""

import decimal
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.decimals import parse_number
from treaty.contracts.design import Column, design_columns
from treaty.contracts.findings import Fault, Finding, refuse
from treaty.contracts.person_ids import person_form
from treaty.contracts.schema import Category, Contract, Label, Number
from treaty.contracts.table import RawTable
from treaty.contracts.units import are_convertible, convert
from treaty.errors import UsageError
from treaty.ids import MemberId

__all__ = ["ConformedData", "conform", "examine", "support_indicator"]

_DATE = re.compile(r"(1[6-9]|2[0-9])([0-9]{2})-(0[1-9]|1[0-2])(-[0-3][0-9])?\Z")

_MIN_ROWS_FOR_SHARES = 30
"""Below this many values a median or a share says little: those two checks stand aside."""


@dataclass(frozen=True, slots=True)
class ConformedData:
    """A site's usable rows. Nothing in it may leave the site; `repr` shows its size only.

    Attributes:
        features: float64 of shape (n, p), C order, read-only, in the contract's units.
        label: float64 of shape (n,), zeros and ones, read-only.
        persons: n keys that order rows in splits and group them for clipping: person ids, equal
            for rows of one person, or row numbers where there are none.
        index_months: int64 of shape (n,): 12 * year + month - 1 of the index date, or None.
        columns: the p design columns.
        subgroups: one boolean array of shape (n,) for each subgroup of the contract.
        rows_read: rows of the table.
        dropped: (reason, rows) pairs, reasons such as ``label unknown`` or ``chol missing``.
    """

    features: NDArray[np.float64] = field(repr=False)
    label: NDArray[np.float64] = field(repr=False)
    persons: tuple[str, ...] = field(repr=False)
    index_months: NDArray[np.int64] | None = field(repr=False)
    columns: tuple[Column, ...] = field(repr=False)
    subgroups: Mapping[str, NDArray[np.bool_]] = field(repr=False)
    rows_read: int
    dropped: tuple[tuple[str, int], ...]

    @property
    def rows(self) -> int:
        """Number of usable rows, n."""
        return int(self.label.shape[0])


@dataclass(frozen=True, slots=True)
class _Parsed:
    """One column of the table: float64 values (level numbers for a category), what is missing."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]


def examine(
    contract: Contract, table: RawTable, *, site: MemberId | None = None
) -> tuple[Finding, ...]:
    """Return every finding of the static checks; empty when `table` conforms.

    With `site` given, levels that the contract declares for other members only are findings too.
    """
    return _examine(contract, table, site)[0]


def conform(contract: Contract, table: RawTable, *, site: MemberId | None = None) -> ConformedData:
    """Return the design matrix, labels and drop counts of `table`.

    Raises `UsageError` with all causes when any static check finds a fault.
    """
    findings, label, parsed = _examine(contract, table, site)
    refuse(findings)
    keep = ~label.missing
    dropped: list[tuple[str, int]] = [("label unknown", int(label.missing.sum()))]
    for feature in contract.features:
        lost = keep & parsed[feature.name].missing
        dropped.append((f"{feature.name} missing", int(lost.sum())))
        keep &= ~lost
    if not keep.any():
        refuse((Finding(Fault.NO_USABLE_ROW, "", "expected a usable row, got none"),))
    if int(keep.sum()) > contract.max_persons_per_site:
        sentence = f"expected at most {contract.max_persons_per_site} usable rows, got more"
        refuse((Finding(Fault.TOO_MANY_PERSONS, "", sentence),))
    columns = design_columns(contract)
    features = np.empty((int(keep.sum()), len(columns)), dtype=np.float64)
    for position, column in enumerate(columns):
        values = parsed[column.feature].values[keep]
        if column.level is not None:
            wanted = _level_number(contract, column.feature, column.level)
            values = (values == wanted).astype(np.float64)
        features[:, position] = values
    outcome = label.values[keep].copy()
    for array in (features, outcome):
        array.setflags(write=False)
    kept = np.flatnonzero(keep)
    person = contract.entity.person_id
    persons = tuple(table.columns[person][row] if person else str(row) for row in kept)
    months = None
    if contract.entity.index_date:
        dates = table.columns[contract.entity.index_date]
        months = np.array([_month_number(dates[row]) for row in kept], dtype=np.int64)
    return ConformedData(
        features=features,
        label=outcome,
        persons=persons,
        index_months=months,
        columns=columns,
        subgroups=_subgroups(contract, parsed, keep),
        rows_read=table.rows,
        dropped=tuple((reason, rows) for reason, rows in dropped if rows),
    )


def support_indicator(data: ConformedData, min_rows: int) -> NDArray[np.int64]:
    """Return int64 of shape (p,): 1 where this site's rows support the column, else 0.

    A column is supported by at least `min_rows` rows that are not zero and, for indicators, at
    least `min_rows` rows that are zero. Only the sum over sites is published.
    """
    if min_rows < 1:
        raise UsageError(f"expected min_rows of at least 1, got {min_rows}")
    nonzero = np.count_nonzero(data.features, axis=0)
    zero = data.rows - nonzero
    indicator = np.array([column.is_indicator for column in data.columns], dtype=np.bool_)
    supported = (nonzero >= min_rows) & (~indicator | (zero >= min_rows))
    return np.asarray(supported, dtype=np.int64)


def _examine(
    contract: Contract, table: RawTable, site: MemberId | None
) -> tuple[tuple[Finding, ...], _Parsed, dict[str, _Parsed]]:
    nothing = _Parsed(np.zeros(0), np.zeros(0, dtype=np.bool_))
    wanted = [contract.label.name, *(feature.name for feature in contract.features)]
    entity = contract.entity
    wanted += [name for name in (entity.person_id, entity.index_date) if name]
    findings = [
        Finding(Fault.MISSING_COLUMN, name, f"expected column {name!r}, got none of that name")
        for name in wanted
        if name not in table.columns
    ]
    if not findings and table.rows == 0:
        findings.append(Finding(Fault.EMPTY_TABLE, "", "expected rows, got an empty table"))
    if findings:
        return tuple(findings), nothing, {}
    label = _parse_label(contract.label, table, findings)
    parsed: dict[str, _Parsed] = {}
    for feature in contract.features:
        match feature:
            case Number():
                parsed[feature.name] = _parse_number_column(feature, table, findings)
            case Category():
                parsed[feature.name] = _parse_category(feature, table, site, findings)
    if entity.person_id:
        _check_persons(entity.person_id, entity.rows_per_person, table, findings)
    if entity.index_date:
        column = table.columns[entity.index_date]
        wrong = [row for row, text in enumerate(column) if not _DATE.match(text)]
        _report(findings, Fault.BAD_DATE, entity.index_date, wrong, "a date as year-month[-day]")
    return tuple(findings), label, parsed


def _report(
    findings: list[Finding], fault: Fault, column: str, rows: list[int], expected: str
) -> None:
    """Add one finding about `rows` (from 0), if there are any; rows are told from 1."""
    if rows:
        got = f"{len(rows)} other values, first in row {rows[0] + 1}"
        sentence = f"{column}: expected {expected}, got {got}"
        findings.append(Finding(fault, column, sentence))


def _parse_label(label: Label, table: RawTable, findings: list[Finding]) -> _Parsed:
    meaning = dict.fromkeys(label.positive, 1.0) | dict.fromkeys(label.negative, 0.0)
    absent = {"", *label.unknown}
    column = table.columns[label.name]
    wrong = [row for row, code in enumerate(column) if code not in meaning and code not in absent]
    _report(findings, Fault.UNKNOWN_LABEL, label.name, wrong, "a code that the contract lists")
    values = np.array([meaning.get(code, 0.0) for code in column], dtype=np.float64)
    return _Parsed(values, np.array([code not in meaning for code in column], dtype=np.bool_))


def _parse_number_column(number: Number, table: RawTable, findings: list[Finding]) -> _Parsed:
    column = table.columns[number.name]
    absent = {"", *number.missing}
    numbers = [None if text in absent else parse_number(text) for text in column]
    missing = np.array([text in absent for text in column], dtype=np.bool_)
    wrong = [row for row, value in enumerate(numbers) if value is None and not missing[row]]
    _report(findings, Fault.NOT_A_NUMBER, number.name, wrong, "a number with a decimal point")
    values = np.array([0.0 if value is None else float(value) for value in numbers], np.float64)
    if number.zero_is_missing:
        missing |= values == 0.0
    unit = _declared_unit(number, table, findings)
    if unit is not None:
        values = np.where(missing, 0.0, convert(values, unit, number.unit, number.analyte))
        _check_values(number, values, missing, set(wrong), findings)
    return _Parsed(values, missing)


def _declared_unit(number: Number, table: RawTable, findings: list[Finding]) -> str | None:
    accepted = (number.unit, *number.accept_units)
    unit = table.units.get(number.name)
    if unit in accepted:
        return unit
    if unit is None:
        fault, got = Fault.UNIT_UNDECLARED, "no declared unit"
    else:
        fault, got = Fault.UNIT_UNKNOWN, f"unit {unit!r}"
    if unit is not None and are_convertible(unit, number.unit, number.analyte):
        got += ", which converts but is not accepted"
    sentence = f"{number.name}: expected one of the units {', '.join(accepted)}, got {got}"
    findings.append(Finding(fault, number.name, sentence))
    return None


def _check_values(
    number: Number,
    values: NDArray[np.float64],
    missing: NDArray[np.bool_],
    skip: set[int],
    findings: list[Finding],
) -> None:
    low, high = (float(decimal.Decimal(bound)) for bound in number.range)
    outside = ~missing & ((values < low) | (values > high))
    rows = [int(row) for row in np.flatnonzero(outside) if int(row) not in skip]
    expected = f"{low:g} to {high:g} {number.unit}"
    _report(findings, Fault.OUT_OF_RANGE, number.name, rows, expected)
    if number.typical is None:
        return
    measured = values[~missing & (values != 0.0)]
    if measured.size >= _MIN_ROWS_FOR_SHARES:
        least, most = (float(decimal.Decimal(bound)) for bound in number.typical)
        if not least <= float(np.median(measured)) <= most:
            sentence = (
                f"{number.name}: expected a median of {least:g} to {most:g} {number.unit}, got "
                "one outside: check unit, scale and column order"
            )
            findings.append(Finding(Fault.IMPLAUSIBLE_MEDIAN, number.name, sentence))


def _parse_category(
    category: Category, table: RawTable, site: MemberId | None, findings: list[Finding]
) -> _Parsed:
    column = table.columns[category.name]
    absent = {"", *category.missing}
    kept = [level.code for level in category.levels if not level.merged_into]
    number = {
        level.code: float(kept.index(level.merged_into or level.code)) for level in category.levels
    }
    wrong = [row for row, code in enumerate(column) if code not in number and code not in absent]
    _report(findings, Fault.UNKNOWN_LEVEL, category.name, wrong, "a level of the contract")
    missing = np.array([code not in number for code in column], dtype=np.bool_)
    values = np.array([number.get(code, 0.0) for code in column], dtype=np.float64)
    if category.missing_level:
        values[missing] = float(kept.index(category.missing_level))
    counts = Counter(code for code in column if code in number)
    if category.missing_level:
        counts[category.missing_level] += int(missing.sum())
    total = sum(counts.values())
    for level in category.levels:
        if site is not None and level.sites and site not in level.sites and counts[level.code]:
            sentence = f"{category.name}: expected no level {level.code!r} at {site}, got some"
            findings.append(Finding(Fault.LEVEL_NOT_DECLARED_HERE, category.name, sentence))
        least, most = level.share_permille
        share = 1000 * counts[level.code]
        if total >= _MIN_ROWS_FOR_SHARES and not least * total <= share <= most * total:
            sentence = (
                f"{category.name}: expected level {level.code!r} in {least} to {most} of "
                "1000 rows, got another share: check the coding"
            )
            findings.append(Finding(Fault.IMPLAUSIBLE_SHARE, category.name, sentence))
    return _Parsed(values, np.zeros_like(missing) if category.missing_level else missing)


def _check_persons(person_id: str, most: int, table: RawTable, findings: list[Finding]) -> None:
    column = table.columns[person_id]
    forms = {person: person_form(person) for person in set(column)}
    blank = [row for row, person in enumerate(column) if not forms[person]]
    _report(findings, Fault.MISSING_PERSON, person_id, blank, "an identifier in every row")
    # Prevents one person in two spellings from being clipped, and divided, as two.
    spelt: dict[str, str] = {}
    alike = [
        row
        for row, person in enumerate(column)
        if forms[person] and spelt.setdefault(forms[person], person) != person
    ]
    expected = "one spelling of each identifier (case, white space, leading zeros)"
    _report(findings, Fault.ALIKE_PERSONS, person_id, alike, expected)
    seen: Counter[str] = Counter()
    repeated: list[int] = []
    for row, person in enumerate(column):
        if person and seen[person] >= most:
            repeated.append(row)
        seen[person] += 1
    rows = "one row" if most == 1 else f"at most {most} rows"
    _report(findings, Fault.REPEATED_PERSON, person_id, repeated, f"each person in {rows}")


def _level_number(contract: Contract, feature: str, level: str) -> float:
    category = next(item for item in contract.features if item.name == feature)
    assert isinstance(category, Category)  # only categories give columns with a level
    kept = [item.code for item in category.levels if not item.merged_into]
    return float(kept.index(level))


def _month_number(text: str) -> int:
    return 12 * int(text[:4]) + int(text[5:7]) - 1


def _subgroups(
    contract: Contract, parsed: Mapping[str, _Parsed], keep: NDArray[np.bool_]
) -> dict[str, NDArray[np.bool_]]:
    groups: dict[str, NDArray[np.bool_]] = {}
    for subgroup in contract.subgroups:
        values = parsed[subgroup.feature].values[keep]
        if subgroup.at_least is not None:
            groups[subgroup.name] = values >= float(decimal.Decimal(subgroup.at_least))
        else:
            wanted = [_level_number(contract, subgroup.feature, level) for level in subgroup.levels]
            groups[subgroup.name] = np.isin(values, wanted)
    return groups
