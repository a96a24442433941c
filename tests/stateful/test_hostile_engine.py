"""An engine that loses, delays, repeats, reorders and alters frames; a log that forks.

Faults follow from a seed (`treaty.engines.faults`). Whatever the engine does, a study ends with a
bundle that verifies or halts with a code; nobody says two things about one round, no history
forks, and no exception leaves a node. Turns are counted, so nothing runs for ever.

Planted faults that these tests caught: entries that are repeated differently and not compared; a
checkpoint of another tree that is believed; a ballot that is not sent again.
"""

from pathlib import Path

import pytest

from tests.restartable_federation import (
    RestartableFederation,
    Story,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
    sums,
    whole_study,
)
from tests.small_federation import SITES, contract, small_plan
from treaty.engines.faults import Fault, FaultRule, SeededFaults
from treaty.errors import VerificationError
from treaty.ids import MemberId
from treaty.node.log_keeper import LogKeeper
from treaty.protocol.frames import Feed, encode_frame
from treaty.protocol.messages import HaltCode, TimeStated
from treaty.protocol.statements import seal_statement
from treaty.protocol.study import Phase
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.wiring import load_key

MEMBER = SITES[1]
ALL = (Fault.DROP, Fault.DELAY, Fault.DUPLICATE, Fault.REORDER, Fault.CORRUPT, Fault.LOSE_REPLY)

PLANS = [
    *((fault.value, (FaultRule(fault, 150),), seed) for fault in ALL for seed in (1, 2)),
    ("everything", tuple(FaultRule(fault, 60) for fault in ALL), 3),
    ("everything-again", tuple(FaultRule(fault, 60) for fault in ALL), 4),
]


@pytest.mark.parametrize(("name", "rules", "seed"), PLANS, ids=[f"{p[0]}-{p[2]}" for p in PLANS])
def test_a_study_over_a_bad_engine_ends_well_or_halts(
    tmp_path: Path, name: str, rules: tuple[FaultRule, ...], seed: int
) -> None:
    """From the proposal on everything may be lost; what was said is said again, in bounds."""
    federation = opened(tmp_path / "federation")
    federation.network._faults = SeededFaults(seed, rules)
    study = federation.run_study(small_plan(federation), contract())
    if study.phase is Phase.HALTED:
        assert study.halt_code is HaltCode.TOO_FEW_MEMBERS and study.final_model is None
    else:
        assert len(sums(study)) == 6 and min(sums(study)) >= 3
    federation.network._faults = None
    federation.settle()
    assert_said_once(federation)
    assert_no_fork(federation)
    verify_bundle(federation.bundle(), federation.anchor)


def test_repeated_and_late_frames_change_nothing(tmp_path: Path) -> None:
    """Duplicates and reordering alone cost no member its place in any sum."""
    federation = opened(tmp_path / "clean")
    clean = whole_study(federation)
    rules = (FaultRule(Fault.DUPLICATE, 400), FaultRule(Fault.REORDER, 400))
    other = opened(tmp_path / "federation", faults=SeededFaults(7, rules))
    study = whole_study(other)
    assert study.final_model == clean.final_model and sums(study) == [4] * 6
    assert_said_once(other)


# --- forks ------------------------------------------------------------------------------------


def forked(federation: RestartableFederation, first: int) -> bytes:
    """Return a feed of another history from index `first` on, signed with both real keys."""
    place = federation.directory / "parties" / COORDINATOR
    state = federation.coordinator.state
    other = TimeStated(charter=state.members.directory.charter, author=COORDINATOR, at=state.at + 1)
    entry = seal_statement(other, load_key(place, "coordinator"))
    log = LogKeeper().extended((*federation.coordinator.entries[:first], entry))
    note = log.note(state.members, load_key(place, "log"))
    return encode_frame(Feed(first, (entry,), note, {}))


def posts_of(federation: RestartableFederation, name: str) -> int:
    """Return how many frames `name` has sent."""
    return sum(record.sender == name for record in federation.network.egress)


@pytest.mark.parametrize("back", [1, 3, 10])
def test_a_member_shown_another_history_signs_nothing(tmp_path: Path, back: int) -> None:
    """Both histories bear the log key's signature; the member keeps its own and says nothing."""
    federation = opened(tmp_path / "federation")
    shown: list[str] = []

    def show() -> None:
        node = federation.participants[MEMBER]
        before = (node.size, posts_of(federation, MEMBER))
        with pytest.raises(VerificationError) as caught:
            node.handle(COORDINATOR, forked(federation, node.size - back))
        shown.append(caught.value.code)
        assert (node.size, posts_of(federation, MEMBER)) == before

    study = whole_study(federation, story=Story(federation, (in_round(2), show)))
    assert shown == ["split-view"]
    assert study.phase is Phase.COMPLETED and sums(study) == [4] * 6


def test_a_member_that_followed_another_history_refuses_the_first_one(tmp_path: Path) -> None:
    """It cannot know which is the others'; it never signs both, and they go on without it."""
    federation = opened(tmp_path / "federation")

    def mislead() -> None:
        node = federation.participants[MEMBER]
        node.handle(COORDINATOR, forked(federation, node.size))

    story = Story(federation, (in_round(2), lambda: None), (in_round(3), mislead))
    study = whole_study(federation, story=story)
    assert story.told
    assert '"refused.split-view"' in federation.journal_of(MEMBER)
    assert study.phase is Phase.COMPLETED and sums(study)[-1] == 3
    assert MEMBER not in study.rounds[-1].members_in
    assert MEMBER not in {name.split("+")[-1] for name in federation.coordinator.witnesses()}
    assert_said_once(federation)


def test_a_feed_from_anyone_but_the_coordinator_is_refused(tmp_path: Path) -> None:
    """A peer's frame is not read as the coordinator's."""
    federation = opened(tmp_path / "federation")
    with pytest.raises(VerificationError) as caught:
        federation.participants[MEMBER].handle(MemberId(SITES[0]), forked(federation, 1))
    assert caught.value.code == "wrong-author"
