"""Lead: who leads a study proposes it at a member's directory and waits until it is over.

The same statements by the same path as `treaty study propose` (`treaty.deployment.desk`): signed
here, sent by the running site. All the rest is read from the site's own copy of the log. Nothing
hangs on the waiting process: it may end at any time, and another one takes the study up where the
log has it.

Guarantees: what is said to be waited for is what the log says (`treaty.protocol.waiting`), or that
this site's own process does not run; the wait ends.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from treaty.contracts.schema import Contract
from treaty.deployment.desk import Desk
from treaty.errors import PolicyError, ResourceError
from treaty.governance.charter import time_to_text
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.consortium import Consortium, ProposalRecord
from treaty.protocol.model_release import questions
from treaty.protocol.proposal import Choice, Phase, Proposal
from treaty.protocol.study import Study
from treaty.protocol.waiting import awaited_in_study
from treaty.studies.plan import Plan, plan_digest

__all__ = ["Followed", "StudyLead", "Waiting"]

SAY_AGAIN_S = 10.0
"""How often at most it is said of whom the same thing is still expected."""

QUIET_S = 3.0
"""After how long without a new entry it is looked whether this site's own process runs."""


class Followed(Protocol):
    """The part of `treaty.deployment.followed.FollowedLog` that a lead needs."""

    @property
    def name(self) -> MemberId:
        """Return whose log it is."""

    @property
    def state(self) -> Consortium:
        """Return the folded log as of the last `refresh`."""

    @property
    def since(self) -> Timestamp | None:
        """Return since when the party waits for what it waits for."""

    @property
    def is_running(self) -> bool:
        """Say whether the party's process runs."""

    def refresh(self) -> bool:
        """Fold what came since; say whether there was anything."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a lead waits: for how long at most, and how often it looks. Seconds."""

    at_most_s: float = 86_400.0
    look_s: float = 0.25
    now: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


