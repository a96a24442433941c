"""Sealing: AES-256-GCM under a key that is used once.

Guarantees: what opens is what was sealed, for the same associated data; anything else raises.
Assumes that a key seals at most one plaintext: the nonce is fixed at zero, because every key of
the protocol is derived for one message. Sealing twice under one key would expose both.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from treaty.errors import FormatError, UsageError, VerificationError

__all__ = ["KEY_BYTES", "TAG_BYTES", "open_sealed", "seal"]

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16

_NONCE: Final = bytes(12)


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Return the ciphertext of `plaintext` with its 16-byte tag behind it.

    `key` is 32 bytes and seals nothing else, ever. `associated` is authenticated, not hidden.
    """
    return _cipher(key).encrypt(_NONCE, plaintext, associated)


def open_sealed(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Return the plaintext of `sealed`.

    Raises `FormatError` when it is shorter than a tag, `VerificationError` (code
    ``does-not-open``) when key, text or associated data is not what was sealed.
    """
    if len(sealed) < TAG_BYTES:
        raise FormatError(f"expected at least {TAG_BYTES} sealed bytes, got {len(sealed)}")
    try:
        return _cipher(key).decrypt(_NONCE, sealed, associated)
    except InvalidTag:
        raise VerificationError(
            "sealed bytes do not open under this key and context", code="does-not-open"
        ) from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:
        raise UsageError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
    return AESGCM(key)
