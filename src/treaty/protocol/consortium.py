"""Consortium: the fold over the whole log that everybody runs.

The coordinator folds an entry before it appends it, each member before it acts, the auditor
afterwards. `Consortium.apply` takes one entry and returns the next state and the verified
statement, or raises and changes nothing. So an audit is a replay.

Invariants (docs/spec/protocol.md, section 1):
  * The first entry is the founding charter with the anchor's digest.
  * The log's clock never goes back.
  * A proposal's electorate is fixed when it opens; what it decides takes effect once. It lapses
    when the charter is amended, or a member that approved it is suspended; about new keys, when
    anybody is.
  * A study begins only with a ratified plan without findings, and runs alone.
  * A member's privacy ledger only grows, and is exchanged only under its officer's signature.
  * A release is signed by as many approvers as the charter asks, about the model of a completed
    study; where they were asked by ballots, by those who approved. It is taken back once.

Documents (charters, contracts, plans, sums) come by digest from the caller, who has them from
the feed or the bundle; their digests are checked there and bound here.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from treaty.contracts.schema import contract_from_bytes
from treaty.errors import PolicyError, VerificationError
from treaty.governance.charter import Charter
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.accession import (
    ProposalRecord,
    carried_out,
    require_accepted,
    require_suspended,
    voided,
)
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.membership import Membership, open_charter
from treaty.protocol.messages import (
    BallotCast,
    CharterGathered,
    CharterPublished,
    ComparisonPublished,
    DatasetRegistered,
    LedgerRebased,
    MemberSuspended,
    ProposalOpened,
    ReleaseProvenance,
    StudyOpened,
    TimeStated,
    VotingClosed,
)
from treaty.protocol.model_release import (
    lapsed,
    release_body,
    require_approved,
    require_releasable,
    require_withdrawable,
    settled_questions,
)
from treaty.protocol.proposal import (
    DOCUMENTED,
    PROPOSABLE,
    BallotGiven,
    Choice,
    Phase,
    Proposal,
    VotingEnded,
)
from treaty.protocol.secagg_messages import EpochOpened, MaskedInput, Reveal, RoundOpened
from treaty.protocol.statements import (
    Body,
    Documents,
    Parsed,
    Verified,
    of_kind,
    open_statement,
    peek,
)
from treaty.protocol.study import Study, StudyEvent, open_study
from treaty.studies.lint import require_clean
from treaty.studies.plan import parse_plan

__all__ = ["DOCUMENTED", "PROPOSABLE", "Consortium", "ProposalRecord"]

_IN_ROUND = (MaskedInput, Reveal)
_CHARTERS = (CharterPublished, CharterGathered)
_BEGINNINGS = (RoundOpened, EpochOpened, StudyOpened, ReleaseProvenance)

_EPOCH = Timestamp(0)


class Consortium(msgspec.Struct, frozen=True):
    """The state after `size` entries. `Consortium(anchor)` is the state before the first."""

    anchor: Digest
    size: int = 0
    at: Timestamp = _EPOCH
    membership: Membership | None = None
    proposals: Mapping[Digest, ProposalRecord] = msgspec.field(default_factory=dict)
    contracts: frozenset[Digest] = frozenset()
    studies: Mapping[Digest, Study] = msgspec.field(default_factory=dict)
    releases: Mapping[Digest, int] = msgspec.field(default_factory=dict)
    withdrawn: Mapping[Digest, int] = msgspec.field(default_factory=dict)
    comparisons: Mapping[Digest, ComparisonPublished] = msgspec.field(default_factory=dict)
    ledgers: Mapping[MemberId, LedgerTrail] = msgspec.field(default_factory=dict)

    @property
    def members(self) -> Membership:
        """Return the membership; `VerificationError` before the founding charter."""
        if self.membership is None:
            raise VerificationError("expected the founding charter first", code="no-charter")
        return self.membership

    @property
    def charter(self) -> Charter:
        """Return the charter in force."""
        return self.members.charter

    @property
    def running(self) -> Study | None:
        """Return the study that is under way, if any."""
        for study in self.studies.values():
            if not study.finished:
                return study
        return None

    def trail(self, member: MemberId) -> LedgerTrail:
        """Return what the log shows of the privacy ledgers of `member`."""
        return self.ledgers.get(member) or LedgerTrail()

    def ratified(self, action: Action, subject: Digest) -> bool:
        """Say whether the members ratified `action` on `subject`."""
        return any(
            record.proposal.phase is Phase.RATIFIED
            and record.proposal.action == action.value
            and record.proposal.subject == subject
            for record in self.proposals.values()
        )

    def apply(
        self,
        entry: bytes,
        documents: Documents,
        *,
        parsed: Parsed | None = None,
        made: Collection[Digest] = (),
        digest: Digest | None = None,
    ) -> tuple["Consortium", Verified[Body]]:
        """Return the state after `entry` and the verified statement.

        `parsed` is what `peek` gave for the same bytes, `digest` is their SHA-256, `made` holds the
        digests of envelopes that the caller signed itself: their signatures are not verified again.
        Raises `FormatError`, `VerificationError` or `PolicyError` with a code; the state is
        unchanged.
        """
        parsed = peek(entry) if parsed is None else parsed
        if self.membership is None or isinstance(parsed[1], _CHARTERS):
            return self._on_charter(entry, documents)
        verified = open_statement(entry, self.membership.directory, parsed, made, digest)
        body = verified.predicate
        if isinstance(body, _IN_ROUND):
            # Most entries by far: answered without looking at anything but the running study.
            study = self._running_study(body).step(StudyEvent(verified, self.at), documents)
            studies = MappingProxyType({**self.studies, study.identity: study})
            following = replace(self, studies=studies, size=self.size + 1)
            if isinstance(body, MaskedInput):
                following = following._with_trail(
                    body.author, self.trail(MemberId(body.author)).with_head(body)
                )
            return following, verified
        following = self._dispatch(verified, documents)
        return replace(following, size=self.size + 1), verified

    def _dispatch(self, verified: Verified[Body], documents: Documents) -> "Consortium":
        body = verified.predicate
        if isinstance(body, _BEGINNINGS):
            require_suspended(self.proposals, self.members, self.at)
        match body:
            case TimeStated():
                return self._on_time(body)
            case ProposalOpened():
                return self._on_proposal(body, verified)
            case BallotCast():
                return self._on_ballot(body, verified)
            case VotingClosed():
                return self._on_closed(body)
            case MemberSuspended():
                return self._on_suspension(body)
            case StudyOpened():
                return self._on_study_opened(body, documents)
            case ReleaseProvenance():
                return self._on_release(body, verified)
            case ComparisonPublished():
                return self._on_comparison(body)
            case DatasetRegistered():
                self._own(Action.LEDGER_REBASE, verified)
                trail = self.trail(verified.author).registered(verified.digest)
                return self._with_trail(body.author, trail)
            case LedgerRebased():
                self._own(Action.LEDGER_REBASE, verified)
                rebased = self.trail(verified.author).rebased(of_kind(verified, LedgerRebased))
                return self._with_trail(body.author, rebased)
            case _:
                return self._on_study_event(verified, documents)

    def _on_charter(
        self, entry: bytes, documents: Documents
    ) -> tuple["Consortium", Verified[Body]]:
        if self.membership is not None and self.running is not None:
            # Every mask key is bound to the charter: a new version closes the epoch first.
            raise PolicyError("a study is under way: halt it before amending", code="study-runs")
        membership, verified = open_charter(
            self.membership, entry, documents, anchor=self.anchor, at=self.at
        )
        if self.membership is not None:
            require_suspended(self.proposals, self.membership, self.at)
            require_accepted(self.proposals.values(), self.membership, membership)
        proposals = voided(carried_out(self._lapse(lambda _: True).proposals))
        size = self.size + 1
        return replace(self, proposals=proposals, membership=membership, size=size), verified

    def _on_time(self, body: TimeStated) -> "Consortium":
        if body.at < self.at:
            raise VerificationError(
                f"the log's clock went back from {self.at} to {body.at}", code="clock-back"
            )
        return replace(self, at=Timestamp(body.at))

    def _on_proposal(self, body: ProposalOpened, verified: Verified[Body]) -> "Consortium":
        try:
            action = Action(body.action)
        except ValueError:
            raise VerificationError(
                f"expected a known action, got {body.action}", code="unknown-action"
            ) from None
        if action not in PROPOSABLE:
            raise PolicyError(f"{action.value} is not decided by ballots", code="not-proposable")
        self._not_expired()
        rule = self.charter.decisions.get(action)
        if rule is None:
            raise PolicyError(
                f"the charter lists no decision for {action.value}", code="not-listed"
            )
        asks = rule
        if action is Action.STUDY_APPROVE:
            asks = self.charter.decisions.get(Action.STUDY_PROPOSE, rule)
        if verified.author not in self.charter.holders(asks.role):
            raise PolicyError(
                f"{verified.author} does not hold the role {asks.role.value} that may propose this",
                code="wrong-role",
            )
        self._check_target(action, body)
        if verified.digest in self.proposals:
            raise VerificationError("this proposal is open already", code="replayed")
        barred = self.members.history.excluded() | {MemberId(body.target or "")}
        electorate = frozenset(self.charter.holders(rule.role)) - barred
        if len(electorate) < rule.threshold:
            raise PolicyError(
                f"{action.value} needs {rule.threshold} of {len(electorate)} voters",
                code="sub-quorum",
            )
        proposal = Proposal(
            verified.digest, action.value, Digest(body.subject), electorate, rule.threshold
        )
        target = None if body.target is None else MemberId(body.target)
        return self._with_proposal(verified.digest, ProposalRecord(proposal, target))

    def _on_ballot(self, body: BallotCast, verified: Verified[Body]) -> "Consortium":
        record = self._proposal(Digest(body.proposal))
        choice = Choice(body.choice)
        before = record.proposal.ballots.get(verified.author)
        proposal, _ = record.proposal.step(BallotGiven(verified.author, choice))
        approving = record.approving
        if choice is Choice.APPROVE and before is None:
            approving |= verified.keyids
        state = self._with_proposal(
            proposal.identity, replace(record, proposal=proposal, approving=approving)
        )
        newly = proposal.phase is Phase.RATIFIED and not record.proposal.settled
        if newly:
            # The same rule as for decisions that carry their signatures: distinct holders, in time.
            self.members.history.authorise(Action(proposal.action), approving, at=self.at)
            if proposal.action == Action.CONTRACT_ADOPT.value:
                state = replace(state, contracts=state.contracts | {proposal.subject})
            if proposal.action == Action.STUDY_HALT.value:
                state = state._halt(proposal.subject)
            if proposal.action == Action.RELEASE_ROLLBACK.value:
                state = state._withdraw(proposal.subject)
        if proposal.action == Action.STUDY_RESUME.value and proposal.phase is Phase.RATIFIED:
            state = state._resume(proposal, newly)
        return state

    def _on_closed(self, body: VotingClosed) -> "Consortium":
        record = self._proposal(Digest(body.proposal))
        proposal, _ = record.proposal.step(VotingEnded())
        return self._with_proposal(proposal.identity, replace(record, proposal=proposal))

    def _on_suspension(self, body: MemberSuspended) -> "Consortium":
        record = self._proposal(Digest(body.proposal))
        if (
            record.proposal.action != Action.MEMBER_SUSPEND.value
            or record.target != body.target
            or record.proposal.phase is not Phase.RATIFIED
            or record.used
        ):
            raise PolicyError(f"no ratified decision suspends {body.target}", code="sub-quorum")
        membership = self.members.suspend(MemberId(body.target), record.approving, at=self.at)
        state = self._with_proposal(record.proposal.identity, replace(record, used=True))
        # Its approval no longer counts, so what it helped to decide is asked anew; and a version
        # that exchanges keys says who is suspended.
        state = state._lapse(
            lambda one: (
                one.proposal.ballots.get(MemberId(body.target)) is Choice.APPROVE
                or one.proposal.action == Action.KEY_ROTATE.value
            )
        )
        state = replace(state, proposals=voided(state.proposals, MemberId(body.target)))
        running = self.running
        if running is not None:
            # Prevents a suspended member's shares from being used: its epoch ends with it.
            state = state._with_study(running.rejoin(membership.history))
        return replace(state, membership=membership)

    def _on_study_opened(self, body: StudyOpened, documents: Documents) -> "Consortium":
        record = self._proposal(Digest(body.proposal))
        plan_digest = Digest(body.plan)
        if (
            record.proposal.action != Action.STUDY_APPROVE.value
            or record.proposal.subject != plan_digest
            or record.proposal.phase is not Phase.RATIFIED
        ):
            raise PolicyError("the study's plan is not ratified", code="sub-quorum")
        if record.used or plan_digest in self.studies:
            raise VerificationError("this study was opened before", code="replayed")
        if self.running is not None:
            raise PolicyError("another study is under way", code="study-runs")
        self._not_expired()
        plan = parse_plan(documents(plan_digest))
        if plan.charter != self.members.directory.charter:
            raise VerificationError("the plan binds another charter", code="wrong-charter")
        if plan.contract not in self.contracts:
            raise PolicyError("the plan's contract is not adopted", code="sub-quorum")
        contract = contract_from_bytes(documents(Digest(plan.contract)))
        # Members vote on digests: whether the plan is safe is decided here, by everyone.
        require_clean(plan, contract, self.charter)
        last_epoch = max((past.epochs for past in self.studies.values()), default=0)
        study = open_study(plan, contract, self.members.history, last_epoch)
        state = self._with_proposal(record.proposal.identity, replace(record, used=True))
        return state._with_study(study)

    def _on_release(self, body: ReleaseProvenance, verified: Verified[Body]) -> "Consortium":
        study = self._study(Digest(body.plan))
        require_releasable(body, study, self.charter, self.releases)
        signers = self.members.history.authorise(
            Action.RELEASE_APPROVE, verified.keyids, at=self.at
        )
        require_approved(self.proposals, study.identity, signers)
        releases = MappingProxyType({**self.releases, Digest(body.model): self.size})
        proposals = settled_questions(self.proposals, study.identity)
        return replace(self, releases=releases, proposals=proposals)

    def _on_comparison(self, body: ComparisonPublished) -> "Consortium":
        if not self.charter.simulation:
            raise PolicyError(
                "a comparison with pooled data exists only under a simulation charter",
                code="simulation",
            )
        study = self._study(Digest(body.plan))
        if study.final_model != body.model or body.plan in self.comparisons:
            raise VerificationError("the comparison names another model", code="wrong-model")
        comparisons = MappingProxyType({**self.comparisons, Digest(body.plan): body})
        return replace(self, comparisons=comparisons)

    def _on_study_event(self, verified: Verified[Body], documents: Documents) -> "Consortium":
        plan = getattr(verified.predicate, "plan", None)
        study = (
            self._running_study(verified.predicate) if plan is None else self._study(Digest(plan))
        )
        return self._with_study(study.step(StudyEvent(verified, self.at), documents))

    def _running_study(self, body: Body) -> Study:
        study = self.running
        if study is None:
            raise VerificationError(
                f"{type(body).__name__} needs a running study", code="out-of-order"
            )
        return study

    def _own(self, action: Action, verified: Verified[Body]) -> None:
        """Refuse unless the author may do `action` for itself."""
        self.members.history.authorise(action, verified.keyids, at=self.at)

    def _with_trail(self, member: str, trail: LedgerTrail) -> "Consortium":
        if self.ledgers.get(MemberId(member)) is trail:
            return self
        ledgers = MappingProxyType({**self.ledgers, MemberId(member): trail})
        return replace(self, ledgers=ledgers)

    def _check_target(self, action: Action, body: ProposalOpened) -> None:
        """Refuse a named member where there is none to name: naming it would bar its ballot."""
        present = set(self.charter.members) - self.members.history.excluded()
        match action:
            case Action.MEMBER_SUSPEND:
                holds, expected = body.target in present, "a party that is not suspended"
            case Action.MEMBER_ACCEPT:
                listed = {*self.charter.members, self.charter.coordinator.name, None}
                holds, expected = body.target not in listed, "one whom the charter does not name"
            case _:
                holds, expected = body.target is None, "nobody"
        if not holds:
            raise VerificationError(
                f"{action.value} names {body.target or 'nobody'}: expected {expected}",
                code="wrong-target",
            )
        if action is Action.STUDY_HALT:
            self._study(Digest(body.subject))
        if action is Action.RELEASE_APPROVE:
            study = self._study(Digest(body.subject))
            asked = release_body(
                self.members.directory.charter, self.charter.coordinator.name, study
            )
            require_releasable(asked, study, self.charter, self.releases)
        if action is Action.RELEASE_ROLLBACK:
            require_withdrawable(self._study(Digest(body.subject)), self.releases, self.withdrawn)
        if action is Action.STUDY_RESUME:
            study = self._study_of_round(Digest(body.subject))
            if study.history.digest != self.members.history.digest:
                # Its thresholds, budget and noise were held against the charter that it binds.
                raise PolicyError(
                    "the charter was amended since this study was opened: ratify a new plan",
                    code="wrong-charter",
                )

    def _lapse(self, concerned: Callable[[ProposalRecord], bool]) -> "Consortium":
        """Return the state with the open proposals that are `concerned` lapsed."""
        proposals = {
            identity: replace(record, proposal=record.proposal.step(VotingEnded())[0])
            if not record.proposal.settled and concerned(record)
            else record
            for identity, record in self.proposals.items()
        }
        return replace(self, proposals=MappingProxyType(proposals))

    def _resume(self, proposal: Proposal, newly: bool) -> "Consortium":
        """Free the set of a bound question for those who approved, also after the decision."""
        study = self._study_of_round(proposal.subject)
        approvers = frozenset(
            voter
            for voter, choice in proposal.ballots.items()
            if choice is Choice.APPROVE and voter not in proposal.equivocators
        )
        revive = newly and self.running is None
        resumed = study.resume(proposal.subject, approvers, revive=revive)
        if not resumed.finished and study.finished:
            # Prevents a member that was suspended meanwhile from going on in it.
            resumed = resumed.rejoin(self.members.history)
        return self._with_study(resumed)

    def _study_of_round(self, context: Digest) -> Study:
        for study in self.studies.values():
            if any(one.context == context and one.members_in for one in study.rounds):
                return study
        raise VerificationError(
            "expected the context of a round whose survivors were named, and which is over",
            code="no-round",
        )

    def _halt(self, plan: Digest) -> "Consortium":
        return self._with_study(self._study(plan).decide_halt())

    def _withdraw(self, plan: Digest) -> "Consortium":
        model = Digest(str(self._study(plan).final_model))
        withdrawn = MappingProxyType({**self.withdrawn, model: self.size})
        return replace(self, withdrawn=withdrawn, proposals=lapsed(self.proposals, plan))

    def _not_expired(self) -> None:
        if self.members.history.is_expired(self.at):
            raise PolicyError("the charter has expired: amend it first", code="expired")

    def _proposal(self, identity: Digest) -> ProposalRecord:
        record = self.proposals.get(identity)
        if record is None:
            raise VerificationError(f"no proposal {identity[:16]}", code="no-proposal")
        return record

    def _study(self, plan: Digest) -> Study:
        study = self.studies.get(plan)
        if study is None:
            raise VerificationError(f"no study with plan {plan[:16]}", code="no-study")
        return study

    def _with_proposal(self, identity: Digest, record: ProposalRecord) -> "Consortium":
        return replace(self, proposals=MappingProxyType({**self.proposals, identity: record}))

    def _with_study(self, study: Study) -> "Consortium":
        return replace(self, studies=MappingProxyType({**self.studies, study.identity: study}))
