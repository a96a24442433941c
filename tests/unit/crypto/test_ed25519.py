"""T-39: one answer to a signature, from the rule, either library and a slow second implementation.

`tests/reference/ed25519_reference.py` was written from the page and says what the rule says; it
builds the keys and signatures on which implementations are known to differ, which
`tests/vectors/v1/signatures.json` freezes with their answers.

Planted and caught, in the product: no check of the length of a signature, of a key, of S, of R; S
compared with <=; six of the fourteen encodings of small order left out; key and message swapped;
a library taken unasked; the message left behind a signature; the seed given out with the public
key behind it; only the first question asked; a library taken that fails a question; each
question's answer turned round. In the reference: eight times both sides; h not reduced.
"""

import json
import random
from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.reference import ed25519_reference as ref
from tests.reference.ed25519_families import FAMILIES, NONCE, PATH, SCALAR, SMALL, encoded
from treaty.crypto import ed25519
from treaty.crypto.ed25519 import LIBRARIES, QUESTIONS
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, ResourceError, VerificationError

VECTORS: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))


def answers(key: bytes, message: bytes, signature: bytes) -> set[bool]:
    """What the reference, the product and both libraries behind the product's checks say."""
    try:
        public = PublicKey(key)
    except FormatError:
        return {ref.verdict(key, message, signature), False}
    found = {ref.verdict(key, message, signature)}
    for equation in LIBRARIES.values():
        found.add(ed25519.holds(key, message, signature, by=equation))
    try:
        public.verify(signature, message)
    except VerificationError as refusal:
        assert refusal.code == "bad-signature"
        return found | {False}
    return found | {True}


# RFC 8032, section 7.1: seed, public key, message, both halves of the signature.
PUBLISHED = {
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155",
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da",
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac",
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}


@pytest.mark.parametrize(
    ("seed", "public", "message", "point", "scalar"), PUBLISHED.values(), ids=PUBLISHED.keys()
)
def test_published_signatures_hold_everywhere(
    seed: str, public: str, message: str, point: str, scalar: str
) -> None:
    """The product and the reference both make and take what RFC 8032 prints."""
    expected = (bytes.fromhex(public), bytes.fromhex(point + scalar))
    key = SigningKey.generate(bytes.fromhex(seed))
    assert (key.public.raw, key.sign(bytes.fromhex(message))) == expected
    assert key.seed_bytes().hex() == seed
    assert ref.sign(bytes.fromhex(seed), bytes.fromhex(message)) == expected
    assert answers(expected[0], bytes.fromhex(message), expected[1]) == {True}


def test_honest_and_damaged_signatures_get_one_answer_from_all() -> None:
    """Random keys and messages; then a flipped bit of the message, the signature or the key."""
    draw = random.Random(8032)
    for _ in range(20):
        key = SigningKey.generate(draw.randbytes(32))
        message = draw.randbytes(draw.choice((0, 1, 31, 200)))
        signature = key.sign(message)
        assert answers(key.public.raw, message, signature) == {True}
        for part in range(3):
            triple = [bytearray(key.public.raw), bytearray(message), bytearray(signature)]
            if triple[part]:
                triple[part][draw.randrange(len(triple[part]))] ^= 1 << draw.randrange(8)
                assert answers(*map(bytes, triple)) == {False}


def test_random_bytes_are_no_signature_for_anyone() -> None:
    """R is then no point half of the time, S below L one time in sixteen."""
    draw = random.Random(8033)
    key = SigningKey.generate(draw.randbytes(32)).public.raw
    for _ in range(25):
        half = draw.randbytes(32)
        assert answers(key, b"message", half + draw.randbytes(32)) == {False}
        below = draw.randrange(ref.L).to_bytes(32, "little")
        assert answers(key, b"message", half + below) == {False}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 65_535, 1_500_000])
