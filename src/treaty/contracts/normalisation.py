"""Normalisation: exact moments at the sites, one bit-identical normaliser everywhere.

Each site sums (x - centre) / spread and its square around the contract's public constants; the
secure sum adds the sites' fixed-point integers; every party then derives the same mean
and population standard deviation from the integers (docs/spec/contract.md, section 6).

Guarantees:
  * `normaliser_from_sums` works on integers with exact rational arithmetic and rounds each of
    mean and variance once; what remains is one IEEE multiplication, addition and square root each.
    The result is the same on every machine.
  * A column whose variance is no larger than the rounding of the sums can explain counts as
    constant and keeps scale 1: `apply` then leaves it at (x - mean).
  * A site's rows with one class or one value raise nothing: they only add to the sums.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from treaty.contracts.conformance import ConformedData
from treaty.contracts.decimals import exact
from treaty.contracts.design import Column, design_columns
from treaty.contracts.schema import Contract, Number
from treaty.crypto.canonical import Record, Text
from treaty.errors import FormatError, UsageError

__all__ = [
    "Moments",
    "Normaliser",
    "NormaliserRecord",
    "moment_bounds",
    "moments",
    "normaliser_from_bounds",
    "normaliser_from_record",
    "normaliser_from_sums",
    "with_public_bounds",
]

HexFloat = Annotated[
    str, msgspec.Meta(pattern=r"\A-?0x[01]\.[0-9a-f]{13}p[+-][0-9]{1,4}\Z|\A-?0x0\.0p\+0\Z")
]


class NormaliserRecord(Record, frozen=True, kw_only=True):
    """A `Normaliser` in signed bytes: float64 values in hexadecimal, exactly."""

    format: Literal["treaty.normaliser/v1"] = "treaty.normaliser/v1"
    columns: tuple[Text, ...]
    mean: tuple[HexFloat, ...]
    scale: tuple[HexFloat, ...]


@dataclass(frozen=True, slots=True)
class Moments:
    """A site's sums over its rows, for each of the p design columns.

    `sums` and `squares` are float64 of shape (p,): the sum of u and of u squared with
    u = (x - centre) / spread. They stay at the site except as shares of a secure sum.
    """

    count: int = field(repr=False)
    sums: NDArray[np.float64] = field(repr=False)
    squares: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """(x - mean) / scale for each design column; both float64 of shape (p,), scale positive."""

    columns: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = (len(self.columns),)
        if self.mean.shape != shape or self.scale.shape != shape:
            raise UsageError(
                f"expected {shape[0]} means and scales, got {self.mean.size} and {self.scale.size}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scale).all()):
            raise UsageError("expected finite means and scales")
        if not (self.scale > 0).all():
            raise UsageError("expected positive scales")

    def apply(
        self, features: NDArray[np.float64], *, clip: float | None = None
    ) -> NDArray[np.float64]:
        """Return float64 of shape (n, p): `features` standardised, cut to [-clip, clip] if given.

        Elementwise subtraction and division: the same bits on every machine. Raises
        `UsageError` when the number of columns differs.
        """
        if features.ndim != 2 or features.shape[1] != len(self.columns):
            raise UsageError(
                f"expected features of shape (n, {len(self.columns)}), got {features.shape}"
            )
        scaled = (features - self.mean) / self.scale
        if clip is not None:
            np.clip(scaled, -clip, clip, out=scaled)
        return np.ascontiguousarray(scaled)

    def record(self) -> NormaliserRecord:
        """Return the canonical record, to be hashed and published with the model."""
        return NormaliserRecord(
            columns=self.columns,
            mean=tuple(float(value).hex() for value in self.mean),
            scale=tuple(float(value).hex() for value in self.scale),
        )


def moments(data: ConformedData) -> Moments:
    """Return the sums over the rows of `data`, each correctly rounded (order does not matter)."""
    centre = np.array([column.centre for column in data.columns])
    spread = np.array([column.spread for column in data.columns])
    units = (data.features - centre) / spread
    squared = units * units
    return Moments(
        count=data.rows,
        sums=np.array([math.fsum(column) for column in units.T.tolist()]),
        squares=np.array([math.fsum(column) for column in squared.T.tolist()]),
    )


def moment_bounds(contract: Contract) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return public whole-number bounds of one person's |u| and u squared, for each column.

    Times `max_persons_per_site` they bound a site's sums: the segments' bounds of a layout.
    """
    reach = tuple(column.bound for column in design_columns(contract))
    return reach, tuple(bound * bound for bound in reach)


