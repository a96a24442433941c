"""Checks of large objects that all engines make alike: what is offered, its size, what arrived."""

from treaty.crypto.canonical import sha256
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest

__all__ = ["check_arrived", "check_offer", "check_size"]


def check_offer(digest: Digest, data: bytes) -> None:
    """Raise `UsageError` unless `data` is what the party that offers it says."""
    found = sha256(data)
    if found != digest:
        raise UsageError(f"offer of digest {digest}, but the data has {found}")


def check_size(digest: Digest, size_bytes: int, most_bytes: int) -> None:
    """Raise `VerificationError` (code ``blob-too-large``) for more than the reader expects.

    Prevents a peer from filling this party's memory before it is found out.
    """
    if size_bytes > most_bytes:
        raise VerificationError(
            f"object {digest} has {size_bytes} bytes, expected at most {most_bytes}",
            code="blob-too-large",
        )


def check_arrived(digest: Digest, data: bytes) -> None:
    """Raise `VerificationError` (code ``blob-mismatch``) unless `data` is what was asked for."""
    found = sha256(data)
    if found != digest:
        raise VerificationError(
            f"object {digest} arrived with digest {found}: fetch it again", code="blob-mismatch"
        )
