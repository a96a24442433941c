"""Performing: a member's part in epochs and rounds, as the folded log asks for it.

The machines of `treaty.protocol` decide; this module derives from the log which event is due,
computes inputs, and performs what the machines order: persist, then send.

Invariants (docs/spec/secagg.md):
  * A masked input leaves only if the gate lets its class of sum be opened over so many members, and
    so often, and input and answer only for members of whom enough surely support every column.
  * What an input costs stands in the site's ledger before it is masked.
  * The vector before masking is stored with the slot, so that a repeated slot masks the same one.
  * What went wrong with the rows stays in the journal; the log sees one closed code.
"""

import re
from collections.abc import Callable, Iterable

from treaty.aggregation.masking import Spread, mask_input
from treaty.aggregation.quantization import ring_vector
from treaty.crypto.canonical import sha256
from treaty.errors import (
    PeerError,
    PolicyError,
    ResourceError,
    TreatyError,
    UsageError,
    code_of,
)
from treaty.ids import Digest, MemberId
from treaty.node.admission import Admission
from treaty.node.bounds import COLUMN_BYTES
from treaty.node.contribution import claim_in
from treaty.node.mirror import Mirror
from treaty.node.noise_kept import kept_noise, noise_record, took_noise_off
from treaty.node.spending import Spending
from treaty.ports import Entropy, EventStore, Journal, SecretFile
from treaty.protocol.column_support import require_support
from treaty.protocol.ledger_trail import head_in
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
    InputLogged,
    InputReady,
    RosterFixed,
    RoundEnded,
    SlotPhase,
    SurvivorsAnnounced,
    noise_secret_name,
)
from treaty.protocol.secagg_lifecycle import EpochPhase as MemberPhase
from treaty.protocol.secagg_member import MemberSlot, lock_key
from treaty.protocol.secagg_messages import DeclineCode, InputDeclined, MaskedInput
from treaty.protocol.secure_round import EpochPhase, RoundRecord
from treaty.protocol.statements import Predicate
from treaty.protocol.study import Study
from treaty.protocol.surplus import surplus_secrets
from treaty.studies.queries import NOISED

__all__ = ["Performer", "Sender"]

LAST_EPOCH_KEY = "secagg/last-epoch"
PREMASK_KEY = "premask"
NOISE_KEY = "premask-noise"
NOISE_KEY_PREFIX = "noise-"

Sender = Callable[[Predicate, tuple[tuple[Digest, bytes], ...]], None]
"""Puts a statement with its blobs into the next post, or refuses (`PolicyError`)."""


