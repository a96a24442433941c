"""The next model of noised gradient descent from the published sum.

Every member and every verifier takes this step itself, bit for bit the same
(docs/spec/training.md, section 7): element by element, in binary64,
  gradient = sum * (clip / 2^grid_bits);  change = rate * (gradient / persons);
  element = element - change, rounded once to the element type.
The final model is the mean of the iterates of the second half, added in order, divided once.
Noise is in the sums already: whatever follows from them costs no more privacy.
"""

import numpy as np

from treaty.aggregation.tensors import Manifest, NamedTensors, Tensor, TensorSpec, element_count
from treaty.errors import UsageError, VerificationError
from treaty.models.fixed_point import DecodedSums, sum_as_float64

__all__ = ["GRADIENT_PREFIX", "gradient_manifest", "least_persons", "mean_iterate", "next_iterate"]

GRADIENT_PREFIX = "gradient."

_LEAST_PERSONS = 20


def gradient_manifest(manifest: Manifest) -> Manifest:
    """Return the tensors of a noised gradient sum: one for each of the model's, I64."""
    return tuple(
        TensorSpec(name=GRADIENT_PREFIX + tensor.name, shape=tensor.shape, dtype="I64")
        for tensor in manifest
    )


def least_persons(sites: int) -> float:
    """Return the least number of persons that a noised count is taken for."""
    return float(_LEAST_PERSONS * sites)


def next_iterate(
    model: NamedTensors, sums: DecodedSums, *, unit: float, persons: float, rate: float
) -> NamedTensors:
    """Return the next iterate.

    `sums` holds ``gradient.<name>`` for every tensor, integers of which one is `unit` long;
    `persons` (positive) is what the sum is divided by, `rate` the learning rate. Raises
    `VerificationError` when a segment is missing or has another length (``sum-shape``) or an
    element leaves its type (``not-finite``); `UsageError` for integer tensors. Pure.
    """
    if not persons > 0.0:
        raise UsageError("expected a positive number of persons")
    arrays: list[Tensor] = []
    for spec, array in zip(model.manifest, model.arrays, strict=True):
        if spec.dtype == "I64":
            raise UsageError(f"expected floating-point parameters, {spec.name} is I64")
        whole = sum_as_float64(sums, GRADIENT_PREFIX + spec.name, element_count(spec), 0)
        mean = np.divide(np.multiply(whole, unit), persons)
        change = np.multiply(rate, mean).reshape(spec.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            following = np.subtract(array.astype(np.float64), change).astype(array.dtype)
        arrays.append(_finite(spec, following))
    return NamedTensors(model.manifest, arrays)


def mean_iterate(iterates: tuple[NamedTensors, ...]) -> NamedTensors:
    """Return the elementwise mean of `iterates` (at least one), added in order. Pure."""
    if not iterates:
        raise UsageError("expected at least one iterate")
    manifest = iterates[0].manifest
    arrays: list[Tensor] = []
    for place, spec in enumerate(manifest):
        total = iterates[0].arrays[place].astype(np.float64)
        for later in iterates[1:]:
            total = np.add(total, later.arrays[place].astype(np.float64))
        mean = np.divide(total, float(len(iterates))).astype(iterates[0].arrays[place].dtype)
        arrays.append(_finite(spec, mean))
    return NamedTensors(manifest, arrays)


def _finite(spec: TensorSpec, array: Tensor) -> Tensor:
    if not np.all(np.isfinite(array)):
        raise VerificationError(f"{spec.name} is not finite", code="not-finite")
    return array
