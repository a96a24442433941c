"""Keys: no second spelling of a key or a signature, and files that keep their secret.

Planted and caught: the check of y against p left out, the points of order 8 missing from the
small orders, the sign on x = 0 accepted, the public key of a key file not compared with the seed,
the length of hexadecimal text not asked.
"""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from treaty.crypto.keys import (
    KeyFile,
    PublicKey,
    SigningKey,
    decode_key_file,
    encode_key_file,
)
from treaty.errors import FormatError, UsageError, VerificationError

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493

# The eight points whose order divides 8.
SMALL_ORDER = (
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
)


def _key(number: int) -> SigningKey:
    return SigningKey.generate(random.Random(number).randbytes(32))


def test_every_bit_of_a_signature_counts() -> None:
    """No flip of one bit of the signature verifies."""
    key = _key(1)
    signature = bytearray(key.sign(b"message"))
    for bit in range(512):
        signature[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerificationError) as refusal:
            key.public.verify(bytes(signature), b"message")
        assert refusal.value.code == "bad-signature"
        signature[bit // 8] ^= 1 << bit % 8
    key.public.verify(bytes(signature), b"message")


@pytest.mark.parametrize("times", range(1, 8))
def test_a_signature_cannot_be_respelt(times: int) -> None:
    """S + kL is the same number modulo L and another signature: refused."""
    for number in range(20):
        key = _key(number)
        signature = key.sign(b"message")
        scalar = int.from_bytes(signature[32:], "little") + times * L
        with pytest.raises(VerificationError):
            key.public.verify(signature[:32] + scalar.to_bytes(32, "little"), b"message")


@pytest.mark.parametrize("size", [0, 1, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    """A length is never UsageError: it is the peer's doing."""
    with pytest.raises(VerificationError):
        _key(1).public.verify(bytes(size), b"message")


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_no_keys(point: str) -> None:
    """Under such a key one signature could hold for every message."""
    with pytest.raises(FormatError):
        PublicKey.from_hex(point)


def test_a_signature_under_a_small_order_key_would_verify() -> None:
    """Why the check is ours: the library accepts the key and an all-zero scalar under it."""
    identity = bytes.fromhex(SMALL_ORDER[0])
    Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), b"any message")


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("excess", range(19))
def test_y_at_or_above_p_is_no_key(excess: int, sign: int) -> None:
    """All 38 second spellings of 32 bytes are refused."""
    raw = (P + excess + (sign << 255)).to_bytes(32, "little")
    with pytest.raises(FormatError, match="not below"):
        PublicKey(raw)


@pytest.mark.parametrize("y", [1, P - 1])
def test_a_sign_on_x_zero_is_no_key(y: int) -> None:
    """RFC 8032, 5.1.3, step 4."""
    with pytest.raises(FormatError, match="sign on x"):
        PublicKey((y + (1 << 255)).to_bytes(32, "little"))


def test_exactly_the_points_of_the_curve_are_keys() -> None:
    """For small y, accepted if and only if x^2 = (y^2 - 1) / (d y^2 + 1) has a root."""
    d = -121665 * pow(121666, -1, P) % P
    accepted = 0
    for y in range(2, 200):
        square = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        on_curve = pow(square, (P - 1) // 2, P) == 1
        try:
            PublicKey(y.to_bytes(32, "little"))
        except FormatError:
            assert not on_curve
        else:
            assert on_curve
            accepted += 1
    assert 60 < accepted < 140


def test_every_generated_key_is_accepted() -> None:
    """The checks refuse no honest key."""
    for number in range(300):
        public = _key(number).public
        assert PublicKey(public.raw) == public
        assert PublicKey.from_hex(public.hex).keyid == public.keyid


@pytest.mark.parametrize(
    "text",
    ["", "00", "0" * 63, "D75A980182B10AB7D54BFED3C964073A0EE172F3DAA62325AF021A68F707511A"[:64]],
)
def test_other_hex_is_refused(text: str) -> None:
    """Upper case is a second spelling."""
    with pytest.raises(FormatError):
        PublicKey.from_hex(text)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_lengths_are_checked_on_both_sides(size: int) -> None:
    """A peer's key is FormatError, our own seed UsageError."""
    with pytest.raises(FormatError):
        PublicKey(bytes(size))
    with pytest.raises(UsageError):
        SigningKey.generate(bytes(size))


def test_keys_compare_by_value() -> None:
    """Equal keys are one entry of a set; another type is not equal."""
    assert len({_key(1).public, _key(1).public, _key(2).public}) == 2
    assert _key(1).public != _key(1).public.raw


def test_a_secret_never_shows() -> None:
    """Neither the key nor its file's contents print the seed."""
    key = _key(1)
    seed = key.seed_bytes()
    for shown in (repr(key), str(key), f"{key!r}", repr(KeyFile("runner", key))):
        assert seed.hex() not in shown
        assert repr(seed) not in shown


def test_a_key_file_round_trips() -> None:
    """Role and key come back; the bytes are the same each time."""
    key = _key(1)
    data = encode_key_file("runner", key)
    back = decode_key_file(data)
    assert (back.role, back.key.public) == ("runner", key.public)
    assert encode_key_file(back.role, back.key) == data


def test_a_role_is_a_plain_name() -> None:
    """Free text does not enter a key file."""
    with pytest.raises(UsageError, match="plain name"):
        encode_key_file("the runner", _key(1))


def test_a_damaged_key_file_is_refused_and_keeps_its_secret() -> None:
    """No flipped bit gives another identity, and no refusal prints the seed."""
    data = bytearray(encode_key_file("runner", _key(1)))
    seed = _key(1).seed_bytes().hex()
    role = range(data.index(b"runner"), data.index(b"runner") + 6)
    for bit in range(8 * len(data)):
        if bit // 8 in role:
            continue
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError) as refusal:
            decode_key_file(bytes(data))
        assert seed[:16] not in str(refusal.value)
        data[bit // 8] ^= 1 << bit % 8
    assert decode_key_file(bytes(data)).role == "runner"


def test_a_key_file_with_another_public_key_is_refused() -> None:
    """Two files pasted together are not a third identity."""
    mixed = encode_key_file("runner", _key(1)).replace(
        _key(1).public.hex.encode(), _key(2).public.hex.encode()
    )
    with pytest.raises(FormatError, match="public key of the seed"):
        decode_key_file(mixed)
