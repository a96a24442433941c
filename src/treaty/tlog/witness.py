"""The witness: what a member has seen of the log, and whether it may cosign more.

Guarantees (docs/spec/log.md, section 6; C2SP tlog-witness):
  * A witness never cosigns two trees of which neither extends the other: it moves only to a
    checkpoint proved consistent with the last one, and never back.
  * A refusal changes nothing and says which kind it is. ``conflict``: the checkpoint does not
    build on what this witness saw last. ``split-view``: another root for the size it saw last,
    signed by the log: evidence against the log. ``unprocessable``: the proof does not hold.

The order is the law: persist `CosignatureOrder.state`, then sign. A witness that signs first
and crashes may sign a fork after the restart. `check_restored` finds a state from a backup.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from treaty.errors import UsageError, VerificationError
from treaty.tlog.checkpoint import MAX_SIZE, Checkpoint, SignedCheckpoint
from treaty.tlog.merkle import EMPTY_ROOT, HASH_BYTES, verify_consistency
from treaty.tlog.notes import Verifier

__all__ = ["CosignatureOrder", "Witness"]


@dataclass(frozen=True, slots=True)
class Witness:
    """The last tree of one log that this witness decided to cosign; at first the empty one."""

    size: int = 0
    root: bytes = EMPTY_ROOT

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES:
            raise UsageError("a witness keeps a tree size and a root of 32 bytes")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise UsageError("the tree of size 0 has one root")

    def consider(
        self, signed: SignedCheckpoint, proof: Sequence[bytes], *, old_size: int | None = None
    ) -> "CosignatureOrder":
        """Return the order to persist and cosign `signed`, or refuse.

        `proof` leads from this witness's size to the checkpoint's; it is empty from size 0 and
        between equal sizes. `old_size` is the size from which the sender thinks it leads.

        1. The sender builds on the size seen last (``conflict``).
        2. The checkpoint is not smaller (``conflict``).
        3. At the same size it has the same root (``split-view``).
        4. The proof holds (``unprocessable``).
        """
        checkpoint = signed.checkpoint
        if old_size is not None and old_size != self.size:  # 1
            raise VerificationError(
                f"expected a proof from size {self.size}, got one from {old_size}", code="conflict"
            )
        if checkpoint.size < self.size:  # 2
            raise VerificationError(
                f"expected a tree of at least {self.size} entries, got {checkpoint.size}",
                code="conflict",
            )
        if checkpoint.size == self.size and checkpoint.root != self.root:  # 3
            raise VerificationError(
                f"the log signed two roots for size {self.size}", code="split-view"
            )
        if self.size == 0:  # 4
            if proof:
                raise VerificationError(
                    f"expected no proof from size 0, got {len(proof)} hashes", code="unprocessable"
                )
        else:
            try:
                verify_consistency(self.size, checkpoint.size, self.root, checkpoint.root, proof)
            except VerificationError as error:
                raise VerificationError(
                    f"checkpoint of size {checkpoint.size} does not extend the tree of size "
                    f"{self.size}: {error}",
                    code="unprocessable",
                ) from error
        return CosignatureOrder(Witness(checkpoint.size, checkpoint.root), checkpoint)

    def check_restored(self, published: SignedCheckpoint, own: Verifier) -> None:
        """Raise when `published` carries a cosignature of `own` that this state does not know.

        Prevents rollback: a witness whose state came from a backup has cosigned what it forgot,
        and could cosign a fork of it. Code ``witness-behind``: its key must be retired.
        """
        mine = any(cosignature.witness == own for cosignature in published.cosignatures)
        if not mine:
            return
        ahead = published.checkpoint.size > self.size
        forked = published.checkpoint.size == self.size and published.checkpoint.root != self.root
        if ahead or forked:
            raise VerificationError(
                f"this witness cosigned size {published.checkpoint.size} but its state says "
                f"{self.size}: retire its key",
                code="witness-behind",
            )


@dataclass(frozen=True, slots=True)
class CosignatureOrder:
    """Persist `state`, then cosign `checkpoint`; in this order."""

    state: Witness
    checkpoint: Checkpoint
