"""Ed25519 keys: signing, strict verification, key ids and the text of a key file.

Guarantees (docs/spec/formats.md, sections 3 and 4):
  * A `PublicKey` is a canonical encoding (RFC 8032, 5.1.3) of a point on the curve whose order
    is not small, so one key has one spelling and no signature under it holds for every message.
  * `PublicKey.verify` raises `VerificationError`; it never returns a flag. What holds is one rule,
    that of `ed25519.holds`, under which a signature cannot be respelt.
  * Key id = SHA-256 of the DER SubjectPublicKeyInfo (RFC 8410).
  * A `SigningKey` shows nothing but its type.

Assumes that seeds come from a good generator: they are arguments, this module draws nothing.
LIMIT: points with a small-order component beside a large-order one are accepted; they harm
nobody but their owner. Where key files lie, and with which permissions, is left to the stores.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec
from nacl.bindings import crypto_sign, crypto_sign_seed_keypair

from treaty.crypto import canonical, ed25519
from treaty.crypto.canonical import Name, Record
from treaty.crypto.ed25519 import KEY_BYTES, SIGNATURE_BYTES
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.ids import Digest

__all__ = [
    "KEY_BYTES",
    "KEY_FILE_FORMAT",
    "SEED_BYTES",
    "SIGNATURE_BYTES",
    "KeyFile",
    "PublicKey",
    "SigningKey",
    "decode_key_file",
    "encode_key_file",
]

SEED_BYTES: Final = 32
KEY_FILE_FORMAT: Final = "treaty.key/v1"

_DER_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")


class PublicKey:
    """An Ed25519 public key of 32 bytes.

    Raises `FormatError` unless the bytes are the canonical encoding of a point of the curve
    whose order is larger than 8.
    """

    __slots__ = ("hex", "keyid", "raw")

    raw: bytes
    hex: str
    keyid: Digest

    def __init__(self, raw: bytes) -> None:
        raw = bytes(raw)
        if len(raw) != KEY_BYTES:
            raise FormatError(f"expected a public key of {KEY_BYTES} bytes, got {len(raw)}")
        ed25519.check_key(raw)
        self.raw = raw
        self.hex = raw.hex()
        self.keyid = Digest(hashlib.sha256(_DER_PREFIX + raw).hexdigest())

    @classmethod
    def from_hex(cls, text: str) -> "PublicKey":
        """Return the key written as 64 lower-case hexadecimal digits, or raise `FormatError`."""
        return cls(_bytes_of_hex(text, "a public key"))

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise `VerificationError` (code ``bad-signature``) unless `signature` is over `data`."""
        if not ed25519.holds(self.raw, data, signature):
            raise VerificationError(
                f"signature does not verify under key {self.keyid[:16]}", code="bad-signature"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PublicKey):
            return NotImplemented
        return self.raw == other.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicKey({self.hex})"


class SigningKey:
    """An Ed25519 private key. Its `repr` shows nothing but the type."""

    __slots__ = ("_secret", "public")

    public: PublicKey

    def __init__(self, seed: bytes) -> None:
        seed = bytes(seed)
        if len(seed) != SEED_BYTES:
            raise UsageError(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        # The secret is the seed with its own public key behind it: signing never takes another.
        raw, self._secret = crypto_sign_seed_keypair(seed)
        self.public = PublicKey(raw)

    @classmethod
    def generate(cls, seed: bytes) -> "SigningKey":
        """Return the key of a 32-byte seed; the same seed gives the same key."""
        return cls(seed)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over `data`; Ed25519 is deterministic."""
        return crypto_sign(data, self._secret)[:SIGNATURE_BYTES]

    def seed_bytes(self) -> bytes:
        """Return the secret seed, for storing the key."""
        return self._secret[:SEED_BYTES]

    def __repr__(self) -> str:
        return "SigningKey"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file holds: one signing key and the role it is for (``approval``, ``runner``)."""

    role: str
    key: SigningKey


_Hex32 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _KeyRecord(Record, frozen=True):
    """The bytes of a key file; never leaves this module, because its `repr` shows the seed."""

    format: Literal["treaty.key/v1"]
    algorithm: Literal["ed25519"]
    role: Name
    public_key: _Hex32
    seed: _Hex32


def encode_key_file(role: str, key: SigningKey) -> bytes:
    """Return the canonical bytes of a key file. They are secret.

    Raises `UsageError` when `role` is not a `Name`.
    """
    data = canonical.encode(
        _KeyRecord(
            format=KEY_FILE_FORMAT,
            algorithm="ed25519",
            role=role,
            public_key=key.public.hex,
            seed=key.seed_bytes().hex(),
        )
    )
    try:
        canonical.decode(data, _KeyRecord)
    except FormatError as error:
        raise UsageError("role of a key must be a plain name such as runner") from error
    return data


def decode_key_file(data: bytes) -> KeyFile:
    """Return what `encode_key_file` wrote.

    Raises `FormatError` for other bytes, and when the public key is not the seed's: a damaged
    file must not become another identity.
    """
    record = canonical.decode(data, _KeyRecord, limit=4096)
    key = SigningKey(bytes.fromhex(record.seed))
    if key.public.hex != record.public_key:
        raise FormatError("expected the public key of the seed in the key file, found another")
    return KeyFile(record.role, key)


def _bytes_of_hex(text: str, what: str) -> bytes:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise FormatError(f"expected {what} as 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)
