"""Key agreement, sealing and commitments against published answers and planted misuse.

Planted and caught: the canonical check of X25519 keys left out, the ciphertext left out of
`combine`, a low-order key left off the list or not looked for by `exchange`, associated data not
authenticated, the label left out of a commitment.
"""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from treaty.crypto import commitment, sealing
from treaty.crypto.key_agreement import (
    KEM_CIPHERTEXT_BYTES,
    KEM_PUBLIC_KEY_BYTES,
    AgreementKey,
    EncapsulationKey,
    check_agreement_key,
    check_encapsulation_key,
    combine,
    encapsulate,
)
from treaty.errors import FormatError, UsageError, VerificationError

P = 2**255 - 19

# RFC 7748, section 6.1.
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# The canonical points of low order on the curve and its twist.
LOW_ORDER = {
    "zero": 0,
    "one": 1,
    "order 8, first": 0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    "order 8, second": 0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    "minus one": P - 1,
}


def _bytes(number: int, size: int = 32) -> bytes:
    return random.Random(number).randbytes(size)


def test_both_sides_agree_on_the_published_secret() -> None:
    """RFC 7748, section 6.1."""
    alice = AgreementKey.generate(bytes.fromhex(ALICE))
    bob = AgreementKey.generate(bytes.fromhex(BOB))
    assert (alice.public.hex(), bob.public.hex()) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.exchange(bob.public).hex() == bob.exchange(alice.public).hex() == SHARED


def test_two_libraries_agree_on_keys_and_secrets() -> None:
    """Keys, and secrets with any u below p: points of the curve and of its twist alike."""
    draw = random.Random(7748)
    for _ in range(50):
        seed, peer = draw.randbytes(32), draw.randrange(2, P - 1).to_bytes(32, "little")
        ours, other = AgreementKey.generate(seed), X25519PrivateKey.from_private_bytes(seed)
        assert ours.public == other.public_key().public_bytes_raw()
        assert ours.exchange(peer) == other.exchange(X25519PublicKey.from_public_bytes(peer))
        assert ours.seed_bytes() == seed


@pytest.mark.parametrize("u", LOW_ORDER.values(), ids=LOW_ORDER.keys())
def test_low_order_keys_are_refused(u: int) -> None:
    """Their secret is known to everybody."""
    public = u.to_bytes(32, "little")
    for check in (AgreementKey.generate(_bytes(1)).exchange, check_agreement_key):
        with pytest.raises(VerificationError) as refusal:
            check(public)
        assert refusal.value.code == "low-order-key"


