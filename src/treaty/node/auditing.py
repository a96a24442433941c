"""Auditing: calls for audits at the coordinator, and a member's own audit of published sums.

`AuditDriver` decides when the coordinator calls: before an epoch ends with its slots, before a
study is completed, and before survivors are named who differ from those of an unaudited sum; an
epoch's sums are audited together. `Auditor` is the member's side: it fetches the chunks that are
its to audit, adds them up again, and says so, or proves that one is false and takes no further
part in that study (docs/spec/secagg.md, section 11).

Masked inputs are fetched for the audit and not kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

from treaty.aggregation.masking import CHUNK_WORDS
from treaty.aggregation.quantization import RingVector
from treaty.crypto import canonical
from treaty.errors import FormatError, PeerError, ResourceError, VerificationError, code_of
from treaty.ids import Digest, MemberId
from treaty.node.bounds import list_bytes, sum_bytes
from treaty.node.mirror import Mirror
from treaty.ports import BlobStore, Engine, EventStore, Journal
from treaty.protocol.messages import HaltCode, StudyHalted
from treaty.protocol.secagg_audit import (
    AuditCase,
    ChunkList,
    assigned_members,
    check_chunk,
    check_claims,
    check_hashes,
    chunk_hashes,
    chunk_of,
    prove_fraud,
)
from treaty.protocol.secagg_enrolment import CoordinatorEpoch
from treaty.protocol.secagg_messages import AuditCalled, SumDisputed, SumsAudited, SurvivorsSealed
from treaty.protocol.secure_round import EpochPhase
from treaty.protocol.statements import Predicate
from treaty.protocol.study import Study
from treaty.studies.progress import Stage

__all__ = ["AuditDriver", "Auditor", "claims_hold"]

Order = tuple[Predicate, tuple[bytes, ...]]

MAX_WAITS = 5
"""Deadlines that an audit may pass before a study that is not finished halts."""

DISPUTE_KEY = "dispute/"

Sender = Callable[[Predicate, tuple[tuple[Digest, bytes], ...]], None]
"""Puts a statement with its blobs into the next post, or refuses (`PolicyError`)."""


class AuditDriver:
    """The coordinator's side: when to call, what to hand out, how long to wait."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._study: Study | None = None
        self._held = False
        self._waits = 0
        self._offered = ""

    @property
    def waits(self) -> bool:
        """Say whether an audit is under way."""
        return self._study is not None and self._study.audit is not None

    @property
    def is_patient(self) -> bool:
        """Say whether an audit may pass further deadlines."""
        return self._waits < MAX_WAITS

    def follow(self, study: Study | None) -> None:
        """Take the study as the log now tells it."""
        if study is None or study.audit is None:
            self._waits = 0
        if study is None or study.round is None:
            self._held = False
        self._study = study

    def holds(self, sealed: SurvivorsSealed) -> bool:
        """Say whether survivors must wait for an audit: unaudited sums are of other members."""
        names = tuple(one.member for one in sealed.survivors)
        cases = () if self._study is None else self._study.unaudited
        differs = any(case.round.members_in != names for case in cases)
        self._held = self._held or differs
        return differs

    def release(self, study: Study) -> bool:
        """Say, once, that survivors which were held may be named now."""
        released = self._held and not study.unaudited and study.round is not None
        if released:
            self._held = False
        return released

    def next(
        self, base: dict[str, str], study: Study, epoch: CoordinatorEpoch | None
    ) -> list[Order] | None:
        """Return what an audit asks for now, nothing while it is under way, None without one."""
        self._study = study
        if not study.unaudited or study.halt_decided or study.progress.stage is Stage.HALTED:
            return None
        if study.audit is not None:
            return []
        closed = study.epoch is None or study.epoch.phase is EpochPhase.CLOSED
        spent = closed or epoch is None or epoch.exhausted
        due = study.round is None and (spent or study.progress.stage is Stage.COMPLETED)
        if not due and not self._held:
            return None
        hashes: dict[str, dict[str, tuple[str, ...]]] = {
            case.result.digest: {
                name: chunk_hashes(self._blobs.get(Digest(header.blob)), case.opened.ring_bits)
                for name, header in case.headers.items()
            }
            for case in study.unaudited
        }
        listed = canonical.encode(ChunkList(hashes=hashes))
        results = tuple(case.result.digest for case in study.unaudited)
        return [(AuditCalled(**base, results=results, chunks=canonical.sha256(listed)), (listed,))]

    def deadline(self) -> list[Order]:
        """Let an audit pass a deadline; a study that waits in vain halts, unless it is finished."""
        study = self._study
        self._waits += 1
        if study is None or self._waits < MAX_WAITS or study.progress.stage is Stage.COMPLETED:
            return []
        halted = StudyHalted(
            charter=study.group.charter,
            author=study.group.coordinator,
            plan=study.identity,
            code=HaltCode.TOO_FEW_MEMBERS,
        )
        return [(halted, ())]

    def offer(self, study: Study, called: AuditCalled, engine: Engine) -> None:
        """Let the auditors of a call fetch chunks of masked inputs: once in this life."""
        if study.audit is None or study.audit.predicate != called or called.chunks == self._offered:
            return
        for case in study.unaudited:
            for header in case.headers.values():
                data, bits = self._blobs.get(Digest(header.blob)), case.opened.ring_bits
                for chunk in range(case.chunks):
                    piece = chunk_of(data, bits, chunk)
                    engine.offer(canonical.sha256(piece), piece)
        self._offered = called.chunks


