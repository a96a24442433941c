"""Messages between a site and its confined trainer: read back the same, and nothing else is read.

Planted and caught: a header longer than the message, parts that overlap, a matrix of another shape,
a failure with tensors behind it, layers in an answer of tensors, a size beyond the limit.
"""

import random

import numpy as np
import pytest

from treaty.crypto import canonical
from treaty.errors import FormatError
from treaty.models.specification import LogisticRegression, initial_model
from treaty.models.task import FailureCode, GradientPart
from treaty.privacy.mechanisms import Layer
from treaty.sandbox.wire import (
    LENGTH_BYTES,
    MAX_MESSAGE_BYTES,
    Answer,
    Request,
    body_size,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

SPEC = LogisticRegression()
MODEL = initial_model(SPEC, 2)
ROWS = np.array([[1.0, -0.0], [np.pi, 5e-324], [0.25, 1e300]])
LAYERS = (
    GradientPart("coefficients", "intercept", Layer(ROWS, ROWS[:, :1] * 2, True)),
    GradientPart("other", None, Layer(ROWS, ROWS, False), transposed=True),
)
ANSWERS: dict[str, Answer] = {
    "tensors": MODEL,
    "bytes": b"\x00\x01state",
    "no bytes": b"",
    "vector": ROWS[:, 0],
    "layers": LAYERS,
    "failed": FailureCode.NO_ROWS,
}


def _same(left: Answer, right: Answer) -> bool:
    if isinstance(left, np.ndarray):
        return isinstance(right, np.ndarray) and left.tobytes() == right.tobytes()
    if isinstance(left, tuple):
        return isinstance(right, tuple) and all(
            (one.weight, one.bias, one.transposed, one.layer.has_bias)
            == (two.weight, two.bias, two.transposed, two.layer.has_bias)
            and one.layer.inputs.tobytes() == two.layer.inputs.tobytes()
            and one.layer.errors.tobytes() == two.layer.errors.tobytes()
            for one, two in zip(left, right, strict=True)
        )
    return left == right


@pytest.mark.parametrize("which", ANSWERS)
def test_an_answer_is_read_back_bit_for_bit(which: str) -> None:
    data = encode_answer(ANSWERS[which])
    assert body_size(data[:LENGTH_BYTES]) == len(data) - LENGTH_BYTES
    assert _same(decode_answer(data[LENGTH_BYTES:]), ANSWERS[which])


def test_a_request_is_read_back_bit_for_bit() -> None:
    asked = Request("compute", SPEC, MODEL, ROWS, ROWS[:, 0], b"\x07" * 32, b"own")
    found = decode_request(encode_request(asked)[LENGTH_BYTES:])
    assert (found.operation, found.specification, found.model) == ("compute", SPEC, MODEL)
    assert (found.entropy, found.state) == (asked.entropy, asked.state)
    assert found.features.tobytes() == ROWS.tobytes()
    assert found.label.tobytes() == ROWS[:, 0].tobytes()


def test_rows_do_not_show_in_a_requests_text() -> None:
    assert "3.14" not in repr(Request("compute", SPEC, MODEL, ROWS, ROWS[:, 0]))


@pytest.mark.parametrize("which", ANSWERS)
def test_damaged_answers_are_refused_or_are_another_answer(which: str) -> None:
    """Cut, changed and grown bytes give a value of the closed kinds or `FormatError`."""
    body = encode_answer(ANSWERS[which])[LENGTH_BYTES:]
    draw = random.Random(which)
    refused = 0
    for _ in range(400):
        damaged = bytearray(body)
        match draw.randrange(3):
            case 0:
                del damaged[draw.randrange(len(damaged)) :]
            case 1:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            case _:
                damaged += draw.randbytes(draw.randrange(1, 9))
        try:
            decode_answer(bytes(damaged))
        except FormatError:
            refused += 1
    assert refused > 200


EMPTY: dict[str, object] = {
    "failure": None,
    "format": "treaty.answer/v1",
    "layers": [],
    "outcome": "bytes",
    "parts": [],
}
LAYER = {
    "bias": None, "has_bias": False, "inputs": 2, "outputs": 1, "rows": 2, "transposed": False,
    "weight": "w",
}  # fmt: skip


def _message(change: dict[str, object], content: int) -> bytes:
    text = canonical.encode(EMPTY | change)
    return len(text).to_bytes(4, "little") + text + bytes(content)


def test_the_message_that_the_next_test_damages_holds() -> None:
    assert decode_answer(_message({"parts": [8]}, 8)) == bytes(8)
    assert decode_answer(_message({"outcome": "failed", "failure": "no-rows"}, 0)) is (
        FailureCode.NO_ROWS
    )
    (part,) = decode_answer(  # type: ignore[misc]  # one layer comes back
        _message({"outcome": "layers", "layers": [LAYER], "parts": [32, 16]}, 48)
    )
    assert part.layer.inputs.shape == (2, 2)


@pytest.mark.parametrize(
    ("change", "content"),
    [
        ({"parts": [8]}, 7),
        ({"parts": [8]}, 9),
        ({"parts": [4, 4]}, 8),
        ({"parts": [8], "failure": "no-rows"}, 8),
        ({"parts": [8], "layers": [LAYER]}, 8),
        ({"parts": [8], "more": 1}, 8),
        ({"parts": [8], "format": "treaty.answer/v2"}, 8),
        ({"parts": [-8]}, 0),
        ({"outcome": "failed"}, 0),
        ({"outcome": "failed", "failure": "free text"}, 0),
        ({"outcome": "failed", "failure": "no-rows", "parts": [8]}, 8),
        ({"outcome": "vector", "parts": [7]}, 7),
        ({"outcome": "tensors", "parts": [8]}, 8),
        ({"outcome": "layers"}, 0),
        ({"outcome": "layers", "layers": [LAYER], "parts": [48]}, 48),
        ({"outcome": "layers", "layers": [LAYER], "parts": [24, 24]}, 48),
        ({"outcome": "layers", "layers": [LAYER | {"rows": 1 << 39}], "parts": [32, 16]}, 48),
    ],
)
def test_messages_that_contradict_themselves_are_refused(
    change: dict[str, object], content: int
) -> None:
    with pytest.raises(FormatError):
        decode_answer(_message(change, content))


def test_a_header_longer_than_the_message_is_refused() -> None:
    with pytest.raises(FormatError, match="announces a header"):
        decode_answer((2**32 - 1).to_bytes(4, "little") + b"{}")


@pytest.mark.parametrize("size", [0, 3, MAX_MESSAGE_BYTES + 1, 2**63])
def test_a_size_beyond_the_limit_is_refused_before_anything_is_read(size: int) -> None:
    with pytest.raises(FormatError, match="expected a message"):
        body_size(size.to_bytes(LENGTH_BYTES, "little"))
