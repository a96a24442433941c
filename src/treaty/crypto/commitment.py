"""Salted commitments to values that could be guessed.

Guarantees: hiding, because 32 random bytes of salt precede the value; binding, because a second
opening is a collision of SHA-256; a commitment made under one label opens under no other.
High-entropy content (masked inputs, encrypted shares) needs no salt: its plain digest will do.
"""

import hmac
from typing import Final

from treaty.crypto.derivation import labelled_hash
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.ids import Digest

__all__ = ["SALT_BYTES", "commit", "verify_opening"]

SALT_BYTES: Final = 32


def commit(label: str, salt: bytes, value: bytes) -> Digest:
    """Return the commitment to `value`: the labelled hash of label, `salt` (32 bytes) and value.

    The salt is fresh for every commitment and secret until the opening.
    """
    if len(salt) != SALT_BYTES:
        raise UsageError(f"expected a salt of {SALT_BYTES} bytes, got {len(salt)}")
    return Digest(labelled_hash("commitment", label, salt, value).hex())


def verify_opening(commitment: Digest, label: str, salt: bytes, value: bytes) -> None:
    """Raise unless `salt` and `value` open `commitment` under `label`.

    `FormatError` for a salt of another length, else `VerificationError` (code ``not-opened``).
    """
    if len(salt) != SALT_BYTES:
        raise FormatError(f"expected a salt of {SALT_BYTES} bytes, got {len(salt)}")
    if not hmac.compare_digest(commit(label, salt, value).encode(), commitment.encode()):
        raise VerificationError("salt and value do not open the commitment", code="not-opened")
