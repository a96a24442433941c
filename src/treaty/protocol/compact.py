"""Compact statements: how a post carries an envelope, in little more than half its bytes.

An envelope is base64 of JSON that repeats what follows from its predicate. In a post stand
the signatures, the predicate's type and its canonical bytes, digests as 32 bytes; the reader
builds the envelope again, bit by bit the one that was signed (docs/spec/protocol.md, section 2).

Guarantees:
  * ``expand(compact(data)) == data`` for all bytes, statements or not.
  * One spelling: `expand` refuses what `compact` does not write.
  * What `expanded` says of a statement is what `peek` would find in its bytes.

Nothing is verified here: signatures are of the envelope, and whoever reads it checks them.
"""

import re
from typing import Final

from treaty.crypto import canonical, envelope
from treaty.crypto.keys import SIGNATURE_BYTES
from treaty.errors import FormatError
from treaty.ids import Digest
from treaty.protocol.statements import (
    MAX_ENTRY_BYTES,
    PREDICATE_BASE,
    Body,
    Parsed,
    kind_of,
    peek,
    registered,
    statement_payload,
)

__all__ = ["compact", "expand", "expanded"]

_DIGEST: Final = re.compile(rb'"([0-9a-f]{64})"')
_MARK: Final = b"\x01"
"""Stands for a quoted digest, whose 32 bytes follow. JSON text holds no control character."""

_DIGEST_BYTES: Final = 32
_LINE_BYTES: Final = _DIGEST_BYTES + SIGNATURE_BYTES
_MOST: Final = 255


def compact(statement: bytes, known: Parsed | None = None) -> bytes:
    """Return the form in which a post carries `statement`; `known` is what `peek` gives for it.

    What is no statement of this product goes as it stands, behind a zero byte.
    """
    try:
        parsed, body = peek(statement) if known is None else known
    except FormatError:
        return b"\x00" + statement
    address = registered(type(body)).uri.removeprefix(PREDICATE_BASE).encode()
    if len(parsed.signatures) > _MOST or len(address) > _MOST:
        return b"\x00" + statement
    lines = (bytes.fromhex(keyid) + signature for keyid, signature in parsed.signatures)
    return b"".join(
        (
            bytes([len(parsed.signatures)]),
            *lines,
            bytes([len(address)]),
            address,
            _DIGEST.sub(_shrunk, canonical.encode(body)),
        )
    )


def expand(data: bytes) -> bytes:
    """Return the statement whose form in a post is `data`; `FormatError` if there is none."""
    return expanded(data)[0]


def expanded(data: bytes) -> tuple[bytes, Parsed | None]:
    """Return what `expand` does, and what `peek` gives for it; None for what is no statement."""
    if not data:
        raise FormatError("expected a statement, got nothing")
    count, at = data[0], 1 + data[0] * _LINE_BYTES
    if not count:
        if compact(data[1:]) != data:
            raise FormatError("expected a statement in its compact form, got an envelope")
        return data[1:], None
    if at >= len(data) or at + 1 + data[at] > len(data):
        raise FormatError(f"expected {count} signatures and a type, got {len(data)} bytes")
    signatures = {}
    previous = ""
    for start in range(1, at, _LINE_BYTES):
        keyid = data[start : start + _DIGEST_BYTES].hex()
        if keyid <= previous:
            raise FormatError("expected signatures sorted by key id, each key id once")
        signatures[Digest(keyid)] = data[start + _DIGEST_BYTES : start + _LINE_BYTES]
        previous = keyid
    ends = at + 1 + data[at]
    short = data[ends:]
    text = _stretched(short)
    if _DIGEST.sub(_shrunk, text) != short:
        raise FormatError("expected digests of 32 bytes, got hexadecimal digits")
    body: Body = canonical.decode(text, _kind(data[at + 1 : ends]), limit=MAX_ENTRY_BYTES)
    payload = statement_payload(body)
    statement = envelope.join(payload, signatures)
    if len(statement) > MAX_ENTRY_BYTES:
        raise FormatError(f"expected a statement of at most {MAX_ENTRY_BYTES} bytes")
    # Every check of `peek` has been made: the bytes were built here from a body that decodes.
    return statement, (envelope.Envelope(payload, tuple(signatures.items())), body)


def _kind(address: bytes) -> type[Body]:
    try:
        name = address.decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError("expected a known predicate type") from error
    kind = kind_of(name) or kind_of(PREDICATE_BASE + name)
    # Prevents a second spelling: the type's whole address where its name is enough.
    if kind is None or name.startswith(PREDICATE_BASE):
        raise FormatError(f"expected a known predicate type, got {name[:80]!r}")
    return kind


def _shrunk(found: re.Match[bytes]) -> bytes:
    return _MARK + bytes.fromhex(found[1].decode("ascii"))


def _stretched(short: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while (mark := short.find(_MARK, at)) >= 0:
        digest = short[mark + 1 : mark + 1 + _DIGEST_BYTES]
        if len(digest) != _DIGEST_BYTES:
            raise FormatError(f"expected a digest of {_DIGEST_BYTES} bytes, got {len(digest)}")
        parts += (short[at:mark], b'"', digest.hex().encode("ascii"), b'"')
        at = mark + 1 + _DIGEST_BYTES
    parts.append(short[at:])
    return b"".join(parts)
