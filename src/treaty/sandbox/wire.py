"""Wire: what passes between a site and its confined trainer, as bytes without meaning of their own.

One message is a length, a canonical JSON header and raw parts whose lengths the header names. The
worker is not trusted: `decode_answer` returns a value or raises `FormatError`, whatever the bytes,
and sizes are bounded before anything is allocated (docs/spec/sandbox.md, section 3).
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.crypto import canonical
from treaty.crypto.canonical import Name, Record
from treaty.errors import FormatError
from treaty.models.specification import ModelSpecification
from treaty.models.task import FailureCode, GradientPart
from treaty.privacy.mechanisms import Layer

__all__ = [
    "LENGTH_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_MESSAGE_BYTES",
    "Answer",
    "Operation",
    "Request",
    "body_size",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_request",
]

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 1 << 18
MAX_MESSAGE_BYTES: Final = 1 << 32
_MAX_LAYERS = 64

Matrix = NDArray[np.float64]
Operation = Literal["compute", "site-state", "predict", "alone", "layers"]
Extent = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_Parts = Annotated[tuple[Extent, ...], msgspec.Meta(max_length=2 * _MAX_LAYERS + 4)]


class _RequestHeader(Record):
    format: Literal["treaty.task/v1"] = "treaty.task/v1"
    operation: Operation
    specification: ModelSpecification
    rows: Extent
    columns: Extent
    entropy: str
    parts: _Parts


class _LayerHeader(Record):
    weight: Name
    bias: Name | None
    transposed: bool
    inputs: Extent
    outputs: Extent
    rows: Extent
    has_bias: bool


class _AnswerHeader(Record):
    format: Literal["treaty.answer/v1"] = "treaty.answer/v1"
    outcome: Literal["tensors", "bytes", "vector", "layers", "failed"]
    failure: FailureCode | None = None
    layers: Annotated[tuple[_LayerHeader, ...], msgspec.Meta(max_length=_MAX_LAYERS)] = ()
    parts: _Parts = ()


_Header = TypeVar("_Header", _RequestHeader, _AnswerHeader)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the trainer. `label` has no rows for ``predict``, `state` bytes only there."""

    operation: Operation
    specification: ModelSpecification
    model: NamedTensors
    features: Matrix = field(repr=False)
    label: Matrix = field(repr=False)
    entropy: bytes = field(repr=False, default=b"")
    state: bytes = field(repr=False, default=b"")


Answer = NamedTensors | bytes | Matrix | tuple[GradientPart, ...] | FailureCode
"""What comes back: tensors, a site's state, predictions, layers, or why there is nothing."""


def encode_request(request: Request) -> bytes:
    """Return the bytes of `request`."""
    parts = [
        request.model.to_bytes(),
        _raw(request.features),
        _raw(request.label),
        request.state,
    ]
    header = _RequestHeader(
        operation=request.operation,
        specification=request.specification,
        rows=request.features.shape[0],
        columns=request.features.shape[1],
        entropy=request.entropy.hex(),
        parts=tuple(len(part) for part in parts),
    )
    return _join(canonical.encode(header), parts)


def decode_request(data: bytes) -> Request:
    """Return the request in `data` (without its length); `FormatError` otherwise."""
    header, parts = _split(data, _RequestHeader)
    if len(parts) != 4:
        raise FormatError(f"expected 4 parts of a task, got {len(parts)}")
    model, features, label, state = parts
    return Request(
        operation=header.operation,
        specification=header.specification,
        model=NamedTensors.from_bytes(bytes(model)),
        features=_matrix(features, header.rows, header.columns),
        label=_vector(label),
        entropy=_entropy(header.entropy),
        state=bytes(state),
    )


