"""A site's part of a noised sum: grouping by person, clipping, sampling, noise from a key.

Planted and caught: rows of one person clipped one by one; a person counted once a row; some of a
person's rows sampled; the noise key not used; a commitment without its question.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.privacy.distributed import (
    count_units,
    ghost_person_sum,
    noise_commitment,
    noise_key,
    noised,
    person_sum,
    persons_in_order,
    sampled_persons,
    verify_noise_key,
)
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.mechanisms import Clip, Layer, ghost_sensitivity

CLIP = Clip(0.5, 24)
KEY = bytes(range(32))
QUERY = Digest("ab" * 32)


def layers(rows: int, seed: int = 0, wide: int = 3, out: int = 2) -> list[Layer]:
    """Two dense layers' activations and errors, some rows far above the clip."""
    draw = np.random.Generator(np.random.PCG64(seed))
    scale = draw.choice([0.01, 1.0, 50.0], size=(rows, 1))
    return [
        Layer(draw.normal(size=(rows, wide)), scale * draw.normal(size=(rows, out))),
        Layer(draw.normal(size=(rows, out)), draw.normal(size=(rows, 1)), has_bias=False),
    ]


def plain_sum(parts: list[Layer], person: np.ndarray, clip: Clip) -> list[int]:
    """The same by rational arithmetic, person by person."""
    total: list[int] = []
    for one in sorted(set(person.tolist())):
        vector: list[float] = []
        rows = np.flatnonzero(person == one)
        for part in parts:
            columns = [
                part.inputs[rows, i] * part.errors[rows, j]
                for i in range(part.inputs.shape[1])
                for j in range(part.errors.shape[1])
            ]
            if part.has_bias:
                columns += [part.errors[rows, j] for j in range(part.errors.shape[1])]
            vector += [math.fsum(column.tolist()) for column in columns]
        norm = math.sqrt(math.fsum(v * v for v in vector))
        factor = min(1.0, clip.norm / norm) if norm else 1.0
        grid = [math.trunc(v * factor / clip.step) for v in vector]
        total = [a + b for a, b in zip(total, grid, strict=True)] if total else grid
    return total


@given(st.lists(st.text(max_size=3), max_size=20))
def test_equal_names_are_one_person_and_others_are_not(names: list[str]) -> None:
    order, person = persons_in_order(names)
    assert sorted(order.tolist()) == list(range(len(names)))
    assert (np.diff(person) >= 0).all()
    found = {
        names[row]: number for row, number in zip(order.tolist(), person.tolist(), strict=True)
    }
    assert len(set(found.values())) == len(set(names))
    for row, number in zip(order.tolist(), person.tolist(), strict=True):
        assert found[names[row]] == number


def test_a_name_with_a_trailing_nul_is_another_person() -> None:
    """A fixed-width string type would drop it and merge two persons into one."""
    assert persons_in_order(["a", "a\0"])[1].tolist() == [0, 1]


@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_the_sum_is_that_of_each_person_clipped_by_itself(rows: int) -> None:
    parts = layers(rows)
    person = np.sort(np.random.Generator(np.random.PCG64(1)).integers(0, 5, rows))
    found = person_sum(parts, person, CLIP)
    assert found.dtype == np.int64 and len(found) == 3 * 2 + 2 + 2
    wanted = plain_sum(parts, person, CLIP) if rows else [0] * 10
    # A person's own sum may round differently in its last digit, one unit each.
    assert np.abs(found - np.array(wanted)).max() <= 5


@pytest.mark.parametrize("seed", range(6))
def test_one_person_moves_the_sum_by_at_most_the_clip(seed: int) -> None:
    """All rows of a person gone: in integers, never above 2^24 units, and often close."""
    parts = layers(30, seed)
    person = np.sort(np.random.Generator(np.random.PCG64(seed)).integers(0, 6, 30))
    whole = person_sum(parts, person, CLIP)
    for one in set(person.tolist()):
        keep = person != one
        rest = [Layer(p.inputs[keep], p.errors[keep], p.has_bias) for p in parts]
        moved = [int(v) for v in whole - person_sum(rest, person[keep], CLIP)]
        assert sum(v * v for v in moved) <= CLIP.units**2


