"""Quantisation: real vectors on a public grid, as integers of a ring that cannot wrap.

Guarantees (docs/spec/secagg.md, section 2):
  * A value v of a segment becomes the integer nearest to v * 2^scale_bits, ties to even, in
    two's complement modulo 2^ring_bits. The scaling is exact: only the rounding loses anything.
  * A value that is not finite, or whose grid point lies beyond its segment's public bound, is
    refused, never clipped, so a sum is the exact sum of the rounded values.
  * `check_capacity` refuses every layout whose sum could leave the ring's signed range. It
    counts one unit above each bound, so the range has room where a bound is reached.

Clipping is the trainer's business and noise the mechanism's; `encode_grid` takes integers that
are on the grid already.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from treaty.errors import FormatError, PolicyError, UsageError, VerificationError

__all__ = [
    "MAX_GRID",
    "RING_TYPES",
    "Layout",
    "RingVector",
    "Segment",
    "check_capacity",
    "decode_sum",
    "encode",
    "encode_grid",
    "narrowest_ring",
    "ring_vector",
]

RingVector = NDArray[np.unsignedinteger]
"""A vector of ring elements: little-endian unsigned words of 16, 32 or 64 bits."""

RING_TYPES: Final[dict[int, np.dtype[np.unsignedinteger]]] = {
    16: np.dtype("<u2"),
    32: np.dtype("<u4"),
    64: np.dtype("<u8"),
}
"""The word type of each ring, by its width in bits."""

MAX_GRID: Final = 1 << 62
"""Grid values stay below this, so that every one is an exact 64-bit integer."""

_SIGNED: Final[dict[int, np.dtype[np.signedinteger]]] = {
    16: np.dtype("<i2"),
    32: np.dtype("<i4"),
    64: np.dtype("<i8"),
}
_PIECE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Segment:
    """`length` values, each at most `bound` in magnitude, on a grid of 2^-scale_bits."""

    name: str
    length: int
    scale_bits: int
    bound: int

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("a segment needs a name")
        if self.length < 0 or self.bound < 0:
            raise UsageError(f"length and bound of segment {self.name} must not be negative")
        if not 0 <= self.scale_bits <= 62:
            raise UsageError(f"scale_bits of segment {self.name} must be between 0 and 62")

    @property
    def grid_bound(self) -> int:
        """Return the largest magnitude of a value on the grid."""
        return self.bound << self.scale_bits


@dataclass(frozen=True, slots=True)
class Layout:
    """What the words of one secure sum mean: segments in order, for at most `contributors` sites.

    Raises `UsageError` for a ring other than 16, 32 or 64 bits, repeated segment names, or no
    word or contributor at all.
    """

    segments: tuple[Segment, ...]
    ring_bits: int
    contributors: int

    def __post_init__(self) -> None:
        if self.ring_bits not in RING_TYPES:
            raise UsageError(f"expected a ring of 16, 32 or 64 bits, got {self.ring_bits}")
        if self.contributors < 1:
            raise UsageError(f"expected at least one contributor, got {self.contributors}")
        names = [segment.name for segment in self.segments]
        if len(set(names)) != len(names):
            raise UsageError("expected segments with distinct names")
        if self.length < 1:
            raise UsageError("expected a layout of at least one word")

    @property
    def length(self) -> int:
        """Return the number of words."""
        return sum(segment.length for segment in self.segments)


@functools.lru_cache(maxsize=256)
def check_capacity(layout: Layout) -> None:
    """Raise `PolicyError` (code ``capacity``) when a sum under `layout` could wrap.

    Each segment needs ``contributors * (bound * 2^scale_bits + 1) < 2^(ring_bits - 1)``.
    """
    for segment in layout.segments:
        reach = layout.contributors * (segment.grid_bound + 1)
        if reach >= 1 << (layout.ring_bits - 1) or segment.grid_bound >= MAX_GRID:
            raise PolicyError(
                f"a sum of {layout.contributors} values of segment {segment.name} can reach "
                f"{reach}, expected less than 2^{layout.ring_bits - 1}: lower the bound or the "
                "scale, or take a wider ring",
                code="capacity",
            )


def narrowest_ring(
    segments: Sequence[Segment], contributors: int, among: Sequence[int] = tuple(RING_TYPES)
) -> int:
    """Return the width in bits of the first ring of `among` in which no sum can wrap.

    `among` is in rising order. Returns the last one when all are too narrow, so that
    `check_capacity` says what does not fit.
    """
    for bits in among:
        try:
            check_capacity(Layout(tuple(segments), bits, contributors))
        except PolicyError:
            continue
        return bits
    return among[-1]


def encode(values: NDArray[np.float64] | Sequence[int], layout: Layout) -> RingVector:
    """Return `values`, one per word in the layout's order, as ring elements.

    `values` is a 1-D array of float64 or of integers, or a sequence of exact Python integers, in
    the units of the data (not yet scaled). Raises `UsageError` for another shape, `PolicyError`
    with code ``overflow`` for NaN, infinities and values beyond their segment's bound, and
    with code ``capacity`` for a layout whose sum could wrap.
    """
    check_capacity(layout)
    if not isinstance(values, np.ndarray):
        return _encode_exact(values, layout)
    _check_shape(values.shape, layout)
    if values.dtype.kind in "iu":
        return _encode_exact([int(value) for value in values], layout)
    if values.dtype != np.float64:
        raise UsageError(f"expected float64 or integers to encode, got {values.dtype}")
    ring = np.empty(layout.length, RING_TYPES[layout.ring_bits])
    for segment, place in _places(layout):
        limit = _float_below(segment.grid_bound)
        scale = float(1 << segment.scale_bits)
        for start in range(place.start, place.stop, _PIECE):
            piece = slice(start, min(start + _PIECE, place.stop))
            # Multiplying by a power of two is exact; what could overflow fails the next line.
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = values[piece] * scale
            np.rint(scaled, out=scaled)
            # Written so that a NaN, for which every comparison is false, is refused too.
            if not (scaled.max() <= limit and scaled.min() >= -limit):
                raise _overflow(segment)
            ring[piece] = scaled.astype(np.int64).view(np.uint64)
    return ring


def encode_grid(values: NDArray[np.int64], layout: Layout) -> RingVector:
    """Return integers that are on the grid already (value times 2^scale_bits) as ring elements.

    `values` is int64, 1-D, one per word. Raises as `encode`.
    """
    check_capacity(layout)
    if values.dtype != np.int64:
        raise UsageError(f"expected int64 grid values, got {values.dtype}")
    _check_shape(values.shape, layout)
    for segment, place in _places(layout):
        part = values[place]
        if int(part.max()) > segment.grid_bound or int(part.min()) < -segment.grid_bound:
            raise _overflow(segment)
    return values.view(np.uint64).astype(RING_TYPES[layout.ring_bits])


def decode_sum(total: RingVector, layout: Layout) -> dict[str, NDArray[np.int64]]:
    """Return the signed grid integers of an opened sum, int64 of shape (length,), by segment.

    Raises `VerificationError` (code ``sum-implausible``) for another shape or word type, or a
    value that no `contributors` contributions within bounds can add up to.
    """
    if total.shape != (layout.length,) or total.dtype != RING_TYPES[layout.ring_bits]:
        raise VerificationError(
            f"expected a sum of {layout.length} words of {layout.ring_bits} bits, "
            f"got shape {total.shape} of {total.dtype}",
            code="sum-implausible",
        )
    signed = total.view(_SIGNED[layout.ring_bits])
    sums: dict[str, NDArray[np.int64]] = {
        segment.name: np.zeros(0, np.int64) for segment in layout.segments
    }
    for segment, place in _places(layout):
        part = signed[place].astype(np.int64)
        reach = layout.contributors * segment.grid_bound
        if int(part.max()) > reach or int(part.min()) < -reach:
            raise VerificationError(
                f"the sum of segment {segment.name} exceeds what {layout.contributors} "
                "contributions within their bound can reach",
                code="sum-implausible",
            )
        sums[segment.name] = part
    return sums


def ring_vector(data: bytes | memoryview, ring_bits: int, length: int) -> RingVector:
    """Return the ring elements whose little-endian bytes are `data`, as a read-only view.

    Raises `FormatError` unless there are exactly `length` words.
    """
    kind = RING_TYPES[ring_bits]
    if len(data) != length * kind.itemsize:
        raise FormatError(f"expected a vector of {length * kind.itemsize} bytes, got {len(data)}")
    return np.frombuffer(data, kind)


def _places(layout: Layout) -> Iterator[tuple[Segment, slice]]:
    """The non-empty segments with their places in the vector."""
    start = 0
    for segment in layout.segments:
        if segment.length:
            yield segment, slice(start, start + segment.length)
        start += segment.length


def _check_shape(shape: tuple[int, ...], layout: Layout) -> None:
    if shape != (layout.length,):
        raise UsageError(f"expected {layout.length} values to encode, got shape {shape}")


def _encode_exact(values: Sequence[int], layout: Layout) -> RingVector:
    _check_shape((len(values),), layout)
    modulus = 1 << layout.ring_bits
    words: list[int] = []
    for segment, place in _places(layout):
        for value in values[place]:
            if not -segment.bound <= value <= segment.bound:
                raise _overflow(segment)
            words.append((value << segment.scale_bits) % modulus)
    return np.array(words, dtype=RING_TYPES[layout.ring_bits])


def _overflow(segment: Segment) -> PolicyError:
    # The value itself is not shown: it is private, and the message may travel.
    return PolicyError(
        f"a value of segment {segment.name} is not finite or exceeds its public bound "
        f"{segment.bound}: clip it before encoding",
        code="overflow",
    )


def _float_below(limit: int) -> float:
    """Return the largest float64 that is at most `limit`."""
    nearest = float(limit)
    return nearest if int(nearest) <= limit else float(np.nextafter(nearest, 0.0))
