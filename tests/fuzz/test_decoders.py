"""T-50: a decoder of peers' bytes returns a value or its own refusal, in bounded time and space.

A short slice of the campaign (`tests/campaign/test_decoder_fuzzing.py`), and inputs made to cost:
announced sizes far beyond the bytes, depth, repetition.

Planted faults that these tests caught: `RecursionError` and errors of the decoder let through;
bytes that are not compared with their one spelling; lengths of a frame, and the size of a tensor
file, that are not compared; a proof, a low-order key and a post-quantum key whose refusal is not
one of ours; an element at p.
"""

import random
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.fuzz.decoders import JUDGES, SLOW, Target, damaged, predicate_kinds, targets
from treaty.crypto import canonical
from treaty.errors import FormatError
from treaty.protocol.frames import MAX_FRAME_BYTES

NAMES = [target.name for target in targets()]


def judge(target: Target, data: bytes) -> bool:
    """Read `data`; return whether it was read. Anything but the target's refusals comes through."""
    try:
        value = target.read(data)
    except target.refusals:
        return False
    if target.again is not None:
        assert target.again(value) == data, f"{target.name} reads another spelling"
    return True


@pytest.mark.parametrize("target", targets(), ids=NAMES)
def test_the_genuine_message_is_read(target: Target) -> None:
    if target.name in ("bundle", "wraps"):
        # The world's sums are stubs, and nobody knows the seed of these wraps: refused, cleanly.
        assert not any(judge(target, one) for one in target.genuine)
        return
    assert all(judge(target, one) for one in target.genuine)


@pytest.mark.parametrize("target", [one for one in targets() if one.bad], ids=lambda one: one.name)
def test_weak_keys_and_elements_outside_the_field_are_refused(target: Target) -> None:
    assert not any(judge(target, one) for one in target.bad)


@pytest.mark.parametrize("target", targets(), ids=NAMES)
def test_damaged_and_random_bytes_are_refused_or_read(target: Target) -> None:
    draw = random.Random(f"slice {target.name}")
    count = 6 if target.name in SLOW else 60
    read = sum(judge(target, damaged(target, draw)) for _ in range(count))
    assert read == count if target.name in JUDGES else read < count


def test_every_predicate_type_has_its_target() -> None:
    assert len(predicate_kinds()) > 25
    assert len(set(NAMES)) == len(NAMES) > len(predicate_kinds()) + 20


def hostile() -> Iterator[bytes]:
    """Inputs that announce more than they hold, or that nest or repeat without end."""
    deep = 100_000
    yield b"[" * deep
    yield b'{"a":' * deep
    yield b"[" * deep + b"]" * deep
    yield b'{"payload":' + b"[" * deep + b"]" * deep + b"}"
    for width in (2, 4, 8):
        for order in ("big", "little"):
            yield ((1 << 8 * width) - 1).to_bytes(width, order) + b"{}"  # type: ignore[arg-type]  # one of two
    yield b"9" * 400_000
    yield b'{"a":' + b"9" * 400_000 + b"}"
    yield b'"' + b"\\u0041" * 100_000 + b'"'
    yield b"\n" * 400_000
    yield "— hub.example/log AAAA\n".encode() * 20_000
    yield b"c2sp.org/tlog-proof@v1\nindex 0\n" + b"AAAA\n" * 20_000 + b"\n"
    yield b"log " * 100_000 + b"\n"
    huge = b'{"x":{"data_offsets":[0,8],"dtype":"F64","shape":[9007199254740991,9007199254740991]}}'
    yield len(huge).to_bytes(8, "little") + huge + bytes(8)
    flat = b'{"x":{"data_offsets":[0,0],"dtype":"F64","shape":[0' + b",0" * 90_000 + b"]}}"
    yield (len(flat) + -len(flat) % 8).to_bytes(8, "little") + flat + b" " * (-len(flat) % 8)
    head = b'{"blobs":[],"checkpoint":"","entries":[9007199254740991],"first":0,'
    head += b'"format":"treaty.feed/v1"}'
    yield len(head).to_bytes(4, "big") + head
    yield bytes(MAX_FRAME_BYTES + 1)


@pytest.mark.parametrize("target", targets(), ids=NAMES)
def test_hostile_inputs_cost_little(target: Target) -> None:
    """At most two seconds of work and a small multiple of the input's size."""
    for data in hostile():
        if target.name == "bundle":
            data = b"\x00" + data
        tracemalloc.start()
        began = time.thread_time()
        try:
            assert judge(target, data) == (target.name in JUDGES)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            took = time.thread_time() - began
            tracemalloc.stop()
        assert took < 2, (target.name, data[:40], took)
        assert peak < (8 << 20) + 12 * len(data), (target.name, data[:40], peak)


def test_the_default_limit_is_checked_before_anything_is_decoded() -> None:
    data = b'"' + b"a" * canonical.MAX_SIZE_BYTES + b'"'
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="at most"):
            canonical.decode(data, str)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
