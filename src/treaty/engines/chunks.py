"""Chunks: large objects as numbered pieces of 4 MiB, each with its SHA-256, header first.

Guarantees (docs/spec/transport.md, section 4): no message of an object exceeds `CHUNK_BYTES`; a
reader takes a piece only if its digest is the header's, and the whole only if its digest is the
one asked for. `decode_header` returns a value or raises `FormatError`.
"""

from typing import Annotated, Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import DigestField, Record, sha256
from treaty.errors import FormatError
from treaty.ports import OBJECT_LIMIT_BYTES

__all__ = ["CHUNK_BYTES", "HEAD", "ObjectHeader", "decode_header", "header_of", "pieces"]

CHUNK_BYTES = 4 << 20
HEAD = "head"
"""The name of the header among the pieces of an object; the others are numbers from 0."""

_MAX_HEADER = 1 << 16


class ObjectHeader(Record):
    """How an object was cut: its size, and the SHA-256 of each piece in order."""

    format: Literal["treaty.object/v1"] = "treaty.object/v1"
    size_bytes: Annotated[int, msgspec.Meta(ge=0, le=OBJECT_LIMIT_BYTES)]
    chunks: Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=512)]


def pieces(data: bytes) -> list[memoryview]:
    """Return `data` cut into pieces of `CHUNK_BYTES`, the last one shorter; at least one."""
    view = memoryview(data)
    return [view[at : at + CHUNK_BYTES] for at in range(0, max(len(data), 1), CHUNK_BYTES)]


def header_of(data: bytes) -> bytes:
    """Return the canonical bytes of the header of `data`."""
    return canonical.encode(
        ObjectHeader(
            size_bytes=len(data), chunks=tuple(sha256(bytes(piece)) for piece in pieces(data))
        )
    )


def decode_header(data: bytes) -> ObjectHeader:
    """Return the header in `data`; `FormatError` if its size and number of pieces disagree."""
    header = canonical.decode(data, ObjectHeader, limit=_MAX_HEADER)
    expected = max(-(-header.size_bytes // CHUNK_BYTES), 1)
    if len(header.chunks) != expected:
        raise FormatError(
            f"expected {expected} pieces of an object of {header.size_bytes} bytes, "
            f"got {len(header.chunks)}"
        )
    return header
