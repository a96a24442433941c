"""The next model of federated averaging from the published sum.

Every member and every verifier takes this step itself, bit for bit the same
(docs/spec/training.md, section 5): each element becomes model + (sum of weighted changes) /
(sum of weights), in binary64, then rounded once to the element type of the tensor.
"""

import numpy as np

from treaty.aggregation.tensors import NamedTensors, Tensor, element_count
from treaty.errors import UsageError, VerificationError
from treaty.models.fixed_point import DecodedSums, sum_as_float64
from treaty.models.specification import DELTA_PREFIX, WEIGHT

__all__ = ["next_tensors"]


def next_tensors(model: NamedTensors, sums: DecodedSums, scale_bits: int) -> NamedTensors:
    """Return the next model.

    `sums` holds ``delta.<name>`` for every tensor and ``weight``, integers over 2^`scale_bits`.
    Raises `VerificationError` when a segment is missing or has another length (``sum-shape``),
    when no weight was contributed (``no-weight``) or an element leaves its type (``not-finite``);
    `UsageError` for a model with integer tensors. Pure.
    """
    weight = sum_as_float64(sums, WEIGHT, 1, scale_bits)[0]
    if not weight > 0:
        raise VerificationError("expected a positive sum of weights", code="no-weight")
    arrays: list[Tensor] = []
    for spec, array in zip(model.manifest, model.arrays, strict=True):
        if spec.dtype == "I64":
            raise UsageError(f"expected floating-point parameters, {spec.name} is I64")
        change = sum_as_float64(sums, DELTA_PREFIX + spec.name, element_count(spec), scale_bits)
        mean = np.divide(change, weight).reshape(spec.shape)
        with np.errstate(over="ignore"):
            following = np.add(array.astype(np.float64), mean).astype(array.dtype)
        if not np.isfinite(following).all():
            raise VerificationError(f"{spec.name} is not finite", code="not-finite")
        arrays.append(following)
    return NamedTensors(model.manifest, arrays)