class Performer:
    """One member's open epoch and slot, if any."""

    def __init__(
        self,
        *,
        name: MemberId,
        mirror: Mirror,
        admission: Admission,
        spending: Spending,
        store: EventStore,
        secrets: SecretFile,
        entropy: Entropy,
        journal: Journal,
        send: Sender,
        spread: Spread = map,
    ) -> None:
        self._name = name
        self._mirror = mirror
        self._admission = admission
        self._spending = spending
        self._store = store
        self._secrets = secrets
        self._entropy = entropy
        self._journal = journal
        self._send = send
        self._spread = spread
        self._epoch: MemberEpoch | None = None
        self._slot: MemberSlot | None = None
        self._refused: set[Digest] = set()
        self._lost: set[str] = set()
        self._premask: bytes | None = None
        self._noise: str | None = None
        self._recover()
        self._erase_orphans()

    @property
    def masked(self) -> str | None:
        """Return the digest of the masked vector of the open slot, if any."""
        if self._slot is None or self._slot.state.input is None:
            return None
        return self._slot.state.input.blob

    def repeat(self) -> None:
        """Do again what may have been lost before it was sent."""
        if self._epoch is not None:
            self._perform(self._epoch.repeat())
        if self._slot is not None:
            self._perform(self._slot.repeat())

    def follow_epoch(self, study: Study | None) -> None:
        """Do what the study's epoch asks of this member now; end an epoch that is over."""
        record = None if study is None else study.epoch
        if self._epoch is not None and (
            record is None
            or record.phase is EpochPhase.CLOSED
            or record.opened.digest != self._epoch.state.opened
        ):
            if self._epoch.phase is not MemberPhase.CLOSED:
                self._drive_epoch(EpochEnded())
            self._epoch = self._slot = None
        if study is None or record is None or record.phase is EpochPhase.CLOSED:
            return
        if self._name not in study.group.members:
            return
        if self._epoch is None:
            if record.phase is not EpochPhase.KEYS or self._name in record.keys:
                return
            self._mirror.require_present()
            if not self._admission.permits(self._mirror.state, study):
                return
            self._spending.admit(self._mirror.state, study)
            epoch, effects = MemberEpoch.begin(
                study.group,
                self._name,
                record.opened,
                plan=study.identity,
                last_epoch=self._last_epoch(study),
                seed=self._entropy.bytes(32),
            )
            self._epoch = epoch
            self._perform(effects)
        # What the log shows of this member is not done twice: its store may be an older copy.
        if (
            self._epoch.phase is MemberPhase.KEYS_SENT
            and record.roster is not None
            and self._epoch.epoch_hash is None
            and self._name not in record.shares
        ):
            secret = self._secret(self._epoch.secret_name)
            if secret is None:
                return
            self._drive_epoch(RosterFixed(record.roster, tuple(record.keys.values()), secret))
        if (
            self._epoch.phase is MemberPhase.DEALT
            and record.sealed is not None
            and self._name not in record.ready
        ):
            secret = self._secret(self._epoch.secret_name)
            if secret is None:
                return
            try:
                columns = {
                    dealer: self._mirror.document(
                        Digest(record.shares[MemberId(dealer)].predicate.columns[self._name]),
                        COLUMN_BYTES,
                    )
                    for dealer in record.sealed.predicate.dealers
                    if self._name in record.shares[MemberId(dealer)].predicate.columns
                }
            except ResourceError as error:
                # Nothing is lost yet: they are looked for again whenever a feed comes.
                self._journal.note("column-missing", str(error))
                return
            self._drive_epoch(
                DealingSealed(
                    record.sealed,
                    {str(name): one for name, one in record.shares.items()},
                    columns,
                    secret,
                )
            )

    def _drive_epoch(self, event: RosterFixed | DealingSealed | EpochEnded | Persisted) -> None:
        if self._epoch is None:
            raise UsageError("no epoch is open at this member")
        self._epoch, effects = self._epoch.step(event)
        self._perform(effects)

    def follow_round(self, study: Study) -> None:
        """Do what the study's round asks of this member now; end a slot that is over."""
        record = study.round
        slot = self._slot
        if slot is not None and (record is None or record.context != slot.context):
            if slot.phase is not SlotPhase.CLOSED:
                self._drive_slot(RoundEnded(took_noise_off(study, slot)))
            self._slot = None
        if record is None or self._epoch is None or self._name not in record.participants:
            return
        if self._slot is None:
            if self._name in record.inputs or self._name in record.declined or record.sealed:
                return
            if record.context in self._refused:
                return
            self._open_slot(study, record)
        if self._slot is not None and record.sealed is not None:
            self._answer(study, record)

    def _open_slot(self, study: Study, record: RoundRecord) -> None:
        if self._epoch is None:
            return
        opened = record.opened
        query = study.progress.expected_query()
        expected = study.expected_round(record.question)
        secret = self._secret(self._epoch.slot_secret_name(opened.predicate.slot))
        if secret is None:
            # Without its masks this member sits the round out, and says so to keep nobody waiting.
            self._refused.add(record.context)
            self._send(
                InputDeclined(
                    charter=study.group.charter,
                    author=self._name,
                    context=record.context,
                    code=DeclineCode.SITE_DECLINED,
                ),
                (),
            )
            return
        try:
            self._slot, effects = MemberSlot.begin(
                self._epoch,
                opened,
                expected,
                secret=secret,
                lock=self._store.get(lock_key(study.identity, record.question, query.model)),
                floor=self._last_slot_logged(study, opened.predicate.epoch_hash),
                freed=sorted(study.freed),
            )
        except (PeerError, PolicyError):
            self._refused.add(record.context)
            raise
        try:
            self._admission.require_sum(self._mirror.state, study, record, self._name)
            need = effects[0]
            event = self._input(study, record, need)
        except TreatyError as refusal:
            if isinstance(refusal, ResourceError):
                raise
            # The cause may say something about the rows: it stays here.
            self._journal.note(f"declined.{code_of(refusal)}", str(refusal))
            self._refused.add(record.context)
            self._drive_slot(Declined(DeclineCode.SITE_DECLINED))
            return
        self._drive_slot(event)

    def _last_slot_logged(self, study: Study, epoch_hash: str) -> int:
        """Return the highest slot of the epoch in which the log has an input of this member, or -1.

        Slots rise and an epoch's rounds follow one another, so the newest is the highest and the
        search ends with the epoch.
        """
        for past in reversed(study.rounds):
            if past.epoch_hash != epoch_hash:
                break
            if self._name in past.inputs:
                return past.slot
        return -1

    def _input(self, study: Study, record: RoundRecord, need: NeedInput) -> InputReady:
        """Compute, quantise, pay for and mask this site's contribution; nothing has left yet."""
        query = study.progress.expected_query()
        held = None if need.vector is None else self._store.get(PREMASK_KEY)
        if held is not None and sha256(held) == need.vector:
            vector = ring_vector(held, need.ring_bits, need.length).copy()
            noise, surplus = kept_noise(self._store.get(NOISE_KEY), study.group)
            keys = None
        else:
            if need.vector is not None and query.kind in NOISED:
                # The vector went with its epoch. Another one may not be sent: it is not drawn, and
                # not paid for.
                raise PolicyError(
                    "this release was answered with a vector that is gone: halt the study",
                    code="vector-differs",
                )
            local = self._admission.prepared(study)
            answer = local.answer(
                query,
                study.progress,
                self._entropy.bytes(32),
                study.group.cohort,
                opens=self._admission.opens_surplus(self._mirror.state),
            )
            vector, noise, surplus = answer.vector, answer.noise, answer.surplus
            keys = None
            if answer.keys is not None and surplus:
                # The base key is not among them: it leaves this function nowhere.
                keys = surplus_secrets(record.question, answer.keys.surplus)
            if answer.keys is not None and self._admission.keeps_noise_keys:
                drawn = (answer.keys.base, *answer.keys.surplus)
                for commitment, key in zip((noise, *surplus), drawn, strict=True):
                    self._secrets.write(f"{NOISE_KEY_PREFIX}{commitment}", key)
        # The one place where a vector is paid for: noised if it is to be, not yet masked or kept.
        premask = vector.tobytes()
        digest = sha256(premask)
        paid = self._spending.pay(study, record, query, digest)
        self._premask = premask
        self._noise = noise_record(noise, surplus, study.group)
        root = mask_input(vector, need.plan, need.ring_bits, spread=self._spread)
        blob = self._mirror.keep(vector.tobytes())
        return InputReady(digest, root, blob, noise, paid, surplus, keys)

    def _answer(self, study: Study, record: RoundRecord) -> None:
        slot = self._slot
        if slot is None or record.sealed is None:
            return
        secret = noise = claim = None
        if slot.phase in (SlotPhase.INPUT_SENT, SlotPhase.CONFIRMED):
            secret = self._secret(slot.epoch.slot_secret_name(slot.slot))
            if secret is None:
                return
            if record.claim_bound is not None:
                claim = claim_in(record, self._store.get(PREMASK_KEY), slot.state.lock)
            if slot.state.input is not None and slot.state.input.surplus:
                name = noise_secret_name(slot.epoch.number)
                # Asked again: an answer that may not leave would open nothing at all.
                if self._admission.opens_surplus(self._mirror.state):
                    noise = self._secret(name)
                else:
                    # Prevents keys for another set, once a policy and an older store are put back.
                    self._secrets.erase(name)
        if slot.phase is SlotPhase.INPUT_SENT:
            require_support(study, record.members_in)
            first, *others = record.inputs.values()
            self._drive_slot(InputLogged(first, tuple(others)))
            self._drive_slot(SurvivorsAnnounced(record.sealed, secret, noise, claim))
        slot = self._slot
        if slot is not None and slot.phase is SlotPhase.CONFIRMED:
            one, *more = record.confirmed.values() or (None,)
            if one is not None:
                known = tuple(filter(None, more))
                self._drive_slot(ConfirmationLogged(one, secret, known, noise, claim))

    def _secret(self, name: str) -> bytes | None:
        """Return a secret of the open epoch, or None where it is lost: the member sits out."""
        try:
            return self._secrets.read(name)
        except ResourceError as error:
            if name not in self._lost:
                self._lost.add(name)
                self._journal.note("secret-lost", f"{error}; this member takes part again later")
            return None

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

    def _perform(self, effects: Iterable[Effect]) -> None:
        effects = tuple(effects)
        # Secrets that are ordered together, an epoch's slots, are one durable write.
        secrets = {one.name: one.data for one in effects if isinstance(one, StoreSecret)}
        if secrets:
            self._secrets.write_all(secrets)
        for effect in effects:
            match effect:
                case StoreSecret():
                    continue
                case EraseSecret():
                    self._secrets.erase(effect.name)
                case Persist():
                    self._persist(effect)
                case Send():
                    self._send(
                        effect.predicate,
                        tuple((one, self._mirror.held(one)) for one in effect.blobs),
                    )
                    slot = self._slot
                    if isinstance(effect.predicate, MaskedInput) and slot and slot.state.lock:
                        plan, vector = slot.state.opened.plan, slot.state.lock.vector
                        self._spending.sent(Digest(plan), Digest(vector))
                case NeedInput():
                    raise UsageError("inputs are computed where the round is opened")

    def _persist(self, effect: Persist) -> None:
        puts = list(effect.records)
        if self._premask is not None:
            puts.append((PREMASK_KEY, self._premask))
            puts.append((NOISE_KEY, b"" if self._noise is None else self._noise.encode()))
            self._premask = self._noise = None
        elif self._epoch is not None and self._epoch.phase is MemberPhase.CLOSED:
            # What a retry would have needed is of no use once the epoch is over.
            puts += [(PREMASK_KEY, b""), (NOISE_KEY, b"")]
        slot = self._slot
        if slot is not None and slot.phase is SlotPhase.INPUT_PERSISTING and slot.state.input:
            puts += self._spending.record(self._mirror.state, head_in(slot.state.input))
        if self._epoch is not None:
            puts.append((LAST_EPOCH_KEY, str(self._epoch.number).encode()))
        masked = tuple(self._mirror.held(one) for one in self._masked_blobs())
        self._mirror.write(
            puts,
            (*effect.blobs, *masked),
            f"participant-{_label(effect.token)}",
            besides=self.masked,
        )
        for data in effect.blobs:
            self._mirror.keep(data)
        if self._slot is not None and any(key == SLOT_KEY for key, _ in effect.records):
            self._drive_slot(Persisted(effect.token))
        else:
            self._drive_epoch(Persisted(effect.token))

    def _masked_blobs(self) -> tuple[Digest, ...]:
        slot = self._slot
        if slot is None or slot.phase is not SlotPhase.INPUT_PERSISTING or slot.state.input is None:
            return ()
        return (Digest(slot.state.input.blob),)

    def _last_epoch(self, study: Study) -> int:
        stored = self._store.get(LAST_EPOCH_KEY)
        # The log remembers epochs that a restored store forgot.
        logged = 0 if study.epoch is None else study.epoch.number - 1
        return max(logged, int(stored) if stored else 0)

    def _recover(self) -> None:
        study = self._mirror.state.running
        if study is None:
            return
        stored = self._store.get(EPOCH_KEY)
        if stored is None:
            return
        try:
            self._epoch = MemberEpoch.restore(study.group, self._name, stored)
            slot = self._store.get(SLOT_KEY)
            if slot is not None and self._epoch.epoch_hash is not None:
                self._slot = MemberSlot.restore(self._epoch, slot)
        except (PeerError, PolicyError) as refusal:
            self._journal.note("stored-epoch-closed", str(refusal))

    def _erase_orphans(self) -> None:
        """Erase slot and epoch secrets that no stored record can use any more.

        A process may end between a secret and its record, and a stored epoch may be closed.
        """
        own = "" if self._epoch is None else self._epoch.secret_name
        for name in self._secrets.names():
            if name.startswith("epoch-") and name != own and not name.startswith(f"{own}-slot-"):
                self._secrets.erase(name)


_NO_LETTERS = re.compile(r"[^a-z]+")


def _label(token: str) -> str:
    """Return a persist point's name from a machine's token: its words, without the numbers."""
    return _NO_LETTERS.sub("-", token.lower()).strip("-")[:48]
