"""Clipping in integers, ghost clipping against explicit gradients, shares of noise.

Planted faults that these tests catch: rounding to nearest instead of toward zero (norm above
the bound), rows clipped one by one instead of per person, a person cut at a chunk's edge, the
bias left out of a ghost norm, cross terms of a person's rows left out, noise shares rounded
down, the ring's headroom unchecked, the cancellation of a person's rows not charged.
"""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from treaty.crypto.prg import Keystream
from treaty.errors import PolicyError, UsageError
from treaty.privacy.mechanisms import (
    Clip,
    Layer,
    add_noise,
    clip_persons,
    clipped_sum,
    ghost_factors,
    ghost_norms,
    ghost_sensitivity,
    ghost_sum,
    noise_share,
    scaled_clip,
)

SEED = 20240607


def exact_square(row: np.ndarray) -> int:
    return sum(int(value) ** 2 for value in row)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 5), st.integers(1, 8)),
        elements=st.floats(-1e300, 1e300, allow_subnormal=True),
    ),
    st.sampled_from([24, 32]),
    st.floats(1e-6, 1e6),
)
def test_no_person_ever_exceeds_the_clip(vectors: np.ndarray, bits: int, norm: float) -> None:
    clip = Clip(norm, bits)
    for row in clip_persons(vectors, clip):
        assert exact_square(row) <= clip.units**2


def test_short_vectors_are_kept_and_truncated_toward_zero() -> None:
    clip = Clip(1.0, 24)
    vectors = np.array([[0.3, -0.4], [1e-9, -1e-9], [0.0, 0.0]])
    found = clip_persons(vectors, clip)
    assert found.tolist() == [[math.floor(0.3 * 2**24), -math.floor(0.4 * 2**24)], [0, 0], [0, 0]]


