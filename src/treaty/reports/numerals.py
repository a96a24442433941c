"""Numbers as text, the same in every locale and on every machine.

Everything is integer or `decimal` arithmetic in a context of its own; the machine's locale,
its mathematical library and the caller's decimal context have no say.
"""

import decimal
from fractions import Fraction

from treaty.errors import UsageError

__all__ = [
    "MINUS",
    "area",
    "coordinate",
    "grouped",
    "logarithm",
    "percent",
    "scientific",
    "signed_area",
    "signed_points",
    "value_of",
]

MINUS = "−"
_SPACE = "\u202f"
_CONTEXT = decimal.Context(prec=50, rounding=decimal.ROUND_HALF_EVEN, Emin=-9999, Emax=9999)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def area(parts: int, *, up: bool = False) -> str:
    """Return parts per million as a share with three decimals: 891234 is "0.891".

    Half goes up; with `up` everything does, for margins, which must not look smaller.
    """
    thousandths = -(-parts // 1000) if up else (parts + 500) // 1000
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def signed_area(parts: int) -> str:
    """Return a difference in parts per million with its sign: -1500 is "−0.002"."""
    text = area(abs(parts))
    if text == "0.000":
        return text
    return ("+" if parts > 0 else MINUS) + text


def percent(parts: int) -> str:
    """Return parts per million as per cent with one decimal: 812345 is "81.2 %"."""
    tenths = (parts + 500) // 1000
    return f"{tenths // 10}.{tenths % 10}{_SPACE}%"


def signed_points(parts: int) -> str:
    """Return a difference in parts per million as percentage points: 15000 is "+1.5 pp"."""
    text = percent(abs(parts)).removesuffix(f"{_SPACE}%")
    sign = "" if text == "0.0" else "+" if parts > 0 else MINUS
    return f"{sign}{text}{_SPACE}pp"


def grouped(count: int) -> str:
    """Return a count with thin groups of three: 1234567 is "1 234 567"."""
    text = f"{abs(count):,}".replace(",", _SPACE) if abs(count) >= 10_000 else str(abs(count))
    return (MINUS if count < 0 else "") + text


def value_of(text: str) -> decimal.Decimal:
    """Return the number that a decimal string spells. Raises `UsageError` for anything else."""
    try:
        value = _CONTEXT.create_decimal(text)
    except (decimal.InvalidOperation, decimal.Overflow) as error:
        raise UsageError(f"expected a decimal number, got {text[:60]!r}") from error
    if not value.is_finite():
        raise UsageError(f"expected a finite number, got {text[:60]!r}")
    return value


def scientific(text: str) -> str:
    """Return a decimal string with three significant digits: "0.000012345" is "1.23 × 10⁻⁵"."""
    value = value_of(text)
    if value == 0:
        return "0"
    sign = MINUS if value < 0 else ""
    value = value.copy_abs()
    exponent = value.adjusted()
    digits = _CONTEXT.quantize(_CONTEXT.scaleb(value, -exponent), decimal.Decimal("0.01"))
    if digits >= 10:
        digits, exponent = decimal.Decimal("1.00"), exponent + 1
    if -3 <= exponent <= 3:
        places = decimal.Decimal((0, (1,), min(exponent - 2, 0)))
        return sign + format(_CONTEXT.quantize(value, places), "f")
    power = str(exponent).translate(_SUPERSCRIPT)
    return f"{sign}{digits}{_SPACE}×{_SPACE}10{power}"


def logarithm(value: decimal.Decimal) -> Fraction:
    """Return the logarithm to base ten of a positive `value`, correctly rounded."""
    if value <= 0:
        raise UsageError(f"expected a positive number, got {value}")
    return Fraction(value.log10(_CONTEXT))


def coordinate(value: Fraction | int) -> str:
    """Return a position in a drawing: at most two decimals, no exponent, no minus zero."""
    hundredths = round(Fraction(value) * 100)
    whole, part = divmod(abs(hundredths), 100)
    text = f"{whole}.{part:02d}".rstrip("0").rstrip(".")
    return f"-{text}" if hundredths < 0 else text
