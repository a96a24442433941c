"""nkeys, nonces and certificate pins.

Planted and caught: the prefix of an account, with its own checksum too, tags passed over, the
checksum in the other byte order or unchecked, a nonce of any bytes signed, the pin taken over the
whole certificate, a certificate of an authority; a reader of certificates that takes the first
element with a key's tag, skips no version, takes lengths with a leading zero, lengths below 128 in
the long form or indefinite ones, lets the key reach beyond the body or (two checks taken out) the
body beyond the certificate, or takes something behind it.
"""

import base64
import binascii
import hashlib
import random
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from treaty.crypto import envelope
from treaty.crypto.keys import SigningKey
from treaty.crypto.transport_keys import (
    answer_nonce,
    certificate_pin,
    key_of_nkey,
    nkey_of,
    private_key_pem,
    self_signed_pem,
)
from treaty.errors import FormatError, VerificationError
from treaty.ids import Timestamp

KEY = SigningKey(b"\x07" * 32)
NOW = Timestamp(1_764_000_000_000)

# The example of the NATS documentation on nkey authentication.
PUBLISHED_SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
PUBLISHED_NKEY = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"


def der_of(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_the_published_example_is_reproduced() -> None:
    padded = PUBLISHED_SEED + "=" * (-len(PUBLISHED_SEED) % 8)
    key = SigningKey(base64.b32decode(padded)[2:34])
    assert nkey_of(key.public) == PUBLISHED_NKEY
    assert key_of_nkey(PUBLISHED_NKEY) == key.public


@pytest.mark.parametrize(
    "text",
    [
        "",
        PUBLISHED_NKEY[:-1],
        PUBLISHED_NKEY.lower(),
        PUBLISHED_NKEY[:-8] + "AAAAAAAA",
        PUBLISHED_NKEY[:20] + "A" + PUBLISHED_NKEY[21:],
        # The same key as an account's.
        "A" + PUBLISHED_NKEY[1:],
        "é" * 56,
    ],
)
def test_anything_else_is_no_nkey(text: str) -> None:
    with pytest.raises(FormatError):
        key_of_nkey(text)


@pytest.mark.parametrize("prefix", [0, 2, 18, 19, 21])
def test_the_nkey_of_no_user_is_refused_although_its_checksum_holds(prefix: int) -> None:
    """Accounts, operators, servers: the same key in another place."""
    body = bytes([prefix << 3]) + KEY.public.raw
    text = base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode()
    with pytest.raises(FormatError, match="nkey of a user"):
        key_of_nkey(text)


def test_a_nonce_is_answered_with_a_signature_that_verifies() -> None:
    nonce = b"PXoWU7zWAMt75FY"
    answer = answer_nonce(KEY, nonce)
    KEY.public.verify(base64.urlsafe_b64decode(answer + b"=="), nonce)


@pytest.mark.parametrize("nonce", [b"", b"a" * 65, b"with space", b"line\n", b"\x00", b"nonce\n"])
def test_a_transport_key_signs_nothing_but_a_nonce(nonce: bytes) -> None:
    """Least of all what statements sign."""
    with pytest.raises(VerificationError) as refused:
        answer_nonce(KEY, nonce)
    assert refused.value.code == "odd-nonce"
    statement = envelope.pae("application/vnd.in-toto+json", b"{}")[:64]
    with pytest.raises(VerificationError):
        answer_nonce(KEY, statement)


def test_the_pin_of_a_certificate_is_the_id_of_its_key_whatever_else_it_says() -> None:
    pins = {
        certificate_pin(der_of(self_signed_pem(KEY, name, at)))
        for name, at in (("a.example", NOW), ("b.example", Timestamp(NOW + 10**10)))
    }
    assert pins == {KEY.public.keyid}
    assert certificate_pin(der_of(self_signed_pem(SigningKey(b"o" * 32), "a.example", NOW))) != (
        KEY.public.keyid
    )


def foreign_certificates() -> list[bytes]:
    """Certificates as others make them: other keys, long names, many extensions."""
    found = []
    for private in (
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(public_exponent=65537, key_size=2048),
    ):
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "o" * 60)] * 3)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(7)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2060, 1, 1, tzinfo=UTC))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("a" * 60)] * 9), False)
        )
        found.append(builder.sign(private, hashes.SHA256()).public_bytes(Encoding.DER))
    return found


def pin_by_the_library(der: bytes) -> str:
    """The same by another reader of certificates."""
    key = x509.load_der_x509_certificate(der).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def test_the_pin_is_of_the_key_that_another_reader_finds() -> None:
    ours = der_of(self_signed_pem(KEY, "a" * 64, NOW))
    for der in (ours, *foreign_certificates()):
        assert certificate_pin(der) == pin_by_the_library(der)


