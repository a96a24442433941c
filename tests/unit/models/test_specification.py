"""Model descriptions, what follows from them, and what a trainer may return.

Planted faults that these tests caught: seed left out of the initial weights; counter restarted for
every tensor; bounds without the square of the clip; count of rows missing from the loss bound;
element type, shape, names, NaN or bounds of a contribution unchecked; step limit removed; missing
weight accepted.
"""

import math

import numpy as np
import pytest

from treaty.aggregation.tensors import NamedTensors, TensorSpec, manifest_elements
from treaty.crypto import canonical
from treaty.crypto.canonical import Record
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.models.averaging import next_tensors
from treaty.models.fixed_point import sum_as_float64
from treaty.models.newton import next_coefficients
from treaty.models.specification import (
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
    contribution_bounds,
    contribution_manifest,
    family,
    has_site_intercepts,
    initial_model,
    max_rounds,
    model_manifest,
    parameter_count,
)
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask, check_contribution

TORCH = TorchModule(
    module="mlp-tanh",
    manifest=(
        TensorSpec(name="0.bias", shape=(4,), dtype="F32"),
        TensorSpec(name="0.weight", shape=(4, 3), dtype="F32"),
    ),
)
ALL: tuple[ModelSpecification, ...] = (
    LogisticRegression(),
    LogisticRegression(site_intercepts=False),
    LinearRegression(),
    PoissonRegression(),
    MultilayerPerceptron(),
    TORCH,
)


class Holder(Record, frozen=True):
    model: ModelSpecification


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: type(spec).__name__)
def test_a_description_survives_its_canonical_bytes(spec: ModelSpecification) -> None:
    data = canonical.encode(Holder(model=spec))
    assert canonical.decode(data, Holder) == Holder(model=spec)


