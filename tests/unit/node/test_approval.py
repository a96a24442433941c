"""A plan that a site's policy does not approve by itself waits for the officer of that site.

Planted faults that these tests caught: an approval of one plan taken for every plan; an approval
that is forgotten when the process ends; a refusal that stays although the officer approved; an
approval that waits for the next feed although the study asks for keys now.
"""

from pathlib import Path

from tests.restartable_federation import (
    RestartableFederation,
    Story,
    after_rounds,
    assert_said_once,
    opened,
    sums,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES, small_plan
from treaty.crypto.canonical import sha256
from treaty.protocol.frames import decode_post
from treaty.protocol.secagg_messages import EpochKeys
from treaty.protocol.secure_round import EpochPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.studies.plan import plan_digest

WAITING = SITES[1]


def federation_of(directory: Path) -> RestartableFederation:
    """Return a federation in which one site's policy approves nothing by itself; short epochs."""
    write_federation(directory)
    policy = directory / "parties" / WAITING / "policy.toml"
    text = policy.read_text()
    assert "any_ratified = true" in text
    policy.write_text(text.replace("any_ratified = true", "any_ratified = false"))
    return opened(directory, slots_per_epoch=2)


def spoke(federation: RestartableFederation) -> bool:
    """Say whether the waiting site gave keys for any epoch."""
    bodies = (peek(entry)[1] for entry in federation.coordinator.entries)
    return any(isinstance(body, EpochKeys) and body.author == WAITING for body in bodies)


def test_an_approved_plan_lets_the_site_in_at_the_next_epoch(tmp_path: Path) -> None:
    federation = federation_of(tmp_path)
    plan = plan_digest(small_plan(federation))
    node = federation.participants[WAITING]
    story = Story(federation, (after_rounds(2), lambda: node.approve_plan(plan)))
    study = whole_study(federation, story=story)
    assert story.told and study.phase is Phase.COMPLETED
    assert sums(study)[:2] == [3, 3] and sums(study)[-1] == 4
    assert "study-waits" in federation.journal_of(WAITING)
    assert_said_once(federation)


def test_an_approval_is_acted_upon_at_once(tmp_path: Path) -> None:
    """Also when it comes after the question for keys: nothing need arrive in between."""
    federation = federation_of(tmp_path)
    plan = plan_digest(small_plan(federation))
    node = federation.participants[WAITING]

    def asked(study: Study) -> bool:
        mine = node.state.running
        epoch = None if mine is None else mine.epoch
        return epoch is not None and epoch.phase is EpochPhase.KEYS and study.epochs == 1

    def approve() -> None:
        node.approve_plan(plan)
        last = federation.network.egress[-1]
        assert last.sender == WAITING and last.content is not None
        said = [peek(statement)[1] for statement in decode_post(last.content).statements]
        assert [type(one) for one in said] == [EpochKeys]

    study = whole_study(federation, story=Story(federation, (asked, approve)))
    assert sums(study) == [4] * len(study.rounds)


def test_an_approval_is_of_one_plan(tmp_path: Path) -> None:
    """Another plan's approval changes nothing, and neither does one of a digest of nothing."""
    federation = federation_of(tmp_path)
    another = plan_digest(small_plan(federation, "another"))
    for plan in (another, sha256(b"nothing")):
        federation.participants[WAITING].approve_plan(plan)
    study = whole_study(federation)
    assert sums(study) == [3] * len(study.rounds) and not spoke(federation)


def test_an_approval_outlives_the_process_and_comes_before_the_study(tmp_path: Path) -> None:
    federation = federation_of(tmp_path)
    federation.participants[WAITING].approve_plan(plan_digest(small_plan(federation)))
    assert not spoke(federation)
    federation.reopen(WAITING)
    study = whole_study(federation)
    assert sums(study) == [4] * len(study.rounds)
    assert "study-waits" not in federation.journal_of(WAITING)
