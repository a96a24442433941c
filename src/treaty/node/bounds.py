"""Bounds: how large what a log entry names can be, before a byte of it is read.

Guarantee (docs/spec/protocol.md, 2.3): every size follows from the charter, the plan, the round or
the sums under audit, as the log tells them, or from a fixed limit; never from what the coordinator
says or serves. What is larger is refused unread (``blob-too-large``).
"""

from collections.abc import Mapping

from treaty.crypto.canonical import MAX_SIZE_BYTES
from treaty.crypto.envelope import MAX_GATHERED_BYTES
from treaty.ids import Digest
from treaty.ports import FRAME_LIMIT_BYTES
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import CharterGathered
from treaty.protocol.secagg_audit import AuditCase
from treaty.protocol.secagg_messages import (
    MaskedInput,
    Reveal,
    RoundOpened,
    RoundResult,
    SumDisputed,
)
from treaty.protocol.statements import Body

__all__ = ["COLUMN_BYTES", "DOCUMENT_BYTES", "bounds_of", "list_bytes", "proof_bytes", "sum_bytes"]

DOCUMENT_BYTES = MAX_SIZE_BYTES
"""The largest charter, contract or plan: what one decoder reads."""

COLUMN_BYTES = FRAME_LIMIT_BYTES
"""The largest sealed column that a dealer's post can have brought, whatever its right size is."""


def sum_bytes(opened: RoundOpened) -> int:
    """Return the bytes of the vectors that a round asks for, and of their sum."""
    return opened.length * opened.ring_bits // 8


def bounds_of(body: Body, state: Consortium) -> Mapping[Digest, int]:
    """Return by digest the most bytes of what folding an entry reads; `state` is that before it.

    What is not listed is a document (`DOCUMENT_BYTES`).
    """
    match body:
        case MaskedInput() | Reveal():
            # Most entries by far; folding one reads nothing.
            return {}
        case CharterGathered():
            return {Digest(body.signatures): MAX_GATHERED_BYTES}
        case RoundResult() if (study := state.running) is not None and study.round is not None:
            found = {Digest(body.sum): sum_bytes(study.round.opened.predicate)}
            if body.pairs is not None:
                found[Digest(body.pairs)] = study.round.largest_pairs
            return found
        case SumDisputed() if (study := state.running) is not None:
            cases = study.unaudited
            sums = {Digest(one.result.predicate.sum): sum_bytes(one.opened) for one in cases}
            return {**sums, Digest(body.proof): proof_bytes(cases)}
        case _:
            return {}


def list_bytes(cases: tuple[AuditCase, ...]) -> int:
    """Return the most bytes of the list of chunk hashes that a call for an audit names."""
    return 100 + sum(one.largest_hashes for one in cases)


def proof_bytes(cases: tuple[AuditCase, ...]) -> int:
    """Return the most bytes of a proof that one of these sums is false."""
    return max((one.largest_proof for one in cases), default=0)
