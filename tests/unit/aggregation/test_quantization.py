"""Quantisation against exact rational arithmetic.

Planted faults that these tests caught: ties away from zero; a NaN passing the bound; the bound
compared after rounding it up to a float; one contributor too few in the capacity; capacity
without the unit of rounding; two's complement read as unsigned; a ring chosen without the
contributors; the widest ring first.
"""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.aggregation.quantization import (
    Layout,
    Segment,
    check_capacity,
    decode_sum,
    encode,
    encode_grid,
    narrowest_ring,
    ring_vector,
)
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError


def one(
    length: int, scale_bits: int, bound: int, ring_bits: int = 64, contributors: int = 3
) -> Layout:
    return Layout((Segment("x", length, scale_bits, bound),), ring_bits, contributors)


@given(
    st.lists(st.floats(-1000, 1000, allow_nan=False), min_size=1, max_size=8),
    st.sampled_from([(16, 2), (32, 16), (64, 40)]),
)
def test_a_value_becomes_the_nearest_grid_point_ties_to_even(
    values: list[float], ring: tuple[int, int]
) -> None:
    bits, scale = ring
    layout = one(len(values), scale, 1000, bits)
    expected = [round(Fraction(value) * 2**scale) for value in values]
    ring_values = encode(np.array(values), layout)
    assert [int(word) for word in ring_values] == [value % 2**bits for value in expected]
    assert decode_sum(ring_values, layout)["x"].tolist() == expected
    assert (encode_grid(np.array(expected), layout) == ring_values).all()


def test_ties_go_to_the_even_integer() -> None:
    layout = one(6, 1, 8)
    words = encode(np.array([0.25, 0.75, 1.25, -0.25, -0.75, -1.25]), layout)
    assert decode_sum(words, layout)["x"].tolist() == [0, 2, 2, 0, -2, -2]


@given(st.data())
def test_integers_are_exact_up_to_the_whole_bound(data: st.DataObject) -> None:
    bound = data.draw(st.integers(1, 2**60))
    values = data.draw(st.lists(st.integers(-bound, bound), min_size=1, max_size=5))
    layout = one(len(values), 0, bound)
    words = encode(values, layout)
    assert decode_sum(words, layout)["x"].tolist() == values
    assert (encode(np.array(values, np.int64), layout) == words).all()


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("contributors", [1, 3, 10])
def test_capacity_is_the_exact_inequality(bits: int, contributors: int) -> None:
    largest = (2 ** (bits - 1) - 1) // contributors - 1
    largest = min(largest, 2**62 - 1)
    check_capacity(one(1, 0, largest, bits, contributors))
    wider = one(1, 0, largest + 1, bits, contributors)
    for work in (
        lambda: check_capacity(wider),
        lambda: encode([0], wider),
        lambda: encode(np.zeros(1), wider),
        lambda: encode_grid(np.zeros(1, np.int64), wider),
    ):
        with pytest.raises(PolicyError) as refusal:
            work()
        assert refusal.value.code == "capacity"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 8.000001, -8.5, 1e308])
def test_what_is_beyond_the_bound_is_refused_and_not_shown(bad: float) -> None:
    layout = Layout((Segment("a", 2, 20, 8), Segment("b", 1, 0, 9)), 64, 3)
    with pytest.raises(PolicyError, match="segment a ") as refusal:
        encode(np.array([0.0, bad, 0.0]), layout)
    assert refusal.value.code == "overflow"
    assert "8.5" not in str(refusal.value)
    encode(np.array([8.0000000001, -8.0, 9.0]), layout)  # the bound itself, once rounded


def test_a_bound_that_no_float_holds_is_kept_exactly() -> None:
    layout = one(1, 0, 2**60 - 1, 64, 3)
    with pytest.raises(PolicyError):
        encode(np.array([2.0**60]), layout)
    with pytest.raises(PolicyError):
        encode([2**60], layout)
    for beyond in (2**60, -(2**60), 2**63 - 1, -(2**63)):
        with pytest.raises(PolicyError, match="segment x"):
            encode_grid(np.array([beyond]), layout)
    for bound in (2**60 - 1, 1 - 2**60):
        assert decode_sum(encode_grid(np.array([bound]), layout), layout)["x"].tolist() == [bound]
    assert decode_sum(encode([-(2**60) + 1], layout), layout)["x"].tolist() == [-(2**60) + 1]


