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
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

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

    For an Ed25519 key it is `PublicKey.keyid`.
    """
    try:
        public = x509.load_der_x509_certificate(der).public_key()
        info = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError("expected an X.509 certificate in DER") from error
    return Digest(hashlib.sha256(info).hexdigest())


def self_signed_pem(key: SigningKey, name: str, now: Timestamp) -> bytes:
    """Return a certificate of `key` in PEM, for a server called `name`, valid for ten years.

    The same arguments give the same bytes.
    """
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
    return _private(key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private(key: SigningKey) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(key.seed_bytes())


def _crc16(data: bytes) -> int:
    """CRC-16/XMODEM, as nkeys use it."""
    return binascii.crc_hqx(data, 0)
