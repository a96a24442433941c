"""What a trainer is asked, how it may fail, and what it may return.

Guarantees (docs/spec/training.md, section 3):
  * A trainer fails with a code from a closed list and nothing else: no text of the data, the
    model or the library can leave with it.
  * `check_contribution` accepts exactly the tensors whose names, shapes and element types are the
    plan's, with finite elements within the public bounds.

LIMIT: the values of a contribution are a channel that only clipping and noise can bound. A trainer
that is not trusted could hide data in them; the plan names the digest of the code that runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import Manifest, NamedTensors
from treaty.errors import PolicyError, UsageError
from treaty.models.specification import ModelSpecification
from treaty.privacy.mechanisms import Layer

__all__ = [
    "MIN_ENTROPY_BYTES",
    "FailureCode",
    "GradientPart",
    "TrainerFailure",
    "TrainingTask",
    "check_contribution",
]

MIN_ENTROPY_BYTES = 16


class FailureCode(Enum):
    """Why a trainer gave nothing. Stays in the site's own log; others see `site_declined`."""

    UNSUPPORTED_MODEL = "unsupported-model"
    MODULE_UNAVAILABLE = "module-unavailable"
    MODULE_MISMATCH = "module-mismatch"
    MODEL_MISMATCH = "model-mismatch"
    NO_ROWS = "no-rows"
    FEATURES_NOT_FINITE = "features-not-finite"
    LABEL_OUT_OF_RANGE = "label-out-of-range"
    NO_CONVERGENCE = "no-convergence"
    RESULT_NOT_FINITE = "result-not-finite"
    WORKER_DIED = "worker-died"
    WORKER_GARBLED = "worker-garbled"
    WORKER_TIME = "worker-time"


class TrainerFailure(PolicyError):  # noqa: N818  # the protocol's word; the code says the rest
    """The trainer declines; `code` is the value of `reason`."""

    def __init__(self, reason: FailureCode) -> None:
        super().__init__(f"the trainer declines: {reason.value}", code=reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """One local computation.

    `model` is the published model; `features` float64 (n, p), normalised and clipped as the
    plan says; `label` float64 (n,); `entropy` at least 16 bytes, fresh for every round and
    used by trainers that shuffle. Raises `UsageError` for other shapes or types.
    """

    specification: ModelSpecification
    model: NamedTensors
    features: npt.NDArray[np.float64] = field(repr=False)
    label: npt.NDArray[np.float64] = field(repr=False)
    entropy: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.features.ndim != 2 or self.features.dtype != np.float64:
            raise UsageError("expected features of shape (n, p) in float64")
        if self.label.shape != self.features.shape[:1] or self.label.dtype != np.float64:
            raise UsageError("expected one float64 label for every row of features")
        if len(self.entropy) < MIN_ENTROPY_BYTES:
            raise UsageError(f"expected at least {MIN_ENTROPY_BYTES} bytes of entropy")


@dataclass(frozen=True, slots=True)
class GradientPart:
    """One dense layer's activations and errors, for every row of a task in order.

    The gradient of the loss of one row (not of a mean) is the outer product of the row's
    activations and errors; it belongs to the tensor `weight`, of shape (fan-in, fan-out), or
    (fan-out, fan-in) when `transposed`, or (fan-in,) for one output. The errors themselves
    belong to the tensor `bias`, when the layer has one.
    """

    weight: str
    bias: str | None
    layer: Layer = field(repr=False)
    transposed: bool = False


def check_contribution(
    manifest: Manifest, tensors: object, bounds: Mapping[str, int] | None = None
) -> NamedTensors:
    """Return `tensors`, having checked that they are what the plan expects.

    Raises `PolicyError` with code ``contribution-type`` (not named tensors, or another element
    type), ``contribution-names``, ``contribution-shape``, ``contribution-not-finite`` or
    ``contribution-over-bound`` (an absolute value above the tensor's entry in `bounds`). The
    messages quote the plan's names only, never what the trainer returned.
    """
    # A subclass could answer differently each time it is asked.
    if type(tensors) is not NamedTensors:
        raise PolicyError("expected named tensors from the trainer", code="contribution-type")
    if tensors.names != tuple(spec.name for spec in manifest):
        wanted = ", ".join(spec.name for spec in manifest)
        raise PolicyError(
            f"expected the tensors {wanted} from the trainer", code="contribution-names"
        )
    for expected, found, array in zip(manifest, tensors.manifest, tensors.arrays, strict=True):
        if found.dtype != expected.dtype:
            raise PolicyError(
                f"expected {expected.dtype} in {expected.name}", code="contribution-type"
            )
        if found.shape != expected.shape:
            raise PolicyError(
                f"expected shape {expected.shape} of {expected.name}", code="contribution-shape"
            )
        if not np.isfinite(array).all():
            raise PolicyError(
                f"expected finite elements in {expected.name}", code="contribution-not-finite"
            )
        if bounds is not None and (np.abs(array) > bounds[expected.name]).any():
            raise PolicyError(
                f"expected elements of {expected.name} within {bounds[expected.name]}",
                code="contribution-over-bound",
            )
    return tensors