def test_a_message_may_have_any_length(size: int) -> None:
    """Nothing, a block of the hash, an entry of the log, more than a mebibyte."""
    message = random.Random(size).randbytes(size)
    key = SigningKey.generate(bytes(32))
    signature = key.sign(message)
    assert signature == Ed25519PrivateKey.from_private_bytes(bytes(32)).sign(message)
    assert answers(key.public.raw, message, signature) == {True}
    assert answers(key.public.raw, message + b"x", signature) == {False}


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 96, 128, 1_000_000])
def test_a_signature_of_another_length_is_refused_by_all(size: int) -> None:
    """It is the peer's doing: the ordinary refusal, from either library."""
    assert answers(SigningKey.generate(bytes(32)).public.raw, b"message", bytes(size)) == {False}


@pytest.mark.parametrize("cut", range(1, 8))
def test_bytes_do_not_move_between_signature_and_message(cut: int) -> None:
    """A library that reads both as one would take the end of a signature for the message."""
    key = SigningKey.generate(bytes(32))
    whole = key.sign(b"a message") + b"a message"
    assert LIBRARIES["libsodium"](key.public.raw, whole[64 + cut :], whole[: 64 + cut])
    assert answers(key.public.raw, whole[64 + cut :], whole[: 64 + cut]) == {False}
    assert answers(key.public.raw, whole[64 - cut :], whole[: 64 - cut]) == {False}


@pytest.mark.parametrize("size", [0, 31, 33])
def test_no_library_sees_a_key_of_another_length(size: int) -> None:
    """It would read 32 bytes wherever they end."""

    def never(*_: bytes) -> bool:
        raise AssertionError("a library was asked")

    signature = SigningKey.generate(bytes(32)).sign(b"message")
    assert not ed25519.holds(bytes(size), b"message", signature, by=never)


@pytest.mark.parametrize("times", range(1, 8))
def test_s_is_below_the_order_before_any_library_is_asked(times: int) -> None:
    """S + kL is another spelling; the greatest S below L is not refused for its size."""
    key, signature = ref.forge(SCALAR, NONCE, b"message")
    scalar = int.from_bytes(signature[32:], "little")
    respelt = signature[:32] + (scalar + times * ref.L).to_bytes(32, "little")
    assert answers(key, b"message", respelt) == {False}
    for number, asked in ((ref.L - 1, True), (ref.L, False), (ref.L + 1, False)):
        spelt = signature[:32] + number.to_bytes(32, "little")
        assert ed25519.holds(key, b"message", spelt, by=lambda *_: True) is asked


def test_there_are_fourteen_spellings_of_small_order() -> None:
    """Those of the reference, from its own arithmetic, are refused as keys and as R."""
    spellings = ref.small_encodings()
    assert len(spellings) == 14
    for raw in spellings:
        with pytest.raises(FormatError):
            PublicKey(raw)
        key, signature = ref.forge(SCALAR, 0, b"message", spelling=raw)
        assert signature[:32] == raw
        assert answers(key, b"message", signature) == {False}
        assert not ed25519.holds(key, b"message", signature, by=lambda *_: True)


def test_one_library_takes_an_r_of_small_order_and_the_other_does_not() -> None:
    """Why the check is ours: without it two verifiers would disagree over these."""
    taken: Counter[str] = Counter()
    for point in SMALL:
        for number in range(8):
            message = b"%d" % number
            key, signature = ref.forge(SCALAR, 0, message, spelling=ref.encode(point))
            for name, equation in LIBRARIES.items():
                taken[name] += equation(key, message, signature)
    assert taken["openssl"] > 0
    assert taken["libsodium"] == 0


@pytest.mark.parametrize("sign", [0, 1])
def test_a_key_with_y_above_p_is_none_for_anyone(sign: int) -> None:
    """All 19 second spellings with either sign, those on the curve and the others."""
    for excess in range(19):
        raw = (ref.P + excess | sign << 255).to_bytes(32, "little")
        assert not ref.is_key(raw)
        with pytest.raises(FormatError):
            PublicKey(raw)


