"""The trainer that needs numpy alone: generalised linear models and a tanh perceptron.

Guarantees: `compute` returns the plan's contribution or raises `TrainerFailure`; it keeps no
state between calls and its result depends on the task alone (docs/spec/training.md, section 3).
Left to others: clipping features, checking the contribution, quantisation, masking.
"""

from typing import assert_never

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import FormatError
from treaty.models.specification import (
    COEFFICIENTS,
    INTERCEPT,
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
    has_site_intercepts,
    model_manifest,
)
from treaty.models.task import FailureCode, GradientPart, TrainerFailure, TrainingTask
from treaty.privacy.mechanisms import Layer
from treaty.trainers.linear_family import (
    check_labels,
    derivatives,
    expected_label,
    own_intercept,
    row_errors,
    with_constant,
)
from treaty.trainers.updates import batches, check_task, train_alone, weighted_update

__all__ = ["NumpyTrainer"]

Vector = npt.NDArray[np.float64]


class NumpyTrainer:
    """Local computation of everything but PyTorch modules."""

    def compute(self, task: TrainingTask) -> NamedTensors:
        """Return the site's contribution at `task.model`; raises `TrainerFailure`."""
        _supported(task.specification)
        check_task(task)
        spec = task.specification
        match spec:
            case LogisticRegression() | LinearRegression() | PoissonRegression():
                check_labels(spec, task.label)
                with np.errstate(all="ignore"):
                    result = derivatives(spec, task.model, task.features, task.label)
            case MultilayerPerceptron():
                if not ((task.label == 0.0) | (task.label == 1.0)).all():
                    raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)
                with np.errstate(all="ignore"):
                    trained = _descend(spec, task)
                result = weighted_update(spec, task.model, trained, len(task.label))
            case TorchModule():
                raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
            case _:
                assert_never(spec)
        if not all(np.isfinite(array).all() for array in result.arrays):
            raise TrainerFailure(FailureCode.RESULT_NOT_FINITE)
        return result

    def site_state(self, task: TrainingTask) -> bytes:
        """Return what stays at the site for predicting with `task.model`.

        Eight bytes, the little-endian binary64 of the site's own intercept, fitted to the rows of
        `task`; no bytes for models without one. Private to the site. Raises `TrainerFailure`.
        """
        _supported(task.specification)
        check_task(task)
        spec = task.specification
        if not isinstance(spec, LogisticRegression | LinearRegression | PoissonRegression):
            return b""
        check_labels(spec, task.label)
        if not spec.site_intercepts:
            return b""
        offset = task.features @ task.model.float64(COEFFICIENTS)
        with np.errstate(all="ignore"):
            intercept = own_intercept(spec, offset, task.label)
        return np.array([intercept], "<f8").tobytes()

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: Vector,
        site_state: bytes = b"",
    ) -> Vector:
        """Return the expected label of each row: float64 (n,), a probability for classifiers.

        Without `site_state` a model with site intercepts uses the intercept zero, which suits
        ranking only. Raises `TrainerFailure`, or `FormatError` for a state of another kind.
        """
        _supported(specification)
        if features.ndim != 2 or not model.conforms_to(
            model_manifest(specification, features.shape[1])
        ):
            raise TrainerFailure(FailureCode.MODEL_MISMATCH)
        expected = 8 if has_site_intercepts(specification) else 0
        if len(site_state) not in (0, expected):
            raise FormatError(f"expected {expected} bytes of site state, got {len(site_state)}")
        if isinstance(specification, MultilayerPerceptron):
            logit = _forward(_layers(model), features)[-1][:, 0]
            return expected_label(LogisticRegression(), logit)
        if isinstance(specification, TorchModule):
            raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
        if not specification.site_intercepts:
            shared = np.append(model.float64(COEFFICIENTS), model.float64(INTERCEPT))
            return expected_label(specification, with_constant(specification, features) @ shared)
        predictor = features @ model.float64(COEFFICIENTS)
        if site_state:
            intercept = float(np.frombuffer(site_state, "<f8")[0])
            if not np.isfinite(intercept):
                raise FormatError("expected a finite intercept in the site state")
            predictor = predictor + intercept
        return expected_label(specification, predictor)

    def alone(self, task: TrainingTask) -> NamedTensors:
        """Return the site's own model, trained on its rows only; raises `TrainerFailure`."""
        _supported(task.specification)
        return train_alone(task, self.compute)

    def layers(self, task: TrainingTask) -> tuple[GradientPart, ...]:
        """Return activations and errors of every row at `task.model`; raises `TrainerFailure`.

        Generalised linear models need a common intercept: one that each site fits to its rows
        has no place among clipped contributions.
        """
        _supported(task.specification)
        check_task(task)
        spec = task.specification
        with np.errstate(all="ignore"):
            if isinstance(spec, MultilayerPerceptron):
                if not ((task.label == 0.0) | (task.label == 1.0)).all():
                    raise TrainerFailure(FailureCode.LABEL_OUT_OF_RANGE)
                return _row_layers(task)
            if isinstance(spec, TorchModule) or spec.site_intercepts:
                raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)
            check_labels(spec, task.label)
            design, errors = row_errors(spec, task.model, task.features, task.label)
        return (
            GradientPart(COEFFICIENTS, None, Layer(design[:, :-1], errors, has_bias=False)),
            GradientPart(INTERCEPT, None, Layer(design[:, -1:], errors, has_bias=False)),
        )


