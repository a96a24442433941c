"""Canonical JSON: the only bytes that Treaty hashes or signs, and the only decoder.

Guarantees (docs/spec/formats.md, section 1):
  * `encode` writes RFC 8785 bytes of a value that holds no floating-point number.
  * `decode` accepts exactly the bytes that `encode` writes for the given type:
    unknown or missing fields, duplicate keys, other spellings of the same value,
    trailing bytes, oversized input, floating-point numbers and integers beyond 2^53 - 1 are a
    `FormatError` that names the field or the fault.

Types are frozen `msgspec.Struct` classes with ``forbid_unknown_fields=True``; derive them
from `Record`. What a type cannot rule out by itself is looked for in the value: floats, integers
without bounds, and keys of mappings beyond U+D7FF, because RFC 8785 sorts by UTF-16 and only
below that point is it the order of code points.

LIMIT: a field of type `msgspec.Raw` is passed through as it stands. Decode what it holds.
"""

import functools
import hashlib
import re
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin

import msgspec
from msgspec import inspect

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

# Expressions are precise and few people read them: errors say the same in words.
_IN_WORDS = {
    r"\A[0-9a-f]{64}\Z": "64 lower-case hexadecimal digits",
    r"\A[a-z0-9][a-z0-9.\-]{0,62}\Z": (
        "1 to 63 lower-case letters, digits, dots and hyphens, starting with a letter or digit"
    ),
    r"\A[A-Za-z0-9][A-Za-z0-9_.:/+\-]{0,127}\Z": (
        "1 to 128 letters, digits and any of _ . : / + -, starting with a letter or digit"
    ),
    r"\A[a-z][a-z0-9_]{0,62}\Z": (
        "1 to 63 lower-case letters, digits and underscores, starting with a letter"
    ),
    r"\A(0|0\.[0-9]{1,20}|[1-9]e-[1-9][0-9]?)\Z": "a number such as 1e-5 or 0.001",
    r"\A(tls|wss)://[A-Za-z0-9.\-\[\]:]{1,255}\Z": "an address such as tls://hub.example:4222",
    r"\A[A-Z]{2}(-[A-Z0-9]{1,3})?\Z": "a country or region such as CH or CH-ZH",
    r"\A(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\Z": "a version such as 1.0.0",
    r"\ADUO:[0-9]{7}\Z": "a code such as DUO:0000042",
    r"\A[,;|\t]\Z": "a comma, semicolon, bar or tab",
}
_EXPRESSION = re.compile(r"`str` matching regex '([^']*)'")


