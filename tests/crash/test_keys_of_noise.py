"""A member's process ends at each durable write of a round in which keys of noise are opened.

Between a key and its commitment, between the answer and the file that remembers its set, a process
may end: the same keys are opened afterwards. The file may be put back: then none are, and nothing
more than one set of survivors ever sees (docs/spec/privacy.md, 9.16).

Planted faults that these tests caught: keys stored after the header; the file cut down after the
answer, or not at all; a file of the vector before taken for this one's; keys kept when the sum is
out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.private_federation import private_contract, private_plan
from tests.restartable_federation import (
    Cuts,
    RestartableFederation,
    Story,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
)
from tests.small_federation import SITES
from treaty.crypto import canonical
from treaty.engines.embedded import Passage
from treaty.privacy.distributed import noise_commitment
from treaty.protocol.frames import decode_post
from treaty.protocol.secagg_messages import MaskedInput, Reveal
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.protocol.surplus import SurplusSecrets
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


def run_one(
    directory: Path, cuts: Cuts, story: Callable[[RestartableFederation], Story] | None = None
) -> tuple[RestartableFederation, Study]:
    """Run a study of one count and one gradient sum, whose noise has a part that comes off.

    When its exact sum is asked no file of such keys may be there, in the epoch that made them.
    """
    federation = opened(directory, cuts=cuts, **OPTIONS)
    plan = private_plan(federation, Privacy(rounds=1), surplus=True)
    told = None if story is None else story(federation)
    last = Story(federation, (in_round(2, RoundPhase.REVEALING), lambda: no_files(federation)))

    def progress() -> None:
        last()
        if told is not None:
            told()

    study = federation.run_study(plan, private_contract(), progress)
    assert last.told and (told is None or told.told)
    assert study.phase is Phase.COMPLETED
    return federation, study


def no_files(federation: RestartableFederation) -> None:
    """No member keeps keys of noise."""
    for name in federation.members:
        secrets = federation.kept[name].secrets
        assert not [one for one in secrets.names() if "noise" in one], name


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
    no_files(federation)
    federation.release(study)
    verify_bundle(federation.bundle(), federation.anchor)


def counts(federation: RestartableFederation) -> list[int]:
    """Return how many keys the member opened in each round, in order."""
    answers = {body.context: body for body in left(federation, Reveal)}
    return [len(body.surplus or ()) for body in answers.values()]


@pytest.fixture(scope="module")
def writes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The member's durable writes in a run that nothing disturbs, and its evidence checked."""
    cuts = Cuts()
    federation, study = run_one(tmp_path_factory.mktemp("calm") / "federation", cuts)
    assert counts(federation) == [1, 1, 0]
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
def test_an_end_at_any_write_of_the_round_opens_the_same_keys(
    tmp_path: Path, writes: list[str], step: int, when: str
) -> None:
    numbers = places(writes)
    cuts = Cuts({(MEMBER, numbers[step], when)})
    federation, study = run_one(tmp_path / "federation", cuts)
    assert federation.ended == [MEMBER]
    # Keys are on the disk before the header leaves, so none are lost.
    *noised, exact = counts(federation)
    assert set(noised) == {1} and exact == 0
    check(federation, study)


def test_a_file_of_the_sum_before_opens_nothing_where_it_is_put_back(tmp_path: Path) -> None:
    """Secrets restored between input and answer: the member's surplus stays in."""
    before: list[bytes] = []

    def story(federation: RestartableFederation) -> Story:
        secrets = federation.kept[MEMBER].secrets

        def name() -> str:
            return next((one for one in secrets.names() if "noise" in one), "")

        def asked(data: bytes) -> str:
            return canonical.decode(data, SurplusSecrets).question

        def renewed(_: Study) -> bool:
            if name() and not before:
                before.append(secrets.read(name()))
            return bool(name()) and asked(secrets.read(name())) != asked(before[0])

        return Story(federation, (renewed, lambda: secrets.write(name(), before[0])))

    federation, study = run_one(tmp_path / "federation", Cuts(), story)
    assert canonical.decode(before[0], SurplusSecrets).survivors is None
    assert counts(federation) == [1, 0, 0]
    check(federation, study)


def test_the_steps_are_all_there(writes: list[str]) -> None:
    """Keys of noise and the input, then the cut file and the answer: each is a place to end."""
    numbers = places(writes)
    labels = [writes[number - 1] for number in numbers]
    assert len(labels) == 5 and labels.count("secret-write") == 2
    assert {"participant-slot-input-persisting", "participant-slot-answer-persisting"} <= {*labels}
    assert COORDINATOR not in labels
