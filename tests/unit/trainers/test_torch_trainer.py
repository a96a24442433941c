"""The PyTorch trainer against the numpy perceptron of the same shape.

Planted faults that these tests caught: unknown module built by attribute name; state loaded
without comparing shapes; global generator used for shuffling; update not clipped.
"""

import dataclasses

import msgspec
import numpy as np
import pytest

from treaty.aggregation.tensors import NamedTensors, TensorSpec
from treaty.models.averaging import next_tensors
from treaty.models.specification import (
    LogisticRegression,
    MultilayerPerceptron,
    TorchModule,
    contribution_bounds,
    contribution_manifest,
    initial_model,
    model_manifest,
)
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask, check_contribution
from treaty.trainers.numpy_trainer import NumpyTrainer
from treaty.trainers.torch_trainer import MODULES, TorchTrainer, module_specification

pytestmark = pytest.mark.torch
TRAINER = TorchTrainer()
ENTROPY = bytes(range(32))


def _task(spec: TorchModule, rows: int = 60, seed: int = 0) -> TrainingTask:
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(rows, 3))
    label = (features[:, 0] > features[:, 1] ** 2 - 0.5).astype(float)
    return TrainingTask(spec, initial_model(spec, 3), features, label, ENTROPY)


def test_the_manifest_is_the_modules() -> None:
    spec = module_specification("mlp-tanh", 3, (4,))
    assert spec.manifest == (
        TensorSpec(name="0.bias", shape=(4,), dtype="F32"),
        TensorSpec(name="0.weight", shape=(4, 3), dtype="F32"),
        TensorSpec(name="2.bias", shape=(1,), dtype="F32"),
        TensorSpec(name="2.weight", shape=(1, 4), dtype="F32"),
    )
    assert model_manifest(spec, 3) == spec.manifest


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_contribution_is_the_plans_and_repeats(module: str) -> None:
    spec = with_changes(module_specification(module, 3), clip_micro=1000, local_epochs=3)
    task = _task(spec)
    part = TRAINER.compute(task)
    bounds = contribution_bounds(spec, 3, max_persons=100, feature_clip=10)
    check_contribution(contribution_manifest(spec, 3), part, bounds)
    change = np.concatenate([part[f"delta.{name}"].ravel() for name in task.model.names])
    assert np.linalg.norm(change) == pytest.approx(0.001 * 0.06)
    assert TRAINER.compute(task) == part
    assert TRAINER.compute(dataclasses.replace(task, entropy=bytes(32))) != part


def with_changes(spec: TorchModule, **changes: int) -> TorchModule:
    return msgspec.structs.replace(spec, **changes)


def test_the_module_computes_what_the_numpy_perceptron_computes() -> None:
    spec = module_specification("mlp-tanh", 3, (5, 4))
    spec = with_changes(spec, clip_micro=10**9, weight_rows=1, batch_size=7)
    twin = MultilayerPerceptron(hidden=(5, 4), clip_micro=10**9, weight_rows=1, batch_size=7)
    task = _task(spec)
    pairs = {"0": "layer.0", "2": "layer.1", "4": "layer.2"}
    model = NamedTensors.from_arrays(
        {f"{ours}.weight": task.model.float64(f"{its}.weight").T for its, ours in pairs.items()}
        | {f"{ours}.bias": task.model.float64(f"{its}.bias") for its, ours in pairs.items()}
    )
    twin_task = TrainingTask(twin, model, task.features, task.label, ENTROPY)
    found, expected = TRAINER.compute(task), NumpyTrainer().compute(twin_task)
    for theirs, ours in pairs.items():
        np.testing.assert_allclose(
            found[f"delta.{theirs}.weight"].T, expected[f"delta.{ours}.weight"], atol=2e-6
        )
        np.testing.assert_allclose(
            found[f"delta.{theirs}.bias"], expected[f"delta.{ours}.bias"], atol=2e-6
        )
    np.testing.assert_allclose(
        TRAINER.predict(spec, task.model, task.features),
        NumpyTrainer().predict(twin, model, task.features),
        atol=1e-6,
    )
    assert TRAINER.site_state(task) == b""


def test_federated_rounds_lower_the_loss() -> None:
    spec = with_changes(
        module_specification("mlp-tanh", 3), learning_rate_micro=300_000, local_epochs=2
    )
    tasks = [_task(spec, rows, seed) for seed, rows in enumerate((80, 120))]
    model = initial_model(spec, 3)

    def loss(model: NamedTensors) -> float:
        total = 0.0
        for task in tasks:
            chance = TRAINER.predict(spec, model, task.features)
            total -= float(np.sum(np.log(np.where(task.label == 1, chance, 1 - chance))))
        return total

    before = loss(model)
    for index in range(8):
        sums: dict[str, np.ndarray] = {}
        for task in tasks:
            asked = dataclasses.replace(task, model=model, entropy=bytes([index]) * 16)
            part = TRAINER.compute(asked)
            for name in part.names:
                words = np.rint(part[name].ravel() * 2.0**24).astype(np.int64)
                sums[name] = sums.get(name, np.zeros_like(words)) + words
        model = next_tensors(model, sums, 24)
    assert model.manifest == spec.manifest
    assert loss(model) < 0.8 * before


def test_a_site_can_train_alone() -> None:
    spec = with_changes(module_specification("mlp-relu", 3), rounds=2)
    assert TRAINER.alone(_task(spec)).manifest == spec.manifest


def test_what_is_not_on_the_list_is_refused() -> None:
    spec = module_specification("mlp-tanh", 3)
    task = _task(spec)
    renamed = TorchModule(module="torch.nn.Linear", manifest=spec.manifest)
    reshaped = TorchModule(module="mlp-tanh", manifest=spec.manifest, hidden=(8,))
    wide = TorchModule(
        module="mlp-tanh",
        manifest=tuple(
            TensorSpec(name=item.name, shape=item.shape, dtype="F64") for item in spec.manifest
        ),
    )
    rows = [
        (renamed, FailureCode.UNSUPPORTED_MODEL),
        (reshaped, FailureCode.MODULE_MISMATCH),
        (wide, FailureCode.MODULE_MISMATCH),
    ]
    for bad, reason in rows:
        asked = dataclasses.replace(task, specification=bad, model=initial_model(bad, 3))
        with pytest.raises(TrainerFailure) as failure:
            TRAINER.compute(asked)
        assert failure.value.reason is reason
    linear = LogisticRegression()
    asked = dataclasses.replace(task, specification=linear, model=initial_model(linear, 3))
    with pytest.raises(TrainerFailure) as failure:
        TRAINER.compute(asked)
    assert failure.value.reason is FailureCode.UNSUPPORTED_MODEL
    with pytest.raises(TrainerFailure) as failure:
        TRAINER.compute(dataclasses.replace(task, label=np.full(60, 0.5)))
    assert failure.value.reason is FailureCode.LABEL_OUT_OF_RANGE
    with pytest.raises(TrainerFailure) as failure:
        TRAINER.compute(dataclasses.replace(task, features=np.full((60, 3), np.nan)))
    assert failure.value.reason is FailureCode.FEATURES_NOT_FINITE
