"""Units of measurement: a closed table of UCUM codes.

Guarantees (docs/spec/contract.md, section 3):
  * A code outside the table is refused; nothing is guessed.
  * Factors are exact rationals; a value is rounded once, when it is multiplied.
  * Mass and substance concentrations convert only for an analyte named in the contract,
    because the factor is the analyte's molar mass.

LIMIT: glycated haemoglobin (per cent against mmol/mol) is not in the table: its two scales differ
by an offset that depends on the assay's standardisation.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from treaty.errors import UsageError

__all__ = ["ANALYTES", "UNITS", "Unit", "are_convertible", "conversion", "convert", "require_unit"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One UCUM code: base value = factor * value + offset, in the base unit of `dimension`."""

    code: str
    dimension: str
    factor: Fraction
    offset: Fraction = Fraction(0)


_ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("1", "ratio", "1", "0"),
    ("%", "ratio", "1/100", "0"),
    ("[ppth]", "ratio", "1/1000", "0"),
    ("{score}", "score", "1", "0"),
    ("{count}", "count", "1", "0"),
    ("ms", "time", "1/1000", "0"),
    ("s", "time", "1", "0"),
    ("min", "time", "60", "0"),
    ("h", "time", "3600", "0"),
    ("d", "time", "86400", "0"),
    ("wk", "time", "604800", "0"),
    ("mo", "time", "2629800", "0"),
    ("a", "time", "31557600", "0"),
    ("m", "length", "1", "0"),
    ("cm", "length", "1/100", "0"),
    ("mm", "length", "1/1000", "0"),
    ("um", "length", "1/1000000", "0"),
    ("[in_i]", "length", "254/10000", "0"),
    ("[ft_i]", "length", "3048/10000", "0"),
    ("m2", "area", "1", "0"),
    ("cm2", "area", "1/10000", "0"),
    ("mm2", "area", "1/1000000", "0"),
    ("L", "volume", "1", "0"),
    ("dL", "volume", "1/10", "0"),
    ("mL", "volume", "1/1000", "0"),
    ("kg", "mass", "1000", "0"),
    ("g", "mass", "1", "0"),
    ("mg", "mass", "1/1000", "0"),
    ("ug", "mass", "1/1000000", "0"),
    ("[lb_av]", "mass", "45359237/100000", "0"),
    ("kg/m2", "body-mass-index", "1", "0"),
    ("Pa", "pressure", "1", "0"),
    ("kPa", "pressure", "1000", "0"),
    ("bar", "pressure", "100000", "0"),
    ("mm[Hg]", "pressure", "133322387415/1000000000", "0"),
    ("cm[H2O]", "pressure", "9806650/100000", "0"),
    ("K", "temperature", "1", "0"),
    ("Cel", "temperature", "1", "27315/100"),
    ("[degF]", "temperature", "5/9", "45967/180"),
    ("g/L", "mass-concentration", "1", "0"),
    ("g/dL", "mass-concentration", "10", "0"),
    ("mg/dL", "mass-concentration", "1/100", "0"),
    ("mg/L", "mass-concentration", "1/1000", "0"),
    ("ug/dL", "mass-concentration", "1/100000", "0"),
    ("ug/mL", "mass-concentration", "1/1000", "0"),
    ("ug/L", "mass-concentration", "1/1000000", "0"),
    ("ng/mL", "mass-concentration", "1/1000000", "0"),
    ("ng/dL", "mass-concentration", "1/100000000", "0"),
    ("pg/mL", "mass-concentration", "1/1000000000", "0"),
    ("mol/L", "substance-concentration", "1", "0"),
    ("mmol/L", "substance-concentration", "1/1000", "0"),
    ("umol/L", "substance-concentration", "1/1000000", "0"),
    ("nmol/L", "substance-concentration", "1/1000000000", "0"),
    ("pmol/L", "substance-concentration", "1/1000000000000", "0"),
    ("10*12/L", "number-concentration", "1000000000000", "0"),
    ("10*9/L", "number-concentration", "1000000000", "0"),
    ("10*6/L", "number-concentration", "1000000", "0"),
    ("10*3/uL", "number-concentration", "1000000000", "0"),
    ("/uL", "number-concentration", "1000000", "0"),
    ("U/L", "catalytic-concentration", "1", "0"),
    ("ukat/L", "catalytic-concentration", "60", "0"),
    ("[iU]/L", "international-units", "1", "0"),
    ("[iU]/mL", "international-units", "1000", "0"),
    ("/min", "frequency", "1/60", "0"),
    ("Hz", "frequency", "1", "0"),
    ("mL/min", "flow", "1", "0"),
    ("L/min", "flow", "1000", "0"),
    ("mL/min/{1.73_m2}", "indexed-flow", "1", "0"),
    ("mV", "electric-potential", "1/1000", "0"),
    ("uV", "electric-potential", "1/1000000", "0"),
    ("kJ", "energy", "1000", "0"),
    ("kcal", "energy", "4184", "0"),
)

UNITS: dict[str, Unit] = {
    code: Unit(code, dimension, Fraction(factor), Fraction(offset))
    for code, dimension, factor, offset in _ROWS
}
"""The closed table. One beat per minute is ``/min``; a year (``a``) is the Julian 365.25 days."""

ANALYTES: dict[str, Fraction] = {
    "cholesterol": Fraction("386.7"),
    "triglycerides": Fraction("885.7"),
    "glucose": Fraction("180.16"),
    # 1 mg/dL is 88.4 umol/L, the factor that laboratories print.
    "creatinine": Fraction(10, 1000) / (Fraction("88.4") / 1_000_000),
    "urea": Fraction("60.06"),
    "bilirubin": Fraction(10, 1000) / (Fraction("17.1") / 1_000_000),
    "calcium": Fraction("40.08"),
    "uric-acid": Fraction("168.1"),
}
"""Grams per mole, as the conversion factors in clinical use imply them."""


def require_unit(code: str) -> Unit:
    """Return the unit named `code`; `UsageError` when the closed table has none."""
    unit = UNITS.get(code)
    if unit is None:
        raise UsageError(f"expected a UCUM code of the closed table, got {code!r}")
    return unit


def are_convertible(source: str, target: str, analyte: str = "") -> bool:
    """Return whether both codes are known and values of `source` can be stated in `target`."""
    one, other = UNITS.get(source), UNITS.get(target)
    if one is None or other is None:
        return False
    return one.dimension == other.dimension or (
        analyte in ANALYTES
        and {one.dimension, other.dimension} == {"mass-concentration", "substance-concentration"}
    )


def conversion(source: str, target: str, analyte: str = "") -> tuple[Fraction, Fraction]:
    """Return (factor, offset) with target value = factor * source value + offset, exactly.

    Raises `UsageError` when a code is unknown or the two measure different things.
    """
    one, other = require_unit(source), require_unit(target)
    if not are_convertible(source, target, analyte):
        named = f" for analyte {analyte!r}" if analyte else " without a named analyte"
        raise UsageError(f"expected a unit convertible to {target!r}, got {source!r}{named}")
    bridge = Fraction(1)
    if one.dimension != other.dimension:
        molar = ANALYTES[analyte]
        bridge = molar if one.dimension == "substance-concentration" else 1 / molar
    return one.factor * bridge / other.factor, (one.offset * bridge - other.offset) / other.factor


def convert(
    values: NDArray[np.float64], source: str, target: str, analyte: str = ""
) -> NDArray[np.float64]:
    """Return `values` of `source` stated in `target`; the same array if the two are equal."""
    if source == target:
        require_unit(source)
        return values
    factor, offset = conversion(source, target, analyte)
    return values * float(factor) + float(offset)
