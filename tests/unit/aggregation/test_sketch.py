"""The sketch check, experimental and part of no protocol: linear, tight enough, hard to fool.

Planted faults that these tests caught: entries without zeros, made in two ways; rows that are all
alike; the block's number left out of the keystream; an estimate against the bound squared once
more; a claim left out of the sum; no bound at all.
"""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treaty.aggregation import sketch as module
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.aggregation.sketch import check_claims, residual, sketch, within_bound
from treaty.errors import UsageError, VerificationError

BOUND = 1 << 20


def seed_of(number: int) -> bytes:
    """A public seed."""
    return hashlib.sha256(f"seed {number}".encode()).digest()


def vector(number: int, length: int, norm: float, bits: int = 64) -> RingVector:
    """A vector of grid integers in a random direction with about this norm."""
    draw = np.random.Generator(np.random.PCG64(number)).normal(size=length)
    grid = np.rint(draw * norm / np.linalg.norm(draw)).astype(np.int64)
    return grid.astype(f"<i{bits // 8}").view(RING_TYPES[bits])


def matrix(seed: bytes, rows: int, length: int) -> list[list[int]]:
    """A, entry by entry, from sketches of unit vectors."""
    found = []
    for column in range(length):
        unit = np.zeros(length, RING_TYPES[64])
        unit[column] = 1
        found.append([int(word) for word in sketch(unit, seed, rows).view("<i8")])
    return [list(row) for row in zip(*found, strict=True)]


def test_it_says_what_it_is() -> None:
    assert module.EXPERIMENTAL is True
    assert "EXPERIMENTAL" in (module.__doc__ or "") and "UNREVIEWED" in (module.__doc__ or "")


@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([16, 32, 64]),
    length=st.integers(1, 40),
    number=st.integers(0, 99),
    data=st.data(),
)
def test_a_sketch_is_the_matrix_times_the_vector_in_the_ring(
    bits: int, length: int, number: int, data: st.DataObject
) -> None:
    words = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=length, max_size=length))
    rows, seed = 5, seed_of(number)
    a = matrix(seed, rows, length)
    plain = [sum(x * y for x, y in zip(row, words, strict=True)) % 2**bits for row in a]
    assert [int(word) for word in sketch(np.array(words, RING_TYPES[bits]), seed, rows)] == plain


def test_half_of_the_entries_are_zero_and_no_two_rows_or_blocks_agree() -> None:
    """Counts of 64 times 200 entries: five standard deviations."""
    entries = matrix(seed_of(1), 64, 100)
    flat = [entry for row in entries for entry in row]
    for value, share in ((0, 0.5), (1, 0.25), (-1, 0.25)):
        expected, spread = share * len(flat), math.sqrt(len(flat) * share * (1 - share))
        assert abs(flat.count(value) - expected) < 5 * spread
    assert len({tuple(row) for row in entries}) == 64
    long = np.zeros(3 * 4096, RING_TYPES[64])
    seen = set()
    for block in range(3):
        for column in range(5):
            unit = long.copy()
            unit[block * 4096 + column] = 1
            seen.add(sketch(unit, seed_of(1)).tobytes())
    assert len(seen) == 15


def test_honest_claims_pass_and_their_estimates_are_close() -> None:
    """150 seeds; the worst error of an estimate is below 30 %, and 1.6 is above."""
    worst = 0.0
    for number in range(150):
        one = vector(number, 200, BOUND)
        claim = sketch(one, seed_of(number))
        norm = math.sqrt(sum(int(w) ** 2 for w in claim.view("<i8")) * 2 / 64)
        worst = max(worst, abs(norm / BOUND - 1))
        assert within_bound(claim, BOUND * BOUND)
    assert 0.1 < worst < 0.30


@pytest.mark.parametrize("bits", [32, 64])
def test_claims_of_honest_members_add_up(bits: int) -> None:
    inputs = [vector(number, 9000, BOUND, bits) for number in range(5)]
    total = np.add.reduce(inputs).astype(RING_TYPES[bits])
    claims = {f"m{k}": sketch(one, seed_of(3)) for k, one in enumerate(inputs)}
    check_claims(claims, 0, total, seed_of(3), BOUND * BOUND)
    claims.pop("m2")
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 0, total, seed_of(3), BOUND * BOUND)
    assert refusal.value.code == "claims-differ"


def test_a_boosted_input_is_refused_whether_it_is_claimed_or_hidden() -> None:
    inputs = [vector(number, 1000, BOUND) for number in range(4)]
    inputs.append(vector(99, 1000, 10 * BOUND))
    total = np.add.reduce(inputs).astype(RING_TYPES[64])
    claims = {f"m{k}": sketch(one, seed_of(4)) for k, one in enumerate(inputs)}
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 0, total, seed_of(4), BOUND * BOUND)
    assert refusal.value.code == "claim-too-long"
    claims["m4"] = sketch(vector(99, 1000, BOUND), seed_of(4))
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 0, total, seed_of(4), BOUND * BOUND)
    assert refusal.value.code == "claims-differ"
    # Others that carry the rest must claim too much themselves.
    rest = sketch(inputs[4], seed_of(4)) - claims["m4"]
    claims["m3"] = claims["m3"] + rest
    assert not residual(tuple(claims.values()), total, seed_of(4)).any()
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 0, total, seed_of(4), BOUND * BOUND)
    assert refusal.value.code == "claim-too-long"


def test_two_halves_of_the_ring_do_not_vanish() -> None:
    """With entries 1 and -1 alone this vector would be zero in every row."""
    for bits in (16, 32, 64):
        high = np.zeros(50, RING_TYPES[bits])
        high[[3, 17]] = 1 << (bits - 1)
        seen = [bool(sketch(high, seed_of(number), 64).any()) for number in range(5)]
        assert all(seen)


def test_what_is_no_vector_seed_or_claim_is_the_callers_mistake() -> None:
    one = vector(1, 10, 100.0)
    for bad in (one[:0], one.reshape(2, 5), one.astype(np.float64)):
        with pytest.raises(UsageError):
            sketch(bad, seed_of(1))  # type: ignore[arg-type]  # the mistake
    for seed, rows in ((b"", 3), (seed_of(1), 0)):
        with pytest.raises(UsageError):
            sketch(one, seed, rows)
    with pytest.raises(UsageError):
        within_bound(one, 100)
    with pytest.raises(UsageError):
        within_bound(sketch(one, seed_of(1)), -1)
    with pytest.raises(UsageError):
        residual((one,), one, seed_of(1))
    narrow = sketch(one.astype(RING_TYPES[32]), seed_of(1))
    assert narrow.shape == sketch(one, seed_of(1)).shape
    with pytest.raises(UsageError, match="one length in the ring of the sum"):
        residual((narrow,), one, seed_of(1))


def test_what_silent_members_leave_unexplained_is_held_against_as_many_bounds() -> None:
    inputs = [vector(number, 500, BOUND) for number in range(5)]
    total = np.add.reduce(inputs).astype(RING_TYPES[64])
    claims = {f"m{k}": sketch(one, seed_of(6)) for k, one in enumerate(inputs)}
    del claims["m1"], claims["m3"]
    check_claims(claims, 2, total, seed_of(6), BOUND * BOUND)
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 0, total, seed_of(6), BOUND * BOUND)
    assert refusal.value.code == "claims-differ"
    boosted = (total + vector(77, 500, 10 * BOUND)).astype(RING_TYPES[64])
    with pytest.raises(VerificationError) as refusal:
        check_claims(claims, 2, boosted, seed_of(6), BOUND * BOUND)
    assert refusal.value.code == "claims-differ"
