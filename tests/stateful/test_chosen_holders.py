"""A governed study whose members choose holders, as those of a large group do.

Six sites are no large group: the profile of one is forced on `Group.of`, where every party gets its
group, since no charter can ask for it. So nodes, log, recovery and the auditor's replay run over
a graph that is not complete. The model must be bit for bit that of the same study over the
complete graph: what is summed does not depend on who masks with whom.

Planted faults that these tests caught: the replay takes masks off that were never put on; a
member waits for columns that nobody dealt to it; the coordinator hands out no column.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.restartable_federation import (
    Story,
    assert_no_fork,
    assert_said_once,
    in_round,
    opened,
    sums,
    whole_study,
    write_federation,
)
from tests.stateful.test_dropouts import SIX, lose
from treaty.governance.charter import Charter
from treaty.protocol.secagg_degree import Degree
from treaty.protocol.secagg_graph import Graph
from treaty.protocol.secagg_keys import Group
from treaty.provenance.verify import verify_bundle

PROFILE = Degree(3, 3)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every party's group have the forced profile."""
    derive = Group.of

    def forced(charter: Charter) -> Group:
        return replace(derive(charter), profile=PROFILE)

    monkeypatch.setattr(Group, "of", staticmethod(forced))


def test_a_study_over_chosen_holders_ends_as_over_the_complete_graph(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With post-quantum keys, of which some pairs have one half only."""
    write_federation(tmp_path / "complete", SIX, post_quantum=True)
    plain = whole_study(opened(tmp_path / "complete"))
    request.getfixturevalue("chosen")
    write_federation(tmp_path / "chosen", SIX, post_quantum=True)
    federation = opened(tmp_path / "chosen")
    graphs: list[Graph | None] = []

    def look() -> None:
        running = federation.coordinator.state.running
        assert running is not None and running.epoch is not None
        graphs.append(running.epoch.graph)

    study = whole_study(federation, story=Story(federation, (in_round(2), look)))
    assert study.final_model == plain.final_model is not None
    [graph] = graphs
    assert graph is not None and graph.choices is not None
    assert {len(one) for one in graph.choices.values()} == {PROFILE.holders}
    for record in study.rounds:
        # Nobody answered before the set was confirmed.
        assert len(record.confirmed) >= study.group.share_threshold
    assert_said_once(federation)
    assert_no_fork(federation)
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    assert verdict.record.sums_recomputed == len(study.rounds)


def test_a_member_lost_in_the_middle_is_taken_out_of_the_masks_it_had(
    tmp_path: Path, chosen: None
) -> None:
    """Its seed is rebuilt from its holders, and only its partners' masks are cancelled."""
    write_federation(tmp_path, SIX)
    federation = opened(tmp_path)
    story = Story(federation, (in_round(2), lambda: lose("wigger")(federation)))
    study = whole_study(federation, story=story)
    assert story.told
    assert study.final_model is not None
    assert 5 in sums(study)
    verify_bundle(federation.bundle(), federation.anchor)
