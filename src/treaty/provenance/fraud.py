"""Fraud: an outsider checks a member's proof that the coordinator published a false sum.

Whoever has the log of a consortium, from any member's mirror or an exported bundle, and its
anchor, needs nobody's word: the log is folded as in every verification, and the proof is held
against the round that it names (docs/spec/secagg.md, section 11). Masked inputs are not needed
beside the chunk that the proof brings.

Guarantee: of a log that others bring, nothing counts against the coordinator that it did not sign
itself, as a tree. A member may sign two statements in one place, of which the coordinator logged
one: with the other in its stead a true sum would look false.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from treaty.crypto import canonical
from treaty.errors import VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.secagg_audit import PROOF_LIMIT_BYTES, AuditCase, FraudProof, check_fraud
from treaty.protocol.secagg_messages import RoundResult
from treaty.tlog.checkpoint import open_checkpoint
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.notes import Verifier

__all__ = ["Fraud", "verify_fraud"]


@dataclass(frozen=True, slots=True)
class Fraud:
    """A false sum: who signed it, in which study, in which entry of the log, which chunk."""

    author: MemberId
    plan: Digest
    entry: int
    result: Digest
    chunk: int


def verify_fraud(
    entries: Iterable[bytes],
    anchor: Digest,
    find: Callable[[Digest], bytes],
    proof: bytes,
    note: bytes | None = None,
) -> Fraud:
    """Return what `proof` proves about the log `entries` of the consortium that `anchor` founded.

    `find` gives documents and published sums by digest. Entries after the result are not folded.
    `note` is the checkpoint of these entries, which the log key in force at the result must have
    signed; None only for a party's own copy, which was held against it entry by entry.
    Raises `FormatError`, or `VerificationError`: those of the fold; ``wrong-result`` when the log
    has no such result; ``root-mismatch``, ``unsigned`` and the like for entries that the
    coordinator did not sign; ``no-fraud`` when the sum is what its inputs give; those of
    `check_fraud`.
    """
    named = canonical.decode(proof, FraudProof, limit=PROOF_LIMIT_BYTES)
    state, entries = Consortium(anchor), tuple(entries)
    for index, data in enumerate(entries):
        before = state
        state, verified = state.apply(data, find)
        if verified.digest == named.result and isinstance(verified.predicate, RoundResult):
            running = before.running
            if running is None or running.epoch is None or running.round is None:
                raise VerificationError("a result without a study", code="out-of-order")
            if note is not None:
                _require_signed(entries, note, state.members.log)
            case = AuditCase(running.epoch, running.round.step(verified, find))
            check_fraud(case, proof, find(Digest(verified.predicate.sum)))
            return Fraud(verified.author, running.identity, index, verified.digest, named.chunk)
    raise VerificationError("the log has no result of this digest", code="wrong-result")


def _require_signed(entries: Sequence[bytes], note: bytes, log: Verifier) -> None:
    """Raise `VerificationError` unless `log` signed exactly the tree of `entries`."""
    found = open_checkpoint(note, log).checkpoint
    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    if (found.size, found.root) != (tree.size, tree.root()):
        raise VerificationError(
            "the coordinator signed another log than these entries", code="root-mismatch"
        )