def encode_answer(answer: Answer) -> bytes:
    """Return the bytes of `answer`."""
    match answer:
        case FailureCode():
            header, parts = _AnswerHeader(outcome="failed", failure=answer), []
        case NamedTensors():
            parts = [answer.to_bytes()]
            header = _AnswerHeader(outcome="tensors", parts=(len(parts[0]),))
        case bytes():
            parts = [answer]
            header = _AnswerHeader(outcome="bytes", parts=(len(answer),))
        case tuple():
            parts = [_raw(m) for one in answer for m in (one.layer.inputs, one.layer.errors)]
            header = _AnswerHeader(
                outcome="layers",
                layers=tuple(_layer_header(one) for one in answer),
                parts=tuple(len(part) for part in parts),
            )
        case _:
            parts = [_raw(answer)]
            header = _AnswerHeader(outcome="vector", parts=(len(parts[0]),))
    return _join(canonical.encode(header), parts)


def decode_answer(data: bytes) -> Answer:
    """Return the answer in `data` (without its length); `FormatError` for anything else."""
    header, parts = _split(data, _AnswerHeader)
    if header.outcome == "layers":
        if len(parts) != 2 * len(header.layers) or not parts:
            raise FormatError("expected two matrices for each layer")
        return tuple(
            GradientPart(
                one.weight,
                one.bias,
                Layer(
                    _matrix(parts[2 * place], one.rows, one.inputs),
                    _matrix(parts[2 * place + 1], one.rows, one.outputs),
                    one.has_bias,
                ),
                one.transposed,
            )
            for place, one in enumerate(header.layers)
        )
    if header.layers:
        raise FormatError(f"expected no layers in an answer of {header.outcome}")
    if header.outcome == "failed":
        if header.failure is None or parts:
            raise FormatError("expected a failure code and no parts in a failed answer")
        return header.failure
    if header.failure is not None or len(parts) != 1:
        raise FormatError(f"expected one part and no failure in an answer of {header.outcome}")
    match header.outcome:
        case "tensors":
            return NamedTensors.from_bytes(bytes(parts[0]))
        case "bytes":
            return bytes(parts[0])
        case "vector":
            return _vector(parts[0])


def body_size(length: bytes) -> int:
    """Return how many bytes follow a length; `FormatError` when they are too many."""
    size = int.from_bytes(length, "little")
    if not 4 <= size <= MAX_MESSAGE_BYTES:
        raise FormatError(f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, got {size}")
    return size


def _layer_header(part: GradientPart) -> _LayerHeader:
    rows, inputs = part.layer.inputs.shape
    return _LayerHeader(
        weight=part.weight,
        bias=part.bias,
        transposed=part.transposed,
        inputs=inputs,
        outputs=part.layer.errors.shape[1],
        rows=rows,
        has_bias=part.layer.has_bias,
    )


def _join(header: bytes, parts: list[bytes]) -> bytes:
    body = b"".join([len(header).to_bytes(4, "little"), header, *parts])
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


def _split(data: bytes, kind: type[_Header]) -> tuple[_Header, list[memoryview]]:
    if len(data) < 4:
        raise FormatError(f"expected a message of at least 4 bytes, got {len(data)}")
    size = int.from_bytes(data[:4], "little")
    if size > min(MAX_HEADER_BYTES, len(data) - 4):
        raise FormatError(f"a message announces a header of {size} bytes")
    header = canonical.decode(data[4 : 4 + size], kind, limit=MAX_HEADER_BYTES)
    if sum(header.parts) != len(data) - 4 - size:
        raise FormatError(f"expected parts of {sum(header.parts)} bytes")
    view, start, parts = memoryview(data), 4 + size, []
    for length in header.parts:
        parts.append(view[start : start + length])
        start += length
    return header, parts


def _raw(array: Matrix) -> bytes:
    return np.ascontiguousarray(array, dtype="<f8").tobytes()


def _vector(part: memoryview) -> Matrix:
    if len(part) % 8:
        raise FormatError(f"expected whole float64 values, got {len(part)} bytes")
    return np.frombuffer(part, dtype="<f8").astype(np.float64)


def _matrix(part: memoryview, rows: int, columns: int) -> Matrix:
    if rows * columns * 8 != len(part):
        raise FormatError(f"expected a matrix of {rows} by {columns}, got {len(part)} bytes")
    return _vector(part).reshape(rows, columns)


def _entropy(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise FormatError("expected entropy in hexadecimal") from error