def normaliser_from_sums(
    contract: Contract,
    *,
    count: int,
    sums: Sequence[int],
    squares: Sequence[int],
    scale_bits: int,
    contributors: int,
) -> Normaliser:
    """Return the normaliser of the published integers, bit for bit the same everywhere.

    Args:
        contract: gives the columns with their public centres and spreads.
        count: rows of all sites.
        sums: p integers, the sum of u times 2**scale_bits, rounded once at each contributor.
        squares: p integers, the same for u squared.
        scale_bits: fixed-point scale of both.
        contributors: sites in the sum; each may have rounded each word by one half.

    Raises `UsageError` when counts or lengths are impossible.
    """
    columns = design_columns(contract)
    if count < 1 or contributors < 1 or scale_bits < 0:
        raise UsageError(
            "expected a count of at least one row, contributors of at least one, and a scale of no "
            f"less than 0 bits, got {count}, {contributors} and {scale_bits}"
        )
    if len(sums) != len(columns) or len(squares) != len(columns):
        raise UsageError(
            f"expected {len(columns)} sums and squares, got {len(sums)} and {len(squares)}"
        )
    pairs = [
        _mean_and_scale(column, count, int(total), int(square), scale_bits, contributors)
        for column, total, square in zip(columns, sums, squares, strict=True)
    ]
    return Normaliser(
        columns=tuple(column.name for column in columns),
        mean=_frozen([mean for mean, _ in pairs]),
        scale=_frozen([scale for _, scale in pairs]),
    )


def normaliser_from_bounds(contract: Contract) -> Normaliser:
    """Return the data-independent normaliser: what the contract says, nothing of the rows.

    A number's `typical` interval becomes -1 .. 1; without one its public centre and spread are
    taken. For private training: it discloses nothing and costs nothing.
    """
    columns = design_columns(contract)
    numbers = (feature for feature in contract.features if isinstance(feature, Number))
    typical = {number.name: number.typical for number in numbers}
    mean, scale = [], []
    for column in columns:
        interval = typical.get(column.feature)
        if interval is None:
            mean.append(column.centre)
            scale.append(column.spread)
            continue
        low, high = (exact(bound) for bound in interval)
        mean.append(float((low + high) / 2))
        scale.append(float((high - low) / 2))
    return Normaliser(
        columns=tuple(column.name for column in columns),
        mean=_frozen(mean),
        scale=_frozen(scale),
    )


def with_public_bounds(contract: Contract) -> Contract:
    """Return `contract` normalised by its public bounds, as private studies need it."""
    return msgspec.structs.replace(contract, normalise="public_bounds")


def normaliser_from_record(record: NormaliserRecord) -> Normaliser:
    """Return the normaliser of a published record; `FormatError` when it is unsound."""
    try:
        mean = [float.fromhex(value) for value in record.mean]
        scale = [float.fromhex(value) for value in record.scale]
        normaliser = Normaliser(record.columns, _frozen(mean), _frozen(scale))
    except (UsageError, ValueError, OverflowError) as error:
        raise FormatError(f"normaliser does not hold: {error}") from error
    if normaliser.record() != record:
        raise FormatError("normaliser does not hold: another spelling of the same number")
    return normaliser


def _mean_and_scale(
    column: Column, count: int, total: int, square: int, scale_bits: int, contributors: int
) -> tuple[float, float]:
    one = 1 << scale_bits
    # Division of Python integers rounds once, to nearest, whatever their size.
    mean = column.centre + column.spread * (total / (count * one))
    numerator = square * count * one - total * total
    # Doubled to stay in integers: each contributor rounded `total` and `square` by at most 1/2.
    slack = contributors * (count * one + 2 * abs(total) + contributors)
    if 2 * numerator <= slack:
        return mean, 1.0
    scale = column.spread * math.sqrt(numerator / (count * count * one * one))
    return mean, scale if scale > 0.0 else 1.0


def _frozen(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array
