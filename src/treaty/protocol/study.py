"""Study: from a ratified plan through secure sums to a model, as the log tells it.

Invariants (docs/spec/studies.md, docs/spec/secagg.md):
  * A round asks exactly the query that the progress of the study expects, at the model that
    everyone derived, in a fresh slot of the open epoch.
  * One round at a time; a second attempt follows an abandoned round of the same query. Once a
    member has answered for a set of survivors, the query is summed over that set or not at all;
    under noise over another one as another release, with fresh noise that is paid for.
  * A published sum moves the progress; nothing else does.
  * The final model, normaliser and evaluation are those that the progress derives.

This module does no input or output and reads no clock; opened sums come by digest.
"""

import dataclasses
from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from treaty.contracts.schema import Contract
from treaty.errors import PolicyError, VerificationError
from treaty.governance.amendment import CharterHistory
from treaty.ids import Digest, MemberId, SingleEnum, Timestamp
from treaty.protocol.closed_round import ClosedRound, close
from treaty.protocol.differencing import Exposure, bound_set, exposure_of, freed_members
from treaty.protocol.machine import Transitions, advance
from treaty.protocol.messages import HaltCode, SiteReported, StudyCompleted, StudyHalted
from treaty.protocol.releases import MAX_FRESH, Shown, asked_as, last_shown, with_noise_shown
from treaty.protocol.secagg_audit import (
    AuditCase,
    check_audited_set,
    check_claims,
    check_fraud,
    is_audited,
)
from treaty.protocol.secagg_keys import NO_RESULT, Group
from treaty.protocol.secagg_lifecycle import Expected
from treaty.protocol.secagg_messages import (
    AuditCalled,
    EpochClosed,
    EpochOpened,
    MaskedInput,
    Reveal,
    RoundOpened,
    RoundResult,
    SumDisputed,
    SumsAudited,
    SurvivorsSealed,
)
from treaty.protocol.secure_round import EpochPhase, EpochRecord, RoundPhase, RoundRecord
from treaty.protocol.statements import Body, Documents, Verified, of_kind
from treaty.protocol.study_checks import check_completed, check_halted, check_report, check_round
from treaty.protocol.surplus import opened_sum
from treaty.studies.plan import Plan, plan_digest
from treaty.studies.progress import StudyProgress, begin
from treaty.studies.queries import NOISED
from treaty.studies.sketches import claim_bound
from treaty.studies.surplus import opening_numbers

__all__ = ["Phase", "Study", "StudyEvent", "group_of", "open_study"]


class Phase(SingleEnum):
    """Where a study stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    HALTED = "halted"


TRANSITIONS: Transitions[Phase] = MappingProxyType(
    {
        (Phase.RUNNING, StudyCompleted): frozenset({Phase.COMPLETED}),
        (Phase.RUNNING, StudyHalted): frozenset({Phase.HALTED}),
        (Phase.RUNNING, EpochOpened): frozenset({Phase.RUNNING}),
        (Phase.RUNNING, RoundOpened): frozenset({Phase.RUNNING}),
        (Phase.RUNNING, SiteReported): frozenset({Phase.RUNNING}),
        (Phase.RUNNING, AuditCalled): frozenset({Phase.RUNNING}),
        (Phase.RUNNING, SumsAudited): frozenset({Phase.RUNNING}),
        (Phase.RUNNING, SumDisputed): frozenset({Phase.HALTED}),
        (Phase.COMPLETED, SiteReported): frozenset({Phase.COMPLETED}),
    }
)


class StudyEvent(msgspec.Struct, frozen=True):
    """A verified statement about the study, and the log's time."""

    statement: Verified[Body]
    at: Timestamp


