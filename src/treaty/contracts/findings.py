"""What static checks can find wrong with a site's table.

Findings are for the site's own engineer: they name the column, the rule, a count and the
first row, but repeat no value. They stay at the site; the shared log says `DECLINED_CODE`
and nothing else, whatever was found, because the cause depends on data
(docs/spec/contract.md, 5.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from treaty.errors import UsageError

__all__ = ["DECLINED_CODE", "Fault", "Finding", "refuse"]

DECLINED_CODE = "site_declined"
"""The one code that the shared log carries for every data-dependent cause."""


class Fault(Enum):
    """The closed list of faults that static checks recognise."""

    MISSING_COLUMN = "missing-column"
    EMPTY_TABLE = "empty-table"
    NO_USABLE_ROW = "no-usable-row"
    UNIT_UNDECLARED = "unit-undeclared"
    UNIT_UNKNOWN = "unit-unknown"
    NOT_A_NUMBER = "not-a-number"
    OUT_OF_RANGE = "out-of-range"
    IMPLAUSIBLE_MEDIAN = "implausible-median"
    UNKNOWN_LEVEL = "unknown-level"
    LEVEL_NOT_DECLARED_HERE = "level-not-declared-here"
    IMPLAUSIBLE_SHARE = "implausible-share"
    UNKNOWN_LABEL = "unknown-label"
    MISSING_PERSON = "missing-person"
    REPEATED_PERSON = "repeated-person"
    ALIKE_PERSONS = "alike-persons"
    BAD_DATE = "bad-date"
    TOO_MANY_PERSONS = "too-many-persons"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: its kind, the contract's column (empty: the table), and a sentence about it."""

    fault: Fault
    column: str
    sentence: str


def refuse(findings: Sequence[Finding]) -> None:
    """Raise `UsageError` with the sentences of `findings`; return when there are none."""
    if findings:
        shown = "; ".join(finding.sentence for finding in findings[:5])
        more = f"; and {len(findings) - 5} more" if len(findings) > 5 else ""
        raise UsageError(f"table does not conform to the contract: {shown}{more}")
