"""Numbers as text.

Planted faults that these tests caught: margins rounded to nearest; the sign of a difference that
rounds to zero kept; the carry of 9.995 lost; the caller's decimal context used; minus zero.
"""

import decimal
from fractions import Fraction

import pytest

from treaty.errors import UsageError
from treaty.reports import numerals


@pytest.mark.parametrize(
    ("parts", "nearest", "up"),
    [
        (0, "0.000", "0.000"),
        (1, "0.000", "0.001"),
        (499, "0.000", "0.001"),
        (500, "0.001", "0.001"),
        (891_234, "0.891", "0.892"),
        (999_500, "1.000", "1.000"),
        (1_000_000, "1.000", "1.000"),
    ],
)
def test_shares_round_to_nearest_and_margins_upwards(parts: int, nearest: str, up: str) -> None:
    assert numerals.area(parts) == nearest
    assert numerals.area(parts, up=True) == up


def test_differences_carry_a_sign_unless_they_round_to_nothing() -> None:
    assert numerals.signed_area(74_458) == "+0.074"
    assert numerals.signed_area(-74_458) == "−0.074"
    assert numerals.signed_area(-499) == "0.000"
    assert numerals.signed_points(-20_339) == "−2.0\u202fpp"
    assert numerals.signed_points(499) == "0.0\u202fpp"
    assert numerals.percent(812_345) == "81.2\u202f%"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0", "0"),
        ("-0.0", "0"),
        ("0.407095", "0.407"),
        ("1.3123e0", "1.31"),
        ("591.4", "591"),
        ("1234.5", "1234"),
        ("9.995", "10.0"),
        ("-0.000012345", "−1.23\u202f×\u202f10⁻⁵"),
        ("9.999e-7", "1.00\u202f×\u202f10⁻⁶"),
        ("8.2e+12", "8.20\u202f×\u202f10¹²"),
    ],
)
def test_decimals_keep_three_significant_digits(text: str, shown: str) -> None:
    assert numerals.scientific(text) == shown
    with decimal.localcontext() as context:
        context.prec = 1
        context.rounding = decimal.ROUND_UP
        assert numerals.scientific(text) == shown


def test_large_counts_are_grouped_and_small_ones_are_not() -> None:
    assert numerals.grouped(9_999) == "9999"
    assert numerals.grouped(1_234_567) == "1\u202f234\u202f567"
    assert numerals.grouped(-12_345) == "−12\u202f345"


def test_coordinates_have_at_most_two_decimals_and_no_minus_zero() -> None:
    assert numerals.coordinate(Fraction(1, 3)) == "0.33"
    assert numerals.coordinate(Fraction(-1, 3)) == "-0.33"
    assert numerals.coordinate(Fraction(-1, 1000)) == "0"
    assert numerals.coordinate(200) == "200"
    assert numerals.coordinate(Fraction(5, 2)) == "2.5"


def test_logarithms_of_powers_of_ten_are_exact() -> None:
    assert numerals.logarithm(numerals.value_of("1e-12")) == -12
    with pytest.raises(UsageError, match="positive"):
        numerals.logarithm(decimal.Decimal(0))


@pytest.mark.parametrize("text", ["", "one", "nan", "inf", "-Infinity", "1e99999999"])
def test_what_is_not_a_finite_decimal_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="number"):
        numerals.value_of(text)
