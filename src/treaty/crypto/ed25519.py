"""Ed25519: which keys are keys and which signatures hold, whichever library computes.

Two verifiers of one log must never disagree, and libraries do: on points of small order, on a
second spelling of a point or of S, on whether both sides are multiplied by eight first.

Guarantees (docs/spec/formats.md, 3.1 and 3.3):
  * `check_key` refuses what is no canonical encoding of a point of the curve, and small orders.
  * `holds` says yes exactly when the signature has 64 bytes, S is below L, R does not decode to a
    point of small order, and the canonical encoding of SB - hA is R, byte for byte, with
    h = SHA-512(R, A, message) modulo L.
  * All but the equation is decided here. A library computes the equation only after it has
    answered `QUESTIONS`, on which the known ways to compute it differ; otherwise the next one does.

Assumes of `holds` that its key passed `check_key`. A message is copied a few times over: it is
meant for statements, not for blobs. Signing, and the types of keys, are in `keys`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from treaty.errors import FormatError, ResourceError

__all__ = [
    "KEY_BYTES",
    "LIBRARIES",
    "QUESTIONS",
    "SIGNATURE_BYTES",
    "Equation",
    "Question",
    "check_key",
    "first_that_answers",
    "holds",
    "library",
]

KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

Equation = Callable[[bytes, bytes, bytes], bool]
"""Whether R = SB - hA for a key, a message and a signature of the right lengths."""

_P: Final = 2**255 - 19
_L: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_ONE: Final = pow(2, (_P - 1) // 4, _P)
_Y_OF_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022

# The points of small order have y = 1, -1, 0 and that of order 8 with either sign; 0 and 1 are
# spelt a second time with p added, and x = 0 with a sign.
_SMALL_ORDER: Final = frozenset(
    (y | sign << 255).to_bytes(32, "little")
    for y in (0, 1, _P - 1, _P, _P + 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8)
    for sign in (0, 1)
)


def holds(key: bytes, message: bytes, signature: bytes, *, by: Equation | None = None) -> bool:
    """Return whether `signature` is over `message` under the 32 bytes of `key`.

    `by` computes the equation; without it `library` chooses.

    1. The lengths: what a library splits off a longer signature would belong to the message, and
       it reads 32 bytes of a key without asking how many there are.
    2. S below L: S + L would be a second spelling.
    3. R not of small order: some libraries refuse it, and nobody makes it honestly.
    4. The equation.
    """
    if len(key) != KEY_BYTES or len(signature) != SIGNATURE_BYTES:  # 1
        return False
    if int.from_bytes(signature[32:], "little") >= _L:  # 2
        return False
    if signature[:32] in _SMALL_ORDER:  # 3
        return False
    return (by or library())(key, message, signature)  # 4


def _libsodium(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        crypto_sign_open(signature + message, key)
    except BadSignatureError:
        return False
    return True


def _openssl(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


LIBRARIES: Final[Mapping[str, Equation]] = MappingProxyType(
    {"libsodium": _libsodium, "openssl": _openssl}
)
"""Who may compute the equation, the fastest first."""


@dataclass(frozen=True, slots=True)
class Question:
    """A signature with its known answer; the key may have a component of small order."""

    about: str
    key: bytes
    message: bytes
    signature: bytes
    answer: bool


def _question(about: str, key: str, message: bytes, r: str, s: str, *, answer: bool) -> Question:
    return Question(about, bytes.fromhex(key), message, bytes.fromhex(r + s), answer)


_HONEST: Final = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
_MIXED: Final = "1f4f580e73ac208f06760190e9edc6f5916775dabd9c1cdca393175c2d6d1083"

QUESTIONS: Final = (
    _question(
        "an honest signature",
        _HONEST,
        b"0",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23",
        "4b897001208ae8ed2fe02ebe28fa0adc5028fdbc1b3c0f56b4252dfcf6335a06",
        answer=True,
    ),
    _question(
        "R with a component of order 8, unseen once both sides are multiplied by 8",
        _HONEST,
        b"0",
        "186ed2bdbd1a36f6437c5168b0221914018ea4f32a1c3fcd1c1794d64fbd596e",
        "df3ff9de354e0b52cd5899360d152ef0eb0be9aed62187e754e4f185caadc309",
        answer=False,
    ),
    _question(
        "R with a component of order 2",
        _HONEST,
        b"0",
        "3ae4df0afbd9dbdaeb27e4c7cab7426f218d02f4730dc7d577060ad31af894dc",
        "95fff546466118ecf8b00d1f9281df73053cf13d9515f6a7c2bde9d06961f60c",
        answer=False,
    ),
    _question(
        "A with a component of order 8, which h modulo L takes away and h itself does not",
        _MIXED,
        b"6",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23",
        "6e9727707d62a3fb2652cf1ca8b52ea4e8c6151441eada9123e19f931fb7f00a",
        answer=True,
    ),
    _question(
        "A with a component of order 8, which h itself takes away and h modulo L does not",
        _MIXED,
        b"0",
        "b31b20f50426242514d81b383548bd90de72fd0b8cf2382a88f9f52ce5076b23",
        "0f57a01115a7dfe958ba168e8ce1c25c203d511a844d14ddff87a89779990502",
        answer=False,
    ),
    _question(
        "A and R with components that cancel",
        _MIXED,
        b"23",
        "4c261951fba9f4ba7ece40431f212269f58becc2473c54cecda0e8f1e6f9d253",
        "1bca809fbba9611d5f8ab1e2b7700bee08e90760ab74ab7bbb42a9c305560501",
        answer=True,
    ),
)
"""What a library is asked before its answers count."""


def first_that_answers(libraries: Mapping[str, Equation], questions: Sequence[Question]) -> str:
    """Return the name of the first library that answers every question as it should be.

    Raises `ResourceError` when none does.
    """
    for name, equation in libraries.items():
        if all(equation(q.key, q.message, q.signature) == q.answer for q in questions):
            return name
    raise ResourceError(
        f"expected a library that verifies Ed25519 as Treaty does, found none among "
        f"{', '.join(libraries)}: install the pinned versions of PyNaCl and cryptography"
    )


@functools.cache
def library() -> Equation:
    """Return the equation of this process: asked once, at the first signature.

    Raises `ResourceError` when no library answers `QUESTIONS` as it should.
    """
    return LIBRARIES[first_that_answers(LIBRARIES, QUESTIONS)]


@functools.lru_cache(maxsize=4096)
def check_key(raw: bytes) -> None:
    """Raise `FormatError` for 32 bytes that RFC 8032, 5.1.3 refuses, or of small order.

    1. y is below p: a second spelling of a point would be a second key id for one key.
    2. The point is on the curve, and x = 0 carries no sign.
    3. Eight times the point is not the identity: under a small-order key one signature holds
       for many messages.
    """
    number = int.from_bytes(raw, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    if y >= _P:  # 1
        raise FormatError("expected a canonical public key, found y not below 2^255 - 19")
    u, v = (y * y - 1) % _P, (_D * y * y + 1) % _P
    x = u * pow(v, 3, _P) * pow(u * pow(v, 7, _P), (_P - 5) // 8, _P) % _P
    if v * x * x % _P != u:
        x = x * _SQRT_MINUS_ONE % _P
    if v * x * x % _P != u:  # 2
        raise FormatError("expected a public key on the curve, found another number")
    if x == 0 and sign:
        raise FormatError("expected a canonical public key, found a sign on x = 0")
    if raw in _SMALL_ORDER:  # 3
        raise FormatError("expected a public key of large order, found a small-order point")
