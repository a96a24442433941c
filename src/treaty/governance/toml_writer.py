"""Write TOML: the small part of the language that governance documents need.

Guarantee: `tomllib.loads(write_toml(table)) == table` for tables of strings, integers, booleans,
lists and tables, where null-valued keys are left out (TOML has no null).
Scalars and lists of scalars become lines, small inner tables stay on one line, other tables become
sections and lists of tables ``[[sections]]``. Order is that of the table given.
"""

import re
from collections.abc import Mapping

from treaty.errors import UsageError

__all__ = ["quote", "write_toml"]

_BARE = re.compile(r"\A[A-Za-z0-9_-]+\Z")
_INLINE_WIDTH = 80
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"'}


def quote(text: str) -> str:
    """Return `text` as a TOML basic string."""
    shown = []
    for character in text:
        if character == "\\":
            shown.append("\\\\")
        elif character in _ESCAPES:
            shown.append(_ESCAPES[character])
        elif character < " " or character == "\x7f":
            shown.append(f"\\u{ord(character):04x}")
        else:
            shown.append(character)
    return f'"{"".join(shown)}"'


def write_toml(table: Mapping[str, object]) -> str:
    """Return `table` as TOML text. Raises `UsageError` for values that it cannot hold."""
    lines: list[str] = []
    _write(table, (), lines)
    return "\n".join(lines).strip("\n") + "\n"


def _write(table: Mapping[str, object], path: tuple[str, ...], lines: list[str]) -> None:
    for name, value in table.items():
        if value is not None and not _is_section(value, path):
            lines.append(f"{_key(name)} = {_inline(value)}")
    for name, value in table.items():
        if not _is_section(value, path):
            continue
        inner = (*path, name)
        heading = ".".join(_key(part) for part in inner)
        if isinstance(value, Mapping):
            # A table of tables alone needs no heading of its own.
            if not value or not all(_is_section(item, inner) for item in value.values()):
                lines += ["", f"[{heading}]"]
            _write(value, inner, lines)
        elif isinstance(value, list | tuple):
            for item in value:
                lines += ["", f"[[{heading}]]"]
                _write(item, inner, lines)


def _is_section(value: object, path: tuple[str, ...]) -> bool:
    if isinstance(value, Mapping):
        flat = all(not isinstance(item, Mapping) for item in value.values())
        return not (path and value and flat and len(_inline(value)) <= _INLINE_WIDTH)
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(item, Mapping) for item in value)
    )


def _key(name: str) -> str:
    return name if _BARE.match(name) else quote(name)


def _inline(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            return quote(value)
        case Mapping():
            pairs = (f"{_key(k)} = {_inline(v)}" for k, v in value.items() if v is not None)
            return f"{{ {', '.join(pairs)} }}"
        case list() | tuple():
            return f"[{', '.join(_inline(item) for item in value)}]"
        case _:
            raise UsageError(f"expected text, a number or a list, got {type(value).__name__}")
