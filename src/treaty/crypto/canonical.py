"""Canonical JSON: the only bytes that Treaty hashes or signs, and the only decoder.

Guarantees (docs/spec/formats.md):
  * `encode` writes RFC 8785 bytes of a value that holds no floating-point number.
  * `decode` accepts exactly the bytes that `encode` writes for the given type:
    unknown or missing fields, duplicate keys, other spellings of the same value,
    trailing bytes, oversized input and numbers beyond 2^53 - 1 are a `FormatError`
    that names the field.

Types are frozen `msgspec.Struct` classes with ``forbid_unknown_fields=True``; derive them
from `Record`. Keys of mappings are ASCII by the types that use them, so
sorting by code point equals the UTF-16 order that RFC 8785 asks for.
"""

import hashlib
from typing import Annotated, Any, TypeVar, dataclass_transform

import msgspec

from treaty.errors import FormatError, UsageError
from treaty.ids import Digest

__all__ = [
    "MAX_SIZE_BYTES",
    "Count",
    "DigestField",
    "Int53",
    "MemberName",
    "Name",
    "Record",
    "Text",
    "decode",
    "digest_of",
    "encode",
    "sha256",
]

MAX_SIZE_BYTES = 1 << 20
"""Default limit of `decode`: one mebibyte. Log entries have their own limit, 65,535."""

_MAX_INT = (1 << 53) - 1

Int53 = Annotated[int, msgspec.Meta(ge=-_MAX_INT, le=_MAX_INT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_INT)]
DigestField = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
MemberName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9.\-]{0,62}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.:/+\-]{0,127}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class _RecordMeta(msgspec.StructMeta):
    """Hands on `kw_only`, the one option that msgspec does not inherit."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "_RecordMeta":
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, forbid_unknown_fields=True):
    """Base of every canonical type: frozen, closed, keyword arguments only."""


_T = TypeVar("_T")
_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}
_ENCODER = msgspec.json.Encoder(order="sorted")


def encode(value: object) -> bytes:
    """Return the RFC 8785 bytes of `value`.

    Raises `UsageError` for floats and for what JSON cannot hold. Bounds of integers are the
    business of the types; `decode` enforces them.
    """
    try:
        data = _ENCODER.encode(value)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"value has no canonical form: {error}") from error
    if isinstance(value, float) or (not isinstance(value, msgspec.Struct) and _holds_float(value)):
        raise UsageError("value has no canonical form: it holds a floating-point number")
    return data


def decode(data: bytes, kind: type[_T], *, limit: int = MAX_SIZE_BYTES) -> _T:
    """Return the value of type `kind` whose canonical bytes are `data`.

    Raises `FormatError` naming the field when the bytes are anything else.
    """
    if len(data) > limit:
        raise FormatError(f"expected at most {limit} bytes, got {len(data)}")
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        value: _T = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"expected {_kind_name(kind)}: {_lower(str(error))}") from error
    try:
        again = _ENCODER.encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"expected {_kind_name(kind)}: no canonical form") from error
    if again != data:
        raise FormatError(
            f"expected canonical bytes of {_kind_name(kind)}: duplicate keys, key order, "
            "white space or spelling differ"
        )
    return value


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """Return the SHA-256 of `data` as lower-case hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_of(value: object) -> Digest:
    """Return the SHA-256 of the canonical bytes of `value`."""
    return sha256(encode(value))


def _kind_name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _holds_float(value: object) -> bool:
    if isinstance(value, float):
        return True
    if isinstance(value, dict):
        return any(_holds_float(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_float(item) for item in value)
    return False
