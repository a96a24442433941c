"""Fraud: an outsider checks a member's proof that the coordinator published a false sum.

Whoever has the log of a consortium, from any member's mirror or an exported bundle, and its
anchor, needs nobody's word: the log is folded as in every verification, and the proof is held
against the round that it names (docs/spec/secagg.md, section 11). Masked inputs are not needed
beside the chunk that the proof brings.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from treaty.crypto import canonical
from treaty.errors import VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.secagg_audit import PROOF_LIMIT_BYTES, AuditCase, FraudProof, check_fraud
from treaty.protocol.secagg_messages import RoundResult

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
    entries: Iterable[bytes], anchor: Digest, find: Callable[[Digest], bytes], proof: bytes
) -> Fraud:
    """Return what `proof` proves about the log `entries` of the consortium that `anchor` founded.

    `find` gives documents and published sums by digest. Entries after the result are not read.
    Raises `FormatError`, or `VerificationError`: those of the fold; ``wrong-result`` when the log
    has no such result; ``no-fraud`` when the sum is what its inputs give; those of `check_fraud`.
    """
    named = canonical.decode(proof, FraudProof, limit=PROOF_LIMIT_BYTES)
    state = Consortium(anchor)
    for index, data in enumerate(entries):
        before = state
        state, verified = state.apply(data, find)
        if verified.digest == named.result and isinstance(verified.predicate, RoundResult):
            running = before.running
            if running is None or running.epoch is None or running.round is None:
                raise VerificationError("a result without a study", code="out-of-order")
            case = AuditCase(running.epoch, running.round.step(verified, find))
            check_fraud(case, proof, find(Digest(verified.predicate.sum)))
            return Fraud(verified.author, running.identity, index, verified.digest, named.chunk)
    raise VerificationError("the log has no result of this digest", code="wrong-result")
