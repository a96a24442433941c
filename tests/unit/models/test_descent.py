"""Noised descent: one order of operations, the mean of the later iterates, refusals.

Planted and caught: the rate applied to the whole sum; element types not kept; a segment read for
another tensor.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import UsageError, VerificationError
from treaty.models.descent import gradient_manifest, least_persons, mean_iterate, next_iterate

MODEL = NamedTensors.from_arrays(
    {"b": np.array([[1.0, 2.0], [3.0, 4.0]]), "a": np.array([0.5], dtype=np.float32)}
)
SUMS = {"gradient.a": [8], "gradient.b": [16, 0, -16, 32]}


def step(sums: dict[str, list[int]] = SUMS, **changes: float) -> NamedTensors:
    settings = {"unit": 0.25, "persons": 4.0, "rate": 2.0} | changes
    return next_iterate(MODEL, sums, **settings)


def test_a_step_is_the_mean_gradient_times_the_rate() -> None:
    found = step()
    assert found.names == MODEL.names
    assert found["b"].tolist() == [[-1.0, 2.0], [5.0, 0.0]]
    assert found["a"].tolist() == [-0.5]
    assert found["a"].dtype == np.float32 and found["b"].dtype == np.float64


def test_the_gradient_has_a_segment_for_every_tensor() -> None:
    found = [(spec.name, spec.shape, spec.dtype) for spec in gradient_manifest(MODEL.manifest)]
    assert found == [("gradient.a", (1,), "I64"), ("gradient.b", (2, 2), "I64")]


@given(
    st.lists(st.integers(-(2**62), 2**62), min_size=5, max_size=5),
    st.floats(1e-9, 1e3),
    st.floats(1.0, 1e6),
)
def test_the_bits_are_those_of_single_operations(
    words: list[int], unit: float, persons: float
) -> None:
    """Compared with Python's floats, one operation after another."""
    found = step({"gradient.a": words[:1], "gradient.b": words[1:]}, unit=unit, persons=persons)
    flat = MODEL["b"].ravel().tolist()
    wanted = [
        one - 2.0 * (float(word) * unit / persons)
        for one, word in zip(flat, words[1:], strict=True)
    ]
    assert found["b"].ravel().tolist() == wanted


def test_the_mean_is_added_in_order_and_divided_once() -> None:
    iterates = tuple(
        NamedTensors.from_arrays({"w": np.array([value])}) for value in (0.1, 0.2, 0.7)
    )
    assert mean_iterate(iterates)["w"][0] == ((0.1 + 0.2) + 0.7) / 3.0
    assert mean_iterate(iterates[:1]) == iterates[0]
    with pytest.raises(UsageError, match="at least one"):
        mean_iterate(())


@pytest.mark.parametrize(
    "sums",
    [
        {"gradient.a": [8]},
        {**SUMS, "gradient.b": [1, 2, 3]},
        {**SUMS, "gradient.a": [8, 8]},
        {**SUMS, "gradient.a": [1 << 63]},
    ],
)
def test_a_sum_of_another_shape_is_refused(sums: dict[str, list[int]]) -> None:
    with pytest.raises(VerificationError) as caught:
        step(sums)
    assert caught.value.code == "sum-shape"


def test_an_element_that_leaves_its_type_is_refused() -> None:
    with pytest.raises(VerificationError) as caught:
        step({**SUMS, "gradient.a": [1 << 62]}, unit=1e30)
    assert caught.value.code == "not-finite"


def test_nobody_divides_by_a_count_of_nothing() -> None:
    with pytest.raises(UsageError, match="positive"):
        step(persons=0.0)
    assert least_persons(4) == 80.0


def test_whole_numbers_are_no_parameters_of_a_descent() -> None:
    whole = NamedTensors.from_arrays({"w": np.array([1, 2], dtype=np.int64)})
    with pytest.raises(UsageError, match="floating-point parameters, w is I64"):
        next_iterate(whole, {"gradient.w": [0, 0]}, unit=0.25, persons=4.0, rate=2.0)
