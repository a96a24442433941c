"""Log proofs (C2SP tlog-proof): one file that shows an entry was logged and witnessed.

Guarantees (docs/spec/log.md, section 7): `verify_proof` raises unless the entry stands at the
index, under the root of a checkpoint that the policy's log signed and its quorum cosigned.
The extra data of the format is not authenticated; this product writes none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from treaty.crypto.envelope import decode_base64, encode_base64
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.checkpoint import (
    MAX_SIZE,
    SignedCheckpoint,
    open_checkpoint,
    parse_decimal,
    parse_unverified,
)
from treaty.tlog.merkle import HASH_BYTES, leaf_hash, verify_inclusion
from treaty.tlog.policy import Policy

__all__ = ["MAX_PROOF_BYTES", "LogProof", "parse_proof", "verify_proof"]

MAX_PROOF_BYTES: Final = 1 << 17
_HEADER: Final = "c2sp.org/tlog-proof@v1"
_MAX_HASHES: Final = 63


@dataclass(frozen=True, slots=True)
class LogProof:
    """Entry `index`, its inclusion proof from leaf to root, and the signed checkpoint.

    `checkpoint` is the note verbatim. `extra` is opaque and not authenticated.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_SIZE or len(self.hashes) > _MAX_HASHES:
            raise UsageError("a log proof has an index below 2^63 and at most 63 hashes")
        if any(len(one) != HASH_BYTES for one in self.hashes):
            raise UsageError("the hashes of a log proof have 32 bytes")

    def encode(self) -> bytes:
        """Return the proof's text."""
        extra = [] if self.extra is None else [f"extra {encode_base64(self.extra)}"]
        lines = [_HEADER, *extra, f"index {self.index}", *map(encode_base64, self.hashes), ""]
        return "".join(line + "\n" for line in lines).encode() + self.checkpoint


def parse_proof(data: bytes) -> LogProof:
    """Return the proof written as `data`; raises `FormatError`. Nothing is verified."""
    if len(data) > MAX_PROOF_BYTES:
        raise FormatError(f"expected a proof of at most {MAX_PROOF_BYTES} bytes, got {len(data)}")
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError("expected a log proof in UTF-8") from error
    if not blank or lines[0] != _HEADER:
        raise FormatError(f"expected a log proof that begins with {_HEADER}")
    rest = lines[1:]
    extra = None
    if rest and rest[0].startswith("extra "):
        extra = decode_base64(rest[0].removeprefix("extra "))
        rest = rest[1:]
    if not rest or not rest[0].startswith("index "):
        raise FormatError("expected the index line of a log proof")
    index = parse_decimal(rest[0].removeprefix("index "), "log index")
    hashes = tuple(decode_base64(line) for line in rest[1:])
    try:
        return LogProof(index, hashes, checkpoint, extra)
    except UsageError as error:
        raise FormatError(str(error)) from error


def verify_proof(
    data: bytes, entry: bytes, policy: Policy, *, strict: bool = True
) -> SignedCheckpoint:
    """Return the checkpoint under which `data` proves `entry` (its bytes) to be logged.

    1. The checkpoint is signed by a log of `policy` that is its origin, and meets the quorum.
    2. The inclusion proof leads from the entry to its root.
    3. In `strict` mode, the default because a proof is a file and not a live note, every byte
       is accounted for: no extra data, no unknown signature.

    Raises `FormatError` or `VerificationError`.
    """
    proof = parse_proof(data)
    if strict and proof.extra is not None:  # 3
        raise VerificationError(
            "expected a log proof without extra data, which nothing authenticates",
            code="extra-data",
        )
    signed = _open(proof.checkpoint, policy, strict=strict)  # 1
    policy.require(signed)
    checkpoint = signed.checkpoint
    verify_inclusion(  # 2
        leaf_hash(entry), proof.index, checkpoint.size, proof.hashes, checkpoint.root
    )
    return signed


def _open(data: bytes, policy: Policy, *, strict: bool) -> SignedCheckpoint:
    origin = parse_unverified(data).origin
    candidates: Sequence[VerificationError] = ()
    for log in policy.logs:
        if log.verifier.name != origin:
            continue
        try:
            return open_checkpoint(data, log.verifier, policy.witness_keys, strict=strict)
        except VerificationError as error:
            candidates = (*candidates, error)
    if candidates:
        raise candidates[0]
    raise VerificationError(f"the policy does not know the log {origin}", code="unknown-log")
