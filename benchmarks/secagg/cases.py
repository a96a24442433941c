"""One measurement of our own in a process of its own.

Run: python -m benchmarks.secagg.cases CASE words bits members lost repeats out.json

Every case checks what it measured: the opened sum is the sum of the inputs, in plain integers.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.meter import Meter
from treaty.aggregation.masking import (
    MaskPlan,
    RootHasher,
    apply_masks,
    mask_input,
    open_sum,
    recompute_sum,
)
from treaty.aggregation.quantization import RING_TYPES, Layout, RingVector, Segment, encode
from treaty.crypto.prg import Keystream
from treaty.errors import VerificationError
from treaty.stores.blobs import BlobDirectory

__all__ = ["CASES", "Figure"]

THREADS = 2
CHUNK_BYTES = 1 << 18
LEAST_BYTES = 40_000_000
SCALE_BITS = {16: 8, 32: 24, 64: 40}


@dataclass(frozen=True, slots=True)
class Figure:
    """Least processor and wall seconds of some repeats; most MiB held beyond what was there."""

    seconds: float
    wall: float
    mebibytes: float


def best(call: Callable[[], object], repeats: int) -> Figure:
    """Return the figure of `call`; its result is dropped between repeats."""
    meters = []
    for _ in range(repeats):
        with Meter() as meter:
            call()
        meters.append(meter)
    return Figure(
        min(one.seconds for one in meters),
        min(one.wall for one in meters),
        max(one.mebibytes for one in meters),
    )


def limit(words: int, bits: int, members: int, lost: int, repeats: int) -> dict[str, Figure]:
    """The machine alone: one keystream, one addition, one digest over `words` words.

    Measured over at least 40 MB and divided: a single short keystream is mostly its start.
    """
    size = words * bits // 8
    times = max(1, LEAST_BYTES // size)
    buffer = bytearray(CHUNK_BYTES)
    view = memoryview(buffer)
    chunk = np.zeros(CHUNK_BYTES * 8 // bits, RING_TYPES[bits])
    other = chunk.copy()
    whole = np.zeros(times * words, RING_TYPES[bits])

    def keystream() -> None:
        stream = Keystream(bytes(32))
        for _ in range(whole.nbytes // CHUNK_BYTES):
            stream.fill(view)
        stream.fill(view[: whole.nbytes % CHUNK_BYTES])

    def addition() -> None:
        for _ in range(whole.nbytes // CHUNK_BYTES):
            np.add(chunk, other, out=chunk)

    calls: dict[str, Callable[[], object]] = {
        "keystream": keystream,
        "addition in the cache": addition,
        "addition in memory": lambda: np.add(whole, whole, out=whole),
        "digest": lambda: sha256(whole.data).digest(),
    }
    figures = {name: best(call, repeats) for name, call in calls.items()}
    return {
        name: Figure(one.seconds / times, one.wall / times, one.mebibytes)
        for name, one in figures.items()
    }


def client(words: int, bits: int, members: int, lost: int, repeats: int) -> dict[str, Figure]:
    """A member: nearest rounding of float64 and `members` masks, with and without the root."""
    layout = Layout((Segment("update", words, SCALE_BITS[bits], 1),), bits, min(members, 100))
    values = _values(words, 1)
    plan = tuple((_key(number), 1 if number % 2 else -1) for number in range(members))

    def kernel() -> RingVector:
        vector = encode(values, layout)
        apply_masks(vector, plan, bits)
        return vector

    def rooted() -> RingVector:
        vector = encode(values, layout)
        mask_input(vector, plan, bits)
        return vector

    figures = {"kernel": best(kernel, repeats), "with root": best(rooted, repeats)}
    with ThreadPoolExecutor(THREADS) as pool:

        def threaded() -> RingVector:
            vector = encode(values, layout)
            mask_input(vector, plan, bits, spread=pool.map)
            return vector

        figures["with root, two threads"] = best(threaded, repeats)
        same = (threaded() == kernel()).all()
    opened = recompute_sum([kernel()], _negated(plan), bits)
    if not same or not (opened == encode(values, layout)).all():
        raise VerificationError("masks that were added do not come off", code="benchmark")
    return figures


def server(words: int, bits: int, members: int, lost: int, repeats: int) -> dict[str, Figure]:
    """The coordinator: the sum of the survivors' inputs, masks off, with and without roots."""
    layout = Layout((Segment("update", words, SCALE_BITS[bits], 1),), bits, min(members, 100))
    survivors = range(members - lost)
    expected = np.zeros(words, RING_TYPES[bits])
    inputs: list[RingVector] = []
    roots = []
    for member in survivors:
        vector = encode(_values(words, member), layout)
        np.add(expected, vector, out=expected)
        roots.append(mask_input(vector, _member_plan(member, members), bits))
        inputs.append(vector)
    plan = _unmask_plan(members, lost)

    def kernel() -> RingVector:
        return recompute_sum(inputs, plan, bits)

    def rooted() -> RingVector:
        hashers = [RootHasher(bits) for _ in inputs]
        streams = (hasher.through([one.data]) for hasher, one in zip(hashers, inputs, strict=True))
        total = open_sum(streams, plan, bits, words)
        if [one.root() for one in hashers] != roots:
            raise VerificationError("an input has another root", code="benchmark")
        return total

    figures = {"kernel": best(kernel, repeats), "with roots": best(rooted, repeats)}
    with ThreadPoolExecutor(THREADS) as pool:
        figures["kernel, two threads"] = best(
            lambda: recompute_sum(inputs, plan, bits, spread=pool.map), repeats
        )
    right = [(kernel() == expected).all(), (rooted() == expected).all()]
    with tempfile.TemporaryDirectory() as scratch:
        store = BlobDirectory(Path(scratch) / "blobs")
        blobs = [store.put_chunks([one.data.cast("B")]) for one in inputs]
        inputs.clear()

        def spooled() -> RingVector:
            return open_sum((store.chunks(one) for one in blobs), plan, bits, words)

        figures["from the blob store, verified"] = best(spooled, repeats)
        right.append((spooled() == expected).all())
    if not all(right):
        raise VerificationError("the opened sum is not the sum of the inputs", code="benchmark")
    return figures


