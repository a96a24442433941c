"""Audit of published sums: members add chunks up again, and prove a sum that is false.

Guarantees (docs/spec/secagg.md, section 11):
  * Of every chunk of every audited sum, `max_colluders` + 1 members say that it is what the
    masked inputs and the seeds in the log give: at least one of them is honest.
  * A false chunk is proved to everyone who has the log, by the chunk's masked inputs and the
    hashes that lead to the signed roots. A proof against a sum that holds is refused.

Masked inputs and published seeds are no secret: nothing here is. Pure functions; bytes come in as
arguments.
"""

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec
import numpy as np

from treaty.aggregation.masking import (
    CHUNK_WORDS,
    MaskPlan,
    apply_masks,
    chunk_count,
    root_of_chunk_hashes,
)
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, MemberName, Record
from treaty.crypto.derivation import labelled_hash
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.protocol.secagg_claims import check_sum_of_claims
from treaty.protocol.secagg_messages import MaskedInput, RoundOpened, RoundResult
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.secure_round import EpochRecord, RoundRecord
from treaty.protocol.statements import Verified

__all__ = [
    "PROOF_LIMIT_BYTES",
    "AuditCase",
    "ChunkHashes",
    "ChunkList",
    "FraudProof",
    "assigned_members",
    "check_audited_set",
    "check_chunk",
    "check_claims",
    "check_fraud",
    "chunk_hashes",
    "chunk_of",
    "is_audited",
    "prove_fraud",
]

ChunkHashes = Annotated[tuple[DigestField, ...], msgspec.Meta(max_length=1 << 20)]
"""SHA-256 of each chunk of one masked input, in order."""

PROOF_LIMIT_BYTES = 1 << 28
"""The largest fraud proof that is read; a case implies a smaller one (`largest_proof`)."""

_Pieces = Annotated[str, msgspec.Meta(max_length=1 << 20)]


class ChunkList(Record):
    """The chunk hashes of every masked input of the results under audit: by result, by member."""

    format: Literal["treaty.masked-chunks/v1"] = "treaty.masked-chunks/v1"
    hashes: dict[DigestField, dict[MemberName, ChunkHashes]]


class FraudProof(Record):
    """A chunk of a published sum that its inputs do not give.

    `hashes` lead to the roots that the survivors signed, `pieces` are the chunk of each masked
    input in base64. What else is needed stands in the log.
    """

    format: Literal["treaty.fraud-proof/v1"] = "treaty.fraud-proof/v1"
    result: DigestField
    chunk: Count
    hashes: dict[MemberName, ChunkHashes]
    pieces: dict[MemberName, _Pieces]