def test_long_vectors_keep_their_direction_and_nearly_their_length() -> None:
    clip = Clip(0.5, 32)
    rows = np.random.default_rng(SEED).normal(size=(50, 30)) * 100
    found = clip_persons(rows, clip)
    lengths = np.array([math.sqrt(exact_square(row)) for row in found]) / clip.units
    assert (lengths > 1 - 1e-8).all()
    cosines = (found * rows).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert np.allclose(cosines / np.linalg.norm(rows, axis=1), 1.0, atol=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_vector_without_a_norm_is_refused(bad: float) -> None:
    with pytest.raises(PolicyError) as caught:
        clip_persons(np.array([[1.0, bad]]), Clip(1.0))
    assert caught.value.code == "not-finite"


@pytest.mark.parametrize("rows", [0, 1, 17, 9001])
def test_the_sum_is_over_persons_whole_at_every_chunk_edge(rows: int) -> None:
    generator = np.random.default_rng(SEED)
    vectors = generator.normal(size=(rows, 3))
    persons = np.sort(generator.integers(0, max(1, rows // 3), size=rows))
    clip = Clip(1.0)
    expected = np.zeros(3, dtype=np.int64)
    for person in np.unique(persons):
        expected += clip_persons(vectors[persons == person].sum(axis=0, keepdims=True), clip)[0]
    sizes = []

    def piece(start: int, stop: int) -> np.ndarray:
        sizes.append(stop - start)
        return vectors[start:stop]

    found = clipped_sum(piece, persons, 3, clip)
    assert sum(sizes) == rows
    assert max(sizes, default=0) < 4096 + 40
    # Adding a person's rows in another order may move a value by one unit.
    assert np.abs(found - expected).max() <= max(1, len(np.unique(persons)))


def test_removing_a_person_moves_the_sum_by_at_most_the_clip() -> None:
    generator = np.random.default_rng(SEED)
    vectors = generator.normal(size=(6000, 4)) * 10
    persons = np.sort(generator.integers(0, 1500, size=6000))
    clip = Clip(0.7)
    whole = clipped_sum(lambda a, b: vectors[a:b], persons, 4, clip)
    for person in (0, 700, 1499):
        keep = persons != person
        rest = vectors[keep]
        less = clipped_sum(lambda a, b, rest=rest: rest[a:b], persons[keep], 4, clip)
        assert 0 < exact_square(whole - less) <= clip.units**2


def test_unsorted_persons_and_wrong_shapes_are_refused() -> None:
    vectors = np.zeros((2, 2))
    with pytest.raises(UsageError, match="sorted"):
        clipped_sum(lambda a, b: vectors[a:b], np.array([1, 0]), 2, Clip(1.0))
    with pytest.raises(UsageError, match="expected vectors"):
        clipped_sum(lambda a, b: vectors[a:b], np.array([0, 1]), 3, Clip(1.0))


def _network() -> tuple[list[Layer], np.ndarray, list[np.ndarray]]:
    """Return two layers of a small network, persons, and each row's flat gradient."""
    generator = np.random.default_rng(SEED)
    layers = [
        Layer(generator.normal(size=(40, 5)), generator.normal(size=(40, 3))),
        Layer(generator.normal(size=(40, 3)), generator.normal(size=(40, 2)), has_bias=False),
    ]
    persons = np.sort(generator.integers(0, 15, size=40))
    gradients = []
    for row in range(40):
        parts = [
            np.outer(layers[0].inputs[row], layers[0].errors[row]).ravel(),
            layers[0].errors[row],
            np.outer(layers[1].inputs[row], layers[1].errors[row]).ravel(),
        ]
        gradients.append(np.concatenate(parts))
    return layers, persons, gradients


def test_ghost_norms_equal_the_norms_of_explicit_gradients() -> None:
    layers, _, gradients = _network()
    assert np.allclose(ghost_norms(layers), [np.linalg.norm(g) for g in gradients], rtol=1e-12)


@pytest.mark.parametrize("norm", [0.5, 4.0, 1e6])
def test_the_ghost_sum_equals_explicit_clipping_per_row_and_person(norm: float) -> None:
    layers, persons, gradients = _network()
    clip = Clip(norm, 32)
    total = np.zeros(len(gradients[0]))
    for person in np.unique(persons):
        rows = [gradients[i] for i in np.flatnonzero(persons == person)]
        rows = [row * min(1.0, norm / np.linalg.norm(row)) for row in rows]
        own = np.sum(rows, axis=0)
        own *= min(1.0, norm / np.linalg.norm(own))
        assert np.linalg.norm(own) <= norm * (1 + 1e-12)
        total += own
    factors = ghost_factors(layers, persons, clip)
    found = ghost_sum(layers, factors, clip)
    assert found.shape == total.shape
    assert np.abs(found - total / clip.step).max() <= 2.0


def test_one_layer_serves_generalised_linear_models() -> None:
    generator = np.random.default_rng(SEED)
    x, residual = generator.normal(size=(30, 4)), generator.normal(size=(30, 1))
    norms = ghost_norms([Layer(x, residual, has_bias=False)])
    assert np.allclose(norms, np.abs(residual[:, 0]) * np.linalg.norm(x, axis=1), rtol=1e-12)


def _nearly_cancelling(seed: int, pairs: int = 600) -> np.ndarray:
    """Return one person's rows: `pairs` that cancel but for last places, and four that do not."""
    draw = np.random.default_rng(seed)
    one, rest = draw.normal(size=(2, 5))
    one, rest = one / np.linalg.norm(one) / 1.5, rest / np.linalg.norm(rest) / 1.5
    other = -np.where(draw.random(5) < 0.5, one, np.nextafter(one, 9 * one))
    return np.vstack([np.tile(one, (pairs, 1)), np.tile(other, (pairs, 1)), np.tile(rest, (4, 1))])


def _exact_square(rows: np.ndarray, factors: np.ndarray) -> Fraction:
    """Return the squared length of the weighted sum of rows, without any rounding."""
    total = [Fraction(0)] * rows.shape[1]
    for (row, factor), count in Counter(
        zip(map(tuple, rows.tolist()), factors.tolist(), strict=True)
    ).items():
        total = [
            known + count * Fraction(factor) * Fraction(value)
            for known, value in zip(total, row, strict=True)
        ]
    return sum((value * value for value in total), Fraction(0))


@pytest.mark.parametrize("seed", range(6))
def test_rows_of_a_person_that_nearly_cancel_stay_within_the_clip(seed: int) -> None:
    """The difference of many products is known to their size, not to its own: it is charged."""
    clip, rows = Clip(1.0), _nearly_cancelling(seed)
    layer = Layer(rows, np.ones((len(rows), 1)), has_bias=False)
    factors = ghost_factors([layer], np.zeros(len(rows), np.int64), clip)
    assert Fraction(999_999, 10**6) < _exact_square(rows, factors) <= 1


def test_ghost_sensitivity_covers_what_rounding_adds() -> None:
    layers, persons, _ = _network()
    clip = Clip(1.0, 32)
    bound = ghost_sensitivity(clip, width=24, max_rows=40, fan_in=5)
    assert clip.units < bound < clip.units * 1.0001
    whole = ghost_sum(layers, ghost_factors(layers, persons, clip), clip)
    for person in np.unique(persons):
        keep = persons != person
        rest = [Layer(item.inputs[keep], item.errors[keep], item.has_bias) for item in layers]
        less = ghost_sum(rest, ghost_factors(rest, persons[keep], clip), clip)
        assert exact_square(whole - less) <= bound**2


def test_a_batch_too_large_for_the_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="fewer rows"):
        ghost_sensitivity(Clip(1.0, 24), width=10**11, max_rows=100, fan_in=5)


@pytest.mark.parametrize("honest", [1, 2, 3, 7])
def test_any_honest_shares_carry_the_whole_variance(honest: int) -> None:
    share = noise_share((1 << 40) + 1, honest)
    assert honest * share >= (1 << 40) + 1 > honest * (share - 1)


@pytest.mark.parametrize(("variance", "honest"), [(1 << 20, 2), (1 << 83, 2), (1 << 40, 0)])
def test_shares_outside_the_samplers_and_the_lemmas_range_are_refused(
    variance: int, honest: int
) -> None:
    with pytest.raises(UsageError):
        noise_share(variance, honest)


def test_noise_is_added_and_a_value_near_the_ring_is_refused() -> None:
    fill = Keystream(bytes(32)).fill
    total = np.arange(6, dtype=np.int64).reshape(2, 3)
    noised = add_noise(total, share_variance=1 << 30, ring_bits=64, fill=fill)
    assert noised.shape == (2, 3)
    assert (noised != total).any()
    assert np.abs(noised - total).max() < 17 * (1 << 15)
    for value in (1 << 45, -(1 << 45)):
        with pytest.raises(PolicyError) as caught:
            add_noise(np.array([value]), share_variance=1 << 30, ring_bits=48, fill=fill)
        assert caught.value.code == "overflow"


def test_a_noise_multiplier_gives_its_variance_rounded_up() -> None:
    assert scaled_clip(1 << 24, 1500) == math.ceil(Fraction(9, 4) * (1 << 48))
    assert scaled_clip(1, 1) == 1
