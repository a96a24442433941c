"""nkeys, nonces and certificate pins.

Planted and caught: the prefix of an account, the checksum in the other byte order or unchecked, a
nonce of any bytes signed, the pin taken over the whole certificate, a certificate of an authority.
"""

import base64
import ssl

import pytest
from cryptography import x509

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


def test_a_certificate_is_reproducible_and_of_no_authority() -> None:
    pem = self_signed_pem(KEY, "a.example", NOW)
    assert pem == self_signed_pem(KEY, "a.example", NOW)
    found = x509.load_pem_x509_certificate(pem)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    found.verify_directly_issued_by(found)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"x" * 300])
def test_bytes_that_are_no_certificate_have_no_pin(data: bytes) -> None:
    with pytest.raises(FormatError):
        certificate_pin(data)


def test_the_private_key_is_the_certificates() -> None:
    assert b"PRIVATE KEY" in private_key_pem(KEY)
    assert KEY.seed_bytes() not in self_signed_pem(KEY, "a", NOW)
