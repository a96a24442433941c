"""Masking: the bulk work of a secure sum, chunk by chunk and in place.

A *mask plan* is a list of (key, sign). Adding it to a vector adds, for each key, that key's
keystream as ring words, or subtracts it. Guarantees (docs/spec/secagg.md, section 3):
  * Word t of a mask is a function of the key and t alone; a chunk is 65,536 words and can be
    masked, unmasked or audited without the chunks before it.
  * `input_root` is the RFC 6962 Merkle root over the SHA-256 of each chunk's little-endian
    bytes, so one chunk can be proved against a signed header.
  * `recompute_sum` is the whole of what the coordinator does to masked vectors: whoever holds
    them and the revealed seeds computes the same words.

Works chunk-major: all masks of one chunk while it is in the cache. Memory beside the vector is
one chunk. A caller with several threads splits a vector at chunk borders (`first_chunk`).

Assumes that each key masks one vector only; the protocol's machines see to that.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np

from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto.prg import BLOCK_BYTES, Keystream
from treaty.errors import UsageError
from treaty.ids import Digest

__all__ = [
    "CHUNK_WORDS",
    "MaskPlan",
    "apply_masks",
    "chunk_count",
    "input_root",
    "mask_input",
    "recompute_sum",
    "root_of_chunk_hashes",
    "unmask_chunk",
]

CHUNK_WORDS: Final = 65_536
"""Words in a chunk: 256 KiB in the 32-bit ring."""

MaskPlan: TypeAlias = tuple[tuple[bytes, int], ...]
"""(key of 32 bytes, +1 to add its mask or -1 to subtract it). Secret: never log a plan."""


def chunk_count(length: int) -> int:
    """Return the number of chunks of a vector of `length` words."""
    return -(-length // CHUNK_WORDS)


def apply_masks(
    values: RingVector, plan: MaskPlan, ring_bits: int, *, first_chunk: int = 0
) -> None:
    """Add the masks of `plan` to `values`, in place.

    `values` is 1-D, contiguous, writable, of the ring's word type; its first word is the first
    of chunk `first_chunk` of the whole vector. Raises `UsageError` otherwise.
    """
    streams = _streams(values, plan, ring_bits, first_chunk)
    buffer = np.empty(min(len(values), CHUNK_WORDS), values.dtype)
    for start in range(0, len(values), CHUNK_WORDS):
        _mask_chunk(values[start : start + CHUNK_WORDS], streams, buffer)


def mask_input(values: RingVector, plan: MaskPlan, ring_bits: int) -> Digest:
    """Add the masks of `plan` to `values`, in place, and return the `input_root` of the result.

    One pass: each chunk is hashed while it is in the cache.
    """
    streams = _streams(values, plan, ring_bits, 0)
    buffer = np.empty(min(len(values), CHUNK_WORDS), values.dtype)
    hashes: list[bytes] = []
    for start in range(0, len(values), CHUNK_WORDS):
        chunk = values[start : start + CHUNK_WORDS]
        _mask_chunk(chunk, streams, buffer)
        hashes.append(hashlib.sha256(chunk.data).digest())
    return root_of_chunk_hashes(hashes)


def input_root(values: RingVector) -> Digest:
    """Return the Merkle root of the chunks of `values` (1-D, contiguous, not empty)."""
    _check_vector(values, values.dtype.itemsize * 8)
    return root_of_chunk_hashes(
        [
            hashlib.sha256(values[start : start + CHUNK_WORDS].data).digest()
            for start in range(0, len(values), CHUNK_WORDS)
        ]
    )


def root_of_chunk_hashes(hashes: Sequence[bytes]) -> Digest:
    """Return the RFC 6962 root whose leaves are `hashes`; `UsageError` when there is none."""
    if not hashes:
        raise UsageError("a vector without words has no root")
    return Digest(_subtree([_leaf(one) for one in hashes]).hex())


def unmask_chunk(
    inputs: Sequence[RingVector], plan: MaskPlan, ring_bits: int, chunk: int
) -> RingVector:
    """Return chunk number `chunk` of the sum of `inputs` with `plan` applied.

    `inputs` are whole vectors of one length; nothing outside the chunk is read or computed.
    """
    length = _common_length(inputs, ring_bits)
    if not 0 <= chunk < chunk_count(length):
        raise UsageError(f"expected a chunk below {chunk_count(length)}, got {chunk}")
    place = slice(chunk * CHUNK_WORDS, min((chunk + 1) * CHUNK_WORDS, length))
    total = np.empty(place.stop - place.start, RING_TYPES[ring_bits])
    _add_up(total, [one[place] for one in inputs])
    apply_masks(total, plan, ring_bits, first_chunk=chunk)
    return total


def recompute_sum(inputs: Sequence[RingVector], plan: MaskPlan, ring_bits: int) -> RingVector:
    """Return the sum of the masked `inputs` with the unmask `plan` applied: the opened sum.

    `plan` subtracts each survivor's own mask and cancels the pair masks with dropped members
    (`treaty.protocol.secagg_keys.unmask_plan`). Inputs may be read-only or memory-mapped; they are
    read once, in order of chunks.
    """
    length = _common_length(inputs, ring_bits)
    total = np.empty(length, RING_TYPES[ring_bits])
    streams = _streams(total, plan, ring_bits, 0)
    buffer = np.empty(min(length, CHUNK_WORDS), RING_TYPES[ring_bits])
    for start in range(0, length, CHUNK_WORDS):
        chunk = total[start : start + CHUNK_WORDS]
        _add_up(chunk, [one[start : start + CHUNK_WORDS] for one in inputs])
        _mask_chunk(chunk, streams, buffer)
    return total


def _streams(
    values: RingVector, plan: MaskPlan, ring_bits: int, first_chunk: int
) -> list[tuple[Keystream, int]]:
    _check_vector(values, ring_bits)
    if not values.flags.writeable:
        raise UsageError("masks are added in place: the vector must be writable")
    if first_chunk < 0:
        raise UsageError(f"expected first_chunk of at least 0, got {first_chunk}")
    if any(sign not in (1, -1) for _, sign in plan):
        raise UsageError("the sign of a mask must be 1 or -1")
    block = first_chunk * (CHUNK_WORDS * values.dtype.itemsize // BLOCK_BYTES)
    return [(Keystream(key, block), sign) for key, sign in plan]


def _mask_chunk(
    chunk: RingVector, streams: Sequence[tuple[Keystream, int]], buffer: RingVector
) -> None:
    mask = buffer[: len(chunk)]
    view = mask.data
    for stream, sign in streams:
        stream.fill(view)
        if sign > 0:
            np.add(chunk, mask, out=chunk)
        else:
            np.subtract(chunk, mask, out=chunk)


def _add_up(total: RingVector, parts: Sequence[RingVector]) -> None:
    np.copyto(total, parts[0])
    for part in parts[1:]:
        np.add(total, part, out=total)


def _check_vector(values: RingVector, ring_bits: int) -> None:
    if RING_TYPES.get(ring_bits) != values.dtype:
        raise UsageError(f"expected words of a {ring_bits}-bit ring, got {values.dtype}")
    if values.ndim != 1 or not values.flags.c_contiguous or not len(values):
        raise UsageError(f"expected a contiguous vector with words, got shape {values.shape}")


def _common_length(inputs: Sequence[RingVector], ring_bits: int) -> int:
    if not inputs:
        raise UsageError("a sum needs at least one input")
    for one in inputs:
        _check_vector(one, ring_bits)
        if len(one) != len(inputs[0]):
            raise UsageError(f"expected inputs of {len(inputs[0])} words, got {len(one)}")
    return len(inputs[0])


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _subtree(hashes: Sequence[bytes]) -> bytes:
    """The RFC 6962 root over leaf hashes: split at the largest power of two below the size."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    left, right = _subtree(hashes[:split]), _subtree(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()
