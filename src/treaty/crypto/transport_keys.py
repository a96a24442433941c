"""Transport keys: the nkey spelling of an Ed25519 key, its answer to a nonce, certificate pins.

Guarantees (docs/spec/transport.md, section 2):
  * `nkey_of` and `key_of_nkey` are inverse: one key has one nkey of a user.
  * `answer_nonce` signs nothing but a short nonce of URL-safe letters, so that no server can have a
    transport key sign a statement: what statements sign begins with ``DSSEv1`` and holds spaces.
  * `certificate_pin` is the SHA-256 of the certificate's SubjectPublicKeyInfo. Names and dates in a
    certificate mean nothing here; possession of the pinned key is the proof.

A certificate of ours is self-signed, Ed25519, and no authority (CA:FALSE).
"""

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, VerificationError
from treaty.ids import Digest, Timestamp

__all__ = [
    "answer_nonce",
    "certificate_pin",
    "key_of_nkey",
    "nkey_of",
    "private_key_pem",
    "self_signed_pem",
]

_SEQUENCE: Final = 0x30
_INTEGER: Final = 0x02
_VERSION: Final = 0xA0
_INDEFINITE: Final = 0x80
"""A DER length from here on says how many bytes of length follow; by itself it says none."""

_USER_PREFIX: Final = 20 << 3
_NKEY_BYTES: Final = 35
_NONCE = re.compile(rb"[A-Za-z0-9_=-]{1,64}\Z")
_VALID_FOR = timedelta(days=3650)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def nkey_of(key: PublicKey) -> str:
    """Return the nkey of a user: base32 of prefix, key and CRC-16 (56 characters, ``U`` first)."""
    body = bytes([_USER_PREFIX]) + key.raw
    return base64.b32encode(body + _crc16(body).to_bytes(2, "little")).decode()


def key_of_nkey(text: str) -> PublicKey:
    """Return the key that `text` spells; `FormatError` when it is no nkey of a user."""
    try:
        raw = base64.b32decode(text)
    except (binascii.Error, ValueError) as error:
        raise FormatError("expected an nkey of 56 base32 letters") from error
    if len(raw) != _NKEY_BYTES or raw[0] != _USER_PREFIX:
        raise FormatError("expected the nkey of a user, 56 letters beginning with U")
    if _crc16(raw[:-2]) != int.from_bytes(raw[-2:], "little"):
        raise FormatError("the checksum of the nkey does not match: it was copied wrongly")
    return PublicKey(raw[1:-2])


def answer_nonce(key: SigningKey, nonce: bytes) -> bytes:
    """Return the base64url signature over a server's nonce, without padding.

    Raises `VerificationError` (code ``odd-nonce``) for anything but 1 to 64 URL-safe letters.
    """
    if _NONCE.match(nonce) is None:
        # Prevents a server from having something signed that means something elsewhere.
        raise VerificationError(
            f"the server asked for a signature over {len(nonce)} bytes that are no nonce",
            code="odd-nonce",
        )
    return base64.urlsafe_b64encode(key.sign(nonce)).rstrip(b"=")


def certificate_pin(der: bytes) -> Digest:
    """Return the SHA-256 of the SubjectPublicKeyInfo of a DER certificate, or raise `FormatError`.

    For an Ed25519 key it is `PublicKey.keyid`. Where the key lies follows from the structure of RFC
    5280, section 4.1: Certificate, TBSCertificate, then behind an optional version the serial
    number, the signature's algorithm, issuer, validity and subject. Every length must be definite
    and as short as DER has it.
    """
    # Prevents a certificate in which this reader finds the pinned key and the TLS library another:
    # what two readers of BER could take differently is refused.
    whole = _element(der, 0, _SEQUENCE)
    if whole.end != len(der):
        raise FormatError("expected a certificate and nothing behind it")
    body = _element(der, whole.begin, _SEQUENCE)
    if body.end > whole.end:
        raise FormatError("expected a certificate's body within the certificate")
    place = body.begin
    if der[place : place + 1] == bytes([_VERSION]):
        place = _element(der, place, _VERSION).end
    for tag in (_INTEGER, *[_SEQUENCE] * 4):
        place = _element(der, place, tag).end
    info = _element(der, place, _SEQUENCE)
    if info.end > body.end:
        raise FormatError("expected a public key within the certificate's body")
    return Digest(hashlib.sha256(der[place : info.end]).hexdigest())


class _Extent(NamedTuple):
    """Where the content of a DER element begins and ends."""

    begin: int
    end: int


def _element(der: bytes, place: int, tag: int) -> _Extent:
    """Return where the element at `place` lies; `FormatError` unless it has `tag`."""
    if der[place : place + 1] != bytes([tag]):
        raise FormatError(f"expected an X.509 certificate in DER, tag {tag:#04x} at byte {place}")
    first = der[place + 1] if place + 1 < len(der) else _INDEFINITE
    begin, length = place + 2, first
    if first >= _INDEFINITE:
        count = first - _INDEFINITE
        digits = der[begin : begin + count]
        begin, length = begin + count, int.from_bytes(digits)
        # Shorter ways to write the length, no length at all, and more than any certificate has.
        if not 1 <= count <= 3 or len(digits) < count or not digits[0] or length < _INDEFINITE:
            raise FormatError(f"expected a length as in DER at byte {place + 1}")
    if begin + length > len(der):
        raise FormatError(f"the certificate ends within the element at byte {place}")
    return _Extent(begin, begin + length)


def self_signed_pem(key: SigningKey, name: str, now: Timestamp) -> bytes:
    """Return a certificate of `key` in PEM, for a server called `name`, valid for ten years.

    The same arguments give the same bytes.
    """
    # 2 MB that only a coordinator needs, once.
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    begins = _EPOCH + timedelta(milliseconds=now) - timedelta(days=1)
    begins = begins.replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(_private(key).public_key())
        .serial_number(int.from_bytes(bytes.fromhex(key.public.keyid)[:16]) | 1)
        .not_valid_before(begins)
        .not_valid_after(begins + _VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    return builder.sign(_private(key), None).public_bytes(Encoding.PEM)


def private_key_pem(key: SigningKey) -> bytes:
    """Return `key` as PKCS #8 in PEM, for a TLS server. The bytes are secret."""
    # Formats of keys, half a megabyte: as above.
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return _private(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private(key: SigningKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.seed_bytes())


def _crc16(data: bytes) -> int:
    """CRC-16/XMODEM, as nkeys use it."""
    return binascii.crc_hqx(data, 0)