@pytest.mark.parametrize("seed", range(4))
def test_ghost_norms_give_the_same_within_their_sensitivity(seed: int) -> None:
    """Against the sum that forms every gradient; rows are clipped first there, so one row each."""
    parts = layers(50, seed)
    person = np.arange(50)
    slack = ghost_sensitivity(CLIP, width=10, max_rows=50, fan_in=3) - CLIP.units
    gap = ghost_person_sum(parts, person, CLIP) - person_sum(parts, person, CLIP)
    # Truncation of every person against truncation of the sum: a unit for each.
    assert np.abs(gap).max() <= 50 + slack


def test_a_person_counts_once_whatever_its_rows() -> None:
    _, person = persons_in_order(["a", "b", "a", "a"])
    assert count_units(person, CLIP).tolist() == [2 * CLIP.units]
    assert count_units(np.empty(0, np.int64), CLIP).tolist() == [0]


def test_rows_of_a_person_are_sampled_together_and_at_the_rate() -> None:
    _, person = persons_in_order([f"{number // 3:05d}" for number in range(30_000)])
    chosen = sampled_persons(person, SAMPLING_UNIT // 4, KEY)
    for start in range(0, 300, 3):
        assert len(set(chosen[start : start + 3].tolist())) == 1
    # 10,000 persons at one quarter: 43 deviations of 43.3 are not passed by chance.
    assert abs(chosen[::3].sum() - 2500) < 220
    assert (chosen == sampled_persons(person, SAMPLING_UNIT // 4, KEY)).all()
    assert (chosen != sampled_persons(person, SAMPLING_UNIT // 4, KEY[::-1])).any()
    assert sampled_persons(person, SAMPLING_UNIT, KEY).all()
    for rate in (0, SAMPLING_UNIT + 1):
        with pytest.raises(UsageError, match="sampling"):
            sampled_persons(person, rate, KEY)


def test_noise_is_a_function_of_its_key_and_has_its_variance() -> None:
    total = np.arange(4000, dtype=np.int64)
    variance = 1 << 40
    found = noised(total, share_variance=variance, ring_bits=64, key=KEY) - total
    again = noised(total, share_variance=variance, ring_bits=64, key=KEY) - total
    other = noised(total, share_variance=variance, ring_bits=64, key=KEY[::-1]) - total
    assert (found == again).all() and (found != other).any()
    # Chi-squared with 4,000 degrees of freedom: within six deviations of 89.
    assert abs(float((found.astype(float) ** 2).sum()) / variance - 4000) < 540
    with pytest.raises(UsageError, match="32 bytes"):
        noised(total, share_variance=variance, ring_bits=64, key=KEY[:31])


def test_a_value_that_could_wrap_is_refused_before_noise() -> None:
    with pytest.raises(PolicyError) as caught:
        noised(np.array([1 << 61]), share_variance=1 << 40, ring_bits=64, key=KEY)
    assert caught.value.code == "overflow"


def test_a_key_comes_from_fresh_bytes_and_is_not_those_bytes() -> None:
    assert noise_key(KEY) != KEY and len(noise_key(KEY)) == 32
    assert noise_key(KEY) != noise_key(KEY[::-1])
    with pytest.raises(UsageError, match="entropy"):
        noise_key(KEY[:31])


def test_a_commitment_is_to_one_key_and_one_question() -> None:
    found = noise_commitment(KEY, QUERY)
    assert found == noise_commitment(KEY, QUERY)
    assert found != noise_commitment(KEY[::-1], QUERY)
    assert found != noise_commitment(KEY, Digest("ac" * 32))
    assert KEY.hex() not in found
    verify_noise_key(found, KEY, QUERY)
    for key, query in ((KEY[::-1], QUERY), (KEY, Digest("ac" * 32))):
        with pytest.raises(VerificationError) as caught:
            verify_noise_key(found, key, query)
        assert caught.value.code == "not-opened"