def streamed(words: int, bits: int, members: int, lost: int, repeats: int) -> dict[str, Figure]:
    """The coordinator of a large group with `members` masks an input: inputs pass, none is kept.

    `lost` of 1,000 members are lost; an input is one vector repeated, so the sum is that vector
    times the survivors.
    """
    group, degree = 1000, members - 1
    survivors = group - lost
    vector = encode(_values(words, 1), Layout((Segment("x", words, 16, 1),), bits, survivors))
    pairs = lost * degree * survivors // group
    plan = tuple((_key(number), 1 if number % 2 else -1) for number in range(survivors + pairs))

    def inputs() -> Iterator[tuple[memoryview]]:
        return ((vector.data,) for _ in range(survivors))

    figure = best(lambda: open_sum(inputs(), plan, bits, words), repeats)
    opened = open_sum(inputs(), plan, bits, words)
    apply_masks(opened, _negated(plan), bits)
    if not (opened == vector * RING_TYPES[bits].type(survivors)).all():
        raise VerificationError("the opened sum is not the sum of the inputs", code="benchmark")
    return {f"kernel, {len(plan)} masks": figure}


CASES = {"limit": limit, "client": client, "server": server, "streamed": streamed}


def _values(words: int, seed: int) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(seed)).uniform(-1, 1, words)


def _key(*numbers: int) -> bytes:
    return sha256(repr(numbers).encode()).digest()


def _pair(member: int, other: int) -> tuple[bytes, int]:
    return _key(min(member, other), max(member, other)), 1 if member < other else -1


def _member_plan(member: int, members: int) -> MaskPlan:
    return (
        (_key(member), 1),
        *(_pair(member, other) for other in range(members) if other != member),
    )


def _unmask_plan(members: int, lost: int) -> MaskPlan:
    survivors, dropped = range(members - lost), range(members - lost, members)
    pairs = [_pair(member, other) for other in dropped for member in survivors]
    return (
        *((_key(member), -1) for member in survivors),
        *((key, -sign) for key, sign in pairs),
    )


def _negated(plan: MaskPlan) -> MaskPlan:
    return tuple((key, -sign) for key, sign in plan)


def main() -> None:
    """Run the named case and write its figures."""
    case, *numbers, out = sys.argv[1:8]
    words, bits, members, lost, repeats = map(int, numbers)
    figures: dict[str, Any] = {
        name: asdict(one) for name, one in CASES[case](words, bits, members, lost, repeats).items()
    }
    Path(out).write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