def test_segments_keep_their_places_and_empty_ones_are_empty() -> None:
    layout = Layout((Segment("a", 2, 4, 4), Segment("none", 0, 0, 1), Segment("n", 1, 0, 5)), 32, 3)
    sums = decode_sum(encode(np.array([1.5, -0.25, 3.0]), layout), layout)
    assert {name: part.tolist() for name, part in sums.items()} == {
        "a": [24, -4],
        "none": [],
        "n": [3],
    }


def test_a_sum_out_of_reach_is_refused() -> None:
    layout = one(1, 0, 5, 32, 3)
    assert decode_sum(np.array([2**32 - 15], "<u4"), layout)["x"].tolist() == [-15]
    for total in (
        np.array([16], "<u4"),
        np.array([2**32 - 16], "<u4"),
        np.array([2**31], "<u4"),
        np.array([1, 2], "<u4"),
        np.array([1], "<u8"),
    ):
        with pytest.raises(VerificationError) as refusal:
            decode_sum(total, layout)
        assert refusal.value.code == "sum-implausible"


def test_misuse_is_a_usage_error() -> None:
    layout = one(2, 0, 1)
    for values in (np.zeros(3), np.zeros((1, 2)), np.zeros(2, np.float32)):
        with pytest.raises(UsageError):
            encode(values, layout)  # type: ignore[arg-type]  # wrong on purpose
    for exact in ([0], [0, 0, 0], np.zeros(3, np.int64), np.zeros((2, 1), np.int64)):
        with pytest.raises(UsageError, match="expected 2 values to encode"):
            encode(exact, layout)
    for grid in (np.zeros(3, np.int64), np.zeros(1, np.int64), np.zeros((2, 1), np.int64)):
        with pytest.raises(UsageError, match="expected 2 values to encode"):
            encode_grid(grid, layout)
    for other in (np.float64, np.int32, np.uint64):
        with pytest.raises(UsageError, match="expected int64 grid values"):
            encode_grid(np.zeros(2, other), layout)  # type: ignore[arg-type]  # wrong on purpose
    for build in (
        lambda: Segment("", 1, 0, 1),
        lambda: Segment("a", -1, 0, 1),
        lambda: Segment("a", 1, 0, -1),
        lambda: Segment("a", 1, 63, 1),
        lambda: one(1, 0, 1, 48),
        lambda: one(1, 0, 1, 64, 0),
        lambda: one(0, 0, 1),
        lambda: Layout((Segment("a", 1, 0, 1), Segment("a", 1, 0, 1)), 64, 3),
    ):
        with pytest.raises(UsageError):
            build()


def test_bytes_become_words_only_at_their_length() -> None:
    assert ring_vector(b"\1\0\0\0\2\0\0\0", 32, 2).tolist() == [1, 2]
    with pytest.raises(FormatError):
        ring_vector(b"\1\0\0\0\2\0\0", 32, 2)


def test_pieces_of_a_long_vector_join_without_a_seam() -> None:
    values = np.arange(-70_000, 70_001, dtype=np.float64) / 4
    layout = one(len(values), 2, 17_500, 32)
    assert decode_sum(encode(values, layout), layout)["x"].tolist() == list(range(-70_000, 70_001))


@given(st.integers(0, 40), st.integers(0, 2**20), st.integers(1, 200), st.integers(0, 20))
def test_the_narrowest_ring_is_the_first_in_which_nothing_wraps(
    scale_bits: int, bound: int, contributors: int, other: int
) -> None:
    segments = (Segment("a", 2, scale_bits, bound), Segment("b", 1, 0, other))
    reach = contributors * (max(bound << scale_bits, other) + 1)
    fitting = [bits for bits in (16, 32, 64) if reach < 2 ** (bits - 1)]
    found = narrowest_ring(segments, contributors)
    assert found == (fitting[0] if fitting and bound << scale_bits < 2**62 else 64)
    assert narrowest_ring(segments, contributors, (16, 32)) == min(found, 32)
