"""Masks against a block cipher driven by hand and plain integers.

The reference makes each counter block itself, in ECB mode, one word at a time.

Planted faults that these tests caught: big-endian words; a chunk whose stream starts over; a seek
in words instead of blocks; the sign ignored; a root over one chunk without the leaf prefix; the
split of an uneven tree in the middle; a span that begins at the first chunk of the vector
whatever `first_chunk` is; masks that start over in the next span; a pool that loses a task or
answers out of order; an input shorter or longer than the sum; a word torn between two pieces; a
root without its last, short chunk; a new chunk begun without being full.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from treaty.aggregation.masking import (
    CHUNK_WORDS,
    SPAN_CHUNKS,
    MaskPlan,
    RootHasher,
    apply_masks,
    chunk_count,
    input_root,
    mask_input,
    open_sum,
    recompute_sum,
    unmask_chunk,
)
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.errors import FormatError, UsageError

BITS = (16, 32, 64)
LONG = SPAN_CHUNKS * CHUNK_WORDS
"""Words of one task: what is longer is shared out."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def reference_words(key: bytes, bits: int, first: int, count: int) -> list[int]:
    """Words `first` and following of the mask of `key`, block by block."""
    width = bits // 8
    block, last = first * width // 16, ((first + count) * width + 15) // 16
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    stream = b"".join(cipher.update(number.to_bytes(16, "big")) for number in range(block, last))
    skip = first * width - block * 16
    return [
        int.from_bytes(stream[skip + k * width : skip + (k + 1) * width], "little")
        for k in range(count)
    ]


