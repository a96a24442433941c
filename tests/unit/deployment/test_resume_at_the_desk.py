"""`treaty study resume`: the desk names the round that the fold takes, or says why there is none.

Planted and caught: the newest round named although an older one binds the question; a study that
was halted by decision put to the vote; a round named whose survivors nobody knows; the charter of
now not compared with the plan's.
"""

import os
from pathlib import Path

import msgspec
import pytest

from tests.stateful.test_resumed_questions import bound_world
from tests.unit.protocol.test_consortium import amend
from tests.worlds import HUB, NAMES, World, approval
from treaty.crypto.envelope import decode_base64
from treaty.crypto.keys import encode_key_file
from treaty.deployment import desk as desks
from treaty.deployment.desk import Desk
from treaty.deployment.outbox import Outgoing
from treaty.deployment.places import Party
from treaty.errors import PolicyError, UsageError
from treaty.governance.roles import Action
from treaty.ids import Digest
from treaty.protocol.messages import HaltCode, ProposalOpened, StudyHalted
from treaty.protocol.secagg_messages import RoundAbandoned, RoundCode
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase

ME = NAMES[0]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A member's directory, as far as the desk looks into it."""
    party = Party(name=ME, coordinator=HUB, anchor=Digest("0" * 64), is_hub=False)
    monkeypatch.setattr(desks, "load_party", lambda _: party)
    key = tmp_path / "key.json"
    key.write_bytes(encode_key_file("approval", approval(ME)))
    os.chmod(key, 0o600)
    os.chmod(tmp_path, 0o700)
    return tmp_path


def proposed(place: Path, world: World, study: str) -> tuple[bytes, ProposalOpened]:
    """Propose at the desk; return what waits to be sent."""
    Desk(place, world.state, place / "key.json").propose_resume(study)
    (waiting,) = (place / "outbox").glob("*.json")
    record = msgspec.json.decode(waiting.read_bytes(), type=Outgoing)
    waiting.unlink()
    data = decode_base64(record.statement)
    body = peek(data)[1]
    assert isinstance(body, ProposalOpened)
    return data, body


def lacks_members(world: World) -> None:
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.TOO_FEW_MEMBERS)


@pytest.mark.parametrize("halted", [True, False])
@pytest.mark.parametrize("name", ["plan", "digest"])
def test_what_the_desk_proposes_lets_the_study_go_on(place: Path, halted: bool, name: str) -> None:
    world, context = bound_world()
    if halted:
        lacks_members(world)
    study = world.study
    called = study.plan.study if name == "plan" else study.identity[:8]
    statement, body = proposed(place, world, called)
    assert body.subject == context
    proposal = world.offer(statement).digest
    world.vote(proposal, NAMES[:3])
    assert world.study.phase is Phase.RUNNING
    assert world.study.freed == frozenset(NAMES[:3])


def test_a_round_that_nobody_answered_binds_less_than_an_older_one(place: Path) -> None:
    world, context = bound_world()
    world.open_round()
    world.collect()
    world.say(RoundAbandoned, context=world.context, code=RoundCode.TOO_FEW_REVEALS)
    assert world.study.rounds[-1].context != context
    assert proposed(place, world, world.study.plan.study)[1].subject == context


def test_a_study_that_stays_halted_is_not_put_to_the_vote(place: Path) -> None:
    world, _ = bound_world()
    desk = Desk(place, world.state, place / "key.json")
    with pytest.raises(UsageError, match="0 unfinished studies are called other"):
        desk.propose_resume("other")
    world.decide(Action.STUDY_HALT, world.study.identity)
    world.say(StudyHalted, plan=world.study.identity, code=HaltCode.DECIDED)
    with pytest.raises(PolicyError, match="another cause") as refused:
        Desk(place, world.state, place / "key.json").propose_resume(world.study.plan.study)
    assert refused.value.code == "halted"


def test_a_study_of_another_charter_and_one_without_a_round_stay_as_they_are(place: Path) -> None:
    early = World(5)
    early.start()
    early.open_epoch()
    early.open_round()
    early.say(RoundAbandoned, context=early.context, code=RoundCode.TOO_FEW_INPUTS)
    assert early.study.rounds
    with pytest.raises(PolicyError) as refused:
        Desk(place, early.state, place / "key.json").propose_resume(early.study.plan.study)
    assert refused.value.code == "no-round"
    world, _ = bound_world()
    lacks_members(world)
    name = world.study.plan.study
    amend(world, title="Second")
    with pytest.raises(PolicyError) as refused:
        Desk(place, world.state, place / "key.json").propose_resume(name)
    assert refused.value.code == "wrong-charter"
    assert not (place / "outbox").exists() or not list((place / "outbox").iterdir())