def test_no_altered_certificate_has_two_keys() -> None:
    """Whatever the TLS library would take for the key is what is compared with the pin, or none."""
    draw = random.Random(11)
    compared = refused = 0
    for der in (der_of(self_signed_pem(KEY, "a.example", NOW)), foreign_certificates()[0]):
        for _ in range(4000):
            changed = bytearray(der)
            for _ in range(draw.choice((1, 1, 2, 4))):
                place = draw.randrange(len(der) if draw.random() < 0.3 else 120)
                changed[place] = draw.choice((0, 1, 2, 0x30, 0x7F, 0x80, 0x81, 0x82, 0xA0, 0xFF))
            if draw.random() < 0.3:
                at = draw.randrange(150)
                changed[at:at] = draw.randbytes(draw.choice((1, 2, 3)))
            try:
                ours = certificate_pin(bytes(changed))
            except FormatError:
                refused += 1
                continue
            try:
                theirs = pin_by_the_library(bytes(changed))
            except Exception:  # noqa: BLE001 - whatever the library refuses has no key
                continue
            compared += 1
            assert ours == theirs
    assert compared > 500 and refused > 500


@pytest.mark.parametrize(
    "change",
    [
        lambda der: der + b"\x00",
        lambda der: der[:-1],
        # Lengths that are not as short as they can be, or none at all.
        lambda der: der[:1] + b"\x83\x00" + der[2:],
        lambda der: der[:1] + b"\x80" + der[4:] + b"\x00\x00",
        lambda der: der[:2] + bytes([der[2] + 1]) + der[3:],
    ],
    ids=["something behind", "cut off", "long length", "no length", "too long"],
)
def test_a_certificate_that_is_not_der_has_no_pin(change: Callable[[bytes], bytes]) -> None:
    der = foreign_certificates()[0]
    assert der[1] == 0x82
    with pytest.raises(FormatError):
        certificate_pin(change(der))


def smallest(serial: bytes = b"\x02\x01\x01", info: bytes = b"", behind: bytes = b"") -> bytes:
    """Return the least that has a certificate's structure, all of it shorter than 128 bytes."""
    inner = serial + b"\x30\x00" * 4 + info
    body = b"\x30" + bytes([len(inner)]) + inner + behind
    return b"\x30" + bytes([len(body)]) + body


INFO = b"\x30\x02\x05\x00"


@pytest.mark.parametrize("place", [0, 2, 4, 7, 9, 11, 13, 15])
@pytest.mark.parametrize("tag", [0x04, 0x10, 0x31, 0xA1])
def test_every_element_on_the_way_to_the_key_has_its_tag(place: int, tag: int) -> None:
    """Otherwise two readers could count to different elements."""
    der = bytearray(smallest(info=INFO))
    assert der[place] in (0x30, 0x02)
    der[place] = tag
    with pytest.raises(FormatError, match=f"at byte {place}"):
        certificate_pin(bytes(der))


def test_a_key_that_reaches_beyond_the_body_has_no_pin() -> None:
    assert certificate_pin(smallest(info=INFO)) == hashlib.sha256(INFO).hexdigest()
    with pytest.raises(FormatError):
        certificate_pin(smallest(behind=INFO))


def test_a_body_that_reaches_beyond_the_certificate_has_no_pin() -> None:
    der = bytearray(smallest(info=INFO))
    der[3] += 1
    with pytest.raises(FormatError):
        certificate_pin(bytes(der))


@pytest.mark.parametrize(
    "serial", [b"\x02\x81\x01\x01", b"\x02\x82\x00\x01\x01", b"\x02\x80\x01\x00\x00"]
)
def test_a_length_that_is_not_as_in_der_is_refused_wherever_it_stands(serial: bytes) -> None:
    with pytest.raises(FormatError, match="length as in DER"):
        certificate_pin(smallest(serial, INFO))


def test_a_certificate_is_reproducible_and_of_no_authority() -> None:
    pem = self_signed_pem(KEY, "a.example", NOW)
    assert pem == self_signed_pem(KEY, "a.example", NOW)
    found = x509.load_pem_x509_certificate(pem)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    found.verify_directly_issued_by(found)


@pytest.mark.parametrize(
    "data", [b"", b"\x30", b"\x30\x00", b"\x30\x81", b"\x30\x83\x01", b"x" * 300]
)
def test_bytes_that_are_no_certificate_have_no_pin(data: bytes) -> None:
    with pytest.raises(FormatError):
        certificate_pin(data)


def test_the_private_key_is_the_certificates() -> None:
    assert b"PRIVATE KEY" in private_key_pem(KEY)
    assert KEY.seed_bytes() not in self_signed_pem(KEY, "a", NOW)