def test_no_other_key_has_low_order() -> None:
    """Doubling backwards from infinity: to 0, to 1 and -1, and to what doubles to those.

    u(2Q) = (u^2 - 1)^2 / (4 u (u^2 + A u + 1)), on the curve and its twist (RFC 7748, A = 486662).
    """
    curve = 486662
    assert pow(curve * curve - 4, (P - 1) // 2, P) == P - 1  # only u = 0 doubles to infinity
    found = {0, 1, P - 1}
    for double in (1, P - 1):
        # (u^2 - 1)^2 - 4 v u (u^2 + A u + 1), from the constant up: what doubles to v.
        quartic = [1, -4 * double % P, (-2 - 4 * double * curve) % P, -4 * double % P, 1]
        roots = {u for u in LOW_ORDER.values() if _value(quartic, u) == 0}
        assert len(roots) == _number_of_roots(quartic)
        found |= roots
    assert found == set(LOW_ORDER.values())


def _value(polynomial: list[int], at: int) -> int:
    return sum(one * pow(at, power, P) for power, one in enumerate(polynomial)) % P


def _remainder(dividend: list[int], divisor: list[int]) -> list[int]:
    rest, inverse = list(dividend), pow(divisor[-1], -1, P)
    while len(rest) >= len(divisor):
        factor, shift = rest[-1] * inverse % P, len(rest) - len(divisor)
        for place, one in enumerate(divisor):
            rest[shift + place] = (rest[shift + place] - factor * one) % P
        while rest and rest[-1] == 0:
            rest.pop()
    return rest


def _product(first: list[int], second: list[int], modulus: list[int]) -> list[int]:
    product = [0] * (len(first) + len(second) - 1)
    for i, one in enumerate(first):
        for j, other in enumerate(second):
            product[i + j] = (product[i + j] + one * other) % P
    return _remainder(product, modulus)


def _number_of_roots(polynomial: list[int]) -> int:
    """Return the degree of gcd(x^p - x, polynomial): its distinct roots modulo p."""
    power = [1]
    for bit in bin(P)[2:]:
        power = _product(power, power, polynomial)
        if bit == "1":
            power = _product(power, [0, 1], polynomial)
    power += [0] * (2 - len(power))
    power[1] = (power[1] - 1) % P
    while power and power[-1] == 0:
        power.pop()
    first, second = polynomial, power
    while second:
        first, second = second, _remainder(first, second)
    return len(first) - 1


@pytest.mark.parametrize("u", [P, P + 1, P + 9, 2**255 - 1, 2**255 + 9, 2**256 - 1])
def test_second_spellings_of_agreement_keys_are_refused(u: int) -> None:
    """X25519 reduces u and drops its top bit; a roster wants one spelling."""
    for check in (AgreementKey.generate(_bytes(1)).exchange, check_agreement_key):
        with pytest.raises(FormatError, match="canonical"):
            check(u.to_bytes(32, "little"))


def test_lengths_of_agreement_keys_are_checked() -> None:
    """A peer's length is FormatError, our own seed UsageError."""
    with pytest.raises(FormatError):
        AgreementKey.generate(_bytes(1)).exchange(bytes(31))
    with pytest.raises(UsageError):
        AgreementKey.generate(bytes(33))
    with pytest.raises(UsageError):
        EncapsulationKey.generate(bytes(32))


def test_honest_keys_pass_the_roster_check() -> None:
    """The checks refuse no honest key."""
    for number in range(100):
        check_agreement_key(AgreementKey.generate(_bytes(number)).public)
    check_encapsulation_key(EncapsulationKey.generate(_bytes(1, 64)).public)


def test_an_encapsulated_secret_is_decapsulated() -> None:
    """Sizes are those of FIPS 203 for ML-KEM-768; the key follows from its seed."""
    key = EncapsulationKey.generate(_bytes(1, 64))
    assert EncapsulationKey.generate(key.seed_bytes()).public == key.public
    secret, ciphertext = encapsulate(key.public)
    assert (len(key.public), len(ciphertext)) == (KEM_PUBLIC_KEY_BYTES, KEM_CIPHERTEXT_BYTES)
    assert key.decapsulate(ciphertext) == secret


def test_a_changed_ciphertext_gives_another_secret() -> None:
    """Implicit rejection: no error tells an attacker anything."""
    key = EncapsulationKey.generate(_bytes(1, 64))
    secret, ciphertext = encapsulate(key.public)
    changed = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert key.decapsulate(changed) != secret
    with pytest.raises(FormatError):
        key.decapsulate(ciphertext[:-1])


@pytest.mark.parametrize(
    ("public", "why"),
    [(b"", "1184 bytes, got 0"), (bytes(1183), "got 1183"), (b"\xff" * 1184, "a valid ML-KEM")],
)
def test_invalid_encapsulation_keys_are_refused(public: bytes, why: str) -> None:
    """Wrong length, or coefficients at or above q (FIPS 203, 7.2)."""
    for check in (check_encapsulation_key, encapsulate):
        with pytest.raises(FormatError, match=why):
            check(public)


def test_the_hybrid_secret_depends_on_everything() -> None:
    """Changing any one input changes the secret, so neither half can be swapped unnoticed."""
    parts = [_bytes(number) for number in range(6)]

    def combined(values: list[bytes]) -> bytes:
        return combine(
            values[0],
            values[1],
            ciphertext=values[2],
            kem_public=values[3],
            public_low=values[4],
            public_high=values[5],
        )

    results = {combined(parts)}
    for place in range(6):
        results.add(combined([*parts[:place], _bytes(99), *parts[place + 1 :]]))
    results.add(combined([parts[1], parts[0], *parts[2:]]))
    results.add(combined([*parts[:4], parts[5], parts[4]]))
    assert len(results) == 9


def test_secrets_never_show() -> None:
    """Private keys print their type."""
    assert repr(AgreementKey.generate(_bytes(1))) == "AgreementKey"
    assert repr(EncapsulationKey.generate(_bytes(1, 64))) == "EncapsulationKey"


def test_sealing_gives_the_published_ciphertexts() -> None:
    """Test cases 13 and 14 of the GCM specification (McGrew and Viega)."""
    assert sealing.seal(bytes(32), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    sealed = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert sealing.seal(bytes(32), bytes(16), b"").hex() == sealed
    assert sealing.open_sealed(bytes(32), bytes.fromhex(sealed), b"") == bytes(16)


def test_sealed_bytes_open_only_as_they_were_sealed() -> None:
    """Every bit of text, key and context counts."""
    key, context = _bytes(1), b"epoch 1, slot 2"
    sealed = sealing.seal(key, b"share", context)
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerificationError) as refusal:
            sealing.open_sealed(key, bytes(changed), context)
        assert refusal.value.code == "does-not-open"
    for other_key, other_context in ((_bytes(2), context), (key, b"epoch 1, slot 3"), (key, b"")):
        with pytest.raises(VerificationError):
            sealing.open_sealed(other_key, sealed, other_context)
    assert sealing.open_sealed(key, sealed, context) == b"share"


def test_sealing_names_who_is_at_fault() -> None:
    """A short message is the peer's, a wrong key length ours."""
    with pytest.raises(FormatError):
        sealing.open_sealed(bytes(32), bytes(15), b"")
    with pytest.raises(UsageError):
        sealing.seal(bytes(16), b"", b"")


def test_a_commitment_opens_only_with_its_salt_value_and_label() -> None:
    """Binding and separated by label; moving a byte from value to label changes it."""
    salt = _bytes(1)
    made = commitment.commit("rows", salt, b"42")
    commitment.verify_opening(made, "rows", salt, b"42")
    for label, other_salt, value in (
        ("rows", salt, b"43"),
        ("rows", _bytes(2), b"42"),
        ("patients", salt, b"42"),
        ("rows4", salt, b"2"),
    ):
        with pytest.raises(VerificationError) as refusal:
            commitment.verify_opening(made, label, other_salt, value)
        assert refusal.value.code == "not-opened"


def test_a_salt_has_32_bytes() -> None:
    """Ours is UsageError, a peer's FormatError."""
    with pytest.raises(UsageError):
        commitment.commit("rows", bytes(31), b"42")
    with pytest.raises(FormatError):
        commitment.verify_opening(commitment.commit("rows", bytes(32), b""), "rows", b"", b"")
