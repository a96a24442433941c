"""Waiting: what a consortium's folded log waits for now, and from whom.

Derived from the log alone, so that everybody who holds it says the same. What a party keeps to
itself (a policy that forbids, a file that is missing) does not show here: a site that will not
answer is waited for until the coordinator's deadline passes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.model_release import questions
from treaty.protocol.proposal import Choice
from treaty.protocol.proposal import Phase as ProposalPhase
from treaty.protocol.secure_round import EpochPhase, EpochRecord, RoundPhase, RoundRecord
from treaty.protocol.study import Phase, Study

__all__ = [
    "RELEASE",
    "Awaited",
    "awaited",
    "awaited_in_study",
    "owing",
    "phase_of",
    "stewards",
    "unreleased",
]

RELEASE = "approval of the release"
"""What `Awaited.what` says when officers are due and no node is."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """What is missing, and the parties of which one or all must give it, in order of name."""

    what: str
    parties: tuple[MemberId, ...]


def awaited(state: Consortium) -> Awaited | None:
    """Return what the consortium waits for first, or None when everything is settled.

    In order: the founding charter, the running study, ballots, what the coordinator must carry out,
    the release of a completed model.
    """
    if state.membership is None:
        return Awaited("the founding charter", ())
    hub = (MemberId(state.charter.coordinator.name),)
    running = state.running
    if running is not None:
        return awaited_in_study(running) or Awaited("the study's next statement", hub)
    for record in state.proposals.values():
        proposal = record.proposal
        if not proposal.settled:
            missing = sorted(proposal.electorate - set(proposal.ballots))
            return Awaited(f"ballots on {proposal.action}", tuple(missing))
        carried = (Action.STUDY_APPROVE.value, Action.MEMBER_SUSPEND.value)
        ratified = proposal.phase is ProposalPhase.RATIFIED
        if ratified and not record.used and proposal.action in carried:
            return Awaited(f"carrying out {proposal.action}", hub)
    for record in state.proposals.values():
        if record.accepts and not record.used:
            # Partial signatures are not logged: each officer's lies at the coordinator.
            return Awaited(f"signatures that let {record.target} join", hub)
        if record.rotates:
            # Whoever votes for it signs the amendment, which takes more than the call did.
            given = [said is Choice.APPROVE for said in record.proposal.ballots.values()]
            missing = sorted(record.proposal.electorate - set(record.proposal.ballots))
            enough = sum(given) >= state.charter.decisions[Action.CHARTER_AMEND].threshold
            if enough or missing:
                whom = hub if enough else tuple(missing)
                return Awaited("signatures of new keys", whom)
        if record.releases and not record.used:
            named = state.studies[record.proposal.subject].plan.study
            return Awaited(f"signatures that release the model of study {named}", hub)
    for study in state.studies.values():
        figures = awaited_in_study(study)
        if figures is not None:
            return figures
        if unreleased(state, study):
            return Awaited(RELEASE, stewards(state))
    return None


def phase_of(state: Consortium) -> tuple[object, ...]:
    """Return what names the present phase of the running study: it changes when the phase does.

    More answers of the same kind do not change it.
    """
    study = state.running if state.membership is not None else None
    if study is None:
        return ()
    waits = awaited_in_study(study)
    return (
        study.identity,
        None if study.epoch is None else (study.epoch.number, study.epoch.phase.value),
        None if study.round is None else (study.round.context, study.round.phase.value),
        study.attempts,
        None if waits is None else waits.what,
    )


def stewards(state: Consortium) -> tuple[MemberId, ...]:
    """Return who may approve a release now, in order of name."""
    rule = state.charter.decisions.get(Action.RELEASE_APPROVE)
    out = state.members.history.excluded()
    holders = () if rule is None else state.charter.holders(rule.role)
    return tuple(name for name in holders if name not in out)


def unreleased(state: Consortium, study: Study) -> bool:
    """Say whether the stewards have still to decide on the study's final model.

    What they have released they have decided, and what they answered with no.
    """
    if study.final_model is None or study.final_model in state.releases:
        return False
    asked = questions(state.proposals, study.identity)
    return not asked or asked[-1][1].proposal.phase is not ProposalPhase.REJECTED


def owing(state: Consortium, besides: MemberId) -> frozenset[MemberId]:
    """Return the parties, `besides` one, that the present phase of the running study waits for."""
    running = state.running
    waits = None if running is None else awaited_in_study(running)
    return frozenset(() if waits is None else waits.parties) - {besides}


def awaited_in_study(study: Study) -> Awaited | None:
    """Return what `study` waits for from members or coordinator; None when it is over."""
    hub = (MemberId(study.history.current.coordinator.name),)
    if study.phase is Phase.COMPLETED:
        asked = study.plan.evaluation.site_figures and study.rounds
        missing = set(study.rounds[-1].members_in) - set(study.reports) if asked else set()
        return Awaited("figures of their own", _sorted(missing)) if missing else None
    if study.finished:
        return None
    if study.audit is not None:
        # Only so many as are enough are waited for, and nobody knows which.
        silent = set(study.group.members) - study.auditors
        return Awaited("audits of published sums", _sorted(map(MemberId, silent)))
    if study.round is not None:
        return _in_round(study.round, hub)
    if study.epoch is None or study.epoch.phase is EpochPhase.CLOSED:
        return Awaited("closing the study" if study.progress.finished else "a new epoch", hub)
    return _in_epoch(study.epoch, study, hub)


def _in_round(record: RoundRecord, hub: tuple[MemberId, ...]) -> Awaited:
    if record.phase is RoundPhase.COLLECTING:
        missing = set(record.participants) - set(record.inputs) - set(record.declined)
        return Awaited("masked inputs", _sorted(missing)) if missing else Awaited("survivors", hub)
    group = record.group
    if record.few and len(record.confirmed) < group.share_threshold:
        return Awaited("confirmations", _sorted(set(record.members_in) - set(record.confirmed)))
    missing = set(record.members_in) - set(record.reveals)
    # With enough answers the sum can be opened. The others are waited for all the same where they
    # may take noise off, make claims, or in a large group hold what no small number does.
    enough = record.graph.opens(frozenset(record.reveals), record.participants)
    every = record.tiers or record.claim_bound is not None or record.graph.choices is not None
    if not missing or (enough and not every):
        return Awaited("the opened sum", hub)
    return Awaited("answers that open the sum", _sorted(missing))


def _in_epoch(record: EpochRecord, study: Study, hub: tuple[MemberId, ...]) -> Awaited:
    if record.phase is EpochPhase.KEYS:
        missing = set(study.group.members) - set(record.keys)
        return Awaited("keys of the epoch", _sorted(missing) or hub)
    if record.phase is EpochPhase.DEALING and record.roster is not None:
        named = set(record.roster.predicate.keys)
        listed = {member for member, one in record.keys.items() if one.digest in named}
        return Awaited("shares of the epoch", _sorted(listed - set(record.shares)) or hub)
    dealers = () if record.sealed is None else record.sealed.predicate.dealers
    absent = {MemberId(name) for name in dealers} - set(record.ready)
    if absent and record.last_slot < 0:
        return Awaited("readiness for the epoch", _sorted(absent))
    return Awaited("the next round", hub)


def _sorted(members: Iterable[MemberId]) -> tuple[MemberId, ...]:
    return tuple(sorted(members))
