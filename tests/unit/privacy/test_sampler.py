"""The sampler's law, exactly: table, squeeze, tail and tie-breaking, without statistics.

tests/statistical/test_discrete_gaussian.py looks at draws. Planted faults that these tests
catch: a squeeze taken at the left end of a block, a table weight rounded down, the alias
threshold off by one slot, the tail column dropped, ties decided by the double alone, leftovers
of a batch thrown away, a byte order that follows the machine.
"""

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from pathlib import Path

import mpmath
import numpy as np
import pytest

from treaty.crypto.prg import Keystream
from treaty.errors import UsageError
from treaty.privacy.sampler import DiscreteGaussian, noise_table

VARIANCES = (1, 2, 25, 1000, 1 << 20, 3**30, 1 << 80)
FROZEN = Path(__file__).parents[2] / "vectors" / "v1" / "discrete_gaussian.json"


def stream(name: str) -> Callable[[memoryview], object]:
    return Keystream(hashlib.sha256(name.encode()).digest()).fill


def script(words: list[int]) -> Callable[[memoryview], object]:
    """Return a keystream that plays `words` and then zeros."""
    left = list(words)

    def fill(buffer: memoryview) -> None:
        count = len(buffer) // 8
        taken, left[:] = left[:count], left[count:]
        taken += [0] * (count - len(taken))
        buffer[:] = b"".join(word.to_bytes(8, "little") for word in taken)

    return fill


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_alias_table_gives_each_block_its_weight_exactly(variance: int) -> None:
    table = noise_table(variance)
    found = [0] * 1024
    for column, threshold in enumerate(int(value) for value in table.thresholds):
        own, alias = table.choices[2 * column], table.choices[2 * column + 1]
        assert own == column
        found[own] += threshold
        found[alias] += (1 << 54) - threshold
    assert found == list(table.weights)
    assert sum(found) == 1 << 64


@pytest.mark.parametrize("variance", VARIANCES)
def test_every_weight_and_squeeze_is_a_bound_on_the_right_side(variance: int) -> None:
    table = noise_table(variance)
    width = 1 << table.block_bits
    uniform = 1 << (63 - table.block_bits)
    with mpmath.workdps(60):
        for j in (0, 1, 2, 17, 100, 400, 800, 1022):
            left, right = j * width, (j + 1) * width - 1
            highest = table.scale * mpmath.exp(-mpmath.mpf(left**2) / (2 * variance))
            lowest = table.scale * mpmath.exp(-mpmath.mpf(right**2) / (2 * variance))
            assert highest <= table.weights[j]
            assert mpmath.mpf(int(table.squeezes[j])) <= uniform * lowest / table.weights[j]
            assert abs(table.ratios[j] - highest / table.weights[j]) < 1e-15
        # The bound on the tail beyond the table: its column holds one slot of 2^64.
        assert table.scale * 8 * mpmath.exp(-mpmath.mpf((1023 * width) ** 2) / (2 * variance)) <= 1
        assert mpmath.exp(-mpmath.mpf(4 * 1023 * width**2) / variance) <= 0.5


def test_blocks_reach_sixteen_deviations_and_stay_narrow() -> None:
    for variance in VARIANCES:
        width = 1 << noise_table(variance).block_bits
        assert 1023 * width >= 15 * isqrt(variance)
        assert width == 1 or 32 * width <= isqrt(variance)


def _tail_words(variance: int) -> tuple[int, int]:
    """Return first and second word of a proposal that falls into the tail column."""
    table = noise_table(variance)
    assert table.choices[2 * 1023] == 1023
    assert int(table.thresholds[1023]) == 1
    # An offset of 0 and the largest uniform number: a column with a squeeze would reject it.
    return 1023 << 54, ((1 << 64) - 1) >> (table.block_bits + 1) << (table.block_bits + 1)


def test_the_tail_column_is_sampled_and_not_dropped() -> None:
    variance = 1 << 20
    first, second = _tail_words(variance)
    # Proposal words, one more uniform word, then block, offset 5 and an all-zero uniform number.
    others = [0] * (2 * (1 << 15))
    others[0], others[1 << 15] = first, second
    playing = script([*others, 0, 0b0, 5])
    values = DiscreteGaussian(variance, playing).draw(1)
    width = 1 << noise_table(variance).block_bits
    assert values[0] == 1023 * width + 5


