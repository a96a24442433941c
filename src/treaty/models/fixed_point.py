"""Decoded sums as floating-point numbers: one correct rounding, the same everywhere."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from treaty.errors import UsageError, VerificationError

__all__ = ["DecodedSums", "sum_as_float64"]

DecodedSums: TypeAlias = Mapping[str, Sequence[int] | npt.NDArray[np.int64]]
"""Signed integers by segment, as `treaty.aggregation.quantization.decode_sum` returns them."""


def sum_as_float64(
    sums: DecodedSums, name: str, length: int, scale_bits: int
) -> npt.NDArray[np.float64]:
    """Return sums[name] / 2^scale_bits as float64 of shape (length,), rounded to nearest even.

    Raises `VerificationError` (code ``sum-shape``) when the segment is missing or has another
    length or a word beyond 64 bits; `UsageError` for a scale outside 0 to 62.
    """
    if not 0 <= scale_bits <= 62:
        raise UsageError(f"expected a scale of 0 to 62 bits, got {scale_bits}")
    if name not in sums:
        raise VerificationError(f"expected {name} in the sum", code="sum-shape")
    try:
        words = np.array(sums[name], dtype=np.int64)
    except (OverflowError, ValueError, TypeError) as error:
        raise VerificationError(f"expected 64-bit integers in {name}", code="sum-shape") from error
    if words.shape != (length,):
        raise VerificationError(
            f"expected {length} words of {name}, got shape {words.shape}", code="sum-shape"
        )
    # IEEE 754 rounds the conversion to nearest even; scaling by a power of two is exact here.
    scaled: npt.NDArray[np.float64] = words.astype(np.float64) * 2.0**-scale_bits
    return scaled
