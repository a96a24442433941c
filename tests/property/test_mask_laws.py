"""Laws of masks: how a vector is cut, and in which order members come, changes no bit.

Planted faults that these tests caught: a word torn between two pieces dropped; a piece counted from
the start of the vector; the root's hasher fed twice; a chunk's hash continued in the next chunk; a
chunk closed before it is full; a seek that keeps the old counter.
"""

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from treaty.aggregation.masking import (
    CHUNK_WORDS,
    RootHasher,
    apply_masks,
    input_root,
    open_sum,
    recompute_sum,
)
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto.prg import BLOCK_BYTES, Keystream

BITS = st.sampled_from((16, 32, 64))
LENGTHS = st.sampled_from((1, 7, 100, CHUNK_WORDS - 1, CHUNK_WORDS, CHUNK_WORDS + 3))


def vector(length: int, bits: int, seed: int) -> RingVector:
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.frombuffer(generator.bytes(length * bits // 8), RING_TYPES[bits]).copy()


def key(number: int) -> bytes:
    return hashlib.sha256(b"mask law %d" % number).digest()


def cut(data: bytes, borders: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=60)
@given(BITS, LENGTHS, st.lists(st.lists(st.integers(0, 2**30), max_size=9), min_size=1, max_size=3))
def test_where_the_pieces_end_changes_neither_sum_nor_root(
    bits: int, length: int, borders: list[list[int]]
) -> None:
    inputs = [vector(length, bits, seed) for seed in range(len(borders))]
    plan = ((key(1), 1), (key(2), -1))
    hashers = [RootHasher(bits) for _ in inputs]
    streams = [
        hasher.through(cut(one.tobytes(), where))
        for one, hasher, where in zip(inputs, hashers, borders, strict=True)
    ]
    assert (open_sum(streams, plan, bits, length) == recompute_sum(inputs, plan, bits)).all()
    assert [one.root() for one in hashers] == [input_root(one) for one in inputs]


@given(BITS, st.permutations(range(5)), st.permutations(range(4)))
def test_the_order_of_members_and_masks_changes_no_word(
    bits: int, members: list[int], masks: list[int]
) -> None:
    inputs = [vector(33, bits, seed) for seed in range(5)]
    plan = tuple((key(k), 1 if k % 2 else -1) for k in range(4))
    turned = recompute_sum([inputs[k] for k in members], tuple(plan[k] for k in masks), bits)
    assert (turned == recompute_sum(inputs, plan, bits)).all()


@given(BITS, st.integers(1, 4), st.integers(0, 4))
def test_a_sum_of_parts_is_the_sum(bits: int, first: int, dropped: int) -> None:
    """Splitting the survivors, and a member whose masks are all taken off, change nothing."""
    inputs = [vector(20, bits, seed) for seed in range(5)]
    plan = tuple((key(k), -1) for k in range(5))
    whole = recompute_sum(inputs, plan, bits)
    left = recompute_sum(inputs[:first], plan[:first], bits)
    right = recompute_sum(inputs[first:], plan[first:], bits)
    assert (left + right == whole).all()
    apply_masks(left, ((key(dropped + 9), 1),), bits)
    apply_masks(left, ((key(dropped + 9), -1),), bits)
    assert (left + right == whole).all()


@settings(max_examples=40)
@given(st.integers(0, 2**40), st.integers(1, 200), st.integers(0, 2**16))
def test_a_stream_read_from_a_block_on_is_the_stream(block: int, size: int, skip: int) -> None:
    """Any place can be sought, again and backwards; the reference drives the cipher by hand."""
    cipher = Cipher(algorithms.AES(key(0)), modes.ECB()).encryptor()
    blocks = range(block, block + size // BLOCK_BYTES + 1)
    expected = b"".join(cipher.update(one.to_bytes(BLOCK_BYTES, "big")) for one in blocks)[:size]
    stream = Keystream(key(0), block)
    assert stream.take(size) == expected
    stream.seek(block + skip)
    stream.take(5)
    stream.seek(block)
    assert stream.take(size // 2) + stream.take(size - size // 2) == expected