def test_the_canonical_bytes_are_these() -> None:
    """Freezes the format."""
    assert canonical.encode(LogisticRegression()) == (
        b'{"kind":"logistic-regression","max_rounds":16,"ridge_milli":1000,'
        b'"site_intercepts":true,"unit_rows":false}'
    )


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":{"kind":"anything"}}',
        b'{"model":{}}',
        (
            b'{"model":{"kind":"logistic-regression","max_rounds":0,"ridge_milli":1,'
            b'"site_intercepts":true,"unit_rows":false}}'
        ),
        (
            b'{"model":{"kind":"logistic-regression","max_rounds":8,"ridge_milli":-1,'
            b'"site_intercepts":true,"unit_rows":false}}'
        ),
        (
            b'{"model":{"kind":"logistic-regression","max_rounds":8,"ridge_milli":1.5,'
            b'"site_intercepts":true,"unit_rows":false}}'
        ),
    ],
)
def test_an_odd_description_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        canonical.decode(text, Holder)


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: type(spec).__name__)
def test_everything_derived_fits_together(spec: ModelSpecification) -> None:
    model = initial_model(spec, 3)
    assert model.conforms_to(model_manifest(spec, 3))
    assert parameter_count(spec, 3) == manifest_elements(model.manifest)
    contribution = contribution_manifest(spec, 3)
    assert NamedTensors.zeros(contribution).manifest == contribution
    bounds = contribution_bounds(spec, 3, max_persons=100, feature_clip=10)
    assert set(bounds) == {tensor.name for tensor in contribution}
    assert all(bound >= 1 for bound in bounds.values())
    assert max_rounds(spec) >= 1
    if family(spec) == "newton":
        size = parameter_count(spec, 3)
        assert size == (3 if has_site_intercepts(spec) else 4)
        shapes = {tensor.name: tensor.shape for tensor in contribution}
        assert shapes == {
            "gradient": (size,),
            "hessian": (size * (size + 1) // 2,),
            "loss": (1,),
        }


def test_logistic_bounds_are_the_arithmetic_ones() -> None:
    bounds = contribution_bounds(LogisticRegression(), 3, max_persons=100, feature_clip=10)
    assert bounds == {"gradient": 1000, "hessian": 2500, "loss": 6400}


def test_averaging_bounds_round_the_clip_up() -> None:
    spec = MultilayerPerceptron(clip_micro=1_000_001)
    assert set(contribution_bounds(spec, 3, max_persons=9, feature_clip=9).values()) == {1, 2}


def test_newton_models_start_at_zero() -> None:
    assert not initial_model(LogisticRegression(site_intercepts=False), 4).flat().any()


def test_initial_weights_follow_from_the_seed_alone() -> None:
    spec = MultilayerPerceptron(hidden=(8, 5))
    model = initial_model(spec, 10)
    assert model == initial_model(MultilayerPerceptron(hidden=(8, 5), rounds=3), 10)
    assert model != initial_model(MultilayerPerceptron(hidden=(8, 5), seed=1), 10)
    first, second = model["layer.0.weight"], model["layer.1.weight"]
    assert first.shape == (10, 8)
    assert np.max(np.abs(first)) <= 1 / math.sqrt(10)
    assert np.max(np.abs(second)) <= 1 / math.sqrt(8)
    assert np.max(np.abs(second)) > 0.8 / math.sqrt(8)
    assert not np.any(np.isin(first * math.sqrt(10), second * math.sqrt(8)))
    assert not model["layer.0.bias"].any()


def test_initial_weights_never_change() -> None:
    """Freezes the bytes: members of different releases must start from the same model."""
    assert initial_model(MultilayerPerceptron(hidden=(2,)), 3).digest() == (
        "f057b68ee7cc55c1500a333916ef9cfd609b086b7937905e802e46267c36382b"
    )


def test_senseless_descriptions_are_named() -> None:
    for spec, columns in (
        (LogisticRegression(), 0),
        (LogisticRegression(), 5000),
        (LogisticRegression(ridge_milli=0), 3),
        (LogisticRegression(unit_rows=True), 3),
        (TorchModule(module="mlp-tanh", manifest=()), 3),
        (
            TorchModule(
                module="mlp-tanh", manifest=(TensorSpec(name="a", shape=(1,), dtype="I64"),)
            ),
            3,
        ),
    ):
        with pytest.raises(UsageError):
            model_manifest(spec, columns)
    for names in (("b", "a"), ("a", "a")):
        manifest = tuple(TensorSpec(name=name, shape=(1,)) for name in names)
        with pytest.raises(FormatError, match="ascending"):
            model_manifest(TorchModule(module="mlp-tanh", manifest=manifest), 3)
    for persons, clip in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match=f"got {persons} persons and clip {clip}"):
            contribution_bounds(LogisticRegression(), 3, max_persons=persons, feature_clip=clip)
    model_manifest(LogisticRegression(ridge_milli=0, site_intercepts=False), 3)


MANIFEST = (TensorSpec(name="a", shape=(2,)), TensorSpec(name="b", shape=(1,)))
GOOD = {"a": np.array([1.0, -2.0]), "b": np.array([0.0])}
BAD_CONTRIBUTIONS = {
    "dictionary": (GOOD, "contribution-type"),
    "missing": ({"a": GOOD["a"]}, "contribution-names"),
    "extra": (GOOD | {"c": GOOD["b"]}, "contribution-names"),
    "renamed": ({"a": GOOD["a"], "secret": GOOD["b"]}, "contribution-names"),
    "shape": (GOOD | {"a": np.zeros((2, 1))}, "contribution-shape"),
    "type": (GOOD | {"a": np.zeros(2, np.float32)}, "contribution-type"),
    "nan": (GOOD | {"a": np.array([0, np.nan])}, "contribution-not-finite"),
    "infinite": (GOOD | {"b": np.array([-np.inf])}, "contribution-not-finite"),
    "over the bound": (GOOD | {"a": np.array([0, -2.5])}, "contribution-over-bound"),
}


@pytest.mark.parametrize("name", BAD_CONTRIBUTIONS)
def test_a_contribution_that_is_not_the_plans_is_refused(name: str) -> None:
    arrays, code = BAD_CONTRIBUTIONS[name]
    tensors = arrays if name == "dictionary" else NamedTensors.from_arrays(arrays)
    with pytest.raises(PolicyError) as refusal:
        check_contribution(MANIFEST, tensors, {"a": 2, "b": 1})
    assert refusal.value.code == code
    assert "secret" not in str(refusal.value)


