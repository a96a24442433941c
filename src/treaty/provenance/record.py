"""Record: the replay of a whole log, with the sums recomputed on the way.

The replay folds every entry through the machines that the nodes run, and at each published sum it
goes further than they do: it checks the revealed seeds against the commitments and, where the
masked inputs are at hand, adds them up again (docs/spec/verification.md, section 3). A sum that
does not hold ends the replay, unless the log itself goes on to prove it false: then the history is
that of a fraud, and is replayed to its end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from treaty.aggregation.masking import input_root, open_sum
from treaty.aggregation.quantization import ring_vector
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import (
    FormatError,
    PeerError,
    PolicyError,
    ResourceError,
    VerificationError,
    code_of,
)
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import DOCUMENTED, Consortium
from treaty.protocol.gate import check_statement, check_sum
from treaty.protocol.messages import CharterPublished, ProposalOpened, StudyOpened
from treaty.protocol.secagg_audit import PROOF_LIMIT_BYTES, AuditCase, FraudProof
from treaty.protocol.secagg_messages import MaskedInput, RoundResult, SumDisputed
from treaty.protocol.statements import Body, Verified
from treaty.protocol.study import Study

__all__ = ["Entry", "ProvedFraud", "Record", "replay"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log: its index, what it says, who says it, and its identity."""

    index: int
    kind: str
    author: MemberId
    digest: Digest


@dataclass(frozen=True, slots=True)
class ProvedFraud:
    """A published sum that the log proves false: who signed it, and who proved it in which entry.

    `result` is the digest of the statement in entry `entry`, `proof` that of the blob that the
    fold has checked, `chunk` the false chunk. `study` is the digest of the study's plan.
    """

    author: MemberId
    study: Digest
    entry: int
    result: Digest
    chunk: int
    disputed_by: MemberId
    disputed_in: int
    proof: Digest


@dataclass(frozen=True, slots=True)
class Record:
    """A replayed log.

    `needed` are the digests of documents and sums that the history names; `inputs` those of masked
    vectors. `recomputed` counts sums added up again, `attested` those whose inputs were missing;
    `frauds` are those that the log proves false, in the order of their proofs.
    """

    state: Consortium
    entries: tuple[Entry, ...]
    needed: frozenset[Digest]
    inputs: frozenset[Digest]
    recomputed: int
    attested: int
    counts: Mapping[str, int] = field(default_factory=dict)
    frauds: tuple[ProvedFraud, ...] = ()


@dataclass(slots=True)
class _Replay:
    find: Callable[[Digest], bytes]
    has: Callable[[Digest], bool]
    needed: set[Digest] = field(default_factory=set)
    inputs: set[Digest] = field(default_factory=set)
    recomputed: int = 0
    attested: int = 0
    results: dict[str, tuple[int, MemberId]] = field(default_factory=dict)
    false: dict[str, PeerError] = field(default_factory=dict)
    frauds: list[ProvedFraud] = field(default_factory=list)

    def require_proofs(self) -> None:
        """Raise what is wrong with the first sum that is false and that nobody proved false."""
        proved = {one.result for one in self.frauds}
        for result, refusal in self.false.items():
            if result not in proved:
                raise refusal

    def documents(self, digest: Digest) -> bytes:
        """Return a document that the history needs, and remember that it does."""
        self.needed.add(digest)
        return self.find(digest)


def replay(
    entries: Iterable[bytes],
    anchor: Digest,
    find: Callable[[Digest], bytes],
    has: Callable[[Digest], bool],
) -> Record:
    """Return the record of `entries`, which begin with the charter of `anchor`.

    `find` gives a blob by digest (`ResourceError` when it is missing), `has` says if it is there.
    Raises `FormatError`, `VerificationError` or `PolicyError` naming the entry's index.
    """
    worker = _Replay(find, has)
    state = Consortium(anchor)
    lines: list[Entry] = []
    counts: Counter[str] = Counter()
    for index, data in enumerate(entries):
        try:
            before = state
            state, verified = state.apply(data, worker.documents)
            _follow(worker, before, state, verified, index)
        except (VerificationError, PolicyError, FormatError, ResourceError) as refusal:
            worker.require_proofs()
            raise _at_entry(index, refusal) from refusal
        kind = type(verified.predicate).__name__
        counts[kind] += 1
        lines.append(Entry(index, kind, verified.author, verified.digest))
    worker.require_proofs()
    return Record(
        state,
        tuple(lines),
        frozenset(worker.needed),
        frozenset(worker.inputs),
        worker.recomputed,
        worker.attested,
        dict(sorted(counts.items())),
        tuple(worker.frauds),
    )


