"""Participant: one member's own software. It mirrors the log, enforces the charter, contributes.

Everything a member does follows from the folded log and its own durable state: after every feed
the duties are derived anew (`_duties`), so a restart, a repeated feed or a lost answer all end in
the same place. The order is the law: check, fold, persist, send.

Invariants (docs/spec/protocol.md, section 3):
  * New entries are accepted only if they lead from this member's own tree to a checkpoint that the
    log key signed; otherwise the member keeps what it has and signs nothing (``split-view``).
  * Nothing leaves without the gate's consent: every field of every statement, and the class of the
    sum that a masked input will be part of.
  * No policy loaded means nothing is allowed. Causes stay in the journal; the log sees a code.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from treaty.aggregation.masking import mask_input
from treaty.aggregation.quantization import ring_vector
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import (
    PeerError,
    PolicyError,
    ResourceError,
    TreatyError,
    UsageError,
    VerificationError,
)
from treaty.governance.exposure import ExposureMatrix
from treaty.governance.site_policy import (
    SitePolicy,
    StudyRequest,
    effective_matrix,
    permit_study,
)
from treaty.ids import Digest, MemberId
from treaty.models.specification import max_rounds
from treaty.node.contribution import LocalStudy
from treaty.node.log_keeper import LogKeeper
from treaty.ports import (
    Batch,
    BlobStore,
    Clock,
    DataSource,
    Engine,
    Entropy,
    EventStore,
    Journal,
    SecretFile,
    Trainer,
)
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Feed, Post, decode_feed, encode_frame
from treaty.protocol.gate import check_statement, check_sum
from treaty.protocol.messages import Figures, SiteReported, TimeStated
from treaty.protocol.secagg_effects import (
    Effect,
    EraseSecret,
    NeedInput,
    Persist,
    Persisted,
    Send,
    StoreSecret,
)
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_lifecycle import (
    EPOCH_KEY,
    SLOT_KEY,
    ConfirmationLogged,
    DealingSealed,
    Declined,
    EpochEnded,
    Expected,
    InputLogged,
    InputReady,
    RosterFixed,
    RoundEnded,
    SlotPhase,
    SurvivorsAnnounced,
)
from treaty.protocol.secagg_lifecycle import EpochPhase as MemberPhase
from treaty.protocol.secagg_member import MemberSlot, lock_key
from treaty.protocol.secagg_messages import DeclineCode
from treaty.protocol.secure_round import EpochPhase, RoundRecord
from treaty.protocol.statements import Predicate, peek, seal_statement
from treaty.protocol.study import Study
from treaty.studies.progress import Stage

__all__ = ["Participant", "ParticipantKeys"]

LOG_STREAM = "log"
CHECKPOINT_KEY = "checkpoint"
LAST_EPOCH_KEY = "secagg/last-epoch"
APPROVED_KEY = "approved/"
PREMASK_KEY = "premask"

CLOCK_TOLERANCE_MS = 24 * 3600 * 1000
"""How far the log's clock may be from this member's before it refuses the entry."""

ATTACH_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class ParticipantKeys:
    """The member's unattended keys: one signs its statements in rounds, one cosigns checkpoints."""

    runner: SigningKey = field(repr=False)
    witness: SigningKey = field(repr=False)


