"""Shamir secret sharing over the integers modulo p = 2^256 - 189.

Guarantees: any `threshold` of the shares give the secret, fewer are independent of it (Shamir
1979), given uniform randomness. Coefficients are drawn by rejection, so they are uniform.
Leaves to others: whether the shares are true. The protocol checks what was rebuilt against a
logged commitment and tries another subset if it does not hold.

LIMIT: arithmetic is on Python integers and not constant-time; shares are dealt and combined
where an attacker cannot time single multiplications.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from treaty.errors import FormatError, UsageError

__all__ = [
    "ELEMENT_BYTES",
    "MODULUS",
    "combine",
    "deal",
    "decode_element",
    "draw_element",
    "encode_element",
    "share_at",
]

MODULUS: Final = 2**256 - 189
ELEMENT_BYTES: Final = 32


def draw_element(randomness: Callable[[int], bytes]) -> int:
    """Return a uniform element; `randomness(n)` returns n uniform bytes."""
    while True:
        value = int.from_bytes(randomness(ELEMENT_BYTES), "big")
        if value < MODULUS:
            return value


def deal(
    secret: int, threshold: int, points: Sequence[int], randomness: Callable[[int], bytes]
) -> dict[int, int]:
    """Return the share of `secret` at each of `points`; any `threshold` of them combine.

    Raises `UsageError` unless 1 <= threshold <= len(points), the points are distinct and lie
    between 1 and p - 1, and 0 <= secret < p.
    """
    if not 0 <= secret < MODULUS:
        raise UsageError("a secret must be an element of the field")
    if not 1 <= threshold <= len(points):
        raise UsageError(f"threshold {threshold} must be between 1 and {len(points)} shares")
    if len(set(points)) != len(points) or not all(0 < point < MODULUS for point in points):
        raise UsageError("points must be distinct and between 1 and p - 1")
    highest_first = _coefficients(secret, threshold, randomness)
    return {point: _value_at(point, highest_first) for point in points}


def share_at(secret: int, threshold: int, point: int, randomness: Callable[[int], bytes]) -> int:
    """Return the one share at `point` that `deal` gives with the same randomness.

    Raises `UsageError` for a threshold below 1, a point outside 1 .. p - 1 or a secret outside the
    field.
    """
    if not 0 <= secret < MODULUS or threshold < 1 or not 0 < point < MODULUS:
        raise UsageError("expected a secret of the field, a threshold from 1 and a point of it")
    return _value_at(point, _coefficients(secret, threshold, randomness))


def combine(shares: Mapping[int, int]) -> int:
    """Return the value at zero of the polynomial through all of `shares`, point to value.

    Give exactly `threshold` shares. Raises `UsageError` without shares or for a point that is
    zero modulo p, `FormatError` for a value outside the field.
    """
    if not shares:
        raise UsageError("combining needs at least one share")
    points = tuple(sorted(shares))
    if not all(0 < point < MODULUS for point in points):
        raise UsageError("points must be between 1 and p - 1")
    if not all(0 <= shares[point] < MODULUS for point in points):
        raise FormatError("expected shares that are elements of the field")
    weights = _weights_at_zero(points)
    return sum(shares[point] * weight for point, weight in zip(points, weights, strict=True)) % (
        MODULUS
    )


def encode_element(value: int) -> bytes:
    """Return `value` as 32 bytes, big-endian."""
    if not 0 <= value < MODULUS:
        raise UsageError("value must be an element of the field")
    return value.to_bytes(ELEMENT_BYTES, "big")


def decode_element(data: bytes) -> int:
    """Return the element of 32 big-endian bytes; raises `FormatError` at p and above."""
    if len(data) != ELEMENT_BYTES:
        raise FormatError(f"expected a field element of {ELEMENT_BYTES} bytes, got {len(data)}")
    value = int.from_bytes(data, "big")
    if value >= MODULUS:
        raise FormatError("expected a field element below 2^256 - 189")
    return value


def _coefficients(secret: int, threshold: int, randomness: Callable[[int], bytes]) -> Sequence[int]:
    """The polynomial of `secret`, highest power first."""
    drawn = [draw_element(randomness) for _ in range(threshold - 1)]
    return (*reversed(drawn), secret)


def _value_at(point: int, highest_first: Sequence[int]) -> int:
    value = 0
    for coefficient in highest_first:
        value = value * point + coefficient
    # Once is enough: points are numbers of members, so the value grows by a few bits a step.
    return value % MODULUS


@functools.lru_cache(maxsize=256)
def _weights_at_zero(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights at zero. Points are public, so keeping them is no secret kept."""
    weights: list[int] = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * other % MODULUS
                below = below * (other - point) % MODULUS
        weights.append(above * pow(below, -1, MODULUS) % MODULUS)
    return tuple(weights)