@dataclass(frozen=True, slots=True)
class Dispute:
    """A published sum is false, and this proves it."""

    result: Digest
    proof: bytes


class Auditor:
    """One member's side of audits, over its mirror of the log."""

    def __init__(
        self, name: MemberId, mirror: Mirror, store: EventStore, journal: Journal, send: Sender
    ) -> None:
        self._name = name
        self._mirror = mirror
        self._store = store
        self._journal = journal
        self._send = send
        self._done: set[Digest] = set()
        self._disputed: dict[Digest, bool] = {}

    def disputes(self, study: Study) -> bool:
        """Say whether this member has proved a sum of `study` false. Asked at every feed."""
        known = self._disputed.get(study.identity)
        if known is None:
            known = self._store.get(DISPUTE_KEY + study.identity) is not None
            self._disputed[study.identity] = known
        return known

    def follow(self, study: Study, besides: str | None) -> None:
        """Add up again the published sums that are this member's to audit; say what came out.

        What proves a false sum is durable before anything else: this member takes no further part
        in the study, and whoever gets the proof checks it without asking anybody. `besides` is a
        blob that is not to be stored with it.
        """
        if self._name not in study.group.members:
            return
        found = self._audit(study)
        if isinstance(found, SumsAudited):
            self._send(found, ())
        elif found is not None:
            proof = canonical.sha256(found.proof)
            put = (DISPUTE_KEY + study.identity, proof.encode())
            # The store is asked again, also when it fails now.
            self._disputed.pop(study.identity, None)
            self._mirror.write((put,), (found.proof,), "participant-dispute", besides=besides)
            self._journal.note("sum-disputed", f"result {found.result} is false, proof {proof}")
            statement = SumDisputed(
                charter=study.group.charter, author=self._name, result=found.result, proof=proof
            )
            self._send(statement, ((proof, found.proof),))

    def forget(self) -> None:
        """Audit again what may have been lost on its way."""
        self._done.clear()

    def _audit(self, study: Study) -> SumsAudited | Dispute | None:
        """Return what this member says about the sums under audit; None when nothing, now.

        A chunk that does not arrive is asked for again when the next feed comes. Hashes that do
        not lead to the signed roots are refused: they say nothing about the sum.
        """
        call = study.audit
        if call is None or call.digest in self._done or self._name in study.auditors:
            return None
        most = list_bytes(study.unaudited)
        try:
            listed = canonical.decode(
                self._mirror.document(Digest(call.predicate.chunks), most),
                ChunkList,
                limit=most,
            )
            for case in study.unaudited:
                found = self._audited(case, listed)
                if found is not None:
                    return found
        except ResourceError as error:
            self._journal.note("audit-waits", str(error))
            return None
        except PeerError as refusal:
            self._done.add(call.digest)
            self._journal.note(f"audit-refused.{code_of(refusal)}", str(refusal))
            return None
        self._done.add(call.digest)
        return SumsAudited(charter=study.group.charter, author=self._name, call=call.digest)

    def _audited(self, case: AuditCase, listed: ChunkList) -> Dispute | None:
        hashes = listed.hashes.get(case.result.digest, {})
        check_hashes(case, hashes)
        mine = [n for n in range(case.chunks) if self._name in assigned_members(case, n)]
        if not mine:
            return None
        total = self._mirror.document(Digest(case.result.predicate.sum), sum_bytes(case.opened))
        try:
            plan = case.plan()
        except (VerificationError, FormatError):
            # The published seeds are not those that the members committed to.
            plan = None
        piece = min(sum_bytes(case.opened), CHUNK_WORDS * case.opened.ring_bits // 8)
        for chunk in mine:
            pieces = {
                name: self._mirror.document(Digest(hashes[name][chunk]), piece)
                for name in case.headers
            }
            if plan is None or not check_chunk(case, plan, chunk, hashes, pieces, total):
                return Dispute(case.result.digest, prove_fraud(case, chunk, hashes, pieces))
        return None


def claims_hold(study: Study | None, total: RingVector, journal: Journal) -> bool:
    """Say whether the claims of the open round bound what was added to `total`, if it has any."""
    try:
        if study is not None and study.round is not None:
            check_claims(study.round, total)
    except VerificationError as refusal:
        journal.note(f"claims-refused.{code_of(refusal)}", str(refusal))
        return False
    return True
