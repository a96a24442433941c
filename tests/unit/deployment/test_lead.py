"""A study lead proposes once, says truthfully who is waited for, and never waits for ever.

The log is a world whose members act between two looks; time is a number that the looks advance.

Planted and caught: a second proposal where one stands in the log; a ballot cast unasked, or twice;
a rejection that is waited out; the wait without an end; a study taken for finished while its
figures are still due; a line for every member that answers; a process that does not run unsaid.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.unit.protocol.test_study import report, showing
from tests.worlds import NAMES, World, small_plan
from treaty.crypto.envelope import decode_base64
from treaty.deployment.desk import Desk
from treaty.deployment.lead import QUIET_S, StudyLead, Waiting
from treaty.deployment.outbox import Outgoing
from treaty.errors import PolicyError, ResourceError
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.consortium import Consortium
from treaty.protocol.messages import BallotCast, HaltCode, ProposalOpened, StudyHalted, StudyOpened
from treaty.protocol.statements import peek
from treaty.studies.plan import (
    AggregationSettings,
    EvaluationSettings,
    Plan,
    plan_bytes,
    plan_digest,
)

ME = MemberId(NAMES[0])
Act = Callable[[], object]


class Log:
    """What `StudyLead` reads: the world as of the last look; each look lets one act happen."""

    def __init__(self, world: World, acts: Sequence[Act] = ()) -> None:
        self.world = world
        self.acts = list(acts)
        self.state = world.state
        self.name = ME
        self.since: Timestamp | None = Timestamp(1_800_000_000_000)
        self.is_running = True
        self.looks = 0

    def refresh(self) -> bool:
        """Let the next act happen, after the first look."""
        self.looks += 1
        if self.looks > 1 and self.acts:
            self.acts.pop(0)()
        grown = self.world.state is not self.state
        self.state = self.world.state
        return grown


class Lead:
    """A lead over `log`, its outbox in `place`, and what it said."""

    def __init__(self, log: Log, place: Path, *, votes: bool = False, at_most: float = 60) -> None:
        self.log, self.place = log, place
        self.said: list[str] = []
        self.seen: list[int] = []
        self.at = 0.0
        self.desks = 0
        self._lead = StudyLead(
            log,
            self._desk,
            self.said.append,
            votes=votes,
            waiting=Waiting(at_most, 1.0, lambda: self.at, self._sleep),
        )

    def run(self, plan: Plan) -> object:
        return self._lead.run(plan, self.log.world.contract, lambda s: self.seen.append(s.size))

    def waiting(self) -> Sequence[object]:
        """Return what was signed and waits to be sent."""
        found = []
        for path in sorted((self.place / "outbox").glob("*.json")):
            record = msgspec.json.decode(path.read_bytes(), type=Outgoing)
            found.append(peek(decode_base64(record.statement))[1])
        return found

    def send(self) -> None:
        """Let what waits enter the world's log, as the site's process would."""
        for path in sorted((self.place / "outbox").glob("*.json")):
            record = msgspec.json.decode(path.read_bytes(), type=Outgoing)
            for text in record.documents:
                self.log.world.keep(decode_base64(text))
            self.log.world.offer(decode_base64(record.statement))
            path.unlink()

    def _desk(self, state: Consortium) -> Desk:
        self.desks += 1
        return Desk(self.place, state, self.place / "key.json")

    def _sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def world() -> World:
    return World()


def planned(world: World) -> Plan:
    return small_plan(world.state.charter, world.contract)


def open_proposal(world: World, action: Action) -> Digest:
    [found] = [
        one.proposal.identity
        for one in world.state.proposals.values()
        if one.proposal.action == action.value
    ]
    return found


def votes_of(world: World, action: Action, voters: Sequence[str], choice: str = "approve") -> Act:
    return lambda: world.vote(open_proposal(world, action), voters, choice)


def opened(world: World, plan: Plan) -> None:
    number = open_proposal(world, Action.STUDY_APPROVE)
    world.say(StudyOpened, plan=plan_digest(plan), proposal=number)


def halted(world: World) -> None:
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)


def test_a_study_is_proposed_waited_for_and_returned(world: World, place: Path) -> None:
    """Nothing is voted on unasked, and every wait is one line."""
    plan = planned(world)
    log = Log(world)
    lead = Lead(log, place)
    log.acts = [
        lambda: None,
        lead.send,
        votes_of(world, Action.CONTRACT_ADOPT, NAMES[1:4]),
        votes_of(world, Action.STUDY_APPROVE, NAMES[1:3]),
        votes_of(world, Action.STUDY_APPROVE, NAMES[3:4]),
        lambda: opened(world, plan),
        lambda: None,
        world.begin_epoch,
        lambda: world.send_keys(NAMES[0]),
        lambda: halted(world),
    ]
    study = lead.run(plan)
    assert study is world.study
    assert lead.waiting() == []
    heads = [line.split(", since")[0] for line in lead.said]
    assert heads == [
        "study small waits for its proposal to be logged, by hub.example",
        f"study small waits for ballots on study.approve, from {', '.join(NAMES[:4])}",
        "study small waits for its next statement, from hub.example",
        "study small waits for a new epoch, from hub.example",
        f"study small waits for keys of the epoch, from {', '.join(NAMES[:4])}",
    ]
    assert lead.said[-1].endswith("since 2027-01-15T08:00:00Z")
    assert lead.seen == sorted(lead.seen) and lead.seen[-1] == world.state.size


def test_what_stands_in_the_log_is_taken_up_and_not_proposed_again(
    world: World,
    place: Path,
) -> None:
    """Proposed, half decided, or over: another process goes on where the first ended."""
    plan = planned(world)
    first = Lead(Log(world), place, at_most=3)
    with pytest.raises(ResourceError, match="waits for its proposal to be logged, by hub"):
        first.run(plan)
    assert first.at == 4
    assert {type(one) for one in first.waiting()} == {ProposalOpened}
    with pytest.raises(ResourceError):
        Lead(Log(world), place, at_most=3).run(plan)
    assert len(first.waiting()) == 2, "the same two statements, not four"
    first.send()
    votes_of(world, Action.STUDY_APPROVE, NAMES[1:4])()
    with pytest.raises(ResourceError, match=r"ballots on contract\.adopt, from aare"):
        Lead(Log(world), place, at_most=3).run(plan)
    assert first.waiting() == []
    votes_of(world, Action.CONTRACT_ADOPT, NAMES[1:4])()
    opened(world, plan)
    halted(world)
    last = Lead(Log(world), place, at_most=0)
    assert last.run(plan) is world.study
    assert last.said == [] and last.waiting() == []


def test_the_officers_ballots_are_cast_once_where_that_is_asked_for(
    world: World,
    place: Path,
) -> None:
    plan = planned(world)
    log = Log(world)
    lead = Lead(log, place, votes=True, at_most=8)
    log.acts = [lead.send, lambda: None, lambda: None, lambda: None]
    with pytest.raises(ResourceError):
        lead.run(plan)
    cast = lead.waiting()
    assert all(isinstance(one, BallotCast) and one.choice == "approve" for one in cast)
    assert len(cast) == 2
    assert lead.desks == 3, "one proposal, two ballots"
    lead.send()
    for record in world.state.proposals.values():
        assert set(record.proposal.ballots) == {ME}
    again = Lead(Log(world), place, votes=True, at_most=3)
    with pytest.raises(ResourceError):
        again.run(plan)
    assert again.waiting() == []


@pytest.mark.parametrize("action", [Action.CONTRACT_ADOPT, Action.STUDY_APPROVE])
def test_a_refusal_of_the_members_ends_the_wait(
    world: World,
    place: Path,
    action: Action,
) -> None:
    plan = planned(world)
    log = Log(world)
    lead = Lead(log, place)
    log.acts = [lead.send, votes_of(world, action, NAMES[1:3], "reject")]
    with pytest.raises(PolicyError, match=r"without birs\.example, emme\.example") as caught:
        lead.run(plan)
    assert caught.value.code == "rejected"
    # The same question again is another proposal.
    other = Lead(Log(world), place, at_most=2)
    with pytest.raises(ResourceError):
        other.run(plan)
    assert [one.nonce for one in other.waiting() if one.action == action.value] == [1]  # type: ignore[attr-defined]  # proposals


def test_a_plan_that_does_not_pass_its_lint_signs_nothing(world: World, place: Path) -> None:
    plan = msgspec.structs.replace(planned(world), charter=Digest("0" * 64))
    lead = Lead(Log(world), place)
    with pytest.raises(PolicyError):
        lead.run(plan)
    assert lead.waiting() == []


def test_another_study_and_a_process_that_does_not_run_are_said(
    world: World,
    place: Path,
) -> None:
    world.start()
    plan = msgspec.structs.replace(planned(world), study="second")
    world.keep(plan_bytes(plan))
    world.decide(Action.STUDY_APPROVE, plan_digest(plan))
    log = Log(world)
    lead = Lead(log, place, at_most=10)
    log.acts = [lambda: setattr(log, "is_running", False)]
    with pytest.raises(ResourceError, match="treaty site up"):
        lead.run(plan)
    assert lead.said[0] == "study second waits for the end of study small"
    assert lead.said[1].startswith(f"the process of {ME} does not run") and len(lead.said) == 2
    assert lead.waiting() == []
    assert lead.at >= QUIET_S


def test_figures_of_the_sites_are_waited_for_as_long_as_the_plan_allows(place: Path) -> None:
    """They come after the study's end; a site whose policy keeps them back need not say so."""
    world = World(edit=showing)
    plan = msgspec.structs.replace(
        planned(world),
        evaluation=EvaluationSettings(site_figures=True),
        aggregation=AggregationSettings(max_persons_per_site=256, slots_per_epoch=16, deadline_s=5),
    )
    world.start(plan)
    world.run_study()
    world.complete()
    for name in NAMES[:3]:
        report(world, name)
    lead = Lead(Log(world), place)
    assert lead.run(plan) is world.study
    assert 5 < lead.at < 8
    assert lead.said[0].startswith("study small waits for figures of their own, from reuss.example")
    log = Log(world)
    prompt = Lead(log, place)
    log.acts = [lambda: None, lambda: report(world, NAMES[3])]
    assert prompt.run(plan) is world.study
    assert set(world.study.reports) == set(NAMES[:4]) and prompt.at == 1
