"""Month names and dates in a closed list of locales.

Guarantees (docs/spec/contract.md, 7.5): nothing depends on the machine's locale; an unknown month
name is refused, not guessed. Broken spellings are mended by the adapter's own aliases, where a
reviewer sees them.
"""

import calendar
import re
from collections.abc import Mapping
from typing import Literal

from treaty.errors import UsageError

__all__ = ["LOCALES", "DateOrder", "parse_date"]

DateOrder = Literal[
    "year-month-day", "day-month-year", "month-day-year", "month-year", "year-month"
]

LOCALES: dict[str, tuple[str, ...]] = {
    "cs": ("led", "úno", "bře", "dub", "kvě", "čvn", "čvc", "srp", "zář", "říj", "lis", "pro"),
    "de": ("jan", "feb", "mär", "apr", "mai", "jun", "jul", "aug", "sep", "okt", "nov", "dez"),
    "en": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "es": ("ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"),
    "fr": (
        "janv", "févr", "mars", "avr", "mai", "juin",
        "juil", "août", "sept", "oct", "nov", "déc",
    ),
    "it": ("gen", "feb", "mar", "apr", "mag", "giu", "lug", "ago", "set", "ott", "nov", "dic"),
    "nl": ("jan", "feb", "mrt", "apr", "mei", "jun", "jul", "aug", "sep", "okt", "nov", "dec"),
    "pl": ("sty", "lut", "mar", "kwi", "maj", "cze", "lip", "sie", "wrz", "paź", "lis", "gru"),
    "pt": ("jan", "fev", "mar", "abr", "mai", "jun", "jul", "ago", "set", "out", "nov", "dez"),
    "sv": ("jan", "feb", "mar", "apr", "maj", "jun", "jul", "aug", "sep", "okt", "nov", "dec"),
}  # fmt: skip
"""Abbreviated month names, January first, in lower case."""

_SEPARATOR = re.compile(r"[-/. ]+")


def parse_date(
    text: str,
    *,
    order: DateOrder,
    locale: str,
    century: int,
    aliases: Mapping[str, int],
) -> str | None:
    """Return `text` as ``year-month-day`` or ``year-month``, or None when it is no such date.

    Months are numbers, names of `locale` or names in `aliases` (name to month). Years of two
    digits count from `century`. Raises `UsageError` for a locale outside the list.
    """
    months = LOCALES.get(locale)
    if months is None:
        raise UsageError(f"expected a locale of {', '.join(LOCALES)}, got {locale!r}")
    names = order.split("-")
    parts = [part for part in _SEPARATOR.split(text.strip()) if part]
    if len(parts) != len(names):
        return None
    fields = dict(zip(names, parts, strict=True))
    month = _month(fields["month"], months, aliases)
    year = _digits(fields["year"])
    if month is None or year is None or len(fields["year"]) not in {2, 4}:
        return None
    if len(fields["year"]) == 2:
        year += century
    if not 1600 <= year <= 2999:
        return None
    if "day" not in fields:
        return f"{year:04}-{month:02}"
    day = _digits(fields["day"])
    if day is None or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return f"{year:04}-{month:02}-{day:02}"


def _month(text: str, months: tuple[str, ...], aliases: Mapping[str, int]) -> int | None:
    name = text.lower()
    if name in aliases:
        return aliases[name]
    if name in months:
        return months.index(name) + 1
    number = _digits(text)
    return number if number is not None and 1 <= number <= 12 else None


def _digits(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4 else None