class Study(msgspec.Struct, frozen=True):
    """One study. `rounds` holds every round that is over, in order of the log.

    `answered` holds, by question, those in which a member confirmed or answered: what binds the
    question to one set of survivors.
    Where the plan says `audited`, `unaudited` are the published sums that no members have added up
    again, `audit` the call to do so, `auditors` who has, `audited` how many sums are done.
    `resumed` says who approved that a question be asked anew, by the context of the round that
    binds it, `exposures` what that showed; attempts before the round `forgiven` no longer count.
    `noise_shown` holds the members' commitments to noise, and the ledgers that paid for it; `fresh`
    counts the releases beyond the planned ones.
    """

    identity: Digest
    plan: Plan
    contract: Contract
    history: CharterHistory
    group: Group
    progress: StudyProgress
    phase: Phase = Phase.RUNNING
    epoch: EpochRecord | None = None
    round: RoundRecord | None = None
    rounds: tuple[ClosedRound, ...] = ()
    answered: Mapping[Digest, tuple[ClosedRound, ...]] = msgspec.field(default_factory=dict)
    epochs: int = 0
    last_result: Digest = NO_RESULT
    reports: Mapping[MemberId, SiteReported] = msgspec.field(default_factory=dict)
    halt_code: HaltCode | None = None
    halt_decided: bool = False
    final_model: Digest | None = None
    unaudited: tuple[AuditCase, ...] = ()
    audit: Verified[AuditCalled] | None = None
    auditors: frozenset[str] = frozenset()
    audited: int = 0
    resumed: Mapping[Digest, frozenset[MemberId]] = msgspec.field(default_factory=dict)
    exposures: tuple[Exposure, ...] = ()
    forgiven: int = 0
    noise_shown: Shown = msgspec.field(default_factory=dict)
    fresh: int = 0

    @property
    def finished(self) -> bool:
        """Say whether the study is completed or halted."""
        return self.phase is not Phase.RUNNING

    @property
    def attempts(self) -> int:
        """Return how many rounds for the present query were abandoned."""
        count = 0
        for place in range(len(self.rounds) - 1, self.forgiven - 1, -1):
            record = self.rounds[place]
            if record.phase is not RoundPhase.ABANDONED:
                break
            if record.round != self.progress.index:
                break
            count += 1
        return count

    def asked_as(self, participants: Collection[str], epoch_hash: str) -> Digest:
        """Return what locks are on when the present query is asked of `participants`.

        The question; under noise one of its releases, of which a study has few
        (`VerificationError`, code ``fresh-releases``).
        """
        query = self.progress.expected_query()
        if query.kind not in NOISED:
            return query.question
        found = asked_as(query.question, self.rounds, self.answered, participants, epoch_hash)
        if self._is_fresh(found) and self.fresh >= MAX_FRESH:
            raise VerificationError(
                f"the study has had {MAX_FRESH} releases beyond its plan: halt it",
                code="fresh-releases",
            )
        return found

    def _is_fresh(self, release: Digest) -> bool:
        planned = self.progress.expected_query().question
        return release != planned and all(past.question != release for past in self.rounds)

    def bound_among(
        self, participants: Collection[str], epoch_hash: str
    ) -> frozenset[MemberId] | None:
        """Return the set to which the present query is bound when asked of `participants`."""
        return bound_set(self.answered.get(self.asked_as(participants, epoch_hash), ()))

    def expected_round(self, question: Digest | None = None) -> Expected:
        """Return what the next round must be; `UsageError` when the study asks nothing more.

        `question` is what members lock on, by default the query's own.
        """
        query = self.progress.expected_query()
        return Expected(
            plan=self.identity,
            query=query.digest,
            question=query.question if question is None else question,
            code=Digest(self.plan.code),
            model=query.model,
            length=query.layout.length,
            ring_bits=query.layout.ring_bits,
            round=self.progress.index,
            previous=self.last_result,
            tiers=opening_numbers(self.plan, query.kind, self.group.cohort),
        )

    def rejoin(self, history: CharterHistory) -> "Study":
        """Return the study with its epoch and round over and the group of `history`.

        When too few members are left for safe sums the study halts (``too-few-members``):
        a suspension never waits for a study.
        """
        # An audit under way is called again: whom it waits for may be gone.
        rest = replace(self._cut_off, epoch=None, history=history, audit=None, auditors=frozenset())
        try:
            return replace(rest, group=group_of(history))
        except PolicyError:
            return replace(rest, phase=Phase.HALTED, halt_code=HaltCode.TOO_FEW_MEMBERS)

    def resume(self, context: Digest, approvers: frozenset[MemberId], *, revive: bool) -> "Study":
        """Return the study after a ratified `study.resume` for the round of `context`.

        With `revive` a study that halted for want of members runs again, its attempts counted anew.
        """
        known = self.resumed.get(context, frozenset())
        resumed = MappingProxyType({**self.resumed, context: known | approvers})
        freed = replace(self, resumed=resumed)
        if not revive or self.halt_code is not HaltCode.TOO_FEW_MEMBERS:
            return freed
        # Members erased what they held of its epoch when it halted.
        return replace(
            freed, phase=Phase.RUNNING, halt_code=None, epoch=None, forgiven=len(self.rounds)
        )

    @property
    def bound(self) -> frozenset[MemberId] | None:
        """Return the members that the present question is bound to, if it was answered before."""
        if self.progress.finished:
            return None
        return bound_set(self.answered.get(self.progress.expected_query().question, ()))

    @property
    def freed(self) -> frozenset[MemberId]:
        """Return the members by whom the set of the present question may differ from before."""
        if self.progress.finished:
            return frozenset()
        question = self.progress.expected_query().question
        return freed_members(self.answered.get(question, ()), self._resumable)

    @property
    def _resumable(self) -> Mapping[Digest, frozenset[MemberId]]:
        """What a ratified `study.resume` may free: nothing of a noised question.

        The same noise over two sets would leave the input in the difference with one share of
        noise, where the plan counts more.
        """
        if self.progress.expected_query().kind in NOISED:
            return MappingProxyType({})
        return self.resumed

    def decide_halt(self) -> "Study":
        """Return the study after the members' decision to halt it."""
        return replace(self, halt_decided=True)

    def step(self, event: StudyEvent, documents: Documents) -> "Study":
        """Return the study after one statement. Raises `VerificationError` or `PolicyError`.

        `documents` gives the bytes of an opened sum by its digest.
        """
        verified = event.statement
        body = verified.predicate
        match body:
            case MaskedInput() | Reveal():
                # Most statements by far.
                return self._in_round(verified, documents)
            case EpochOpened():
                return self._on_epoch(body, of_kind(verified, EpochOpened), event.at)
            case RoundOpened():
                return self._on_round(body, of_kind(verified, RoundOpened), event.at)
            case RoundResult():
                return self._on_result(body, of_kind(verified, RoundResult), documents)
            case AuditCalled():
                return self._on_audit_called(body, of_kind(verified, AuditCalled))
            case SumsAudited():
                return self._on_audited(body)
            case SumDisputed():
                return self._on_disputed(body, documents)
            case SiteReported():
                return self._on_report(body)
            case StudyCompleted():
                return self._on_completed(body)
            case StudyHalted():
                return self._on_halted(body)
            case EpochClosed():
                if self.round is not None:
                    raise VerificationError("a round is open", code="out-of-order")
                return replace(self, epoch=self._open_epoch().step(verified))
            case _ if hasattr(body, "context"):
                return self._in_round(verified, documents)
            case _:
                return replace(self, epoch=self._open_epoch().step(verified))

    def _on_epoch(
        self, body: EpochOpened, verified: Verified[EpochOpened], at: Timestamp
    ) -> "Study":
        advance(TRANSITIONS, self.phase, body, Phase.RUNNING)
        self._not_expired(at)
        self._no_audit_due("epoch opens")
        if self.epoch is not None and self.epoch.phase is not EpochPhase.CLOSED:
            raise VerificationError("an epoch is open already", code="out-of-order")
        if self.round is not None:
            raise VerificationError("a round is open", code="out-of-order")
        expected = (
            self.epochs + 1,
            self.group.suite,
            self.group.max_colluders,
            self.group.min_survivors,
        )
        found = (body.epoch, body.suite, body.max_colluders, body.min_survivors)
        if found != expected or body.slots > self.group.slots_max or body.plan != self.identity:
            raise VerificationError(
                f"the epoch says {found} and {body.slots} slots, the charter {expected} and "
                f"at most {self.group.slots_max}",
                code="altered-parameters",
            )
        record = EpochRecord(self.group, verified)
        return replace(self, epoch=record, epochs=body.epoch)

    def _on_round(
        self, body: RoundOpened, verified: Verified[RoundOpened], at: Timestamp
    ) -> "Study":
        advance(TRANSITIONS, self.phase, body, Phase.RUNNING)
        self._not_expired(at)
        if self.halt_decided:
            raise PolicyError("the members decided to halt the study", code="halted")
        if self.round is not None:
            raise VerificationError("a round is open already", code="out-of-order")
        if self.progress.finished:
            raise VerificationError("the study asks nothing more", code="out-of-order")
        awaited = self.expected_round(self.asked_as(body.participants, body.epoch_hash))
        check_round(body, awaited, self.attempts)
        epoch = self._open_epoch().use_slot(body)
        if epoch.graph is None:
            raise VerificationError("the epoch's dealing is not over", code="out-of-order")
        bound = claim_bound(self.plan, self.progress.expected_query())
        record = RoundRecord.begin(
            self.group, verified, awaited.question, epoch.graph, awaited.tiers, bound
        )
        fresh = self.fresh + self._is_fresh(awaited.question)
        return replace(self, epoch=epoch, round=record, fresh=fresh)

    def _in_round(self, verified: Verified[Body], documents: Documents) -> "Study":
        record = self._open_round().step(verified, documents)
        body = verified.predicate
        if isinstance(body, SurvivorsSealed):
            exposed = exposure_of(self.answered.get(record.question, ()), self._resumable, record)
            check_audited_set(self.unaudited, record.members_in)
            return replace(self, round=record, exposures=(*self.exposures, *exposed))
        shown = self.noise_shown
        if isinstance(body, MaskedInput):
            noised = self.progress.expected_query().kind in NOISED
            shown = with_noise_shown(shown, body, record.question, noised=noised)
        if record.is_over:
            return self._with_closed(close(record))
        return replace(self, round=record, noise_shown=shown)

    def _on_result(
        self,
        body: RoundResult,
        verified: Verified[RoundResult],
        documents: Documents,
    ) -> "Study":
        record = self._open_round().step(verified, documents)
        query = self.progress.expected_query()
        total = opened_sum(self.plan, query, record, documents(Digest(body.sum)))
        check_claims(record, total)
        survivors = len(record.members_in)
        progress = self.progress.absorb(query, total, survivors, record.group.cohort)
        cases = (AuditCase(self._open_epoch(), record),) if self.plan.aggregation.audited else ()
        return replace(
            self._with_closed(close(record)),
            unaudited=(*self.unaudited, *cases),
            progress=progress,
            last_result=verified.digest,
            noise_shown=last_shown(self.noise_shown),
        )

    def _on_audit_called(self, body: AuditCalled, verified: Verified[AuditCalled]) -> "Study":
        advance(TRANSITIONS, self.phase, body, Phase.RUNNING)
        if self.audit is not None:
            raise VerificationError("an audit is under way", code="out-of-order")
        if body.results != tuple(case.result.digest for case in self.unaudited):
            # Prevents a sum from being left out of every audit.
            raise VerificationError(
                f"expected a call for all {len(self.unaudited)} unaudited sums, in order",
                code="audit-incomplete",
            )
        return replace(self, audit=verified, auditors=frozenset())

    def _on_audited(self, body: SumsAudited) -> "Study":
        advance(TRANSITIONS, self.phase, body, Phase.RUNNING)
        if self.audit is None or body.call != self.audit.digest:
            raise VerificationError("the audit is not under way", code="out-of-order")
        if body.author not in self.group.members:
            raise VerificationError(f"{body.author} is not in the study", code="not-a-member")
        if body.author in self.auditors:
            raise VerificationError(f"{body.author} has audited already", code="replayed")
        auditors = self.auditors | {body.author}
        if not all(is_audited(case, auditors) for case in self.unaudited):
            return replace(self, auditors=auditors)
        done = self.audited + len(self.unaudited)
        return replace(self, unaudited=(), audit=None, auditors=frozenset(), audited=done)

    def _on_disputed(self, body: SumDisputed, documents: Documents) -> "Study":
        phase = advance(TRANSITIONS, self.phase, body, Phase.HALTED)
        for case in self.unaudited:
            if case.result.digest == body.result:
                total = documents(Digest(case.result.predicate.sum))
                check_fraud(case, documents(Digest(body.proof)), total)
                return replace(self._cut_off, phase=phase, halt_code=HaltCode.SUM_FALSE)
        raise VerificationError("no unaudited sum has this result", code="wrong-result")

    def _on_report(self, body: SiteReported) -> "Study":
        advance(TRANSITIONS, self.phase, body, self.phase)
        last = self.rounds[-1] if self.rounds else None
        check_report(body, self.progress, self.group.members, self.reports, last)
        reports = MappingProxyType({**self.reports, MemberId(body.author): body})
        return replace(self, reports=reports)

    def _on_completed(self, body: StudyCompleted) -> "Study":
        phase = advance(TRANSITIONS, self.phase, body, Phase.COMPLETED)
        if self.halt_decided:
            raise PolicyError("the members decided to halt the study", code="halted")
        self._no_audit_due("study is completed")
        check_completed(body, self.progress)
        model = Digest(body.model)
        return replace(self, phase=phase, epoch=self._spent_epoch, final_model=model)

    def _on_halted(self, body: StudyHalted) -> "Study":
        phase = advance(TRANSITIONS, self.phase, body, Phase.HALTED)
        check_halted(body.code, self.progress.stage, decided=self.halt_decided)
        spent = self._spent_epoch
        return replace(self._cut_off, phase=phase, epoch=spent, halt_code=body.code)

    def _no_audit_due(self, what: str) -> None:
        if self.unaudited:
            raise VerificationError(
                f"{len(self.unaudited)} published sums are unaudited: audit them before the {what}",
                code="audit-due",
            )

    @property
    def _spent_epoch(self) -> EpochRecord | None:
        """The epoch of a study that is over: nothing is asked of every member's keys."""
        return None if self.epoch is None else self.epoch.without_statements()

    @property
    def _cut_off(self) -> "Study":
        """The study with its open round abandoned: what was answered binds, and is counted."""
        return (
            self
            if self.round is None
            else self._with_closed(close(self.round, RoundPhase.ABANDONED))
        )

    def _with_closed(self, past: ClosedRound) -> "Study":
        answered = self.answered
        if past.confirmed or past.reveals:
            known = answered.get(past.question, ())
            answered = MappingProxyType({**answered, past.question: (*known, past)})
        return replace(self, round=None, rounds=(*self.rounds, past), answered=answered)

    def _open_epoch(self) -> EpochRecord:
        if self.epoch is None or self.phase is not Phase.RUNNING:
            raise VerificationError("no epoch is open", code="out-of-order")
        return self.epoch

    def _open_round(self) -> RoundRecord:
        if self.round is None:
            raise VerificationError("no round is open", code="out-of-order")
        return self.round

    def _not_expired(self, at: Timestamp) -> None:
        if self.history.is_expired(at):
            raise PolicyError("the charter has expired: amend it first", code="expired")


def group_of(history: CharterHistory) -> Group:
    """Return the group of the charter in force without the members suspended by decision."""
    return dataclasses.replace(Group.of(history.effective()), charter=history.digest)


def open_study(plan: Plan, contract: Contract, history: CharterHistory, epochs: int = 0) -> Study:
    """Return the study of a ratified `plan`; `PolicyError` when no safe thresholds exist.

    `epochs` is the number of the consortium's last epoch: numbers rise across studies.
    """
    group = group_of(history)
    least = history.current.least_support
    progress = begin(plan, contract, members=len(group.members), least_support=least)
    return Study(plan_digest(plan), plan, contract, history, group, progress, epochs=epochs)