class Participant:
    """A member's node over its ports."""

    def __init__(
        self,
        *,
        name: MemberId,
        coordinator: MemberId,
        keys: ParticipantKeys,
        anchor: Digest,
        store: EventStore,
        blobs: BlobStore,
        secrets: SecretFile,
        engine: Engine,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        source: DataSource,
        trainer: Trainer,
        policy: SitePolicy | None,
        on_change: Callable[[Consortium], None] | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.journal = journal
        self._coordinator = coordinator
        self._keys = keys
        self._store = store
        self._blobs = blobs
        self._secrets = secrets
        self._clock = clock
        self._entropy = entropy
        self._source = source
        self._trainer = trainer
        self._policy = policy
        self._on_change = on_change
        self._state = Consortium(anchor)
        self._log = LogKeeper()
        self._note = ""
        self._epoch: MemberEpoch | None = None
        self._slot: MemberSlot | None = None
        self._local: LocalStudy | None = None
        self._refused: set[str] = set()
        self._reported: set[Digest] = set()
        self._outgoing: list[tuple[bytes, dict[Digest, bytes]]] = []
        self._unwritten: list[bytes] = []
        self._fresh: dict[Digest, bytes] = {}
        self._sent = 0
        self._premask: bytes | None = None
        self._recover()

    @property
    def state(self) -> Consortium:
        """Return the folded log as this member has verified it."""
        return self._state

    @property
    def size(self) -> int:
        """Return how many entries of the log this member holds."""
        return self._log.size

    def local_study(self, study: Study) -> LocalStudy:
        """Return this site's own side of `study`. For the site itself, never for peers."""
        return self._prepared(study)

    # --- reacting -----------------------------------------------------------------------------

    def handle(self, sender: MemberId, frame: bytes) -> None:
        """Take one feed: verify, fold, do what follows, persist, answer."""
        if sender != self._coordinator:
            raise VerificationError(
                f"a feed came from {sender}, expected {self._coordinator}", code="wrong-author"
            )
        feed = decode_feed(frame)
        if feed.first > self._log.size or not feed.entries:
            # A gap, or a question for our size: say where we are.
            self._post()
            return
        state, log, entries = self._verified(feed)
        if not entries:
            self._post()
            return
        self._state, self._log, self._note = state, log, feed.checkpoint
        self._unwritten, self._fresh = entries, dict(feed.blobs)
        self._duties()
        self._write((), (), "participant-mirror")
        self._post()
        if self._on_change is not None:
            self._on_change(self._state)

    def flush(self) -> bool:
        """Nothing waits here."""
        return False

    def on_quiet(self) -> bool:
        """A member waits for the coordinator; nothing passes here."""
        return False

    def start(self) -> None:
        """Say where this member's log ends, and do again what may have been lost."""
        if self._epoch is not None:
            self._perform(self._epoch.repeat())
        if self._slot is not None and self._slot.phase is not SlotPhase.ANSWERED:
            self._perform(self._slot.repeat())
        if self._slot is not None and self._slot.phase is SlotPhase.ANSWERED:
            self._perform(self._slot.repeat())
        if self._state.membership is not None:
            self._duties()
        self._post()

    def submit(self, statement: bytes, blobs: Mapping[Digest, bytes] | None = None) -> None:
        """Send a statement that an officer of this member signed, with its documents."""
        self._outgoing.append((statement, dict(blobs or {})))
        self._post()

    def approve_plan(self, plan: Digest) -> None:
        """Record the officer's approval of a plan that the policy does not approve by itself."""
        self._store.commit(
            Batch(puts=((APPROVED_KEY + plan, b"approved"),), label="participant-approve")
        )
        self._refused.discard(plan)
        self._duties()
        self._post()

    # --- verifying ----------------------------------------------------------------------------

    def _verified(self, feed: Feed) -> tuple[Consortium, LogKeeper, list[bytes]]:
        """Return the state and log after the feed's new entries, all checked; nothing is changed."""
        known = self._log.size - feed.first
        if known:
            mine = self._store.read(LOG_STREAM, feed.first, min(known, len(feed.entries)))
            if tuple(mine) != feed.entries[:known]:
                raise VerificationError(
                    f"entry {feed.first} or later differs from this member's copy: keep both as "
                    "evidence of a fork and call the other members",
                    code="split-view",
                )
        entries = list(feed.entries[known:])
        if not entries:
            return self._state, self._log, []
        state = self._state
        documents = self._documents(feed.blobs)
        for entry in entries:
            state, verified = state.apply(entry, documents)
            body = verified.predicate
            if (
                isinstance(body, TimeStated)
                and abs(body.at - self._clock.now()) > CLOCK_TOLERANCE_MS
            ):
                raise VerificationError(
                    f"the log's clock says {body.at}, this member's {self._clock.now()}",
                    code="clock-skew",
                )
        log = self._log.extended(entries)
        log.check_note(feed.checkpoint, state.charter)
        return state, log, entries

    def _documents(self, attached: Mapping[Digest, bytes]) -> Callable[[Digest], bytes]:
        def find(digest: Digest) -> bytes:
            if digest in attached:
                return attached[digest]
            if self._blobs.has(digest):
                return self._blobs.get(digest)
            return self.engine.fetch(digest)

        return find

    # --- duties -------------------------------------------------------------------------------

    def _duties(self) -> None:
        """Do everything that the folded log asks of this member and that it may do."""
        study = self._state.running
        try:
            self._epoch_duty(study)
            if study is not None:
                self._round_duty(study)
            self._report_duty()
        except (PeerError, PolicyError) as refusal:
            code = getattr(refusal, "code", type(refusal).__name__)
            self.journal.note(f"refused.{code}", str(refusal))

    def _epoch_duty(self, study: Study | None) -> None:
        record = None if study is None else study.epoch
        if self._epoch is not None and (
            record is None
            or record.phase is EpochPhase.CLOSED
            or record.number != self._epoch.number
        ):
            if self._epoch.phase is not MemberPhase.CLOSED:
                self._drive_epoch(EpochEnded())
            self._epoch = self._slot = None
        if study is None or record is None or record.phase is EpochPhase.CLOSED:
            return
        if self.name not in study.group.members:
            return
        if self._epoch is None:
            if record.phase is not EpochPhase.KEYS or self.name in record.keys:
                return
            if not self._permits(study):
                return
            epoch, effects = MemberEpoch.begin(
                study.group,
                self.name,
                record.opened,
                plan=study.identity,
                last_epoch=self._last_epoch(),
                seed=self._entropy.bytes(32),
            )
            self._epoch = epoch
            self._perform(effects)
        if (
            self._epoch.phase is MemberPhase.KEYS_SENT
            and record.roster is not None
            and self._epoch.epoch_hash is None
        ):
            self._drive_epoch(
                RosterFixed(
                    record.roster,
                    tuple(record.keys.values()),
                    self._secrets.read(self._epoch.secret_name),
                )
            )
        if self._epoch.phase is MemberPhase.DEALT and record.sealed is not None:
            documents = self._documents(self._fresh)
            columns = {
                dealer: documents(
                    Digest(record.shares[MemberId(dealer)].predicate.columns[self.name])
                )
                for dealer in record.sealed.predicate.dealers
                if dealer != self.name
            }
            self._drive_epoch(
                DealingSealed(
                    record.sealed,
                    {str(name): one for name, one in record.shares.items()},
                    columns,
                    self._secrets.read(self._epoch.secret_name),
                )
            )

    def _drive_epoch(self, event: RosterFixed | DealingSealed | EpochEnded | Persisted) -> None:
        if self._epoch is None:
            raise UsageError("no epoch is open at this member")
        self._epoch, effects = self._epoch.step(event)
        self._perform(effects)

    def _round_duty(self, study: Study) -> None:
        record = study.round
        slot = self._slot
        if slot is not None and (record is None or record.context != slot.context):
            if slot.phase not in (SlotPhase.CLOSED,):
                self._drive_slot(RoundEnded())
            self._slot = None
        if record is None or self._epoch is None or self.name not in record.participants:
            return
        if self._slot is None:
            if self.name in record.inputs or self.name in record.declined or record.sealed:
                return
            if record.context in self._refused:
                return
            self._open_slot(study, record)
        if self._slot is not None and record.sealed is not None:
            self._answer(record)

    def _open_slot(self, study: Study, record: RoundRecord) -> None:
        if self._epoch is None:
            return
        opened = record.opened
        query = study.progress.expected_query()
        expected = Expected(
            plan=study.identity,
            query=query.digest,
            code=Digest(study.plan.code),
            model=query.model,
            length=query.layout.length,
            ring_bits=query.layout.ring_bits,
            round=study.progress.index,
            previous=study.last_result,
        )
        used = [
            past.opened.predicate.slot
            for past in study.rounds
            if past.opened.predicate.epoch_hash == opened.predicate.epoch_hash
            and self.name in past.inputs
        ]
        try:
            secret = self._secrets.read(self._epoch.slot_secret_name(opened.predicate.slot))
            self._slot, effects = MemberSlot.begin(
                self._epoch,
                opened,
                expected,
                secret=secret,
                lock=self._store.get(lock_key(study.identity, query.digest, query.model)),
                floor=max(used, default=-1),
            )
        except (PeerError, PolicyError, ResourceError):
            self._refused.add(record.context)
            raise
        try:
            check_sum(self._matrix(), query.kind.artefact, members=study.group.min_survivors)
            need = effects[0]
            event = self._input(study, need)
        except TreatyError as refusal:
            if isinstance(refusal, ResourceError):
                raise
            # The cause may say something about the rows: it stays here.
            self.journal.note(
                f"declined.{getattr(refusal, 'code', type(refusal).__name__)}", str(refusal)
            )
            self._refused.add(record.context)
            self._drive_slot(Declined(DeclineCode.SITE_DECLINED))
            return
        self._drive_slot(event)

    def _input(self, study: Study, need: NeedInput) -> InputReady:
        """Compute, quantise and mask this site's contribution; nothing has left yet."""
        query = study.progress.expected_query()
        held = self._store.get(PREMASK_KEY)
        if need.vector is not None and held is not None and sha256(held) == need.vector:
            vector = ring_vector(held, need.ring_bits, need.length).copy()
        else:
            local = self._prepared(study)
            vector = local.answer(query, study.progress, self._entropy.bytes(32)).vector
        held = vector.tobytes()
        self._premask = held
        digest = sha256(held)
        root = mask_input(vector, need.plan, need.ring_bits)
        masked = vector.tobytes()
        blob = sha256(masked)
        self._fresh[blob] = masked
        return InputReady(digest, root, blob)

    def _answer(self, record: RoundRecord) -> None:
        slot = self._slot
        if slot is None or record.sealed is None:
            return
        if slot.phase is SlotPhase.INPUT_SENT:
            for header in record.inputs.values():
                self._drive_slot(InputLogged(header))
            self._drive_slot(SurvivorsAnnounced(record.sealed, self._slot_secret()))
        slot = self._slot
        if slot is not None and slot.phase is SlotPhase.CONFIRMED:
            for confirmed in record.confirmed.values():
                if self._slot is not None and self._slot.phase is SlotPhase.CONFIRMED:
                    self._drive_slot(ConfirmationLogged(confirmed, self._slot_secret()))

    def _slot_secret(self) -> bytes | None:
        if self._epoch is None or self._slot is None:
            return None
        return self._secrets.read(self._epoch.slot_secret_name(self._slot.slot))

    def _drive_slot(
        self,
        event: InputReady
        | Declined
        | InputLogged
        | SurvivorsAnnounced
        | ConfirmationLogged
        | RoundEnded
        | Persisted,
    ) -> None:
        if self._slot is None:
            raise UsageError("no round is open at this member")
        self._slot, effects = self._slot.step(event)
        self._epoch = self._slot.epoch
        self._perform(effects)

    def _report_duty(self) -> None:
        """Send this site's own figures where plan, charter and site policy all say so."""
        for study in self._state.studies.values():
            if (
                not study.plan.evaluation.site_figures
                or study.progress.stage is not Stage.COMPLETED
                or self.name in study.reports
                or study.identity in self._reported
                or self.name not in study.group.members
                or self._local is None
            ):
                continue
            self._reported.add(study.identity)
            figures = self._local.figures(study.progress, self._entropy.bytes(32))
            if figures is None:
                continue
            federated, alone = (
                Figures(accuracy=one.accuracy, auc=one.auc, brier=one.brier) for one in figures
            )
            self._send(
                SiteReported(
                    charter=study.group.charter,
                    author=self.name,
                    plan=study.identity,
                    model=study.progress.model_digest,
                    federated=federated,
                    alone=alone,
                ),
                (),
            )

    # --- policy -------------------------------------------------------------------------------

    def _matrix(self) -> ExposureMatrix:
        history = self._state.members.history
        return effective_matrix(history.current, self._policy, matrix=history.matrix())

    def _permits(self, study: Study) -> bool:
        """Say whether this site takes part: its policy, and its officer where that asks for one."""
        if study.identity in self._refused:
            return False
        try:
            local = self._prepared(study)
            at_once = permit_study(
                self._state.charter,
                self._policy,
                StudyRequest(
                    study=study.plan.study,
                    plan_digest=study.identity,
                    purpose=study.plan.purpose,
                    model_kind=str(type(study.plan.model).__struct_config__.tag),
                    rounds=max_rounds(study.plan.model) + 3,
                    rows=local.data.training.rows + local.data.holdout.rows,
                    data_use=study.plan.data_use,
                ),
            )
        except (PolicyError, UsageError) as refusal:
            self.journal.note(f"study-refused.{getattr(refusal, 'code', 'data')}", str(refusal))
            self._refused.add(study.identity)
            return False
        if at_once or self._store.get(APPROVED_KEY + study.identity) is not None:
            return True
        self.journal.note("study-waits", f"plan {study.identity} waits for the officer's approval")
        self._refused.add(study.identity)
        return False

    def _prepared(self, study: Study) -> LocalStudy:
        if self._local is None or self._local.plan != study.plan:
            split = study.plan.split
            data = self._source.load(
                study.contract, holdout_permille=split.holdout_permille, seed=split.seed
            )
            self._local = LocalStudy(study.plan, data, self._trainer)
        return self._local

    # --- performing ---------------------------------------------------------------------------

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case StoreSecret():
                    self._secrets.write(effect.name, effect.data)
                case EraseSecret():
                    self._secrets.erase(effect.name)
                case Persist():
                    self._persist(effect)
                case Send():
                    documents = self._documents(self._fresh)
                    self._send(
                        effect.predicate, tuple((one, documents(one)) for one in effect.blobs)
                    )
                case NeedInput():
                    raise UsageError("inputs are computed where the round is opened")

    def _persist(self, effect: Persist) -> None:
        puts = list(effect.records)
        if self._premask is not None:
            puts.append((PREMASK_KEY, self._premask))
            self._premask = None
        if self._epoch is not None:
            puts.append((LAST_EPOCH_KEY, str(self._epoch.number).encode()))
        masked = tuple(self._fresh[one] for one in self._masked_blobs(effect))
        self._write(tuple(puts), (*effect.blobs, *masked), f"participant-{_label(effect.token)}")
        for data in effect.blobs:
            self._fresh[sha256(data)] = data
        if self._slot is not None and any(key == SLOT_KEY for key, _ in effect.records):
            self._drive_slot(Persisted(effect.token))
        else:
            self._drive_epoch(Persisted(effect.token))

    def _masked_blobs(self, effect: Persist) -> tuple[Digest, ...]:
        slot = self._slot
        if slot is None or slot.phase is not SlotPhase.INPUT_PERSISTING or slot.state.input is None:
            return ()
        return (Digest(slot.state.input.blob),)

    def _write(
        self, puts: tuple[tuple[str, bytes], ...], blobs: tuple[bytes, ...], label: str
    ) -> None:
        """One durable transaction: the mirror's new entries and whatever else is due."""
        if not self._unwritten and not puts and not blobs:
            return
        appends: tuple[tuple[str, int, tuple[bytes, ...]], ...] = ()
        if self._unwritten:
            start = self._log.size - len(self._unwritten)
            appends = ((LOG_STREAM, start, tuple(self._unwritten)),)
            puts = (*puts, (CHECKPOINT_KEY, self._note.encode()))
            brought = self._documents_kept()
            blobs = (*blobs, *brought)
        self._store.commit(Batch(appends=appends, puts=puts, blobs=blobs, label=label))
        self._unwritten = []

    def _documents_kept(self) -> tuple[bytes, ...]:
        """Return the blobs of this feed that the mirror needs: documents and opened sums."""
        masked = {
            self._slot.state.input.blob
            if self._slot is not None and self._slot.state.input is not None
            else None
        }
        return tuple(data for digest, data in self._fresh.items() if digest not in masked)

    def _send(self, predicate: Predicate, blobs: tuple[tuple[Digest, bytes], ...]) -> None:
        """Put a statement into the next post, if the gate lets every field of it leave."""
        members = len(self._state.members.history.effective().active_members())
        check_statement(self._matrix(), predicate, members=members)
        self._outgoing.append((seal_statement(predicate, self._keys.runner), dict(blobs)))

    def _post(self) -> None:
        """Send what is due, with this member's size and its cosignature of the newest checkpoint."""
        outgoing, self._outgoing = self._outgoing, []
        attached: dict[Digest, bytes] = {}
        for _, blobs in outgoing:
            for digest, data in blobs.items():
                if len(data) > ATTACH_LIMIT_BYTES:
                    self.engine.offer(digest, data)
                else:
                    attached[digest] = data
        cosignature = ""
        if self._note and not self._unwritten:
            cosignature = self._log.cosign(
                self._note, self._keys.witness, self.name, self._clock.now()
            )
        frame = encode_frame(
            Post(
                self.name,
                self._log.size,
                cosignature,
                tuple(statement for statement, _ in outgoing),
                attached,
            )
        )
        self._sent += 1
        try:
            self.engine.send(self._coordinator, frame, f"{self._sent}")
        except ResourceError as error:
            # What it held is derived again from durable state at the next start.
            self.journal.note("unreachable", str(error))

    # --- starting -----------------------------------------------------------------------------

    def _last_epoch(self) -> int:
        stored = self._store.get(LAST_EPOCH_KEY)
        study = self._state.running
        # The log remembers epochs that a restored store forgot.
        logged = 0 if study is None or study.epoch is None else study.epoch.number - 1
        return max(logged, int(stored) if stored else 0)

    def _recover(self) -> None:
        entries = self._store.read(LOG_STREAM)
        state = self._state
        for entry in entries:
            state, _ = state.apply(entry, self._documents({}))
        self._state = state
        self._log = self._log.extended(entries)
        self._note = (self._store.get(CHECKPOINT_KEY) or b"").decode()
        self._sent = self._clock.now() * 1000
        study = state.running
        if study is None:
            return
        stored = self._store.get(EPOCH_KEY)
        if stored is None:
            return
        try:
            self._epoch = MemberEpoch.restore(study.group, self.name, stored)
            slot = self._store.get(SLOT_KEY)
            if slot is not None and self._epoch.epoch_hash is not None:
                self._slot = MemberSlot.restore(self._epoch, slot)
        except (PeerError, PolicyError) as refusal:
            self.journal.note("stored-epoch-closed", str(refusal))


def _label(token: str) -> str:
    """Return a persist point's name from a machine's token."""
    kept = "".join(char if char.isalnum() else "-" for char in token.lower())
    return "-".join(part for part in kept.split("-") if part and not part.isdigit())[:48]


def statement_kind(statement: bytes) -> str:
    """Return the name of a statement's predicate type, for journals."""
    return type(peek(statement)[1]).__name__