def _supported(spec: ModelSpecification) -> None:
    if isinstance(spec, TorchModule):
        raise TrainerFailure(FailureCode.UNSUPPORTED_MODEL)


def _layers(model: NamedTensors) -> list[tuple[Vector, Vector]]:
    """Return (weight, bias) of each layer, first to last, as writable copies."""
    return [
        (model.float64(f"layer.{index}.weight"), model.float64(f"layer.{index}.bias"))
        for index in range(len(model) // 2)
    ]


def _forward(layers: list[tuple[Vector, Vector]], features: Vector) -> list[Vector]:
    """Return the features, the activation after each hidden layer, and the logit (n, 1)."""
    values = [features]
    for index, (weight, bias) in enumerate(layers):
        value = values[-1] @ weight + bias
        values.append(np.tanh(value) if index < len(layers) - 1 else value)
    return values


def _row_layers(task: TrainingTask) -> tuple[GradientPart, ...]:
    """Return the layers' activations and errors, the loss being each row's own log loss."""
    layers = _layers(task.model)
    values = _forward(layers, task.features)
    probability = expected_label(LogisticRegression(), values[-1][:, 0])
    error = (probability - task.label)[:, None]
    parts: list[GradientPart] = []
    for index in range(len(layers) - 1, -1, -1):
        weight, _ = layers[index]
        names = f"layer.{index}.weight", f"layer.{index}.bias"
        parts.append(GradientPart(*names, Layer(values[index], error)))
        if index:
            error = (error @ weight.T) * (1.0 - values[index] ** 2)
    return tuple(reversed(parts))


def _descend(spec: MultilayerPerceptron, task: TrainingTask) -> NamedTensors:
    """Return the model after the local epochs of gradient descent on the mean log loss."""
    layers = _layers(task.model)
    rate = spec.learning_rate_micro / 10**6
    logistic = LogisticRegression()
    for rows in batches(spec, len(task.label), task.entropy):
        values = _forward(layers, task.features[rows])
        probability = expected_label(logistic, values[-1][:, 0])
        error = ((probability - task.label[rows]) / len(rows))[:, None]
        for index in range(len(layers) - 1, -1, -1):
            weight, bias = layers[index]
            # The error passes through the weights as they were before this step.
            below = (error @ weight.T) * (1.0 - values[index] ** 2) if index else error
            layers[index] = (
                weight - rate * (values[index].T @ error),
                bias - rate * error.sum(axis=0),
            )
            error = below
    return NamedTensors.from_arrays(
        {f"layer.{index}.weight": weight for index, (weight, _) in enumerate(layers)}
        | {f"layer.{index}.bias": bias for index, (_, bias) in enumerate(layers)}
    )