def _at_entry(index: int, refusal: PeerError | PolicyError | ResourceError) -> PeerError:
    """Return `refusal` as one of the bundle, which names the entry."""
    if isinstance(refusal, FormatError):
        return FormatError(f"entry {index}: {refusal}")
    code = "missing-blob" if isinstance(refusal, ResourceError) else code_of(refusal)
    return VerificationError(f"entry {index}: {refusal}", code=code)


def _follow(
    worker: _Replay, before: Consortium, after: Consortium, verified: Verified[Body], index: int
) -> None:
    body = verified.predicate
    _check_exposure(after, verified)
    match body:
        case CharterPublished():
            worker.needed.add(Digest(body.charter))
        case ProposalOpened() if body.action in DOCUMENTED:
            # Always, not only when it is at hand: a file that may be absent could be taken away.
            worker.documents(Digest(body.subject))
        case StudyOpened():
            worker.documents(Digest(body.plan))
        case MaskedInput():
            worker.inputs.add(Digest(body.blob))
        case RoundResult():
            study = before.running
            if study is None:
                raise VerificationError("a result without a study", code="out-of-order")
            _check_sum_exposure(after, study)
            worker.results[verified.digest] = (index, verified.author)
            refusal = _recompute(worker, study, verified)
            if refusal is not None:
                # What members prove in a later entry is part of the history, not its end.
                worker.false[verified.digest] = _at_entry(index, refusal)
        case SumDisputed():
            worker.frauds.append(_proved(worker, before, body, verified.author, index))
        case _:
            pass


def _proved(
    worker: _Replay, before: Consortium, body: SumDisputed, by: MemberId, index: int
) -> ProvedFraud:
    """Return what a dispute proves; the fold has checked its proof."""
    study = before.running
    if study is None:
        raise VerificationError("a dispute without a study", code="out-of-order")
    entry, author = worker.results[body.result]
    data = worker.documents(Digest(body.proof))
    chunk = canonical.decode(data, FraudProof, limit=PROOF_LIMIT_BYTES).chunk
    result, proof = Digest(body.result), Digest(body.proof)
    return ProvedFraud(author, study.identity, entry, result, chunk, by, index, proof)


def _check_exposure(state: Consortium, verified: Verified[Body]) -> None:
    """Raise `PolicyError` unless the charter lets every field of a member's statement be shown."""
    if verified.author == state.charter.coordinator.name:
        return
    members = len(state.members.active)
    check_statement(state.members.matrix, verified.predicate, members=members)


def _check_sum_exposure(state: Consortium, study: Study) -> None:
    """Raise `PolicyError` unless the charter lets a sum over so few members be shown.

    Lint asks the same with the least number of members that an epoch begins with; a suspension in
    the middle of a study can lower that number below what the charter's row accepts.
    """
    survivors = 0 if study.round is None else len(study.round.members_in)
    kind = study.progress.expected_query().kind
    check_sum(state.members.matrix, kind.artefact, members=survivors, form=kind.form)


def _recompute(
    worker: _Replay, study: Study, result: Verified[Body]
) -> VerificationError | FormatError | None:
    """Check the seeds, then add the masked inputs up again if they are all at hand.

    Returns what shows that the sum is false, None when it holds or cannot be added up.

    1 every revealed seed opens its commitment; 2 every input has the digest and root of its logged
    header; 3 the sum of the inputs without their masks is the published one, byte for byte. Inputs
    are asked for one after another and none is kept: memory is the sum and one input.
    """
    if study.epoch is None or study.round is None:
        raise VerificationError("a result without a round", code="out-of-order")
    case = AuditCase(study.epoch, study.round.step(result, worker.documents))
    try:
        plan = case.plan()  # 1
    except (VerificationError, FormatError) as refusal:
        return refusal
    headers, asked = case.headers.values(), case.opened
    if not all(worker.has(Digest(header.blob)) for header in headers):
        worker.attested += 1
        return None
    total = open_sum(
        (_checked_input(worker, one, asked.ring_bits, asked.length) for one in headers),  # 2
        plan,
        asked.ring_bits,
        asked.length,
    ).tobytes()
    if sha256(total) != case.result.predicate.sum:  # 3
        return VerificationError(
            "the published sum is not the sum of the logged inputs", code="sum-mismatch"
        )
    worker.recomputed += 1
    return None


def _checked_input(
    worker: _Replay, header: MaskedInput, ring_bits: int, length: int
) -> Iterator[memoryview]:
    """Yield the words of one masked input, which has the length asked for and the header's root."""
    vector = ring_vector(worker.find(Digest(header.blob)), ring_bits, length)
    if input_root(vector) != header.root:
        raise VerificationError(
            f"the masked input of {header.author} has another root than its header",
            code="root-mismatch",
        )
    yield vector.data
