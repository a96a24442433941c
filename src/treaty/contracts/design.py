"""Design columns: the model's view of a contract, and who can make each of them non-zero.

Guarantees (docs/spec/contract.md, section 4): the columns, their names and their order are a
function of the contract alone. A number gives one column; a category gives one
indicator for every kept level but the reference, in the contract's order.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from treaty.contracts.decimals import exact
from treaty.contracts.schema import Category, Contract, Number
from treaty.ids import MemberId

__all__ = ["Column", "coordinate_support", "design_columns"]


@dataclass(frozen=True, slots=True)
class Column:
    """One design column.

    `level` is the code of an indicator, None for a number. Moments are taken of
    (x - centre) / spread, whose absolute value is at most `bound`, a whole number.
    """

    name: str
    feature: str
    level: str | None
    centre: float
    spread: float
    bound: int

    @property
    def is_indicator(self) -> bool:
        """Whether the column holds only zero and one."""
        return self.level is not None


@functools.lru_cache(maxsize=64)
def design_columns(contract: Contract) -> tuple[Column, ...]:
    """Return the design columns in order: ``age``, ``cp=2``, ``cp=3`` and so on."""
    columns: list[Column] = []
    for feature in contract.features:
        match feature:
            case Number():
                columns.append(_number_column(feature))
            case Category():
                columns += [
                    Column(f"{feature.name}={level.code}", feature.name, level.code, 0.0, 1.0, 1)
                    for level in feature.levels[1:]
                    if not level.merged_into
                ]
    return tuple(columns)


def coordinate_support(contract: Contract, members: Sequence[MemberId]) -> tuple[int, ...]:
    """Return, for each design column, how many of `members` can move it.

    For an indicator this is the smaller of two counts: members that can have the level, and
    members that can have another one. A column that all but one member must hold at one
    tells as much about that member as a column that only it can make non-zero.
    Sites come from the contract; whether rows are really there is measured by
    `treaty.contracts.conformance.support_indicator`.
    """
    everyone = frozenset(members)
    support: list[int] = []
    for feature in contract.features:
        match feature:
            case Number():
                support.append(len(everyone))
            case Category():
                able = _able(feature, everyone)
                for code in list(able)[1:]:
                    rest: frozenset[str] = frozenset().union(
                        *(sites for other, sites in able.items() if other != code)
                    )
                    support.append(min(len(able[code]), len(rest)))
    return tuple(support)


def _able(category: Category, everyone: frozenset[MemberId]) -> dict[str, frozenset[str]]:
    """Return the members that can have each kept level, counting what is merged into it."""
    able: dict[str, frozenset[str]] = {
        level.code: frozenset() for level in category.levels if not level.merged_into
    }
    for level in category.levels:
        sites = everyone & frozenset(level.sites) if level.sites else everyone
        able[level.merged_into or level.code] |= sites
    return able


def _number_column(number: Number) -> Column:
    centre, spread = exact(number.centre), exact(number.spread)
    reach = max(abs(exact(bound) - centre) for bound in number.range)
    return Column(
        number.name, number.name, None, float(centre), float(spread), _at_least(reach / spread)
    )


def _at_least(value: Fraction) -> int:
    return max(1, math.ceil(value))
