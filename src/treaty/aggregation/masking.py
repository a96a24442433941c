"""Masking: the bulk work of a secure sum, chunk by chunk and in place.

A *mask plan* is a list of (key, sign). Adding it to a vector adds, for each key, that key's
keystream as ring words, or subtracts it. Guarantees (docs/spec/secagg.md, section 3):
  * Word t of a mask is a function of the key and t alone; a chunk is 65,536 words and can be
    masked, unmasked or audited without the chunks before it.
  * The root of a vector is the RFC 6962 Merkle root over the SHA-256 of each chunk's little-endian
    bytes, so one chunk can be proved against a signed header.
  * `open_sum` is the whole of what the coordinator does to masked vectors: whoever holds
    them and the revealed seeds computes the same words.

Cost: one keystream and one addition in the cache for each mask, one SHA-256 where a root is asked.
Works chunk-major: all masks of one chunk while it is in the cache. Memory beside the vector is
one chunk for each thread; of the inputs of a sum, one piece at a time is looked at.

A caller with several threads passes the `map` method of its pool as `spread`. The work is then
shared out in spans of chunks; the result is the same bytes.

Assumes that each key masks one vector only; the protocol's machines see to that.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import numpy as np

from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto.prg import BLOCK_BYTES, Keystream
from treaty.errors import FormatError, UsageError
from treaty.ids import Digest

__all__ = [
    "CHUNK_WORDS",
    "SPAN_CHUNKS",
    "MaskPlan",
    "RootHasher",
    "Spread",
    "apply_masks",
    "chunk_count",
    "input_root",
    "mask_input",
    "open_sum",
    "recompute_sum",
    "root_of_chunk_hashes",
    "unmask_chunk",
]

CHUNK_WORDS: Final = 65_536
"""Words in a chunk: 256 KiB in the 32-bit ring."""

SPAN_CHUNKS: Final = 16
"""Chunks of one task. Setting up its keystream then costs 2 % of a mask of the 32-bit ring."""

MaskPlan: TypeAlias = tuple[tuple[bytes, int], ...]
"""(key of 32 bytes, +1 to add its mask or -1 to subtract it). Secret: never log a plan."""

_Done: TypeAlias = tuple[range, list[bytes]]


class Spread(Protocol):
    """The built-in `map`, or the `map` method of a thread pool.

    Calls `work` once for each of `spans`, in any order and on any thread of this process, and
    returns the results in the order of `spans`.
    """

    def __call__(
        self, work: Callable[[range], _Done], spans: Iterable[range], /
    ) -> Iterable[_Done]:
        """Return ``work(span)`` for each span."""


class RootHasher:
    """The root of a vector of a ring of `ring_bits` bits, from its bytes in pieces of any size."""

    __slots__ = ("_chunk", "_chunk_bytes", "_filled", "_hashes")

    def __init__(self, ring_bits: int) -> None:
        self._chunk_bytes = CHUNK_WORDS * _ring_type(ring_bits).itemsize
        self._hashes: list[bytes] = []
        self._chunk = hashlib.sha256()
        self._filled = 0

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes of the vector."""
        view = memoryview(piece).cast("B")
        while len(view):
            part = view[: self._chunk_bytes - self._filled]
            self._chunk.update(part)
            self._filled += len(part)
            if self._filled == self._chunk_bytes:
                self._hashes.append(self._chunk.digest())
                self._chunk = hashlib.sha256()
                self._filled = 0
            view = view[len(part) :]

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield `pieces` as they are, each taken on its way."""
        for piece in pieces:
            self.update(piece)
            yield piece

    def root(self) -> Digest:
        """Return the root of what was taken so far; `UsageError` when that is nothing."""
        last = [self._chunk.digest()] if self._filled else []
        return root_of_chunk_hashes([*self._hashes, *last])


def chunk_count(length: int) -> int:
    """Return the number of chunks of a vector of `length` words."""
    return -(-length // CHUNK_WORDS)


def apply_masks(
    values: RingVector,
    plan: MaskPlan,
    ring_bits: int,
    *,
    first_chunk: int = 0,
    spread: Spread = map,
) -> None:
    """Add the masks of `plan` to `values`, in place.

    `values` is 1-D, contiguous, writable, of the ring's word type; its first word is the first
    of chunk `first_chunk` of the whole vector. Raises `UsageError` otherwise.
    """
    _check_masks(values, plan, ring_bits, first_chunk)
    _shared_out(values, plan, first_chunk, spread, hashed=False)


def mask_input(
    values: RingVector, plan: MaskPlan, ring_bits: int, *, spread: Spread = map
) -> Digest:
    """Add the masks of `plan` to `values`, in place, and return the `input_root` of the result.

    One pass: each chunk is hashed while it is in the cache.
    """
    _check_masks(values, plan, ring_bits, 0)
    return root_of_chunk_hashes(_shared_out(values, plan, 0, spread, hashed=True))


def input_root(values: RingVector, *, spread: Spread = map) -> Digest:
    """Return the Merkle root of the chunks of `values` (1-D, contiguous, not empty)."""
    _check_vector(values, values.dtype.itemsize * 8)
    return root_of_chunk_hashes(_shared_out(values, (), 0, spread, hashed=True))


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
    total = np.zeros(place.stop - place.start, _ring_type(ring_bits))
    for one in inputs:
        np.add(total, one[place], out=total)
    apply_masks(total, plan, ring_bits, first_chunk=chunk)
    return total


def open_sum(
    inputs: Iterable[Iterable[bytes | memoryview]],
    plan: MaskPlan,
    ring_bits: int,
    length: int,
    *,
    spread: Spread = map,
) -> RingVector:
    """Return the sum of the masked `inputs` with the unmask `plan` applied: the opened sum.

    Each input is the little-endian bytes of a vector of `length` words, in pieces of any size.
    Inputs are read one after another, once and in order, and no piece is kept, so memory is the
    sum and one piece however many inputs there are. `plan` subtracts each survivor's own mask and
    cancels the pair masks with dropped members (`treaty.protocol.secagg_opening.unmask_plan`).

    Raises `FormatError` for an input of another length, `UsageError` when there is no input, and
    what reading an input raises. Whether the bytes are those of the signed headers is the
    caller's to check, on the way (`RootHasher.through`) or before.
    """
    if length < 1:
        raise UsageError(f"expected a vector of at least one word, got {length}")
    total = np.zeros(length, _ring_type(ring_bits))
    count = 0
    for pieces in inputs:
        _add_input(total, pieces)
        count += 1
    if not count:
        raise UsageError("a sum needs at least one input")
    apply_masks(total, plan, ring_bits, spread=spread)
    return total


def recompute_sum(
    inputs: Sequence[RingVector], plan: MaskPlan, ring_bits: int, *, spread: Spread = map
) -> RingVector:
    """Return `open_sum` of whole vectors of one length. They may be read-only or memory-mapped."""
    length = _common_length(inputs, ring_bits)
    return open_sum(((one.data,) for one in inputs), plan, ring_bits, length, spread=spread)


def _add_input(total: RingVector, pieces: Iterable[bytes | memoryview]) -> None:
    """Add one input, of exactly the length of `total`, in place."""
    width, at, rest = total.itemsize, 0, b""
    for piece in pieces:
        # A piece that ends inside a word leaves a rest; then the next one must be copied.
        view = memoryview(rest + bytes(piece) if rest else piece).cast("B")
        whole = len(view) - len(view) % width
        words = np.frombuffer(view[:whole], total.dtype)
        if at + len(words) > len(total):
            raise _wrong_length(total, "more")
        place = total[at : at + len(words)]
        np.add(place, words, out=place)
        at, rest = at + len(words), bytes(view[whole:])
    if rest or at != len(total):
        raise _wrong_length(total, f"{at * width + len(rest)}")


def _wrong_length(total: RingVector, found: str) -> FormatError:
    return FormatError(f"expected a vector of {total.nbytes} bytes, got {found}")


def _shared_out(
    values: RingVector, plan: MaskPlan, first_chunk: int, spread: Spread, *, hashed: bool
) -> list[bytes]:
    """Mask `values` in place, span by span; return the hash of each chunk if `hashed`."""
    chunks = chunk_count(len(values))
    blocks = CHUNK_WORDS * values.itemsize // BLOCK_BYTES

    def work(span: range) -> _Done:
        block = (first_chunk + span.start) * blocks
        buffer = np.empty(min(len(values), CHUNK_WORDS), values.dtype) if plan else values[:0]
        streams = [
            (stream, stream.filling(buffer.data), np.add if sign > 0 else np.subtract)
            for stream, sign in ((Keystream(key, block), sign) for key, sign in plan)
        ]
        hashes: list[bytes] = []
        for number in span:
            chunk = values[number * CHUNK_WORDS : (number + 1) * CHUNK_WORDS]
            mask = buffer[: len(chunk)]
            if len(chunk) == len(buffer):
                for _, fill, combine in streams:
                    fill()
                    combine(chunk, mask, out=chunk)
            else:
                # The last chunk, and the last use of each stream.
                for stream, _, combine in streams:
                    stream.fill(mask.data)
                    combine(chunk, mask, out=chunk)
            if hashed:
                hashes.append(hashlib.sha256(chunk.data).digest())
        return span, hashes

    spans = [
        range(start, min(start + SPAN_CHUNKS, chunks)) for start in range(0, chunks, SPAN_CHUNKS)
    ]
    # One task has nobody to share with.
    done = list((spread if len(spans) > 1 else map)(work, spans))
    # Prevents a pool that loses a task from sending words without masks.
    if [span for span, _ in done] != spans:
        raise UsageError("the executor did not work on every chunk once and in order")
    return [one for _, hashes in done for one in hashes]


def _check_masks(values: RingVector, plan: MaskPlan, ring_bits: int, first_chunk: int) -> None:
    _check_vector(values, ring_bits)
    if not values.flags.writeable:
        raise UsageError("masks are added in place: the vector must be writable")
    if first_chunk < 0:
        raise UsageError(f"expected first_chunk of at least 0, got {first_chunk}")
    # With the keys' lengths, which `Keystream` checks, all before the first word changes.
    if any(sign not in (1, -1) for _, sign in plan):
        raise UsageError("the sign of a mask must be 1 or -1")


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


def _ring_type(ring_bits: int) -> np.dtype[np.unsignedinteger]:
    if ring_bits not in RING_TYPES:
        raise UsageError(f"expected a ring of 16, 32 or 64 bits, got {ring_bits}")
    return RING_TYPES[ring_bits]


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _subtree(hashes: Sequence[bytes]) -> bytes:
    """The RFC 6962 root over leaf hashes: split at the largest power of two below the size."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << ((len(hashes) - 1).bit_length() - 1)
    left, right = _subtree(hashes[:split]), _subtree(hashes[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()
