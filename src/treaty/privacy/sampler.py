"""Exact discrete Gaussian noise from a keystream, vectorised.

Guarantees (docs/spec/privacy.md, section 4):
  * Given a uniform keystream, every value k is returned with probability exactly proportional
    to exp(-k^2 / (2 variance)), over all integers: nothing is rounded off, the tail included.
  * The values are a function of the keystream and the variance alone. Floating point only
    decides where its error bound (2^-40, against a true error below 2^-48) cannot matter; the
    rest is decided with exact decimals. So the bits are the same on every machine.
  * Drawing m and then n values gives what drawing m + n gives.

How: |k| is cut into blocks of width 2^b. A table of 1024 columns and 2^64 slots holds an upper
bound on each block's mass, so choosing a block costs one word; a second word gives the offset,
the sign and the leading bits of a uniform number that accepts or rejects. A bound, not the
mass itself, is tabulated: quantising the table changes the speed, never the law.

Left to others: the key, that a key is never used twice, and fixed time. LIMIT: the number of
rejections shows in the running time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError

__all__ = ["MAX_SAMPLER_VARIANCE", "DiscreteGaussian", "Fill", "NoiseTable", "noise_table"]

MAX_SAMPLER_VARIANCE: Final = 1 << 80
"""Largest variance: sigma 2^40, so that every value stays below 2^53."""

Fill = Callable[[memoryview], object]
"""Overwrites a writable byte buffer with the next bytes of a keystream."""

_COLUMNS: Final = 1024
_TAIL: Final = _COLUMNS - 1
_TOTAL: Final = 1 << 64
_CAPACITY: Final = _TOTAL // _COLUMNS
_CHUNK: Final = 1 << 15
_BAND: Final = 2.0**-40
_DIGITS: Final = 60

# The stream is read as little-endian words on every machine.
_LITTLE: Final[np.dtype[np.uint64]] = np.dtype("<u8")

_Words = NDArray[np.uint64]
_Values = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class NoiseTable:
    """What sampling needs for one variance. Build with `noise_table`.

    `thresholds` and `choices` are the alias table; `squeezes` accept at once; `ratios` are the
    acceptance probabilities at the left end of each block, as doubles; `scale` and `weights`
    are the exact integers behind them.
    """

    variance: int
    block_bits: int
    scale: int
    weights: tuple[int, ...]
    thresholds: _Words
    choices: NDArray[np.int64]
    squeezes: _Words
    ratios: NDArray[np.float64]


@lru_cache(maxsize=64)
def noise_table(variance: int) -> NoiseTable:
    """Return the table for a variance in 1 .. 2^80; some tens of milliseconds, remembered.

    Raises `UsageError` outside this range.
    """
    if not 1 <= variance <= MAX_SAMPLER_VARIANCE:
        raise UsageError(
            f"noise variance must be in 1 .. 2^80 grid units squared, got {variance}: "
            "choose another grid"
        )
    # Width in (sigma / 64, sigma / 32], or 1: the last block then starts at 16 sigma or later.
    block_bits = max(0, isqrt(variance // 1024).bit_length() - 1)
    width = 1 << block_bits
    bounds = [_exponential(Fraction((j * width) ** 2, 2 * variance)) for j in range(_TAIL)]
    whole = sum(high for _, high in bounds)
    scale = int((_TOTAL - 2 * _COLUMNS) / whole)
    weights = [-int(-(scale * high) // 1) for _, high in bounds]
    weights.append(1)
    weights[0] += _TOTAL - sum(weights)
    thresholds, choices = _alias(weights)
    uniform = 1 << (63 - block_bits)
    squeezes = []
    for j in range(_TAIL):
        right = (j + 1) * width - 1
        low, _ = _exponential(Fraction(right * right, 2 * variance))
        squeezes.append(min(int(uniform * scale * low / weights[j]), uniform))
    squeezes.append(0)
    ratios = [
        float(scale * low / weight) for (low, _), weight in zip(bounds, weights, strict=False)
    ]
    return NoiseTable(
        variance=variance,
        block_bits=block_bits,
        scale=scale,
        weights=tuple(weights),
        thresholds=np.array(thresholds, dtype=np.uint64),
        choices=np.array(choices, dtype=np.int64),
        squeezes=np.array(squeezes, dtype=np.uint64),
        ratios=np.array([*ratios, 0.0]),
    )


class DiscreteGaussian:
    """A stream of independent discrete Gaussian values of one variance."""

    def __init__(self, variance: int, fill: Fill) -> None:
        """Sample at `variance` (1 .. 2^80) from the keystream behind `fill`.

        Raises `UsageError` outside this range.
        """
        self._table = noise_table(variance)
        self._fill = fill
        self._left = np.empty(0, dtype=np.int64)
        self._words = np.empty(2 * _CHUNK, dtype=_LITTLE)
        self._scratch = tuple(np.empty(_CHUNK, dtype=np.uint64) for _ in range(4))
        self._column = np.empty(_CHUNK, dtype=np.int64)
        self._flags = np.empty(_CHUNK, dtype=np.bool_)

    def __repr__(self) -> str:
        return "DiscreteGaussian"

    def draw(self, count: int) -> _Values:
        """Return the next `count` values, int64, each within 2^53.

        Guarantee: exact law, independent values (module docstring). Raises `UsageError` for a
        negative count.
        """
        if count < 0:
            raise UsageError(f"count cannot be negative, got {count}")
        values = np.empty(count, dtype=np.int64)
        filled = min(count, len(self._left))
        values[:filled] = self._left[:filled]
        self._left = self._left[filled:]
        while filled < count:
            batch = self._batch()
            taken = min(count - filled, len(batch))
            values[filled : filled + taken] = batch[:taken]
            filled += taken
            self._left = batch[taken:]
        return values

    def _batch(self) -> _Values:
        """Return the accepted values among the next `_CHUNK` proposals, in order."""
        table = self._table
        bits = np.uint64(table.block_bits)
        self._fill(self._words.data.cast("B"))
        choose, second = self._words[:_CHUNK], self._words[_CHUNK:]
        column, flags = self._column, self._flags
        low, limit, uniform, offset = self._scratch
        # Ten bits choose the column, 54 decide between it and its alias.
        index = low.view(np.int64)
        np.right_shift(choose, np.uint64(54), out=low)
        np.take(table.thresholds, index, out=limit, mode="clip")
        np.bitwise_and(choose, np.uint64(_CAPACITY - 1), out=uniform)
        np.greater_equal(uniform, limit, out=flags)
        np.left_shift(low, np.uint64(1), out=low)
        np.add(low, flags, out=low, casting="unsafe")
        np.take(table.choices, index, out=column, mode="clip")
        # Offset, sign, and the leading bits of the uniform number.
        np.bitwise_and(second, np.uint64((1 << table.block_bits) - 1), out=offset)
        np.right_shift(second, bits + np.uint64(1), out=uniform)
        np.take(table.squeezes, column, out=limit, mode="clip")
        accepted = np.less(uniform, limit)
        magnitude = column
        undecided = np.flatnonzero(~accepted)
        open_columns = column[undecided]
        np.left_shift(column, bits.astype(np.int64), out=magnitude)
        np.add(magnitude, offset.view(np.int64), out=magnitude)
        negative = np.bitwise_and(np.right_shift(second, bits, out=low), np.uint64(1), out=low)
        if len(undecided):
            accepted[undecided] = self._settle(
                open_columns, magnitude, undecided, uniform[undecided]
            )
        # Minus zero is rejected, or zero would come twice as often.
        sign = negative.view(np.int64)
        np.equal(magnitude, 0, out=flags)
        if flags.any():
            accepted &= ~(flags & (sign == 1))
        # Two's complement: (v ^ -s) + s negates where s is one.
        np.negative(sign, out=offset.view(np.int64))
        np.bitwise_xor(magnitude, offset.view(np.int64), out=magnitude)
        np.add(magnitude, sign, out=magnitude)
        return magnitude[accepted]

    def _settle(
        self, columns: _Values, magnitude: _Values, where: NDArray[np.intp], leading: _Words
    ) -> NDArray[np.bool_]:
        """Decide the proposals at `where`; those of the tail column get their magnitude here."""
        table = self._table
        more = self._read(len(where))
        uniform_bits = 63 - table.block_bits
        uniform = leading.astype(np.float64) + more.astype(np.float64) * 2.0**-64
        uniform *= 2.0**-uniform_bits
        start = columns << table.block_bits
        values = magnitude[where]
        # (v - s)(v + s) / (2 variance) is at most about 1 / 2: no digits are lost.
        product = (values - start).astype(np.float64) * (values + start).astype(np.float64)
        limit = table.ratios[columns] * np.exp(product / (-2.0 * float(table.variance)))
        accepted: NDArray[np.bool_] = uniform < limit
        close = (np.abs(uniform - limit) < _BAND) | (columns == _TAIL)
        for i in np.flatnonzero(close):
            if columns[i] == _TAIL:
                value = self._tail()
                accepted[i] = value is not None
                magnitude[where[i]] = 0 if value is None else value
                continue
            accepted[i] = self._exact(
                int(leading[i]) << 64 | int(more[i]),
                uniform_bits + 64,
                Fraction(table.scale, table.weights[int(columns[i])]),
                int(values[i]),
            )
        return accepted

    def _tail(self) -> int | None:
        """Propose a magnitude beyond the last block; return it, or None when rejected.

        Blocks of four widths; each holds less than half the mass of the one before, so a
        fair coin chooses it. The bound is the column's weight, one slot of 2^64.
        """
        table = self._table
        width = 4 << table.block_bits
        block = 0
        while True:
            word = int(self._read(1)[0])
            after_ones = (~word & (_TOTAL - 1)).bit_length()
            block += 64 - after_ones
            if after_ones:
                break
        offset = int(self._read(1)[0]) & (width - 1)
        value = (_TAIL << table.block_bits) + block * width + offset
        accepted = self._exact(
            int(self._read(1)[0]), 64, Fraction(table.scale * (8 << block)), value
        )
        return value if accepted else None

    def _exact(self, uniform: int, bits: int, factor: Fraction, value: int) -> bool:
        """Say whether a uniform number is below factor exp(-value^2 / (2 variance)), exactly.

        `uniform` / 2^bits are its first digits; more are read as long as they leave it open.
        """
        digits = _DIGITS
        while True:
            low, high = _exponential(Fraction(value * value, 2 * self._table.variance), digits)
            floor = int(factor * low * (1 << bits))
            if floor != int(factor * high * (1 << bits)):
                digits *= 2
                continue
            if uniform != floor:
                return uniform < floor
            uniform = uniform << 64 | int(self._read(1)[0])
            bits += 64
            digits += 20

    def _read(self, count: int) -> _Words:
        words = np.empty(count, dtype=_LITTLE)
        self._fill(words.data.cast("B"))
        return words


def _exponential(exponent: Fraction, digits: int = _DIGITS) -> tuple[Fraction, Fraction]:
    """Return rational bounds around exp(-exponent).

    `digits` decimals of relative precision; beyond exp(-8 digits), 0 and a power of two.
    """
    if exponent > 8 * digits:
        return Fraction(0), Fraction(1, 1 << (11 * digits))
    with localcontext(Context(prec=digits + 20)) as context:
        results = []
        for rounding, sign in ((ROUND_CEILING, -1), (ROUND_FLOOR, 1)):
            # A larger exponent gives the lower bound; `exp` itself is correctly rounded, and
            # one unit in the last kept place covers it.
            context.rounding = rounding
            power = (-(Decimal(exponent.numerator) / Decimal(exponent.denominator))).exp()
            results.append(power + sign * power.scaleb(-digits - 10))
    return Fraction(results[0]), Fraction(results[1])


def _alias(weights: list[int]) -> tuple[list[int], list[int]]:
    """Return thresholds per column and, twice per column, which block it stands for.

    Walker's method in integers: the weights sum to columns times capacity exactly.
    """
    thresholds = [_CAPACITY] * _COLUMNS
    choices = [j for column in range(_COLUMNS) for j in (column, column)]
    remaining = list(weights)
    small = [j for j, weight in enumerate(remaining) if weight < _CAPACITY]
    large = [j for j, weight in enumerate(remaining) if weight >= _CAPACITY]
    while small and large:
        little, big = small.pop(), large[-1]
        thresholds[little] = remaining[little]
        choices[2 * little + 1] = big
        remaining[big] -= _CAPACITY - remaining[little]
        if remaining[big] < _CAPACITY:
            small.append(large.pop())
    return thresholds, choices