@dataclass(frozen=True, slots=True)
class AuditCase:
    """A published sum with what the log says about it."""

    epoch: EpochRecord = field(repr=False)
    round: RoundRecord = field(repr=False)

    @property
    def result(self) -> Verified[RoundResult]:
        """Return the statement under audit."""
        if self.round.result is None:
            raise UsageError("only a published sum can be audited")
        return self.round.result

    @property
    def opened(self) -> RoundOpened:
        """Return the round's opening."""
        return self.round.opened.predicate

    @property
    def chunks(self) -> int:
        """Return how many chunks the sum has."""
        return chunk_count(self.opened.length)

    @property
    def headers(self) -> Mapping[str, MaskedInput]:
        """Return the survivors' signed headers."""
        return {str(name): self.round.inputs[name].predicate for name in self.round.members_in}

    @property
    def largest_hashes(self) -> int:
        """Return the most bytes of this sum's part of a list of chunk hashes."""
        # A hash with its quotes and comma, and a name of 63 letters with its own.
        return 80 + (67 * self.chunks + 80) * len(self.round.members_in)

    @property
    def largest_proof(self) -> int:
        """Return the most bytes that a fraud proof of this sum can have."""
        piece = min(self.opened.length, CHUNK_WORDS) * self.opened.ring_bits // 8
        # A hash with its quotes and comma, base64, and a name of 63 letters twice.
        each = 67 * self.chunks + 4 * (piece // 3 + 1) + 200
        return 500 + each * len(self.round.members_in)

    def plan(self) -> MaskPlan:
        """Return what takes the masks off; raises what `check_result` does when seeds are false."""
        if self.epoch.sealed is None or self.round.sealed is None:
            raise UsageError("only a published sum can be audited")
        return check_result(
            self.round.group,
            self.opened,
            {name: one.predicate for name, one in self.epoch.keys.items()},
            {name: one.predicate for name, one in self.epoch.ready.items()},
            self.epoch.sealed.predicate.dealers,
            self.round.sealed.predicate,
            self.result.predicate,
            graph=self.epoch.graph,
            pairs=self.round.pair_seeds,
        )


def chunk_of(data: bytes, ring_bits: int, chunk: int) -> bytes:
    """Return the bytes of one chunk of a vector's little-endian words."""
    size = CHUNK_WORDS * ring_bits // 8
    return data[chunk * size : (chunk + 1) * size]


def chunk_hashes(data: bytes, ring_bits: int) -> tuple[Digest, ...]:
    """Return the SHA-256 of each chunk of a vector: the leaves under its root."""
    size = CHUNK_WORDS * ring_bits // 8
    return tuple(canonical.sha256(data[at : at + size]) for at in range(0, len(data), size))


def assigned_members(case: AuditCase, chunk: int) -> tuple[str, ...]:
    """Return who audits a chunk: `max_colluders` + 1 members, and as many more as may be lost.

    Any `max_colluders` + 1 of them are enough, so it does not matter that the coordinator could
    influence the order; the order shares the work out.
    """
    group = case.round.group
    spare = len(group.members) - group.min_survivors
    count = min(len(group.members), group.max_colluders + 1 + spare)
    seed = bytes.fromhex(case.result.digest)
    order = sorted(group.members, key=lambda name: labelled_hash("auditor", seed, name))
    first = chunk * count % len(order)
    return tuple((*order, *order)[first : first + count])


def is_audited(case: AuditCase, signed: Collection[str]) -> bool:
    """Say whether enough of those who were to audit each chunk have signed."""
    enough = case.round.group.max_colluders + 1
    windows = {frozenset(assigned_members(case, chunk)) for chunk in range(case.chunks)}
    return all(len(window & set(signed)) >= enough for window in windows)


def check_audited_set(cases: Collection[AuditCase], members_in: Sequence[str]) -> None:
    """Refuse other survivors than those of the sums that nobody has added up again.

    A false sum steers the model. While it is undiscovered, sums over one set alone show
    nothing of one member; two sums over sets that differ would (R-14). ``unaudited-set``.
    """
    if any(case.round.members_in != members_in for case in cases):
        raise VerificationError(
            "the sums before are unaudited and of other members: audit them first",
            code="unaudited-set",
        )


def check_claims(record: RoundRecord, total: RingVector) -> None:
    """Raise `VerificationError` unless the claims of a round, if it has any, bound its sum.

    EXPERIMENTAL (`treaty.protocol.secagg_claims`).
    """
    if record.claim_bound is not None:
        answers = [one.predicate for one in record.reveals.values()]
        check_sum_of_claims(answers, len(record.members_in), total, record.claim_bound)


def check_chunk(
    case: AuditCase,
    plan: MaskPlan,
    chunk: int,
    hashes: Mapping[str, Sequence[str]],
    pieces: Mapping[str, bytes],
    total: bytes,
) -> bool:
    """Say whether chunk number `chunk` of the published sum `total` is what the inputs give.

    Raises `VerificationError` unless what was given is of this sum: 1 `total` has the published
    digest (``sum-differs``); 2 the hashes are of its survivors and lead to their signed roots
    (``chunk-list-differs``); 3 each piece has its hash (``chunk-differs``).
    """
    if canonical.sha256(total) != case.result.predicate.sum:  # 1
        raise VerificationError("the bytes are not those of the published sum", code="sum-differs")
    check_hashes(case, hashes)  # 2
    word, headers = RING_TYPES[case.opened.ring_bits], case.headers
    published = chunk_of(total, case.opened.ring_bits, chunk)
    mine = np.zeros(len(published) // word.itemsize, word)
    for name in headers:  # 3
        piece = pieces.get(name, b"")
        if canonical.sha256(piece) != hashes[name][chunk] or len(piece) != len(published):
            raise VerificationError(
                f"chunk {chunk} of {name} is not the one it signed", code="chunk-differs"
            )
        np.add(mine, np.frombuffer(piece, word), out=mine)
    apply_masks(mine, plan, case.opened.ring_bits, first_chunk=chunk)
    return hashlib.sha256(mine.tobytes()).digest() == hashlib.sha256(published).digest()


def check_hashes(case: AuditCase, hashes: Mapping[str, Sequence[str]]) -> None:
    """Raise `VerificationError` (``chunk-list-differs``) unless `hashes` lead to signed roots."""
    headers = case.headers
    for name in {**headers, **dict.fromkeys(hashes)}:
        found = [bytes.fromhex(one) for one in hashes.get(name, ())]
        if (
            name not in headers
            or len(found) != case.chunks
            or root_of_chunk_hashes(found) != headers[name].root
        ):
            raise VerificationError(
                f"the chunk hashes of {name} do not lead to a root that it signed for this sum",
                code="chunk-list-differs",
            )


def prove_fraud(
    case: AuditCase, chunk: int, hashes: Mapping[str, Sequence[str]], pieces: Mapping[str, bytes]
) -> bytes:
    """Return the proof that chunk `chunk` of a published sum is false, as canonical bytes."""
    return canonical.encode(
        FraudProof(
            result=case.result.digest,
            chunk=chunk,
            hashes={name: tuple(hashes[name]) for name in case.headers},
            pieces={name: base64.b64encode(pieces[name]).decode() for name in case.headers},
        )
    )


def check_fraud(case: AuditCase, data: bytes, total: bytes) -> None:
    """Return when `data` proves that the published sum of `case`, with bytes `total`, is false.

    A sum whose seeds do not hold is false whatever the chunk. Raises `FormatError`, or
    `VerificationError`: ``wrong-result``, ``no-such-chunk``, those of `check_chunk`, and
    ``no-fraud`` when the chunk is what the inputs give.
    """
    proof = canonical.decode(data, FraudProof, limit=PROOF_LIMIT_BYTES)
    if proof.result != case.result.digest:
        raise VerificationError("the proof is about another result", code="wrong-result")
    if proof.chunk >= case.chunks:
        raise VerificationError(
            f"expected a chunk below {case.chunks}, got {proof.chunk}", code="no-such-chunk"
        )
    pieces = {}
    for name, text in proof.pieces.items():
        try:
            pieces[name] = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise FormatError(f"expected the piece of {name} in base64") from error
    try:
        plan = case.plan()
    except (VerificationError, FormatError):
        return
    if check_chunk(case, plan, proof.chunk, proof.hashes, pieces, total):
        raise VerificationError(
            "the published chunk is what its inputs give: nobody is convicted", code="no-fraud"
        )
