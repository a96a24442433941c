"""Ed25519 a second time: slow, from RFC 8032 and docs/spec/formats.md, section 3, alone.

Points are pairs of integers and every step is the textbook's, so that it can be read beside the
page; a verification takes some milliseconds. `verdict` says what the page says about a key, a
message and a signature; other functions build those that nobody makes honestly.
"""

import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point = tuple[int, int]
NEUTRAL: Point = (0, 1)


def add(one: Point, other: Point) -> Point:
    """The complete addition of -x^2 + y^2 = 1 + d x^2 y^2."""
    (x1, y1), (x2, y2) = one, other
    t = D * x1 * x2 * y1 * y2 % P
    inverse = pow((1 + t) * (1 - t), -1, P)
    return (
        (x1 * y2 + x2 * y1) * inverse * (1 - t) % P,
        (y1 * y2 + x1 * x2) * inverse * (1 + t) % P,
    )


def multiply(scalar: int, point: Point) -> Point:
    """The point added to itself, `scalar` times, which is not reduced.

    The same addition with a common denominator, divided once at the end.
    """
    total, power = (0, 1, 1), (point[0], point[1], 1)
    while scalar:
        if scalar & 1:
            total = _add(total, power)
        power = _add(power, power)
        scalar >>= 1
    x, y, z = total
    return x * pow(z, -1, P) % P, y * pow(z, -1, P) % P


def _add(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    (x1, y1, z1), (x2, y2, z2) = one, other
    z = z1 * z2 % P
    t = D * x1 * x2 % P * y1 * y2 % P
    plus, minus = (z * z + t) % P, (z * z - t) % P
    return (
        z * minus * (x1 * y2 + x2 * y1) % P,
        z * plus * (y1 * y2 + x1 * x2) % P,
        plus * minus % P,
    )


def negate(point: Point) -> Point:
    """The point that makes this one neutral."""
    return -point[0] % P, point[1]


def encode(point: Point) -> bytes:
    """RFC 8032, 5.1.2: y, and the lowest bit of x on top."""
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def point_of(raw: bytes) -> Point | None:
    """The point whose encoding this is, canonical or not; None when there is none."""
    number = int.from_bytes(raw, "little")
    y, sign = number % 2**255 % P, number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    if x * x % P != square:
        return None
    return (x if x & 1 == sign else -x % P, y)


def is_canonical(raw: bytes) -> bool:
    """Whether decoding and encoding again gives these bytes."""
    point = point_of(raw)
    return point is not None and encode(point) == raw


def is_small(point: Point) -> bool:
    """Whether the order divides eight."""
    return multiply(8, point) == NEUTRAL


_BASE = point_of((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
assert _BASE is not None
BASE: Point = _BASE


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    """The 512-bit hash, not reduced."""
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little")


def is_key(key: bytes) -> bool:
    """Formats 3.1."""
    point = point_of(key)
    return len(key) == 32 and is_canonical(key) and point is not None and not is_small(point)


def verdict(key: bytes, message: bytes, signature: bytes) -> bool:
    """Formats 3.1 and 3.3."""
    if not is_key(key) or len(signature) != 64:
        return False
    a = point_of(key)
    assert a is not None
    r, s = signature[:32], int.from_bytes(signature[32:], "little")
    r_point = point_of(r)
    if s >= L or (r_point is not None and is_small(r_point)):
        return False
    h = challenge(r, key, message) % L
    return encode(add(multiply(s, BASE), negate(multiply(h, a)))) == r


def cofactored(key: bytes, message: bytes, signature: bytes) -> bool:
    """What RFC 8032 also allows: eight times both sides, R decoded leniently. Not the page's."""
    a, r_point = point_of(key), point_of(signature[:32])
    if a is None or r_point is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    h = challenge(signature[:32], key, message) % L
    both = add(multiply(s, BASE), negate(add(r_point, multiply(h, a))))
    return s < L and is_small(both)


def unreduced(key: bytes, message: bytes, signature: bytes) -> bool:
    """The hash not reduced modulo L, which another key than an honest one can tell."""
    a = point_of(key)
    if a is None:
        return False
    s = int.from_bytes(signature[32:], "little")
    h = challenge(signature[:32], key, message)
    return s < L and encode(add(multiply(s, BASE), negate(multiply(h, a)))) == signature[:32]


def secret_of(seed: bytes) -> tuple[int, bytes]:
    """RFC 8032, 5.1.5: the scalar and the prefix of a seed."""
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") % 2**255
    return scalar & ~7 | 1 << 254, digest[32:]


def sign(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """RFC 8032, 5.1.6: the public key and the signature."""
    scalar, prefix = secret_of(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    return forge(scalar, nonce, message)


def forge(
    scalar: int,
    nonce: int,
    message: bytes,
    *,
    beside_key: Point = NEUTRAL,
    beside_nonce: Point = NEUTRAL,
    spelling: bytes | None = None,
) -> tuple[bytes, bytes]:
    """A key and a signature with points of small order beside the honest ones.

    `spelling` is what stands for R instead, hashed as it stands.
    """
    key = encode(add(multiply(scalar, BASE), beside_key))
    r = spelling or encode(add(multiply(nonce, BASE), beside_nonce))
    s = (nonce + challenge(r, key, message) * scalar) % L
    return key, r + s.to_bytes(32, "little")


def small_points() -> tuple[Point, ...]:
    """The eight points whose order divides eight, the k-th being k times the first."""
    y = 2
    while True:
        point = point_of(y.to_bytes(32, "little"))
        if point is not None:
            generator = multiply(L, point)
            if multiply(4, generator) != NEUTRAL:
                return tuple(multiply(k, generator) for k in range(8))
        y += 1


def small_encodings() -> frozenset[bytes]:
    """Every 32 bytes that decode, canonical or not, to a point of small order."""
    ys = {point[1] for point in small_points()}
    spelt = {y + P * k for y in ys for k in (0, 1) if y + P * k < 2**255}
    return frozenset((y | sign << 255).to_bytes(32, "little") for y in spelt for sign in (0, 1))