def test_exactly_the_keys_of_the_reference_are_keys() -> None:
    """Random bytes, small numbers and keys with a component of small order."""
    draw = random.Random(8034)
    candidates = [draw.randbytes(32) for _ in range(80)]
    candidates += [n.to_bytes(32, "little") for n in range(40)]
    candidates += [
        ref.encode(ref.add(ref.multiply(SCALAR, ref.BASE), component)) for component in SMALL
    ]
    kinds = Counter()
    for raw in candidates:
        try:
            PublicKey(raw)
        except FormatError:
            assert not ref.is_key(raw)
            kinds["none"] += 1
        else:
            assert ref.is_key(raw)
            kinds["key"] += 1
    assert min(kinds["none"], kinds["key"]) > 30


def test_components_of_small_order_get_one_answer_from_all() -> None:
    """Every component beside the key with every one beside R: accepted exactly when they cancel.

    Eight times both sides would take all of them, the hash unreduced others.
    """
    kinds: Counter[tuple[bool, bool]] = Counter()
    for beside_key in SMALL:
        for beside_nonce in SMALL:
            key, signature = ref.forge(
                SCALAR, NONCE, b"message", beside_key=beside_key, beside_nonce=beside_nonce
            )
            said = answers(key, b"message", signature)
            assert len(said) == 1
            assert ref.cofactored(key, b"message", signature)
            kinds[said.pop(), ref.unreduced(key, b"message", signature)] += 1
    assert min(kinds[True, False], kinds[False, True]) > 1
    assert kinds[False, False] > 30


def test_the_frozen_answers_are_made_again_by_the_reference() -> None:
    """Twelve families, all small orders as key and as R, and what else the rule says."""
    assert encoded() == PATH.read_text(encoding="utf-8")
    assert len(FAMILIES) == 12
    assert len(VECTORS) == 12 + 4 + 2 * 14


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["about"])
def test_known_disagreements_have_one_answer(row: dict[str, Any]) -> None:
    """Implementations in use differ on many; the rule, its libraries and the page do not."""
    triple = (bytes.fromhex(row[name]) for name in ("public_key", "message", "signature"))
    assert answers(*triple) == {row["holds"]}


def test_the_questions_are_what_they_say() -> None:
    """Every answer is the reference's; the two other ways to compute fail more than one."""
    assert [ref.verdict(q.key, q.message, q.signature) for q in QUESTIONS] == [
        q.answer for q in QUESTIONS
    ]
    for other in (ref.cofactored, ref.unreduced):
        wrong = [q for q in QUESTIONS if other(q.key, q.message, q.signature) != q.answer]
        assert len(wrong) >= 2
    for question in QUESTIONS:
        assert ref.is_key(question.key)
        assert question.signature[:32] not in ref.small_encodings()
        assert int.from_bytes(question.signature[32:], "little") < ref.L


def _refuses_components(key: bytes, message: bytes, signature: bytes) -> bool:
    """A library that takes no key beside the subgroup of large order."""
    point = ref.point_of(key)
    assert point is not None
    return ref.multiply(ref.L, point) == ref.NEUTRAL and ref.verdict(key, message, signature)


IMPOSTORS: dict[str, ed25519.Equation] = {
    "says yes": lambda *_: True,
    "says no": lambda *_: False,
    "multiplies by eight": ref.cofactored,
    "does not reduce the hash": ref.unreduced,
    "refuses mixed keys": _refuses_components,
}


@pytest.mark.parametrize("impostor", IMPOSTORS.values(), ids=IMPOSTORS.keys())
def test_a_library_that_answers_otherwise_is_not_used(impostor: ed25519.Equation) -> None:
    """The next one is; without a next one there is no verification at all."""
    chosen = ed25519.first_that_answers({"impostor": impostor, "right": ref.verdict}, QUESTIONS)
    assert chosen == "right"
    with pytest.raises(ResourceError, match="among impostor"):
        ed25519.first_that_answers({"impostor": impostor}, QUESTIONS)


def test_both_libraries_answer_and_the_first_is_used() -> None:
    """Each alone would do; the fast one is taken."""
    for name, equation in LIBRARIES.items():
        assert ed25519.first_that_answers({name: equation}, QUESTIONS) == name
    assert list(LIBRARIES) == ["libsodium", "openssl"]
    assert ed25519.library() is LIBRARIES["libsodium"]
