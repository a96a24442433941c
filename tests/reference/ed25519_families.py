"""The twelve families of signatures over which implementations of Ed25519 differ, with answers.

Chalkias, Garillot, Nikolaenko (2020), "Taming the many EdDSAs", name them; they are made here from
the arithmetic of `ed25519_reference`, each with the first message that fits. With what else the
rule says they are tests/vectors/v1/signatures.json: ``python -m tests.reference.ed25519_families``
writes it; regenerating changes nothing, and a test says so.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.reference import ed25519_reference as ref

PATH = Path(__file__).parents[1] / "vectors" / "v1" / "signatures.json"

Triple = tuple[bytes, bytes, bytes]
"""Key, message, signature."""

SCALAR = int.from_bytes(hashlib.sha512(b"scalar").digest(), "little") % ref.L
NONCE = int.from_bytes(hashlib.sha512(b"nonce").digest(), "little") % ref.L
SMALL = ref.small_points()
ORDER_8 = SMALL[1]


def first(wanted: Callable[[bytes, bytes, bytes], bool], **beside: ref.Point) -> Triple:
    """The first forged triple, message after message, of which `wanted` holds."""
    for number in range(400):
        message = b"%d" % number
        key, signature = ref.forge(SCALAR, NONCE, message, **beside)
        if wanted(key, message, signature):
            return key, message, signature
    raise AssertionError("none of 400 messages fits")


def _small_key(message: bytes, nonce: int, beside_nonce: ref.Point) -> Triple:
    """Under a key of order 8: S is the nonce, whatever the message."""
    key, r = ref.encode(ORDER_8), ref.add(ref.multiply(nonce, ref.BASE), beside_nonce)
    return key, message, ref.encode(r) + nonce.to_bytes(32, "little")


def _found(make: Callable[[bytes], Triple]) -> Triple:
    """The first of them that the equation without any check would take."""
    for number in range(400):
        key, message, signature = make(b"%d" % number)
        r = ref.point_of(signature[:32])
        a = ref.point_of(key)
        assert a is not None
        assert r is not None
        h = ref.challenge(signature[:32], key, message) % ref.L
        s = int.from_bytes(signature[32:], "little")
        if ref.multiply(s, ref.BASE) == ref.add(r, ref.multiply(h, a)):
            return key, message, signature
    raise AssertionError("none of 400 messages fits")


def _with_s(triple: Triple, add: int) -> Triple:
    key, message, signature = triple
    s = int.from_bytes(signature[32:], "little") + add
    return key, message, signature[:32] + s.to_bytes(32, "little")


def _respelt(point: bytes, *, hashed_respelt: bool) -> Triple:
    """A mixed key with R of small order in a second spelling, hashed as it stands or put right."""
    right = ref.encode(ref.point_of(point) or ref.NEUTRAL)

    def make(message: bytes) -> Triple:
        hashed = point if hashed_respelt else right
        key, signature = ref.forge(SCALAR, 0, message, beside_key=ORDER_8, spelling=hashed)
        return key, message, point + signature[32:]

    return make(b"message")


def _respelt_key(*, hashed_respelt: bool) -> Triple:
    """The key -1 with a sign on x = 0; it holds when hashed as it stands, or when put right."""
    respelt = (ref.P - 1 | 1 << 255).to_bytes(32, "little")
    right = (ref.P - 1).to_bytes(32, "little")
    r = ref.encode(ref.add(ref.multiply(NONCE, ref.BASE), SMALL[4]))
    for number in range(100):
        message = b"%d" % number
        # The point has order 2: an odd challenge takes it away from R, an even one does not.
        odd = [ref.challenge(r, key, message) % ref.L % 2 == 1 for key in (respelt, right)]
        if odd == [hashed_respelt, not hashed_respelt]:
            return respelt, message, r + NONCE.to_bytes(32, "little")
    raise AssertionError("none of 100 messages fits")


_HONEST = first(ref.verdict)
_SECOND_ONE = (ref.P + 1).to_bytes(32, "little")

# The twelve families in their order: key / R / what is odd, and what the rule says.
FAMILIES: dict[str, tuple[Triple, bool]] = {
    "0: small / small / S = 0": (_found(lambda m: _small_key(m, 0, SMALL[7])), False),
    "1: small / mixed": (_found(lambda m: _small_key(m, NONCE, SMALL[3])), False),
    "2: mixed / small": (
        _found(
            lambda m: (
                (forged := ref.forge(SCALAR, 0, m, beside_key=ORDER_8, beside_nonce=SMALL[5]))[0],
                m,
                forged[1],
            )
        ),
        False,
    ),
    "3: mixed / mixed / components cancel": (
        first(ref.verdict, beside_key=ORDER_8, beside_nonce=SMALL[3]),
        True,
    ),
    "4: mixed / mixed / only times eight": (
        first(lambda *t: not ref.verdict(*t), beside_key=ORDER_8, beside_nonce=SMALL[3]),
        False,
    ),
    "5: mixed / large / only times eight": (
        first(lambda *t: not ref.verdict(*t), beside_key=ORDER_8),
        False,
    ),
    "6: large / large / S above L": (_with_s(_HONEST, ref.L), False),
    "7: large / large / S far above L": (_with_s(_HONEST, 14 * ref.L), False),
    "8: mixed / second spelling of small": (_respelt(_SECOND_ONE, hashed_respelt=True), False),
    "9: the same, hashed as the first": (_respelt(_SECOND_ONE, hashed_respelt=False), False),
    "10: second spelling of small / mixed": (_respelt_key(hashed_respelt=True), False),
    "11: the same, hashed as the first": (_respelt_key(hashed_respelt=False), False),
}


def _nonce_alone(key: bytes, message: bytes) -> Triple:
    """Under a key of small order, for a message whose hash takes the key away."""
    r = ref.encode(ref.multiply(NONCE, ref.BASE))
    return key, message, r + NONCE.to_bytes(32, "little")


def further() -> dict[str, tuple[Triple, bool]]:
    """What the rule says beside the families: honest, respelt, and R of each small order."""
    honest = first(ref.verdict)
    key, message, signature = honest
    cases = {
        "honest": (honest, True),
        "another message": ((key, b"another", signature), False),
        "a byte of the message behind the signature": (
            (key, message[1:], signature + message[:1]),
            False,
        ),
        "S = L - 1": ((key, message, signature[:32] + (ref.L - 1).to_bytes(32, "little")), False),
    }
    for raw in sorted(ref.small_encodings()):
        forged = ref.forge(SCALAR, 0, message, spelling=raw)
        cases[f"R of small order: {raw.hex()}"] = ((forged[0], message, forged[1]), False)
        cases[f"key of small order: {raw.hex()}"] = (_found(partial(_nonce_alone, raw)), False)
    return cases


def encoded() -> str:
    """The whole file."""
    rows = [
        {
            "about": about,
            "public_key": key.hex(),
            "message": message.hex(),
            "signature": signature.hex(),
            "holds": expected,
        }
        for about, ((key, message, signature), expected) in (FAMILIES | further()).items()
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(encoded(), encoding="utf-8")
