"""Hashes and key derivation with a label, over fields that cannot run into each other.

Guarantees (docs/spec/formats.md, section 5):
  * `enc` is injective on sequences of byte strings: each field is its length (4 bytes,
    big-endian) and its bytes.
  * Every hash and key carries the suite's domain and a label, so a value made for one purpose
    is never valid for another.
  * `kdf` is the first block of HKDF-Expand and `extract` is HKDF-Extract (RFC 5869), SHA-256.

Text is UTF-8, a non-negative integer is 8 bytes, big-endian. The types of a label's fields are
fixed by the label; `enc` does not write them.
"""

import hashlib
import hmac
from typing import Final

from treaty.errors import UsageError

__all__ = ["DOMAIN", "Field", "enc", "extract", "kdf", "labelled_hash"]

DOMAIN: Final = b"cesa/1"
"""First field of every hash and key: the domain of the secure-aggregation suite CESA1."""

Field = bytes | str | int

_MAX_INT: Final = (1 << 64) - 1
_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(65))


def enc(*fields: Field) -> bytes:
    """Return the fields, each with its length in front.

    Raises `UsageError` for an integer outside 0 .. 2^64 - 1, a boolean, or a field of 4 GiB.
    """
    parts: list[bytes] = []
    for field in fields:
        # The common cases first: every mask key of every round passes here.
        kind = type(field)
        if kind is bytes:
            data: bytes = field  # type: ignore[assignment]  # just seen
        elif kind is str:
            data = field.encode()  # type: ignore[union-attr]  # just seen
        else:
            data = _bytes_of(field)
        parts += (_LENGTHS[len(data)] if len(data) <= 64 else _length(data), data)
    return b"".join(parts)


def labelled_hash(label: str, *fields: Field) -> bytes:
    """Return ``SHA-256(enc(DOMAIN, label, fields...))``, 32 bytes."""
    return hashlib.sha256(enc(DOMAIN, label, *fields)).digest()


def kdf(key: bytes, label: str, *fields: Field) -> bytes:
    """Return ``HMAC-SHA256(key, enc(DOMAIN, label, fields...) || 0x01)``, 32 bytes.

    `key` is uniformly random: 32 bytes of a generator, or the result of `extract` or `kdf`.
    """
    return hmac.digest(key, enc(DOMAIN, label, *fields) + b"\x01", "sha256")


def extract(salt: bytes, ikm: bytes) -> bytes:
    """Return ``HMAC-SHA256(salt, ikm)``: a uniform key from a key agreement's output."""
    return hmac.digest(salt, ikm, "sha256")


def _bytes_of(field: Field) -> bytes:
    if type(field) is int and 0 <= field <= _MAX_INT:
        return field.to_bytes(8, "big")
    if isinstance(field, str):
        data = field.encode()
    elif isinstance(field, int):
        if isinstance(field, bool) or not 0 <= field <= _MAX_INT:
            raise UsageError("an integer field must be between 0 and 2^64 - 1")
        return field.to_bytes(8, "big")
    else:
        data = bytes(field)
    return data


def _length(data: bytes) -> bytes:
    if len(data) >> 32:
        raise UsageError("a field must be shorter than 4 GiB")
    return len(data).to_bytes(4, "big")