def test_a_tail_proposal_with_an_ordinary_uniform_number_is_rejected() -> None:
    variance = 1 << 20
    first, second = _tail_words(variance)
    others = [0] * (2 * (1 << 15))
    others[0], others[1 << 15] = first, second
    values = DiscreteGaussian(variance, script([*others, 0, 0, 5, 1 << 40])).draw(1)
    assert abs(int(values[0])) < 1023 << noise_table(variance).block_bits


def test_a_slot_at_the_threshold_belongs_to_the_alias_and_one_below_to_the_column() -> None:
    table = noise_table(1 << 20)
    column = next(
        c for c in range(2, 1023) if table.choices[2 * c + 1] != c and table.thresholds[c] > 1
    )
    threshold, alias = int(table.thresholds[column]), int(table.choices[2 * column + 1])
    for slot, block in ((threshold - 1, column), (threshold, alias)):
        others = [0] * (2 * (1 << 15))
        others[0] = column << 54 | slot
        drawn = DiscreteGaussian(1 << 20, script(others)).draw(1)
        assert drawn[0] == block << table.block_bits


@pytest.mark.parametrize("distance", [-3, -1, 0, 1, 3])
def test_ties_beyond_double_precision_are_decided_exactly(distance: int) -> None:
    variance, column, offset = 1 << 20, 40, 7
    table = noise_table(variance)
    bits = table.block_bits
    value = (column << bits) + offset
    with mpmath.workdps(80):
        limit = mpmath.mpf(table.scale) / table.weights[column]
        limit *= mpmath.exp(-mpmath.mpf(value**2) / (2 * variance))
        uniform_bits = 63 - bits
        target = int(mpmath.floor(limit * 2 ** (uniform_bits + 64))) + distance
    leading, more = target >> 64, target & ((1 << 64) - 1)
    others = [0] * (2 * (1 << 15))
    column_index = next(c for c in range(1024) if table.choices[2 * c] == column)
    others[0] = column_index << 54
    others[1 << 15] = leading << (bits + 1) | offset
    drawn = DiscreteGaussian(variance, script([*others, more])).draw(1)
    # With zeros after it, a uniform number equal to the floor is below the limit.
    assert (drawn[0] == value) == (distance <= 0)


def test_drawing_in_pieces_gives_the_same_values() -> None:
    whole = DiscreteGaussian(10**9, stream("pieces")).draw(100_000)
    parts = DiscreteGaussian(10**9, stream("pieces"))
    pieces = [parts.draw(n) for n in (0, 1, 7, 40_000, 59_992)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_frozen_draws_are_the_same_on_every_machine() -> None:
    for row in json.loads(FROZEN.read_text())["draws"]:
        fill = Keystream(bytes.fromhex(row["key"])).fill
        values = DiscreteGaussian(int(row["variance"], 16), fill).draw(row["count"])
        assert [int(value) for value in values[:4]] == row["first"]
        data = values.astype("<i8").tobytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]


@pytest.mark.parametrize("variance", [0, -1, (1 << 80) + 1])
def test_a_variance_out_of_range_is_refused(variance: int) -> None:
    with pytest.raises(UsageError, match=r"1 \.\. 2\^80"):
        DiscreteGaussian(variance, stream("range"))


def test_a_negative_count_is_refused_and_the_repr_tells_nothing() -> None:
    noise = DiscreteGaussian(4, stream("repr"))
    assert repr(noise) == "DiscreteGaussian"
    with pytest.raises(UsageError):
        noise.draw(-1)


def test_exact_bounds_hold_the_exponential() -> None:
    from treaty.privacy.sampler import _exponential

    with mpmath.workdps(120):
        for exponent in (Fraction(0), Fraction(1, 3), Fraction(400), Fraction(10**6)):
            low, high = _exponential(exponent)
            true = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)
            assert mpmath.mpf(low.numerator) / low.denominator <= true
            assert true <= mpmath.mpf(high.numerator) / high.denominator
            if exponent < 480:
                assert high - low <= low * Fraction(1, 10**60)
