"""What every trainer shares: checks of a task, the weighted and clipped update, training alone."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors, Tensor
from treaty.crypto.canonical import sha256
from treaty.errors import VerificationError
from treaty.models.averaging import next_tensors
from treaty.models.newton import NewtonMemory, next_coefficients
from treaty.models.specification import (
    DELTA_PREFIX,
    WEIGHT,
    AveragedModel,
    MultilayerPerceptron,
    TorchModule,
    initial_model,
    max_rounds,
    model_manifest,
)
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask

__all__ = ["ALONE_SCALE_BITS", "batches", "check_task", "train_alone", "weighted_update"]

ALONE_SCALE_BITS = 32
"""Grid of a site's own fit: the one that exact Newton sums use by default."""


def check_task(task: TrainingTask) -> None:
    """Raise `TrainerFailure` for no rows, a model that does not fit, or data that is not finite."""
    if task.features.shape[0] == 0:
        raise TrainerFailure(FailureCode.NO_ROWS)
    if not task.model.conforms_to(model_manifest(task.specification, task.features.shape[1])):
        raise TrainerFailure(FailureCode.MODEL_MISMATCH)
    if not np.isfinite(task.features).all():
        raise TrainerFailure(FailureCode.FEATURES_NOT_FINITE)
    if not np.isfinite(task.label).all():
        raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)


def batches(spec: AveragedModel, rows: int, entropy: bytes) -> list[npt.NDArray[np.int64]]:
    """Return the row numbers of every batch of every local epoch, shuffled by `entropy`."""
    generator = np.random.Generator(np.random.PCG64(int(sha256(entropy), 16)))
    chosen: list[npt.NDArray[np.int64]] = []
    for _ in range(spec.local_epochs):
        order = generator.permutation(rows)
        chosen += [
            order[start : start + spec.batch_size] for start in range(0, rows, spec.batch_size)
        ]
    return chosen


def weighted_update(
    spec: AveragedModel, before: NamedTensors, after: NamedTensors, rows: int
) -> NamedTensors:
    """Return the contribution: the change, cut to the clipping norm, times the site's weight.

    The Euclidean norm is taken over all tensors together and the cut is by one factor. Raises
    `TrainerFailure` when the change is not finite.
    """
    change = after.flat() - before.flat()
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.sqrt(np.sum(change * change)))
    if not np.isfinite(norm):
        raise TrainerFailure(FailureCode.RESULT_NOT_FINITE)
    clip = spec.clip_micro / 10**6
    weight = min(rows, spec.weight_rows) / spec.weight_rows
    if norm > clip:
        # The second cut only takes back what rounding may have added to a single element.
        change = np.clip(change * (clip / norm), -clip, clip)
    change *= weight
    arrays: dict[str, Tensor] = {WEIGHT: np.array([weight])}
    start = 0
    for tensor, array in zip(before.manifest, before.arrays, strict=True):
        part = change[start : start + array.size].reshape(array.shape)
        arrays[DELTA_PREFIX + tensor.name] = part
        start += array.size
    return NamedTensors.from_arrays(arrays)


def train_alone(
    task: TrainingTask, compute: Callable[[TrainingTask], NamedTensors]
) -> NamedTensors:
    """Return the model that the site would reach by itself: a federation of one.

    The same steps, rounds and fixed-point grid as in the study, from the initial model, with
    `task.model` left aside. Raises `TrainerFailure`.
    """
    spec = task.specification
    model = initial_model(spec, task.features.shape[1])
    memory: NewtonMemory | None = None
    for index in range(max_rounds(spec)):
        entropy = bytes.fromhex(sha256(b"alone" + index.to_bytes(8, "big") + task.entropy))
        contribution = compute(TrainingTask(spec, model, task.features, task.label, entropy))
        sums = {
            tensor.name: _on_grid(contribution.float64(tensor.name))
            for tensor in contribution.manifest
        }
        try:
            if isinstance(spec, MultilayerPerceptron | TorchModule):
                model = next_tensors(model, sums, ALONE_SCALE_BITS)
                continue
            model, trace = next_coefficients(spec, model, sums, ALONE_SCALE_BITS, memory=memory)
            memory = trace.memory
        except VerificationError as error:
            raise TrainerFailure(FailureCode.NO_CONVERGENCE) from error
        if trace.converged:
            break
    return model


def _on_grid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    scaled = np.rint(values.ravel() * 2.0**ALONE_SCALE_BITS)
    if not np.all(np.abs(scaled) < 2.0**63):
        raise TrainerFailure(FailureCode.RESULT_NOT_FINITE)
    return scaled.astype(np.int64)