class StudyLead:
    """Leads studies at the member whose log is `log`; `desk` signs for its officer.

    With `votes` the officer's approving ballot is cast too, as far as its vote is missing. `say`
    gets one line whenever another thing is waited for.
    """

    def __init__(
        self,
        log: Followed,
        desk: Callable[[Consortium], Desk],
        say: Callable[[str], None],
        *,
        votes: bool = False,
        waiting: Waiting | None = None,
    ) -> None:
        self._log = log
        self._desk = desk
        self._say = say
        self._votes = votes
        self._waiting = waiting or Waiting()
        self._said = ("", "")
        self._voted: set[Digest] = set()

    def run(
        self, plan: Plan, contract: Contract, progress: Callable[[Consortium], None] | None = None
    ) -> Study:
        """Propose `plan` unless it stands in the log, and return the study when it is over.

        `progress` gets the folded log whenever it has grown. Raises `PolicyError` when the plan
        does not pass its lint (nothing is signed then) or the members do not approve it, and
        `ResourceError` when the wait is over: the study goes on, and so does another call.
        """
        now = self._waiting.now
        identity, began = plan_digest(plan), now()
        moved, told, over = 0.0, 0.0, None
        asked: tuple[Digest, ...] = ()
        self._log.refresh()
        if identity not in self._log.state.studies:
            study_number, contract_number = self._desk(self._log.state).propose_study(
                plan, contract
            )
            asked = (study_number, *(() if contract_number is None else (contract_number,)))
        while True:
            at = now() - began
            if self._log.refresh():
                moved = at
                if progress is not None:
                    progress(self._log.state)
            state = self._log.state
            study = state.studies.get(identity)
            if study is None:
                self._decide(plan, asked)
            elif study.finished:
                over = at if over is None else over
                # A site's policy may keep its own figures back, and need not say so.
                late = at - over > plan.aggregation.deadline_s
                if late or awaited_in_study(study) is None:
                    return study
            what, whom = self._hurdle(plan, study, asked, quiet=at - moved > QUIET_S)
            text = what + whom
            # Another thing at once, fewer of whom it is waited for only now and then.
            if what != self._said[0] or (text != self._said[1] and at - told > SAY_AGAIN_S):
                self._said, told = (what, text), at
                self._say(text)
            if at > self._waiting.at_most_s:
                raise ResourceError(
                    f"study {plan.study} is not over after {at:.0f} s: {text}; it goes on by "
                    "itself, and the same call takes it up again"
                )
            self._waiting.sleep(self._waiting.look_s)

    def release(self, identity: Digest) -> None:
        """Ask the stewards to release a study's model, and return when it is released.

        With `votes` this member's steward approves. Raises `PolicyError` where there is nothing to
        release or the stewards do not approve, and `ResourceError` when the wait is over.
        """
        self._log.refresh()
        study, asked = self._log.state.studies[identity], Digest("")
        model, began = study.final_model, self._waiting.now()
        while model is None or model not in self._log.state.releases:
            state = self._log.state
            held = state.proposals.get(asked)
            if held is None:
                asked = asked or self._ask(identity)
            elif held.proposal.phase in (Phase.REJECTED, Phase.LAPSED):
                raise _refusal(study.plan, held.proposal)
            at = self._waiting.now() - began
            text = self._release_waits(study, held, quiet=at > QUIET_S)
            if text != self._said[1]:
                self._said = (text, text)
                self._say(text)
            if at > self._waiting.at_most_s:
                raise ResourceError(
                    f"the model of study {study.plan.study} is not released after {at:.0f} s: "
                    f"{text}; the same call takes it up again"
                )
            self._waiting.sleep(self._waiting.look_s)
            self._log.refresh()

    def _ask(self, identity: Digest) -> Digest:
        """Put the question, or take up the one that stands; answer it where that is due."""
        state, mine = self._log.state, self._log.name
        for number, held in questions(state.proposals, identity):
            answered = mine in held.proposal.ballots or not self._votes
            if held.releases and not held.used:
                return number
            if not held.proposal.settled and answered:
                return number
        desk = self._desk(state)
        return desk.approve_release(identity) if self._votes else desk.ask_release(identity)

    def _release_waits(self, study: Study, held: ProposalRecord | None, *, quiet: bool) -> str:
        """Return what stands between now and the release, and of whom it is expected."""
        hub = self._log.state.charter.coordinator.name
        what = f"the release of study {study.plan.study} waits for"
        if quiet and not self._log.is_running:
            return _not_running(self._log.name)
        if held is None:
            return f"{what} its question to be logged, by {hub}"
        if held.proposal.settled:
            return f"{what} signatures of those who approved, at {hub}"
        missing = sorted(held.proposal.electorate - set(held.proposal.ballots))
        return f"{what} answers from {', '.join(missing)}"

    def _decide(self, plan: Plan, asked: tuple[Digest, ...]) -> None:
        """Cast this member's ballots that are due; raise what the members have refused."""
        state, mine = self._log.state, self._log.name
        for number in asked:
            record = state.proposals.get(number)
            if record is None:
                continue
            proposal = record.proposal
            if proposal.phase in (Phase.REJECTED, Phase.LAPSED):
                raise _refusal(plan, proposal)
            due = mine in proposal.electorate and mine not in proposal.ballots
            if self._votes and due and not proposal.settled and number not in self._voted:
                self._desk(state).vote(number, "approve")
                self._voted.add(number)

    def _hurdle(
        self, plan: Plan, study: Study | None, asked: tuple[Digest, ...], *, quiet: bool
    ) -> tuple[str, str]:
        """Return what stands between now and the study's end, and of whom it is expected."""
        if quiet and not self._log.is_running:
            return _not_running(self._log.name), ""
        state = self._log.state
        if study is None:
            unlogged = [number for number in asked if number not in state.proposals]
            if unlogged:
                hub = state.charter.coordinator.name
                return f"study {plan.study} waits for its proposal to be logged", f", by {hub}"
            for number in asked:
                proposal = state.proposals[number].proposal
                if not proposal.settled:
                    missing = ", ".join(sorted(proposal.electorate - set(proposal.ballots)))
                    what = f"study {plan.study} waits for ballots on {proposal.action}"
                    return what, f", from {missing}"
        return self._in_log(plan, study)

    def _in_log(self, plan: Plan, study: Study | None) -> tuple[str, str]:
        """Return what a study waits for that the members have approved, and from whom."""
        running = self._log.state.running
        if study is None and running is not None:
            return f"study {plan.study} waits for the end of study {running.plan.study}", ""
        waits = None if study is None else awaited_in_study(study)
        if waits is None:
            hub = self._log.state.charter.coordinator.name
            return f"study {plan.study} waits for its next statement", f", from {hub}"
        since = self._log.since
        return (
            f"study {plan.study} waits for {waits.what}",
            (f", from {', '.join(waits.parties)}" if waits.parties else "")
            + (f", since {time_to_text(since)}" if since else ""),
        )


def _not_running(name: MemberId) -> str:
    return (
        f"the process of {name} does not run, so nothing is sent and nothing comes: start it with "
        "`treaty site up`"
    )


def _refusal(plan: Plan, proposal: Proposal) -> PolicyError:
    """Return why the members' answer ends the wait."""
    if proposal.phase is Phase.LAPSED:
        return PolicyError(
            f"the vote on {proposal.action} for study {plan.study} lapsed, because the charter was "
            "amended or a voter suspended: propose it again",
            code="lapsed",
        )
    against = sorted(
        name for name, choice in proposal.ballots.items() if choice is not Choice.APPROVE
    )
    return PolicyError(
        f"the members do not approve study {plan.study}: {proposal.count(Choice.APPROVE)} of "
        f"{proposal.approvals} approvals for {proposal.action}, without {', '.join(against)}",
        code="rejected",
    )
