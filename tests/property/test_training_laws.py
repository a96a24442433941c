"""Laws of named tensors, of the steps to the next model, and of evaluation.

Planted faults that these tests caught: order of sites changing the next model; bytes that depend
on array layout; a mirrored histogram that does not mirror the area.
"""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import FormatError, VerificationError
from treaty.evaluation.metrics import ScoreSums, area_under_curve, figures_from_sums, local_sums
from treaty.models.linear_solve import solve_spd
from treaty.models.newton import next_coefficients
from treaty.models.specification import LogisticRegression, initial_model

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.:/+\-]{0,12}\Z")
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
FINITE = {"allow_nan": False, "allow_infinity": False}
ARRAYS = st.one_of(
    arrays.arrays(np.float64, SHAPES, elements=FINITE),
    arrays.arrays(np.float32, SHAPES, elements=FINITE),
    arrays.arrays(np.int64, SHAPES),
)


@given(st.dictionaries(NAMES, ARRAYS, max_size=4))
def test_bytes_round_trip_and_ignore_layout(mapping: dict[str, Any]) -> None:
    tensors = NamedTensors.from_arrays(mapping)
    data = tensors.to_bytes()
    assert NamedTensors.from_bytes(data) == tensors
    assert NamedTensors.from_bytes(data).to_bytes() == data
    columns_first = {name: np.asfortranarray(array) for name, array in mapping.items()}
    shaped = {name: array.reshape(mapping[name].shape) for name, array in columns_first.items()}
    assert NamedTensors.from_arrays(shaped).to_bytes() == data


@given(st.binary(max_size=64), st.data())
def test_a_parser_returns_tensors_or_a_format_error(noise: bytes, data: st.DataObject) -> None:
    good = bytearray(NamedTensors.from_arrays({"a": np.ones(2), "b": np.zeros(1)}).to_bytes())
    place = data.draw(st.integers(0, len(good) - 1))
    good[place : place + data.draw(st.integers(0, 8))] = noise
    for candidate in (noise, bytes(good)):
        try:
            parsed = NamedTensors.from_bytes(candidate)
        except FormatError:
            continue
        assert parsed.to_bytes() == candidate


@given(st.integers(1, 6), st.integers(0, 2**32 - 1), st.integers(-40, 40))
def test_scaling_a_system_by_a_power_of_four_scales_nothing_else(
    size: int, seed: int, power: int
) -> None:
    """Powers of four are exact through the square root: the solution keeps its very bits."""
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(size + 2, size))
    matrix, right = root.T @ root, generator.normal(size=size)
    scaled = solve_spd(matrix * 4.0**power, right * 4.0**power)
    assert solve_spd(matrix, right).tobytes() == scaled.tobytes()


@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), st.integers(0, 2**40))
def test_the_next_model_depends_on_the_sum_alone(gradient: list[int], extra: int) -> None:
    spec = LogisticRegression()
    model = initial_model(spec, 3)
    hessian = [extra, 0, 0, extra, 0, extra]
    sums = {"gradient": gradient, "hessian": hessian, "loss": [0]}
    first = next_coefficients(spec, model, sums, 32)
    arrays_of_sums = {name: np.array(words, np.int64) for name, words in sums.items()}
    assert next_coefficients(spec, model, arrays_of_sums, 32) == first
    assert first[1].step <= 8.0


COUNTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=12)


@given(COUNTS)
def test_mirrored_scores_mirror_the_area(counts: list[tuple[int, int]]) -> None:
    negative, positive = zip(*counts, strict=True)
    sums = ScoreSums(negative, positive, 0, 0)
    mirrored = ScoreSums(negative[::-1], positive[::-1], 0, 0)
    area, mirror = area_under_curve(sums), area_under_curve(mirrored)
    if area is None or mirror is None:
        assert area is mirror is None
        return
    assert area[0] + mirror[0] == 1
    assert area[1] == mirror[1]
    assert area[1] <= area[0] <= 1 - area[1]


@given(COUNTS)
def test_merging_bins_keeps_the_area_inside_the_guarantee(counts: list[tuple[int, int]]) -> None:
    negative, positive = zip(*counts, strict=True)
    fine = area_under_curve(ScoreSums(negative, positive, 0, 0))
    coarse = area_under_curve(
        ScoreSums((sum(negative[:2]), *negative[2:]), (sum(positive[:2]), *positive[2:]), 0, 0)
    )
    if fine is not None and coarse is not None:
        assert abs(fine[0] - coarse[0]) <= coarse[1] - fine[1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30),
    st.integers(1, 999),
    st.sampled_from([2, 8, 64]),
)
def test_every_honest_sum_is_plausible(
    rows: list[tuple[float, bool]], threshold: int, bins: int
) -> None:
    scores = np.array([score for score, _ in rows], np.float64)
    labels = np.array([float(label) for _, label in rows], np.float64)
    sums = local_sums(scores, labels, bins=bins, threshold_permille=threshold)
    try:
        figures = figures_from_sums(sums, threshold_permille=threshold)
    except VerificationError as refusal:
        assert refusal.code == "no-rows"
        assert not rows
        return
    assert figures.rows == len(rows)
    assert 0 <= figures.brier <= 1_000_000
