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

import functools
import hmac
from collections.abc import Callable
from hashlib import sha256
from typing import Final

from treaty.errors import UsageError

__all__ = ["DOMAIN", "Field", "enc", "extract", "kdf", "kdf_series", "labelled_hash"]

DOMAIN: Final = b"cesa/1"
"""First field of every hash and key: the domain of the secure-aggregation suite CESA1."""

Field = bytes | str | int

_MAX_INT: Final = (1 << 64) - 1
_EIGHT_BYTES: Final = 8 << 64
"""The length of an integer, above its value: both are written at once."""

_LENGTHS: Final = tuple(length.to_bytes(4, "big") for length in range(65))
_NUMBERS: Final = tuple((_EIGHT_BYTES | number).to_bytes(12, "big") for number in range(1024))
"""How the numbers of members and slots are written."""

_LAST: Final = tuple(number + b"\x01" for number in _NUMBERS)
"""How a key's input ends when its last field is such a number."""


def enc(*fields: Field) -> bytes:
    """Return the fields, each with its length in front.

    Raises `UsageError` for an integer outside 0 .. 2^64 - 1, a boolean, or a field of 4 GiB.
    """
    parts: list[bytes] = []
    for field in fields:
        # The common cases first: every mask key of every round passes here.
        kind = type(field)
        if kind is int and 0 <= field <= _MAX_INT:  # type: ignore[operator]  # just seen
            parts.append(
                _NUMBERS[field]  # type: ignore[index]
                if field < 1024  # type: ignore[operator]
                else (_EIGHT_BYTES | field).to_bytes(12, "big")  # type: ignore[operator]
            )
            continue
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
    return sha256(_head(label) + enc(*fields)).digest()


def kdf(key: bytes, label: str, *fields: Field) -> bytes:
    """Return ``HMAC-SHA256(key, enc(DOMAIN, label, fields...) || 0x01)``, 32 bytes.

    `key` is uniformly random: 32 bytes of a generator, or the result of `extract` or `kdf`.
    """
    return hmac.digest(key, b"%b%b\x01" % (_head(label), enc(*fields)), "sha256")


def kdf_series(key: bytes, label: str, *fields: Field) -> Callable[[int], bytes]:
    """Return what gives ``kdf(key, label, *fields, number)`` for a number.

    For the many keys of an epoch that differ in their slot alone: what they share is written once.
    The function holds `key`, and lives no longer than it may.
    """
    shared = hmac.new(key, _head(label) + enc(*fields), "sha256")

    def derive(number: int) -> bytes:
        one = shared.copy()
        known = type(number) is int and 0 <= number < 1024
        one.update(_LAST[number] if known else enc(number) + b"\x01")
        return one.digest()

    return derive


def extract(salt: bytes, ikm: bytes) -> bytes:
    """Return ``HMAC-SHA256(salt, ikm)``: a uniform key from a key agreement's output."""
    return hmac.digest(salt, ikm, "sha256")


@functools.lru_cache(maxsize=256)
def _head(label: str) -> bytes:
    """How everything with `label` begins. Labels are few, and no secrets."""
    return enc(DOMAIN, label)


def _bytes_of(field: Field) -> bytes:
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
