"""A member's process ends at each durable write of a round in which keys of noise are opened.

Between a key and its commitment, between the answer and the file that remembers its set, a process
may end, and a store may be put back: the same keys are opened afterwards, or none, and nothing more
than one set of survivors ever sees (docs/spec/privacy.md, 9.16).

Planted faults that these tests caught: keys stored after the header; the file cut down after the
answer; a file of the vector before taken for this one's; a second vector drawn for a header that
left; keys kept when the sum is out.
"""

from pathlib import Path

import pytest

from tests.private_federation import private_contract, private_plan
from tests.restartable_federation import (
    Cuts,
    RestartableFederation,
    assert_no_fork,
    assert_said_once,
    opened,
)
from tests.small_federation import SITES
from treaty.engines.embedded import Passage
from treaty.privacy.distributed import noise_commitment
from treaty.protocol.frames import decode_post
from treaty.protocol.secagg_messages import MaskedInput, Reveal
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.calibrating import Privacy

MEMBER = SITES[1]
OPTIONS: dict[str, object] = {
    "site_figures": False,
    "epsilon_budget_milli": 3000,
    "delta": "1e-5",
    "max_sites_per_person": 2,
}


def run_one(directory: Path, cuts: Cuts) -> tuple[RestartableFederation, Study]:
    """Run a study of one count and one gradient sum, whose noise has a part that comes off."""
    federation = opened(directory, cuts=cuts, **OPTIONS)
    plan = private_plan(federation, Privacy(rounds=1), surplus=True)
    study = federation.run_study(plan, private_contract())
    assert study.phase is Phase.COMPLETED
    return federation, study


def left(federation: RestartableFederation, kind: type) -> list[MaskedInput | Reveal]:
    """Return all that left the member of one kind, over all its lives, logged or not."""
    bodies = [
        peek(statement)[1]
        for record in federation.network.egress
        if record.passage is Passage.FRAME and record.sender == MEMBER and record.content
        for statement in decode_post(record.content).statements
    ]
    return [body for body in bodies if isinstance(body, kind)]


def check(federation: RestartableFederation, study: Study) -> None:
    """Nothing was said twice; keys open what a header committed to; none is left on the disk."""
    assert_said_once(federation)
    assert_no_fork(federation)
    queries = {one.context: one.query for one in study.rounds}
    headers = {body.context: body for body in left(federation, MaskedInput)}
    shown: dict[str, set[tuple[str, ...]]] = {}
    for answer in left(federation, Reveal):
        assert isinstance(answer, Reveal)
        header = headers[answer.context]
        assert isinstance(header, MaskedInput)
        for key, committed in zip(answer.surplus or (), header.surplus or (), strict=False):
            assert noise_commitment(bytes.fromhex(key), queries[answer.context]) == committed  # type: ignore[index]  # a context
            shown.setdefault(key, set()).add((answer.context, answer.survivors))
    assert all(len(sets) == 1 for sets in shown.values())
    for name in federation.members:
        secrets = federation.kept[name].secrets
        assert not [one for one in secrets.names() if "noise" in one], name
    federation.release(study)
    verify_bundle(federation.bundle(), federation.anchor)


@pytest.fixture(scope="module")
def writes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The member's durable writes in a run that nothing disturbs, and its evidence checked."""
    cuts = Cuts()
    federation, study = run_one(tmp_path_factory.mktemp("calm") / "federation", cuts)
    assert [len(answer.surplus or ()) for answer in left(federation, Reveal)] == [1, 1, 0]
    check(federation, study)
    return cuts.writes[MEMBER]


def places(writes: list[str]) -> list[int]:
    """The writes of the first noised round, from the keys of its noise to the end of its answer."""
    first = writes.index("participant-slot-input-persisting") - 1
    last = writes.index("participant-slot-answer-persisting") + 1
    assert writes[first] == writes[last - 2] == "secret-write"
    return list(range(first + 1, last + 2))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", range(5))
def test_an_end_at_any_write_of_the_round_opens_the_same_keys_or_none(
    tmp_path: Path, writes: list[str], step: int, when: str
) -> None:
    numbers = places(writes)
    cuts = Cuts({(MEMBER, numbers[step], when)})
    federation, study = run_one(tmp_path / "federation", cuts)
    assert federation.ended == [MEMBER]
    check(federation, study)


def test_the_steps_are_all_there(writes: list[str]) -> None:
    """Keys of noise and the input, then the cut file and the answer: each is a place to end."""
    numbers = places(writes)
    labels = [writes[number - 1] for number in numbers]
    assert len(labels) == 5 and labels.count("secret-write") == 2
    assert {"participant-slot-input-persisting", "participant-slot-answer-persisting"} <= {*labels}
    assert COORDINATOR not in labels
