"""Round driver: what the coordinator appends next, from the folded log and its own machines.

It feeds every logged statement to the coordinator's machines of secure aggregation, performs what
they order, and derives the study's next step from the log. Nothing in it is durable: replaying the
log gives the same state, and an order that was lost is derived again.
"""

from collections.abc import Callable, Iterable, Mapping

from treaty.aggregation.masking import Spread, input_root, open_sum
from treaty.aggregation.quantization import ring_vector
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError, ResourceError, VerificationError
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.node.asking import base_of, circumstances_of, next_round, time_due
from treaty.node.auditing import AuditDriver, claims_hold
from treaty.node.intake import check_columns
from treaty.ports import BlobStore, Engine, Journal
from treaty.protocol.column_support import is_supported
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import (
    HaltCode,
    MemberSuspended,
    StudyCompleted,
    StudyHalted,
    StudyOpened,
)
from treaty.protocol.proposal import Phase as ProposalPhase
from treaty.protocol.secagg_coordinator import (
    Blame,
    ComplaintLogged,
    ConfirmationLogged,
    CoordinatorEpoch,
    CoordinatorRound,
    Deadline,
    DeclineLogged,
    EpochFailed,
    InputArrived,
    KeysLogged,
    NeedSum,
    OpenedLogged,
    Publish,
    ReadyLogged,
    RevealLogged,
    RosterLogged,
    RoundLogged,
    SealedLogged,
    SharesLogged,
    SumReady,
    SurvivorsLogged,
)
from treaty.protocol.secagg_enrolment import EnrolmentPhase
from treaty.protocol.secagg_messages import (
    AuditCalled,
    CloseCode,
    EpochClosed,
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    InputDeclined,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    ShareComplaint,
    SumDisputed,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.secure_round import EpochPhase
from treaty.protocol.statements import Body, Predicate, Verified, of_kind
from treaty.protocol.study import Study
from treaty.studies.progress import Stage

__all__ = ["MAX_ATTEMPTS", "Order", "RoundDriver"]

Order = tuple[Predicate, tuple[bytes, ...]]
"""A statement to append, with the blobs that it brings."""

Find = Callable[[Digest], bytes]

MAX_ATTEMPTS = 5
"""Abandoned rounds of one query, or failed epochs in a row, after which the study halts."""


class RoundDriver:
    """The coordinator's machines and its next steps."""

    def __init__(
        self,
        blobs: BlobStore,
        journal: Journal,
        slots_per_epoch: int | None,
        spread: Spread = map,
    ) -> None:
        self._blobs = blobs
        self._spread = spread
        self._journal = journal
        self._slots = slots_per_epoch
        self._epoch: CoordinatorEpoch | None = None
        self._round: CoordinatorRound | None = None
        self._orders: list[Order] = []
        self._need: NeedSum | None = None
        self._running: Study | None = None
        self._asked: Study | None = None
        self._failed_epochs = 0
        self._put_off: dict[Digest, tuple[int, int]] = {}
        self._audits = AuditDriver(blobs)
        self._opened: set[str] = set()

    # --- statements ---------------------------------------------------------------------------

    def check_input(self, body: MaskedInput, blobs: Mapping[Digest, bytes]) -> None:
        """Raise `VerificationError` unless the masked vector is what its header says."""
        data = blobs.get(Digest(body.blob))
        if data is None:
            raise VerificationError("an input without a vector of its size", code="missing-blob")
        if self._round is None:
            raise VerificationError("no round is open", code="out-of-order")
        opened = self._round.opened
        vector = ring_vector(data, opened.ring_bits, opened.length)
        if input_root(vector, spread=self._spread) != body.root:
            raise VerificationError(
                "the masked vector has another root than its header", code="root-mismatch"
            )

    def check_blobs(self, body: Body, blobs: Mapping[Digest, bytes]) -> None:
        """Raise `VerificationError` unless a member's statement brings the blobs that it must."""
        if isinstance(body, MaskedInput):
            self.check_input(body, blobs)
        elif isinstance(body, EpochShares) and self._epoch is not None:
            check_columns(body, self._epoch.group, self._epoch.slots, blobs)

    def has_enough(self, answer: Reveal) -> bool:
        """Say whether the sum that `answer` would help to open is opened without it.

        The log holds as many answers as rebuild the seeds: every one more is a share shown to
        everybody, and a statement for every member to check, for nothing.
        """
        return answer.context in self._opened

    def logged(self, state: Consortium, verified: Verified[Body], find: Find) -> None:
        """Let the machines see a statement that is about to stand in the log.

        A refusal means that it must not be logged; nothing has changed then.
        """
        body = verified.predicate
        self._audits.follow(state.running)
        match body:
            case EpochOpened():
                self._begin_epoch(state, of_kind(verified, EpochOpened))
            case EpochKeys():
                self._in_epoch(KeysLogged(of_kind(verified, EpochKeys)))
            case EpochRoster():
                self._in_epoch(RosterLogged(of_kind(verified, EpochRoster)))
            case EpochShares():
                self._in_epoch(SharesLogged(of_kind(verified, EpochShares)))
            case EpochSealed():
                self._in_epoch(SealedLogged(of_kind(verified, EpochSealed)))
            case EpochReady():
                wraps = None if body.wraps is None else find(Digest(body.wraps))
                self._in_epoch(ReadyLogged(of_kind(verified, EpochReady), wraps))
            case ShareComplaint():
                column = self._column(body, find)
                self._in_epoch(ComplaintLogged(of_kind(verified, ShareComplaint), column))
            case RoundOpened():
                opened = of_kind(verified, RoundOpened)
                self._in_epoch(RoundLogged(opened))
                running = self._asked = state.running
                record = None if running is None else running.round
                self._round = CoordinatorRound.begin(
                    self._open_epoch(),
                    opened.predicate,
                    surplus=record is not None and bool(record.tiers),
                    claimed=record is not None and record.claim_bound is not None,
                )
            case MaskedInput():
                self._in_round(InputArrived(of_kind(verified, MaskedInput)))
            case InputDeclined():
                self._in_round(DeclineLogged(of_kind(verified, InputDeclined)))
            case SurvivorsSealed():
                self._in_round(SurvivorsLogged(of_kind(verified, SurvivorsSealed)))
            case SurvivorsConfirmed():
                self._in_round(ConfirmationLogged(of_kind(verified, SurvivorsConfirmed)))
            case Reveal():
                self._in_round(RevealLogged(of_kind(verified, Reveal)))
            case RoundResult() | RoundAbandoned():
                self._round = self._need = None
            case EpochClosed() | MemberSuspended() | StudyHalted() | SumDisputed():
                self._epoch = self._round = self._need = None
                self._orders = []
                self._opened.clear()
                if isinstance(body, StudyHalted):
                    # It may be resumed, and then the members are there again.
                    self._failed_epochs = 0
            case _:
                pass

    def replayed(self, state: Consortium, verified: Verified[Body]) -> None:
        """Let the machines see a stored statement; what it carries out is not ordered again."""
        self.logged(state, verified, self._blobs.get)
        self._orders = [order for order in self._orders if order[0] != verified.predicate]

    def offer_pieces(self, state: Consortium, body: Body, engine: Engine) -> None:
        """Let the auditors fetch chunks of masked inputs if `body` calls them: once each."""
        if isinstance(body, AuditCalled) and state.running is not None:
            try:
                self._audits.offer(state.running, body, engine)
            except ResourceError as error:
                self._journal.note("unreachable", f"chunks to audit: {error}")

    def columns_for(self, sealed: EpochSealed, member: MemberId) -> tuple[Digest, ...]:
        """Return the digests of `member`'s sealed columns, while that epoch is open."""
        if self._epoch is None or self._epoch.epoch_hash != sealed.epoch_hash:
            return ()
        if member not in self._epoch.dealers:
            return ()
        return self._epoch.columns_for(member)

    # --- next steps ---------------------------------------------------------------------------

    def next(self, state: Consortium, now: Timestamp, find: Find) -> list[Order]:
        """Return what to append now; empty when the members must act first."""
        if self._need is not None:
            self._running = state.running
            self._sum(self._need, find)
        if self._orders:
            orders, self._orders = self._orders, []
            return orders
        if state.membership is None:
            return []
        suspension = self._suspension(state)
        if suspension is not None:
            return [suspension]
        study = state.running
        if study is None:
            return self._opening(state, now)
        return self._step(state, study, now)

    def put_off(self, state: Consortium, refused: Predicate) -> bool:
        """Leave out a decision that the fold refused to carry out; say whether it was one.

        It is tried again when a contract is adopted or the charter amended.
        """
        if not isinstance(refused, StudyOpened | MemberSuspended):
            return False
        self._put_off[Digest(refused.proposal)] = circumstances_of(state)
        return True

    def _is_put_off(self, state: Consortium, proposal: Digest) -> bool:
        return self._put_off.get(proposal) == circumstances_of(state)

    def deadline(self) -> list[Order]:
        """Let the time of the present phase be over; return what to append."""
        if self._audits.waits:
            return self._audits.deadline()
        if self._round is not None:
            self._in_round(Deadline())
        elif self._epoch is not None and self._epoch.phase is not EnrolmentPhase.READY:
            self._in_epoch(Deadline())
        orders, self._orders = self._orders, []
        return orders

    @property
    def is_patient(self) -> bool:
        """Say whether more time may pass before anything follows from it."""
        return self._audits.waits and self._audits.is_patient

    def _suspension(self, state: Consortium) -> Order | None:
        for identity, record in state.proposals.items():
            proposal = record.proposal
            if (
                proposal.action == Action.MEMBER_SUSPEND.value
                and proposal.phase is ProposalPhase.RATIFIED
                and not record.used
                and record.target is not None
                and not self._is_put_off(state, identity)
            ):
                body = MemberSuspended(
                    charter=state.members.directory.charter,
                    author=state.charter.coordinator.name,
                    proposal=identity,
                    target=record.target,
                )
                return body, ()
        return None

    def _opening(self, state: Consortium, now: Timestamp) -> list[Order]:
        for identity, record in state.proposals.items():
            proposal = record.proposal
            if (
                proposal.action == Action.STUDY_APPROVE.value
                and proposal.phase is ProposalPhase.RATIFIED
                and not record.used
                and self._blobs.has(proposal.subject)
                and not self._is_put_off(state, identity)
            ):
                base = base_of(state)
                return [
                    *time_due(state, now),
                    (StudyOpened(**base, plan=proposal.subject, proposal=identity), ()),
                ]
        return []

    def _step(self, state: Consortium, study: Study, now: Timestamp) -> list[Order]:
        base = base_of(state)
        audit = self._audits.next(base, study, self._epoch)
        if audit is not None:
            return audit
        if self._audits.release(study):
            # The round's inputs waited for the audit: the survivors are named as they stand now.
            self._in_round(Deadline())
            released, self._orders = self._orders, []
            return released
        closing: list[Order] = []
        if study.epoch is not None and study.epoch.phase is not EpochPhase.CLOSED:
            closed = EpochClosed(**base, epoch=study.epoch.number, code=CloseCode.FINISHED)
            closing.append((closed, ()))
        if study.round is not None:
            return []
        progress = study.progress
        known = progress.stage is Stage.COMPLETED and not study.halt_decided
        if known and progress.evaluation is not None:
            done = StudyCompleted(
                **base,
                plan=study.identity,
                model=progress.model_digest,
                normaliser=progress.normaliser_digest,
                evaluation=progress.evaluation.digest(),
                rounds=len(progress.trace),
            )
            return [*closing, (done, ())]
        halt = self._halt_code(study)
        if halt is not None:
            return [*closing, (StudyHalted(**base, plan=study.identity, code=halt), ())]
        if not closing:
            begun, orders = CoordinatorEpoch.begin(
                study.group, study.identity, study.epochs + 1, self._slot_count(study)
            )
            self._epoch = begun
            return [
                *time_due(state, now),
                *((order.predicate, ()) for order in orders),
            ]
        epoch = self._epoch
        if epoch is None or epoch.phase is not EnrolmentPhase.READY or self._round is not None:
            return []
        return self._next_round(base, study, epoch)

    def _next_round(
        self, base: dict[str, str], study: Study, epoch: CoordinatorEpoch
    ) -> list[Order]:
        number = epoch.number
        if epoch.exhausted:
            return [(EpochClosed(**base, epoch=number, code=CloseCode.EXHAUSTED), ())]
        try:
            opened = next_round(study, epoch)
        except VerificationError as refusal:
            self._journal.note(refusal.code, str(refusal))
            closed = EpochClosed(**base, epoch=number, code=CloseCode.FINISHED)
            code = HaltCode.TOO_FEW_MEMBERS
            return [(closed, ()), (StudyHalted(**base, plan=study.identity, code=code), ())]
        except PolicyError as refusal:
            self._journal.note("epoch-failed", str(refusal))
            self._failed_epochs += 1
            return [(EpochClosed(**base, epoch=number, code=CloseCode.TOO_FEW_MEMBERS), ())]
        self._failed_epochs = 0
        return [(opened, ())]

    def _halt_code(self, study: Study) -> HaltCode | None:
        if study.progress.stage is Stage.HALTED:
            return HaltCode.LEAST_SUPPORT
        if study.halt_decided:
            return HaltCode.DECIDED
        if study.attempts >= MAX_ATTEMPTS or self._failed_epochs >= MAX_ATTEMPTS:
            return HaltCode.TOO_FEW_MEMBERS
        return None

    def _slot_count(self, study: Study) -> int:
        wanted = self._slots or study.plan.aggregation.slots_per_epoch
        return max(1, min(wanted, study.group.slots_max))

    # --- machines -----------------------------------------------------------------------------

    def _begin_epoch(self, state: Consortium, opened: Verified[EpochOpened]) -> None:
        study = state.running
        if study is None:
            raise VerificationError("an epoch needs a running study", code="out-of-order")
        body = opened.predicate
        begun, _ = CoordinatorEpoch.begin(study.group, study.identity, body.epoch, body.slots)
        self._epoch, _ = begun.step(OpenedLogged(opened))
        self._round = None

    def _in_epoch(
        self,
        event: KeysLogged
        | RosterLogged
        | SharesLogged
        | SealedLogged
        | ReadyLogged
        | ComplaintLogged
        | RoundLogged
        | Deadline,
    ) -> None:
        self._epoch, effects = self._open_epoch().step(event)
        for effect in effects:
            match effect:
                case Publish():
                    self._order(effect.predicate)
                case EpochFailed():
                    self._failed_epochs += 1
                    epoch = self._open_epoch()
                    self._order(
                        EpochClosed(
                            charter=epoch.group.charter,
                            author=epoch.group.coordinator,
                            epoch=epoch.number,
                            code=effect.code,
                        )
                    )

    def _in_round(
        self,
        event: InputArrived
        | DeclineLogged
        | SurvivorsLogged
        | ConfirmationLogged
        | RevealLogged
        | SumReady
        | Deadline,
        blobs: tuple[bytes, ...] = (),
    ) -> None:
        if self._round is None:
            raise VerificationError("no round is open", code="out-of-order")
        self._round, effects = self._round.step(event)
        for effect in effects:
            match effect:
                case Publish(predicate=SurvivorsSealed() as sealed) if self._audits.holds(sealed):
                    continue
                case Publish(predicate=SurvivorsSealed() as sealed) if not self._may_seal(sealed):
                    abandoned = RoundAbandoned(
                        charter=sealed.charter,
                        author=sealed.author,
                        context=sealed.context,
                        code=RoundCode.TOO_FEW_INPUTS,
                    )
                    self._order(abandoned)
                case Publish():
                    self._order(effect.predicate, (*blobs, *filter(None, (effect.blob,))))
                case NeedSum():
                    self._need = effect
                    self._opened.add(self._round.context)
                case Blame():
                    names = ", ".join(sorted(effect.members))
                    self._journal.note("blame", f"{names}: {effect.reason}")

    def _may_seal(self, sealed: SurvivorsSealed) -> bool:
        """Say whether `sealed` names who is bound to this question, and enough for every column."""
        names, study = frozenset(MemberId(one.member) for one in sealed.survivors), self._asked
        if study is None or study.round is None:
            return True
        ask = study.round.opened.predicate
        bound = study.bound_among(ask.participants, ask.epoch_hash)
        return (bound is None or (bound ^ names) <= study.freed) and is_supported(study, names)

    def _sum(self, need: NeedSum, find: Find) -> None:
        def pieces(blob: Digest) -> Iterable[bytes]:
            # One input at a time, and of a stored one a piece at a time: it is checked again.
            return self._blobs.chunks(blob) if self._blobs.has(blob) else (find(blob),)

        bits, inputs = need.ring_bits, map(pieces, need.blobs)
        words = open_sum(inputs, need.plan, bits, need.length, spread=self._spread)
        self._need, total = None, words.tobytes()
        refused = not claims_hold(self._running, words, self._journal)
        self._in_round(SumReady(sha256(total), refused), () if refused else (total,))

    def _order(self, predicate: Predicate, blobs: tuple[bytes, ...] = ()) -> None:
        if all(predicate != known for known, _ in self._orders):
            self._orders.append((predicate, blobs))

    def _open_epoch(self) -> CoordinatorEpoch:
        if self._epoch is None:
            raise VerificationError("no epoch is open", code="out-of-order")
        return self._epoch

    def _column(self, body: ShareComplaint, find: Find) -> bytes:
        epoch = self._open_epoch()
        dealt = epoch.shares.get(body.dealer)
        column = None if dealt is None else dealt.predicate.columns.get(body.author)
        if column is None:
            raise VerificationError(
                f"{body.dealer} dealt no share to {body.author}", code="not-in-roster"
            )
        return find(Digest(column))