def vector(length: int, bits: int, seed: int = 0) -> RingVector:
    generator = np.random.Generator(np.random.PCG64(seed))
    words = np.frombuffer(generator.bytes(length * bits // 8), RING_TYPES[bits])
    return words.copy()


def plan_of(count: int) -> MaskPlan:
    return tuple((hashlib.sha256(bytes([k])).digest(), 1 if k % 3 else -1) for k in range(count))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [1, 15, 16, 65_535, 65_536, 65_537, 131_073, LONG + 21])
def test_masks_are_the_words_of_the_counter_mode_stream(bits: int, length: int) -> None:
    values, plan = vector(length, bits), plan_of(3)
    masked = values.copy()
    apply_masks(masked, plan, bits)
    picks = [(0, min(length, 20)), (max(0, length - 20), min(length, 20))]
    if length > CHUNK_WORDS:
        picks.append((CHUNK_WORDS - 1, 2))
    if length > LONG:
        picks.append((LONG - 1, 22))
    for first, count in picks:
        masks = [(reference_words(key, bits, first, count), sign) for key, sign in plan]
        for k in range(count):
            expected = int(values[first + k]) + sum(sign * words[k] for words, sign in masks)
            assert int(masked[first + k]) == expected % 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_opposite_plans_cancel(bits: int) -> None:
    values, plan = vector(70_000, bits), plan_of(4)
    masked = values.copy()
    apply_masks(masked, plan, bits)
    assert (masked != values).mean() > 0.9
    apply_masks(masked, tuple((key, -sign) for key, sign in plan), bits)
    assert (masked == values).all()


@pytest.mark.parametrize("bits", BITS)
def test_a_chunk_alone_is_masked_as_in_the_whole(bits: int) -> None:
    values, plan = vector(2 * CHUNK_WORDS + 9, bits), plan_of(2)
    whole, parts = values.copy(), values.copy()
    apply_masks(whole, plan, bits)
    for chunk in reversed(range(chunk_count(len(values)))):
        apply_masks(
            parts[chunk * CHUNK_WORDS : (chunk + 1) * CHUNK_WORDS], plan, bits, first_chunk=chunk
        )
    assert (parts == whole).all()


@settings(max_examples=30)
@given(st.sampled_from(BITS), st.integers(2, 6), st.integers(1, 40), st.data())
def test_the_opened_sum_is_that_of_plain_integers(
    bits: int, members: int, length: int, data: st.DataObject
) -> None:
    """Every member adds its own mask and the pair masks; some drop out after masking."""
    inputs = [vector(length, bits, seed) for seed in range(members)]
    own = [hashlib.sha256(b"own%d" % i).digest() for i in range(members)]
    pair = {
        (i, j): hashlib.sha256(b"%d-%d" % (i, j)).digest()
        for i in range(members)
        for j in range(i + 1, members)
    }
    masked = []
    for i, values in enumerate(inputs):
        plan = [(own[i], 1)]
        plan += [(pair[(i, j)], 1) for j in range(i + 1, members)]
        plan += [(pair[(j, i)], -1) for j in range(i)]
        y = values.copy()
        root = mask_input(y, tuple(plan), bits)
        assert root == input_root(y)
        masked.append(y)
    survivors = data.draw(st.sets(st.integers(0, members - 1), min_size=1))
    undo = [(own[u], -1) for u in survivors]
    for u in survivors:
        dropped = set(range(members)) - survivors
        undo += [(pair[(min(u, v), max(u, v))], -1 if u < v else 1) for v in dropped]
    total = recompute_sum([masked[u] for u in sorted(survivors)], tuple(undo), bits)
    expected = [sum(int(inputs[u][k]) for u in survivors) % 2**bits for k in range(length)]
    assert [int(word) for word in total] == expected


def test_one_chunk_of_the_sum_can_be_audited_alone() -> None:
    inputs = [vector(2 * CHUNK_WORDS + 5, 32, seed) for seed in range(3)]
    for one in inputs:
        one.setflags(write=False)
    total = recompute_sum(inputs, plan_of(3), 32)
    for chunk in range(3):
        part = unmask_chunk(inputs, plan_of(3), 32, chunk)
        assert (part == total[chunk * CHUNK_WORDS : (chunk + 1) * CHUNK_WORDS]).all()
    with pytest.raises(UsageError):
        unmask_chunk(inputs, plan_of(3), 32, 3)


@pytest.mark.parametrize("chunks", [1, 2, 3, 5])
def test_the_root_is_that_of_the_definition(chunks: int) -> None:
    values = vector((chunks - 1) * CHUNK_WORDS + 3, 16)
    data = values.tobytes()
    size = 2 * CHUNK_WORDS
    hashes = [hashlib.sha256(data[k : k + size]).digest() for k in range(0, len(data), size)]

    def root(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return hashlib.sha256(b"\0" + leaves[0]).digest()
        k = 1
        while 2 * k < len(leaves):
            k *= 2
        return hashlib.sha256(b"\1" + root(leaves[:k]) + root(leaves[k:])).digest()

    assert input_root(values) == root(hashes).hex()


def test_misuse_is_a_usage_error() -> None:
    plan = plan_of(1)
    frozen = vector(4, 32)
    frozen.setflags(write=False)
    for values, bits in (
        (vector(4, 32), 64),
        (vector(4, 32), 48),
        (vector(8, 32)[::2], 32),
        (np.zeros(0, "<u4"), 32),
        (np.zeros((2, 2), "<u4"), 32),
        (frozen, 32),
    ):
        for work in (apply_masks, mask_input):
            with pytest.raises(UsageError, match=r"expected|must be writable"):
                work(values, plan, bits)
        if values is not frozen:
            with pytest.raises(UsageError, match="expected"):
                recompute_sum([vector(4, bits if bits != 48 else 32), values], plan, bits)
    for values in (vector(8, 32)[::2], np.zeros(0, "<u4"), np.zeros((2, 2), "<u4"), np.zeros(4)):
        with pytest.raises(UsageError, match=r"expected (a contiguous vector|words of)"):
            input_root(values)
    with pytest.raises(UsageError, match="expected first_chunk of at least 0, got -1"):
        apply_masks(vector(4, 32), plan, 32, first_chunk=-1)
    with pytest.raises(UsageError):
        apply_masks(vector(4, 32), ((bytes(32), 0),), 32)
    with pytest.raises(UsageError):
        recompute_sum([], plan, 32)
    with pytest.raises(UsageError):
        recompute_sum([vector(4, 32), vector(5, 32)], plan, 32)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [LONG - 1, LONG, LONG + 1, 2 * LONG + CHUNK_WORDS + 7])
def test_threads_give_the_same_bytes(bits: int, length: int) -> None:
    plan, values = plan_of(3), vector(length, bits)
    alone, shared = values.copy(), values.copy()
    with ThreadPoolExecutor(3) as pool:
        assert mask_input(shared, plan, bits, spread=pool.map) == mask_input(alone, plan, bits)
        assert (shared == alone).all()
        assert input_root(shared, spread=pool.map) == input_root(alone)
        apply_masks(shared, plan, bits, first_chunk=5, spread=pool.map)
        total = recompute_sum([values, alone], plan, bits, spread=pool.map)
    apply_masks(alone, plan, bits, first_chunk=5)
    assert (shared == alone).all()
    again = values.copy()
    mask_input(again, plan, bits)
    assert (total == recompute_sum([values, again], plan, bits)).all()


def losing(work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """A pool that forgets its last task."""
    return map(work, list(items)[:-1])


def turned(work: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
    """A pool that answers as tasks end, not as they were given."""
    return map(work, reversed(list(items)))


def test_a_pool_that_loses_or_turns_tasks_is_refused() -> None:
    with pytest.raises(UsageError, match="every chunk"):
        apply_masks(vector(2 * LONG, 16), plan_of(1), 16, spread=losing)
    with pytest.raises(UsageError, match="every chunk"):
        mask_input(vector(2 * LONG, 16), plan_of(1), 16, spread=turned)


def test_a_plan_that_does_not_hold_changes_no_word() -> None:
    values = vector(40, 32)
    for bad in ((bytes(31), 1), (bytes(32), 2)):
        kept = values.copy()
        with pytest.raises(UsageError):
            apply_masks(values, (*plan_of(2), bad), 32)
        assert (values == kept).all()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("length", [1, 15, 16, 65_535, 65_536, 65_537])
def test_a_streamed_sum_is_that_of_big_integers(bits: int, length: int) -> None:
    """Every word, against one big integer per vector with room for carries between the words."""
    inputs, plan = [vector(length, bits, seed) for seed in range(3)], plan_of(2)

    def spaced(words: Iterable[int]) -> int:
        return int.from_bytes(
            b"".join(int(word).to_bytes(16, "little") for word in words), "little"
        )

    total = sum(spaced(one) for one in inputs)
    for key, sign in plan:
        total += sign * spaced(reference_words(key, bits, 0, length))
        total += spaced([2**bits] * length)
    data = total.to_bytes(16 * length + 16, "little")
    expected = [
        int.from_bytes(data[16 * k : 16 * k + 16], "little") % 2**bits for k in range(length)
    ]
    streams = ([one.tobytes()] for one in inputs)
    assert open_sum(streams, plan, bits, length).tolist() == expected


def test_an_input_of_another_length_is_refused() -> None:
    good = vector(9, 32).tobytes()
    for bad in (b"", good[:-1], good[:-4], good + b"\0", good + good[:4]):
        with pytest.raises(FormatError, match="expected a vector of 36 bytes"):
            open_sum([[good], [bad]], plan_of(1), 32, 9)
    for misuse in (lambda: open_sum([], plan_of(1), 32, 9), lambda: open_sum([[good]], (), 32, 0)):
        with pytest.raises(UsageError):
            misuse()
    with pytest.raises(UsageError, match="16, 32 or 64"):
        open_sum([[good]], (), 48, 9)


def test_a_vector_of_which_nothing_was_taken_has_no_root() -> None:
    with pytest.raises(UsageError):
        RootHasher(32).root()
    with pytest.raises(UsageError):
        RootHasher(8)
