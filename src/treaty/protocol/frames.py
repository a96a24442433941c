"""Frames: the two envelopes of transport between the coordinator and a member.

A *feed* goes down: new log entries, the checkpoint that covers them, and blobs by digest. A
*post* goes up: signed statements, a cosignature of the last checkpoint, and blobs by
digest. Frames are not trusted: entries are checked against the checkpoint, statements by
their signatures, blobs by their digests (docs/spec/protocol.md, section 2).

Layout: 4-byte big-endian length, canonical JSON header, then the parts the header lists,
end to end; statements of a post in their compact form (`treaty.protocol.compact`). `decode_feed`
and `decode_post` return a value or raise `FormatError`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, MemberName, Record
from treaty.errors import FormatError
from treaty.ids import Digest, MemberId
from treaty.protocol.compact import compact, expanded
from treaty.protocol.statements import Parsed

__all__ = ["MAX_FRAME_BYTES", "Feed", "Post", "decode_feed", "decode_post", "encode_frame"]

MAX_FRAME_BYTES = 8 << 20
"""The largest frame: larger blobs travel by digest through the engine's bulk path."""

_MAX_HEADER = 1 << 20


class BlobPart(Record):
    """One attached blob: its SHA-256 and its size."""

    digest: DigestField
    size_bytes: Count


class _FeedHeader(Record):
    format: Literal["treaty.feed/v1"]
    first: Count
    entries: tuple[Count, ...]
    checkpoint: str
    blobs: tuple[BlobPart, ...]


class _PostHeader(Record):
    format: Literal["treaty.post/v1"]
    member: MemberName
    size: Count
    cosignature: str
    statements: tuple[Count, ...]
    blobs: tuple[BlobPart, ...]


@dataclass(frozen=True, slots=True)
class Feed:
    """Log entries `first`, `first` + 1, ... and the checkpoint note that covers them.

    With no entries, an empty `checkpoint` asks the member for its size, and one with cosignatures
    shows what a quorum has cosigned of a log that ends at `first`.
    """

    first: int
    entries: tuple[bytes, ...]
    checkpoint: str
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Post:
    """What a member sends: its log size, a cosignature line, statements and blobs.

    `parsed` spares parsing: what `peek` gives for each statement, None where it is not known.
    Without it nothing is known.
    """

    member: MemberId
    size: int
    cosignature: str
    statements: tuple[bytes, ...] = ()
    blobs: Mapping[Digest, bytes] = field(default_factory=dict)
    parsed: tuple[Parsed | None, ...] = field(default=(), repr=False, compare=False)


def encode_frame(frame: Feed | Post) -> bytes:
    """Return the bytes of `frame`."""
    blobs = tuple(
        BlobPart(digest=digest, size_bytes=len(data)) for digest, data in frame.blobs.items()
    )
    header: Record
    match frame:
        case Feed():
            parts: Sequence[bytes] = frame.entries
            header = _FeedHeader(
                format="treaty.feed/v1",
                first=frame.first,
                entries=tuple(map(len, parts)),
                checkpoint=frame.checkpoint,
                blobs=blobs,
            )
        case Post():
            known = frame.parsed or (None,) * len(frame.statements)
            parts = tuple(map(compact, frame.statements, known))
            header = _PostHeader(
                format="treaty.post/v1",
                member=frame.member,
                size=frame.size,
                cosignature=frame.cosignature,
                statements=tuple(map(len, parts)),
                blobs=blobs,
            )
    head = canonical.encode(header)
    return b"".join((len(head).to_bytes(4, "big"), head, *parts, *frame.blobs.values()))


def decode_feed(data: bytes) -> Feed:
    """Return the feed in `data`; `FormatError` if it is not one."""
    head, rest = _split(data)
    header = canonical.decode(head, _FeedHeader, limit=_MAX_HEADER)
    entries, blobs = _parts(rest, header.entries, header.blobs)
    return Feed(header.first, entries, header.checkpoint, blobs)


def decode_post(data: bytes) -> Post:
    """Return the post in `data`; `FormatError` if it is not one."""
    head, rest = _split(data)
    header = canonical.decode(head, _PostHeader, limit=_MAX_HEADER)
    statements, blobs = _parts(rest, header.statements, header.blobs)
    found = [expanded(statement) for statement in statements]
    return Post(
        MemberId(header.member),
        header.size,
        header.cosignature,
        tuple(data for data, _ in found),
        blobs,
        tuple(parsed for _, parsed in found),
    )


def _split(data: bytes) -> tuple[bytes, memoryview]:
    if len(data) > MAX_FRAME_BYTES:
        raise FormatError(f"expected a frame of at most {MAX_FRAME_BYTES} bytes, got {len(data)}")
    if len(data) < 4:
        raise FormatError(f"expected a frame of at least 4 bytes, got {len(data)}")
    size = int.from_bytes(data[:4], "big")
    if size > _MAX_HEADER or 4 + size > len(data):
        raise FormatError(f"frame header of {size} bytes does not fit in {len(data)} bytes")
    return data[4 : 4 + size], memoryview(data)[4 + size :]


def _parts(
    rest: memoryview, sizes: Sequence[int], blobs: Sequence[BlobPart]
) -> tuple[tuple[bytes, ...], Mapping[Digest, bytes]]:
    expected = sum(sizes) + sum(part.size_bytes for part in blobs)
    if expected != len(rest):
        raise FormatError(f"expected {expected} bytes after the frame header, got {len(rest)}")
    at = 0
    pieces = []
    for size in sizes:
        pieces.append(bytes(rest[at : at + size]))
        at += size
    attached: dict[Digest, bytes] = {}
    for part in blobs:
        data = bytes(rest[at : at + part.size_bytes])
        at += part.size_bytes
        if canonical.sha256(data) != part.digest:
            raise FormatError(f"blob {part.digest[:16]} does not have its digest")
        if part.digest in attached:
            raise FormatError(f"expected each blob once, got {part.digest[:16]} twice")
        attached[Digest(part.digest)] = data
    return tuple(pieces), MappingProxyType(attached)
