"""Key agreement: X25519, and ML-KEM-768 beside it for the hybrid suite.

Guarantees:
  * `AgreementKey.exchange` refuses public keys that are not canonical and those whose product
    is zero (low order), so two distinct keys never agree on a secret an onlooker knows.
  * `combine` binds both secrets, both public keys and the ciphertext (the shape of X-Wing):
    the hybrid holds while either X25519 or ML-KEM-768 holds.
  * Private keys show nothing but their type.

The raw output of `exchange` is not uniform: pass it through `derivation.extract`.
LIMIT: `encapsulate` draws its own entropy inside the library, which offers no other way; a
simulation under the hybrid suite repeats its sums but not its ciphertexts.
"""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

from treaty.crypto import derivation
from treaty.errors import FormatError, UsageError, VerificationError

__all__ = [
    "AGREEMENT_KEY_BYTES",
    "KEM_CIPHERTEXT_BYTES",
    "KEM_PUBLIC_KEY_BYTES",
    "KEM_SEED_BYTES",
    "AgreementKey",
    "EncapsulationKey",
    "check_agreement_key",
    "check_encapsulation_key",
    "combine",
    "encapsulate",
]

AGREEMENT_KEY_BYTES: Final = 32
KEM_SEED_BYTES: Final = 64
KEM_PUBLIC_KEY_BYTES: Final = 1184
KEM_CIPHERTEXT_BYTES: Final = 1088

_P: Final = 2**255 - 19
_LOW_ORDER: Final = frozenset(
    {
        0,
        1,
        _P - 1,
        0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
        0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    }
)
"""Every u below p of a point, on the curve or its twist, whose order divides 8: a scalar, which is
a multiple of 8 after clamping, takes these to zero and no others (RFC 7748, section 6.1)."""


class AgreementKey:
    """An X25519 private key. Its `repr` shows nothing but the type."""

    __slots__ = ("_public", "_seed")

    def __init__(self, seed: bytes) -> None:
        seed = bytes(seed)
        if len(seed) != AGREEMENT_KEY_BYTES:
            raise UsageError(f"expected a seed of {AGREEMENT_KEY_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._public: bytes | None = None

    @classmethod
    def generate(cls, seed: bytes) -> "AgreementKey":
        """Return the key of a 32-byte seed (RFC 7748 clamps it); same seed, same key."""
        return cls(seed)

    @property
    def public(self) -> bytes:
        """Return the public key, 32 bytes."""
        # Made at need: most keys of an epoch are only stored, as the seeds they are.
        if self._public is None:
            self._public = crypto_scalarmult_base(self._seed)
        return self._public

    def exchange(self, peer: bytes) -> bytes:
        """Return the 32-byte shared secret with the public key `peer`, not yet uniform.

        Raises `FormatError` when `peer` is not a canonical key, `VerificationError` (code
        ``low-order-key``) when it has low order.
        """
        check_agreement_key(peer)
        return crypto_scalarmult(self._seed, peer)

    def seed_bytes(self) -> bytes:
        """Return the secret seed, for storing the key."""
        return self._seed

    def __repr__(self) -> str:
        return "AgreementKey"


def check_agreement_key(public: bytes) -> None:
    """Raise as `AgreementKey.exchange` would for `public`: check a roster before using it."""
    if len(public) != AGREEMENT_KEY_BYTES:
        raise FormatError(
            f"expected an agreement key of {AGREEMENT_KEY_BYTES} bytes, got {len(public)}"
        )
    u = int.from_bytes(public, "little")
    if u >= _P:
        raise FormatError("expected a canonical agreement key, found u not below 2^255 - 19")
    if u in _LOW_ORDER:
        raise VerificationError(
            "expected an agreement key of large order, found a low-order point",
            code="low-order-key",
        )


class EncapsulationKey:
    """An ML-KEM-768 key pair (FIPS 203) from a seed of 64 bytes; `repr` shows only the type."""

    __slots__ = ("_key", "_seed", "public")

    public: bytes

    def __init__(self, seed: bytes) -> None:
        seed = bytes(seed)
        if len(seed) != KEM_SEED_BYTES:
            raise UsageError(f"expected a seed of {KEM_SEED_BYTES} bytes, got {len(seed)}")
        self._seed = seed
        self._key = MLKEM768PrivateKey.from_seed_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, seed: bytes) -> "EncapsulationKey":
        """Return the key of a 64-byte seed (d || z); same seed, same key."""
        return cls(seed)

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """Return the 32-byte secret of `ciphertext`.

        Raises `FormatError` for a wrong length. Any other ciphertext gives *some* secret
        (implicit rejection): what is sealed under it then does not open.
        """
        if len(ciphertext) != KEM_CIPHERTEXT_BYTES:
            raise FormatError(
                f"expected a ciphertext of {KEM_CIPHERTEXT_BYTES} bytes, got {len(ciphertext)}"
            )
        return self._key.decapsulate(ciphertext)

    def seed_bytes(self) -> bytes:
        """Return the secret seed, for storing the key."""
        return self._seed

    def __repr__(self) -> str:
        return "EncapsulationKey"


def encapsulate(public: bytes) -> tuple[bytes, bytes]:
    """Return ``(secret, ciphertext)`` for the ML-KEM-768 key `public`: 32 and 1,088 bytes.

    Raises `FormatError` when `public` is not a valid encapsulation key (FIPS 203, 7.2).
    """
    return _kem_public(public).encapsulate()


def check_encapsulation_key(public: bytes) -> None:
    """Raise `FormatError` unless `public` is a valid ML-KEM-768 encapsulation key."""
    _kem_public(public)


def combine(
    classical: bytes,
    post_quantum: bytes,
    *,
    ciphertext: bytes,
    kem_public: bytes,
    public_low: bytes,
    public_high: bytes,
) -> bytes:
    """Return the hybrid secret of an X25519 and an ML-KEM-768 secret, 32 uniform bytes.

    `public_low` and `public_high` are the two X25519 keys in the order of the two members, so
    both sides compute the same value.
    """
    return derivation.extract(
        derivation.labelled_hash("hybrid", ciphertext, kem_public, public_low, public_high),
        derivation.enc(classical, post_quantum),
    )


def _kem_public(public: bytes) -> MLKEM768PublicKey:
    if len(public) != KEM_PUBLIC_KEY_BYTES:
        raise FormatError(
            f"expected an encapsulation key of {KEM_PUBLIC_KEY_BYTES} bytes, got {len(public)}"
        )
    try:
        return MLKEM768PublicKey.from_public_bytes(public)
    except ValueError as error:
        raise FormatError("expected a valid ML-KEM-768 encapsulation key") from error