def test_the_plans_contribution_is_accepted() -> None:
    tensors = NamedTensors.from_arrays(GOOD)
    assert check_contribution(MANIFEST, tensors, {"a": 2, "b": 1}) is tensors
    assert check_contribution(MANIFEST, tensors) is tensors


def test_a_failure_says_its_code_and_nothing_else() -> None:
    for reason in FailureCode:
        failure = TrainerFailure(reason)
        assert failure.code == reason.value
        assert str(failure) == f"the trainer declines: {reason.value}"


def test_a_task_checks_shapes_and_hides_its_data() -> None:
    model = initial_model(LogisticRegression(), 2)
    rows, label, entropy = np.full((3, 2), 1234.5), np.zeros(3), bytes(16)
    task = TrainingTask(LogisticRegression(), model, rows, label, entropy)
    assert "1234" not in repr(task)
    for bad in (
        (rows[0], label, entropy),
        (rows.reshape(3, 2, 1), label, entropy),
        (rows, label[:2], entropy),
        (rows.astype(np.float32), label, entropy),
        (rows, label.astype(np.int64), entropy),
        (rows, label, bytes(15)),
    ):
        with pytest.raises(UsageError):
            TrainingTask(LogisticRegression(), model, *bad)


def test_a_long_step_is_scaled_down() -> None:
    spec = PoissonRegression(ridge_milli=1)
    sums = {"gradient": [100 << 20, 50 << 20], "hessian": [1 << 20, 0, 1 << 20], "loss": [0]}
    model, trace = next_coefficients(spec, initial_model(spec, 2), sums, 20)
    assert trace.step == 1.0
    np.testing.assert_allclose(model["coefficients"], [1.0, 0.5])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"gradient": [1, 2, 3]}, "sum-shape"),
        ({"hessian": [1, 2]}, "sum-shape"),
        ({"loss": []}, "sum-shape"),
        ({"gradient": [1 << 70, 0]}, "sum-shape"),
        ({"hessian": [-(5 << 20), 0, 1]}, "not-positive-definite"),
    ],
)
def test_a_sum_that_is_not_of_the_model_is_refused(change: dict[str, object], code: str) -> None:
    spec = LogisticRegression()
    sums = {"gradient": [0, 0], "hessian": [1, 0, 1], "loss": [0]} | change
    with pytest.raises(VerificationError) as refusal:
        next_coefficients(spec, initial_model(spec, 2), sums, 20)  # type: ignore[arg-type]  # bad
    assert refusal.value.code == code
    with pytest.raises(VerificationError):
        sum_as_float64({}, "gradient", 1, 20)
    with pytest.raises(UsageError):
        sum_as_float64({"a": [1]}, "a", 1, 63)


def test_a_model_of_another_kind_is_refused() -> None:
    spec = LogisticRegression()
    for model in (
        initial_model(MultilayerPerceptron(), 2),
        initial_model(LogisticRegression(site_intercepts=False), 2),
    ):
        with pytest.raises(UsageError):
            next_coefficients(spec, model, {}, 20)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"weight": [0]}, "no-weight"),
        ({"weight": [-1]}, "no-weight"),
        ({"delta.a": [1]}, "sum-shape"),
        ({"weight": [3]}, "not-finite"),
    ],
)
def test_an_average_that_is_not_of_the_model_is_refused(
    change: dict[str, list[int]], code: str
) -> None:
    # An infinite parameter is refused last; no file holds one, but a caller might.
    model = NamedTensors.from_arrays({"a": np.zeros(2), "b": np.array([np.inf], np.float32)})
    sums = {"delta.a": [1, 2], "delta.b": [0], "weight": [1]} | change
    with pytest.raises(VerificationError) as refusal:
        next_tensors(model, sums, 0)
    assert refusal.value.code == code


def test_integer_parameters_cannot_be_averaged() -> None:
    model = NamedTensors.from_arrays({"a": np.zeros(1, np.int64)})
    with pytest.raises(UsageError):
        next_tensors(model, {"delta.a": [1], "weight": [1]}, 0)