class _RecordMeta(msgspec.StructMeta):
    """Hands on `kw_only`, the one option that msgspec does not inherit."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> "_RecordMeta":
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **options})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, metaclass=_RecordMeta, frozen=True, forbid_unknown_fields=True):
    """Base of every canonical type: frozen, closed, keyword arguments only."""


_LAST_KEY = "\ud7ff"
_CLOSED = (
    inspect.StrType,
    inspect.BoolType,
    inspect.NoneType,
    inspect.EnumType,
    inspect.LiteralType,
    inspect.RawType,
    inspect.BytesType,
)

_T = TypeVar("_T")
_DECODERS: dict[Any, tuple[msgspec.json.Decoder[Any], bool]] = {}
"""By type: its decoder, and whether its values are free of what `_flaw_of` looks for."""

_ENCODER = msgspec.json.Encoder(order="sorted")


def encode(value: object) -> bytes:
    """Return the RFC 8785 bytes of `value`.

    Raises `UsageError` for what has no such form. Bounds that a type declares are enforced by
    `decode`, not here.
    """
    try:
        data = _ENCODER.encode(value)
        flaw = "" if _is_free_of_flaws(value) else _flaw_of(value)
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"value has no canonical form: {error}") from error
    if flaw:
        raise UsageError(f"value has no canonical form: it holds {flaw}")
    return data


def in_words(error: Exception) -> str:
    """Return what a failed check of fields says, with known expressions in words.

    The field's path stays. For texts that people write: it is they who read what was expected.
    """

    def say(found: re.Match[str]) -> str:
        expression = found[1].replace("\\\\", "\\")
        if expression.startswith(r"\A[^"):
            return "one line of text without hidden characters"
        return _IN_WORDS.get(expression, found[0])

    return _lower(_EXPRESSION.sub(say, str(error)))


def decode(data: bytes, kind: type[_T], *, limit: int = MAX_SIZE_BYTES) -> _T:
    """Return the value of type `kind` whose canonical bytes are `data`.

    Raises `FormatError` naming the field when the bytes are anything else.
    """
    if len(data) > limit:
        raise FormatError(f"expected at most {limit} bytes, got {len(data)}")
    decoder, closed = _DECODERS.get(kind) or _prepared(kind)
    try:
        value: _T = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"expected {_kind_name(kind)}: {in_words(error)}") from error
    try:
        again = _ENCODER.encode(value)
        flaw = "" if closed else _flaw_of(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise FormatError(f"expected {_kind_name(kind)}: no canonical form") from error
    if again != data:
        raise FormatError(
            f"expected canonical bytes of {_kind_name(kind)}: duplicate keys, key order, "
            "white space or spelling differ"
        )
    if flaw:
        raise FormatError(f"expected canonical bytes of {_kind_name(kind)}: found {flaw}")
    return value


def sha256(data: bytes | bytearray | memoryview) -> Digest:
    """Return the SHA-256 of `data` as lower-case hexadecimal."""
    return Digest(hashlib.sha256(data).hexdigest())


def digest_of(value: object) -> Digest:
    """Return the SHA-256 of the canonical bytes of `value`."""
    return sha256(encode(value))


def _prepared(kind: Any) -> tuple[msgspec.json.Decoder[Any], bool]:
    _DECODERS[kind] = (
        msgspec.json.Decoder(kind),
        _is_closed(inspect.type_info(kind), set()),
    )
    return _DECODERS[kind]


def _kind_name(kind: object) -> str:
    """Name a type for people; a Record around another type is named by what it holds."""
    origin = get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return _kind_name(get_args(kind)[0])
    return str(getattr(kind, "__name__", kind)).lstrip("_")


def _lower(text: str) -> str:
    # "JSON is malformed" begins with a name.
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def _is_free_of_flaws(value: object) -> bool:
    return isinstance(value, msgspec.Struct) and _cannot_hold_flaws(type(value))


def _flaw_of(value: object) -> str:
    """What in `value` RFC 8785 or this product refuses, or nothing."""
    match value:
        case None | str() | bool():
            return ""
        case int():
            return "" if -_MAX_INT <= value <= _MAX_INT else "an integer beyond 2^53 - 1"
        case float():
            return "a floating-point number"
        case msgspec.Struct():
            # Most types rule every flaw out by themselves; that is decided once a type.
            if _cannot_hold_flaws(type(value)):
                return ""
            items = [getattr(value, name) for name in value.__struct_fields__]
        case dict():
            if any(isinstance(key, str) and max(key, default="") > _LAST_KEY for key in value):
                return "a key of a mapping beyond U+D7FF"
            items = list(value.values())
        case list() | tuple() | set() | frozenset():
            items = list(value)
        case _:
            return ""
    return next(filter(None, map(_flaw_of, items)), "")


@functools.cache
def _cannot_hold_flaws(kind: type[msgspec.Struct]) -> bool:
    return _is_closed(inspect.type_info(kind), set())


def _is_closed(kind: inspect.Type, seen: set[type]) -> bool:
    """Whether every value of the type `kind` is free of what `_flaw_of` looks for."""
    match kind:
        case inspect.IntType():
            return (kind.ge is not None and kind.ge >= -_MAX_INT) and (
                kind.le is not None and kind.le <= _MAX_INT
            )
        case inspect.StructType():
            if kind.cls in seen:
                return True
            seen.add(kind.cls)
            return all(_is_closed(field.type, seen) for field in kind.fields)
        case inspect.DictType():
            pattern = kind.key_type.pattern if isinstance(kind.key_type, inspect.StrType) else ""
            return pattern is not None and _is_closed(kind.value_type, seen)
        case inspect.UnionType():
            return all(_is_closed(one, seen) for one in kind.types)
        case inspect.TupleType():
            return all(_is_closed(one, seen) for one in kind.item_types)
        case inspect.VarTupleType() | inspect.ListType() | inspect.FrozenSetType():
            return _is_closed(kind.item_type, seen)
        case _:
            return isinstance(kind, _CLOSED)
