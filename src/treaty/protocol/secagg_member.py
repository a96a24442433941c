"""Round of a member: one input, one answer, for one context.

AwaitingInput -> InputPersisting -> InputSent -> [ConfirmPersisting -> Confirmed ->]
AnswerPersisting -> Answered -> Closed, or Aborted when the site declines. Invariants
(docs/spec/secagg.md, section 6):
  * One input per slot and one set of survivors per slot, each on disk before it is sent; what
    was sent is sent again byte for byte, and nothing else.
  * An answer holds one share per participant: of the self seed for a survivor, of the round seed
    for one that dropped out. Never both for one member.
  * Nothing is revealed for fewer than `min_survivors` survivors, for a set that lacks this
    member or alters its input, or for inputs of another context.
  * One question (plan, query without its number, model) is answered for one set of survivors and
    with one vector before masking, in whichever slots it is asked (the *lock*).
  * Keys of surplus noise are opened in the answer alone, and for one set of survivors.

A member runs one slot at a time. The bulk data never enter: the machine orders `NeedInput` with a
mask plan and takes digests back. The order in which statements are logged is the coordinator's;
nothing here depends on it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from treaty.crypto import canonical
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.protocol.machine import advance, expect
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
from treaty.protocol.secagg_expected import check_expected, check_participants
from treaty.protocol.secagg_keys import (
    SlotSecrets,
    context_of,
    mask_plan,
    survivors_digest,
)
from treaty.protocol.secagg_lifecycle import (
    EPOCH_KEY,
    SLOT_KEY,
    SLOT_TRANSITIONS,
    ConfirmationLogged,
    Declined,
    EpochPhase,
    Expected,
    Header,
    InputLogged,
    InputReady,
    Lock,
    RoundEnded,
    SlotEvent,
    SlotPhase,
    SlotState,
    SurvivorsAnnounced,
    lock_key,
    noise_secret_name,
)
from treaty.protocol.secagg_messages import (
    InputDeclined,
    LedgerMark,
    MaskedInput,
    Reveal,
    RoundOpened,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.statements import Verified
from treaty.protocol.surplus import open_keys

__all__ = [
    "SLOT_KEY",
    "ConfirmationLogged",
    "Declined",
    "Expected",
    "InputLogged",
    "InputReady",
    "MemberSlot",
    "RoundEnded",
    "SlotPhase",
    "SurvivorsAnnounced",
    "lock_key",
]


@dataclass(frozen=True, slots=True)
class MemberSlot:
    """One member's part in one round. `epoch` is the epoch's state, with used slots counted."""

    epoch: MemberEpoch
    state: SlotState

    @staticmethod
    def begin(
        epoch: MemberEpoch,
        opened: Verified[RoundOpened],
        expected: Expected,
        *,
        secret: bytes,
        lock: bytes | None = None,
        floor: int = -1,
        freed: Iterable[str] = (),
    ) -> tuple["MemberSlot", tuple[NeedInput]]:
        """Return the round, and the order to compute its input.

        `secret` is the content of the slot's file, `lock` the record stored under `lock_key`, if
        any, `floor` the highest slot of this epoch in which the log shows an input of this member,
        `freed` the members by whom a ratified `study.resume` lets the set differ from before.

        Refuses unless, in this order: 1 the epoch is ready and it is this one (``epoch-not-ready``,
        ``wrong-epoch``); 2 the slot exists and is new (``slot-out-of-range``, ``slot-used``);
        3 participants are dealers whose shares this member holds, in order, with it among
        them (``member-order``, ``not-a-member``, ``not-in-epoch``, ``not-a-participant``), and
        enough (``too-few-participants``); 4 everything else is what the member expects
        (``wrong-plan``, ``wrong-query``, ``wrong-code``, ``wrong-model``, ``wrong-shape``,
        ``wrong-round``, ``wrong-previous``); 5 the set for which the question was answered
        before can answer again (``locked-set``).
        """
        ask, group = opened.predicate, epoch.group
        if epoch.phase is not EpochPhase.READY:  # 1
            raise PolicyError("the epoch's shares are not dealt yet", code="epoch-not-ready")
        if ask.epoch_hash != epoch.epoch_hash:
            raise VerificationError("the round is of another epoch", code="wrong-epoch")
        if ask.slot >= epoch.state.slots:  # 2
            raise VerificationError(
                f"expected a slot below {epoch.state.slots}, got {ask.slot}",
                code="slot-out-of-range",
            )
        # Prevents a second vector under one mask: also when a backup was restored, because the
        # log remembers what this member's store forgot.
        if ask.slot <= max(epoch.last_slot, floor):
            raise PolicyError(
                f"expected a slot after {max(epoch.last_slot, floor)}, got {ask.slot}",
                code="slot-used",
            )
        check_participants(epoch, ask.participants)  # 3
        check_expected(ask, expected)  # 4
        held = None if lock is None else canonical.decode(lock, Lock)
        gone = set(held.survivors or () if held else ()) - set(ask.participants) - set(freed)
        if gone:  # 5
            raise PolicyError(
                "this question was answered for members that are not all participants now",
                code="locked-set",
            )
        secrets = canonical.decode(secret, SlotSecrets)
        if secrets.slot != ask.slot:
            raise UsageError(f"expected the secrets of slot {ask.slot}, got those of another")
        context = context_of(group.charter, ask)
        plan = mask_plan(group, epoch.me, ask.participants, secrets, context, ask.epoch_hash)
        state = SlotState(
            phase=SlotPhase.AWAITING_INPUT,
            opened=ask,
            question=expected.question,
            context=context,
            lock=held,
            freed=tuple(freed),
            tiers=expected.tiers or msgspec.UNSET,
        )
        need = NeedInput(
            context, ask.length, ask.ring_bits, plan, Digest(held.vector) if held else None
        )
        return MemberSlot(epoch, state), (need,)

    @staticmethod
    def restore(epoch: MemberEpoch, data: bytes) -> "MemberSlot":
        """Return the round of a stored record; then give it the log again and do `repeat`.

        Raises `FormatError` for other bytes or a record of another epoch.
        """
        state = canonical.decode(data, SlotState, limit=1 << 24)
        if state.opened.epoch_hash != epoch.epoch_hash:
            raise FormatError("expected a stored round of this epoch, found another")
        return MemberSlot(epoch, state)

    @property
    def phase(self) -> SlotPhase:
        """Return where the round stands."""
        return self.state.phase

    @property
    def context(self) -> Digest:
        """Return the context of the round."""
        return Digest(self.state.context)

    @property
    def slot(self) -> int:
        """Return the number of the slot."""
        return self.state.opened.slot

    def encode(self) -> bytes:
        """Return the canonical record of the state."""
        return canonical.encode(self.state)

    def repeat(self) -> tuple[Effect, ...]:
        """Return what to do again after a restart: idempotent, the same bytes."""
        state = self.state
        erase = EraseSecret(self.epoch.slot_secret_name(self.slot))
        match state.phase:
            case SlotPhase.INPUT_SENT if state.input is not None:
                return (Send(state.input, (Digest(state.input.blob),)),)
            case SlotPhase.CONFIRMED if state.confirmation is not None:
                return (Send(state.confirmation),)
            case SlotPhase.ANSWERED if state.reveal is not None:
                return (Send(state.reveal), erase)
            case SlotPhase.CLOSED | SlotPhase.ABORTED:
                return (erase,)
            case _:
                return ()

    def step(self, event: SlotEvent) -> tuple["MemberSlot", tuple[Effect, ...]]:
        """Return the next state and what the caller must now do; a refusal raises.

        The codes of every refusal stand in docs/spec/secagg.md, section 9.
        """
        expect(SLOT_TRANSITIONS, self.phase, event)
        match event:
            case InputReady():
                return self._on_input(event)
            case Declined():
                return self._on_declined(event)
            case Persisted():
                return self._on_persisted(event)
            case InputLogged():
                return self._on_header(event)
            case SurvivorsAnnounced():
                return self._on_survivors(event)
            case ConfirmationLogged():
                return self._on_confirmation(event)
            case RoundEnded():
                # What was not revealed by now never will be: the slot's secrets go.
                closed = self._move(event, SlotPhase.CLOSED)
                spent = (EraseSecret(self._noise_file),) if event.published else ()
                return closed, (*closed.repeat(), *spent)

    def _on_input(self, event: InputReady) -> tuple["MemberSlot", tuple[Effect, ...]]:
        lock, opened = self.state.lock, self.state.opened
        if lock is not None and lock.vector != event.vector:
            raise PolicyError(
                "this question was answered with another vector before masking: send the same",
                code="vector-differs",
            )
        paid = event.ledger
        kept = Lock(vector=event.vector, survivors=lock.survivors if lock else None)
        header = MaskedInput(
            charter=self.epoch.group.charter,
            author=self.epoch.me,
            context=self.state.context,
            length=opened.length,
            root=event.root,
            blob=event.blob,
            noise=event.noise,
            surplus=event.surplus or msgspec.UNSET,
            ledger=None if paid is None else LedgerMark(ledger=paid.ledger, head=paid.head),
            ledger_count=None if paid is None else paid.count,
        )
        moved = self._move(event, SlotPhase.INPUT_PERSISTING, input=header, lock=kept)
        moved = MemberSlot(self.epoch.with_slot_used(opened.slot), moved.state)
        # Slots up to this one are spent, answered or not: what they would have revealed goes.
        spent = range(max(self.epoch.last_slot, 0), opened.slot)
        erase = (EraseSecret(self.epoch.slot_secret_name(slot)) for slot in spent)
        keys = self._noise_kept(event.keys)
        return moved, (*keys, *erase, moved._persist(SlotPhase.INPUT_SENT, epoch=True))

    def _on_declined(self, event: Declined) -> tuple["MemberSlot", tuple[Effect, ...]]:
        moved = self._move(event, SlotPhase.ABORTED)
        statement = InputDeclined(
            charter=self.epoch.group.charter,
            author=self.epoch.me,
            context=self.state.context,
            code=event.code,
        )
        return moved, (Send(statement), *moved.repeat())

    def _on_persisted(self, event: Persisted) -> tuple["MemberSlot", tuple[Effect, ...]]:
        if event.token != self._token():
            raise UsageError(f"nothing was to be stored under {event.token}")
        following = {
            SlotPhase.INPUT_PERSISTING: SlotPhase.INPUT_SENT,
            SlotPhase.CONFIRM_PERSISTING: SlotPhase.CONFIRMED,
            SlotPhase.ANSWER_PERSISTING: SlotPhase.ANSWERED,
        }[self.phase]
        moved = self._move(event, following)
        return moved, moved.repeat()

    def _on_header(self, event: InputLogged) -> tuple["MemberSlot", tuple[Effect, ...]]:
        headers = dict(self.state.headers)
        for logged in (event.header, *event.others):
            header, author = logged.predicate, logged.author
            self._check_context(header.context)
            if author not in self.state.opened.participants:
                raise VerificationError(f"{author} does not take part", code="not-a-participant")
            seen = headers.get(author)
            if seen is not None:
                if seen.root == header.root and seen.digest == logged.digest:
                    continue
                raise VerificationError(
                    f"{author} signed two inputs for one round", code="second-input"
                )
            if header.length != self.state.opened.length:
                raise VerificationError(
                    f"the input of {author} has another length", code="wrong-shape"
                )
            headers[author] = Header(digest=logged.digest, root=header.root)
        if len(headers) == len(self.state.headers):
            return self, ()
        return self._move(event, self.phase, headers=headers), ()

    def _on_survivors(self, event: SurvivorsAnnounced) -> tuple["MemberSlot", tuple[Effect, ...]]:
        """Answer, or first confirm, one set of survivors.

        Refuses unless: 1 the context is this round's (``wrong-context``); 2 survivors are
        participants, in order (``member-order``, ``not-a-member``, ``survivor-not-participant``),
        this member among them, with the root it signed (``left-out``, ``own-root-differs``);
        3 each has a logged header of this context with that root (``header-missing``,
        ``header-differs``); 4 there are enough (``too-few-survivors``); 5 no other set was
        confirmed or answered in this slot (``slot-answered``); 6 nor for this question in any
        other (``locked-set``). Enough for a fast answer means: no coordinator can open less
        than `min_honest` honest inputs, whatever it showed to others.
        """
        sealed, state = event.sealed.predicate, self.state
        self._check_context(sealed.context)  # 1
        names = tuple(one.member for one in sealed.survivors)
        self._check_survivors(sealed, names)  # 2, 3, 4
        digest = survivors_digest(state.context, sealed.survivors, self.epoch.group)
        if state.survivors is not None:  # 5
            if state.survivors != digest:
                raise PolicyError(
                    "another set of survivors was confirmed or answered in this slot",
                    code="slot-answered",
                )
            return self, self.repeat()
        if state.lock is None:
            raise UsageError("a round without an input has nothing to reveal")
        before = names if state.lock.survivors is None else state.lock.survivors
        if (set(before) ^ set(names)) - set(state.freed):  # 6
            raise PolicyError(
                "this question was answered for another set of members: resume the study with "
                "the approval of every member in the difference",
                code="locked-set",
            )
        lock = msgspec.structs.replace(state.lock, survivors=names)
        if not self.epoch.sparse and len(names) >= self.epoch.group.fast_survivors(
            len(state.opened.participants), surplus=bool(state.tiers)
        ):
            reveal, kept = self._reveal(names, digest, event)
            moved = self._move(
                event,
                SlotPhase.ANSWER_PERSISTING,
                survivors=digest,
                sealed=sealed,
                lock=lock,
                reveal=reveal,
            )
            return moved, (*kept, moved._persist(SlotPhase.ANSWERED))
        confirmation = SurvivorsConfirmed(
            charter=self.epoch.group.charter,
            author=self.epoch.me,
            context=state.context,
            survivors=digest,
        )
        moved = self._move(
            event,
            SlotPhase.CONFIRM_PERSISTING,
            survivors=digest,
            sealed=sealed,
            lock=lock,
            confirmation=confirmation,
        )
        _, cut = open_keys(state, names, event.noise)
        return moved, (*self._noise_kept(cut), moved._persist(SlotPhase.CONFIRMED))

    def _on_confirmation(
        self, event: ConfirmationLogged
    ) -> tuple["MemberSlot", tuple[Effect, ...]]:
        state = self.state
        names = () if state.sealed is None else tuple(one.member for one in state.sealed.survivors)
        survivors, by = frozenset(names), dict.fromkeys(state.confirmed_by)
        for logged in (event.confirmed, *event.others):
            confirmed, author = logged.predicate, str(logged.author)
            self._check_context(confirmed.context)
            if author not in survivors:
                raise VerificationError(f"{author} is no survivor", code="not-a-participant")
            if confirmed.survivors != state.survivors:
                raise VerificationError(
                    f"{author} confirmed another set of survivors", code="confirmation-differs"
                )
            by[author] = None
        if len(by) == len(state.confirmed_by) or state.survivors is None:
            return self, ()
        return self._confirmed(event, names, tuple(by), state.survivors)

    def _confirmed(
        self, event: ConfirmationLogged, names: tuple[str, ...], by: tuple[str, ...], digest: str
    ) -> tuple["MemberSlot", tuple[Effect, ...]]:
        following = self.phase
        if following is SlotPhase.CONFIRMED and len(by) >= self.epoch.group.share_threshold:
            reveal, kept = self._reveal(names, digest, event)
            moved = self._move(event, SlotPhase.ANSWER_PERSISTING, confirmed_by=by, reveal=reveal)
            return moved, (*kept, moved._persist(SlotPhase.ANSWERED))
        return self._move(event, following, confirmed_by=by), ()

    def _check_survivors(self, sealed: SurvivorsSealed, names: tuple[str, ...]) -> None:
        state, group, me = self.state, self.epoch.group, self.epoch.me
        group.check_order(names, "survivors")  # 2
        if not set(names) <= set(state.opened.participants):
            raise VerificationError("a survivor did not take part", code="survivor-not-participant")
        # Prevents the late-arrival trick: an input that the coordinator holds but calls dropped.
        if me not in names:
            raise PolicyError("this member sent an input and is not a survivor", code="left-out")
        for one in sealed.survivors:
            if one.member == me and (state.input is None or one.root != state.input.root):
                raise VerificationError(
                    "the survivors hold another input of this member than it sent",
                    code="own-root-differs",
                )
            header = state.headers.get(one.member)  # 3
            if header is None:
                raise VerificationError(
                    f"no input of {one.member} for this context is in the log",
                    code="header-missing",
                )
            if (header.digest, header.root) != (one.header, one.root):
                raise VerificationError(
                    f"the survivors hold another input of {one.member} than it signed",
                    code="header-differs",
                )
        if len(names) < group.min_survivors:  # 4
            raise PolicyError(
                f"expected at least {group.min_survivors} survivors, got {len(names)}: "
                "a smaller sum is never opened",
                code="too-few-survivors",
            )

    def _check_context(self, context: str) -> None:
        if context != self.state.context:
            raise VerificationError(
                "the statement is of another round than the one this member joined",
                code="wrong-context",
            )

    def _reveal(
        self, names: tuple[str, ...], digest: str, event: SurvivorsAnnounced | ConfirmationLogged
    ) -> tuple[Reveal, tuple[StoreSecret, ...]]:
        """Return the answer, and what the file of noise keys must hold before it is stored."""
        if event.secret is None:
            raise UsageError("answering needs the content of the slot's secret file")
        secrets = canonical.decode(event.secret, SlotSecrets)
        if secrets.slot != self.slot:
            raise UsageError(f"expected the secrets of slot {self.slot}, got those of another")
        inside = frozenset(names)
        held = [name for name in self.state.opened.participants if name in secrets.self_shares]
        keys, cut = open_keys(self.state, names, event.noise)
        reveal = Reveal(
            charter=self.epoch.group.charter,
            author=self.epoch.me,
            context=self.state.context,
            survivors=digest,
            self_shares={name: secrets.self_shares[name] for name in held if name in inside},
            round_shares={name: secrets.round_shares[name] for name in held if name not in inside},
            surplus=keys or msgspec.UNSET,
            claim=event.claim,
        )
        return reveal, self._noise_kept(cut)

    def _noise_kept(self, content: bytes | None) -> tuple[StoreSecret, ...]:
        return () if content is None else (StoreSecret(self._noise_file, content),)

    @property
    def _noise_file(self) -> str:
        return noise_secret_name(self.epoch.number)

    def _token(self) -> str:
        return f"slot-{self.epoch.number}-{self.slot}-{self.phase.value}"

    def _persist(self, following: SlotPhase, *, epoch: bool = False) -> Persist:
        state, ask = self.state, self.state.opened
        records = [(SLOT_KEY, canonical.encode(msgspec.structs.replace(state, phase=following)))]
        if state.lock is not None:
            key = lock_key(ask.plan, state.question, ask.model)
            records.append((key, canonical.encode(state.lock)))
        if epoch:
            records.append((EPOCH_KEY, self.epoch.encode()))
        return Persist(tuple(records), self._token())

    def _move(self, event: object, following: SlotPhase, **changes: object) -> "MemberSlot":
        phase = advance(SLOT_TRANSITIONS, self.phase, event, following)
        state = msgspec.structs.replace(self.state, phase=phase, **changes)
        return MemberSlot(self.epoch, state)
